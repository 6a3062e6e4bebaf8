"""`make gpu` rehearsed on the CPU at tiny sizes: it ends in time, goes on where it stopped, and says what it could not run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bentoml")
pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gpu
import gpu_parts

from gazeseg_serve.engines.base import Outputs

ENGINES = ("eager fp32", "sessions in turn fp32", "onnxruntime-cpu fp32", "onnxruntime-cpu fp16", "eager fp16")


@pytest.mark.slow
def test_the_whole_is_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    report = gpu.run_all(out, "cpu", True, 270)  # torch.compile, the last and slowest, may not fit
    assert json.loads(out.read_text()) == report
    assert set(report["parts"]) | set(report["could_not"]) == set(gpu.all_parts("cpu"))
    assert set(report["could_not"]) <= {"TensorRT plan fp32", "TensorRT plan fp16", "torch.compile fp32"}
    assert "tensorrt" in report["could_not"]["TensorRT plan fp32"].lower()
    for name in ENGINES:
        assert set(report["parts"][name]["batches"]) == {"1", "2"}
        assert report["parts"][name]["parity"] <= gpu_parts.TOLERANCE[name.rpartition(" ")[2]]
    for server in ("service", "onnxruntime", "torch"):
        for row in report["parts"][f"served by {server}"]["clients"].values():
            assert set(row["statuses"]) == {"200"}, server
    for version in ("shifts", "unfold"):
        assert report["parts"][f"training, LPP by {version}"]["steps"] == 3
    text = gpu.page(report)
    assert "no figure here is a GPU's" in text
    assert f"- TensorRT plan fp32: {report['could_not']['TensorRT plan fp32']}" in text
    assert gpu.run_all(out, "cpu", True, 0)["parts"] == report["parts"]


def fake(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> list[str]:
    """Parts that answer at once; returns the names in the order that they were asked for."""
    asked: list[str] = []

    def one(name: str, *_: Any) -> tuple[Any, str]:
        asked.append(name)
        return answers.get(name, ({"clients": {}, "ms_a_step": 1}, ""))

    monkeypatch.setattr(gpu, "one", one)
    return asked


def test_what_is_done_is_kept_and_what_was_not_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    first = fake(monkeypatch, {"decoding": (None, "no such thing")})
    report = gpu.run_all(out, "cpu", True, 100)
    assert report["could_not"] == {"decoding": "no such thing"}
    assert first == list(gpu.all_parts("cpu"))
    again = fake(monkeypatch, {})
    report = gpu.run_all(out, "cpu", True, 100)
    assert (again, report["could_not"]) == (["decoding"], {})
    with pytest.raises(SystemExit, match="name another"):
        gpu.run_all(out, "cuda", True, 100)


def test_nothing_is_begun_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake(monkeypatch, {})
    report = gpu.run_all(tmp_path / "gpu.json", "cpu", True, 1)
    assert not asked
    assert not report["parts"]
    assert set(report["could_not"].values()) == {"the time was over; run it again"}


def test_a_part_that_fails_or_hangs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        return right([sys.executable, "-c", command[-1]], **options)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    for code, wanted in (
        ("raise RuntimeError('no card')", "RuntimeError: no card"),
        ("raise SystemExit(3)", "it ended with status 3"),
        ("import threading; threading.Event().wait()", "it was not done within the 1 s that were left"),
    ):
        assert gpu.one("x", Path(code), "cpu", False, 1 if "wait" in code else 60) == (None, wanted)
    assert gpu.one("x", Path("print('words'); print('{\"a\": 1}')"), "cpu", False, 60) == ({"a": 1}, "")


def test_an_engine_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    bench = gpu.bench_of("cpu", True, tmp_path)
    np.save(tmp_path / "right.npy", np.full((3, 1, 32, 32), 0.5, np.float32))

    def answer(value: float) -> gpu_parts.Run:
        return lambda batch: Outputs(np.full((len(batch), 1, 32, 32), value, np.float32))

    assert gpu_parts.timed(bench, answer(0.5009), "fp32", 0.0)["parity"] == pytest.approx(0.0009, rel=0.01)
    for value in (0.502, float("nan")):
        with pytest.raises(RuntimeError, match="otherwise than the ensemble"):
            gpu_parts.timed(bench, answer(value), "fp32", 0.0)
    assert gpu_parts.timed(bench, answer(0.55), "fp16", 0.0)["parity"] == pytest.approx(0.05, rel=0.01)


def test_ratios_are_of_what_was_measured() -> None:
    def engine(ms: float, speed: float) -> dict[str, Any]:
        return {"batches": {"1": {"ms": ms, "images_per_second": 1}, "2": {"ms": 1, "images_per_second": speed}}}

    def load(speed: float) -> dict[str, Any]:
        return {"clients": {"64": {"images_per_second": speed}}}

    found = gpu.ratios({
        "machine": {"flops_fp32": 1000.0}, "graphs": {"flops_an_image": 10},
        "sessions in turn fp32": engine(6, 20), "onnxruntime-cuda fp32": engine(4, 50),
        "served by service": load(90), "served by onnxruntime": load(45), "served by torch": load(0),
        "training, LPP by unfold": {"ms_a_step": 30}, "training, LPP by shifts": {"ms_a_step": 10},
    })  # fmt: skip
    assert found["onnxruntime-cuda fp32: times sessions in turn at batch 1"] == 1.5
    assert found["onnxruntime-cuda fp32: share of the matrix product"] == 0.5
    assert found["service to onnxruntime at 64 clients"] == 2.0
    assert found["LPP step, unfold to shifts"] == 3.0
    assert not any("torch" in name for name in found)  # it answered nothing
