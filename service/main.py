"""What BentoML's workers import: the service for the settings in the environment.

Run it with `gazeseg-serve serve ARTIFACT`, or with GAZESEG_ARTIFACT set: `bentoml serve gazeseg_serve.service.main:service`.
"""

from __future__ import annotations

import os

from .settings import load_settings

settings = load_settings()
if settings.workers == 1:
    # BentoML asks for metrics in shared files, which is read at the first import of Prometheus' client; a process that
    # is the only one counts faster in its own memory.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

from .app import build  # noqa: E402
from .telemetry import configure_logging  # noqa: E402

configure_logging(settings.log_format)
service = build(settings)
