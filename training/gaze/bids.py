"""BIDS 1.11 eye tracking: `<entities>[_recording-<eye>]_physio.tsv.gz` without a header, its sidecar, and its events.

The sidecar's Columns name the columns (timestamp, x_coordinate, y_coordinate, pupil_size); `<entities>_events.json` says the
screen under StimulusPresentation, in metres; `<entities>_events.tsv` says by stim_file which image was shown when, in
seconds after the first sample (StartTime is added). n/a is missing. Sidecars of folders above hold too (inheritance).
"""

from __future__ import annotations

import bisect
import json
import math
import re
from pathlib import Path
from typing import Any

from gazeseg_serve.errors import DatasetError

from .bounds import unit_of_rate
from .csv_table import Table, number, read_table
from .file_text import decode, read_bytes, split_lines
from .layout import Layout, NotGazeError, stem_of
from .mapping import AUTO, MILLISECONDS, Columns, Screen, Units, pixel_pair

_UNITS = {
    "s": "s",
    "second": "s",
    "seconds": "s",
    "ms": "ms",
    "millisecond": "ms",
    "milliseconds": "ms",
    "us": "us",
    "ns": "ns",
}
_PIXELS = ("pixel", "pixels", "px")
_LEVELS = 4  # folders from a recording up to the dataset's root


def sidecar(path: Path) -> dict[str, Any] | None:
    """What the JSON files beside and above a recording say, nearer ones first; None where this is no such recording.

    Raises NotGazeError for a recording of BIDS whose columns none of them names.
    """
    if not re.search(r"\.tsv(?:\.gz)?$", path.name, re.IGNORECASE):
        return None
    said = _inherited(path, stem_of(path))
    if isinstance(said.get("Columns"), list):
        return said
    if re.search(r"_physio(?:events)?$", stem_of(path)):
        raise NotGazeError(f"{path} has no header, and no sidecar {stem_of(path)}.json that names its Columns")
    return None


def read(path: Path, said: dict[str, Any]) -> Layout:
    """The layout of a headerless recording with its sidecar. Raises DatasetError for positions that are not on a screen."""
    names = tuple(map(str, said["Columns"]))
    if "onset" in names or not {"x_coordinate", "y_coordinate"} <= set(names):
        raise NotGazeError(
            f"{path} has the columns {', '.join(names)}, no x_coordinate and y_coordinate; give the _physio file"
        )
    system = str(said.get("SampleCoordinateSystem", "gaze-on-screen"))
    if system != "gaze-on-screen":
        raise DatasetError(f"{path}: SampleCoordinateSystem is {system!r}; positions on an image need gaze-on-screen")
    stem = stem_of(path)
    prefix = re.sub(r"_recording-[^_]+|_(?:physio|eyetrack)$", "", stem)
    presentation = _of(_inherited(path, f"{prefix}_events"), "StimulusPresentation") or _of(said, "StimulusPresentation")
    table = Table(path, names, "\t", (), split_lines(decode(path, read_bytes(path))), 0)
    time = "timestamp" if "timestamp" in names else None
    unit = _UNITS.get(str(_of(said, "timestamp").get("Units", "")).lower(), AUTO)
    rate = said.get("SamplingFrequency")
    if time is None and isinstance(rate, int | float) and rate > 0:
        rows = [
            (line, None if cells is None else [*cells, repr(1000 * i / number(str(rate)))])
            for i, (line, cells) in enumerate(table)
        ]
        table, time, unit = Table(path, (*names, "timestamp"), records=rows), "timestamp", "ms"
    table, image = _with_images(table, path.parent / f"{prefix}_events.tsv", said, time, unit)
    subject = re.match(r"(sub-[^_]+)", stem)
    columns = Columns(time, ("x_coordinate",), ("y_coordinate",), image=image)
    return Layout(
        "BIDS eye tracking",
        f"the sidecar {stem}.json",
        table,
        columns,
        Units(unit, position=_position(path, said), origin=_origin(presentation)),
        _screen(presentation),
        reader=subject[1] if subject else None,
        recording=prefix if "_recording-" in stem else None,
    )


def _of(said: dict[str, Any], name: str) -> dict[str, Any]:
    value = said.get(name)
    return value if isinstance(value, dict) else {}


def _inherited(path: Path, stem: str) -> dict[str, Any]:
    """The JSON objects that hold for a file by BIDS's inheritance: those whose entities are all its own."""
    found: list[Path] = []
    folder = path.parent
    for _ in range(_LEVELS):
        parts = set(stem.split("_"))
        suffix = stem.rpartition("_")[2]
        near = [file for file in sorted(folder.glob("*.json")) if set(file.stem.split("_")) <= parts]
        found += [file for file in near if file.stem == stem or file.stem.rpartition("_")[2] == suffix]
        if (folder / "dataset_description.json").is_file() or folder.parent == folder:
            break
        folder = folder.parent
    said: dict[str, Any] = {}
    for file in found:  # the nearest first
        try:
            values = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise DatasetError(f"{file} is not JSON ({error}); mend the sidecar") from error
        said = (values if isinstance(values, dict) else {}) | said
    return said


def _position(path: Path, said: dict[str, Any]) -> str | None:
    unit = str(said.get("SampleCoordinateUnits") or _of(said, "x_coordinate").get("Units") or "").lower()
    if unit in _PIXELS:
        return "pixels"
    if unit in ("normalized", "normalised"):
        return "screen"
    if unit:
        raise DatasetError(
            f"{path}: positions in {unit!r} are not read; give pixels or normalized ones (SampleCoordinateUnits)"
        )
    return None


def _origin(presentation: dict[str, Any]) -> str:
    origin = presentation.get("ScreenOrigin", ["top", "left"])
    words = " ".join(map(str, origin)) if isinstance(origin, list) else str(origin)
    return {"center center": "center"}.get(words.lower().replace("-", " "), words.lower().replace("-", " "))


def _screen(presentation: dict[str, Any]) -> Screen:
    """The screen in pixels and, of metres, cm."""

    def pair(name: str) -> list[float]:
        value = presentation.get(name)
        good = isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
        return [number(str(v)) for v in value] if good else []  # type: ignore[union-attr]

    size, pixels, distance = pair("ScreenSize"), pair("ScreenResolution"), presentation.get("ScreenDistance")
    width, height = pixel_pair(pixels)
    across, down = (100 * size[0], 100 * size[1]) if size else (None, None)
    return Screen(width, height, across, down, 100 * number(str(distance)) if isinstance(distance, int | float) else None)


def _with_images(table: Table, events: Path, said: dict[str, Any], time: str | None, unit: str) -> tuple[Table, str | None]:
    """The table with a column that says which image was on the screen, from the events beside it, where they name images."""
    if time is None or not events.is_file():
        return table, None
    shown = read_table(events)
    if shown.column("stim_file") is None:
        return table, None
    onset, duration, file = shown.require("onset", "duration", "stim_file")
    spans = sorted(
        (number(cells[onset]), number(cells[duration]), cells[file])
        for _, cells in shown
        if cells is not None and cells[file].lower() not in ("", "n/a") and math.isfinite(number(cells[onset]))
    )
    rows = list(table)
    place = table.names.index(time)
    times = [math.nan if cells is None else number(cells[place]) for _, cells in rows]
    known = [value for value in times if math.isfinite(value)]
    if not known or not spans:
        return table, None
    if unit == AUTO:
        unit = unit_of_rate(known) or "ms"
    start = said.get("StartTime", 0.0)
    begun = number(str(start)) if isinstance(start, int | float) else 0.0
    onsets = [span[0] for span in spans]

    def image(value: float) -> str:
        seconds = begun + (value - known[0]) * MILLISECONDS[unit] / 1000
        at = bisect.bisect_right(onsets, seconds) - 1
        if at < 0:
            return ""
        length = spans[at][1]
        return spans[at][2] if not math.isfinite(length) or length <= 0 or seconds < onsets[at] + length else ""

    named = [
        (line, None if cells is None else [*cells, image(value) if math.isfinite(value) else ""])
        for (line, cells), value in zip(rows, times, strict=True)
    ]
    return Table(table.path, (*table.names, "stim_file"), records=named), "stim_file"
