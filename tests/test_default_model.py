"""The model that comes with the package: whole, small, of known origin, without anyone's pictures, and used by default."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gazeseg_serve import cpus, default_model
from gazeseg_serve.cli.main import app
from gazeseg_serve.contract import Artifact
from gazeseg_serve.default_model import DEFAULT_MODEL, INT8_MODEL, default_artifact
from gazeseg_serve.errors import ContractError
from gazeseg_serve.export import bench
from gazeseg_serve.predictor import Predictor

BOTH = pytest.mark.parametrize("folder", [DEFAULT_MODEL, INT8_MODEL], ids=["default", "int8"])


@BOTH
def test_it_is_whole_and_held_its_gate_on_true_masks(folder: Path) -> None:
    artifact = Artifact.load(folder)
    assert artifact.strategy == "distill"
    assert artifact.has_disagreement
    truth = artifact.parity["truth"]
    assert truth["images"] == 100
    assert truth["dice_loss"] <= 0.005
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000


@BOTH
def test_it_carries_no_picture_and_no_path_of_any_machine(folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix != ".onnx":
            text = path.read_text()
            assert "<img" not in text
            assert not re.search(r'"/\w|file:|[A-Z]:\\', text), path.name


def test_the_card_beside_it_says_what_it_is_for() -> None:
    card = (DEFAULT_MODEL / "README.md").read_text()
    for words in ("Research use only", "Kvasir-SEG", "GazeMedSeg", "not a medical device"):
        assert words in card
    for folder in (DEFAULT_MODEL, INT8_MODEL):
        card, artifact = (folder / "README.md").read_text(), Artifact.load(folder)
        assert f"{artifact.parity['truth']['dice_graph']:.4f}" in card
        assert artifact.id in card
    assert artifact.provenance["twin_of"] == Artifact.load(DEFAULT_MODEL).id


@pytest.mark.parametrize(
    ("device", "bytes_", "providers", "wanted"),
    [
        ("auto", True, ["CPUExecutionProvider"], INT8_MODEL),
        ("cpu", True, ["CPUExecutionProvider"], INT8_MODEL),
        ("cpu", True, ["CUDAExecutionProvider", "CPUExecutionProvider"], INT8_MODEL),
        ("auto", True, ["CUDAExecutionProvider", "CPUExecutionProvider"], DEFAULT_MODEL),
        ("auto", False, ["CPUExecutionProvider"], DEFAULT_MODEL),
        ("cpu", False, ["CPUExecutionProvider"], DEFAULT_MODEL),
        ("cuda", True, ["CUDAExecutionProvider"], DEFAULT_MODEL),
        ("openvino", True, ["CPUExecutionProvider"], DEFAULT_MODEL),
        ("tensorrt", True, ["CPUExecutionProvider"], DEFAULT_MODEL),
    ],
)
def test_int8_is_for_cpus_that_multiply_bytes(
    device: str, bytes_: bool, providers: list[str], wanted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    monkeypatch.setattr("gazeseg_serve.cpus.multiplies_bytes", lambda: bytes_)
    assert default_artifact(device) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512_vnni sse\n\nprocessor\t: 1\nflags\t\t: fpu avx_vnni\n", True),
        ("flags\t\t: fpu avx512_vnni\n\nflags\t\t: fpu avx2\n", False),  # one CPU of two
        ("Features\t: fp asimd asimddp\n", True),
        ("flags\t\t: fpu avx512_vnnix\n", False),
        ("", False),
    ],
)
def test_what_a_cpu_can_is_read_from_its_flags(text: str, wanted: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpus.multiplies_bytes(tmp_path / "cpuinfo") is wanted
    assert cpus.multiplies_bytes(tmp_path / "nothing") is False


def test_predict_takes_it_when_no_artifact_is_named(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    shown = CliRunner().invoke(app, ["predict", str(tmp_path / "photo.png"), "--out", str(tmp_path / "masks")])
    assert shown.exit_code == 0, shown.output
    wanted = Predictor.open(default_artifact()).predict(pixels).mask()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / "photo.png")), wanted.astype(bool))


def test_an_artifact_alone_is_a_question_without_an_image() -> None:
    shown = CliRunner().invoke(app, ["predict", str(default_artifact()), "--out", "nowhere"])
    assert shown.exit_code == 2
    assert not Path("nowhere").exists()


def test_serve_takes_it_when_no_artifact_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("gazeseg_serve.service.launch")
    for name in ("GAZESEG_ARTIFACT", "GAZESEG_MODELS"):
        monkeypatch.delenv(name, raising=False)
    seen: list[object] = []
    monkeypatch.setattr(launch, "serve", lambda options, host, port: seen.append(options["artifact"]))
    assert CliRunner().invoke(app, ["serve"]).exit_code == 0
    monkeypatch.setenv("GAZESEG_ARTIFACT", "elsewhere")
    assert CliRunner().invoke(app, ["serve"]).exit_code == 0
    assert seen == [default_artifact(), None]


def test_predicting_with_it_stays_under_350_megabytes_without_torch() -> None:
    found = bench.predict_memory(default_artifact(), "cpu")  # refuses a process that loads torch
    if found is None:
        pytest.skip("there is no /proc here")
    assert 30e6 < found < 350e6


def test_an_installation_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(default_model, "DEFAULT_MODEL", tmp_path)
    monkeypatch.setattr(default_model, "INT8_MODEL", tmp_path)
    with pytest.raises(ContractError, match="name an artifact folder"):
        default_artifact()
