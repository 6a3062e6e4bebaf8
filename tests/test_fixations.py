"""Fixation tables: what is kept, and that everything else is named by file, line and reason."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazeseg_serve.errors import DatasetError
from gazeseg_serve.training.gaze import scan_paths as fx
from gazeseg_serve.training.gaze.fixations import ScanPath, read_fixations, write_fixations
from gazeseg_serve.training.gaze.names import ImageNames

HEADER = "IMAGE,CURRENT_FIX_INDEX,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION,CURRENT_FIX_START"


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "fixations.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_rows_of_an_image_are_one_scan_path_in_the_order_of_the_file(tmp_path):
    path = table(tmp_path, "b.jpg,1,0.25,0.5,300,7", "a.jpg,1,0,1,50,7", "b.jpg,2,0.75,0.125,200,400")
    read = read_fixations(path, ["a", "b", "c"])
    assert list(read.paths) == ["a", "b"]
    assert read.skipped == {"c": "no usable fixation"}
    assert read.dropped == ()
    np.testing.assert_array_equal(read.paths["b"].x, [0.25, 0.75])
    np.testing.assert_array_equal(read.paths["b"].y, [0.5, 0.125])
    np.testing.assert_array_equal(read.paths["b"].duration, [300, 200])
    assert read.paths["b"].x.dtype == np.float64
    assert read.paths["b"].gaze_ms == 500


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.jpg,2,1.0001,0.5,300,500", fx.OFF_SCREEN),
        ("a.jpg,2,0.5,-0.1,300,500", fx.OFF_SCREEN),
        ("a.jpg,2,0.5,inf,300,500", fx.NOT_A_NUMBER),
        ("a.jpg,2,left,0.5,300,500", fx.NOT_A_NUMBER),
        ("a.jpg,2,0.5,0.5,300,later", fx.NOT_A_NUMBER),
        ("a.jpg,2,0.5,0.5,-1,500", fx.NEGATIVE),
        ("z.jpg,2,0.5,0.5,300,500", fx.UNKNOWN_IMAGE),
        (",2,0.5,0.5,300,500", fx.UNKNOWN_IMAGE),
        ("a.jpg,1,0.5,0.5,300,500", fx.DUPLICATE),
        ("a.jpg,2,0.5,0.5,300,6", fx.BACKWARDS),
        ("a.jpg,2,0.5,0.5,300", fx.MALFORMED),
        ("a.jpg,2,0.5,0.5,300,500,1", fx.MALFORMED),
    ],
)
def test_a_bad_row_is_dropped_and_named(tmp_path, row, reason):
    path = table(tmp_path, "a.jpg,1,0.5,0.5,300,7", row, "a.jpg,9,0.5,0.5,300,900")
    read = read_fixations(path, ["a"])
    assert len(read.paths["a"]) == 2
    assert [(d.file, d.line, d.reason) for d in read.dropped] == [(str(path), 3, reason)]
    assert read.reasons == {reason: 1}
    with pytest.raises(DatasetError, match=rf"line 3: {reason}"):
        read.require_clean()


def test_a_class_has_its_own_indices_and_clock(tmp_path):
    path = table(
        tmp_path,
        "a,1,0.5,0.5,300,700,liver",
        "a,1,0.5,0.5,300,7,kidney",
        "a,2,0.5,0.5,300,500,spleen",
        header=HEADER + ",CLASS",
    )
    read = read_fixations(path, ["a"], classes=("liver", "kidney"))
    np.testing.assert_array_equal(read.paths["a"].label, [1, 2])
    assert len(read.paths["a"].of(2)) == 1
    assert read.reasons == {fx.UNKNOWN_CLASS: 1}
    assert read_fixations(path, ["a"]).classes == ("kidney", "liver", "spleen")


def test_numbered_classes_are_in_order_of_their_numbers(tmp_path):
    path = table(tmp_path, *(f"a,{i},0.5,0.5,300,{i},{i}" for i in range(1, 12)), header=HEADER + ",CLASS")
    assert read_fixations(path, ["a"]).classes == tuple(map(str, range(1, 12)))


def test_one_table_a_class(tmp_path):
    folder = tmp_path / "fixations"
    folder.mkdir()
    for name in ("rv", "lv"):
        table(folder, "a,1,0.5,0.5,300,7").rename(folder / f"{name}.csv")
    read = read_fixations(folder, ["a"], classes=("rv", "lv"))
    np.testing.assert_array_equal(np.sort(read.paths["a"].label), [1, 2])
    (folder / "rv.csv").unlink()
    (folder / "lv.csv").unlink()
    with pytest.raises(DatasetError, match=r"no \.csv file"):
        read_fixations(folder, ["a"])


def test_several_classes_without_a_class_column_are_an_error(tmp_path):
    with pytest.raises(DatasetError, match="add a CLASS column"):
        read_fixations(table(tmp_path, "a,1,0.5,0.5,300,7"), ["a"], classes=("liver", "kidney"))


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_separators_quotes_and_a_byte_order_mark(tmp_path, separator):
    rows = [HEADER, '"a.jpg",1,"0.5",0.25,300,7', ",,,,,", "a.jpg,2,0.5,0.25,300,400"]
    path = tmp_path / "t.csv"
    path.write_text("\r\n".join(rows).replace(",", separator), encoding="utf-8-sig")
    assert len(read_fixations(path, ["a"]).paths["a"]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks the column"),
        (HEADER + "\n", "no row"),
        (HEADER.replace("CURRENT_FIX_X", "X").replace("IMAGE", "TRIAL") + "\na,1,0.5,0.5,300,7\n", "IMAGE, CURRENT_FIX_X;"),
        (HEADER + "\nb,1,0.5,0.5,300,7\n", "none of it can be used .1 row"),
        (b"\xff\xfe\x00", "cannot be read"),
        (HEADER + "\n" + "a" * 200_000 + "\n", "none of it can be used"),
    ],
)
def test_an_unusable_table_is_an_error_that_says_why(tmp_path, content, message):
    path = tmp_path / "fixations.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=message):
        read_fixations(path, ["a"])


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        read_fixations(tmp_path / "no.csv", ["a"])


@pytest.mark.parametrize(
    ("cell", "stem"),
    [
        ("a.jpg", "a"),
        ("a", "a"),
        ("1.2.840", "1.2.840"),
        ("1.2.840.jpg", "1.2.840"),
        (r"C:\gaze\a.png", "a"),
        ("images/a.dcm", "a"),
        ("other.jpg", None),
    ],
)
def test_an_image_is_matched_by_its_stem(cell, stem):
    assert ImageNames({"a", "1.2.840"}).match(cell) == stem


positions = st.floats(0, 1)


@given(st.lists(st.tuples(positions, positions, st.integers(0, 5000), st.integers(1, 2)), min_size=1, max_size=20))
def test_what_is_written_is_read_back(tmp_path_factory, rows):
    x, y, duration, label = (np.array(column) for column in zip(*rows, strict=True))
    scan = ScanPath(x.astype(float), y.astype(float), duration.astype(float), label)
    path = tmp_path_factory.mktemp("table") / "fixations.csv"
    write_fixations(path, {"a": scan}, {"a": (10, 20)}, ("one", "two"))
    read = read_fixations(path, ["a"], ("one", "two"))
    assert read.dropped == ()
    for name in ("x", "y", "duration", "label"):
        np.testing.assert_array_equal(getattr(read.paths["a"], name), getattr(scan, name))
