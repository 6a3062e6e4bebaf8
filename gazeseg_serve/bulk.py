"""Segment files and folders: one mask an image, failures listed."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .dataset import image_files
from .errors import DatasetError, ImageError
from .files import write_bytes
from .imaging import decode_image, read_image
from .outputs import encode_mask
from .predictor import Predictor
from .progress import track

STDIN = Path("-")


@dataclass
class Summary:
    """How many masks were written, and for the other inputs why not."""

    written: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def predict_files(
    artifact: Path, inputs: Sequence[Path], out: Path, threshold: float | None = None, device: str = "auto"
) -> Summary:
    """Write `<stem>.png`, the mask in the image's own size, for every image among `inputs` (files, folders, `-`).

    One class: 1 bit a pixel, 0 or 255. Several: 8 bit, the label itself. An unreadable image is listed and the rest go
    on. Raises DatasetError where an input is missing or two inputs would write the same mask.
    """
    files = collect(inputs)
    predictor = Predictor.open(artifact, device)
    assert predictor.artifact is not None, "opened from a folder"
    cut = predictor.artifact.threshold if threshold is None else threshold
    summary = Summary()
    for name, path in track(files.items(), "segmenting", len(files)):
        try:
            spec = predictor.spec
            image = (
                decode_image(sys.stdin.buffer.read(), spec.channels, dtype=spec.dtype)
                if path == STDIN
                else read_image(path, spec.channels, dtype=spec.dtype)
            )
        except ImageError as error:
            summary.failures[str(path)] = str(error)
            continue
        mask = predictor.predict(image).mask(cut)
        write_bytes(out / f"{name}.png", encode_mask(mask, len(predictor.spec.classes)))
        summary.written += 1
    return summary


def collect(inputs: Sequence[Path]) -> dict[str, Path]:
    """The image files among `inputs` (files, folders, `-`) by the name of the mask each will have. Raises DatasetError."""
    found: dict[str, Path] = {}
    for item in inputs:
        if item == STDIN:
            group = [item]
        elif item.is_dir():
            group = image_files(item)
            if not group:
                raise DatasetError(f"{item} holds no image")
        elif item.is_file():
            group = [item]
        else:
            raise DatasetError(f"{item} does not exist")
        for path in group:
            name = "stdin" if path == STDIN else path.stem
            if name in found and found[name] != path:
                raise DatasetError(f"{found[name]} and {path} would both write {name}.png; segment them into two folders")
            found[name] = path
    return found
