"""An artifact with another clinical description: the same graph and figures, what it is for and its codes anew."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from .clinical import Clinical
from .contract import ARTIFACT_FOLDER, Artifact
from .folders import refuse_overlap, staged_folder


def described(artifact: Artifact, clinical: Clinical) -> Artifact:
    """`artifact` with the intended use and codes of `clinical`. Raises ContractError for a class that it has not."""
    return dataclasses.replace(artifact, intended_use=clinical.intended_use, codes=clinical.codes_of(artifact.input.classes))


def describe_artifact(folder: Path, clinical: Clinical, out: Path) -> Artifact:
    """Write the artifact `folder` to `out` as `described`. Raises ContractError or ConfigError."""
    artifact = described(Artifact.load(folder), clinical)
    refuse_overlap(out, folder)
    with staged_folder(out, ARTIFACT_FOLDER) as staged:
        for name in artifact.files:
            shutil.copyfile(folder / name, staged / name)
        artifact.save(staged)
        Artifact.load(staged)
    return artifact
