"""Stored grey values to what a display would show: modality, padding, VOI and polarity (PS3.3 C.11.1, C.11.2, C.7.5.1.1.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import MalformedImage, UnsupportedImage
from .pixels import eight_bit, map_values, unit_range

if TYPE_CHECKING:
    from pydicom import Dataset

Voi = Callable[[np.ndarray], np.ndarray]


def grey(
    values: np.ndarray,
    parameters: Dataset,
    bits: int,
    signed: bool,
    dtype: str,
    window: tuple[float, float] | None = None,
) -> np.ndarray:
    """`(H, W)` integers as stored -> `(H, W, 1)` uint8 as displayed, or float32 in [0, 1] at the file's own depth.

    parameters: the elements that hold for this frame. bits, signed: of a stored value.
    uint8: the modality transform, then the first VOI LUT or window. Without one, up to 8 bit keep their scale (0 to
    2**bits - 1, or the signed range, is black to white), and more are brought to 8 bit as `pixels.eight_bit` does. A
    window that cannot be used is as none. float32: the modality transform, then `pixels.unit_range`.
    window: in place of all that, the modality value that is black and the one that is white (0 and 1), whatever the file
    says of windows and polarity, as Hounsfield units have neither.
    Padding has no part in any scale, and is black. Raises MalformedImage where the transform makes nothing that can be
    shown, UnsupportedImage where a window is asked for and the file has no rescale to Hounsfield units.
    """
    if window is not None:
        _check_hounsfield(parameters)

    def shown(levels: np.ndarray) -> np.ndarray:
        kept = ~_padding(levels, parameters, signed)
        result = np.zeros(len(levels), dtype)
        if kept.any():
            result[kept] = _displayed(_modality(levels[kept], parameters, signed), parameters, bits, signed, dtype, window)
        return result

    return map_values(values, shown)[..., None]


def _check_hounsfield(parameters: Dataset) -> None:
    named = str(parameters.get("RescaleType") or "HU")
    if number(parameters, "RescaleIntercept") is None or named != "HU":
        found = f"a rescale to {named[:16]!r}" if named != "HU" else "no rescale"
        raise UnsupportedImage(
            f"the model takes CT in Hounsfield units, and the DICOM file has {found}; send the CT image itself"
        )


def _displayed(
    modality: np.ndarray,
    parameters: Dataset,
    bits: int,
    signed: bool,
    dtype: str,
    window: tuple[float, float] | None,
) -> np.ndarray:
    if not math.isfinite(float(modality.max()) - float(modality.min())):
        raise MalformedImage("the rescale values of the DICOM file make pixels that are not finite; correct them")
    if window is not None:
        share = np.clip((modality - window[0]) / (window[1] - window[0]), 0, 1)
        return share.astype(np.float32) if dtype == "float32" else _rounded(share * 255)
    inverted = parameters.get("PhotometricInterpretation") == "MONOCHROME1"
    if dtype == "float32":
        return unit_range(-modality if inverted else modality)
    voi = _voi_lut(parameters, signed or modality.min() < 0) or _window(parameters)
    if voi is None and bits <= 8 and not parameters.get("ModalityLUTSequence"):
        low, high = _full_range(bits, signed, parameters)
        result = _rounded((modality - low) * (255 / (high - low)))
    elif voi is None:
        result = eight_bit(modality)
    else:
        result = _rounded(voi(modality))
    return 255 - result if inverted else result


def _rounded(values: np.ndarray) -> np.ndarray:
    """To uint8; halves go down, so that a window of width 256 at 127.5, which adds a half, changes nothing."""
    return np.ceil(np.clip(values, 0, 255) - 0.5 - 1e-9).astype(np.uint8)


def _padding(levels: np.ndarray, parameters: Dataset, signed: bool) -> np.ndarray:
    """Which stored values are padding: one value, or a range with PixelPaddingRangeLimit as its other end."""
    ends = [number(parameters, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if signed:  # some files write a negative value as its 16 bits
        ends = [end - 0x10000 if end is not None and 0x7FFF < end <= 0xFFFF else end for end in ends]
    if ends[0] is None:
        return np.zeros(len(levels), bool)
    last = ends[0] if ends[1] is None else ends[1]
    return (levels >= min(ends[0], last)) & (levels <= max(ends[0], last))


def _modality(levels: np.ndarray, parameters: Dataset, signed: bool) -> np.ndarray:
    sequence = parameters.get("ModalityLUTSequence")
    if sequence:
        first, table, _ = lookup_table(sequence[0], "LUT", signed, big_endian(parameters))
        return table[np.clip(levels - first, 0, len(table) - 1)].astype(np.float64)
    slope, intercept = number(parameters, "RescaleSlope"), number(parameters, "RescaleIntercept")
    if slope == 0:
        raise MalformedImage("the rescale slope of the DICOM file is 0, which makes all pixels one; correct it")
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at by the caller
        return levels * (1.0 if slope is None else slope) + (0.0 if intercept is None else intercept)


def _full_range(bits: int, signed: bool, parameters: Dataset) -> tuple[float, float]:
    ends = np.array([-(1 << (bits - 1)), (1 << (bits - 1)) - 1] if signed else [0, (1 << bits) - 1])
    low, high = _modality(ends, parameters, signed)
    return min(low, high), max(low, high)


def _voi_lut(parameters: Dataset, signed: bool) -> Voi | None:
    sequence = parameters.get("VOILUTSequence")
    if not sequence:
        return None
    first, table, bits = lookup_table(sequence[0], "LUT", signed, big_endian(parameters))
    return lambda x: table[np.clip(np.rint(x) - first, 0, len(table) - 1).astype(np.int64)] * (255 / ((1 << bits) - 1))


def _window(parameters: Dataset) -> Voi | None:
    """The first window by its function (C.11.2.1.2 and C.11.2.1.3), to [0, 255]; None where it cannot be used."""
    centre, width = number(parameters, "WindowCenter"), number(parameters, "WindowWidth")
    function = parameters.get("VOILUTFunction") or "LINEAR"
    if centre is None or width is None or not math.isfinite(centre) or not width < math.inf:
        return None
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "LINEAR":
        if width == 1:
            return lambda x: np.where(x > centre - 0.5, 255.0, 0.0)
        return lambda x: ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255
    if function == "LINEAR_EXACT":
        return lambda x: ((x - centre) / width + 0.5) * 255
    if function == "SIGMOID":
        return lambda x: 255 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -700, 700)))
    return None


def number(parameters: Dataset, name: str) -> float | None:
    """The first value of an element, which may be infinite, or None where it is absent or empty. Raises MalformedImage."""
    value: Any = parameters.get(name)
    if isinstance(value, (list, tuple)) or hasattr(value, "insert"):  # pydicom's MultiValue
        value = value[0] if len(value) else None
    try:
        return None if value is None or value == "" else float(value)
    except (ValueError, TypeError) as error:
        raise MalformedImage(f"{name} of the DICOM file is no number; correct or remove it") from error


def big_endian(parameters: Dataset) -> bool:
    return parameters.original_encoding[1] is False


def lookup_table(item: Dataset, prefix: str, signed: bool, big: bool) -> tuple[int, np.ndarray, int]:
    """The first value that is mapped, the entries as int64, and the bits of an entry (PS3.3 C.11.1.1 and C.7.6.3.1.5).

    prefix: of the descriptor's and the data's keyword. signed: whether the values that are mapped may be negative. big:
    the byte order of entries that were read as bytes (VR OW). Raises MalformedImage.
    """
    count, first, bits = (int(x) for x in item[f"{prefix}Descriptor"].value)
    count = count % 0x10000 or 0x10000
    first = first - 0x10000 if signed and first > 0x7FFF else first
    data = item[f"{prefix}Data"].value
    if isinstance(data, bytes):
        if len(data) >= 2 * count:
            entries = np.frombuffer(data[: 2 * count], ">u2" if big else "<u2")
        else:  # two entries of 8 bit in a word
            entries = np.frombuffer(data[: len(data) // 2 * 2], ">u2" if big else "<u2").astype("<u2").view(np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
    if len(entries) < count or count < 1:
        raise MalformedImage("a lookup table of the DICOM file has fewer entries than its descriptor says")
    entries = entries[:count].astype(np.int64)
    if not 8 <= bits <= 16 or entries.max() >> bits:  # as others do: what the entries need
        bits = max(8, int(entries.max()).bit_length())
    return first, entries, bits
