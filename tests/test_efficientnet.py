"""The UNet on a pretrained encoder: its weights are the ImageNet ones, and it trains and exports as the other does."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny import tiny_config

from gazeseg_serve.contract import InputSpec, Run
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.export.fuse import FusedEnsemble
from gazeseg_serve.export.onnx_graph import write_onnx
from gazeseg_serve.export.parity import eager_ensemble, hold, measure
from gazeseg_serve.export.quantize import to_int8
from gazeseg_serve.export.settings import Tolerance
from gazeseg_serve.training.learning.distill import make_student
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.learning.run_folder import write_level
from gazeseg_serve.training.learning.student import Student
from gazeseg_serve.training.networks import efficientnet
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.efficientnet import weights_file
from gazeseg_serve.training.networks.ensemble import Ensemble, load_ensemble
from gazeseg_serve.training.networks.unet import seeded_unet

ARCHITECTURE = Architecture(4, "batch", stride=2, encoder="efficientnet-lite0")
LITE = ("network.encoder=efficientnet-lite0", "network.stride=2")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


# Of efficientnet_lite_pytorch 0.1.0 at image_size 224 with the same weights: mean |x|, and values at both ends of each map.
GOLDEN = {
    "efficientnet-lite0": [
        ((16, 32, 48), 6.471189, (5.80686, -8.93088, -12.03118), 2.71751),
        ((24, 16, 24), 7.123396, (-0.45131, 13.07133, 8.16629), 16.27734),
        ((40, 8, 12), 6.557868, (-6.33402, 7.67408, 7.84377), 1.35268),
        ((112, 4, 6), 5.378572, (-2.15053, 4.12006, 4.47661), 6.96922),
        ((320, 2, 3), 1.381227, (0.63739, 1.15171, 0.94217), -2.38314),
    ],
    "efficientnet-lite1": [
        ((16, 32, 48), 6.842977, (4.94804, -21.5475, 13.62994), 3.11759),
        ((24, 16, 24), 9.593639, (1.57644, 48.74402, 30.45607), -8.77381),
        ((40, 8, 12), 8.022604, (7.4256, -15.01329, -28.11969), -11.2207),
        ((112, 4, 6), 5.046344, (-1.68113, -8.54704, 1.28192), 3.9655),
        ((320, 2, 3), 1.305621, (2.30032, 0.52896, -2.56575), 2.10769),
    ],
    "efficientnet-lite2": [
        ((16, 32, 48), 6.005229, (-5.33302, -8.85398, -16.84986), 8.60925),
        ((24, 16, 24), 10.043472, (14.29823, -31.52188, -10.4615), -3.51344),
        ((48, 8, 12), 7.434018, (16.40213, -4.96632, -9.924), -13.00566),
        ((120, 4, 6), 4.788045, (0.89689, 4.43243, -9.85028), -7.96948),
        ((352, 2, 3), 1.351446, (0.53528, -1.83628, 0.15272), -0.91044),
    ],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_encoder_answers_as_the_original_does(name: str) -> None:
    if not weights_file(name).is_file():
        pytest.skip(f"the weights of {name} are not installed; see benchmarks/encoder_weights.py")
    encoder = seeded_unet(replace(ARCHITECTURE, encoder=name), 0).backbone.encoder.eval()
    with torch.no_grad():
        maps = encoder(torch.linspace(-2, 2, 3 * 64 * 96).view(1, 3, 64, 96))
    for found, (shape, mean, first, last) in zip(maps, GOLDEN[name], strict=True):
        assert found.shape == (1, *shape)
        assert found.abs().mean().item() == pytest.approx(mean, rel=1e-4)
        assert found[0, :3, 0, 0].tolist() == pytest.approx(first, abs=1e-3)
        assert found[0, -1, -1, -1].item() == pytest.approx(last, abs=1e-3)


@pytest.mark.parametrize(("name", "parameters"), [("lite0", 2_958_848), ("lite1", 3_723_520), ("lite2", 4_357_952)])
def test_every_encoder_has_the_original_s_layers(name: str, parameters: int) -> None:
    """Counted in the packages' files, without head and classifier."""
    network = seeded_unet(replace(ARCHITECTURE, encoder=f"efficientnet-{name}"), 0, pretrained=False)
    assert sum(p.numel() for p in network.backbone.encoder.parameters()) == parameters
    assert network(torch.zeros(2, 3, 64, 96)).shape == (2, 1, 64, 96)


def test_weights_that_are_not_installed_are_said_and_a_finished_run_does_not_need_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ensemble = Ensemble(ARCHITECTURE, InputSpec(64), [0])
    level = write_level(tmp_path, 1, ensemble.networks[0], 0.5, {})
    Run(InputSpec(64), asdict(ARCHITECTURE), (level,), {}, 0, {}, {}, {}).save(tmp_path)
    monkeypatch.setattr(efficientnet, "weights_file", lambda name: tmp_path / f"{name}.safetensors")
    with pytest.raises(ConfigError, match=r"efficientnet-lite0 are not installed.*encoder_weights"):
        seeded_unet(ARCHITECTURE, 0)
    _, loaded = load_ensemble(tmp_path)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x), ensemble.eval()(x))


def test_levels_share_the_encoder_s_start_and_nothing_else() -> None:
    one, two = (seeded_unet(ARCHITECTURE, seed) for seed in (0, 1))
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        if a.dim() > 1:
            assert torch.equal(a, b) == name.startswith("backbone.encoder."), name
    features = one.features(torch.randn(2, 3, 64, 96))
    assert features.shape == (2, 8, 32, 48)
    assert one(torch.randn(2, 3, 64, 96)).shape == (2, 1, 64, 96)
    one(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in one.parameters())


@pytest.mark.parametrize("arguments", [{"norm": "group"}, {"channels": 1}, {"stride": 1}, {"depth": 4}])
def test_what_the_encoder_cannot_be_is_refused(arguments: dict[str, object]) -> None:
    known = {"width": 4, "norm": "batch", "stride": 2, "encoder": "efficientnet-lite0"}
    with pytest.raises(ConfigError, match="wants norm"):
        Architecture(**known | arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="known: unet, efficientnet-lite0"):
        Architecture(encoder="resnet")


def test_what_does_not_fit_the_encoder_is_said_before_any_work() -> None:
    with pytest.raises(ConfigError, match="set that, or network"):
        tiny_config(*LITE, "data.normalisation=zscore")
    with pytest.raises(ConfigError, match="multiple of 32"):
        tiny_config(*LITE, "data.size=48")
    teachers = Ensemble(Architecture(4, "batch"), InputSpec(48), (0, 1)).eval()
    student = Student(width=4, steps=1, batch=1, stride=2, encoder="efficientnet-lite0")
    with pytest.raises(ConfigError, match="32 divides"):
        make_student(teachers, student, None)


def test_the_fused_graph_holds_the_gate_and_int8_quantises_the_inside(tmp_path: Path) -> None:
    spec, model = InputSpec(64), tmp_path / "model.onnx"
    ensemble = Ensemble(ARCHITECTURE, spec, (0, 1)).eval()
    with torch.no_grad():  # as after training: encoders that are alike would be one in the graph
        for p in ensemble.networks[1].parameters():
            p.mul_(1.01)
    write_onnx(FusedEnsemble(ensemble), spec, True, model)
    parity = measure(OnnxRuntimeEngine(model, "cpu"), eager_ensemble(ensemble), IMAGES)
    hold(parity, Tolerance())
    before = OnnxRuntimeEngine(model, "cpu").run(IMAGES).probability
    to_int8(model, IMAGES)
    graph = onnx.load(model).graph
    makers = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    whole = [node for node in convolutions if makers.get(node.input[1]) is None]
    depthwise = [node for node in whole if any(a.name == "group" and a.i > 4 for a in node.attribute)]
    assert len(depthwise) == 2 * 16
    assert len(whole) - len(depthwise) == 4  # the first and the last of each level
    assert len(convolutions) == 2 * (48 + 8 + 1)
    assert np.abs(OnnxRuntimeEngine(model, "cpu").run(IMAGES).probability - before).mean() < 0.02


def test_it_trains_and_comes_back(phantoms: Path, phantom_masks: Path, tmp_path: Path) -> None:
    config = tiny_config(*LITE, "optimiser.steps=1", "evaluate_every=1")
    run = train(config, phantoms, phantom_masks, tmp_path / "run", device="cpu")
    assert run.architecture["encoder"] == "efficientnet-lite0"
    _, ensemble = load_ensemble(tmp_path / "run")
    assert sum(p.numel() for p in ensemble.networks[0].backbone.encoder.parameters()) == 2_958_848
