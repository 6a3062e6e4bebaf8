"""What a Bento serves: the service of this package, imported from the sources beside it, which need not be installed.

`bentoml build` takes it from bentofile.yaml; docs/deploy.md says how to build and serve. Without GAZESEG_ARTIFACT it serves
the model of the package. The settings are the service's own, GAZESEG_*.
"""

from __future__ import annotations

import os
from pathlib import Path

import gazeseg_serve

# The folders of the stages stand beside the package, not in it; an installation maps them (pyproject.toml), this does here.
gazeseg_serve.__path__.append(str(Path(__file__).resolve().parents[1]))

from gazeseg_serve.default_model import default_artifact  # noqa: E402

os.environ.setdefault("GAZESEG_ARTIFACT", str(default_artifact(os.environ.get("GAZESEG_DEVICE", "auto"))))

from gazeseg_serve.service.main import service  # noqa: E402

__all__ = ["service"]
