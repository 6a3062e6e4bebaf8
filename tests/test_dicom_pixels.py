"""Known pixels, stored in every way, come back: sample order, bits, sign, byte order, compression, frames."""

from __future__ import annotations

import sys
from collections.abc import Callable

import dicom_kinds as kinds
import numpy as np
import pytest
from dicom_kinds import image_file

from gazeseg_serve.dicom import decode_frames, layout_of, read_dataset
from gazeseg_serve.dicom_pixels import readable_syntaxes, stored_frames
from gazeseg_serve.errors import ImageError, ImageTooLarge, MalformedImage, MissingExtraError, UnsupportedImage
from gazeseg_serve.imaging import decode_image
from gazeseg_serve.pixels import DEFAULT_LIMITS, Limits

pydicom = pytest.importorskip("pydicom")
codecs = pytest.importorskip("imagecodecs")
RNG = np.random.default_rng(7)
ROWS, COLUMNS = 6, 10


def stored(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[list[np.ndarray], str]:
    """The frames as they are stored, and the colour that they are in."""
    dataset = read_dataset(data, limits)
    found = list(stored_frames(dataset, layout_of(dataset)))
    return [frame for frame, _ in found], found[0][1]


def frames(count: int, bits: int, signed: bool, samples: int) -> np.ndarray:
    shape = (count, ROWS, COLUMNS, 3) if samples == 3 else (count, ROWS, COLUMNS)
    size = 8 if bits <= 8 else 16 if bits <= 16 else 32
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    return RNG.integers(low, high, shape).astype(f"{'i' if signed else 'u'}{size // 8}")


@pytest.mark.parametrize("syntax", [kinds.IMPLICIT, kinds.EXPLICIT, kinds.BIG, kinds.RLE])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [5, 8, 10, 12, 16, 27, 32])
def test_grey_of_every_depth(bits: int, signed: bool, syntax: str) -> None:
    pixels = frames(3, bits, signed, 1)
    found, photometric = stored(image_file(pixels, stored=bits, syntax=syntax))
    np.testing.assert_array_equal(found, pixels)
    assert photometric == "MONOCHROME2"


@pytest.mark.parametrize("syntax", [kinds.EXPLICIT, kinds.RLE])
@pytest.mark.parametrize("signed", [False, True])
def test_the_bits_beside_the_stored_ones_are_not_read(signed: bool, syntax: str) -> None:
    """HighBit above the lowest place, and old overlays in the bits over it and under it."""
    pixels = frames(1, 10, signed, 1)
    words = (pixels.view(np.uint16) & 0x3FF) << 3 | RNG.integers(0, 8, pixels.shape).astype(np.uint16)
    words |= RNG.integers(0, 8, pixels.shape).astype(np.uint16) << 13
    data = image_file(words, stored=10, high=12, syntax=syntax, PixelRepresentation=int(signed))
    np.testing.assert_array_equal(stored(data)[0], pixels)


@pytest.mark.parametrize("syntax", [kinds.IMPLICIT, kinds.EXPLICIT, kinds.BIG, kinds.RLE])
@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
def test_colour_by_pixel_and_by_plane(bits: int, planar: int, syntax: str) -> None:
    pixels = frames(2, bits, False, 3)
    found, photometric = stored(image_file(pixels, "RGB", planar=planar, syntax=syntax))
    np.testing.assert_array_equal(found, pixels)
    assert photometric == "RGB"


@pytest.mark.parametrize("vr", ["OB", "OW"])
@pytest.mark.parametrize("count", [1, 3])
def test_eight_bit_in_big_endian_words(vr: str, count: int) -> None:
    """An odd number of bytes a frame: every second frame begins in the middle of a word."""
    pixels = RNG.integers(0, 256, (count, 3, 5), dtype=np.uint8)
    np.testing.assert_array_equal(stored(image_file(pixels, syntax=kinds.BIG, vr=vr))[0], pixels)


def test_one_bit_a_pixel() -> None:
    """Frames of 15 bits, so that they begin anywhere in a byte."""
    pixels = RNG.integers(0, 2, (5, 3, 5), dtype=np.uint8)
    np.testing.assert_array_equal(stored(image_file(pixels, allocated=1))[0], pixels)


def test_halved_colour_is_doubled() -> None:
    pixels = np.repeat(frames(2, 8, False, 3)[:, :, ::2], 2, axis=2)
    pixels[..., 0] = RNG.integers(0, 256, pixels.shape[:3])
    found, photometric = stored(image_file(pixels, "YBR_FULL_422"))
    np.testing.assert_array_equal(found, pixels)
    assert photometric == "YBR_FULL"


def test_halved_colour_by_plane_or_of_an_odd_width_is_refused() -> None:
    pixels = frames(1, 8, False, 3)
    for change in ({"PlanarConfiguration": 1}, {"Columns": 9, "Rows": 6}):
        with pytest.raises(MalformedImage, match="even number of columns"):
            stored(image_file(pixels, "YBR_FULL_422", **change))


@pytest.mark.parametrize("syntax", [kinds.EXPLICIT, kinds.RLE])
def test_colour_that_is_called_halved_and_is_whole(syntax: str) -> None:
    """As transcoders leave it: the length says what it is."""
    pixels = frames(2, 8, False, 3)
    data = image_file(pixels, "YBR_FULL", syntax=syntax, PhotometricInterpretation="YBR_FULL_422")
    np.testing.assert_array_equal(stored(data)[0], pixels)


def test_pixel_data_far_longer_than_the_header_says_is_refused() -> None:
    pixels = RNG.integers(0, 256, (1, 100, 100), dtype=np.uint8)
    for rows, fits in ((100, True), (60, True), (59, False)):  # a row is 100 bytes, and 4096 may be padding
        data = image_file(pixels, Rows=rows)
        if fits:
            np.testing.assert_array_equal(stored(data)[0][0], pixels[0, :rows])
        else:
            with pytest.raises(MalformedImage, match=r"10000 bytes, and its header says 5900"):
                stored(data)
    wide = np.zeros((1, 3, 5000), np.uint16)
    assert stored(image_file(wide, Rows=2))[0][0].shape == (2, 5000)  # one row more


def sof3(frame: np.ndarray) -> bytes:
    return codecs.jpeg8_encode(
        frame,
        lossless=True,
        bitspersample=12 if frame.itemsize == 2 else 8,
        **({"colorspace": "RGB", "outcolorspace": "RGB"} if frame.ndim == 3 else {}),
    )


def j2k(frame: np.ndarray) -> bytes:
    return codecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, level=0, mct=False)


LOSSLESS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "jpeg-ls": (kinds.JPEG_LS, codecs.jpegls_encode),
    "jpeg lossless": (kinds.JPEG_LOSSLESS_FIRST, sof3),
    "jpeg lossless, any predictor": (kinds.JPEG_LOSSLESS, sof3),
    "jpeg 2000": (kinds.J2K, j2k),
    "htj2k": (kinds.HTJ2K, lambda frame: codecs.htj2k_encode(frame, reversible=True)),
}


def test_the_syntaxes_that_are_offered_to_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {kinds.RLE, kinds.JPEG, kinds.JPEG12, *(syntax for syntax, _ in LOSSLESS.values())}
    found = readable_syntaxes()
    assert set(found[:3]) == {kinds.IMPLICIT, kinds.EXPLICIT, kinds.BIG}
    assert packed < set(found[3:])
    assert all(syntax in pydicom.uid.UID_dictionary for syntax in found)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert readable_syntaxes() == found[:3]


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("bits", [8, 12])
def test_grey_of_every_lossless_compression(kind: str, bits: int) -> None:
    syntax, encode = LOSSLESS[kind]
    pixels = frames(3, bits, False, 1)
    found, _ = stored(image_file(pixels, stored=bits, syntax=syntax, encode=encode))
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("kind", ["jpeg-ls", "jpeg lossless"])
def test_negative_values_in_a_compression_that_knows_no_sign(kind: str) -> None:
    syntax, encode = LOSSLESS[kind]
    pixels = frames(1, 12, True, 1)
    data = image_file(pixels, stored=12, syntax=syntax, encode=lambda frame: encode(frame.view(np.uint16) & 0xFFF))
    np.testing.assert_array_equal(stored(data)[0], pixels)
    whole = image_file(
        pixels, stored=12, syntax=kinds.JPEG_LS, encode=lambda frame: codecs.jpegls_encode(frame.view(np.uint16))
    )
    np.testing.assert_array_equal(stored(whole)[0], pixels)


@pytest.mark.parametrize("says", [False, True])
def test_jpeg_2000_may_keep_the_sign_or_not(says: bool) -> None:
    pixels = frames(1, 16, True, 1)
    data = image_file(pixels, syntax=kinds.J2K, encode=lambda frame: j2k(frame if says else frame.view(np.uint16)))
    np.testing.assert_array_equal(stored(data)[0], pixels)


@pytest.mark.parametrize("bits", [10, 13])
def test_jpeg_2000_of_fewer_bits_may_keep_the_sign_or_not(bits: int) -> None:
    """The sign is the highest bit of those that the codestream says it has."""
    pixels = frames(1, bits, True, 1)
    raw = pixels.view(np.uint16) & ((1 << bits) - 1)
    data = image_file(
        pixels,
        stored=bits,
        syntax=kinds.J2K,
        encode=lambda _: codecs.jpeg2k_encode(raw[0], codecformat="j2k", reversible=True, level=0, bitspersample=bits),
    )
    np.testing.assert_array_equal(stored(data)[0], pixels)


@pytest.mark.parametrize("kind", ["RLE", "JPEG-LS", "JPEG Lossless"])
def test_without_the_package_its_name_and_the_format_are_said(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    syntax = {"RLE": kinds.RLE, "JPEG-LS": kinds.JPEG_LS, "JPEG Lossless": kinds.JPEG_LOSSLESS_FIRST}[kind]
    encode = {"RLE": None, "JPEG-LS": codecs.jpegls_encode, "JPEG Lossless": sof3}[kind]
    data = image_file(frames(1, 8, False, 1), syntax=syntax, encode=encode)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingExtraError, match=rf"holds {kind}, and imagecodecs is not installed.*gazeseg-serve\[dicom\]"):
        stored(data)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_colour_of_every_lossless_compression(kind: str) -> None:
    syntax, encode = LOSSLESS[kind]
    pixels = frames(1, 8, False, 3)
    found, photometric = stored(image_file(pixels, "RGB", syntax=syntax, encode=encode))
    np.testing.assert_array_equal(found, pixels)
    assert photometric == "RGB"


@pytest.mark.parametrize("label", ["YBR_RCT", "RGB", "YBR_FULL", "YBR_FULL_422"])
def test_jpeg_2000_with_its_colour_transform_is_rgb_whatever_its_label(label: str) -> None:
    pixels = frames(1, 8, False, 3)
    data = image_file(
        pixels,
        label,
        syntax=kinds.J2K,
        encode=lambda frame: codecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, level=0, mct=True),
    )
    np.testing.assert_array_equal(next(decode_frames(read_dataset(data, DEFAULT_LIMITS))), pixels[0])


@pytest.mark.parametrize("label", ["YBR_RCT", "YBR_ICT", "RGB"])
def test_jpeg_2000_without_a_transform_is_rgb_where_it_is_not_called_ycbcr(label: str) -> None:
    pixels = frames(1, 8, False, 3)
    data = image_file(pixels, label, syntax=kinds.J2K, encode=j2k)
    np.testing.assert_array_equal(decode_image(data), pixels[0])


@pytest.mark.parametrize("kind", [kind for kind in LOSSLESS if kind != "htj2k"])
@pytest.mark.parametrize("label", ["YBR_FULL", "YBR_FULL_422"])
def test_ycbcr_without_a_transform_of_the_compression_is_converted(label: str, kind: str) -> None:
    syntax, encode = LOSSLESS[kind]
    pixels = frames(1, 8, False, 3)
    wanted = decode_image(image_file(pixels, "YBR_FULL"))
    np.testing.assert_array_equal(decode_image(image_file(pixels, label, syntax=syntax, encode=encode)), wanted)


@pytest.mark.parametrize("kind", ["jpeg-ls", "jpeg 2000"])
def test_compressed_words_whose_stored_bits_are_not_the_lowest(kind: str) -> None:
    syntax, encode = LOSSLESS[kind]
    pixels = frames(1, 12, False, 1)
    data = image_file(pixels << 4, stored=12, high=15, syntax=syntax, encode=encode)
    np.testing.assert_array_equal(stored(data)[0], pixels)


def smooth(photometric: str = "RGB") -> np.ndarray:
    """A picture that JPEG keeps to within a few levels."""
    y, x = np.mgrid[:32, :48]
    return np.stack([60 + 2 * x, 200 - 3 * y, 90 + x + y], axis=2).astype(np.uint8)


JPEG_LABELS = {
    "YCbCr with its JFIF marker": ("YCBCR", ["YBR_FULL_422", "YBR_FULL", "RGB"]),
    "RGB with its Adobe marker": ("RGB", ["RGB", "YBR_FULL_422"]),
}


@pytest.mark.parametrize(("state", "label"), [(state, label) for state, (_, labels) in JPEG_LABELS.items() for label in labels])
def test_a_jpeg_is_what_its_markers_say_whatever_its_label(state: str, label: str) -> None:
    picture = smooth()
    data = image_file(
        picture[None],
        label,
        syntax=kinds.JPEG,
        encode=lambda frame: codecs.jpeg8_encode(
            frame, 98, colorspace="RGB", outcolorspace=JPEG_LABELS[state][0], subsampling="444"
        ),
    )
    decoded = next(decode_frames(read_dataset(data, DEFAULT_LIMITS)))
    assert np.abs(decoded.astype(int) - picture).max() <= 6


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL"])
def test_a_jpeg_without_markers_is_what_its_label_says(label: str) -> None:
    """Not what libjpeg would guess: components named 1, 2, 3 may be either."""

    def encode(frame: np.ndarray) -> bytes:
        out = "RGB" if label == "RGB" else "YCBCR"
        data = codecs.jpeg8_encode(frame, 98, colorspace="RGB", outcolorspace=out, subsampling="444")
        frame_header = data.index(b"\xff\xc0")
        data = bytearray(data[:2] + data[data.index(b"\xff\xdb") : frame_header] + data[frame_header:])
        for marker, first, step in ((b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)):
            start = data.index(marker)
            data[start + first : start + first + 3 * step : step] = b"\1\2\3"
        return bytes(data)

    picture = smooth()
    data = image_file(picture[None], label, syntax=kinds.JPEG, encode=encode)
    decoded = next(decode_frames(read_dataset(data, DEFAULT_LIMITS)))
    assert np.abs(decoded.astype(int) - picture).max() <= 6


def test_jpeg_of_twelve_bits() -> None:
    picture = smooth()[..., 0].astype(np.uint16) * 16
    data = image_file(
        picture[None], stored=12, syntax=kinds.JPEG12, encode=lambda frame: codecs.jpeg8_encode(frame, 98, bitspersample=12)
    )
    assert np.abs(stored(data)[0][0].astype(int) - picture).max() <= 32


def test_the_header_and_the_codestream_must_agree() -> None:
    picture = smooth()
    grey = np.ascontiguousarray(picture[None, ..., 0])
    for name, value, error in (("Rows", 31, ImageTooLarge), ("Columns", 49, MalformedImage), ("Rows", 33, MalformedImage)):
        for syntax, encode in (
            (kinds.JPEG, lambda frame: codecs.jpeg8_encode(frame, 90)),
            (kinds.J2K, j2k),
            (kinds.JPEG_LS, codecs.jpegls_encode),
        ):
            data = image_file(grey, syntax=syntax, encode=encode, **{name: value})
            with pytest.raises(error, match=r"32 x 48.*Rows and Columns"):
                stored(data)
    with pytest.raises(MalformedImage, match="3 samples"):
        stored(image_file(grey, syntax=kinds.JPEG, encode=lambda _: codecs.jpeg8_encode(picture, 90)))
    with pytest.raises(MalformedImage, match="12 bit"):
        stored(
            image_file(
                grey,
                syntax=kinds.JPEG12,
                encode=lambda frame: codecs.jpeg8_encode(np.array(frame, np.uint16, order="C"), 90, bitspersample=12),
            )
        )
    with pytest.raises(MalformedImage, match="says JPEG, and its pixel data is JPEG-LS"):
        stored(image_file(grey, syntax=kinds.JPEG, encode=codecs.jpegls_encode))


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("part", [0.3, 0.8, 0.98])
def test_a_truncated_frame_is_refused(kind: str, part: float) -> None:
    syntax, encode = LOSSLESS[kind]
    pixels = RNG.integers(0, 4096, (1, 40, 40)).astype(np.uint16)
    data = image_file(pixels, stored=12, syntax=syntax, encode=lambda frame: encode(frame)[: int(part * len(encode(frame)))])
    with pytest.raises(MalformedImage):
        stored(data)


def test_a_jpeg_of_many_scans_is_refused() -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(smooth()[..., 0]).save(file, "JPEG", progressive=True)
    progressive = file.getvalue()
    last = progressive.rindex(b"\xff\xda")
    many = progressive[:last] + progressive[last:-2] * 120 + b"\xff\xd9"
    assert len(stored(image_file(smooth()[None, ..., 0], syntax=kinds.JPEG, encode=lambda _: progressive))[0]) == 1
    with pytest.raises(UnsupportedImage, match="100 scans"):
        stored(image_file(smooth()[None, ..., 0], syntax=kinds.JPEG, encode=lambda _: many))


def test_a_jpeg_2000_of_many_packets_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(j2k(smooth()[..., 0]))
    layers = data.index(b"\xff\x52") + 6
    data[layers : layers + 2] = b"\xff\xff"
    tiles = data.index(b"\xff\x51") + 22  # of 2 x 2 pixels
    data[tiles : tiles + 8] = (2).to_bytes(4, "big") * 2
    monkeypatch.setattr(codecs, "jpeg2k_decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ImageTooLarge, match="packets"):
        stored(image_file(smooth()[None, ..., 0], syntax=kinds.J2K, encode=lambda _: bytes(data)))


@pytest.mark.parametrize("syntax", [kinds.EXPLICIT, kinds.RLE, kinds.JPEG_LS])
def test_the_number_of_frames_is_what_the_header_says(syntax: str) -> None:
    pixels = frames(3, 8, False, 1)
    encode = codecs.jpegls_encode if syntax == kinds.JPEG_LS else None
    assert len(stored(image_file(pixels, syntax=syntax, encode=encode))[0]) == 3
    with pytest.raises(UnsupportedImage, match=r"2 frames.*more"):
        stored(image_file(pixels, syntax=syntax, encode=encode, NumberOfFrames=2))
    with pytest.raises(MalformedImage):
        stored(image_file(pixels, syntax=syntax, encode=encode, NumberOfFrames=4))
    one = image_file(pixels, syntax=syntax, encode=encode, NumberOfFrames=1)
    for read in (stored, decode_image):
        with pytest.raises(UnsupportedImage, match=r"1 frames.*more"):
            read(one)


@pytest.mark.parametrize("table", [True, False])
def test_a_frame_may_come_in_several_fragments(table: bool) -> None:
    from pydicom.encaps import encapsulate

    pixels = frames(2, 8, False, 1)
    parts = [codecs.jpegls_encode(frame) for frame in pixels]
    data = encapsulate(parts, fragments_per_frame=3, has_bot=table)
    found, _ = stored(image_file(pixels, syntax=kinds.JPEG_LS, encode=codecs.jpegls_encode, PixelData=data))
    np.testing.assert_array_equal(found, pixels)


def test_an_extended_offset_table_changes_nothing() -> None:
    from pydicom.encaps import encapsulate_extended

    pixels = frames(3, 8, False, 1)
    data, offsets, lengths = encapsulate_extended([codecs.jpegls_encode(frame) for frame in pixels])
    file = image_file(
        pixels,
        syntax=kinds.JPEG_LS,
        encode=codecs.jpegls_encode,
        PixelData=data,
        ExtendedOffsetTable=offsets,
        ExtendedOffsetTableLengths=lengths,
    )
    np.testing.assert_array_equal(stored(file)[0], pixels)


def test_rle_makes_no_more_than_the_header_says() -> None:
    pixels = frames(1, 8, False, 1)
    bomb = np.array([1, 64, *[0] * 14], "<u4").tobytes() + b"\x81\0" * 100_000
    for frame in (
        bomb,
        kinds.rle(pixels[0])[:-20],
        bytes(64),
        bytes(2),
        np.array([2, 64, 64, *[0] * 13], "<u4").tobytes() + b"\1ab",
    ):
        with pytest.raises(MalformedImage):
            stored(image_file(pixels, syntax=kinds.RLE, encode=lambda _, frame=frame: frame))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"Rows": 0}, MalformedImage, "0 x 10"),
        ({"NumberOfFrames": -1}, MalformedImage, "-1 frames"),
        ({"BitsAllocated": 12}, UnsupportedImage, "12 bit"),
        ({"BitsStored": 9}, MalformedImage, "BitsStored"),
        ({"HighBit": 3}, MalformedImage, "HighBit"),
        ({"SamplesPerPixel": 3}, MalformedImage, "3 samples"),
        ({"PhotometricInterpretation": "RGB"}, MalformedImage, "1 samples"),
        ({"PhotometricInterpretation": "HSV"}, UnsupportedImage, "HSV"),
        ({"PhotometricInterpretation": "DOE JANE"}, UnsupportedImage, "that DICOM does not know"),
        ({"PhotometricInterpretation": "YBR_RCT", "SamplesPerPixel": 3}, MalformedImage, "JPEG 2000 alone"),
    ],
)
def test_a_header_that_cannot_be_is_refused(change: dict[str, object], error: type[ImageError], says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        read_dataset(image_file(frames(1, 8, False, 1), **change), DEFAULT_LIMITS)
    assert "JANE" not in str(raised.value)


@pytest.mark.parametrize("name", ["Rows", "BitsAllocated", "PhotometricInterpretation"])
def test_a_missing_element_is_named(name: str) -> None:
    with pytest.raises(MalformedImage, match=name):
        read_dataset(image_file(frames(1, 8, False, 1), without=(name,)), DEFAULT_LIMITS)


def test_what_holds_no_pixels_says_so() -> None:
    with pytest.raises(UnsupportedImage, match="no pixels"):
        read_dataset(image_file(frames(1, 8, False, 1), without=("PixelData",)), DEFAULT_LIMITS)


def test_rle_of_one_bit_is_refused_by_name() -> None:
    pixels = RNG.integers(0, 2, (1, 3, 5), dtype=np.uint8)
    with pytest.raises(UnsupportedImage, match="RLE of 1 bit"):
        stored(image_file(pixels, allocated=1, syntax=kinds.RLE, encode=kinds.rle))


@pytest.mark.parametrize("name", ["FloatPixelData", "DoubleFloatPixelData"])
def test_floating_point_pixels_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedImage, match="floating point"):
        read_dataset(image_file(frames(1, 8, False, 1), without=("PixelData",), **{name: bytes(16)}), DEFAULT_LIMITS)


def test_a_file_holds_a_thousand_frames_at_most() -> None:
    """Each goes through the network, however few pixels it has."""
    read_dataset(image_file(np.zeros((1000, 1, 1), np.uint8)), DEFAULT_LIMITS)
    with pytest.raises(ImageTooLarge, match="1001 frames, the limit is 1000"):
        read_dataset(image_file(np.zeros((1001, 1, 1), np.uint8)), DEFAULT_LIMITS)


def test_signed_colour_and_unknown_compression_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedImage, match="signed colour"):
        read_dataset(image_file(frames(1, 8, False, 3), "RGB", PixelRepresentation=1), DEFAULT_LIMITS)
    for syntax, name in (("1.2.840.10008.1.2.4.102", "MPEG-4"), ("1.2.3.4", "that DICOM does not know")):
        with pytest.raises(UnsupportedImage, match=name):
            read_dataset(image_file(frames(1, 8, False, 1), syntax=syntax, encode=lambda frame: b"ab"), DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("limits", "says"),
    [(Limits(max_pixels=ROWS * COLUMNS * 3 - 1), "6 x 10 x 3 pixels"), (Limits(max_frames=2), "3 frames, the limit is 2")],
)
def test_all_frames_together_are_within_the_limits(limits: Limits, says: str) -> None:
    data = image_file(frames(3, 8, False, 1))
    read_dataset(data, Limits(max_pixels=ROWS * COLUMNS * 3, max_frames=3))
    with pytest.raises(ImageTooLarge, match=says):
        read_dataset(data, limits)
