"""Mechanisms that stay unseen until they are missing: clean-up, metrics of several processes, log levels, shared gradients."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_config

pytest.importorskip("bentoml")
from gated_service import metric, until

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError, MissingExtraError, named_extra, require
from gazeseg_serve.service.app import AdaptiveBatching
from gazeseg_serve.service.model_host import Answer, Job
from gazeseg_serve.service.problems import Problem
from gazeseg_serve.service.telemetry import JsonFormatter, configure_logging
from gazeseg_serve.training.learning.data import batch_indices, pack_gaze
from gazeseg_serve.training.learning.distributed import average_gradients, open_fabric
from gazeseg_serve.training.masks import make

# Batching


def job(value: int = 0, gone: bool = False) -> Job:
    return Job(np.full((2, 2, 3), value, np.uint8), 0.0, gone)


def test_what_waits_when_the_batching_ends_is_told_so() -> None:
    async def scenario() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def run(jobs: Any) -> Any:
            begun.set()
            await go.wait()
            return [None] * len(jobs)

        batching = AdaptiveBatching(run, 1, 60, 1)
        first = asyncio.ensure_future(batching.submit(job()))  # type: ignore[arg-type]
        await begun.wait()
        waiting = asyncio.ensure_future(batching.submit(job()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        batching.close()
        with pytest.raises(Problem) as caught:
            async with asyncio.timeout(20):
                await waiting
        assert (caught.value.status, caught.value.code) == (503, "overloaded")
        go.set()
        await first
        await until(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (2, 2)])
def test_so_many_batches_run_at_once_and_none_is_larger_than_it_may_be(at_once: int, most: int) -> None:
    async def scenario() -> None:
        now, seen, sizes, go = 0, 0, [], asyncio.Event()

        async def run(jobs: Any) -> list[Answer | None]:
            nonlocal now, seen
            now += 1
            seen = max(seen, now)
            sizes.append(len(jobs))
            if seen >= most:
                go.set()
            async with asyncio.timeout(20):
                await go.wait()
            await asyncio.sleep(0.005)
            now -= 1
            return [None] * len(jobs)

        batching = AdaptiveBatching(run, 3, 60, at_once)
        await asyncio.gather(*[batching.submit(job(i)) for i in range(24)])
        assert seen == most
        assert max(sizes) <= 3
        assert sum(sizes) == 24
        batching.close()

    asyncio.run(scenario())


def test_a_job_that_is_gone_takes_no_place_in_a_batch() -> None:
    async def scenario() -> None:
        counts: list[tuple[int, int]] = []

        async def run(jobs: Any) -> list[Answer | None]:
            counts.append((len(jobs), sum(not one.gone for one in jobs)))
            return [None] * len(jobs)

        batching = AdaptiveBatching(run, 2, 60, 1)
        await asyncio.gather(*[batching.submit(job(gone=gone)) for gone in (False, *[True] * 6, False)])
        assert max(live for _, live in counts) <= 2
        assert sum(size for size, _ in counts) == 8
        batching.close()

    asyncio.run(scenario())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_the_heaps_are_bounded_where_malloc_is_glibc_s() -> None:
    code = "from gazeseg_serve.service.memory import bound_heaps; print(bound_heaps())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


# Metrics and logs


def test_several_workers_are_counted_together(tmp_path: Path) -> None:
    """In processes of their own: Prometheus' client decides at its import how it counts."""
    code = """
import sys
from gazeseg_serve.service.telemetry import Telemetry
t = Telemetry()
t.count("/v1/segment", 200, 0.25)
t.in_flight.inc()
t.queue_depth.labels("m").set(3)
if sys.argv[1] == "tell":
    print(t.render().decode())
"""
    import os

    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for what in ("count", "count", "tell"):
        done = subprocess.run([sys.executable, "-c", code, what], env=environment, capture_output=True, text=True, check=True)
    assert metric(done.stdout, 'gazeseg_requests_total{route="/v1/segment",status="200"}') == 3
    assert metric(done.stdout, 'gazeseg_request_seconds_sum{route="/v1/segment"}') == 0.75


@pytest.fixture
def loggers() -> Iterator[None]:
    """Leave the process's loggers and warnings as they were."""
    names = ("", "pydicom", "highdicom", "PIL", "gazeseg_serve", "bentoml", "circus", "uvicorn.error")
    before = {n: (logging.getLogger(n).level, logging.getLogger(n).handlers[:], logging.getLogger(n).propagate) for n in names}
    with warnings.catch_warnings():
        yield
    for name, (level, handlers, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers[:], logger.propagate = handlers, propagate


@pytest.mark.usefixtures("loggers")
def test_decoders_are_silent_and_the_service_speaks() -> None:
    configure_logging("json")
    levels = {
        name: logging.getLogger(name).getEffectiveLevel() for name in ("gazeseg_serve", "pydicom", "highdicom", "PIL", "other")
    }
    assert levels == {
        "gazeseg_serve": logging.INFO,
        "pydicom": logging.CRITICAL,
        "highdicom": logging.CRITICAL,
        "PIL": logging.CRITICAL,
        "other": logging.WARNING,
    }
    assert len(logging.root.handlers) == 1
    assert isinstance(logging.root.handlers[0].formatter, JsonFormatter)
    for name in ("gazeseg_serve", "bentoml", "circus", "uvicorn.error"):
        assert logging.getLogger(name).propagate
        assert not logging.getLogger(name).handlers
    configure_logging("plain")
    assert not isinstance(logging.root.handlers[0].formatter, JsonFormatter)
    assert len(logging.root.handlers) == 1


def test_a_log_line_holds_its_error() -> None:
    try:
        raise KeyError("which")
    except KeyError:
        record = logging.LogRecord("l", logging.ERROR, "", 0, "it %s", ("broke",), sys.exc_info())
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"], line["logger"]) == ("it broke", "error", "l")
    assert "KeyError: 'which'" in line["exception"]
    assert "status" not in line
    plain = logging.LogRecord("l", logging.INFO, "", 0, "fine", (), None)
    assert set(json.loads(JsonFormatter().format(plain))) == {"time", "level", "logger", "message"}


# Missing packages


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch", "train"),
        ("torch.nn", "train"),
        ("onnx", "export"),
        ("bentoml", "serve"),
        ("onnxruntime", "cpu"),
        ("pydicom.uid", "dicom"),
        ("httpx", "client"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(module: str, extra: str) -> None:
    found = named_extra(ModuleNotFoundError("no", name=module))
    assert found is not None
    assert f"gazeseg-serve[{extra}]" in str(found)
    assert named_extra(ModuleNotFoundError("no", name="somebody_else")) is None
    assert named_extra(ModuleNotFoundError("no")) is None


def test_only_the_package_asked_for_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_there.py").write_text("import nowhere_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"gone_entirely is not installed.*\[train\]"):
        require("gone_entirely.part", "train")
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        require("half_there", "train")
    assert require("json.decoder", "train").__name__ == "json.decoder"


# Training in several processes


def test_gradients_and_losses_are_the_means_over_the_processes() -> None:
    model = torch.nn.Linear(2, 2)
    model.weight.grad, model.bias.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), None
    sent: list[torch.Tensor] = []

    def all_reduce(flat: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "mean"
        sent.append(flat.clone())
        return flat / 2 + 10

    two: Any = SimpleNamespace(world_size=2, device="cpu", all_reduce=all_reduce)
    assert average_gradients(two, model, {"loss": 6.0, "dice": 8.0}) == {"loss": 13.0, "dice": 14.0}
    assert sent[0].tolist() == [6, 8, 1, 2, 3, 4]
    assert model.weight.grad.tolist() == [[10.5, 11.0], [11.5, 12.0]]
    assert model.bias.grad is None
    one: Any = SimpleNamespace(world_size=1)
    assert average_gradients(one, model, {"loss": 6.0}) == {"loss": 6.0}


def test_a_batch_is_shared_out_evenly_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="cannot be shared by 3 processes"):
        open_fabric(tiny_config("optimiser.batch=4"), "cpu")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert open_fabric(tiny_config("optimiser.batch=4"), "cpu").world_size == 1


def test_the_order_of_a_seed_is_that_of_every_run_before() -> None:
    """Written down from 0.1.0: a run that is resumed by a later version must draw what it would have drawn."""
    assert batch_indices(0, 8, 8, 0).tolist() == np.random.default_rng((0, 0)).permutation(8).tolist()
    assert batch_indices(2, 5, 5, 7).tolist() == np.random.default_rng((7, 2)).permutation(5).tolist()


# Maps that are missing or say nothing


def test_an_image_without_a_map_is_left_out_and_said(
    phantoms: Path, phantom_masks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    masks = tmp_path / "masks"
    shutil.copytree(phantom_masks, masks)
    data = Dataset.open(phantoms)
    stems = tuple(data.images)[:3]
    (masks / "heatmaps" / f"{stems[1]}.png").unlink()
    with caplog.at_level("WARNING", logger="gazeseg_serve"):
        packed = pack_gaze(data, stems, masks, InputSpec(32), (0.5,), refined=False)
    assert packed.stems == (stems[0], stems[2])
    assert "1 of 3 images have no gaze map" in caplog.text
    with pytest.raises(DatasetError, match="holds no heatmap for these images"):
        pack_gaze(data, stems[1:2], masks, InputSpec(32), (0.5,), refined=False)
    with pytest.raises(DatasetError, match="names and order are the labels' own"):
        pack_gaze(data, stems, masks, InputSpec(32, classes=("a", "b")), (0.5,), refined=False)


def test_work_that_stops_leaves_no_image_waiting_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a Ctrl-C would come back only when every image is made."""
    asked: dict[str, bool] = {}

    class Pool:
        def __init__(self, jobs: int, *_: Any) -> None:
            asked["jobs"] = jobs  # type: ignore[assignment]

        def map(self, *_: Any) -> Iterator[Any]:
            yield {"stem": "a"}
            raise KeyboardInterrupt

        def shutdown(self, **how: bool) -> None:
            asked.update(how)

    monkeypatch.setattr(make, "ProcessPoolExecutor", Pool)
    jobs: Any = [object()] * 5
    with pytest.raises(KeyboardInterrupt):
        list(make._run(jobs, 3))
    assert asked == {"jobs": 3, "wait": True, "cancel_futures": True}


def test_every_client_second_is_a_second() -> None:
    from gazeseg_serve.client_answers import _seconds

    found = _seconds('decode;dur=1500.00, engine;dur=2.50, batch;desc="3"')
    assert found.keys() == {"decode", "engine"}
    assert math.isclose(found["decode"], 1.5)
    assert math.isclose(found["engine"], 0.0025)
    assert _seconds("") == {}
