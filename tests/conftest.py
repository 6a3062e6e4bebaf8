"""Shared fixtures: a small phantom dataset, and a run of it that was trained for three steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

DATA = Path(os.environ.get("GAZESEG_DATA", Path(__file__).parents[1].parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; name its folder in GAZESEG_DATA")
    return DATA


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of 18 phantoms, 48 x 48 pixels."""
    from gazeseg_serve.training.gaze.simulate import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "data", 18, 48, seed=3)


@pytest.fixture(scope="session")
def phantom_masks(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The masks folder of `phantoms`, heatmaps only."""
    from gazeseg_serve.training.masks.make import make_masks
    from gazeseg_serve.training.masks.settings import MaskSettings

    out = tmp_path_factory.mktemp("masks") / "masks"
    make_masks(phantoms, out, MaskSettings(crf=None), jobs=1)
    return out


@pytest.fixture(scope="session")
def tiny_run(phantoms: Path, phantom_masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two 4-wide networks at 32 x 32, trained for three steps: a real run, though not a good one."""
    from tiny import tiny_config

    from gazeseg_serve.training.learning.loop import train

    out = tmp_path_factory.mktemp("run") / "run"
    train(tiny_config(), phantoms, phantom_masks, out, device="cpu")
    return out


@pytest.fixture(scope="session")
def tiny_artifact(tiny_run: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fused artifact of `tiny_run`."""
    from gazeseg_serve.export.pipeline import export_run

    out = tmp_path_factory.mktemp("artifact") / "artifact"
    export_run(tiny_run, out, phantoms)
    return out


@pytest.fixture(scope="session")
def lively_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_run`, which calls every pixel the same after three steps, with untrained networks that say something.

    They are near one another, as levels of a shared start are: the average of strangers answers nothing.
    """
    import dataclasses

    import torch
    from safetensors.torch import save

    from gazeseg_serve.files import sha256
    from gazeseg_serve.training.networks.ensemble import load_ensemble
    from gazeseg_serve.training.networks.unet import seeded_unet

    run, ensemble = load_ensemble(tiny_run)
    out = tmp_path_factory.mktemp("lively")
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    levels = []
    for i, level in enumerate(run.levels):
        network = seeded_unet(ensemble.architecture, 0).eval()
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.1 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
            network.classifier.weight.mul_(100)
            network.classifier.bias.sub_(network(x).mean())
        weights = save(network.state_dict())
        (out / level.weights).write_bytes(weights)
        levels.append(dataclasses.replace(level, sha256=sha256(weights)))
    dataclasses.replace(run, levels=tuple(levels)).save(out)
    return out


@pytest.fixture(scope="session")
def lively_artifact(lively_run: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fused artifact of `lively_run`."""
    from gazeseg_serve.export.pipeline import export_run

    out = tmp_path_factory.mktemp("artifact") / "lively"
    export_run(lively_run, out, phantoms)
    return out


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny artifact: the probability is the brightness. To be read only."""
    from artifacts import write_artifact

    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    return folder


@pytest.fixture(scope="session")
def zones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny artifact of two classes and one network. To be read only."""
    from artifacts import write_artifact

    folder = tmp_path_factory.mktemp("zones")
    write_artifact(folder, classes=("zone", "core"), disagreement=False)
    return folder
