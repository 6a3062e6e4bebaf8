"""The files that a path means, each recognised, each recording once, and what a file says by where it lies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from gazeseg_serve.errors import ConfigError, DatasetError

from .compose import assumptions, compose, recognised
from .csv_table import Table
from .formats import SUFFIXES, gaze_files, recognise
from .gazemedseg import NAME as PLAIN
from .layout import Layout, NotGazeError, stem_of
from .mapping import GazeMapping, load_mapping
from .names import ImageNames

READERS = "readers"  # a folder of this name holds a file, or a folder, a reader
_NAMED = 3  # files left aside that are named one by one
_SIDECARS = ("_physio", "_events", "_physioevents", "dataset_description", "participants", "info", "template")


def layouts_of(path: Path, images: ImageNames) -> tuple[list[Layout], GazeMapping, list[str]]:
    """The layouts of all files that `path` means, the mapping over them, and what to say of them.

    Raises DatasetError where none of the files is gaze that is known, and for one that is but cannot be read.
    """
    mapping = load_mapping(path) if path.suffix == ".toml" else GazeMapping()
    files = _files(path, mapping)
    found, aside = _recognised(files, mapping, images)
    if not found:
        why = f"; {next(iter(aside.values()))}" if aside else ""
        raise DatasetError(
            f"{path}: none of its {len(files)} file(s) is a tracker's gaze that is known{why}; write a gaze.toml"
        )
    notes = _aside(aside)
    layouts = [compose(one, mapping, images) for one in _once(found, mapping, notes)]
    layouts = _by_place(path, layouts, notes)
    told = Counter(recognised(layout) for layout in layouts)
    first = [f"{'' if count == 1 else f'{count} files: '}{text}" for text, count in told.items()]
    assumed = list(dict.fromkeys(text for layout in layouts for text in assumptions(layout)))
    if path.suffix != ".toml" and (path.parent / "gaze.toml").is_file() and path.name.startswith("fixations"):
        notes.append(f"{path.parent / 'gaze.toml'} is not read, since {path.name} is there; --gaze names it")
    return layouts, mapping, [*first, *assumed, *notes]


def fixation_file(root: Path) -> Path | None:
    """The file in a folder that is called fixations, whatever its ending."""
    plain = root / "fixations.csv"
    if plain.is_file():
        return plain
    others = (file for file in sorted(root.glob("fixations.*")) if file.is_file())
    return next((file for file in others if file.suffix.lower() in (*SUFFIXES, ".edf")), None)


def file_reader(layout: Layout) -> str:
    """The reader that a file stands for where nothing else says one: its name, or its folder's where it is one image's."""
    path = layout.table.path
    return path.parent.name if layout.image is not None else stem_of(path)


def _files(path: Path, mapping: GazeMapping) -> list[Path]:
    if path.suffix == ".toml":
        if not mapping.files:
            table = fixation_file(path.parent)
            if table is None:
                raise DatasetError(f'{path} names no files, and no fixations.csv is beside it; write files = ["raw/*.csv"]')
            return [table]
        files = [file for pattern in mapping.files for file in _matching(path, pattern)]
        if not files:
            raise DatasetError(f"{path}: no file matches {', '.join(mapping.files)} in {path.parent}")
        return list(dict.fromkeys(files))
    if not path.is_dir():
        return [path]
    files = [file for file in gaze_files(path) if file.suffix != ".json" or not _is_sidecar(file)]
    binary = [file for file in sorted(path.rglob("*.edf")) if not file.with_suffix(".asc").exists()]
    if not files and binary:
        return binary  # refused by its name
    if not files:
        raise DatasetError(f"{path} holds no .csv file or other gaze; put one fixation table a class there, named <CLASS>.csv")
    return files


def _matching(mapping: Path, pattern: str) -> list[Path]:
    """The files that one pattern of a mapping means, beside it or, where it begins at the root, anywhere."""
    try:
        top = Path(pattern).anchor
        found = Path(top).glob(pattern[len(top) :]) if top else mapping.parent.glob(pattern)
        return sorted(file for file in found if file.is_file())
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"{mapping}: files has the pattern {pattern!r} ({error}); write one like raw/*.csv") from error


def _is_sidecar(file: Path) -> bool:
    """Whether a JSON file describes another one, as BIDS and Pupil Labs have them."""
    beside = any(file.with_name(file.stem + end).exists() for end in (".tsv.gz", ".tsv", ".csv"))
    return beside or file.stem.endswith(_SIDECARS)


def _recognised(files: list[Path], mapping: GazeMapping, images: ImageNames) -> tuple[list[Layout | Table], dict[Path, str]]:
    """What the files are; of several, those that hold no gaze with the reason. One alone that holds none is an error."""
    found: list[Layout | Table] = []
    aside: dict[Path, str] = {}
    for file in files:
        try:
            one = recognise(file, images)
        except NotGazeError as error:
            if len(files) == 1:
                raise
            aside[file] = str(error)
            continue
        if isinstance(one, Table) and not mapping.columns.x and len(files) > 1:
            aside[file] = f"{file.name} is no tracker's gaze that is known"
        else:
            found.append(one)
    return found, aside


def _aside(aside: dict[Path, str]) -> list[str]:
    """What to say of files that hold no gaze."""
    notes = [f"{file.name} is left aside: {why}" for file, why in list(aside.items())[:_NAMED]]
    return notes + ([f"and {len(aside) - _NAMED} more files are left aside: they hold no gaze"] if len(aside) > _NAMED else [])


def _once(found: list[Layout | Table], mapping: GazeMapping, notes: list[str]) -> list[Layout | Table]:
    """Each recording once, where files hold it in two forms.

    A tracker's own fixations come before its raw samples, unless gaze.toml names columns of samples; of two eyes' files
    the first is read.
    """
    wanted = not mapping.columns.x or mapping.columns.fixations
    kept: dict[tuple[Path, str], Layout] = {}
    layouts = [one for one in found if isinstance(one, Layout) and one.recording is not None]
    for layout in sorted(layouts, key=lambda one: (one.columns.fixations != wanted, one.table.path)):
        key = (layout.table.path.parent, layout.recording or "")
        if key not in kept:
            kept[key] = layout
    second = [layout for layout in layouts if layout not in kept.values()]
    for layout in second[:_NAMED]:
        first = kept[layout.table.path.parent, layout.recording or ""].table.path.name
        notes.append(f"{layout.table.path.name} is left aside: {first} holds the same recording")
    if len(second) > _NAMED:
        notes.append(f"and {len(second) - _NAMED} more files are left aside: others hold the same recordings")
    return [one for one in found if not any(one is other for other in second)]


def _by_place(path: Path, layouts: list[Layout], notes: list[str]) -> list[Layout]:
    """What a folder says of its files: in one called readers each is a reader, in one of fixation tables each is a class."""
    if not path.is_dir():
        return layouts
    if path.name == READERS:
        return [one.replace(reader=_first_part(path, one), columns=one.columns.without_reader()) for one in layouts]
    if not all(one.name == PLAIN and one.columns.image and not one.columns.label and not one.columns.reader for one in layouts):
        return layouts
    if len(layouts) > 1:
        names = ", ".join(stem_of(one.table.path) for one in layouts)
        notes.append(f"each file is a class: {names}; if they are readers, call the folder {READERS}")
    return [one.replace(label=stem_of(one.table.path)) for one in layouts]


def _first_part(folder: Path, layout: Layout) -> str:
    parts = layout.table.path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else stem_of(layout.table.path)
