"""Parsed JSON or TOML to frozen dataclasses, every field checked."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from .errors import ContractError

T = TypeVar("T")


def key(default: Any, explanation: str) -> Any:
    """A field of a dataclass of settings: its default, and what the manual says of it."""
    return dataclasses.field(default=default, metadata={"explanation": explanation})


def from_dict(cls: type[T], data: Any, where: str) -> T:
    """Make the dataclass `cls` of parsed JSON or TOML; ContractError names the field that is missing, unknown or wrong."""
    if not isinstance(data, dict):
        raise ContractError(f"{where}: expected a table, found {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ContractError(f"{where}: unknown field {unknown[0]!r}; known: {', '.join(fields)}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ContractError(f"{where}: field {name!r} is missing")
    return cls(**{name: _convert(hints[name], value, f"{where}: {name}") for name, value in data.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin in (types.UnionType, typing.Union):
        for option in arguments:
            if (option is type(None) and value is None) or (isinstance(option, type) and type(value) is option):
                return value
        return _convert(next(option for option in arguments if option is not type(None)), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], item, where) for item in value)
        if len(arguments) == len(value):
            return tuple(_convert(a, item, where) for a, item in zip(arguments, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ContractError(f"{where}: expected {expected}, found {value!r}")
