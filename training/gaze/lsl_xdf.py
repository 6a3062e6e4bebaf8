"""Lab Streaming Layer's .xdf (LabRecorder): a gaze stream, and markers that name the image from there on.

The channels' labels say which are x and y and of which eye, their units whether they are pixels or shares of the screen.
Read by pyxdf, which also puts the streams on one clock.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gazeseg_serve.errors import DatasetError, require

from .csv_table import Table
from .layout import Layout
from .mapping import Columns, Units
from .names import ImageNames

_OTHER = re.compile(r"pupil|diam|origin|3d|dir|pos_?z|ucs|user|world|accel|gyro|mouse|raw|head", re.IGNORECASE)
_END = re.compile(r"\b(?:end|off|offset|stop|blank|iti|fixation|cross)\b", re.IGNORECASE)
_NAMES = ("time", "left_x", "left_y", "right_x", "right_y", "image")


def read(path: Path, images: ImageNames) -> Layout:
    """The layout of an .xdf. Raises DatasetError where it is damaged or has no gaze stream, MissingExtraError without pyxdf."""
    pyxdf = require("pyxdf", "gaze")
    told: list[str] = []
    try:
        with _logged(told):
            streams, _ = pyxdf.load_xdf(str(path))
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        EOFError,
        TypeError,
        struct.error,
        SyntaxError,
        UnicodeDecodeError,
    ) as error:
        raise DatasetError(f"{path} is an .xdf that pyxdf cannot read ({error}); record it again or export CSV") from error
    gaze = [(stream, channels) for stream in streams if (channels := _channels(stream))]
    if not gaze:
        found = ", ".join(f"{_info(stream, 'name')} ({_info(stream, 'type')})" for stream in streams) or "no stream"
        raise DatasetError(f"{path} has no stream with x and y of gaze; it holds: {found}")
    stream, channels = gaze[0]
    values, times = np.asarray(stream["time_series"], np.float64), np.asarray(stream["time_stamps"], np.float64)
    shown, starts = _shown(streams, images)
    at = np.searchsorted(starts, times, side="right") - 1 if len(starts) else np.full(len(times), -1)
    names = ["" if place < 0 else shown[place] for place in at]
    cells = [[repr(float(t)), "", "", "", "", name] for t, name in zip(times, names, strict=True)]
    for place, channel in channels.items():
        for row, value in zip(cells, values[:, channel], strict=True):
            row[place] = repr(float(value)) if np.isfinite(value) else ""
    present = values[:, list(channels.values())]
    position = _position(stream, next(iter(channels.values())), present)
    both = 3 in channels and 1 in channels
    x, y = (("left_x", "right_x"), ("left_y", "right_y")) if both else (("left_x",), ("left_y",))
    if not both and 3 in channels:
        x, y = ("right_x",), ("right_y",)
    notes: tuple[str, ...] = (f"{path.name}: pyxdf found damage ({told[0]}); what it could read is used",) if told else ()
    notes += (f"{path.name}: of {len(gaze)} gaze streams the first, {_info(stream, 'name')}, is read",) if len(gaze) > 1 else ()
    return Layout(
        "LSL .xdf",
        f"its stream {_info(stream, 'name')}",
        Table(path, _NAMES, records=list(enumerate(cells, start=1))),
        Columns("time", x, y, image="image" if any(names) else None),
        Units("s", position=position, origin="top left"),
        notes=notes,
        made=True,
    )


@contextmanager
def _logged(told: list[str]) -> Iterator[None]:
    """What pyxdf logs of damage, which it reads over, goes into `told` and not to the terminal."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, handler = logging.getLogger("pyxdf"), Collect(logging.ERROR)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _info(stream: dict[str, Any], name: str) -> str:
    value = stream["info"].get(name)
    return str(value[0]) if isinstance(value, list) and value and value[0] is not None else ""


def _labels(stream: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and unit of each channel, empty where the stream does not say them."""
    found: Any = stream["info"].get("desc")
    for name in ("channels", "channel"):
        found = found[0] if isinstance(found, list) and found else None
        found = found.get(name) if isinstance(found, dict) else None

    def text(channel: Any, name: str) -> str:
        value = channel.get(name) if isinstance(channel, dict) else None
        return str(value[0]) if isinstance(value, list) and value and value[0] is not None else ""

    return [(text(channel, "label"), text(channel, "unit")) for channel in found] if isinstance(found, list) else []


def _channels(stream: dict[str, Any]) -> dict[int, int]:
    """The place in `_NAMES` and the channel of each x and y; empty where the stream is no gaze."""
    kind = _info(stream, "type").lower()
    if kind and not re.search(r"gaze|eye", kind):
        return {}
    found: dict[int, int] = {}
    for channel, (label, _) in enumerate(_labels(stream)):
        words = re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", label).lower())
        axis = next((word for word in ("x", "y") if word in words), None)
        if axis is None or _OTHER.search(label):
            continue
        right = "right" in words or "r" in words
        found.setdefault((3 if right else 1) + (axis == "y"), channel)
    pairs = [start for start in (1, 3) if start in found and start + 1 in found]
    return {place: channel for place, channel in found.items() if any(place in (start, start + 1) for start in pairs)}


def _position(stream: dict[str, Any], channel: int, values: np.ndarray) -> str:
    """Pixels or shares of the screen: by the channel's unit, else by what most values are."""
    unit = _labels(stream)[channel][1].lower()
    if re.search(r"pix|px", unit):
        return "pixels"
    if re.search(r"norm|ratio|fraction|share", unit):
        return "screen"
    seen = values[np.isfinite(values)]
    return "pixels" if len(seen) and (np.abs(seen) > 1.5).mean() > 0.5 else "screen"


def _shown(streams: list[dict[str, Any]], images: ImageNames) -> tuple[list[str], np.ndarray]:
    """What the markers say: the image on the screen from each time on, empty where a marker ends it."""
    events: list[tuple[float, str]] = []
    for stream in streams:
        if _info(stream, "channel_format") != "string":
            continue
        for time, sample in zip(stream["time_stamps"], stream["time_series"], strict=True):
            text = " ".join(map(str, sample))
            words = [text, *re.split(r"[\s,;:=|]+", text)]
            image = next((word for word in words if word and images.match(word)), None)
            if image is not None:
                events.append((float(time), "" if _END.search(text.replace(image, "")) else image))
            elif _END.search(text):
                events.append((float(time), ""))
    events.sort(key=lambda event: event[0])
    return [name for _, name in events], np.array([time for time, _ in events])
