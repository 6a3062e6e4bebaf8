"""What is written of a segmented video: a line of JSON a frame, an overlay film, PNG masks, and a report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..contract import Artifact
from ..errors import EngineError, require
from ..files import json_text
from ..folders import Kind, json_of
from ..outputs import box, mask_png, overlay, run_lengths
from ..predictor import Prediction
from .frames import Frame

REPORT, LINES, FILM, MASKS = "report.json", "masks.jsonl", "overlay.mp4", "masks"
SCHEMA = "gazeseg-video/1"
_ENCODERS = (("libx264", {"preset": "ultrafast", "crf": "20"}), ("mpeg4", {"qscale": "4"}))
_MASK_NAME = re.compile(r"frame_\d{6,}\.png")


@dataclass(frozen=True, slots=True)
class Segmented:
    """A frame, what the network said of it, its mask `(H, W)` uint8, and the milliseconds from the frame to its mask."""

    frame: Frame
    prediction: Prediction
    mask: np.ndarray
    age: float


class VideoWriter:
    """Writes into a folder as frames come; nothing is kept in memory. `close` ends the film."""

    def __init__(self, folder: Path, artifact: Artifact, png: bool, film: bool) -> None:
        self._folder, self._artifact = folder, artifact
        self._lines = (folder / LINES).open("w", encoding="utf-8")
        self._film = Film(folder / FILM) if film else None
        self._png = folder / MASKS if png else None
        if self._png is not None:
            self._png.mkdir()

    def write(self, item: Segmented) -> None:
        """One frame. Raises OSError where the disk is full."""
        line = frame_line(item, self._artifact)
        if self._png is not None:
            name = f"frame_{item.frame.number:06d}.png"
            (self._png / name).write_bytes(mask_png(item.mask, self._artifact.colours))
            line["file"] = f"{MASKS}/{name}"
        self._lines.write(json_text(line) + "\n")
        if self._film is not None:
            self._film.write(item.frame, overlay(item.frame.pixels, item.mask, self._artifact.colours))

    def close(self) -> None:
        """May be called twice. Raises EngineError where the film cannot be ended."""
        self._lines.close()
        if self._film is not None:
            self._film.close()


def frame_line(item: Segmented, artifact: Artifact) -> dict[str, Any]:
    """What masks.jsonl says of a frame: its number and presentation time, and of each class area, box and run lengths."""
    frame, spread = item.frame, item.prediction.disagreement
    return {
        "frame": frame.number,
        "seconds": round(frame.seconds, 6),
        "size": list(item.mask.shape),
        "presence": None if item.prediction.presence is None else round(item.prediction.presence, 6),
        "mean_disagreement": None if spread is None else round(float(spread.mean()), 6),
        "unusual": None if item.prediction.unusual is None else bool(item.prediction.unusual),
        "damaged": frame.damaged,
        "age_ms": round(item.age, 3),
        "classes": [
            {"name": name, "label": label, "area": int(np.count_nonzero(part)), "box": box(part), "rle": run_lengths(part)}
            for label, name in enumerate(artifact.input.classes, start=1)
            for part in (item.mask == label,)
        ],
    }


class Film:
    """An MP4 whose frames keep their time stamps. Frames of another size than the first are stretched to it."""

    def __init__(self, path: Path) -> None:
        self._av = require("av", "video")
        self._path, self._last = path, -1
        self._container: Any = None
        self._stream: Any = None

    def write(self, frame: Frame, picture: np.ndarray) -> None:
        """One picture `(H, W, 3)` uint8 RGB, shown when `frame` is. Raises EngineError where it cannot be encoded."""
        try:
            stream = self._stream or self._begin(frame, picture)
            picture = _even(picture)
            made = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
            made = made.reformat(stream.width, stream.height, format="yuv420p")
            base = stream.codec_context.time_base
            self._last = max(self._last + 1, round((frame.pts - self._first) * frame.time_base / base))
            made.pts, made.time_base = self._last, base
            self._container.mux(stream.encode(made))
        except self._av.FFmpegError as error:
            raise _film_error(error) from error

    def _begin(self, frame: Frame, picture: np.ndarray) -> Any:
        height, width = _even(picture).shape[:2]
        self._container = self._av.open(str(self._path), "w", format="mp4")
        name, options = _encoder(self._av)
        self._stream = stream = self._container.add_stream(name, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # Finer than any camera's, and within what MP4 and both encoders hold.
        stream.codec_context.time_base = stream.time_base = Fraction(1, 60_000)
        self._first = frame.pts
        return stream

    def close(self) -> None:
        """Write what the encoder still holds, and the index. May be called twice. Raises EngineError."""
        container, self._container = self._container, None
        if container is None:
            return
        try:
            container.mux(self._stream.encode(None))
            container.close()
        except self._av.FFmpegError as error:
            raise _film_error(error) from error


def _encoder(av: ModuleType) -> tuple[str, dict[str, str]]:
    found = next((pair for pair in _ENCODERS if pair[0] in av.codecs_available), None)
    if found is None:
        raise EngineError("this build of FFmpeg writes neither H.264 nor MPEG-4; leave the film out with --no-film")
    return found


def _film_error(error: Any) -> EngineError:
    return EngineError(f"the overlay film cannot be written ({error.strerror}); leave it out with --no-film")


def _even(picture: np.ndarray) -> np.ndarray:
    """H.264 halves the colour's resolution: an odd side gets its last row or column twice."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge") if height % 2 or width % 2 else picture


def _made(folder: Path) -> Iterable[str] | None:
    """The files of a folder that `segment_video` wrote."""
    if json_of(folder / REPORT).get("schema") != SCHEMA:
        return None
    masks = [f"{MASKS}/{path.name}" for path in (folder / MASKS).glob("*.png") if _MASK_NAME.fullmatch(path.name)]
    return [REPORT, LINES, FILM, *masks]


VIDEO_FOLDER = Kind("a folder of a segmented video", _made)
