"""The figures of bench: counted work against a count by hand, times that are times, memory of a process without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import write_artifact
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from gazeseg_serve.cli.main import app
from gazeseg_serve.errors import ConfigError, EngineError
from gazeseg_serve.export import bench as room
from gazeseg_serve.export.bench import Timing, bench, parse_counts, peak_memory, time_calls
from gazeseg_serve.export.flops import count_flops


def test_the_work_of_a_small_graph_is_counted_by_hand(tmp_path: Path) -> None:
    weights = {"w": (5, 3, 3, 3), "t": (5, 4, 2, 2)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["y"], ["r"]),
            helper.make_node("ConvTranspose", ["r", "t"], ["z"], strides=[2, 2]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    first = 4 * 4 * 5 * 3 * 9  # output pixels x channels out x channels in x kernel
    second = 4 * 4 * 5 * 4 * 4  # input pixels x channels in x channels out x kernel
    assert count_flops(tmp_path / "m.onnx") == 2 * (first + second)


def test_the_work_of_a_real_graph_does_not_depend_on_its_precision(tiny_artifact: Path, tmp_path: Path) -> None:
    from gazeseg_serve.export.quantize import to_fp16, to_int8

    wanted = count_flops(tiny_artifact / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for name, convert in (("int8", lambda path: to_int8(path, images)), ("fp16", to_fp16)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes((tiny_artifact / "model.onnx").read_bytes())
        convert(path)
        assert count_flops(path) == wanted > 1e6


class Clock:
    """Stands still, but for the calls that are timed."""

    def __init__(self, *durations: float) -> None:
        self.now, self.durations, self.calls = 100.0, list(durations), 0

    def perf_counter(self) -> float:
        return self.now

    def call(self) -> None:
        self.now += self.durations[min(self.calls, len(self.durations) - 1)]
        self.calls += 1


@pytest.mark.parametrize(("seconds", "calls"), [(0.001, 10), (5.0, 10), (12.0, 15)])
def test_times_are_of_the_calls_alone(seconds: float, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls warm up; then at least ten, until the seconds are over."""
    durations = [9.0, 9.0, 9.0, 0.1, 0.9, 0.5, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6, 1.0, 1.5]
    clock = Clock(*durations)
    monkeypatch.setattr(room, "time", clock)
    timing = time_calls(clock.call, batch=4, threads=3, seconds=seconds)
    counted = [*durations[3:], *[durations[-1]] * 9][:calls]
    assert (timing.calls, clock.calls) == (calls, calls + 3)
    assert (timing.batch, timing.threads) == (4, 3)
    assert (timing.median, timing.p95) == (pytest.approx(np.median(counted)), pytest.approx(np.quantile(counted, 0.95)))
    assert timing.images_per_second == pytest.approx(4 / timing.median)


def test_ceilings_are_the_work_over_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    def timed(call: Callable[[], object], batch: int, threads: int, seconds: float) -> Timing:
        done.append(call())
        return Timing(batch, threads, 10, 0.5, 0.6)

    monkeypatch.setattr(room, "time_calls", timed)
    assert room.matrix_ceiling(1) == 2 * 1536**3 / 0.5
    product = done[0]
    assert isinstance(product, list)
    assert product[0].shape == (1536, 1536)
    assert room.copy_bandwidth() == 2 * 128 * 2**20 / 0.5


def test_bench_from_the_command_line_ends_in_json(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path)
    shown = CliRunner().invoke(
        app, ["bench", str(tmp_path), "--batches", "1,3", "--threads", "1", "--seconds", "0.05", "--device", "cpu", "--json"]
    )
    assert shown.exit_code == 0, shown.output
    facts = json.loads(shown.output.splitlines()[-1])
    assert facts["artifact"] == artifact.id
    assert [(t["batch"], t["threads"]) for t in facts["timings"]] == [(1, 1), (3, 1)]
    assert all(0 < t["median"] <= t["p95"] for t in facts["timings"])
    assert facts["flops"] == 0  # the test's graph has no convolution
    assert facts["ceiling"]["1"] > 0
    assert facts["copy_bandwidth"] > 0
    assert 20 * 2**20 < facts["peak_memory"] < 350e6


def test_the_share_of_the_ceiling_is_work_over_time(tiny_artifact: Path) -> None:
    found = bench(tiny_artifact, "cpu", (1,), (1,), 0.05)
    (timing,) = found.timings
    assert found.share(timing) == pytest.approx(found.flops / timing.median / found.ceiling[1])
    assert found.share(timing) > 0  # a busy machine may be slower while its ceiling is measured, so no upper bound


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    with pytest.raises(ConfigError, match="from 1 up"):
        bench(tmp_path, "cpu", (0,), (1,), 0.1)
    with pytest.raises(ConfigError, match="not a list of whole numbers"):
        parse_counts("1,two")
    assert parse_counts("") == ()


def test_a_process_that_loads_torch_or_fails_is_not_a_measurement() -> None:
    with pytest.raises(EngineError, match="loaded torch"):
        peak_memory("import sys; sys.modules['torch'] = sys", torch=False)
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        peak_memory("1 / 0", torch=False)


def test_memory_is_of_the_process_alone_not_of_the_one_that_started_it() -> None:
    ballast = np.ones(2**28, np.uint8)
    bare, full = peak_memory("pass", torch=False), peak_memory("x = bytearray(b'1' * 2**27)", torch=False)
    if bare is None or full is None:
        pytest.skip("there is no /proc here")
    assert bare < len(ballast) / 4
    assert full - bare > 2**26
