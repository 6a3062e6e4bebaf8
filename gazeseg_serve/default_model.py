"""The model that comes with the package: what `predict`, `serve` and `bench` use when no artifact is named."""

from __future__ import annotations

from pathlib import Path

from .errors import ContractError

DEFAULT_MODEL = Path(__file__).parent / "models" / "default"


def default_artifact() -> Path:
    """Its artifact folder: polyps in colonoscopy images, research use only. ContractError where the package lacks it."""
    if not (DEFAULT_MODEL / "manifest.json").is_file():
        raise ContractError(f"this installation holds no default model at {DEFAULT_MODEL}; name an artifact folder")
    return DEFAULT_MODEL
