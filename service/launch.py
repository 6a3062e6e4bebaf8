"""Start the service from the command line: check first, then hand over to BentoML's supervisor."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from gazeseg_serve.contract import Artifact
from gazeseg_serve.engines.open import DEVICES
from gazeseg_serve.errors import ConfigError

from .limits import Keys
from .settings import Settings


def serve(options: Mapping[str, object], host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. `options` override the environment's settings by name; None leaves them.

    Raises ConfigError (a setting, the address), ContractError (an artifact).
    """
    settings = check(options)
    _check_address(host, port)
    with tempfile.TemporaryDirectory(prefix="gazeseg-serve-") as home:
        # Read by BentoML when it is imported, and by the worker processes.
        os.environ.setdefault("BENTOML_HOME", home)
        os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
        for name, value in _environment(settings, options).items():
            os.environ[name] = value
        from .app import serve_forever
        from .main import service

        serve_forever(service, settings.log_format, host, port, Path(home))


def check(options: Mapping[str, object]) -> Settings:
    """The settings with `options`, after a look at everything they name. Raises ConfigError or ContractError."""
    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not settings.folders():
        raise ConfigError("no artifact to serve; name its folder: gazeseg-serve serve ARTIFACT")
    if settings.device not in DEVICES:
        raise ConfigError(f"unknown device {settings.device!r}; known: {', '.join(DEVICES)}")
    for folder in settings.folders().values():
        Artifact.load(folder)
    Keys.load(settings)
    return settings


def _environment(settings: Settings, options: Mapping[str, object]) -> dict[str, str]:
    """What the worker processes must find: the options, and every path made absolute, for they run elsewhere."""

    def text(value: object) -> str:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    given = {name: text(value) for name, value in options.items() if value is not None}
    if settings.artifact is not None:
        given["artifact"] = str(settings.artifact.absolute())
    if settings.models:
        given["models"] = ",".join(f"{name}={folder.absolute()}" for name, folder in settings.models.items())
    if settings.api_keys_file is not None:
        given["api_keys_file"] = str(settings.api_keys_file.absolute())
    return {f"GAZESEG_{name.upper()}": value for name, value in given.items()}


def _check_address(host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise ConfigError(f"there is no port {port}; choose a --port from 1 to 65535")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another --port or --host") from error
