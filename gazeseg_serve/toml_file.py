"""TOML files with overrides from a command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import ConfigError


def read_toml(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The table of a TOML file (empty for None) with `section.key=value` overrides. Raises ConfigError."""
    try:
        values = tomllib.loads("" if path is None else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a configuration such as configs/kvasir_small.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for override in overrides:
        apply_override(values, override)
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in a parsed TOML table, in place."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override!r}: write KEY=VALUE, for instance optimiser.steps=1000")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, name = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override!r}: {section} is not a section")
    values[name] = value
