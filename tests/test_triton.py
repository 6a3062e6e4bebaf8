"""The Triton repository: laid out as Triton wants it, and its configuration parsed by Triton's own schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from artifacts import write_artifact
from google.protobuf import descriptor_pool, message_factory, text_format
from typer.testing import CliRunner

from gazeseg_serve.cli.main import app
from gazeseg_serve.errors import ConfigError, ContractError
from gazeseg_serve.export.triton import triton_config, write_triton


def test_the_repository_holds_the_graph_and_its_declaration(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact", classes=("a", "b"))
    model = write_triton(tmp_path / "artifact", tmp_path / "models", "polyps", max_batch=4, cpus=2)
    assert model == tmp_path / "models" / "polyps"
    assert (model / "1" / "model.onnx").read_bytes() == (tmp_path / "artifact" / "model.onnx").read_bytes()
    text = (model / "config.pbtxt").read_text()
    assert re.findall(r'^(input|output) \{ name: "(\w+)" data_type: (\w+) dims: \[ (.*?) \]', text, re.MULTILINE) == [
        ("input", "image", "TYPE_UINT8", "32, 32, 3"),
        ("output", "probability", "TYPE_FP32", "3, 32, 32"),
        ("output", "disagreement", "TYPE_FP32", "32, 32"),
    ]
    assert "preferred_batch_size: [ 2, 4 ]" in text
    assert "KIND_CPU" in text
    assert artifact.id in text


def triton_schema() -> tuple[type, Any]:
    """(the class ModelConfig, the enum ModelInstanceGroup.Kind), made of Triton's published `model_config.proto`.

    `triton_model_config.binpb` is its serialised descriptor, taken from tritonclient 2.73 (BSD-3-Clause):
    `tritonclient.grpc.model_config_pb2.DESCRIPTOR.serialized_pb`.
    """
    pool = descriptor_pool.DescriptorPool()
    file = pool.AddSerializedFile((Path(__file__).parent / "triton_model_config.binpb").read_bytes())
    kinds = file.message_types_by_name["ModelInstanceGroup"].enum_types_by_name["Kind"].values_by_name
    return message_factory.GetMessageClass(file.message_types_by_name["ModelConfig"]), kinds


def test_the_configuration_parses_by_triton_s_own_schema(tmp_path: Path) -> None:
    model_config, kinds = triton_schema()
    text = triton_config(write_artifact(tmp_path), "polyps", 8, 0)
    config = text_format.Parse(text, model_config())
    assert config.max_batch_size == 8
    assert [list(tensor.dims) for tensor in config.output] == [[1, 32, 32], [32, 32]]
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4, 8]
    assert config.instance_group[0].kind == kinds["KIND_GPU"].number
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
    assert config.model_warmup[0].inputs["image"].zero_data
    for wrong in (text.replace("max_batch_size", "largest_batch"), text.replace("TYPE_UINT8", "TYPE_BYTE")):
        with pytest.raises(text_format.ParseError):
            text_format.Parse(wrong, model_config())


@pytest.mark.parametrize(("cpus", "instances", "threads"), [(1, 1, "1"), (2, 2, "1"), (3, 2, "1"), (8, 2, "4")])
def test_on_a_cpu_the_threads_are_told(tmp_path: Path, cpus: int, instances: int, threads: str) -> None:
    model_config, kinds = triton_schema()
    config = text_format.Parse(triton_config(write_artifact(tmp_path), "polyps", 8, cpus), model_config())
    assert [(group.count, group.kind) for group in config.instance_group] == [(instances, kinds["KIND_CPU"].number)]
    assert config.parameters["intra_op_thread_count"].string_value == threads
    assert config.parameters["inter_op_thread_count"].string_value == "1"
    on_gpu = text_format.Parse(triton_config(write_artifact(tmp_path), "polyps", 8, 0), model_config())
    assert "intra_op_thread_count" not in on_gpu.parameters


def test_from_the_command_line(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    for more, kind in ([], "KIND_GPU"), (["--cpus", "4"], "KIND_CPU"):
        shown = CliRunner().invoke(app, ["triton", str(tmp_path / "artifact"), "--out", str(tmp_path / kind), *more])
        assert shown.exit_code == 0, shown.output
        assert kind in (tmp_path / kind / "gazeseg" / "config.pbtxt").read_text()


def test_what_triton_would_refuse_is_refused_here(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    for name, batch, cpus in (("a/b", 8, 0), ("", 8, 0), ("ok", 0, 0), ("ok", 8, -1)):
        with pytest.raises(ConfigError, match="Triton model needs"):
            write_triton(tmp_path / "artifact", tmp_path / "m", name, batch, cpus)
    (tmp_path / "artifact" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ContractError):
        write_triton(tmp_path / "artifact", tmp_path / "m")
    assert not (tmp_path / "m").exists()
