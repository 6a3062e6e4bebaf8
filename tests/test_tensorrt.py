"""TensorRT without a GPU: what is asked of it, what is made of its answers, and how its absence is told. See fake_tensorrt."""

from __future__ import annotations

import dataclasses
import gc
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import write_artifact
from damage import made_before
from fake_tensorrt import VERSIONS, Gpu, install, refusals
from typer.testing import CliRunner

from gazeseg_serve.cli.main import app
from gazeseg_serve.contract import Artifact, Machine, Plan
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.open import open_engine
from gazeseg_serve.engines.tensorrt import TensorRtEngine
from gazeseg_serve.engines.tensorrt_plan import build_plan, plan_of, this_machine
from gazeseg_serve.errors import ConfigError, EngineError, GateError, MissingExtraError
from gazeseg_serve.export.pipeline import export_run
from gazeseg_serve.export.quantize import to_fp16, to_int8
from gazeseg_serve.export.settings import AllowedLoss, ExportSettings
from gazeseg_serve.export.tools import Tools

BATCH = np.random.default_rng(0).integers(0, 256, (37, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(params=VERSIONS)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpu:
    """A fake GPU with each recorded version of TensorRT; plans are kept under tmp_path."""
    monkeypatch.setenv("GAZESEG_PLAN_CACHE", str(tmp_path / "kept"))
    fake = Gpu()
    install(monkeypatch, fake, request.param)
    return fake


def test_a_plan_answers_as_its_graph_at_any_batch(gpu: Gpu, tiny_artifact: Path) -> None:
    engine = open_engine(tiny_artifact, Artifact.load(tiny_artifact), "tensorrt")
    wanted = OnnxRuntimeEngine(tiny_artifact / "model.onnx", "cpu")
    assert engine.name == "tensorrt"
    for size in (1, 16, 5, 37):  # 37 is over the profile's 16 and is cut
        found, graph = engine.run(BATCH[:size]), wanted.run(BATCH[:size])
        np.testing.assert_allclose(found.probability, graph.probability, atol=1e-5)
        np.testing.assert_allclose(found.disagreement, graph.disagreement, atol=1e-5)  # type: ignore[arg-type]


def test_device_memory_is_given_back(gpu: Gpu, tiny_artifact: Path) -> None:
    engine = TensorRtEngine(build_plan(tiny_artifact / "model.onnx", "fp32", this_machine()), "uint8")
    assert len(gpu.memory) == 3  # the image, the probability, the disagreement
    assert gpu.streams == 1
    del engine
    gc.collect()
    assert (len(gpu.memory), gpu.streams) == (0, 0)


def test_fp32_means_fp32_and_the_profile_spans_the_batch(gpu: Gpu, tiny_artifact: Path) -> None:
    facts = build_plan(tiny_artifact / "model.onnx", "fp32", this_machine(), max_batch=8).partition(b"\n")[0].decode()
    assert '"tf32": false' in facts
    assert '"image": [[1, 32, 32, 3], [4, 32, 32, 3], [8, 32, 32, 3]]' in facts


def test_timings_are_kept_and_those_of_another_gpu_are_not_used(gpu: Gpu, tiny_artifact: Path, tmp_path: Path) -> None:
    model = tiny_artifact / "model.onnx"
    build_plan(model, "fp32", this_machine())
    build_plan(model, "fp32", this_machine())
    assert gpu.timings == [b"", b"timings of Fake H100"]
    (kept,) = (tmp_path / "kept").glob("*.timings")
    kept.write_bytes(b"timings of something else")
    build_plan(model, "fp32", this_machine())
    assert gpu.timings[2:] == [b"timings of something else", b""]


def test_a_plan_is_built_once_for_each_machine(gpu: Gpu, tiny_artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifact = Artifact.load(tiny_artifact)
    caplog.set_level(logging.WARNING, "gazeseg_serve")
    first = plan_of(tiny_artifact, artifact)
    assert plan_of(tiny_artifact, artifact) == first
    assert gpu.builds == 1
    assert "made for no machine yet, this is Fake H100" in caplog.text
    gpu.name = "Fake B200"
    assert plan_of(tiny_artifact, artifact) != first
    assert gpu.builds == 2


def test_the_artifact_s_own_plan_is_taken_where_it_fits_and_no_other(
    gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = write_artifact(tmp_path / "a")
    here = this_machine()
    own = build_plan(tmp_path / "a" / "model.onnx", "fp32", here)
    (tmp_path / "a" / "model.plan").write_bytes(own)
    builds = gpu.builds
    assert plan_of(tmp_path / "a", dataclasses.replace(artifact, plan=Plan("model.plan", here))) == own
    assert gpu.builds == builds
    for other in (Machine("Fake A100", "8.0", here.tensorrt), Machine(here.gpu, here.capability, "9.1")):
        plan_of(tmp_path / "a", dataclasses.replace(artifact, plan=Plan("model.plan", other)))
    assert gpu.builds == builds + 1  # built for this machine, then kept
    assert "made for Fake A100" in caplog.text
    gpu.name = "Fake B200"
    with pytest.raises(EngineError, match="not compatible with this version"):
        TensorRtEngine(own, "uint8")


def test_a_new_plan_that_answers_wrongly_is_not_used_or_kept(gpu: Gpu, tiny_artifact: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    for change in (lambda p: p + np.float32(0.01), lambda p: p * np.float32("nan"), lambda p: p[::-1]):
        gpu.change = lambda values, c=change: {name: c(value) for name, value in values.items()}
        with pytest.raises(EngineError, match="the new plan differs"):
            open_engine(tiny_artifact, artifact, "tensorrt")
    assert not list((tmp_path / "kept").glob("*.plan"))


def test_a_folder_that_cannot_be_written_costs_no_answer(
    gpu: Gpu, tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GAZESEG_PLAN_CACHE", str(tmp_path / "file"))
    engine = open_engine(tiny_artifact, Artifact.load(tiny_artifact), "tensorrt")
    assert engine.run(BATCH[:1]).probability.shape == (1, 1, 32, 32)
    assert "GAZESEG_PLAN_CACHE" in caplog.text


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_export_proves_its_plan_and_ties_it_to_the_machine(
    precision: str, gpu: Gpu, lively_run: Path, phantoms: Path, lively_artifact: Path, tmp_path: Path
) -> None:
    tools = Tools(trace=made_before(lively_artifact))
    out = tmp_path / "artifact"
    artifact = export_run(
        lively_run,
        out,
        phantoms,
        ExportSettings(precision=precision, format="tensorrt", allowed=AllowedLoss(1.0, 0.9)),
        tools=tools,
    )
    assert artifact.plan == Plan("model.plan", this_machine())
    assert set(artifact.files) == {"model.onnx", "model.plan", "parity.json", "report.html"}
    assert artifact.precision == precision
    assert open_engine(out, artifact, "tensorrt").run(BATCH).probability.shape == (37, 1, 32, 32)
    assert gpu.builds == 1
    gpu.change = lambda values: {name: value * np.float32(0.5) for name, value in values.items()}
    with pytest.raises(GateError):
        export_run(
            lively_run,
            tmp_path / "wrong",
            phantoms,
            ExportSettings(precision=precision, format="tensorrt", allowed=AllowedLoss(1.0, 0.9)),
            tools=tools,
        )
    assert not (tmp_path / "wrong").exists()


def test_statistics_of_an_fp16_graph_are_fp32(lively_run: Path, tmp_path: Path) -> None:
    """Types are the graph's own in a strongly typed network, so they are checked in the file."""
    from gazeseg_serve.contract import InputSpec
    from gazeseg_serve.export.fuse import FusedEnsemble
    from gazeseg_serve.export.onnx_graph import write_onnx
    from gazeseg_serve.training.networks.architecture import Architecture
    from gazeseg_serve.training.networks.ensemble import Ensemble

    ensemble, model = Ensemble(Architecture(4, "group"), InputSpec(32), (0, 1)).eval(), tmp_path / "model.onnx"
    write_onnx(FusedEnsemble(ensemble), ensemble.spec, True, model)
    assert refusals(model.read_bytes()) == []
    to_fp16(model)
    assert refusals(model.read_bytes()) == []
    graph = onnx.shape_inference.infer_shapes(onnx.load(model)).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}

    def types_of(*operators: str) -> set[int]:
        return {kinds[name] for node in graph.node if node.op_type in operators for name in [node.input[0], node.output[0]]}

    assert types_of("InstanceNormalization", "Sigmoid", "Sqrt") == {onnx.TensorProto.FLOAT}
    assert types_of("Conv", "ConvTranspose") == {onnx.TensorProto.FLOAT16}


def test_int8_and_bf16_are_refused_before_any_work(
    gpu: Gpu, lively_run: Path, lively_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    for precision in ("int8", "bf16"):
        with pytest.raises(ConfigError, match="a TensorRT plan is of fp32 or fp16"):
            export_run(lively_run, tmp_path / "a", phantoms, ExportSettings(precision=precision, format="tensorrt"))
    with pytest.raises(ConfigError, match="known: onnx, tensorrt"):
        export_run(lively_run, tmp_path / "a", phantoms, ExportSettings(format="caffe"))
    artifact = dataclasses.replace(Artifact.load(lively_artifact), precision="int8")
    with pytest.raises(EngineError, match="not int8"):
        open_engine(lively_artifact, artifact, "tensorrt")
    model = tmp_path / "model.onnx"
    model.write_bytes((lively_artifact / "model.onnx").read_bytes())
    to_int8(model, BATCH[:2])
    with pytest.raises(EngineError, match=r"cannot read .* zero points are not supported"):
        build_plan(model, "fp32", this_machine())


def test_a_machine_without_a_gpu_is_told_so(
    gpu: Gpu, lively_run: Path, lively_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    plan = build_plan(lively_artifact / "model.onnx", "fp32", this_machine())
    gpu.count = 0
    for attempt in (
        lambda: open_engine(lively_artifact, Artifact.load(lively_artifact), "tensorrt"),
        lambda: TensorRtEngine(plan, "uint8"),
        lambda: export_run(lively_run, tmp_path / "a", phantoms, ExportSettings(format="tensorrt")),
    ):
        with pytest.raises(EngineError, match="driver version is insufficient; look at nvidia-smi, or use --device cpu"):
            attempt()
    with pytest.raises(EngineError, match="TensorRT cannot start: CUDA initialization failure"):
        build_plan(lively_artifact / "model.onnx", "fp32", Machine("?", "?", "?"))
    assert not (tmp_path / "a").exists()


def test_a_machine_without_the_packages_is_told_what_to_install(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_run: Path, phantoms: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"gazeseg-serve\[tensorrt\]"):
        open_engine(tiny_artifact, Artifact.load(tiny_artifact), "tensorrt")
    arguments = ["export", str(tiny_run), "--out", str(tmp_path / "a"), "--data", str(phantoms), "--format", "tensorrt"]
    shown = CliRunner().invoke(app, arguments)
    assert isinstance(shown.exception, MissingExtraError)
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.delitem(__import__("sys").modules, "tensorrt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"libnvinfer.so.10.*install it whole"):
        open_engine(tiny_artifact, Artifact.load(tiny_artifact), "tensorrt")


@pytest.mark.gpu
def test_on_a_real_gpu_a_plan_answers_as_its_graph(tiny_artifact: Path) -> None:
    pytest.importorskip("tensorrt")
    plan_of(tiny_artifact, Artifact.load(tiny_artifact))  # raises where it does not
