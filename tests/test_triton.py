"""The Triton repository: laid out as Triton wants it, parsed by its own schema where that is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from artifacts import write_artifact
from typer.testing import CliRunner

from gazeseg_serve.cli import app
from gazeseg_serve.errors import ConfigError, ContractError
from gazeseg_serve.export.triton import triton_config, write_triton


def test_the_repository_holds_the_graph_and_its_declaration(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact", classes=("a", "b"))
    model = write_triton(tmp_path / "artifact", tmp_path / "models", "polyps", max_batch=4, gpu=False)
    assert model == tmp_path / "models" / "polyps"
    assert (model / "1" / "model.onnx").read_bytes() == (tmp_path / "artifact" / "model.onnx").read_bytes()
    text = (model / "config.pbtxt").read_text()
    assert re.findall(r'^(input|output) \{ name: "(\w+)" data_type: (\w+) dims: \[ (.*?) \]', text, re.MULTILINE) == [
        ("input", "image", "TYPE_UINT8", "32, 32, 3"), ("output", "probability", "TYPE_FP32", "3, 32, 32"),
        ("output", "disagreement", "TYPE_FP32", "32, 32")]
    assert "preferred_batch_size: [ 2, 4 ]" in text
    assert "KIND_CPU" in text
    assert artifact.id in text


def test_the_configuration_parses_by_triton_s_own_schema(tmp_path: Path) -> None:
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed")
    text_format = pytest.importorskip("google.protobuf.text_format")
    config = text_format.Parse(triton_config(write_artifact(tmp_path), "polyps", 8, True), schema.ModelConfig())
    assert config.max_batch_size == 8
    assert [list(tensor.dims) for tensor in config.output] == [[1, 32, 32], [32, 32]]
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4, 8]
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
    assert config.model_warmup[0].inputs["image"].zero_data


def test_from_the_command_line(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    shown = CliRunner().invoke(app, ["export", str(tmp_path / "artifact"), "--format", "triton", "--out", str(tmp_path / "m")])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "m" / "gazeseg" / "config.pbtxt").is_file()


def test_what_triton_would_refuse_is_refused_here(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    for name, batch in (("a/b", 8), ("", 8), ("ok", 0)):
        with pytest.raises(ConfigError, match="Triton model needs"):
            write_triton(tmp_path / "artifact", tmp_path / "m", name, batch)
    (tmp_path / "artifact" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ContractError):
        write_triton(tmp_path / "artifact", tmp_path / "m")
    assert not (tmp_path / "m").exists()
