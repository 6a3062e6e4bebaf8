"""CSV text against the csv module's own reader."""

from __future__ import annotations

import csv
import io

from gazeseg_serve.csv_text import records_csv, rows_csv


def test_rows_come_back_as_they_were_written() -> None:
    rows = [["a,b", 'say "x"', 1.5], ["line\nbreak", "", None]]
    text = rows_csv(["one", "two", "three"], rows)
    assert list(csv.reader(io.StringIO(text))) == [
        ["one", "two", "three"],
        ["a,b", 'say "x"', "1.5"],
        ["line\nbreak", "", ""],
    ]
    assert "\r" not in text


def test_records_keep_the_order_of_names_and_leave_gaps_empty() -> None:
    assert records_csv([{"b": 1}, {"a": 2, "b": 3}]) == "b,a\n1,\n3,2\n"
    assert records_csv([{"b": 1, "a": 2}], ["a", "b"]) == "a,b\n2,1\n"
