"""Tables as CSV text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence


def rows_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV of rows in the header's order; lines end in a newline alone."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def records_csv(records: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    """CSV of records by column; None: every name in the order in which it first appears. What a record lacks stays empty."""
    names = columns or list(dict.fromkeys(name for record in records for name in record))
    return rows_csv(names, [[record.get(name, "") for name in names] for record in records])
