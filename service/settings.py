"""The service's settings: environment variables that start with `GAZESEG_`, or the options of `gazeseg-serve serve`.

The command hands them to its worker processes whole, as one JSON object in GAZESEG_SETTINGS, so that no key and no path
is ever written as text with commas between and split again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gazeseg_serve import cpus
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.pixels import Limits

PREFIX = "GAZESEG_"
WHOLE = PREFIX + "SETTINGS"
# Read elsewhere: where TensorRT plans are kept, and what the tests and the container's scripts are told.
_NOT_SETTINGS = {PREFIX + name for name in ("SETTINGS", "PLAN_CACHE", "DATA", "IMAGE", "IMAGE_STORE", "SCREENSHOTS")}
# What Kubernetes and Docker set for a service that is called gazeseg, or gazeseg-something.
_SERVICE_LINKS = re.compile(r"GAZESEG_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Everything that can be set. `GAZESEG_MAX_QUEUE=16` sets `max_queue`, and so on; see docs/http-api.md.

    artifact        folder of the default model
    models          more models by name, as `name=folder,name=folder`
    max_batch       images in one run of the engine; 0: 32 on a GPU; on a CPU, where batches are no faster, small images
                    are run one by one, and others in batches of up to 4
    max_queue       requests under way at once, from the first byte to the last; over it the answer is 503
    client_share    the part of `max_queue` that one client (API key, else address) may hold; over it 429
    max_images      images in one request of the batch routes, and frames of one DICOM series; `max_batch_pixels` of one
                    series, `max_batch_bytes` and `batch_seconds` for one request
    held_bytes      what all requests under way may hold in memory, beside their pixels; over it 503
    codec_bytes     memory for decoding and encoding, of all images together; who does not fit in waits
    head_seconds    how long a client may take to send a request's head, `read_seconds` its body; `timeout_seconds`: how
                    long an answer may take after that; `write_seconds`: how long a client may take nothing of it
    max_streams     streams open at once, of which one client may hold `client_share`; `max_frame_bytes`: of one frame of a
                    stream, head and image; `idle_seconds`: after which a stream without a frame is closed
    drain_seconds   after SIGTERM: how long new requests are still answered (with 503) before the port closes
    grace_seconds   after SIGTERM: the process has ended by then, whatever runs
    root_path       prefix of the paths that a proxy passes on whole ("/gaze"); one that takes it off needs no setting
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    artifact: Path | None = None
    models: Annotated[dict[str, Path], NoDecode] = Field(default_factory=dict)
    device: str = "auto"
    threads: int = Field(default=0, ge=0, le=1024)
    workers: int = Field(default=1, ge=1, le=1024)
    max_batch: int = Field(default=0, ge=0, le=1024)
    max_bytes: int = Field(default=32 * 2**20, ge=1024)
    max_pixels: int = Field(default=40_000_000, ge=1)
    max_queue: int = Field(default=64, ge=1)
    client_share: float = Field(default=1.0, gt=0, le=1)
    max_images: int = Field(default=512, ge=1)
    max_batch_bytes: int = Field(default=256 * 2**20, ge=1024)
    max_batch_pixels: int = Field(default=160_000_000, ge=1)
    held_bytes: int = Field(default=384 * 2**20, ge=2**20)
    codec_bytes: int = Field(default=768 * 2**20, ge=2**26)
    max_streams: int = Field(default=32, ge=0, le=4096)
    max_frame_bytes: int = Field(default=4 * 2**20, ge=1024, le=2**30)
    idle_seconds: Seconds = 300
    batch_seconds: Seconds = 300
    head_seconds: Seconds = 15
    read_seconds: Seconds = 15
    timeout_seconds: Seconds = 30
    write_seconds: Seconds = 20
    drain_seconds: float = Field(default=1.0, ge=0, le=86400, allow_inf_nan=False)
    grace_seconds: Seconds = 35
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    api_keys_file: Path | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    root_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9._~-]+)*$")
    log_format: Literal["json", "plain"] = "json"

    @field_validator("api_keys", mode="before")
    @classmethod
    def _keys(cls, value: object) -> object:
        """Text, as the environment gives it, is split at its commas; a list is taken as it is."""
        keys = value.split(",") if isinstance(value, str) else value
        if isinstance(keys, list | tuple):
            stripped = tuple(key.strip() if isinstance(key, str) else key for key in keys)
            if any(key == "" for key in stripped):
                raise ValueError("a key is empty; leave the setting out to serve without keys")
            return stripped
        return keys

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("models", mode="before")
    @classmethod
    def _models(cls, value: object) -> object:
        """`name=folder,name=folder`, or a list of `name=folder`."""
        texts = value.split(",") if isinstance(value, str) else value
        if not isinstance(texts, list | tuple):
            return value
        models: dict[str, Path] = {}
        for text in texts:
            name, _, folder = (part.strip() for part in text.partition("="))
            if not folder or not _MODEL_NAME.fullmatch(name):
                raise ValueError("write models as name=folder, the name of up to 64 letters, digits, '.', '_' and '-'")
            if name in models:
                raise ValueError(f"two models are called {name!r}")
            models[name] = Path(folder)
        return models

    @model_validator(mode="after")
    def _one_request_fits(self) -> Settings:
        if self.held_bytes < max(self.max_bytes, self.max_batch_bytes):
            raise ValueError(f"held_bytes, {self.held_bytes}, is less than the bytes that one request may have")
        return self

    @property
    def cpus_each(self) -> int:
        """CPUs of one worker: its share of those that may be used here, at least one."""
        return max(1, cpus.available() // self.workers)

    @property
    def limits(self) -> Limits:
        return Limits(self.max_bytes, self.max_pixels)

    def folders(self) -> dict[str, Path]:
        """The artifact folders by name, the default one first, under the name `default`."""
        first = {} if self.artifact is None else {"default": self.artifact}
        return {**first, **self.models}

    def to_json(self) -> str:
        """Everything, keys in the clear and paths absolute: for the environment of the worker processes."""
        values = self.model_dump()
        for name in ("artifact", "api_keys_file"):
            values[name] = None if values[name] is None else str(values[name].absolute())
        values["models"] = {name: str(folder.absolute()) for name, folder in self.models.items()}
        values["api_keys"] = [key.get_secret_value() for key in self.api_keys]
        return json.dumps(values)


def load_settings(options: Mapping[str, object] | None = None) -> Settings:
    """The settings of GAZESEG_SETTINGS, or else of the other variables; `options` override them by name, None leaves them.

    Raises ConfigError for a value that cannot be used and for a name that begins with GAZESEG_ and is no setting.
    """
    _refuse_unknown(os.environ)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    try:
        values: dict[str, Any] = {**dict(json.loads(os.environ.get(WHOLE, "{}"))), **given}
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "of memory"
        raise ConfigError(f"setting {name}: {first['msg']}") from None  # its input may be a key
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise ConfigError(f"{WHOLE} is no JSON object of settings ({type(error).__name__})") from None
    if settings.artifact is not None and "default" in settings.models:
        raise ConfigError("two models are called 'default', the name of the first; choose another name")
    return settings


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | _NOT_SETTINGS
    for name in sorted(environment):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in known and not _SERVICE_LINKS.fullmatch(upper):
            raise ConfigError(f"{name} is no setting; known: {', '.join(sorted(known - _NOT_SETTINGS))}")
