"""What is a DICOM file, what its header may cost, and that nothing of it is told."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Callable

import dicom_kinds as kinds
import numpy as np
import pytest
from dicom_kinds import image_file
from dicoms import dicom_file, enhanced_file

from gazeseg_serve.dicom import is_dicom
from gazeseg_serve.errors import ImageError, ImageTooLarge, MalformedImage, UnsupportedImage
from gazeseg_serve.imaging import decode_image

pydicom = pytest.importorskip("pydicom")
PIXELS = np.random.default_rng(0).integers(0, 200, (1, 8, 10), dtype=np.uint8)
META_END = 132 + 12  # the preamble, its mark and the group length


def without_preamble(data: bytes) -> bytes:
    return data[132:]


def without_meta(data: bytes) -> bytes:
    length = struct.unpack_from("<I", data, META_END - 4)[0]
    return data[META_END + length :]


@pytest.mark.parametrize("cut", [without_preamble, without_meta])
@pytest.mark.parametrize("syntax", [kinds.IMPLICIT, kinds.EXPLICIT, kinds.BIG])
def test_a_file_without_its_preamble_or_meta_information_is_read(cut: Callable[[bytes], bytes], syntax: str) -> None:
    data = cut(image_file(PIXELS, syntax=syntax))
    assert is_dicom(data)
    np.testing.assert_array_equal(decode_image(data, 1)[..., 0], PIXELS[0])


def test_compressed_pixels_without_meta_information_are_refused() -> None:
    with pytest.raises(MalformedImage, match="transfer syntax"):
        decode_image(without_meta(image_file(PIXELS, syntax=kinds.RLE)))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x08", b"\x02\0", b"II*\0\x08\0\0\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\x10JFIF", b"\0\x08AB" + bytes(9)],
)
def test_other_files_are_not_taken_for_dicom(data: bytes) -> None:
    assert not is_dicom(data)


def test_a_deflated_file_is_refused_before_it_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    monkeypatch.setattr(zlib, "decompress", lambda *_, **__: pytest.fail("inflated"))
    data = image_file(PIXELS)
    uid = b"\x02\0\x10\0UI\x14\0" + kinds.EXPLICIT.encode() + b"\0"
    assert uid in data
    deflated = data.replace(uid, b"\x02\0\x10\0UI\x16\0" + kinds.EXPLICIT.encode() + b".99")
    with pytest.raises(UnsupportedImage, match="deflated"):
        decode_image(deflated)


def with_elements(elements: bytes) -> bytes:
    """A file with `elements` before its pixel data."""
    data = image_file(PIXELS)
    place = data.index(b"\xe0\x7f\x10\x00")
    return data[:place] + elements + data[place:]


def sequence(tag: tuple[int, int], value: bytes, undefined: bool) -> bytes:
    length = 0xFFFFFFFF if undefined else len(value)
    return struct.pack("<HH2sHI", *tag, b"SQ", 0, length) + value + (b"\xfe\xff\xdd\xe0\0\0\0\0" if undefined else b"")


ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"
TINY = b"".join(struct.pack("<HH2sH", 0x0029 + 2 * (k >> 16), k & 0xFFFF, b"US", 0) for k in range(210_000))
PER_FRAME, PRIVATE = (0x5200, 0x9230), (0x0029, 0x1000)
BOMBS = {
    "elements": TINY,
    "items": sequence(PRIVATE, ITEM * 140_000, undefined=False),
    "items of unknown length": sequence(PRIVATE, ITEM * 140_000, undefined=True),
    "groups of frames": sequence(PER_FRAME, ITEM * 140_000, undefined=False),
    "elements of one group": sequence(PER_FRAME, ITEM[:4] + struct.pack("<I", len(TINY)) + TINY, undefined=False),
    "elements in a sequence": sequence(PRIVATE, ITEM[:4] + b"\xff\xff\xff\xff" + TINY + b"\xfe\xff\x0d\xe0\0\0\0\0", True),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_header_that_makes_far_more_than_an_image_has_is_refused(kind: str) -> None:
    """A file of the size that is let in could hold twenty times as many, and take gigabytes."""
    with pytest.raises(ImageTooLarge, match=r"too many elements|60000 items|1[\d]+ bytes"):
        decode_image(with_elements(BOMBS[kind]))


@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_in_sequences_without_end_are_refused(undefined: bool) -> None:
    deep = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" * 20_000
    with pytest.raises(ImageError):
        decode_image(with_elements(struct.pack("<HH2sHI", *PRIVATE, b"SQ", 0, 0xFFFFFFFF) + deep))


def test_an_object_of_many_frames_is_well_within_the_limits() -> None:
    from gazeseg_serve.dicom import decode_frames, read_dataset
    from gazeseg_serve.pixels import DEFAULT_LIMITS

    data = enhanced_file(np.random.default_rng(0).integers(0, 4000, (300, 4, 4)).astype(np.uint16))
    assert len(list(decode_frames(read_dataset(data, DEFAULT_LIMITS)))) == 300


SECRET = "Doe^Jane"
LEAKS = {
    "an invalid UID": {"SOPInstanceUID": pydicom.DataElement("SOPInstanceUID", "LO", SECRET)},
    "a number": {"RescaleSlope": pydicom.DataElement("RescaleSlope", "LO", SECRET)},
    "a window": {"WindowWidth": pydicom.DataElement("WindowWidth", "LO", SECRET), "WindowCenter": 1},
    "a window's function": {"VOILUTFunction": SECRET.upper(), "WindowCenter": 5, "WindowWidth": 9},
    "a size": {"Rows": pydicom.DataElement("Rows", "LO", SECRET)},
    "a photometric interpretation": {"PhotometricInterpretation": SECRET.upper()},
    "a number of frames": {"NumberOfFrames": pydicom.DataElement("NumberOfFrames", "LO", SECRET)},
    "a character set": {"SpecificCharacterSet": SECRET.upper()},
    "a date": {"PatientBirthDate": pydicom.DataElement("PatientBirthDate", "LO", SECRET)},
    "an age": {"PatientAge": pydicom.DataElement("PatientAge", "LO", SECRET)},
}


@pytest.mark.parametrize("kind", LEAKS)
def test_nothing_that_was_read_is_logged_warned_of_or_quoted(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = image_file(PIXELS, **LEAKS[kind])
    for logger in ("pydicom", "highdicom"):  # as an application may have set it up
        logging.getLogger(logger).setLevel(logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    caplog.clear()  # of what making the file said
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            decode_image(data)
            said = ""
        except ImageError as error:
            said = str(error)
    assert warned == []
    assert SECRET.upper() not in (said + caplog.text).upper()
    assert caplog.records == []


def test_a_series_of_the_command_line_warns_of_nothing_either() -> None:
    """As in a process of its own, where no test has set any filter."""
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dcm"
        path.write_bytes(dicom_file(1, PIXELS[0].astype(np.uint16)).replace(b"id-7", b"\xff\xfe\xfd\xfc"))
        path.write_bytes(path.read_bytes().replace(b"1.2.3.4.1\0", b"Doe^Jane\0\0"))
        code = f"from pathlib import Path; from gazeseg_serve.imaging import read_image; read_image(Path({str(path)!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("", "")
