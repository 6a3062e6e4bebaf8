"""Lower precision: the declared inputs and outputs stay, the answers stay near, and a bad calibration is caught."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import write_artifact
from damage import kill_a_head, made_before, perturb_weight, scale_means, swap_channels

from gazeseg_serve.contract import Artifact
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.errors import ConfigError, GateError
from gazeseg_serve.export.gate_images import learning_images
from gazeseg_serve.export.parity import check_declaration
from gazeseg_serve.export.pipeline import export_run
from gazeseg_serve.export.quantize import to_fp16, to_int8
from gazeseg_serve.export.settings import AllowedLoss, ExportSettings
from gazeseg_serve.export.tools import Tools
from gazeseg_serve.training.networks.ensemble import load_ensemble


@pytest.fixture
def model(lively_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(lively_artifact / "model.onnx", tmp_path / "model.onnx"))


@pytest.fixture
def images(lively_run: Path, phantoms: Path) -> np.ndarray:
    return learning_images(load_ensemble(lively_run)[0], phantoms, count=8)


def kinds(model: Path) -> list[str]:
    return [node.op_type for node in onnx.load(model).graph.node]


def test_int8_stores_bytes_and_answers_nearly_the_same(model: Path, images: np.ndarray, lively_artifact: Path) -> None:
    wanted = OnnxRuntimeEngine(lively_artifact / "model.onnx", "cpu").run(images)
    to_int8(model, images)
    check_declaration(model, Artifact.load(lively_artifact).input, True)
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(model).graph.initializer}
    assert list(stored.values()).count(onnx.TensorProto.INT8) >= 30  # two networks of 18 inner convolutions
    found = OnnxRuntimeEngine(model, "cpu").run(images)
    assert np.abs(found.probability - wanted.probability).max() < 0.1
    assert not np.array_equal(found.probability, wanted.probability)
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


def test_int8_keeps_the_ends_of_the_network_in_fp32(model: Path, images: np.ndarray) -> None:
    to_int8(model, images)
    graph = onnx.load(model).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    plain = [node for node in graph.node if node.op_type == "Conv" and makers.get(node.input[1]) != "DequantizeLinear"]
    assert len(plain) == 4  # first and last of two networks


def test_fp16_halves_the_file_and_answers_nearly_the_same(model: Path, images: np.ndarray, lively_artifact: Path) -> None:
    before, wanted = model.stat().st_size, OnnxRuntimeEngine(model, "cpu").run(images)
    to_fp16(model)
    check_declaration(model, Artifact.load(lively_artifact).input, True)
    assert model.stat().st_size < 0.7 * before
    assert np.abs(OnnxRuntimeEngine(model, "cpu").run(images).probability - wanted.probability).max() < 0.01


def test_a_graph_without_convolutions_is_not_quantised(tmp_path: Path, images: np.ndarray) -> None:
    write_artifact(tmp_path)
    with pytest.raises(ConfigError, match="three convolutions"):
        to_int8(tmp_path / "model.onnx", images)


@pytest.mark.parametrize("precision", ["int8", "fp16", "bf16"])
def test_every_precision_goes_through_the_gate(
    precision: str, lively_run: Path, lively_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    tools = Tools(trace=made_before(lively_artifact))
    if precision == "bf16":
        engine_openvino = pytest.importorskip("gazeseg_serve.engines.openvino")
        pytest.importorskip("openvino")
        if not engine_openvino.has_bf16():
            pytest.skip("this CPU has no bf16 arithmetic")
    artifact = export_run(
        lively_run,
        tmp_path / "artifact",
        phantoms,
        ExportSettings(precision=precision, allowed=AllowedLoss(1.0, 0.0)),
        tools=tools,
    )
    assert artifact.precision == precision
    assert artifact.parity["max_difference"] > artifact.parity["graph"]["max_difference"]
    assert artifact.has_disagreement
    with pytest.raises(GateError, match="mean agreement"):
        export_run(
            lively_run,
            tmp_path / "strict",
            phantoms,
            ExportSettings(precision=precision, allowed=AllowedLoss(1.0, 1.0)),
            tools=tools,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


DAMAGES = (perturb_weight, swap_channels, scale_means, kill_a_head)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("precision", ["int8", "fp16", "bf16"])
def test_a_damaged_graph_fails_at_any_precision_whatever_the_limits(
    precision: str, damage: Callable[[Path], None], lively_run: Path, lively_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    tools = Tools(trace=made_before(lively_artifact, damage))
    with pytest.raises(GateError, match="not as good"):
        export_run(
            lively_run,
            tmp_path / "artifact",
            phantoms,
            ExportSettings(precision=precision, allowed=AllowedLoss(1.0, 0.0)),
            tools=tools,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_conversion_that_damages_the_graph_fails(
    precision: str, damage: Callable[[Path], None], lively_run: Path, lively_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    """The first link saw the graph before; the second sees what the conversion made of it."""
    tools = Tools(trace=made_before(lively_artifact))
    sound = export_run(
        lively_run,
        tmp_path / "sound",
        phantoms,
        ExportSettings(precision=precision, allowed=AllowedLoss(1.0, 0.0)),
        tools=tools,
    )
    convert = {"int8": to_int8, "fp16": to_fp16}[precision]

    def wrong(model: Path, *images: np.ndarray) -> None:
        damage(model)
        convert(model, *images)  # type: ignore[operator]

    tools = dataclasses.replace(tools, **{convert.__name__: wrong})
    with pytest.raises(GateError, match="mean agreement"):
        export_run(
            lively_run,
            tmp_path / "wrong",
            phantoms,
            ExportSettings(precision=precision, allowed=AllowedLoss(1.0, sound.parity["agreement"])),
            tools=tools,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["sound"]


def test_a_wrong_scale_is_caught(lively_run: Path, lively_artifact: Path, phantoms: Path, tmp_path: Path) -> None:
    def wrong(model: Path, images: np.ndarray) -> None:
        to_int8(model, images // 16)  # calibrated with images far too dark

    tools = Tools(trace=made_before(lively_artifact))
    tools = dataclasses.replace(tools, to_int8=wrong)
    with pytest.raises(GateError):
        export_run(
            lively_run,
            tmp_path / "artifact",
            phantoms,
            ExportSettings(precision="int8", allowed=AllowedLoss(0.0, 0.999)),
            tools=tools,
        )
    assert list(tmp_path.iterdir()) == []
