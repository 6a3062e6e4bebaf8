"""An artifact made again in int8 without its run: of its own images, held to the artifact itself, and to nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from gazeseg_serve.contract import Artifact
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, GateError
from gazeseg_serve.export import quantize, twin
from gazeseg_serve.export.pipeline import export_run
from gazeseg_serve.export.quantize import halve_weights, whole_weights
from gazeseg_serve.export.settings import AllowedLoss


@pytest.fixture(scope="module")
def whole(lively_run: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "artifact"
    export_run(lively_run, out, phantoms)
    return out


def test_a_twin_is_int8_and_says_what_it_was_made_of(whole: Path, phantoms: Path, tmp_path: Path) -> None:
    made = twin.int8_twin(whole, phantoms, tmp_path / "twin", AllowedLoss(1.0, 0.5))
    before = Artifact.load(whole)
    assert (made.precision, made.provenance["twin_of"], made.input) == ("int8", before.id, before.input)
    assert made.parity["against"] == before.id
    assert made.id != before.id
    kinds = {node.op_type for node in onnx.load(tmp_path / "twin" / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_a_twin_that_loses_too_much_is_not_written(
    whole: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twin, "to_int8", lambda model, images: _negate_weights(model))
    with pytest.raises(GateError, match="not as good"):
        twin.int8_twin(whole, phantoms, tmp_path / "twin", AllowedLoss(0.005, 0.97))
    assert not (tmp_path / "twin").exists()


def test_another_dataset_is_refused(whole: Path, phantoms: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(phantoms, other)
    stem = Dataset.open(other).splits()["val"][0]
    for path in other.rglob(f"{stem}.*"):
        path.rename(path.with_name(f"another{path.suffix}"))
    text = (other / "fixations.csv").read_text().replace(stem, "another")
    (other / "fixations.csv").write_text(text)
    for path in (other / "splits").glob("*.txt"):
        path.write_text(path.read_text().replace(stem, "another"))
    with pytest.raises(ConfigError, match="another split val"):
        twin.int8_twin(whole, other, tmp_path / "twin")
    assert not (tmp_path / "twin").exists()


def test_halved_weights_are_made_whole_again(whole: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes((whole / "model.onnx").read_bytes())
    plain = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    whole_weights(model)
    assert model.read_bytes() == (whole / "model.onnx").read_bytes()  # nothing to do
    halve_weights(model)
    assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in onnx.load(model).graph.initializer)
    whole_weights(model)
    again = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    assert set(again) == set(plain)
    for name, values in again.items():
        assert values.dtype == plain[name].dtype
        np.testing.assert_allclose(values, plain[name], rtol=1e-3, atol=1e-7)
    assert not [node for node in onnx.load(model).graph.node if node.op_type == "Cast" and node.input[0].endswith("_half")]


def test_int8_of_a_file_of_halved_weights_has_int8_weights(whole: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes((whole / "model.onnx").read_bytes())
    halve_weights(model)
    size = Artifact.load(whole).input.size
    quantize.to_int8(model, np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8))
    assert any(t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4 for t in onnx.load(model).graph.initializer)


def _negate_weights(model: Path) -> None:
    graph = onnx.load(model)
    for tensor in graph.graph.initializer:
        if len(tensor.dims) == 4:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(-values, tensor.name))
    model.write_bytes(graph.SerializeToString())
