"""A Triton model repository from an artifact: `NAME/config.pbtxt` and `NAME/1/model.onnx`.

Field names and meanings are those of Triton's `model_config.proto` (message ModelConfig, version 2 API).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from gazeseg_serve.contract import MODEL_FILE, Artifact, Tensor
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.files import write_text
from gazeseg_serve.folders import Kind, refuse_overlap, staged_folder

CONFIG_FILE = "config.pbtxt"
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
_VERSION = "1"
_CPU_INSTANCES = 2  # one computes while the other's answer is handed out
_QUEUE_DELAY = 2000  # microseconds a request may wait for others


def write_triton(artifact_folder: Path, out: Path, name: str = "gazeseg", max_batch: int = 8, cpus: int = 0) -> Path:
    """Write the model `name` into the repository folder `out`, beside the models it holds; returns the model's folder.

    cpus: that Triton may use to compute, 0: an instance a GPU. Without the number ONNX Runtime would start as many threads
    as the machine has cores, whatever the container may use. The model appears whole or not at all. Raises ContractError for an
    artifact that changed or a model of that name that was not made here, ConfigError for a name or batch that Triton
    refuses, or an `out` that overlaps the artifact.
    """
    if not name.replace("_", "").replace("-", "").isalnum() or max_batch < 1 or cpus < 0:
        raise ConfigError(
            "a Triton model needs a name of letters, digits, _ and -, a batch from 1 up and CPUs from 0 up, "
            f"not {name!r}, {max_batch} and {cpus}"
        )
    refuse_overlap(out, artifact_folder)
    artifact = Artifact.load(artifact_folder)
    with staged_folder(out / name, TRITON_MODEL) as folder:
        version = folder / _VERSION
        version.mkdir()
        shutil.copy(artifact_folder / artifact.model, version / MODEL_FILE)
        write_text(folder / CONFIG_FILE, triton_config(artifact, name, max_batch, cpus))
    return out / name


def _made(folder: Path) -> set[str] | None:
    """The files of a model that `write_triton` made; its configuration names the artifact."""
    try:
        text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return (
        {CONFIG_FILE, f"{_VERSION}/{MODEL_FILE}"}
        if re.search(r'key: "artifact_id" value \{ string_value: "\w{64}"', text)
        else None
    )


TRITON_MODEL = Kind("a Triton model made from an artifact", _made)


def triton_config(artifact: Artifact, name: str, max_batch: int, cpus: int) -> str:
    """The text of config.pbtxt: the declared tensors without their batch axis, batching, instances and a warm-up."""
    (image,) = artifact.inputs
    batches = ", ".join(str(size) for size in (2, 4, 8, 16, 32, 64) if size < max_batch)
    preferred = f"preferred_batch_size: [ {batches}, {max_batch} ]" if batches else f"preferred_batch_size: [ {max_batch} ]"
    count = min(cpus, _CPU_INSTANCES)
    instances = f"count: {count} kind: KIND_CPU" if cpus else "count: 1 kind: KIND_GPU"
    # Names of the onnxruntime backend's README; a thread of its own for each of two instances beats two for one.
    threads = {"intra_op_thread_count": max(1, cpus // count), "inter_op_thread_count": 1} if cpus else {}
    told = "".join(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in threads.items())
    zeros = f'{{ key: "{image.name}" value {{ data_type: {_TYPES[image.dtype]} {_dims(image)} zero_data: true }} }}'
    warm_ups = "\n".join(
        f'model_warmup {{ name: "batch of {size}" batch_size: {size} inputs {zeros} }}'
        for size in dict.fromkeys((1, max_batch))
    )
    outputs = "\n".join(f"output {_tensor(tensor)}" for tensor in artifact.outputs)
    return f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: {max_batch}
input {_tensor(image)}
{outputs}
dynamic_batching {{ {preferred} max_queue_delay_microseconds: {_QUEUE_DELAY} }}
instance_group {{ {instances} }}
{warm_ups}
{told}parameters {{ key: "artifact_id" value {{ string_value: "{artifact.id}" }} }}
parameters {{ key: "classes" value {{ string_value: "{", ".join(artifact.input.classes)}" }} }}
parameters {{ key: "threshold" value {{ string_value: "{artifact.threshold:g}" }} }}
"""


def _tensor(tensor: Tensor) -> str:
    return f'{{ name: "{tensor.name}" data_type: {_TYPES[tensor.dtype]} {_dims(tensor)} }}'


def _dims(tensor: Tensor) -> str:
    return f"dims: [ {', '.join(str(size) for size in tensor.axes[1:])} ]"
