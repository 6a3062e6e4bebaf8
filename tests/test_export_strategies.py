"""Each strategy makes what it says, and each gate fails for a graph or a network that is wrong."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from damage import kill_a_head, made_before, perturb_weight, scale_means, swap_channels
from fake_tensorrt import refusals

from gazeseg_serve.contract import Artifact, InputSpec, Run
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.openvino import OpenVinoEngine, has_bf16
from gazeseg_serve.errors import ConfigError, GateError
from gazeseg_serve.export.compare import multiply_adds
from gazeseg_serve.export.flops import count_flops
from gazeseg_serve.export.pipeline import export_run
from gazeseg_serve.export.settings import AllowedLoss, ExportSettings
from gazeseg_serve.export.single import alone, average, best_level
from gazeseg_serve.export.tools import Tools
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.training.learning.student import Student
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble, load_ensemble
from gazeseg_serve.training.networks.unet import seeded_unet

ANYTHING = AllowedLoss(max_dice_loss=1.0, min_agreement=0.0)
QUICK = Student(width=4, steps=2, batch=2, precision="32-true")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
LOSSY = ("average", "best-level", "distill")


def ensemble_of(seeds: tuple[int, ...]) -> Ensemble:
    return Ensemble(Architecture(4, "batch"), InputSpec(32), seeds).eval()


def test_the_average_is_the_mean_of_every_weight() -> None:
    ensemble = ensemble_of((0, 1, 2))
    (found,) = average(ensemble).levels
    for name, value in found.named_parameters():
        slow = sum(dict(level.named_parameters())[name] for level in ensemble.levels) / 3
        torch.testing.assert_close(value, slow, rtol=0, atol=1e-6)
    assert found.training is False


def test_the_average_of_equals_is_the_same_network() -> None:
    ensemble, x = ensemble_of((5, 5)), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(average(ensemble)(x)[0], ensemble(x)[1], rtol=0, atol=1e-6)


def with_dice(run: Run, *values: float | None) -> Run:
    metrics = [{} if value is None else {"val_dice": value} for value in values]
    levels = tuple(dataclasses.replace(level, metrics=m) for level, m in zip(run.levels, metrics, strict=True))
    return dataclasses.replace(run, levels=levels)


def test_the_best_level_is_the_one_with_the_highest_dice(tiny_run: Path) -> None:
    run, ensemble = load_ensemble(tiny_run)
    for values, wanted in (((0.2, 0.7), 1), ((0.7, 0.2), 0)):
        index, single = best_level(with_dice(run, *values), ensemble)
        assert index == wanted
        assert single.levels[0] is ensemble.levels[wanted]
    with pytest.raises(ConfigError, match="no validation Dice"):
        best_level(with_dice(run, 0.7, None), ensemble)


@pytest.fixture(scope="module")
def exported(lively_run: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """strategy -> its artifact, exported once with limits that let anything pass."""
    root = tmp_path_factory.mktemp("strategies")

    def get(strategy: str) -> Path:
        if not (root / strategy).exists():
            export_run(lively_run, root / strategy, phantoms, ExportSettings(strategy, student=QUICK, allowed=ANYTHING))
        return root / strategy

    return get


@pytest.mark.parametrize("strategy", LOSSY)
def test_the_artifact_says_what_was_measured(strategy: str, exported: Callable[[str], Path], phantoms: Path) -> None:
    folder = exported(strategy)
    artifact = Artifact.load(folder)
    assert (artifact.strategy, artifact.precision) == (strategy, "fp32")
    assert artifact.has_disagreement == (strategy == "distill")
    parity = artifact.parity
    assert parity["graph"]["max_difference"] < 1e-3
    truth = parity["truth"]
    assert truth["images"] == parity["images"] == 2
    assert truth["dice_loss"] == pytest.approx(truth["dice_ensemble"] - truth["dice_graph"])
    assert truth["dice_loss_low"] <= truth["dice_loss"] <= truth["dice_loss_high"]
    recorded = json.loads((folder / "parity.json").read_text())
    assert recorded["min_agreement"] == 0.0
    assert np.mean(recorded["agreement_by_image"]) == pytest.approx(parity["agreement"])
    assert (folder / "report.html").read_text().count("<img") >= 2
    image = np.full((40, 60, 3), 90, np.uint8)
    assert Predictor.open(folder, device="cpu").predict(image).mask().shape == (40, 60)


@pytest.mark.parametrize("damage", [perturb_weight, swap_channels, scale_means, kill_a_head])
@pytest.mark.parametrize("strategy", LOSSY)
def test_a_damaged_graph_fails_whatever_the_limits(
    strategy: str,
    damage: Callable[[Path], None],
    lively_run: Path,
    phantoms: Path,
    exported: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    tools = Tools(trace=made_before(exported(strategy), damage))
    with pytest.raises(GateError, match="not as good"):
        export_run(
            lively_run, tmp_path / "artifact", phantoms, ExportSettings(strategy, student=QUICK, allowed=ANYTHING), tools=tools
        )
    assert {path.name for path in tmp_path.iterdir()} <= {"artifact-student"}  # a student's training is kept


@pytest.mark.parametrize("strategy", LOSSY)
def test_a_network_that_answers_otherwise_fails_and_says_its_figures(
    strategy: str,
    lively_run: Path,
    phantoms: Path,
    exported: Callable[[str], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tools = Tools(trace=made_before(exported(strategy)))
    caplog.set_level(logging.INFO, "gazeseg_serve")
    with pytest.raises(GateError, match="mean agreement"):
        export_run(
            lively_run,
            tmp_path / "artifact",
            phantoms,
            ExportSettings(strategy, student=QUICK, allowed=AllowedLoss(1.0, 1.0)),
            tools=tools,
        )
    assert "agreement 0." in caplog.text
    assert "loss" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} <= {"artifact-student"}  # a student's training is kept


def test_the_same_seed_gives_the_same_student(
    exported: Callable[[str], Path], lively_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    """The graph of the first export equals the networks of the second, or the gate would say so."""
    tools = Tools(trace=made_before(exported("distill")))
    artifact = export_run(
        lively_run, tmp_path / "a", phantoms, ExportSettings("distill", student=QUICK, allowed=ANYTHING), tools=tools
    )
    assert artifact.parity["graph"]["max_difference"] < 1e-5
    with pytest.raises(GateError, match="not as good"):
        export_run(
            lively_run,
            tmp_path / "b",
            phantoms,
            ExportSettings("distill", student=dataclasses.replace(QUICK, seed=1, warm_start=False), allowed=ANYTHING),
            tools=tools,
        )


def test_a_student_of_another_stride_and_depth_goes_through_every_precision(
    lively_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    student = Student(width=8, steps=2, batch=2, precision="32-true", stride=2, depth=4)
    keep = tmp_path / "student"
    artifact = export_run(
        lively_run, tmp_path / "fp32", phantoms, ExportSettings("distill", student=student, allowed=ANYTHING, student_run=keep)
    )
    model = tmp_path / "fp32" / "model.onnx"
    assert artifact.provenance["student"]["stride"] == 2
    assert refusals(model.read_bytes()) == []  # TensorRT takes it
    wanted = OnnxRuntimeEngine(model, "cpu").run(IMAGES)
    answers = OpenVinoEngine(model).run(IMAGES)
    np.testing.assert_allclose(answers.probability, wanted.probability, atol=1e-4)
    network = seeded_unet(Architecture(8, "batch", outputs=2, stride=2, depth=4), 0)
    single = alone(ensemble_of((0,)), network)
    assert count_flops(model) == pytest.approx(sum(2 * count for count in multiply_adds(single)), rel=0.02)
    tools = Tools(trace=made_before(tmp_path / "fp32"))
    for precision in ("int8", "fp16", "bf16") if has_bf16() else ("int8", "fp16"):
        out = tmp_path / precision
        export_run(
            lively_run,
            out,
            phantoms,
            ExportSettings("distill", precision=precision, student=student, allowed=ANYTHING, student_run=keep),
            tools=tools,
        )
        assert count_flops(out / "model.onnx") == count_flops(model)
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    plain = [node for node in graph.node if node.op_type == "Conv" and makers.get(node.input[1]) != "DequantizeLinear"]
    assert len(plain) == 2  # the first and the last


def test_a_report_without_pictures_shows_none(
    exported: Callable[[str], Path], lively_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    tools = Tools(trace=made_before(exported("average")))
    export_run(lively_run, tmp_path / "a", phantoms, ExportSettings("average", pictures=False, allowed=ANYTHING), tools=tools)
    assert "<img" not in (tmp_path / "a" / "report.html").read_text()


def test_half_weights_halve_the_file_and_keep_the_arithmetic(
    exported: Callable[[str], Path], lively_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    whole = exported("best-level") / "model.onnx"
    tools = Tools(trace=made_before(exported("best-level")))
    artifact = export_run(
        lively_run,
        tmp_path / "half",
        phantoms,
        ExportSettings("best-level", precision="fp16-weights", allowed=ANYTHING),
        tools=tools,
    )
    model = tmp_path / "half" / "model.onnx"
    assert artifact.precision == "fp32"
    assert artifact.provenance["weights"] == "float16"
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}
    before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(whole).graph.initializer}
    halved = [name for name in stored if name.endswith("_half")]
    convolutions = [node for node in onnx.load(whole).graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert {name.removesuffix("_half") for name in halved} == {node.input[1] for node in convolutions}
    for name in halved:
        np.testing.assert_array_equal(stored[name], before[name.removesuffix("_half")].astype(np.float16))
    assert sum(value.nbytes for value in stored.values()) < 0.55 * sum(value.nbytes for value in before.values())
    answers = OnnxRuntimeEngine(model, "cpu").run(IMAGES).probability
    np.testing.assert_allclose(answers, OnnxRuntimeEngine(whole, "cpu").run(IMAGES).probability, atol=0.01)
    np.testing.assert_allclose(answers, OpenVinoEngine(model).run(IMAGES).probability, atol=1e-3)
    assert count_flops(model) == count_flops(whole)
    assert refusals(model.read_bytes()) == []
