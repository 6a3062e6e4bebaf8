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
from .compose import assumptions, compose, recognised
from .csv_table import Table
from .fixation_rows import READING, Found
from .formats import SUFFIXES, gaze_files, recognise
from .gazemedseg import NAME as PLAIN
from .layout import Layout, stem_of
from .mapping import GazeMapping, load_mapping
from .names import ImageNames
from .rows import read_rows
from .scan_paths import MALFORMED, UNKNOWN_IMAGE, FixationTable, scan_path
from .track_loss import Looked, shares, track_loss

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


def fixation_file(root: Path) -> Path | None:
    """The file in a folder that is called fixations, whatever its ending."""
    plain = root / SOURCES[0]
    if plain.is_file():
        return plain
    others = (file for file in sorted(root.glob("fixations.*")) if file.is_file())
    return next((file for file in others if file.suffix.lower() in (*SUFFIXES, ".edf")), None)


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
    layouts, mapping, notes = _layouts(path, images)
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
    return dataclasses.replace(table, rows=count, track_loss=shares(looked, table.paths))


def _layouts(path: Path, images: ImageNames) -> tuple[list[Layout], GazeMapping, list[str]]:
    """The layouts of all files that `path` means, the mapping over them, and what to say of them."""
    mapping = load_mapping(path) if path.suffix == ".toml" else GazeMapping()
    files, alone = _files(path, mapping), path.is_file() and path.suffix != ".toml"
    layouts, notes = [], []
    for file in files:
        found = recognise(file, images)
        if isinstance(found, Table) and not mapping.columns.x and len(files) > 1 and not alone:
            notes.append(f"{file.name} is left aside: it is no tracker's gaze that is known")
            continue
        layouts.append(compose(found, mapping, images))
    if not layouts:
        raise DatasetError(f"{path}: none of its {len(files)} file(s) is a tracker's gaze that is known; write a gaze.toml")
    layouts = _once(layouts, notes)
    layouts = _by_file(path, layouts, mapping, notes)
    told = Counter(recognised(layout) for layout in layouts)
    first = [f"{'' if count == 1 else f'{count} files: '}{text}" for text, count in told.items()]
    assumed = list(dict.fromkeys(text for layout in layouts for text in assumptions(layout)))
    if path.suffix != ".toml" and (path.parent / "gaze.toml").is_file() and path.name.startswith("fixations"):
        notes.append(f"{path.parent / 'gaze.toml'} is not read, since {path.name} is there; --gaze names it")
    return layouts, mapping, [*first, *assumed, *notes]


def _files(path: Path, mapping: GazeMapping) -> list[Path]:
    if path.suffix == ".toml":
        if not mapping.files:
            table = fixation_file(path.parent)
            if table is None:
                raise DatasetError(f'{path} names no files, and no fixations.csv is beside it; write files = ["raw/*.csv"]')
            return [table]
        files = [file for pattern in mapping.files for file in sorted(path.parent.glob(pattern)) if file.is_file()]
        if not files:
            raise DatasetError(f"{path}: no file matches {', '.join(mapping.files)} in {path.parent}")
        return list(dict.fromkeys(files))
    if path.is_dir():
        files = [file for file in gaze_files(path) if file.suffix != ".json" or not _is_sidecar(file)]
        if not files:
            raise DatasetError(
                f"{path} holds no .csv file or other gaze; put one fixation table a class there, named <CLASS>.csv"
            )
        return files
    return [path]


def _is_sidecar(file: Path) -> bool:
    """Whether a JSON file describes another one, as BIDS and Pupil Labs have them."""
    return any(file.with_name(file.stem + end).exists() for end in (".tsv.gz", ".tsv", ".csv")) or file.stem.endswith(
        ("_physio", "_events", "_physioevents", "dataset_description", "participants", "info")
    )


def _once(layouts: list[Layout], notes: list[str]) -> list[Layout]:
    """The layouts without second forms of one recording: raw samples before fixations, the first eye before the other."""
    kept: dict[tuple[Path, str], Layout] = {}
    for layout in sorted(layouts, key=lambda one: (one.columns.fixations, one.table.path)):
        key = (layout.table.path.parent, layout.recording or str(layout.table.path))
        if key in kept:
            first = kept[key].table.path.name
            notes.append(f"{layout.table.path.name} is left aside: {first} holds the same recording")
        else:
            kept[key] = layout
    return [layout for layout in layouts if layout in kept.values()]


def _by_file(path: Path, layouts: list[Layout], mapping: GazeMapping, notes: list[str]) -> list[Layout]:
    """In a folder of fixation tables a file is a class, in one called readers a reader."""
    if not path.is_dir() or not all(one.columns.fixations and one.columns.image and not one.columns.label for one in layouts):
        return layouts
    if path.name == "readers":
        return [one.replace(reader=stem_of(one.table.path), columns=one.columns.without_reader()) for one in layouts]
    if len(layouts) > 1:
        names = ", ".join(stem_of(one.table.path) for one in layouts)
        notes.append(f"each file is a class: {names}; if they are readers, call the folder readers")
    return [one.replace(label=stem_of(one.table.path)) for one in layouts]


def _merge(parts: list[tuple[Layout, Found]], found: Found) -> None:
    """Put the files together. Files that show one image without naming their reader are taken for one reader each."""
    seen = Counter(stem for _, part in parts for stem in {stem for stem, reader in part.kept if not reader})
    several = {stem for stem, count in seen.items() if count > 1}
    for layout, part in parts:
        for (stem, reader), fixations in part.kept.items():
            name = reader or (stem_of(layout.table.path) if several and layout.label is None else "")
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
        why += "; a decimal comma in a table of commas? Export it with semicolons, tabs or decimal points"
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
