"""Stored colour to RGB: palettes and YCbCr (PS3.3 C.7.6.3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from .dicom_grey import big_endian, lookup_table
from .errors import MalformedImage, UnsupportedImage
from .pixels import check_wide_colour, unit_range

if TYPE_CHECKING:
    from pydicom import Dataset

_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
# DCMTK has grey at 127.5 and cuts off fractions, up to two levels from the equations. With these parts of a level added, what
# comes out is within one level of both.
_NEAR_BOTH = np.array([0.3, -0.05, 0.45])
_ROWS = 64  # at once, as float32; OpenCV's own arithmetic of 8 bit is coarser
_COLOURS = ("Red", "Green", "Blue")


def colour(values: np.ndarray, photometric: str, dataset: Dataset, bits: int, signed: bool, dtype: str) -> np.ndarray:
    """`(H, W)` palette indices or `(H, W, 3)` samples of `bits` bits -> `(H, W, 3)` RGB, uint8 or float32 in [0, 1].

    uint8: of more than 8 bit the eight highest, as other readers of colour do; fewer are spread over 256
    levels. float32: `pixels.unit_range`. Raises
    MalformedImage or UnsupportedImage.
    """
    if photometric == "PALETTE COLOR":
        values, bits = _palette(values, dataset, signed)
    elif photometric.startswith("YBR"):
        values, bits = _to_rgb(values, bits)
    if dtype == "float32":
        return unit_range(values)
    spread = values >> (bits - 8) if bits >= 8 else np.rint(values * (255 / ((1 << bits) - 1)))
    shown = np.ascontiguousarray(spread, np.uint8)
    if bits == 16 and photometric != "PALETTE COLOR":
        check_wide_colour(shown)
    return shown


def _palette(indices: np.ndarray, dataset: Dataset, signed: bool) -> tuple[np.ndarray, int]:
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        from pydicom.pixels.processing import apply_color_lut

        values = apply_color_lut(indices, dataset)
        return values, 8 * values.itemsize
    tables = []
    for name in _COLOURS:
        if f"{name}PaletteColorLookupTableData" not in dataset:
            raise MalformedImage("the DICOM file has palette colour and no palette")
        tables.append(lookup_table(dataset, f"{name}PaletteColorLookupTable", signed, big_endian(dataset)))
    bits = max(bits for _, _, bits in tables)
    planes = [
        table[np.clip(indices.astype(np.int64) - first, 0, len(table) - 1)].astype(np.uint16) for first, table, _ in tables
    ]
    return np.stack(planes, axis=2), bits


def _to_rgb(values: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """YBR_FULL by the equations of C.7.6.3.1.2, whose inverse is JPEG's. Raises UnsupportedImage."""
    if not 8 <= bits <= 16:
        raise UnsupportedImage(f"YCbCr of {bits} bit is not accepted; send 8 to 16")
    if bits > 8:
        values, bits = values.astype(np.uint16) << (16 - bits), 16
    offset = -_TO_RGB @ (0, 1 << (bits - 1), 1 << (bits - 1)) + (_NEAR_BOTH if bits == 8 else 0)
    matrix, out, most = np.column_stack([_TO_RGB, offset]), np.empty(values.shape, values.dtype), (1 << bits) - 1
    for row in range(0, len(values), _ROWS):
        out[row : row + _ROWS] = np.rint(cv2.transform(values[row : row + _ROWS].astype(np.float32), matrix)).clip(0, most)
    return out, bits
