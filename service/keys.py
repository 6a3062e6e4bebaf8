"""API keys: where they come from, and whether a request has one."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from starlette.requests import HTTPConnection

from gazeseg_serve.errors import ConfigError

from .problems import Problem
from .settings import Settings


class Keys:
    """API keys, kept as digests and compared in constant time. No keys at all: everyone may come in."""

    def __init__(self, keys: list[str]) -> None:
        if any(not key or not key.isprintable() for key in keys):
            raise ConfigError("an API key is empty or holds a character that no header can carry; write another")
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def load(cls, settings: Settings) -> Keys:
        """Keys of the settings and of the key file, one a line, `#` starts a comment. Raises ConfigError."""
        keys = [key.get_secret_value() for key in settings.api_keys]
        if settings.api_keys_file is not None:
            keys += read_keys(settings.api_keys_file)
            if not keys:
                raise ConfigError(f"{settings.api_keys_file} holds no key; the service would be open to everyone")
        return cls(keys)

    def check(self, request: HTTPConnection, offered: str = "") -> str:
        """The client's name for counting: a digest of its key, else its address. Raises 401.

        offered: a key that came elsewhere than in a header, which counts where no header has one.
        """
        if not self._digests:
            return request.client.host if request.client else "unknown"
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else request.headers.get("x-api-key", "") or offered
        # A header is bytes, shown to us as Latin-1; clients send a letter that is not ASCII in this or in UTF-8.
        sent = given.strip().encode("latin-1")
        digests = [hashlib.sha256(spelled).digest() for spelled in (sent, sent.decode("latin-1").encode())]
        # No early exit: the time must not tell which key came near.
        known = [hmac.compare_digest(digest, mine) for digest in digests for mine in self._digests]
        if not any(known):
            code = "no-key" if not given else "wrong-key"
            detail = "send a valid key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            raise Problem(401, code, detail, {"WWW-Authenticate": "Bearer"})
        return "key-" + self._digests[known.index(True) % len(self._digests)].hex()[:8]


def read_keys(path: Path) -> list[str]:
    """The keys of a file in UTF-8, with a byte order mark or without. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key file {path} cannot be read ({error}); it is text in UTF-8, a key a line") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
