"""The film inside a DICOM video object: MPEG-2, MPEG-4 AVC or HEVC in the fragments of its pixel data (PS3.5, 8.2)."""

from __future__ import annotations

import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from ..clinical import IntendedUse, check_intended_use
from ..dicom import broken_errors, parse_header
from ..dicom_pixels import is_video
from ..errors import MalformedImage, UnsupportedImage
from .frames import DEFAULT_LIMITS, Video, VideoLimits

if TYPE_CHECKING:
    from pydicom import Dataset

_HEAD_BYTES = 16 * 2**20  # all that stands before the pixels must lie in so many
_PIXEL_DATA, _ITEM, _END = (0x7FE0, 0x0010), (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_PIECE = 2**20


class DicomVideo(Video):
    """A Video whose film was copied out of a DICOM file; the copy has no name and ends with it."""

    def __init__(self, film: IO[bytes], path: Path, rate: float | None, limits: VideoLimits) -> None:
        self._film = film
        super().__init__(film, limits, rate=rate, name=str(path))

    def close(self) -> None:
        super().close()
        self._film.close()


def open_dicom_video(
    path: Path, limits: VideoLimits = DEFAULT_LIMITS, use: IntendedUse | None = None, force: bool = False
) -> DicomVideo:
    """Open the video in the DICOM file at `path`. use, force: as `clinical.check_intended_use` takes them.

    Raises UnsupportedImage for DICOM that holds no video, MalformedImage for one that is cut off, OutsideIntendedUse, what
    Video raises, or MissingExtraError. The film goes to a temporary file: it may be larger than the memory.
    """
    with path.open("rb") as file:
        try:
            header, place = parse_header(file.read(_HEAD_BYTES))
            syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
        except broken_errors() as error:
            raise MalformedImage(f"{path}: the DICOM file cannot be read ({type(error).__name__}); send it whole") from error
        if not is_video(syntax):
            raise UnsupportedImage(
                f"{path}: this DICOM file holds no MPEG-2, MPEG-4 or HEVC video; for images and their frames use: "
                "gazeseg-serve predict"
            )
        check_intended_use(use, [header], force)
        film = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115  (it stays open as long as the video)
        try:
            file.seek(place)
            _copy_fragments(file, film, path)
            film.seek(0)
            return DicomVideo(film, path, _rate(header), limits)
        except BaseException:
            film.close()
            raise


def _rate(header: Dataset) -> float | None:
    """Frames a second, as the header says it, for streams without time stamps; None where it does not."""
    for name, rate in (("FrameTime", lambda ms: 1000 / ms), ("CineRate", float), ("RecommendedDisplayFrameRate", float)):
        with suppress(TypeError, ValueError, ZeroDivisionError):
            if (found := rate(float(header.get(name)))) > 0:
                return found
    return None


def _copy_fragments(file: IO[bytes], film: IO[bytes], path: Path) -> None:
    """Copy what the items of the pixel data hold, one after another, but for the first, the offset table."""
    if _tag(file, path) != _PIXEL_DATA:
        raise MalformedImage(f"{path}: the DICOM file has no pixel data within its first {_HEAD_BYTES} bytes; send it whole")
    _, _, length = struct.unpack("<2sHI", _exactly(file, 8, path))
    if length != _UNDEFINED:
        raise MalformedImage(f"{path}: the DICOM file's video is not encapsulated; send it as its transfer syntax says")
    number = 0
    while (tag := _tag(file, path)) != _END:
        (length,) = struct.unpack("<I", _exactly(file, 4, path))
        if tag != _ITEM or length == _UNDEFINED:
            raise MalformedImage(f"{path}: the DICOM file's video is no row of items; it is damaged")
        while length:
            piece = _exactly(file, min(length, _PIECE), path)
            length -= len(piece)
            if number:
                film.write(piece)
        number += 1


def _tag(file: IO[bytes], path: Path) -> tuple[int, int]:
    group, element = struct.unpack("<HH", _exactly(file, 4, path))
    return group, element


def _exactly(file: IO[bytes], count: int, path: Path) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise MalformedImage(f"{path}: the DICOM file ends in the middle of its video; send it whole")
    return data
