"""Two processes under torchrun against one, on the same batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training import _toml, weights
from tiny import tiny_config

from gazeseg_serve.errors import ConfigError
from gazeseg_serve.training.learning.distributed import open_fabric


def start(prefix: list[str], config: Path, data: Path, masks: Path, out: Path, *more: str) -> str:
    command = [
        *prefix,
        "-m",
        "gazeseg_serve",
        "train",
        str(config),
        "--data",
        str(data),
        "--masks",
        str(masks),
        "--device",
        "cpu",
        "--out",
        str(out),
        *more,
    ]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_train_as_one_does(phantoms: Path, phantom_masks: Path, tmp_path: Path) -> None:
    # SGD, so that a rounding error stays one: Adam divides by it where a gradient is nearly 0.
    config = tmp_path / "tiny.toml"
    config.write_text(_toml(tiny_config("network.norm=group", "optimiser.batch=8", "optimiser.name=sgd")))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    said = start([sys.executable], config, phantoms, phantom_masks, tmp_path / "one")
    both = start(torchrun, config, phantoms, phantom_masks, tmp_path / "two")
    assert both.replace(str(tmp_path / "two"), str(tmp_path / "one")) == said  # and said once
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
    rows = [(tmp_path / run / "metrics.csv").read_text().splitlines() for run in ("one", "two")]
    assert rows[0][0] == rows[1][0]
    assert float(rows[1][1].split(",")[2]) == pytest.approx(float(rows[0][1].split(",")[2]), rel=1e-4)
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="cannot be shared by 3"):
        open_fabric(tiny_config(), "cpu")
