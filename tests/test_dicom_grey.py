"""Grey and palette colour as a display shows them, against the standard's formulas worked out one value at a time."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import cv2
import dicom_kinds as kinds
import numpy as np
import pytest
from dicom_kinds import image_file, lut_item, palette

from gazeseg_serve import service
from gazeseg_serve.default_model import default_artifact
from gazeseg_serve.errors import MalformedImage, UnsupportedImage
from gazeseg_serve.imaging import decode_image
from gazeseg_serve.pixels import eight_bit
from gazeseg_serve.predictor import Predictor

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("imagecodecs")
SEQUENCE = pydicom.Sequence


def grey(pixels: np.ndarray, dtype: str = "uint8", **attributes: Any) -> np.ndarray:
    return decode_image(image_file(pixels[None], **attributes), 1, dtype=dtype)[..., 0]


def ramp(low: int, high: int, dtype: str, count: int = 60) -> np.ndarray:
    return np.linspace(low, high, count).round().astype(dtype).reshape(4, -1)


def shown(x: float, centre: float, width: float, function: str) -> float:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with y from 0 to 255."""
    if function == "SIGMOID":
        return 127.5 * (1 + math.tanh(2 * (x - centre) / width))
    low, span = (centre - 0.5, width - 1) if function == "LINEAR" else (centre, width)
    if x <= low - span / 2:
        return 0
    if x > low + span / 2:
        return 255
    return ((x - low) / span + 0.5) * 255


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (40, 1), (40.5, 1), (40.5, 2), (-600, 1500), (3000, 10), (128, 256)])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2.5, 0), (-1, 1000)])
def test_windows_are_obeyed_and_not_stretched(
    slope: float, intercept: float, centre: float, width: float, function: str, photometric: str
) -> None:
    pixels = ramp(0, 4095, "u2", 4096)
    found = grey(
        pixels,
        photometric=photometric,
        stored=12,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=centre,
        WindowWidth=width,
        VOILUTFunction=function,
    )
    wanted = np.array([shown(slope * int(x) + intercept, centre, width, function) for x in pixels.flat]).reshape(pixels.shape)
    wanted = 255 - wanted if photometric == "MONOCHROME1" else wanted
    assert np.abs(found - wanted).max() <= 0.5 + 1e-6


def test_without_a_function_a_window_is_linear_and_the_first_of_several_counts() -> None:
    pixels = ramp(0, 1000, "u2")
    wanted = grey(pixels, WindowCenter=500, WindowWidth=101, VOILUTFunction="LINEAR")
    np.testing.assert_array_equal(grey(pixels, WindowCenter=[500, 20], WindowWidth=[101, 30]), wanted)
    assert 2 < len(np.unique(wanted)) < 20


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100, "WindowWidth": -10},
        {"WindowCenter": 100, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 100, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowWidth": 50},
        {"WindowCenter": 100},
    ],
)
@pytest.mark.parametrize("bits", [8, 12])
def test_a_window_that_cannot_be_used_is_as_none(bits: int, window: dict[str, Any]) -> None:
    pixels = ramp(30, 200, "u1" if bits == 8 else "u2")
    found = grey(pixels, stored=bits, **window)
    np.testing.assert_array_equal(found, pixels if bits == 8 else np.rint((pixels - 30.0) * 255 / 170))


def test_a_narrow_exact_window_is_used() -> None:
    """Under 1 only a linear one cannot be."""
    found = grey(ramp(0, 59, "u2"), WindowCenter=30, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_array_equal(found.flat, [0] * 30 + [127] + [255] * 29)


@pytest.mark.parametrize("bits", [1, 4, 7, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_up_to_eight_bit_keep_their_scale(bits: int, signed: bool) -> None:
    if signed and bits == 1:
        pytest.skip("one bit has no sign")
    low, top = (-(1 << (bits - 1)) if signed else 0), (1 << bits) - 1
    pixels = np.array([[low, low + top // 3, low + top // 2, low + top]]).astype("i1" if signed else "u1")
    found = grey(pixels[:, :3], stored=bits)  # without its greatest value: nothing is stretched
    assert np.abs(found[0] - np.array([0, top // 3, top // 2]) * 255 / top).max() <= 0.5
    for slope, wanted in ((0.5, found), (-0.5, 255 - found)):  # a rescale moves the range with the values
        rescaled = grey(pixels[:, :3], stored=bits, RescaleSlope=slope, RescaleIntercept=-10)
        assert np.abs(rescaled.astype(int) - wanted).max() <= 1


def test_more_than_eight_bit_without_a_window_are_stretched() -> None:
    pixels = ramp(1000, 1500, "u2")
    wanted = np.rint((pixels - 1000.0) * 255 / 500)
    np.testing.assert_array_equal(grey(pixels), wanted)
    np.testing.assert_array_equal(grey(pixels, RescaleSlope=-2, RescaleIntercept=7), 255 - wanted)
    np.testing.assert_array_equal(grey(pixels, photometric="MONOCHROME1"), 255 - wanted)
    np.testing.assert_array_equal(grey(ramp(-500, 500, "i2")), np.rint((ramp(-500, 500, "i2") + 500.0) * 255 / 1000))


@pytest.mark.parametrize(("bits", "stretched"), [(8, False), (9, True)])
def test_more_than_eight_bit_begin_at_nine(bits: int, stretched: bool) -> None:
    found = grey(ramp(100, 200, "u2"), stored=bits)
    assert (found.min(), found.max()) == ((0, 255) if stretched else (100, 200))


def test_what_a_modality_table_makes_of_eight_bit_is_stretched() -> None:
    """Its entries have a scale of their own."""
    item = lut_item((256, 0, 16), [1000 + 10 * i for i in range(256)], "US")
    found = grey(ramp(100, 200, "u1"), ModalityLUTSequence=SEQUENCE([item]))
    np.testing.assert_array_equal(found, np.rint((ramp(100, 200, "u1") - 100.0) * 255 / 100))


def test_a_voi_table_of_negative_values_of_unsigned_pixels() -> None:
    item = lut_item((60, -1000 & 0xFFFF, 8), [int(x) for x in np.linspace(255, 0, 60)], "US")
    found = grey(ramp(24, 83, "u2"), VOILUTSequence=SEQUENCE([item]), RescaleSlope=1, RescaleIntercept=-1024)
    np.testing.assert_array_equal(found.flat, [int(x) for x in np.linspace(255, 0, 60)])


@pytest.mark.parametrize("slope", [None, 1])
def test_an_empty_slope_or_intercept_is_as_none(slope: int | None) -> None:
    pixels = ramp(1000, 1500, "u2")
    np.testing.assert_array_equal(grey(pixels, RescaleSlope=slope, RescaleIntercept=None), grey(pixels))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_slope_of_zero_is_refused_and_so_is_what_is_not_finite(dtype: str) -> None:
    with pytest.raises(MalformedImage, match="slope"):
        grey(ramp(0, 9, "u2"), dtype, RescaleSlope=0, RescaleIntercept=0)
    with pytest.raises(MalformedImage, match="not finite"):
        grey(ramp(0, 60000, "u2"), dtype, RescaleSlope=1e305, RescaleIntercept=0)


@pytest.mark.parametrize("value", ["wide", "1,5", "1e"])
@pytest.mark.parametrize("name", ["WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue"])
@pytest.mark.parametrize("vr", ["LO", "DS"])
def test_what_is_no_number_is_refused_by_its_name(vr: str, name: str, value: str) -> None:
    data = image_file(ramp(0, 9, "u2")[None], WindowCenter=3, **{name: pydicom.DataElement(name, "LO", value)})
    if vr == "DS":
        at = data.index(value.encode()) - 4
        data = data[:at] + b"DS" + data[at + 2 :]
    with pytest.raises(MalformedImage, match=name) as raised:
        decode_image(data)
    assert value not in str(raised.value)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite(value: str) -> None:
    """A window of them cannot be used; a rescale makes nothing that can be shown."""
    pixels = ramp(30, 200, "u2")

    def with_value(name: str, **more: Any) -> np.ndarray:
        return grey(pixels, **more, **{name: pydicom.DataElement(name, "LO", value)})

    np.testing.assert_array_equal(with_value("WindowWidth", WindowCenter=50), grey(pixels))
    np.testing.assert_array_equal(with_value("WindowCenter", WindowWidth=50), grey(pixels))
    for name in ("RescaleSlope", "RescaleIntercept"):
        with pytest.raises(MalformedImage, match="not finite"):
            with_value(name)


@pytest.mark.parametrize("syntax", [kinds.EXPLICIT, kinds.BIG])
@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize(("first", "signed"), [(100, False), (-100, True)])
def test_lookup_tables_of_words(vr: str, syntax: str, first: int, signed: bool) -> None:
    """10 bit come out; what is under the first value that is mapped has the first entry, what is over the last the last."""
    entries = [int(1023 * math.sin(math.pi * i / 400)) for i in range(200)]
    data = struct.pack(f"{'>' if syntax == kinds.BIG else '<'}200H", *entries) if vr == "OW" else entries
    item = lut_item((200, first & 0xFFFF, 10), data, vr)
    pixels = ramp(first - 50, first + 300, "i2" if signed else "u2")
    wanted = np.array([entries[min(max(int(x) - first, 0), 199)] for x in pixels.flat]).reshape(pixels.shape)
    voi = grey(pixels, syntax=syntax, VOILUTSequence=SEQUENCE([item]), WindowCenter=3, WindowWidth=2)
    assert np.abs(voi - wanted * 255 / 1023).max() <= 0.5
    modality = grey(pixels, syntax=syntax, ModalityLUTSequence=SEQUENCE([item]))
    np.testing.assert_array_equal(modality, np.rint((wanted - wanted.min()) * 255 / (wanted.max() - wanted.min())))


def with_lut(item: Any, pixels: np.ndarray) -> np.ndarray:
    return grey(pixels, VOILUTSequence=SEQUENCE([item]))


def test_a_table_of_65536_entries_says_0() -> None:
    entries = np.arange(65535, -1, -1, dtype="<u2")
    pixels = ramp(0, 65535, "u2")
    wanted = (65535 - pixels.astype(float)) * 255 / 65535
    assert np.abs(with_lut(lut_item((0, 0, 16), entries.tobytes(), "OW"), pixels) - wanted).max() <= 0.5


def test_a_first_value_over_32767_of_unsigned_pixels() -> None:
    entries = [int(x) for x in np.linspace(255, 0, 60)]
    found = with_lut(lut_item((60, 40000, 8), entries, "US"), ramp(40000, 40059, "u2"))
    np.testing.assert_array_equal(found.flat, entries)


def test_entries_that_are_written_as_signed() -> None:
    found = with_lut(lut_item((60, 0, 16), [-1 - 1000 * i for i in range(32)] + [0] * 28, "SS"), ramp(0, 59, "u2"))
    wanted = [(65535 - 1000 * i) * 255 / 65535 for i in range(32)] + [0] * 28
    assert np.abs(found.flat - np.array(wanted)).max() <= 0.5


@pytest.mark.parametrize(("said", "needed"), [(8, 10), (0, 10), (1, 8), (14, 14), (99, 10)])
def test_the_bits_of_an_entry_are_what_the_entries_need_where_the_descriptor_cannot_be(said: int, needed: int) -> None:
    entries = [int(x) for x in np.linspace(0, 1023 if needed > 8 else 255, 60)]
    found = with_lut(lut_item((60, 0, said), entries, "US"), ramp(0, 59, "u2"))
    assert np.abs(found.flat - np.array(entries) * 255 / (2**needed - 1)).max() <= 0.5


def test_entries_of_eight_bit_two_in_a_word() -> None:
    entries = np.arange(255, -1, -1, dtype=np.uint8)
    item = lut_item((256, 0, 8), entries.tobytes(), "OW")
    np.testing.assert_array_equal(grey(ramp(0, 255, "u1"), VOILUTSequence=SEQUENCE([item])), 255 - ramp(0, 255, "u1"))


def test_a_lookup_table_that_is_too_short_is_refused() -> None:
    with pytest.raises(MalformedImage, match="fewer entries"):
        grey(ramp(0, 9, "u2"), VOILUTSequence=SEQUENCE([lut_item((100, 0, 8), [1, 2, 3], "US")]))


@pytest.mark.parametrize(("value", "limit"), [(-2000, None), (-2000, -1990), (-1990, -2000), (63536, None)])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_padding_sets_no_scale_and_is_black(dtype: str, photometric: str, value: int, limit: int | None) -> None:
    pixels = ramp(100, 160, "i2")
    wanted = grey(pixels, dtype, photometric=photometric).copy()
    wanted[1, :5] = 0
    pixels[1, :5] = -2000
    pixels[1, 1] = -2000 if limit is None else -1995
    vr = "US" if value > 0 else "SS"
    attributes: dict[str, Any] = {"PixelPaddingValue": pydicom.DataElement("PixelPaddingValue", vr, value)}
    if limit is not None:
        attributes["PixelPaddingRangeLimit"] = pydicom.DataElement("PixelPaddingRangeLimit", vr, limit)
    np.testing.assert_array_equal(grey(pixels, dtype, photometric=photometric, **attributes), wanted)


def test_an_image_of_padding_alone_is_black() -> None:
    element = pydicom.DataElement("PixelPaddingValue", "US", 7)
    assert not grey(np.full((3, 4), 7, np.uint16), PixelPaddingValue=element).any()


@pytest.mark.parametrize("syntax", [kinds.EXPLICIT, kinds.BIG, kinds.RLE])
@pytest.mark.parametrize(("bits", "wide"), [(8, False), (8, True), (16, False)])
@pytest.mark.parametrize("first", [0, 10])
def test_palettes(first: int, bits: int, wide: bool, syntax: str) -> None:
    entries = np.random.default_rng(1).integers(0, 1 << bits, (100, 3))
    entries[0] = (1 << bits) - 1
    pixels = ramp(0, 130, "u1")
    found = decode_image(
        image_file(pixels[None], "PALETTE COLOR", syntax=syntax, **palette(entries, bits, first, syntax == kinds.BIG, wide))
    )
    wanted = np.array([entries[min(max(int(x) - first, 0), 99)] >> (bits - 8) for x in pixels.flat]).reshape(4, 15, 3)
    np.testing.assert_array_equal(found, wanted)


def test_a_palette_in_segments() -> None:
    """PS3.3 C.7.9.2: 4 entries as they are, then 6 up to 10 on a line, then those 10 once more."""
    words = [0, 4, 10, 20, 30, 40, 1, 6, 100, 2, 2, 0, 0]
    wanted = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100] * 2
    elements: dict[str, Any] = {}
    for name in ("Red", "Green", "Blue"):
        keyword = f"{name}PaletteColorLookupTable"
        elements[f"{keyword}Descriptor"] = pydicom.DataElement(f"{keyword}Descriptor", "US", [20, 0, 16])
        data = np.array([word << 8 if word >= 10 else word for word in words], "<u2").tobytes()
        elements[f"Segmented{keyword}Data"] = pydicom.DataElement(f"Segmented{keyword}Data", "OW", data)
    found = decode_image(image_file(np.arange(20, dtype=np.uint8).reshape(1, 4, 5), "PALETTE COLOR", **elements))
    np.testing.assert_array_equal(found[..., 1].flat, wanted)


def test_palette_colour_without_a_palette_says_so() -> None:
    with pytest.raises(MalformedImage, match="palette"):
        decode_image(image_file(ramp(0, 9, "u1")[None], "PALETTE COLOR"))


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [kinds.EXPLICIT, kinds.RLE])
def test_ycbcr_becomes_rgb_once(bits: int, syntax: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 1 << bits, (1, 20, 30, 3)).astype("u1" if bits == 8 else "u2")
    y, cb, cr = (pixels[0, ..., i] / 2 ** (bits - 8) - (0 if i == 0 else 128) for i in range(3))
    wanted = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 2).clip(0, 255)
    found = decode_image(image_file(pixels, "YBR_FULL", stored=bits, syntax=syntax))
    assert np.abs(found - wanted).max() <= 1.0


@pytest.mark.parametrize("bits", [7, 17])
def test_ycbcr_of_other_depths_is_refused(bits: int) -> None:
    pixels = np.zeros((1, 4, 6, 3), "u1" if bits < 8 else "u4")
    with pytest.raises(UnsupportedImage, match=f"{bits} bit"):
        decode_image(image_file(pixels, "YBR_FULL", stored=bits))


@pytest.mark.parametrize("bits", [1, 4, 7])
def test_colour_of_few_bits_is_spread(bits: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 1 << bits, (1, 20, 30, 3)).astype("u1")
    found = decode_image(image_file(pixels, "RGB", stored=bits))
    np.testing.assert_array_equal(found, np.rint(pixels[0] * (255 / (2**bits - 1))))


@pytest.mark.parametrize("bits", [10, 16])
def test_deep_colour_keeps_its_highest_bits(bits: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 1 << bits, (1, 20, 30, 3)).astype("u2")
    np.testing.assert_array_equal(decode_image(image_file(pixels, "RGB", stored=bits)), pixels[0] >> (bits - 8))


@pytest.mark.parametrize("kind", ["png", "tiff", "png with alpha", "dicom", "dicom, YBR_FULL"])
def test_twelve_bits_of_colour_in_sixteen_are_not_taken_for_black(kind: str) -> None:
    """What they mean cannot be known: grey is stretched, but colours would change."""
    pixels = np.random.default_rng(4).integers(0, 4096, (20, 30, 3)).astype(np.uint16)

    def decode(values: np.ndarray) -> np.ndarray:
        if kind.startswith("dicom"):
            return decode_image(image_file(values[None], "YBR_FULL" if "YBR" in kind else "RGB"))
        if kind == "png with alpha":
            values = np.dstack([values, np.full(values.shape[:2], 65535, np.uint16)])
        return decode_image(saved(values, ".tif" if kind == "tiff" else ".png"))

    if "YBR" not in kind:  # its grey lies in the middle
        with pytest.raises(UnsupportedImage, match="12 bits at most"):
            decode(pixels)
    assert decode(pixels << 4).max() > 200
    assert decode(pixels // 4096).max() == 0 or "YBR" in kind


@pytest.mark.parametrize("bits", [8, 12])
def test_colour_as_floats_keeps_its_depth(bits: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 1 << bits, (1, 20, 30, 3)).astype("u1" if bits == 8 else "u2")
    found = decode_image(image_file(pixels, "RGB", stored=bits), dtype="float32")
    low, high = int(pixels.min()), int(pixels.max())
    np.testing.assert_allclose(found, (pixels[0] - np.float64(low)) / (high - low), atol=1e-7)


def tiff(pixels: np.ndarray, photometric: int, sample_format: int) -> bytes:
    """An uncompressed grey TIFF of one strip."""
    tags = [
        (256, 4, pixels.shape[1]),
        (257, 4, pixels.shape[0]),
        (258, 3, 8 * pixels.itemsize),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, pixels.shape[0]),
        (279, 4, pixels.nbytes),
        (339, 3, sample_format),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + pixels.nbytes)
        + pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def saved(pixels: np.ndarray, kind: str) -> bytes:
    return cv2.imencode(kind, pixels)[1].tobytes()


WIDE = np.random.default_rng(3).integers(300, 3000, (20, 30)).astype(np.uint16)
FILES = {
    "png": lambda v: saved(v, ".png"),
    "tiff": lambda v: saved(v, ".tif"),
    "tiff, 0 is white": lambda v: tiff(~v, 0, 1),
    "dicom": lambda v: image_file(v[None]),
    "dicom, 0 is white": lambda v: image_file(~v[None], "MONOCHROME1"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("pixels", [WIDE, (WIDE >> 4).astype(np.uint8), (WIDE >> 4) * 257], ids=["12 bit", "8 bit", "widened"])
def test_the_same_pixels_are_the_same_in_every_format(pixels: np.ndarray, dtype: str, kind: str) -> None:
    found = decode_image(FILES[kind](pixels), 1, dtype=dtype)[..., 0]
    low, high = (int(pixels.min()), int(pixels.max()))
    if dtype == "float32":
        np.testing.assert_allclose(found, (pixels - low) / np.float64(high - low), atol=1e-6)
    elif pixels is WIDE:
        np.testing.assert_array_equal(found, np.rint((pixels.astype(float) - low) * 255 / (high - low)))
    else:
        np.testing.assert_array_equal(found, WIDE >> 4)


def test_only_sixteen_unsigned_bits_can_be_a_widened_image() -> None:
    for values in ([-257, 0, 257], [0, 65536 + 256, 2 * 65792]):  # multiples of 257, all the same
        np.testing.assert_array_equal(eight_bit(np.array(values)), [0, 128, 255])


@pytest.mark.parametrize("kind", ["i1", "i2", "u2", "i4", "u4"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_tiff_of_every_sign_and_depth(kind: str, photometric: int) -> None:
    info = np.iinfo(kind)
    pixels = np.array([[info.min, info.min // 2, 0, info.max // 2, info.max]], kind).repeat(3, 0)
    data = tiff(pixels, photometric, 2 if kind[0] == "i" else 1)
    if photometric == 0 and kind != "u2":
        with pytest.raises(UnsupportedImage):  # Pillow knows no such layout
            decode_image(data, 1)
        return
    found = decode_image(data, 1)[0, :, 0].astype(int)
    wanted = np.rint((pixels[0].astype(float) - info.min) * 255 / (float(info.max) - info.min))
    assert np.abs(found - (wanted if photometric else 255 - wanted)).max() <= 1


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.open(default_artifact(), "cpu", threads=1)


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A JPEG that the page offers, with a polyp in it."""
    return (Path(service.__file__).parent / "page" / "sample1.jpg").read_bytes()


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float(np.count_nonzero(one & other)) / (np.count_nonzero(one) + np.count_nonzero(other))


def test_grey_of_any_format_has_the_same_mask(predictor: Predictor, picture: bytes) -> None:
    """The picture as 8-bit grey of low contrast, and as 12 bit between 300 and 3000."""
    photo = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_GRAYSCALE)
    low = (photo * 0.45 + 70).astype(np.uint8)
    deep = (photo.astype(np.uint16) * 10 + 300).astype(np.uint16)
    for pixels in (low, deep):
        masks = {kind: predictor.predict(decode_image(make(pixels))).mask() for kind, make in FILES.items()}
        assert masks["png"].any()
        for kind, mask in masks.items():
            np.testing.assert_array_equal(mask, masks["png"], err_msg=kind)
    windowed = image_file(low[None], WindowCenter=127.5, WindowWidth=256)  # changes no level by more than a half
    plain = predictor.predict(decode_image(saved(low, ".png"))).mask()
    np.testing.assert_array_equal(predictor.predict(decode_image(windowed)).mask(), plain)


def test_colour_of_any_storage_has_the_mask_of_the_jpeg(predictor: Predictor, picture: bytes) -> None:
    rgb = decode_image(picture)
    wanted = predictor.predict(rgb).mask()
    assert wanted.any()
    y, cr, cb = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    ybr = np.stack([y, cb, cr], 2)[None]
    wrapped = image_file(rgb[None], "YBR_FULL_422", syntax=kinds.JPEG, encode=lambda _: picture)
    np.testing.assert_array_equal(predictor.predict(decode_image(wrapped)).mask(), wanted)
    for data, least in (
        (image_file(rgb[None], "RGB", planar=1), 1.0),
        (image_file(ybr, "YBR_FULL"), 0.99),
        (image_file(ybr, "YBR_FULL", syntax=kinds.RLE), 0.99),
        (image_file(ybr, "YBR_FULL_422"), 0.98),
    ):
        assert dice(predictor.predict(decode_image(data)).mask(), wanted) >= least


def enhanced(shared: dict[str, Any], each: list[dict[str, Any]], **attributes: Any) -> list[np.ndarray]:
    """Three frames of one ramp as they are shown, with a rescale or window in their functional groups."""
    from gazeseg_serve.dicom import decode_frames, read_dataset
    from gazeseg_serve.pixels import DEFAULT_LIMITS

    def group(elements: dict[str, Any]) -> Any:
        found = pydicom.Dataset()
        for names, sequence in (
            (("WindowCenter", "WindowWidth"), "FrameVOILUTSequence"),
            (("RescaleSlope", "RescaleIntercept"), "PixelValueTransformationSequence"),
        ):
            item = pydicom.Dataset()
            for name in names:
                if name in elements:
                    setattr(item, name, elements[name])
            if len(item):
                setattr(found, sequence, SEQUENCE([item]))
        return found

    data = image_file(
        np.repeat(ramp(0, 1000, "u2")[None], 3, axis=0),
        SharedFunctionalGroupsSequence=SEQUENCE([group(shared)]),
        PerFrameFunctionalGroupsSequence=SEQUENCE([group(elements) for elements in each]),
        **attributes,
    )
    return [frame[..., 0] for frame in decode_frames(read_dataset(data, DEFAULT_LIMITS))]


def test_each_frame_of_an_enhanced_object_has_its_own_window_and_rescale() -> None:
    windows = [{"WindowCenter": 200 + 200 * i, "WindowWidth": 101 + 50 * i} for i in range(3)]
    found = enhanced({"RescaleSlope": 2, "RescaleIntercept": -100}, windows, WindowCenter=1, WindowWidth=2)
    for frame, window in zip(found, windows, strict=True):
        np.testing.assert_array_equal(frame, grey(ramp(0, 1000, "u2"), RescaleSlope=2, RescaleIntercept=-100, **window))
    slopes = [{"RescaleSlope": i, "RescaleIntercept": 0} for i in (1, 2, 3)]
    found = enhanced({"WindowCenter": 900, "WindowWidth": 500, "RescaleSlope": 7, "RescaleIntercept": 0}, slopes)
    for frame, slope in zip(found, slopes, strict=True):
        np.testing.assert_array_equal(frame, grey(ramp(0, 1000, "u2"), WindowCenter=900, WindowWidth=500, **slope))
