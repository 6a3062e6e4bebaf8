"""Native TensorRT: a plan on the first GPU, memory through CUDA's own Python bindings; no torch."""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import EngineError, require
from ..progress import log
from .base import Outputs


def load_tensorrt() -> ModuleType:
    """The package `tensorrt`. MissingExtraError where it is absent, EngineError where its libraries are."""
    try:
        return require("tensorrt", "tensorrt")
    except ImportError as error:  # not MissingExtraError: the package is there, a shared library is not
        raise EngineError(
            f"tensorrt is installed but cannot be loaded ({error}); install it whole: "
            "pip install --force-reinstall 'gazeseg-serve[tensorrt]'"
        ) from error


def make_logger(trt: ModuleType) -> Any:
    """TensorRT's messages go to this project's log; `errors` keeps those that explain a failure."""

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)
            level = {trt.ILogger.Severity.VERBOSE: 5, trt.ILogger.Severity.INFO: 10}.get(severity, 20)
            log.log(level, "TensorRT: %s", message)

    return Logger()


def construct(kind: Any, logger: Any, *arguments: Any) -> Any:
    """An object of TensorRT; its constructors give a TypeError where CUDA does not start."""
    try:
        return kind(*arguments)
    except TypeError as error:
        raise EngineError(
            f"TensorRT cannot start: {'; '.join(logger.errors) or error}; look at nvidia-smi, or use --device cpu"
        ) from error


class Cuda:
    """The few calls of CUDA's runtime that an engine needs; each raises EngineError with CUDA's own words."""

    def __init__(self) -> None:
        self._runtime = require("cuda.bindings.runtime", "tensorrt")
        if self.call("cudaGetDeviceCount") < 1:
            raise EngineError("CUDA finds no GPU; use --device cpu")

    def call(self, name: str, *arguments: Any) -> Any:
        """Call `name`; returns what it gives beside its status."""
        status, *values = getattr(self._runtime, name)(*arguments)
        if int(status):
            said = self._runtime.cudaGetErrorString(status)[1]
            raise EngineError(
                f"CUDA refuses {name}: {said.decode() if isinstance(said, bytes) else said}; "
                "look at nvidia-smi, or use --device cpu"
            )
        return values[0] if values else None

    def device(self) -> tuple[str, str]:
        """(name, compute capability as "9.0") of the first GPU."""
        facts = self.call("cudaGetDeviceProperties", 0)
        name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
        return name.rstrip("\0"), f"{facts.major}.{facts.minor}"

    def to_device(self, address: int, array: np.ndarray, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def to_host(self, array: np.ndarray, address: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)


class TensorRtEngine:
    """Runs `plan`, a serialised engine of a graph with the contract's inputs and outputs. Batches over the plan's largest
    are cut. dtype: of the images, as the InputSpec says.

    Raises MissingExtraError, and EngineError where there is no GPU or the plan is not of this machine.
    """

    name = "tensorrt"
    threads = 1  # it computes on the GPU

    def __init__(self, plan: bytes, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._cuda = Cuda()
        trt = load_tensorrt()
        self._logger = make_logger(trt)  # TensorRT keeps no reference of its own
        self._runtime = construct(trt.Runtime, self._logger, self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"TensorRT cannot load the plan: {'; '.join(self._logger.errors) or 'it gave no reason'}; "
                "export it again on this machine"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError("TensorRT has no memory for the plan; stop other work on the GPU")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self._outputs = [n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
        largest = tuple(self._engine.get_tensor_profile_shape("image", 0)[2])
        self._largest = int(largest[0])
        self._stream = self._cuda.call("cudaStreamCreate")
        self._memory: dict[str, int] = {}
        self._close = weakref.finalize(self, _release, self._cuda, self._memory, self._stream)
        for name in names:
            shape = largest if name == "image" else (self._largest, *tuple(self._engine.get_tensor_shape(name))[1:])
            size = int(np.prod(shape)) * (self._dtype.itemsize if name == "image" else 4)
            self._memory[name] = int(self._cuda.call("cudaMalloc", size))
            self._context.set_tensor_address(name, self._memory[name])

    def run(self, batch: np.ndarray) -> Outputs:
        batch = np.ascontiguousarray(batch, self._dtype)
        parts = [self._part(batch[i : i + self._largest]) for i in range(0, len(batch), self._largest)]
        values = {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}
        return Outputs(values["probability"], values.get("disagreement"))

    def _part(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """At most as many images as the plan takes at once."""
        if not self._context.set_input_shape("image", tuple(images.shape)):
            raise EngineError(f"the plan does not take images of shape {images.shape}")
        self._cuda.to_device(self._memory["image"], images, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(f"TensorRT failed: {'; '.join(self._logger.errors[-3:]) or 'it gave no reason'}")
        found = {name: np.empty(tuple(self._context.get_tensor_shape(name)), np.float32) for name in self._outputs}
        for name, array in found.items():
            self._cuda.to_host(array, self._memory[name], self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return found


def _release(cuda: Cuda, memory: dict[str, int], stream: Any) -> None:
    for address in memory.values():
        cuda.call("cudaFree", address)
    cuda.call("cudaStreamDestroy", stream)
