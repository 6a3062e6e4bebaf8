"""The model that comes with the package: what `predict`, `serve` and `bench` use when no artifact is named."""

from __future__ import annotations

from pathlib import Path

from . import cpus
from .errors import ContractError, MissingExtraError, require

DEFAULT_MODEL = Path(__file__).parent / "models" / "default"
INT8_MODEL = Path(__file__).parent / "models" / "int8"


def default_artifact(device: str = "auto") -> Path:
    """Its artifact folder: polyps in colonoscopy images, research use only. ContractError where the package lacks it.

    device: the one that it is for. ONNX Runtime on a CPU that multiplies bytes gets the model in int8, all else in fp32.
    """
    model = INT8_MODEL if device in ("auto", "cpu") and cpus.multiplies_bytes() and not _finds_gpu(device) else DEFAULT_MODEL
    if not (model / "manifest.json").is_file():
        raise ContractError(f"this installation holds no default model at {model}; name an artifact folder")
    return model


def _finds_gpu(device: str) -> bool:
    """Whether `auto` will try a GPU: onnxruntime-gpu offers one wherever it is installed."""
    if device != "auto":
        return False
    try:
        return "CUDAExecutionProvider" in require("onnxruntime", "cpu").get_available_providers()
    except MissingExtraError:
        return False
