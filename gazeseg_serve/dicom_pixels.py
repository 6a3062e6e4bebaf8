"""The frames of a DICOM file as they are stored, decoded one at a time; each is checked against the header before it is.

Decompression is imagecodecs': libjpeg-turbo, CharLS and OpenJPEG under free licences, in one package that decodes every JPEG
that DICOM knows. pydicom splits the pixel data into frames.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .dicom_codestream import Codestream, check_scans, read_codestream
from .errors import ImageTooLarge, MalformedImage, MissingExtraError, UnsupportedImage, require

if TYPE_CHECKING:
    from pydicom import Dataset

_PADDING = 4096  # bytes after uncompressed pixels, beside a row, which some writers leave
_MAX_PACKETS = 500_000  # of a JPEG 2000; 40 million pixels as encoders cut them have 50,000
_JPEG_SYNTAXES = {
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.51": "JPEG",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "JPEG 2000",
    "1.2.840.10008.1.2.4.202": "JPEG 2000",
    "1.2.840.10008.1.2.4.203": "JPEG 2000",
}
_SOS, _EOI, _JPEG_START, _J2K_START = b"\xff\xda", b"\xff\xd9", b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
_RLE = "1.2.840.10008.1.2.5"
_VIDEO = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.10[0-8](\.1)?")
_NATIVE = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")


@dataclass(frozen=True)
class Layout:
    """What the header says of the stored pixels. `syntax` is the transfer syntax' UID; `big` and `swapped` are of native
    pixels: the byte order, and whether it holds for pairs of 8-bit samples, too (VR OW).
    """

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    planar: bool
    photometric: str
    syntax: str
    big: bool = False
    swapped: bool = False


def readable_syntaxes() -> list[str]:
    """The UIDs of the transfer syntaxes whose pixels can be decoded here; uncompressed ones first."""
    packed = [_RLE, *_JPEG_SYNTAXES] if importlib.util.find_spec("imagecodecs") is not None else []
    return [*_NATIVE, *packed]


def check_syntax(layout: Layout, name: str) -> None:
    """Raises UnsupportedImage unless pixels of the transfer syntax, of that `name` in the standard, are decoded here."""
    if layout.syntax in _NATIVE or layout.syntax == _RLE or layout.syntax in _JPEG_SYNTAXES:
        return
    if is_video(layout.syntax):
        raise UnsupportedImage(f"the DICOM file holds a video ({name}); segment it with: gazeseg-serve video FILE --out FOLDER")
    raise UnsupportedImage(
        f"pixels in the transfer syntax {name} are not accepted; send it uncompressed, or as JPEG, JPEG-LS, JPEG 2000 or RLE"
    )


def is_video(syntax: str) -> bool:
    """Whether a transfer syntax is one of the standard's for video: MPEG-2, MPEG-4 AVC and HEVC, 4.100 to 4.108."""
    return _VIDEO.fullmatch(syntax) is not None


def stored_frames(dataset: Dataset, layout: Layout) -> Iterator[tuple[np.ndarray, str]]:
    """Each frame, `(H, W)` or `(H, W, 3)` integers, and its photometric interpretation, which decoding may have changed.

    Raises MalformedImage, UnsupportedImage or ImageTooLarge.
    """
    data = dataset.PixelData
    if layout.syntax in _NATIVE:
        yield from _native(data, layout)
        return
    decode = _rle if layout.syntax == _RLE else _jpeg
    for frame in _encapsulated(data, layout):
        yield decode(frame, layout)


def _encapsulated(data: bytes, layout: Layout) -> Iterator[bytes]:
    """The compressed frames. Raises MalformedImage or UnsupportedImage unless there are as many as the header says."""
    from pydicom.encaps import generate_fragments, generate_frames

    parts = [part[:4] for part in generate_fragments(data)][1:]  # without the offset table
    # Fragments that begin a frame; of RLE each does (PS3.5, A.4.2).
    starts = sum(layout.syntax == _RLE or part[:3] == _JPEG_START or part == _J2K_START for part in parts)
    if starts > layout.frames:
        raise _more_frames(layout)
    count = 0
    for frame in generate_frames(data, number_of_frames=layout.frames):
        count += 1
        if count > layout.frames:
            raise _more_frames(layout)
        yield frame
    if count < layout.frames:
        raise MalformedImage(f"the header of the DICOM file says {layout.frames} frames, and its pixel data holds {count}")


def _more_frames(layout: Layout) -> UnsupportedImage:
    return UnsupportedImage(
        f"the header of the DICOM file says {layout.frames} frames, and its pixel data holds more; correct NumberOfFrames"
    )


def _native(data: bytes, layout: Layout) -> Iterator[tuple[np.ndarray, str]]:
    pixels, whole = layout.rows * layout.columns, layout.rows * layout.columns * layout.samples
    # Two pixels share their colour, unless the pixel data is as long as if none did.
    halved = layout.photometric == "YBR_FULL_422" and len(data) // 2 != -(-whole * layout.frames * layout.allocated // 16)
    values = pixels * 2 if halved else whole
    bits = values * layout.allocated
    if halved and (layout.columns % 2 or layout.planar):
        raise MalformedImage("YBR_FULL_422 needs an even number of columns and its samples by pixel")
    length = -(-bits * layout.frames // 8)
    if len(data) < length:
        raise MalformedImage(f"the pixel data of the DICOM file has {len(data)} bytes of {length}")
    if len(data) * 8 >= bits * (layout.frames + 1):
        raise _more_frames(layout)
    if len(data) - length > max(_PADDING, length // layout.rows):
        raise MalformedImage(
            f"the pixel data of the DICOM file has {len(data)} bytes, and its header says {length}; correct Rows, Columns, "
            "SamplesPerPixel or BitsAllocated"
        )
    for index in range(layout.frames):
        start, stop = index * bits // 8, -(-(index + 1) * bits // 8)
        if layout.allocated == 1:
            first = index * bits % 8
            frame = np.unpackbits(np.frombuffer(data[start:stop], np.uint8), bitorder="little")[first : first + values]
        elif layout.swapped:
            first = start % 2
            even = np.frombuffer(data[start - first : stop + stop % 2].ljust(2, b"\0"), np.uint8)
            frame = even.reshape(-1, 2)[:, ::-1].reshape(-1)[first : first + values]
        else:
            frame = np.frombuffer(data[start:stop], f"{'>' if layout.big else '<'}u{layout.allocated // 8}")
        frame = _aligned(frame, layout)
        yield (_doubled(frame, layout), "YBR_FULL") if halved else (_shaped(frame, layout), layout.photometric)


def _shaped(frame: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.samples == 1:
        return frame.reshape(layout.rows, layout.columns)
    if layout.planar:
        return frame.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0)
    return frame.reshape(layout.rows, layout.columns, layout.samples)


def _doubled(frame: np.ndarray, layout: Layout) -> np.ndarray:
    """Y1 Y2 Cb Cr of two pixels -> `(H, W, 3)` (PS3.3 C.7.6.3.1.2)."""
    pairs = frame.reshape(layout.rows, layout.columns // 2, 4)
    out = np.empty((layout.rows, layout.columns, 3), frame.dtype)
    for i in (0, 1):
        out[:, i::2, 0], out[:, i::2, 1:] = pairs[..., i], pairs[..., 2:]
    return out


def _aligned(frame: np.ndarray, layout: Layout) -> np.ndarray:
    """The stored bits of each allocated word, with their sign: those up to HighBit, and none of what stands beside them."""
    if layout.allocated == 1:
        return frame
    native = frame.astype(f"{'i' if layout.signed else 'u'}{layout.allocated // 8}")
    if layout.stored < layout.allocated:
        np.left_shift(native, layout.allocated - 1 - layout.high, out=native)
        np.right_shift(native, layout.allocated - layout.stored, out=native)
    return native


def _codecs(kind: str) -> Any:
    """imagecodecs. Raises MissingExtraError, which names the format and the package."""
    try:
        return require("imagecodecs", "dicom")
    except MissingExtraError as error:
        raise MissingExtraError(f"the DICOM file holds {kind}, and {error}") from error


def _rle(frame: bytes, layout: Layout) -> tuple[np.ndarray, str]:
    codecs = _codecs("RLE")
    if layout.allocated < 8:
        raise UnsupportedImage("RLE of 1 bit is not accepted; send it uncompressed")
    planes = bytearray(layout.samples * layout.rows * layout.columns * layout.allocated // 8)
    try:
        decoded = codecs.dicomrle_decode(frame, f"<u{layout.allocated // 8}", out=planes)
    except (RuntimeError, ValueError) as error:
        raise MalformedImage("a frame of the DICOM file is not the RLE that its header says; it is corrupt") from error
    if len(decoded) != len(planes):
        raise MalformedImage("a frame of the DICOM file holds fewer pixels than its header says; it is truncated")
    values = _aligned(np.frombuffer(planes, f"<u{layout.allocated // 8}"), layout)
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns), layout.photometric
    return values.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0), layout.photometric


def _jpeg(frame: bytes, layout: Layout) -> tuple[np.ndarray, str]:
    codecs = _codecs(_JPEG_SYNTAXES[layout.syntax])
    stream = read_codestream(frame)
    _check(stream, layout)
    check_scans(frame)
    if stream.kind.startswith("JPEG") and stream.kind != "JPEG 2000" and frame.rfind(_EOI) < frame.rfind(_SOS):
        raise MalformedImage(f"a {stream.kind} frame of the DICOM file has no end; it is truncated")  # libjpeg would not say
    shape = (layout.rows, layout.columns) if layout.samples == 1 else (layout.rows, layout.columns, layout.samples)
    kind = "i" if stream.signed else "u"
    out = np.empty(shape, f"{kind}{1 if stream.bits <= 8 else 2 if stream.bits <= 16 else 4}")
    photometric = layout.photometric
    try:
        if stream.kind == "JPEG-LS":
            codecs.jpegls_decode(frame, out=out)
        elif stream.kind == "JPEG 2000":
            codecs.jpeg2k_decode(frame, out=out, numthreads=1)
            if stream.transformed or photometric in ("YBR_ICT", "YBR_RCT"):
                photometric = "RGB"
        elif layout.samples == 1:
            codecs.jpeg8_decode(frame, out=out)
        else:
            space = "RGB"
            if stream.kind == "JPEG":  # a lossless one is never transformed
                unsaid = stream.transformed is None and photometric.startswith("YBR")
                space, photometric = ("YCBCR" if stream.transformed or unsaid else "RGB"), "RGB"
            codecs.jpeg8_decode(frame, colorspace=space, outcolorspace="RGB", out=out)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise MalformedImage(
            f"a {stream.kind} frame of the DICOM file cannot be decoded; it is truncated or corrupt"
        ) from error
    return _as_the_header_says(out, stream, layout), photometric


def _check(stream: Codestream, layout: Layout) -> None:
    expected = _JPEG_SYNTAXES[layout.syntax]
    if (stream.kind == "JPEG 2000") != (expected == "JPEG 2000") or (stream.kind == "JPEG-LS") != (expected == "JPEG-LS"):
        raise MalformedImage(
            f"the DICOM file says {expected}, and its pixel data is {stream.kind}; correct its transfer syntax"
        )
    if (stream.width, stream.height) != (layout.columns, layout.rows):
        error = ImageTooLarge if stream.width * stream.height > layout.rows * layout.columns else MalformedImage
        raise error(
            f"a compressed frame has {stream.height} x {stream.width} pixels, and the header of the DICOM file says "
            f"{layout.rows} x {layout.columns}; correct Rows and Columns"
        )
    if stream.components != layout.samples or not 1 <= stream.bits <= layout.allocated:
        raise MalformedImage(
            f"a compressed frame has {stream.components} samples of {stream.bits} bit, and the header of the "
            f"DICOM file says {layout.samples} of {layout.allocated}; correct it"
        )
    if stream.packets > _MAX_PACKETS:
        raise ImageTooLarge(
            f"a JPEG 2000 cut into {stream.packets} packets is not accepted, the limit is {_MAX_PACKETS}; send it uncompressed"
        )


def _as_the_header_says(values: np.ndarray, stream: Codestream, layout: Layout) -> np.ndarray:
    """The same bits with the sign that the header gives them; only JPEG 2000 keeps one, and even there the two may differ."""
    shifted = layout.high != layout.stored - 1
    if stream.bits > layout.stored and (shifted or stream.kind in ("JPEG Lossless", "JPEG-LS")):
        return _aligned(values, layout)  # whole words went in
    if stream.signed == layout.signed:
        return values
    unused = 8 * values.itemsize - stream.bits
    values = values.view(f"{'i' if layout.signed else 'u'}{values.itemsize}")
    return (values << unused) >> unused
