"""Write `tensorrt_api.json`: the signatures that the real packages state of the calls this project makes.

    pip install tensorrt-cu12-bindings==10.13.3.9 cuda-bindings==12.9.4     # in an environment of its own
    python tests/record_tensorrt_api.py                                     # once for each version

The bindings load without a GPU and without TensorRT's gigabytes of libraries: empty libraries of the same names stand in.
Needs gcc. Run with the same Python as the wheels are for.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "tensorrt_api.json"
METHODS = {
    "ILogger": ["__init__"],
    "ITimingCache": ["serialize"],
    "ParserError": ["desc"],
    "INetworkDefinition": ["get_input"],
    "Builder": [
        "__init__",
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ],
    "OnnxParser": ["__init__", "parse", "get_error"],
    "IOptimizationProfile": ["set_shape"],
    "IBuilderConfig": ["clear_flag", "create_timing_cache", "set_timing_cache", "get_timing_cache", "add_optimization_profile"],
    "Runtime": ["__init__", "deserialize_cuda_engine"],
    "ICudaEngine": [
        "create_execution_context",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_profile_shape",
        "get_tensor_shape",
    ],
    "IExecutionContext": ["set_input_shape", "set_tensor_address", "execute_async_v3", "get_tensor_shape"],
}
PROPERTIES = {"OnnxParser": ["num_errors"], "ITensor": ["name", "shape"], "ICudaEngine": ["num_io_tensors"]}
ENUMS = {"BuilderFlag": ["TF32"], "NetworkDefinitionCreationFlag": ["STRONGLY_TYPED"], "TensorIOMode": ["INPUT", "OUTPUT"]}
CUDA = [
    "cudaGetDeviceCount",
    "cudaGetDeviceProperties",
    "cudaMalloc",
    "cudaFree",
    "cudaMemcpyAsync",
    "cudaStreamCreate",
    "cudaStreamDestroy",
    "cudaStreamSynchronize",
    "cudaGetErrorString",
]
ENTRIES = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
]


def with_empty_libraries() -> None:
    """Run this file again where the loader finds libraries that hold nothing."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.c"
        source.write_text("".join(f"void *{name}() {{ return 0; }}\n" for name in ENTRIES))
        for version in (10, 11):
            for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
                library = f"lib{name}.so.{version}"
                subprocess.run(
                    ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(Path(folder) / library), str(source)],
                    check=True,
                )
        subprocess.run(
            [sys.executable, "-W", "ignore", __file__],
            env={**os.environ, "LD_LIBRARY_PATH": folder, "EMPTY": folder},
            check=True,
        )


def parameters(text: str) -> list[str]:
    """ "self: A, model: buffer, path: str = None" -> ["model", "path="]; commas inside brackets do not part."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    named = [part.strip() for part in parts if part.strip() and not part.strip().startswith("self")]
    return [part.split(":")[0].strip() + ("=" if "=" in part else "") for part in named]


def overloads(name: str, doc: str) -> list[list[str]]:
    lines = [re.match(rf"\s*(?:\d+\. )?{re.escape(name)}\((.*)\)(?: -> .*)?$", line) for line in doc.splitlines()]
    return [parameters(found[1]) for found in lines if found and not found[1].startswith("*args")]


def record() -> dict[str, Any]:
    import tensorrt_bindings as trt
    from cuda.bindings import runtime

    for kinds in (PROPERTIES, ENUMS):
        for kind, members in kinds.items():
            for member in members:
                assert hasattr(getattr(trt, kind), member), (kind, member)
    methods = {
        f"{kind}.{name}": overloads(name, getattr(getattr(trt, kind), name).__doc__)
        for kind, names in METHODS.items()
        for name in names
    }
    calls = {name: re.match(rf"{name}\((.*?)\)$", runtime.__dict__[name].__doc__.strip().splitlines()[0]) for name in CUDA}
    cuda = {
        name: [re.split(r"[ :]", part)[0] if ":" in part else part.split()[-1] for part in found[1].split(", ") if part]
        for name, found in calls.items()
        if found
    }
    return {trt.__version__: {"methods": methods, "properties": PROPERTIES, "enums": ENUMS, "cuda": cuda}}


if __name__ == "__main__":
    if "EMPTY" not in os.environ:
        with_empty_libraries()
    else:
        known = json.loads(OUT.read_text()) if OUT.exists() else {}
        OUT.write_text(json.dumps(dict(sorted((known | record()).items())), indent=1) + "\n")
