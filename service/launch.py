"""Start the service from the command line: check first, then hand over to BentoML's supervisor."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gazeseg_serve.contract import Artifact
from gazeseg_serve.engines.open import DEVICES
from gazeseg_serve.errors import ConfigError

from .keys import Keys
from .settings import WHOLE, Settings, load_settings
from .watchdog import FAILURE


def serve(options: Mapping[str, object], host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. `options` override the environment's settings by name; None leaves them.

    Raises ConfigError (a setting, the address, a model that cannot be loaded), ContractError (an artifact).
    """
    settings = check(options)
    address = _check_address(host, port)
    with tempfile.TemporaryDirectory(prefix="gazeseg-serve-") as home:
        failure = Path(home) / "failure"
        # Read by BentoML when it is imported, and by the worker processes.
        os.environ.setdefault("BENTOML_HOME", home)
        os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
        os.environ[WHOLE] = settings.to_json()
        os.environ[FAILURE] = str(failure)
        try:
            from .app import serve_forever
            from .main import service

            serve_forever(service, settings.log_format, address, port, Path(home))
        finally:
            del os.environ[WHOLE], os.environ[FAILURE]
        if failure.exists():
            raise ConfigError(f"the service cannot start: {failure.read_text()}")


def check(options: Mapping[str, object]) -> Settings:
    """The settings with `options`, after a look at everything they name. Raises ConfigError or ContractError."""
    settings = load_settings(options)
    if not settings.folders():
        raise ConfigError("no artifact to serve; name its folder: gazeseg-serve serve ARTIFACT")
    if settings.device not in DEVICES:
        raise ConfigError(f"unknown device {settings.device!r}; known: {', '.join(DEVICES)}")
    for folder in settings.folders().values():
        Artifact.load(folder)
    Keys.load(settings)
    return settings


def _check_address(host: str, port: int) -> str:
    """The numeric address behind `host`, which BentoML wants, after a try to listen there. Raises ConfigError."""
    if not 1 <= port <= 65535:
        raise ConfigError(f"there is no port {port}; choose a --port from 1 to 65535")
    try:
        # A name may have addresses of both kinds; the older kind is what most clients try.
        found = sorted(socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM), key=lambda entry: entry[0])
        family, _, _, _, address = found[0]
        with socket.create_server(address, family=family):
            return str(address[0])
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another --port or --host") from error
