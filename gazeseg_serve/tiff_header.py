"""The first directory of a TIFF, without opening it: what a reader makes of an entry may take seconds to be made."""

from __future__ import annotations

import struct

WIDTH, HEIGHT, STRIPS, TILES = 256, 257, 273, 324  # tags (TIFF 6.0, section 8 and 15)
_INTEGERS = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8
_MOST_ENTRIES = 100  # a directory of more is no image's


def directory(data: bytes) -> dict[int, tuple[int, int]]:
    """(how many values, the first of them or where they lie), by tag; either byte order, classic or BigTIFF.

    Raises struct.error where the bytes end too early.
    """
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] == 43:
        start, entries, count_and_value, value_at = struct.unpack_from(order + "Q", data, 8)[0], "Q", "QQ", 12
    else:
        start, entries, count_and_value, value_at = struct.unpack_from(order + "I", data, 4)[0], "H", "II", 8
    number = struct.unpack_from(order + entries, data, start)[0]
    entry = 4 + struct.calcsize(order + count_and_value)
    first = start + struct.calcsize(order + entries)
    found = {}
    for place in range(first, first + entry * min(number, _MOST_ENTRIES), entry):
        tag, kind = struct.unpack_from(order + "HH", data, place)
        count, value = struct.unpack_from(order + count_and_value, data, place + 4)
        if kind in _INTEGERS and count == 1:  # it stands at the beginning of its field
            value = struct.unpack_from(order + _INTEGERS[kind], data, place + value_at)[0]
        found[tag] = (count, value)
    return found


def pieces(data: bytes) -> int:
    """The number of strips or tiles that a TIFF announces; 0 where it cannot be told."""
    try:
        found = directory(data)
    except (struct.error, OverflowError):
        return 0
    return max(found.get(tag, (0, 0))[0] for tag in (STRIPS, TILES))
