"""Fusing is exact, the gate holds where it should, and fails for each way in which a graph can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from damage import fix_batch, kill_a_head, made_before, perturb_weight, rename_output, scale_means, swap_channels

from gazeseg_serve.contract import Artifact, InputSpec, Tensor, graph_outputs
from gazeseg_serve.engines.base import Engine, Outputs
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.errors import ConfigError, ContractError, DatasetError, GateError
from gazeseg_serve.export.fuse import FusedEnsemble, fold_tail
from gazeseg_serve.export.onnx_graph import write_onnx
from gazeseg_serve.export.parity import Parity, check_declaration, eager_ensemble, hold, measure
from gazeseg_serve.export.pipeline import export_run
from gazeseg_serve.export.settings import ExportSettings, Tolerance
from gazeseg_serve.export.tools import Tools
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.training.networks.architecture import NORMS, Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble, load_ensemble
from gazeseg_serve.training.networks.unet import seeded_unet

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def ensemble_of(norm: str = "group", classes: int = 1, levels: int = 2) -> Ensemble:
    spec = InputSpec(32, classes=tuple(f"class {i}" for i in range(classes)))
    ensemble = Ensemble(Architecture(4, norm, 3, spec.outputs), spec, range(levels)).eval()
    with torch.no_grad():  # untrained nets answer 0.5 everywhere; make them say something
        for level in ensemble.levels:
            level.classifier.weight.mul_(8)
    return ensemble


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_folding_the_tail_changes_nothing(norm: str, stride: int) -> None:
    level = seeded_unet(Architecture(4, norm, outputs=3, stride=stride), 0).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fold_tail(level)(x), level(x), rtol=0, atol=1e-5)


def test_the_fused_module_is_the_mean_logit_and_the_spread() -> None:
    ensemble = ensemble_of(levels=3)
    with torch.no_grad():
        probability, disagreement = FusedEnsemble(ensemble)(torch.from_numpy(IMAGES))
        x = (
            torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        ) / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        logits = torch.stack([level(x) for level in ensemble.levels])
    np.testing.assert_allclose(probability, logits.mean(0).sigmoid(), atol=1e-5)
    np.testing.assert_allclose(disagreement, np.std(logits.sigmoid().numpy(), axis=0)[:, 0], atol=1e-5)


@pytest.mark.parametrize(("norm", "classes", "levels"), [("group", 1, 2), ("batch", 1, 1), ("batch", 3, 2)])
def test_the_onnx_file_is_as_declared_and_as_good(norm: str, classes: int, levels: int, tmp_path: Path) -> None:
    ensemble, model = ensemble_of(norm, classes, levels), tmp_path / "model.onnx"
    write_onnx(FusedEnsemble(ensemble), ensemble.spec, levels > 1, model)
    check_declaration(model, ensemble.spec, levels > 1)
    parity = measure(OnnxRuntimeEngine(model, "cpu"), eager_ensemble(ensemble), IMAGES)
    hold(parity, Tolerance())
    assert parity.max_difference < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # weights are inside
    assert str(Path.cwd()).encode() not in model.read_bytes()


def test_an_artifact_is_complete_and_checked(tiny_artifact: Path, tiny_run: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    assert {path.name for path in tiny_artifact.iterdir()} == {"manifest.json", "model.onnx", "parity.json", "report.html"}
    assert set(artifact.files) == {"model.onnx", "parity.json", "report.html"}
    assert artifact.outputs == graph_outputs(artifact.input, disagreement=True)
    assert artifact.parity["batch_sizes"] == [1, 2, 5]
    assert artifact.provenance["thresholds"] == [0.5, 0.3]
    assert json.loads((tiny_artifact / "parity.json").read_text())["max_difference"] <= 1e-3
    report = (tiny_artifact / "report.html").read_text()
    assert "<img" in report
    assert "http" not in report


def test_an_export_of_the_same_run_is_the_same_model(
    tiny_run: Path, tiny_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    again = export_run(tiny_run, tmp_path / "again", phantoms)
    assert again.id == Artifact.load(tiny_artifact).id


def test_the_predictor_says_what_the_networks_say(tiny_artifact: Path, tiny_run: Path) -> None:
    run, ensemble = load_ensemble(tiny_run)
    image = RNG.integers(0, 256, (run.input.size, run.input.size, 3), dtype=np.uint8)
    wanted = eager_ensemble(ensemble)(image[None])
    found = Predictor.open(tiny_artifact, device="cpu").predict(image)
    np.testing.assert_allclose(found.probability, wanted.probability[0], atol=1e-5)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (perturb_weight, "not as good as the ensemble"),
        (scale_means, "not as good as the ensemble"),
        (swap_channels, "not as good as the ensemble"),
        (kill_a_head, "not as good as the ensemble"),
        (rename_output, "outputs are mask"),
        (fix_batch, "inputs are image"),
    ],
)
def test_a_damaged_graph_leaves_no_artifact(
    damage: Callable[[Path], None], words: str, tiny_run: Path, tiny_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    tools = Tools(trace=made_before(tiny_artifact, damage))
    with pytest.raises(GateError, match=words):
        export_run(tiny_run, tmp_path / "artifact", phantoms, tools=tools)
    assert list(tmp_path.iterdir()) == []


class Wrapped:
    """An engine whose outputs are changed on the way."""

    name = "wrapped"

    def __init__(self, engine: Engine, change: Callable[[np.ndarray, Outputs], Outputs]) -> None:
        self.engine, self.change = engine, change

    def run(self, batch: np.ndarray) -> Outputs:
        return self.change(batch, self.engine.run(batch))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b, o: Outputs(o.probability, None), "disagreement is missing"),
        (lambda b, o: Outputs(o.probability[:, :, :16], o.disagreement), "has shape"),
        (lambda b, o: Outputs(o.probability * np.nan, o.disagreement), "not finite"),
        (lambda b, o: Outputs(o.probability + 0.002, o.disagreement), "max |difference| of the probability"),
        (lambda b, o: Outputs(o.probability, o.disagreement + 0.002), "max |difference| of the disagreement"),
        (lambda b, o: Outputs(1 - o.probability, o.disagreement), "share of flipped mask pixels"),
        # Right alone, wrong in a batch: what a graph traced at batch 1 can do.
        (lambda b, o: Outputs(o.probability if len(b) == 1 else o.probability[::-1], o.disagreement), "the probability is"),
    ],
)
def test_the_gate_sees_every_kind_of_wrong(
    change: Callable[[np.ndarray, Outputs], Outputs],
    words: str,
    tiny_run: Path,
    tiny_artifact: Path,
    phantoms: Path,
    tmp_path: Path,
) -> None:
    tools = Tools(
        trace=made_before(tiny_artifact), open=lambda model, precision: Wrapped(OnnxRuntimeEngine(model, "cpu"), change)
    )
    with pytest.raises(GateError) as caught:
        export_run(tiny_run, tmp_path / "artifact", phantoms, tools=tools)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_nan_does_not_pass_the_limits() -> None:
    with pytest.raises(GateError):
        hold(Parity(1, (1,), float("nan"), 0.0, 0.0, (0.0,)), Tolerance())


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"strategy": "magic"}, ConfigError, "known: fuse"),
        ({"precision": "fp12"}, ConfigError, "known: fp32"),
        ({"precision": "int8", "data": None}, ConfigError, "pass --data"),
        ({"strategy": "distill", "data": None}, DatasetError, "--unlabelled FOLDER"),
        ({"images": 0}, ConfigError, "at least one image"),
        ({"split": "test"}, DatasetError, "none of the run's test images"),
    ],
)
def test_impossible_settings_are_refused(
    given: dict[str, object], error: type[Exception], words: str, tiny_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    data = cast(Path | None, given.get("data", phantoms))
    settings = {name: value for name, value in given.items() if name != "data"}
    with pytest.raises(error, match=words):
        export_run(tiny_run, tmp_path / "artifact", data, ExportSettings(**settings))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_without_data_the_gate_says_that_its_images_are_synthetic(tiny_run: Path, tiny_artifact: Path, tmp_path: Path) -> None:
    tools = Tools(trace=made_before(tiny_artifact))
    artifact = export_run(tiny_run, tmp_path / "artifact", settings=ExportSettings(images=3), tools=tools)
    assert artifact.parity["source"] == "synthetic images"
    assert artifact.parity["images"] == 3


def test_a_folder_of_somebody_else_is_not_replaced(tiny_run: Path, phantoms: Path, tmp_path: Path) -> None:
    shutil.copytree(phantoms / "masks", tmp_path / "precious")
    with pytest.raises(ContractError, match="is not an artifact folder"):
        export_run(tiny_run, tmp_path / "precious", phantoms)
    assert list((tmp_path / "precious").iterdir())


def test_declared_tensors_are_compared_whole() -> None:
    assert graph_outputs(InputSpec(32), True)[0] == Tensor("probability", "float32", ("batch", 1, 32, 32))
