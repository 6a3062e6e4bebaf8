"""What a worker process imports: the service for the environment's settings.

Run it with `gazeseg-serve serve ARTIFACT`, or with GAZESEG_ARTIFACT set: `bentoml serve gazeseg_serve.service.main:service`.
"""

from __future__ import annotations

from .app import build
from .settings import Settings
from .telemetry import configure_logging

settings = Settings()
configure_logging(settings.log_format)
service = build(settings)
