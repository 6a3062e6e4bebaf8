"""The service's settings: environment variables that start with `GAZESEG_`, or the options of `gazeseg-serve serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gazeseg_serve.pixels import Limits


class Settings(BaseSettings):
    """Everything that can be set. `GAZESEG_MAX_QUEUE=16` sets `max_queue`, and so on; see docs/http-api.md.

    artifact        folder of the default model
    models          more models by name, as `name=folder,name=folder`
    max_batch       images in one run of the engine; 0: 32 on a GPU, 4 on a CPU, where larger ones are no faster and the
                    last to come would wait for all of them
    max_queue       requests in the house at once, from the first byte to the last; over it the answer is 503
    client_share    the part of `max_queue` that one client (API key, else address) may hold; over it 429
    max_images      images in one request of the batch routes, and `max_batch_bytes` and `batch_seconds` for them all
    head_seconds    how long a client may take to send a request's head, `read_seconds` its body; `timeout_seconds`: how
                    long an answer may take after that
    drain_seconds   after SIGTERM: how long new requests are still answered (with 503) before the port closes
    """

    model_config = SettingsConfigDict(env_prefix="GAZESEG_", frozen=True, extra="ignore")

    artifact: Path | None = None
    models: Annotated[dict[str, Path], NoDecode] = Field(default_factory=dict)
    device: str = "auto"
    threads: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=1)
    max_batch: int = Field(default=0, ge=0, le=1024)
    max_bytes: int = Field(default=32 * 2**20, ge=1024)
    max_pixels: int = Field(default=40_000_000, ge=1)
    max_queue: int = Field(default=64, ge=1)
    client_share: float = Field(default=1.0, gt=0, le=1)
    max_images: int = Field(default=512, ge=1)
    max_batch_bytes: int = Field(default=256 * 2**20, ge=1024)
    batch_seconds: float = Field(default=300, gt=0)
    head_seconds: float = Field(default=15, gt=0)
    read_seconds: float = Field(default=15, gt=0)
    timeout_seconds: float = Field(default=30, gt=0)
    drain_seconds: float = Field(default=1.0, ge=0)
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    api_keys_file: Path | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    log_format: Literal["json", "plain"] = "json"

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("models", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not name.strip() or not folder.strip() for name, _, folder in pairs):
            raise ValueError("write models as name=folder,name=folder")
        return {name.strip(): Path(folder.strip()) for name, _, folder in pairs}

    @property
    def limits(self) -> Limits:
        return Limits(self.max_bytes, self.max_pixels)

    def folders(self) -> dict[str, Path]:
        """The artifact folders by name, the default one first, under the name `default`."""
        first = {} if self.artifact is None else {"default": self.artifact}
        return {**first, **self.models}
