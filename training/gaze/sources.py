"""Gaze from wherever it is: any tracker's file, a folder of them, or a gaze.toml that says what their columns mean."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from gazeseg_serve.errors import DatasetError, ImageError
from gazeseg_serve.imaging import read_image

from . import fixation_rows, raw_samples, readers
from .classes import class_names, row_label
from .fixation_rows import READING, Found
from .gazemedseg import NAME as PLAIN
from .layout import Layout
from .mapping import load_mapping
from .names import ImageNames
from .recordings import file_reader, fixation_file, layouts_of
from .rows import read_rows
from .scan_paths import MALFORMED, UNKNOWN_IMAGE, FixationTable, scan_path
from .track_loss import Looked, seconds, shares, track_loss

SOURCES = ("fixations.csv", "fixations", "readers", "gaze.toml", "gaze", "raw")
_LISTED = 5
_TURNED = range(5, 9)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112


def find_gaze(root: Path) -> Path:
    """The gaze of a dataset folder, else DatasetError.

    The first of: fixations.csv, or fixations with another ending (.tsv, .xlsx, .csv.gz ...); the folders fixations/ (one
    table a class) and readers/ (one a reader); gaze.toml; the folders gaze/ and raw/. A gaze.toml without `files`
    describes the fixations file beside it, and comes first then.
    """
    table = fixation_file(root)
    mapping = root / "gaze.toml"
    if table is not None and mapping.is_file() and not load_mapping(mapping).files:
        return mapping
    if table is not None:
        return table
    for name in SOURCES[1:]:
        if (root / name).exists():
            return root / name
    raise DatasetError(
        f"{root} has no gaze; put fixations.csv there, fixations/<CLASS>.csv, readers/<READER>.csv, "
        "or gaze.toml for raw samples"
    )


def read_gaze(
    path: Path | str,
    images: Mapping[str, Path],
    classes: Sequence[str] | None = None,
    reader: str | None = None,
    pool: str = "mean",
) -> FixationTable:
    """Read gaze for `images` (files by stem): one file, a folder of files, or a gaze.toml.

    reader      take this reader's gaze alone
    pool        of several readers: "mean", each reader of an image weighs the same; "union", all fixations as they are
    Raises DatasetError for gaze that cannot be read or of which nothing is left, ConfigError for a wrong gaze.toml.
    """
    # An image that cannot be read keeps its gaze here, and is skipped with that reason when it is needed.
    return read_for(Path(path), ImageNames(images, lambda stem: image_size(images[stem])), classes, reader, pool)


def read_for(
    path: Path,
    images: ImageNames,
    classes: Sequence[str] | None = None,
    reader: str | None = None,
    pool: str = "mean",
) -> FixationTable:
    """`read_gaze` for names of images."""
    layouts, mapping, notes = layouts_of(path, images)
    rows = [list(read_rows(layout, images)) for layout in layouts]
    names = class_names(path, [row_label(row) for file in rows for row in file], classes)
    labels = {name: i for i, name in enumerate(names, start=1)}
    found, parts, looked = Found(notes=notes), [], dict[str, Looked]()
    for layout, file in zip(layouts, rows, strict=True):
        part = Found()
        part.notes += layout.notes
        file = fixation_rows.one_eye(layout, file, part)
        if layout.columns.fixations:
            fixation_rows.collect(layout, file, labels, part)
        else:
            layout = raw_samples.with_unit(layout, file)
            raw_samples.collect(layout, file, labels, mapping.detection, images, part)
        track_loss(file, bool(layout.columns.fixations), looked)
        parts.append((layout, part))
    _merge(parts, found)
    if reader is not None and found.kept:
        found.kept = readers.choose(found.kept, reader)
    plain = all(layout.name == PLAIN for layout in layouts)
    count = sum(map(len, rows))
    table = _table(path, found, names, images, pool, count, plain)
    return dataclasses.replace(table, rows=count, track_loss=shares(looked, table.paths), seconds=seconds(looked, table.paths))


def _merge(parts: list[tuple[Layout, Found]], found: Found) -> None:
    """Put the files together. Files that show one image without naming their reader are taken for one reader each."""
    seen = Counter(stem for _, part in parts for stem in {stem for stem, reader in part.kept if not reader})
    several = {stem for stem, count in seen.items() if count > 1}
    for layout, part in parts:
        for (stem, reader), fixations in part.kept.items():
            name = reader or (file_reader(layout) if several and layout.label is None else "")
            found.kept.setdefault((stem, name), []).extend(fixations)
        found.dropped += part.dropped
        found.notes += part.notes
        found.lost += part.lost
        for stem, why in part.skipped.items():
            found.skipped.setdefault(stem, why)
    if any(reader.startswith(READING) for _, reader in found.kept):
        found.kept = {(stem, reader or f"{READING}1"): fixations for (stem, reader), fixations in found.kept.items()}


def _table(
    path: Path, found: Found, classes: tuple[str, ...], images: ImageNames, pool: str, rows: int, plain: bool
) -> FixationTable:
    unknown = Counter(row.image for row in found.dropped if row.reason == UNKNOWN_IMAGE)
    for name, count in unknown.most_common(_LISTED):
        near = images.nearest(name)
        found.notes.append(f"unknown image {name!r} on {count} row(s)" + (f"; the nearest is {near}" if near else ""))
    if len(unknown) > _LISTED:
        found.notes.append(f"and {len(unknown) - _LISTED} more unknown images; all are in dropped.csv")
    if not found.kept:
        raise DatasetError(_nothing(path, found, unknown, rows))
    together = readers.pool(found.kept, "mean" if pool == "each" else pool)
    paths = {stem: scan_path(together[stem]) for stem in sorted(together)}
    skipped = {stem: found.skipped.get(stem, "no usable fixation") for stem in sorted(images.stems) if stem not in paths}
    return FixationTable(
        paths, classes, tuple(found.dropped), skipped, found.lost, readers.by_reader(found.kept), tuple(found.notes), plain
    )


def _nothing(path: Path, found: Found, unknown: Counter[str], rows: int) -> str:
    """Why nothing of the gaze can be used."""
    first = found.dropped[0] if found.dropped else None
    if first is not None:
        why = f"the first, {first.file}, line {first.line}: {first.reason}"
    elif found.skipped:
        why = "; ".join(f"{stem}: {reason}" for stem, reason in list(found.skipped.items())[:3])
    else:
        why = f"no fixation in its {rows} row(s)"
    if first is not None and all(row.reason == MALFORMED for row in found.dropped):
        why += " for its header; a decimal comma in a table of commas? Export it with semicolons, tabs or decimal points"
    if unknown:
        why += "; " + "; ".join(note for note in found.notes if note.startswith("unknown image"))
        why += "; name the file after its image, or say columns.image in gaze.toml"
    return f"{path}: none of it can be used ({len(found.dropped)} row(s) dropped); {why}"


def image_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of the upright image, from its header where that is enough; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(_ORIENTATION) in _TURNED else (height, width)
    except UnidentifiedImageError:
        pass  # DICOM, or no image
    except OSError:
        return None
    try:
        height, width = read_image(path).shape[:2]
    except ImageError:
        return None
    return height, width
