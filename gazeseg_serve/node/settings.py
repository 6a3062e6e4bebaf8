"""The settings of a node, and where its results go."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ConfigError

_ENTITY = re.compile(r"[A-Za-z0-9_.\- ]{1,16}")
_TARGET = re.compile(r"(?P<title>[^@]{1,16})@(?P<host>[A-Za-z0-9.\-]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})")
MIB = 2**20


@dataclass(frozen=True)
class WebTarget:
    """STOW-RS at the DICOMweb root `url`; user and password, or a token, or neither."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    certificates: Path | None = None


@dataclass(frozen=True)
class EntityTarget:
    """C-STORE to an application entity."""

    title: str
    host: str
    port: int


Target = WebTarget | EntityTarget


@dataclass(frozen=True)
class Tls:
    """Certificate and key of the node; `authority`, where given, must have signed a sender's certificate."""

    certificate: Path
    key: Path
    authority: Path | None = None


@dataclass(frozen=True)
class NodeSettings:
    """What `gazeseg-serve node` is told.

    senders         calling AE titles that may store; empty: any
    modalities      of the images to segment, besides the artifact's intended use; empty: any
    quiet_seconds   after the last image of a series, until it is taken as complete
    reports         a TID 1500 report beside every segmentation
    force           segment what contradicts the intended use, too, and record it
    service         URL of a running service that makes the masks; None: the artifact is opened here
    spool_bytes     of everything in the spool; beyond it a sender is told 0xA700 and keeps its copy
    reserve_bytes   of the disk that stay free, in the same way
    object_bytes    of one object
    keep_images     keep the images in the spool after their results are stored
    late_seconds    headers and masks of a series are kept so long after its last image, for slices that come late
    attempts        to send a result, before it becomes a dead letter
    first_pause, longest_pause      seconds between two attempts; each is twice the one before
    """

    title: str
    target: Target
    spool: Path
    artifact: Path | None = None
    service: str | None = None
    service_key: str = field(default="", repr=False)
    host: str = "127.0.0.1"
    port: int = 11112
    senders: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    threshold: float | None = None
    force: bool = False
    reports: bool = False
    tls: Tls | None = None
    device: str = "auto"
    quiet_seconds: float = 5.0
    spool_bytes: int = 10 * 1024 * MIB
    reserve_bytes: int = 256 * MIB
    object_bytes: int = 512 * MIB
    associations: int = 8
    keep_images: bool = False
    late_seconds: float = 86400.0
    attempts: int = 200
    first_pause: float = 1.0
    longest_pause: float = 600.0
    drain_seconds: float = 20.0
    monitor_port: int | None = None

    def __post_init__(self) -> None:
        for title in (self.title, *self.senders):
            check_entity(title)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold {self.threshold:g}; give a probability from 0 to 1")
        for name in ("quiet_seconds", "spool_bytes", "object_bytes", "associations", "attempts", "first_pause"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name):g}; it must be more than 0")


def check_entity(title: str) -> None:
    if not _ENTITY.fullmatch(title) or not title.strip():
        raise ConfigError(f"{title!r} is no AE title; use 1 to 16 letters, digits, spaces, dots, - or _")


def parse_target(text: str, user: str = "", password: str = "", token: str = "", certificates: Path | None = None) -> Target:
    """`http(s)://HOST/dicom-web`, or `AET@HOST:PORT`. Raises ConfigError."""
    if "://" in text:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{parts.scheme}://... is not a DICOMweb root; give http:// or https:// and a host")
        if parts.username or parts.password:
            raise ConfigError(
                "a password in a URL is seen by everybody who lists the processes; give --to-user and --to-password-file"
            )
        if token and user:
            raise ConfigError("both a user and a token; give one of them")
        return WebTarget(text.rstrip("/"), user, password, token, certificates)
    found = _TARGET.fullmatch(text)
    if not found or not 0 < int(found["port"]) < 65536:
        raise ConfigError(f"{text!r} is no destination; give a DICOMweb URL, or AET@HOST:PORT")
    check_entity(found["title"])
    return EntityTarget(found["title"], found["host"].strip("[]"), int(found["port"]))


def read_secret(path: Path | None) -> str:
    """The first line of a file, "" without one. Raises ConfigError where the file is missing or empty."""
    if path is None:
        return ""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__})") from None
    secret = lines[0].strip() if lines else ""
    if not secret:
        raise ConfigError(f"{path} is empty; write the secret on its first line")
    return secret
