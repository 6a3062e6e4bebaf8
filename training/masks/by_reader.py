"""Masks of each reader alone, where several looked at the same images."""

from __future__ import annotations

from pathlib import Path

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import DatasetError

from ..gaze.readers import folder_name
from ..gaze.sources import find_gaze, read_gaze
from .make import MasksSummary, make_masks
from .settings import MaskSettings


def make_masks_by_reader(
    dataset: Path | str,
    out: Path | str,
    settings: MaskSettings | None = None,
    jobs: int | None = None,
    strict: bool = False,
    gaze: Path | str | None = None,
) -> dict[str, MasksSummary]:
    """`make_masks` for each reader alone, into a masks folder of his own in `out`; the summaries by reader.

    Raises DatasetError where the gaze is of one reader.
    """
    data = Dataset.open(dataset)
    top = Path(out)
    source = Path(gaze) if gaze is not None else find_gaze(data.root)
    table = read_gaze(source, data.images, settings.classes if settings else None)
    names = sorted({name for scans in table.readers.values() for name in scans})
    if not names:
        raise DatasetError(f"{source} is the gaze of one reader; leave --pool each out")
    folders: dict[str, str] = {}
    for name in names:
        folders[name] = folder_name(name, list(folders.values()))
    return {name: make_masks(data.root, top / folders[name], settings, jobs, strict, source, name) for name in names}
