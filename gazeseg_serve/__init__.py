"""Gaze in, served segmentation models out. What is listed here is the public interface; each name loads when it is used.

| name | what it is for |
|---|---|
| `Predictor`, `Prediction` | run an artifact on images, without a service |
| `read_image`, `decode_image` | PNG, JPEG, TIFF or DICOM to pixels |
| `Client`, `AsyncClient` | ask a service |
| `Dataset`, `Run`, `Artifact`, `InputSpec` | the folders on disk |
| `make_masks`, `MaskSettings` | gaze to pseudo-masks |
| `train`, `load_config`, `TrainConfig` | pseudo-masks to a run |
| `evaluate` | a run or an artifact against true masks |
| `export_run`, `ExportSettings`, `Student`, `load_student` | a run to one proven graph |
| `GazesegError` and the classes below it | everything that is raised on purpose |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import AsyncClient as AsyncClient
    from .client import Client as Client
    from .contract import Artifact as Artifact
    from .contract import InputSpec as InputSpec
    from .contract import Run as Run
    from .dataset import Dataset as Dataset
    from .errors import GazesegError as GazesegError
    from .export.pipeline import export_run as export_run
    from .export.settings import ExportSettings as ExportSettings
    from .imaging import decode_image as decode_image
    from .imaging import read_image as read_image
    from .predictor import Prediction as Prediction
    from .predictor import Predictor as Predictor
    from .training.learning.config import TrainConfig as TrainConfig
    from .training.learning.config import load_config as load_config
    from .training.learning.loop import train as train
    from .training.learning.student import Student as Student
    from .training.learning.student import load_student as load_student
    from .training.masks.make import make_masks as make_masks
    from .training.masks.settings import MaskSettings as MaskSettings
    from .training.scoring.evaluate import evaluate as evaluate

__version__ = "0.1.0"

_HOMES = {
    "client": ("AsyncClient", "Client"),
    "contract": ("Artifact", "InputSpec", "Run"),
    "dataset": ("Dataset",),
    "errors": ("GazesegError",),
    "export.pipeline": ("export_run",),
    "export.settings": ("ExportSettings",),
    "imaging": ("decode_image", "read_image"),
    "predictor": ("Prediction", "Predictor"),
    "training.learning.config": ("TrainConfig", "load_config"),
    "training.learning.loop": ("train",),
    "training.learning.student": ("Student", "load_student"),
    "training.masks.make": ("make_masks",),
    "training.masks.settings": ("MaskSettings",),
    "training.scoring.evaluate": ("evaluate",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)  # pinned by tests/test_public_api.py


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
