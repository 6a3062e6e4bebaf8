from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.errors import ConfigError, ContractError
from gazeseg_serve.training.networks.architecture import NORMS, Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble, Normalise, activation, load_ensemble
from gazeseg_serve.training.networks.unet import seeded_unet


def test_the_paper_s_network_has_its_parameters() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in seeded_unet(Architecture(), 0).parameters())
    assert count == pytest.approx(31.4e6, rel=0.002)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [(32, 32), (16, 48), (33, 50)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_every_architecture_goes_forward_and_back(norm: str, size: tuple[int, int], outputs: int) -> None:
    network = seeded_unet(Architecture(4, norm, outputs=outputs), 0)
    x = torch.randn(2, 3, *size)
    features, logits = network.features(x), network(x)
    assert features.shape == (2, 8, *size)
    assert logits.shape == (2, outputs, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_depth_leaves_out_the_deepest_stages(depth: int) -> None:
    network, x = seeded_unet(Architecture(4, "batch", depth=depth), 0).eval(), torch.randn(1, 3, 32, 32)
    unet = network.backbone
    with torch.no_grad():
        ways = [unet.conv_0(x)]
        for stage in range(1, depth):
            ways.append(getattr(unet, f"down_{stage}")(ways[-1]))
        y = ways.pop()
        for stage in range(depth - 1, 0, -1):
            y = getattr(unet, f"upcat_{stage}")(y, ways.pop())
        torch.testing.assert_close(network(x), network.classifier(unet.final_conv(y)))
    assert (
        sum(p.numel() for p in network.parameters())
        < sum(p.numel() for p in seeded_unet(Architecture(4, "batch", depth=depth + 1), 0).parameters()) / 2
    )


@pytest.mark.parametrize("stride", [2, 4])
def test_a_stride_makes_blocks_channels_and_enlarges_the_logits(stride: int) -> None:
    network = seeded_unet(Architecture(4, "batch", stride=stride), 0).eval()
    x = torch.randn(2, 3, 64, 128)
    features = network.features(x)
    assert features.shape == (2, 8, 64 // stride, 128 // stride)
    # Row by row: channel c, row i and column j of a block become channel (c s + i) s + j.
    blocks = torch.stack([x[:, c, i::stride, j::stride] for c in range(3) for i in range(stride) for j in range(stride)], 1)
    torch.testing.assert_close(network.backbone(blocks), features)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), network(x))
    assert network(x).shape == (2, 1, 64, 128)
    even = torch.full((1, 1, 5, 5), 0.7)
    torch.testing.assert_close(network.enlarge(even), torch.full((1, 1, 5 * stride, 5 * stride), 0.7))


def test_a_seed_decides_the_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b, c = (seeded_unet(Architecture(4), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


@pytest.mark.parametrize("arguments", [{"width": 6}, {"width": 0}, {"norm": "layer"}, {"stride": 3}, {"depth": 6}])
def test_an_impossible_architecture_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Architecture(**arguments)  # type: ignore[arg-type]


def test_normalisation_rules() -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8))).float()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = (x.numpy().transpose(0, 2, 3, 1) / 255 - mean) / std
    np.testing.assert_allclose(Normalise(InputSpec(16))(x).permute(0, 2, 3, 1), wanted, atol=1e-5)
    grey = Normalise(InputSpec(16, channels=1, normalisation="zscore"))(x[:, :1])
    torch.testing.assert_close(grey.mean((2, 3)), torch.zeros(2, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(grey.std((2, 3), correction=0), torch.ones(2, 1), atol=1e-4, rtol=0)
    assert torch.isfinite(Normalise(InputSpec(16, channels=1, normalisation="zscore"))(torch.full((1, 1, 4, 4), 7.0))).all()


def test_activation_takes_the_class_axis() -> None:
    logits = torch.randn(2, 3, 1, 4, 4)
    torch.testing.assert_close(activation(logits), logits.sigmoid())
    torch.testing.assert_close(activation(torch.randn(2, 3, 5, 4, 4)).sum(2), torch.ones(2, 3, 4, 4))


def test_an_ensemble_comes_back_from_its_folder(tiny_run: Path) -> None:
    run, ensemble = load_ensemble(tiny_run)
    assert isinstance(ensemble, Ensemble)
    assert len(ensemble.levels) == len(run.levels) == 2
    assert not ensemble.training


def test_weights_that_do_not_fit_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    data = json.loads((folder / "run.json").read_text())
    data["architecture"]["norm"] = "group"
    (folder / "run.json").write_text(json.dumps(data))
    with pytest.raises(ContractError, match="does not fit"):
        load_ensemble(folder)
