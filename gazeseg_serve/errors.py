"""Everything this project raises on purpose.

GazesegError                   exit status 1; the text says what is wrong and how to mend it
├── DatasetError               a dataset folder, table or split that cannot be used
├── ConfigError                a configuration value that cannot be used
├── ImageError                 an image that cannot be read
│   ├── MalformedImage         truncated, corrupt or empty
│   ├── UnsupportedImage       a format or pixel layout that is not accepted
│   ├── OutsideIntendedUse     DICOM of a kind that the model is not for
│   └── ImageTooLarge          over the limit in bytes or pixels, found before decoding
├── ContractError              a run or artifact folder with an unknown schema or a wrong hash
├── GateError                  an exported graph that is not as good as what it replaces
├── EngineError                an engine that cannot be started on this machine
├── TrainingError              training that cannot go on (a non-finite loss, say)
└── MissingExtraError          a package that an optional extra would have installed
"""

from __future__ import annotations

import importlib
from types import ModuleType


class GazesegError(Exception):
    """Base of all errors raised on purpose; its text is one plain line that says the fix."""


class DatasetError(GazesegError):
    pass


class ConfigError(GazesegError):
    pass


class ImageError(GazesegError):
    pass


class MalformedImage(ImageError):
    pass


class UnsupportedImage(ImageError):
    pass


class OutsideIntendedUse(ImageError):
    pass


class ImageTooLarge(ImageError):
    pass


class ContractError(GazesegError):
    pass


class GateError(GazesegError):
    pass


class EngineError(GazesegError):
    pass


class TrainingError(GazesegError):
    pass


class MissingExtraError(GazesegError):
    pass


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtraError naming the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise MissingExtraError(f"{top} is not installed; install it with: pip install 'gazeseg-serve[{extra}]'") from error


_EXTRAS = {
    "train": (
        "torch",
        "monai",
        "kornia",
        "lightning_fabric",
        "matplotlib",
        "pydensecrf",
        "pymovements",
        "polars",
        "safetensors",
        "scipy",
        "skimage",
        "tensorboard",
    ),
    "gaze": ("openpyxl", "pyxdf"),
    "export": ("onnx", "onnxscript"),
    "serve": ("bentoml", "_bentoml_impl", "fastapi", "starlette", "pycocotools", "pydantic_settings"),
    "cpu": ("onnxruntime",),
    "dicom": ("pydicom", "highdicom", "imagecodecs"),
    "node": ("pynetdicom", "dicomweb_client"),
    "client": ("httpx", "websockets"),
    "video": ("av",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "cuda"),
}


def named_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """What to tell a user whose installation lacks a module: the extra that has it; None for a module of no extra."""
    top = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in _EXTRAS.items() if top in modules), None)
    if extra is None:
        return None
    return MissingExtraError(f"{top} is not installed; install it with: pip install 'gazeseg-serve[{extra}]'")
