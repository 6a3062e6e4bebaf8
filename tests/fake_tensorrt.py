"""TensorRT and CUDA's bindings as far as this project calls them, on the CPU: plans run in ONNX Runtime.

`tensorrt_api.json` holds the signatures that the real packages state (tensorrt 10.13 and 11.4, cuda-bindings 12.9), taken
from them with `python tests/record_tensorrt_api.py`; a call that they would not take fails here too. What TensorRT refuses
is refused: a byte tensor that is not cast first, int8 with zero points, an input outside the profile, memory that was
never allocated. Nothing is said of speed, nor of what a GPU computes.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import types
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

API = json.loads((Path(__file__).parent / "tensorrt_api.json").read_text())
VERSIONS = tuple(API)


class Gpu:
    """What the fake machine has: GPUs, and memory by address. `builds` counts plans, `timings` the caches handed in."""

    def __init__(self, name: str = "Fake H100", count: int = 1) -> None:
        self.name, self.count, self.capability = name, count, (9, 0)
        self.memory: dict[int, np.ndarray] = {}
        self.builds, self.streams = 0, 0
        self.timings: list[bytes] = []
        self.change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda values: values


def install(monkeypatch: pytest.MonkeyPatch, gpu: Gpu, version: str = VERSIONS[0]) -> None:
    """Put both fakes where the imports look."""
    cuda, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
    runtime = make_cuda(gpu, API[version]["cuda"])
    for name, module in (
        ("tensorrt", make_tensorrt(gpu, version)),
        ("cuda", cuda),
        ("cuda.bindings", bindings),
        ("cuda.bindings.runtime", runtime),
    ):
        monkeypatch.setitem(__import__("sys").modules, name, module)


def checked(name: str, overloads: list[list[str]], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(self, ...)` that takes only what one of the recorded overloads takes."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signatures = [
        inspect.Signature(
            [inspect.Parameter(p.rstrip("="), kind, default=None if p.endswith("=") else inspect._empty) for p in parameters]
        )
        for parameters in overloads
    ]

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        for signature in signatures:
            try:
                bound = signature.bind(*arguments, **named)
            except TypeError:
                continue
            return function(self, *bound.args)
        raise TypeError(f"{name}(): incompatible function arguments {arguments} {named}")

    return call


def make_cuda(gpu: Gpu, recorded: dict[str, list[str]]) -> types.ModuleType:
    module = types.ModuleType("cuda.bindings.runtime")

    class cudaMemcpyKind(IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    def count() -> tuple[Any, ...]:
        return (0, gpu.count) if gpu.count else (35, None)

    def properties(device: int) -> tuple[Any, ...]:
        return 0, types.SimpleNamespace(name=gpu.name.encode() + b"\0" * 8, major=gpu.capability[0], minor=gpu.capability[1])

    def malloc(size: int) -> tuple[Any, ...]:
        memory = np.zeros(size, np.uint8)
        gpu.memory[memory.ctypes.data] = memory
        return 0, memory.ctypes.data

    def copy(dst: int, src: int, size: int, kind: int, stream: int) -> tuple[Any, ...]:
        device = dst if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else src
        assert device in gpu.memory, "an address that cudaMalloc gave"
        if size > gpu.memory[device].nbytes:
            return (1,)
        ctypes.memmove(dst, src, size)
        return (0,)

    def stream() -> tuple[Any, ...]:
        gpu.streams += 1
        return 0, 77

    def destroy(stream: int) -> tuple[Any, ...]:
        gpu.streams -= 1
        return (0,)

    calls: dict[str, Callable[..., tuple[Any, ...]]] = {
        "cudaGetDeviceCount": count,
        "cudaGetDeviceProperties": properties,
        "cudaMalloc": malloc,
        "cudaMemcpyAsync": copy,
        "cudaFree": lambda address: (0, gpu.memory.pop(address))[:1],
        "cudaStreamCreate": stream,
        "cudaStreamDestroy": destroy,
        "cudaStreamSynchronize": lambda stream: (0,),
        "cudaGetErrorString": lambda status: (0, b"CUDA driver version is insufficient" if status == 35 else b"invalid"),
    }
    assert set(calls) == set(recorded)
    for name, function in calls.items():
        call = checked(name, [recorded[name]], lambda self, *a, f=function: f(*a))
        setattr(module, name, lambda *a, c=call: c(None, *a))
    module.cudaMemcpyKind = cudaMemcpyKind  # type: ignore[attr-defined]
    return module


def make_tensorrt(gpu: Gpu, version: str) -> types.ModuleType:
    methods, module = API[version]["methods"], types.ModuleType("tensorrt")

    def holds(cls: type) -> type:
        """Every method of `cls` is one of the real class, and takes what that one takes."""
        for name, function in list(vars(cls).items()):
            if inspect.isfunction(function) and (not name.startswith("_") or name == "__init__"):
                setattr(cls, name, checked(f"{cls.__name__}.{name}", methods[f"{cls.__name__}.{name}"], function))
        setattr(module, cls.__name__, cls)
        return cls

    class Severity(IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    @holds
    class ILogger:
        pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class BuilderFlag(IntEnum):
        TF32 = 8

    class NetworkDefinitionCreationFlag(IntEnum):
        STRONGLY_TYPED = 1

    class TensorIOMode(IntEnum):
        NONE, INPUT, OUTPUT = range(3)

    @holds
    class IOptimizationProfile:
        def set_shape(self, name: str, smallest: tuple[int, ...], best: tuple[int, ...], largest: tuple[int, ...]) -> None:
            assert all(a <= b <= c for a, b, c in zip(smallest, best, largest, strict=True))
            self.shapes = {name: [smallest, best, largest]}

    @holds
    class ITimingCache:
        data = b""

        def serialize(self) -> bytes:
            return self.data

    @holds
    class IBuilderConfig:
        tf32, profile, cache = True, None, None

        def clear_flag(self, flag: BuilderFlag) -> None:
            assert flag is BuilderFlag.TF32
            self.tf32 = False

        def create_timing_cache(self, data: bytes) -> ITimingCache:
            cache = ITimingCache()
            cache.data = data
            return cache

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            gpu.timings.append(cache.data)
            self.cache = cache
            return not cache.data or cache.data.endswith(gpu.name.encode())

        def get_timing_cache(self) -> ITimingCache:
            self.cache.data = b"timings of " + gpu.name.encode()  # type: ignore[attr-defined]
            return self.cache  # type: ignore[return-value]

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self.profile = profile
            return 0

    @holds
    class INetworkDefinition:
        model = b""

        def get_input(self, index: int) -> Any:
            value = onnx.load_from_string(self.model).graph.input[index]
            shape = tuple(-1 if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim)
            return types.SimpleNamespace(name=value.name, shape=shape)

    @holds
    class ParserError:
        text = ""

        def desc(self) -> str:
            return self.text

    @holds
    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            self.network, self.errors = network, []

        def parse(self, model: bytes) -> bool:
            self.network.model = model
            self.errors = refusals(model)
            return not self.errors

        def get_error(self, index: int) -> ParserError:
            error = ParserError()
            error.text = self.errors[index]
            return error

        @property
        def num_errors(self) -> int:
            return len(self.errors)

    @holds
    class Builder:
        def __init__(self, logger: ILogger) -> None:
            if not gpu.count:
                logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags: int) -> INetworkDefinition:
            assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes:
            gpu.builds += 1
            facts = {"gpu": gpu.name, "version": version, "tf32": config.tf32, "shapes": config.profile.shapes}  # type: ignore[attr-defined]
            return json.dumps(facts).encode() + b"\n" + network.model

    @holds
    class IExecutionContext:
        def _start(self, engine: Any) -> None:
            self.engine, self.shape, self.addresses = engine, None, {}

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            smallest, _, largest = self.engine.facts["shapes"][name]
            self.shape = shape if all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True)) else None
            return self.shape is not None

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return address in gpu.memory

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (self.shape[0], *self.engine.get_tensor_shape(name)[1:])  # type: ignore[index]

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 77
            kind = np.dtype({"tensor(uint8)": "uint8", "tensor(float)": "float32"}[self.engine.session.get_inputs()[0].type])
            length = int(np.prod(self.shape)) * kind.itemsize  # type: ignore[arg-type]
            image = gpu.memory[self.addresses["image"]][:length].view(kind).reshape(self.shape)  # type: ignore[arg-type]
            names = [output.name for output in self.engine.session.get_outputs()]
            values = gpu.change(dict(zip(names, self.engine.session.run(names, {"image": image}), strict=True)))
            for name, value in values.items():
                raw = np.ascontiguousarray(value).view(np.uint8).ravel()
                gpu.memory[self.addresses[name]][: len(raw)] = raw
            return True

    @holds
    class ICudaEngine:
        def _start(self, facts: dict[str, Any], model: bytes) -> None:
            self.facts = facts
            self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]

        @property
        def num_io_tensors(self) -> int:
            return len(self.tensors)

        def get_tensor_name(self, index: int) -> str:
            return self.tensors[index].name

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode.INPUT if name == "image" else TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            shape = next(t.shape for t in self.tensors if t.name == name)
            return tuple(-1 if isinstance(size, str) else size for size in shape)

        def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
            return self.facts["shapes"][name]

        def create_execution_context(self) -> IExecutionContext:
            context = IExecutionContext()
            context._start(self)
            return context

    @holds
    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
            head, _, model = plan.partition(b"\n")
            facts = json.loads(head)
            if (facts["gpu"], facts["version"]) != (gpu.name, version):
                self.logger.log(Severity.ERROR, "The engine plan file is not compatible with this version of TensorRT")  # type: ignore[attr-defined]
                return None
            engine = ICudaEngine()
            engine._start(facts, model)
            return engine

    for kind in (BuilderFlag, NetworkDefinitionCreationFlag, TensorIOMode):
        for member in API[version]["enums"][kind.__name__]:
            assert member in kind.__members__
        setattr(module, kind.__name__, kind)
    module.__version__ = version  # type: ignore[attr-defined]
    return module


def refusals(model: bytes) -> list[str]:
    """What TensorRT says of a graph: bytes may enter and must be cast at once, int8 has no zero points."""
    graph = onnx.load_from_string(model).graph
    bytes_in = {value.name for value in graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    found = [
        f"{node.op_type}: UINT8 is only taken by Cast"
        for node in graph.node
        if bytes_in.intersection(node.input) and node.op_type != "Cast"
    ]
    return found + ["QuantizeLinear: zero points are not supported"] * any(n.op_type == "QuantizeLinear" for n in graph.node)
