"""A file's own layout and a user's gaze.toml laid over it, and which image each row is of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gazeseg_serve.errors import DatasetError

from .csv_table import Table, fold, repeated
from .gazemedseg import REQUIRED
from .layout import Header, Layout, stem_of
from .mapping import Columns, GazeMapping, Units, over
from .names import ImageNames
from .neon import SCENE_NAME, refuse_scene

_LOOK = 20_000  # rows from which the column of images is told
_DEFAULTS = Units("ms", position="pixels", origin="top left")


def compose(found: Layout | Table, mapping: GazeMapping, images: ImageNames) -> Layout:
    """What a file says of itself, and over it what gaze.toml says.

    Raises DatasetError for a file of no known format whose columns nobody names, and for a column that is there twice.
    """
    if isinstance(found, Table):
        if not mapping.columns.x:
            raise DatasetError(_unknown(found))
        found = Layout("table", "the columns that gaze.toml names", found, Columns(), _DEFAULTS)
    layout = _overlaid(found, mapping)
    if layout.name == SCENE_NAME and layout.area is None and not layout.areas:
        refuse_scene(layout)
    _check_repeated(layout)
    return _with_image(layout, mapping, images)


def _unknown(table: Table) -> str:
    head = Header(table.names)
    missing = [name for name in REQUIRED if name not in head]
    return (
        f"{table.path} is no tracker's file that is known, and as a table of fixations it lacks the column(s) "
        f"{', '.join(missing)}; its header is: {', '.join(table.names) or 'empty'}. Name its columns in a gaze.toml"
    )


def _overlaid(layout: Layout, mapping: GazeMapping) -> Layout:
    said, known, units = mapping.columns, layout.columns, layout.units
    notes = (*layout.notes, *layout.table.notes)
    if layout.made and said != Columns():
        said = Columns()
        notes += (f"{layout.name} has no columns, so those that gaze.toml names are not used",)
    if said.x and not _same(layout.table, said.x, known.x):
        # Other columns than the format's own: their units and validity are the user's to say.
        known = Columns(image=known.image, reader=known.reader, trial=known.trial, eye=known.eye)
        units = Units(time=units.time, origin=units.origin, missing=units.missing)
    if said.validity and not _same(layout.table, said.validity, layout.columns.validity):
        units = dataclasses.replace(units, valid=None, valid_from=None, valid_to=None)
    columns = over(said, known)
    if mapping.units.time is None and said.time and said.time != layout.columns.time and layout.name != "table":
        units = dataclasses.replace(units, time=None)
    if mapping.area is not None:
        columns = dataclasses.replace(columns, area=())
    reader = layout.reader
    if mapping.reader == "file":
        columns, reader = columns.without_reader(), stem_of(layout.table.path)
    elif mapping.reader is not None:
        columns = dataclasses.replace(columns, reader=mapping.reader)
    pixels, own = mapping.screen.pixels, layout.screen.pixels
    if pixels and own and pixels != own:
        notes += (
            f"{layout.table.path.name}: gaze.toml says a screen of {pixels[0]} x {pixels[1]} pixels, the file itself "
            f"{own[0]} x {own[1]}; gaze.toml's is used",
        )
    return layout.replace(
        columns=columns,
        units=over(over(mapping.units, units), _DEFAULTS),
        screen=over(mapping.screen, layout.screen),
        area=mapping.area or layout.area,
        areas=mapping.areas if mapping.area is not None else {**layout.areas, **mapping.areas},
        only={**layout.only, **mapping.only},
        reader=reader,
        notes=notes,
    )


def _same(table: Table, one: Sequence[str], other: Sequence[str]) -> bool:
    return [table.column(name) for name in one] == [table.column(name) for name in other]


def _check_repeated(layout: Layout) -> None:
    """Raises DatasetError where a column that is read stands more than once in the header."""
    columns = layout.columns
    used = [value for value in dataclasses.astuple(columns) if value]
    flat = {fold(name) for value in used for name in (value if isinstance(value, tuple) else (value,))}
    twice = sorted(flat & repeated(layout.table.names))
    if twice:
        own = [name for name in layout.table.names if fold(name) == twice[0]]
        raise DatasetError(f"{layout.table.path} has the column {own[0]} {len(own)} times; delete or rename those not meant")


def _with_image(layout: Layout, mapping: GazeMapping, images: ImageNames) -> Layout:
    """The layout with its rows' image: a column, one for the whole file, or the file's or folder's name."""
    path, columns = layout.table.path, layout.columns
    if mapping.columns.image and not layout.made:
        return _carried(layout)
    named = images.of_file(path.name) if path.name else None
    if mapping.columns.x and not layout.made and named is not None:
        return layout.replace(columns=dataclasses.replace(columns, image=None), image=named)
    if layout.image is not None:
        return layout.replace(columns=dataclasses.replace(columns, image=None))
    if columns.image and _matches(layout.table, columns.image, images):
        return _carried(layout)
    column, note = _image_column(layout, images)
    if column is not None:
        layout = layout.replace(columns=dataclasses.replace(columns, image=column), notes=(*layout.notes, note))
        return _carried(layout)
    if columns.image:
        return layout
    folder = images.match(path.parent.name)
    if named is None and folder is None and note:
        raise DatasetError(f"{path}: {note}")
    return layout.replace(image=named or folder or stem_of(path))


def _matches(table: Table, name: str, images: ImageNames) -> bool:
    place = table.require(name)[0]
    for count, (_, cells) in enumerate(table):
        if count >= _LOOK:
            return False
        if cells is not None and images.match(cells[place]) is not None:
            return True
    return False


def _image_column(layout: Layout, images: ImageNames) -> tuple[str | None, str]:
    """The column whose cells name images of the dataset, and what to say of it; (None, "") where none does.

    A column of bare numbers, as indices are, is chosen only where all its cells are images and no other column will do.
    (None, why) where several columns would do.
    """
    table, columns = layout.table, layout.columns
    used = [value for value in dataclasses.astuple(columns) if value]
    taken = {fold(name) for value in used for name in (value if isinstance(value, tuple) else (value,))}
    places = [i for i, name in enumerate(table.names) if name and fold(name) not in taken]
    filled, matched, plain = dict.fromkeys(places, 0), dict.fromkeys(places, 0), dict.fromkeys(places, True)
    for count, (_, cells) in enumerate(table):
        if count >= _LOOK:
            break
        for place in places if cells is not None else ():
            cell = cells[place]  # type: ignore[index]
            if cell and cell != ".":
                filled[place] += 1
                matched[place] += images.match(cell) is not None
                plain[place] &= cell.lstrip("-").isdigit()
    good = [i for i in places if matched[i] and matched[i] >= (1.0 if plain[i] else 0.5) * filled[i]]
    best = [i for i in good if not plain[i]] or good
    names = [table.names[i] for i in best]
    if len(best) == 1:
        return names[0], f"{table.path.name}: the column {names[0]} names the images"
    return None, f"the columns {', '.join(names)} all name images; say columns.image in gaze.toml" if best else ""


def _carried(layout: Layout) -> Layout:
    """The layout with an image's name written down its rows, where it stands on the first row of each image alone."""
    if layout.columns.image is None or layout.columns.fixations:
        return layout
    table, place = layout.table, layout.table.require(layout.columns.image)[0]
    named, longest, run, empty, last = 0, 0, 0, 0, ""
    for _, cells in table:
        cell = cells[place] if cells is not None else ""
        run = run + 1 if cell and cell == last else int(bool(cell))
        longest, named, empty, last = max(longest, run), named + bool(cell), empty + (not cell), cell
    if not named or longest > 1 or empty < 10 * named:
        return layout
    rows: list[tuple[int, Sequence[str] | None]] = []
    image = ""
    for line, cells in table:
        if cells is not None:
            image = cells[place] or image
            cells = [*cells[:place], image, *cells[place + 1 :]]
        rows.append((line, cells))
    note = f"{table.path.name}: an image's name stands on its first row alone, and holds until the next one"
    return layout.replace(table=dataclasses.replace(table, records=rows), notes=(*layout.notes, note))


def assumptions(layout: Layout) -> list[str]:
    """What is taken for granted of a file, one sentence each."""
    told = []
    screen, position = layout.screen, layout.units.position or ""
    placed = layout.area is not None or layout.areas or layout.columns.area
    if screen.pixels and not position.startswith("image") and not placed:
        told.append(
            f"every image is taken to have been as large as fits the screen of {screen.pixels[0]} x {screen.pixels[1]} pixels, "
            "in its middle; [area] in gaze.toml says otherwise"
        )
    if not layout.columns.fixations and not screen.physical:
        seen = screen.monitor()
        told.append(
            f"the screen is taken to be {seen.width_cm:.1f} x {seen.height_cm:.1f} cm, {seen.distance_cm:.0f} cm away, "
            "to find fixations by degrees; [screen] in gaze.toml says otherwise"
        )
    return told


def recognised(layout: Layout) -> str:
    """One line on a file: what it is and how that was told."""
    kind = "fixations" if layout.columns.fixations else "raw samples"
    return f"{layout.name} ({kind}), told by {layout.how}"
