"""WebGazer in the browser, as jsPsych's extension records it: JSON (or a CSV with JSON cells), pixels of the window, ms.

Each trial holds webgazer_data, a list of {"x", "y", "t"} with t from the trial's start, the stimulus, and in
webgazer_targets where the elements asked for stood on the page: the image's is its place on the screen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gazeseg_serve.errors import DatasetError

from .csv_table import Table, number
from .layout import Header, Layout, NotGazeError
from .mapping import Columns, Screen, Units, pixel_pair
from .names import ImageNames

_NAMES = ("t", "x", "y", "image", "trial", "reader", "left", "top", "width", "height")
_READERS = ("participant", "participant_id", "subject", "subject_id", "prolific_pid", "sona_id", "worker_id", "run_id")
_SOURCE = re.compile(r"""src\s*=\s*["']([^"']+)["']""", re.IGNORECASE)
_DEEPEST = 8  # levels of lists and objects around the trials


def is_json(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n")[:1] in ("[", "{")


def read(path: Path, text: str, images: ImageNames) -> Layout:
    """The layout of a jsPsych file. Raises DatasetError where it is no JSON or holds no gaze."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        try:  # one object or list a line
            values = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path} is not JSON ({error}); export it again") from error
    return _layout(path, list(_trials(values, _DEEPEST)), images)


def recognise(table: Table, images: ImageNames) -> Layout | None:
    """The layout of jsPsych's CSV, whose cells hold JSON, or None."""
    head = Header(table.names)
    column = head.first("webgazer_data")
    if column is None:
        return None
    trials = []
    for line, cells in table:
        trial: dict[str, Any] = {} if cells is None else dict(zip(table.names, cells, strict=True))
        for name in (column, head.first("webgazer_targets")):
            if name and trial.get(name):
                try:
                    trial[name] = json.loads(trial[name])
                except (ValueError, RecursionError) as error:
                    raise DatasetError(
                        f"{table.path}, line {line}: {name} is not JSON ({error}); export JSON instead"
                    ) from error
        trials.append(trial)
    return _layout(table.path, trials, images)


def _trials(values: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The objects of a file, through lists of participants and objects that hold their trials."""
    if isinstance(values, list):
        if depth and values and all(isinstance(v, dict) and {"x", "y"} <= v.keys() for v in values):
            yield {"webgazer_data": values}  # bare samples
        elif depth:
            for value in values:
                yield from _trials(value, depth - 1)
    elif isinstance(values, dict):
        inner = next((values[name] for name in ("trials", "data") if isinstance(values.get(name), list)), None)
        if inner is None:
            yield values
        elif depth:
            shared = {name: value for name, value in values.items() if isinstance(value, str | int)}
            for trial in _trials(inner, depth - 1):
                yield shared | trial


def _layout(path: Path, trials: list[dict[str, Any]], images: ImageNames) -> Layout:
    rows: list[tuple[int, list[str]]] = []
    screen = Screen()
    for place, trial in enumerate(trials, start=1):
        if trial.get("trial_type") == "browser-check":
            size = [trial.get("width"), trial.get("height")]
            screen = Screen(*pixel_pair([number(str(v)) for v in size if isinstance(v, int | float)]))
        samples = trial.get("webgazer_data")
        if not isinstance(samples, list):
            continue
        target = _target(trial.get("webgazer_targets"))
        fixed = [_image(trial, images), str(trial.get("trial_index", place)), _reader(trial), *target]
        for sample in samples:
            if isinstance(sample, dict):
                cells = [_cell(sample.get("t", sample.get("time"))), _cell(sample.get("x")), _cell(sample.get("y"))]
                rows.append((place, [*cells, *fixed]))
    if not rows:
        raise NotGazeError(f"{path} is JSON without webgazer_data; it holds no gaze that is read here")
    full = [bool(cells[6]) for _, cells in rows]
    columns = Columns(
        "t",
        ("x",),
        ("y",),
        image="image" if any(cells[3] for _, cells in rows) else None,
        trial="trial",
        reader="reader" if any(cells[5] for _, cells in rows) else None,
        area=_NAMES[6:] if all(full) else (),
    )
    table = Table(path, _NAMES, records=rows)
    return Layout(
        "jsPsych with WebGazer",
        "its webgazer_data",
        table,
        columns,
        Units("ms", position="pixels", origin="top left"),
        screen,
        made=True,
    )


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""


def _image(trial: dict[str, Any], images: ImageNames) -> str:
    """The image of a trial: what its stimulus names, else any of its texts that names one."""
    stimulus = trial.get("stimulus")
    texts = [stimulus, *(value for name, value in trial.items() if name != "webgazer_data")]
    texts = [text for value in texts for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    texts = [match[1] if (match := _SOURCE.search(text)) else text for text in texts]
    return next((text for text in texts if images.match(text)), texts[0] if isinstance(stimulus, str) else "")


def _reader(trial: dict[str, Any]) -> str:
    lower = {name.casefold(): value for name, value in trial.items()}
    return next((str(lower[name]) for name in _READERS if isinstance(lower.get(name), str | int)), "")


def _target(targets: Any) -> list[str]:
    """Left, top, width and height of the image's element; four empty cells where none is known."""
    if not isinstance(targets, dict):
        return [""] * 4
    boxes = {name: box for name, box in targets.items() if isinstance(box, dict) and {"width", "height"} <= box.keys()}
    chosen = [name for name in boxes if re.search(r"img|image|stimulus", name, re.IGNORECASE)] or list(boxes)
    if len(chosen) != 1:
        return [""] * 4
    box = boxes[chosen[0]]
    return [_cell(box.get(a, box.get(b))) for a, b in (("left", "x"), ("top", "y"), ("width", "width"), ("height", "height"))]
