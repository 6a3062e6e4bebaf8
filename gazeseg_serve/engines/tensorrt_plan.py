"""A TensorRT plan of an artifact's graph: built for the GPU and TensorRT at hand, kept, and built again where they changed.

It stands in the core because a server builds, too: a plan runs only on the kind of GPU and the version it was made with.
Networks are strongly typed: every tensor has the type that the ONNX graph gives it, so a graph whose statistics are
fp32 between fp16 convolutions runs just so. TF32 is off: fp32 means fp32.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..contract import PLAN_PRECISIONS, Artifact, InputSpec, Machine
from ..errors import EngineError
from ..files import write_bytes
from ..progress import log
from .base import Engine
from .tensorrt import Cuda, TensorRtEngine, construct, load_tensorrt, make_logger

MAX_BATCH = 16  # of the optimisation profile; larger batches are cut into several
# How far a plan's probabilities may be from those of ONNX Runtime, which runs the same file on the CPU.
_TOLERANCE = {"fp32": 1e-3, "fp16": 0.1}


def this_machine() -> Machine:
    """The first GPU and the TensorRT at hand. Raises MissingExtraError or EngineError."""
    tensorrt = load_tensorrt()
    name, capability = Cuda().device()
    return Machine(name, capability, tensorrt.__version__)


def plan_of(folder: Path, artifact: Artifact) -> bytes:
    """The plan of the artifact in `folder` for this machine: its own, one kept from an earlier start, or a new one.

    A new one takes minutes; it must answer as ONNX Runtime does before it is kept. Raises MissingExtraError, EngineError.
    """
    here = this_machine()
    if artifact.plan is not None and artifact.plan.machine == here:
        return (folder / artifact.plan.file).read_bytes()
    kept = cache_folder() / f"{artifact.id[:16]}-{_slug(here)}.plan"
    if kept.is_file():
        return kept.read_bytes()
    made_for = "no machine yet" if artifact.plan is None else _words(artifact.plan.machine)
    log.warning("the plan of %s was made for %s, this is %s: building one, which takes minutes", folder, made_for, _words(here))
    model = folder / artifact.model
    plan = build_plan(model, artifact.precision, here)
    check_plan(plan, model, artifact.input, artifact.precision)
    _keep(kept, plan)
    return plan


def build_plan(model: Path, precision: str, here: Machine, max_batch: int = MAX_BATCH) -> bytes:
    """Build a plan of the ONNX file `model`, of any batch from 1 to `max_batch`. Raises MissingExtraError, EngineError.

    Timings of kernels are kept between builds, for each GPU and version of TensorRT.
    """
    if precision not in PLAN_PRECISIONS:
        raise EngineError(
            f"TensorRT runs graphs of {' and '.join(PLAN_PRECISIONS)} here, not {precision}: its int8 has no zero "
            "points, and bf16 is proven for OpenVINO alone; export with --precision fp16"
        )
    trt = load_tensorrt()
    logger = make_logger(trt)
    builder = construct(trt.Builder, logger, logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.read_bytes()):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(f"TensorRT cannot read {model}: {reasons}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.add_optimization_profile(_profile(builder, network, max_batch))
    timings = cache_folder() / f"{_slug(here)}.timings"
    known = timings.read_bytes() if timings.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT could not build a plan of {model}: {'; '.join(logger.errors) or 'it gave no reason'}")
    _keep(timings, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def check_plan(plan: bytes, model: Path, spec: InputSpec, precision: str) -> None:
    """Hold the plan to ONNX Runtime's answers for the same file, at three batch sizes. Raises EngineError."""
    from .onnxruntime import OnnxRuntimeEngine

    engines: tuple[Engine, Engine] = (TensorRtEngine(plan, spec.dtype), OnnxRuntimeEngine(model, "cpu"))
    # Coarse noise, enlarged: pixels that agree with their neighbours, as those of images do.
    coarse = np.random.default_rng(0).integers(0, 256, (MAX_BATCH + 1, spec.size // 8, spec.size // 8, spec.channels))
    images = np.kron(coarse, np.ones((1, 8, 8, 1))).astype(spec.dtype)
    for size in (1, 3, len(images)):
        found, wanted = (engine.run(images[:size]) for engine in engines)
        worst = float(np.abs(found.probability - wanted.probability).max())
        if found.disagreement is not None and wanted.disagreement is not None:
            worst = max(worst, float(np.abs(found.disagreement - wanted.disagreement).max()))
        if not worst <= _TOLERANCE[precision]:
            raise EngineError(
                f"the new plan differs from the graph by {worst:.3g} (limit {_TOLERANCE[precision]:g}) at batch "
                f"{size}; it is not used. Use --device cuda, or another version of TensorRT"
            )


def cache_folder() -> Path:
    """Where plans and timings are kept: `$GAZESEG_PLAN_CACHE`, else gazeseg-serve in the user's cache folder."""
    own = os.environ.get("GAZESEG_PLAN_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gazeseg-serve"


def _profile(builder: Any, network: Any, max_batch: int) -> Any:
    """The batch axis from 1 to `max_batch`, tuned for half of it: full batches are seldom."""
    image = network.get_input(0)
    rest = tuple(image.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(image.name, (1, *rest), (max(1, max_batch // 2), *rest), (max_batch, *rest))
    return profile


def _keep(path: Path, data: bytes) -> None:
    """Keep `data`; a folder that cannot be written costs the next start its time, not this one its answer."""
    try:
        write_bytes(path, data)
    except OSError as error:
        log.warning("%s could not be kept (%s); name a folder in GAZESEG_PLAN_CACHE", path, error.strerror)


def _slug(machine: Machine) -> str:
    return re.sub(r"[^\w.]+", "-", f"{machine.gpu}-{machine.capability}-trt{machine.tensorrt}")


def _words(machine: Machine) -> str:
    return f"{machine.gpu} with TensorRT {machine.tensorrt}"
