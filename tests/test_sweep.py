"""A grid of tiny trainings: its table, its resumption, and a run that fails."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest
from test_training import _toml
from tiny import tiny_config
from typer.testing import CliRunner

from gazeseg_serve.cli.main import app
from gazeseg_serve.contract import Run
from gazeseg_serve.errors import ConfigError, TrainingError
from gazeseg_serve.training.learning import sweep as room
from gazeseg_serve.training.learning.config import load_config
from gazeseg_serve.training.learning.sweep import Sweep, Trial, parse_vary, sweep

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(_toml(tiny_config("optimiser.steps=1", "evaluate_every=1")))
    return path


def test_values_are_toml_or_bare_words() -> None:
    assert parse_vary("loss.weight=1,3.5") == ("loss.weight", ("1", "3.5"))
    assert parse_vary("loss.consistency=none,prop") == ("loss.consistency", ("none", "prop"))
    assert parse_vary("levels.thresholds=[0.5],[0.5, 0.3]") == ("levels.thresholds", ("[0.5]", "[0.5, 0.3]"))
    assert parse_vary("channels_last=true,false") == ("channels_last", ("true", "false"))
    for wrong in ("loss.weight", "loss.weight="):
        with pytest.raises(ConfigError, match="KEY=A,B"):
            parse_vary(wrong)


def test_seeds_are_averaged_and_a_failure_is_not(tmp_path: Path) -> None:
    trials = (
        Trial({"a.b": "1", "seed": "0"}, "x", {"level 1": 0.5, "ensemble": 0.6}),
        Trial({"a.b": "1", "seed": "1"}, "y", {"level 1": 0.7, "ensemble": 0.9}),
        Trial({"a.b": "2", "seed": "0"}, "z", {}, "it broke"),
        Trial({"a.b": "2", "seed": "1"}, "w", {"level 1": 0.25, "ensemble": 0.5}),
    )
    first, second = Sweep(trials).table()
    assert first == {
        "a.b": "1",
        "level 1": f"0.6000 ± {statistics.stdev((0.5, 0.7)):.4f}",
        "ensemble": f"0.7500 ± {statistics.stdev((0.6, 0.9)):.4f}",
        "runs": "2",
        "failed": "0",
    }
    assert second == {"a.b": "2", "level 1": "0.2500", "ensemble": "0.5000", "runs": "1", "failed": "1"}
    assert "- z: it broke" in Sweep(trials).markdown()
    assert Sweep(trials).markdown().splitlines()[0] == "| a.b | level 1 | ensemble | runs | failed |"


def test_a_grid_from_the_command_line(
    config: Path, phantoms: Path, phantom_masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    command = [
        "sweep",
        str(config),
        "--data",
        str(phantoms),
        "--masks",
        str(phantom_masks),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--vary",
        "levels.thresholds=[0.5],[0.5,0.3]",
        "--vary",
        "seed=0,1",
        "--json",
    ]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout.splitlines()[-1])["table"]
    assert [(row["levels.thresholds"], row["runs"]) for row in rows] == [("[0.5]", "2"), ("[0.5, 0.3]", "2")]
    runs = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert runs == [
        "levels.thresholds=0.5+seed=0",
        "levels.thresholds=0.5+seed=1",
        "levels.thresholds=0.5-0.3+seed=0",
        "levels.thresholds=0.5-0.3+seed=1",
    ]
    dice = [Run.load(out / name).metrics["val_dice"] for name in runs[2:]]
    assert rows[1]["ensemble"].startswith(f"{statistics.fmean(dice):.4f} ± {statistics.stdev(dice):.4f}")
    with (out / "sweep.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == runs
    assert "| [0.5] |" in (out / "sweep.md").read_text()
    monkeypatch.setattr(room, "train", lambda *_: pytest.fail("a finished run was trained again"))
    assert CliRunner().invoke(app, command).exit_code == 0


def test_what_was_interrupted_goes_on_and_what_fails_is_listed(
    config: Path, phantoms: Path, phantom_masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, resumed = tmp_path / "sweep", []
    (out / "seed=1" / "checkpoint").mkdir(parents=True)
    (out / "seed=1" / "checkpoint" / "state.safetensors").write_bytes(b"")
    kept = room.train

    def faulty(*arguments: object) -> Run:
        resumed.append(arguments[4])
        if len(resumed) == 1:
            raise TrainingError("the loss is nan")
        return kept(*arguments[:3], tmp_path / "elsewhere", False, "cpu")  # type: ignore[arg-type]

    monkeypatch.setattr(room, "train", faulty)
    found = sweep(config, ["seed=0,1"], phantoms, phantom_masks, out)
    assert [trial.error for trial in found.trials] == ["the loss is nan", ""]
    assert resumed == [False, True]
    assert "- seed=0: the loss is nan" in (out / "sweep.md").read_text()


def test_a_wrong_grid_is_refused_before_anything_is_trained(
    config: Path, phantoms: Path, phantom_masks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    for vary, words in (
        (["loss.consistency=loud,louder"], "none, pure, prop"),
        (["seed=0", "seed=1"], "twice"),
        (["seed=1,1"], "the same"),
    ):
        with pytest.raises(ConfigError, match=words):
            sweep(config, vary, phantoms, phantom_masks, out)
    assert not out.exists()


def test_another_config_in_the_same_folder_is_refused(
    config: Path, phantoms: Path, phantom_masks: Path, tmp_path: Path
) -> None:
    sweep(config, ["seed=0"], phantoms, phantom_masks, tmp_path / "sweep", device="cpu")
    with pytest.raises(TrainingError, match="another config"):
        sweep(config, ["seed=0"], phantoms, phantom_masks, tmp_path / "sweep", ["optimiser.rate=0.5"], "cpu")


def test_the_first_experiments_differ_in_what_they_compare_alone() -> None:
    configs = {name: load_config(CONFIGS / f"first_{name}.toml").as_dict() for name in ("single", "two", "pure", "prop")}
    found = {name: (config["levels"].pop("thresholds"), config["loss"].pop("consistency")) for name, config in configs.items()}
    assert found == {
        "single": ((0.5,), "none"),
        "two": ((0.5, 0.3), "none"),
        "pure": ((0.5, 0.3), "pure"),
        "prop": ((0.5, 0.3), "prop"),
    }
    assert configs["single"] == configs["two"] == configs["pure"] == configs["prop"]


def test_a_point_that_is_no_config_is_listed_and_the_others_are_trained(
    config: Path, phantoms: Path, phantom_masks: Path, tmp_path: Path
) -> None:
    found = sweep(config, ["seed=-1,0"], phantoms, phantom_masks, tmp_path / "sweep", device="cpu")
    assert [(trial.name, bool(trial.error)) for trial in found.trials] == [("seed=-1", True), ("seed=0", False)]
    assert "seed = -1 must be at least 0" in (tmp_path / "sweep" / "sweep.md").read_text()
    assert (tmp_path / "sweep" / "seed=0" / "run.json").is_file()
