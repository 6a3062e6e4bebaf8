"""The engines behind the seam give one answer, in the order of the contract, or say why they cannot run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from artifacts import write_artifact

from gazeseg_serve.contract import Artifact
from gazeseg_serve.engines import openvino as engine_openvino
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.open import DEVICES, open_engine
from gazeseg_serve.errors import EngineError, MissingExtraError

pytest.importorskip("openvino", reason="openvino is not installed")
BATCH = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("threads", [0, 1])
def test_openvino_answers_as_onnxruntime(tiny_artifact: Path, threads: int) -> None:
    artifact = Artifact.load(tiny_artifact)
    wanted = OnnxRuntimeEngine(tiny_artifact / artifact.model, "cpu")
    found = open_engine(tiny_artifact, artifact, "openvino", threads)
    assert found.name == "openvino-f32"
    for size in (1, 3, 2):
        a, b = found.run(BATCH[:size]), wanted.run(BATCH[:size])
        np.testing.assert_allclose(a.probability, b.probability, atol=1e-4)
        assert a.disagreement is not None
        np.testing.assert_allclose(a.disagreement, b.disagreement, atol=1e-4)


def test_what_a_run_returned_is_not_overwritten_by_the_next(tiny_artifact: Path) -> None:
    engine = open_engine(tiny_artifact, Artifact.load(tiny_artifact), "openvino")
    first = engine.run(BATCH[:1])
    before = first.probability.copy()
    engine.run(BATCH[1:2])
    np.testing.assert_array_equal(first.probability, before)


def test_an_artifact_proven_in_bf16_runs_in_bf16(tmp_path: Path) -> None:
    if not engine_openvino.has_bf16():
        pytest.skip("this CPU has no bf16 arithmetic")
    artifact = dataclasses.replace(write_artifact(tmp_path), precision="bf16")
    engine = open_engine(tmp_path, artifact, "openvino")
    assert engine.name == "openvino-bf16"
    np.testing.assert_allclose(engine.run(BATCH).probability[:, 0], BATCH.mean(axis=3) / 255, atol=0.01)


def test_bf16_is_refused_where_the_cpu_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_artifact(tmp_path)
    monkeypatch.setattr(engine_openvino, "has_bf16", lambda: False)
    with pytest.raises(EngineError, match="no bf16 arithmetic"):
        engine_openvino.OpenVinoEngine(tmp_path / "model.onnx", "bf16")


def test_a_file_that_is_no_graph_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(EngineError, match="OpenVINO cannot run"):
        engine_openvino.OpenVinoEngine(tmp_path / "model.onnx")
    with pytest.raises(EngineError, match="known: f32, bf16"):
        engine_openvino.OpenVinoEngine(tmp_path / "model.onnx", "f8")


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = write_artifact(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"gazeseg-serve\[openvino\]"):
        open_engine(tmp_path, artifact, "openvino")


def test_an_unknown_device_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=", ".join(DEVICES)):
        open_engine(tmp_path, write_artifact(tmp_path), "abacus")
