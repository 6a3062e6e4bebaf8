"""Tables as people's programs write them: every encoding, line end, delimiter and quotation mark; no row is lost uncounted."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazeseg_serve.errors import DatasetError
from gazeseg_serve.training.gaze import scan_paths as sp
from gazeseg_serve.training.gaze.csv_table import Table, number, read_table, table_of_text
from gazeseg_serve.training.gaze.fixations import read_fixations

HEADER = ("IMAGE", "CURRENT_FIX_INDEX", "CURRENT_FIX_X", "CURRENT_FIX_Y", "CURRENT_FIX_DURATION", "CURRENT_FIX_START", "NOTE")
ROWS = [(f"Bär {n % 2}.png", str(n), "0.25", "0.75", "200", str(250 * n), f"n{n}") for n in range(1, 9)]
STEMS = ("Bär 0", "Bär 1")


def text(delimiter: str = ",", end: str = "\n", rows: list[tuple[str, ...]] | None = None) -> str:
    return end.join(delimiter.join(row) for row in [HEADER, *(rows or ROWS)]) + end


def check(path: Path) -> None:
    read = read_fixations(path, STEMS)
    assert read.reasons == {}
    assert [len(scan) for scan in read.paths.values()] == [4, 4]
    for scan in read.paths.values():
        np.testing.assert_array_equal(scan.x, 0.25)
        np.testing.assert_array_equal(scan.y, 0.75)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    path = tmp_path / "fixations.csv"
    path.write_bytes(text(end=end).encode(encoding))
    check(path)


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("decimals", [".", ","])
def test_delimiters_and_decimal_commas(tmp_path, delimiter, decimals):
    rows = [tuple(cell.replace("0.", f"0{decimals}") if i in (2, 3) else cell for i, cell in enumerate(row)) for row in ROWS]
    path = tmp_path / "fixations.csv"
    path.write_text(text(delimiter, rows=rows), encoding="utf-8")
    if delimiter == decimals:
        with pytest.raises(DatasetError, match=r"none of it.*a decimal comma in a table of commas"):
            read_fixations(path, STEMS)
    else:
        check(path)


@pytest.mark.parametrize(
    "before", ["sep=;\n", "# made by a tracker; 2024\n% and more; lines; than; one\n", "\n\n", "// a, b\n"]
)
def test_lines_above_the_header(tmp_path, before):
    path = tmp_path / "fixations.csv"
    path.write_text(before + text(";"), encoding="utf-8")
    check(path)


def test_a_header_behind_a_comment_sign():
    table = table_of_text(Path("a.csv"), "# by hand\n# t, x, y\n1,2,3\n4,5,6\n")
    assert table.names == ("t", "x", "y")
    assert [cells for _, cells in table] == [["1", "2", "3"], ["4", "5", "6"]]
    assert [line for line, _ in table] == [3, 4]


def test_gzip_and_workbook(tmp_path):
    packed = tmp_path / "fixations.csv.gz"
    packed.write_bytes(gzip.compress(text().encode()[:100]) + gzip.compress(text().encode()[100:]))
    check(packed)
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["", *[""] * 6])  # a blank row above
    for row in [HEADER, *ROWS]:
        book.active.append([float(cell) if i in (2, 3) and cell[0].isdigit() else cell for i, cell in enumerate(row)])
    book.create_sheet("more").append(["x"])
    book.save(tmp_path / "fixations.xlsx")
    check(tmp_path / "fixations.xlsx")
    assert any("the sheets more are not read" in note for note in read_fixations(tmp_path / "fixations.xlsx", STEMS).notes)


@given(st.integers(0, 2**32), st.sampled_from([",", "\t", ";"]))
def test_stray_quotation_marks_swallow_nothing(tmp_path_factory, seed, delimiter):
    """Marks anywhere in a column that nobody reads: as many rows come out as went in."""
    chance = random.Random(seed)
    rows = []
    for row in ROWS:
        note = list(row[6])
        for _ in range(chance.randint(0, 2)):
            note.insert(chance.randint(0, len(note)), '"')
        rows.append((*row[:6], "".join(note)))
    path = tmp_path_factory.mktemp("quotes") / "fixations.csv"
    path.write_text(text(delimiter, rows=rows), encoding="utf-8")
    check(path)


def test_cells_in_quotation_marks_hold_delimiters_marks_and_line_ends():
    table = table_of_text(Path("a.csv"), 'a,b,c\n1,"x, ""y""",3\n4,"two\nlines",6\n7,"bro"ken,9\n')
    assert list(table) == [(2, ["1", 'x, "y"', "3"]), (3, ["4", "two\nlines", "6"]), (5, ["7", '"bro"ken', "9"])]


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4), max_size=5), max_size=8))
def test_every_line_is_a_row_or_is_counted(cells):
    """Whatever the cells hold: each line that is not blank is handed on once, as a row or as None."""
    lines = [",".join(cell.replace("\n", " ").replace("\r", " ") for cell in row) for row in cells]
    table = table_of_text(Path("a.csv"), "a,b,c\n" + "\n".join(lines) + "\n")
    handed = sum(1 + (cells is not None and any("\n" in cell for cell in cells)) for _, cells in table)
    told = [line for line in lines if line.replace(",", "").replace('"', "").strip() and not line.startswith(("#", "%", "//"))]
    assert handed >= len(told) - sum(line.count('"') for line in lines)
    assert len({line for line, _ in table}) == sum(1 for _ in table)


def test_a_column_twice_is_refused_only_where_it_is_read(tmp_path):
    path = tmp_path / "fixations.csv"
    path.write_text(text().replace("NOTE", "CURRENT_FIX_X"), encoding="utf-8")
    with pytest.raises(DatasetError, match="column CURRENT_FIX_X 2 times"):
        read_fixations(path, STEMS)
    path.write_text("\n".join(line + ",x" for line in text().replace("NOTE", "IA").splitlines()).replace(",x", ",IA", 1))
    check(path)


@pytest.mark.parametrize(
    "cell", ["", ".", "-", "NA", "n/a", "#N/A", "NaN", "None", "null", "-9999", "-32768", "1e8", "100000000"]
)
def test_codes_for_no_gaze(tmp_path, cell):
    rows = [*ROWS, ("Bär 0.png", "90", cell, cell, "200", "9000", "")]
    path = tmp_path / "fixations.csv"
    path.write_text(text(rows=rows), encoding="utf-8")
    read = read_fixations(path, STEMS)
    assert read.reasons == {sp.LOST: 1}
    assert read.dropped == ()


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("0.5", 0.5),
        ("0,5", 0.5),
        (",5", 0.5),
        ("-1,25e2", -125),
        ("1.234,5", None),
        ("1,234,5", None),
        ("1_0", None),
        ("", None),
    ],
)
def test_numbers(cell, value):
    assert number(cell) == value if value is not None else np.isnan(number(cell))


def test_columns_are_found_by_any_spelling():
    table = Table(Path("a.csv"), ("Time \u00b5s", "TIME(2021/07/13 09:21)", "TIMETICK(f=10)", "X [px]", "X [mm]"))
    assert table.column("time \u03bcS") == "Time \u00b5s"
    assert table.column("TIME") == table.column("TIME(1999/01/01)") == "TIME(2021/07/13 09:21)"
    assert table.column("X [cm]") is None
    assert table.column("y") is None
    with pytest.raises(DatasetError, match="2 columns are called 'X'"):
        table.column("X")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: "480", 3: "270"}, "size in pixels it does not say"),
        ({2: "25", 3: "75"}, r"are percent.*image_percent"),
        ({4: "0.2"}, r"durations are in s, not in ms"),
        ({4: "200000"}, r"durations are in us, not in ms"),
    ],
)
def test_a_wrong_unit_is_named_with_the_fix(tmp_path, change, message):
    rows = [tuple(change.get(i, cell) for i, cell in enumerate(row)) for row in ROWS]
    path = tmp_path / "fixations.csv"
    path.write_text(text(rows=rows), encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        read_fixations(path, STEMS)


def test_a_table_is_walked_again():
    table = table_of_text(Path("a.csv"), "a,b\n1,2\n\n3\n")
    assert list(table) == list(table) == [(2, ["1", "2"]), (4, None)]


def test_a_table_that_unpacks_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    from gazeseg_serve.training.gaze import file_text

    monkeypatch.setattr(file_text, "LIMIT", 1000)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"0" * 2000))
    with pytest.raises(DatasetError, match="unpacks to more than 1000 bytes"):
        read_table(path)
    path.write_bytes(b"0" * 2000)
    with pytest.raises(DatasetError, match="2000 bytes, the limit is 1000"):
        read_table(path)


def test_a_sheet_is_as_large_as_its_cells_not_as_it_says(tmp_path, monkeypatch):
    import zipfile

    from gazeseg_serve.training.gaze import file_text

    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [HEADER, *(row[:6] for row in ROWS)]:  # the last cell of each row is empty
        book.active.append(list(row))
    book.save(tmp_path / "plain.xlsx")
    path = tmp_path / "fixations.xlsx"
    with zipfile.ZipFile(tmp_path / "plain.xlsx") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'ref="A1:G9"', b'ref="A1:XFD1048576"'))
    assert b"XFD1048576" in zipfile.ZipFile(path).read("xl/worksheets/sheet1.xml")
    check(path)
    monkeypatch.setattr(file_text, "_CELLS", 20)
    with pytest.raises(DatasetError, match="more than 20 cells"):
        read_table(path)
