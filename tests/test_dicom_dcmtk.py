"""Every DICOM file that pydicom ships, and files of every kind, within one grey level of what DCMTK makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dcmtk
import dicom_kinds as kinds
import numpy as np
import pytest
from dicom_kinds import image_file, lut_item

from gazeseg_serve.dicom import decode_frames, is_dicom, read_dataset
from gazeseg_serve.errors import ImageError
from gazeseg_serve.pixels import DEFAULT_LIMITS

pydicom = pytest.importorskip("pydicom")
codecs = pytest.importorskip("imagecodecs")
pytestmark = pytest.mark.skipif(not dcmtk.is_installed(), reason="DCMTK is not installed: apt-get install dcmtk")

_ROOT = Path(pydicom.__file__).parent / "data"
BUNDLED = sorted(str(path.relative_to(_ROOT)) for path in _ROOT.rglob("*") if path.is_file() and is_dicom(path.read_bytes()))
# By the end of their names: what the refusal says.
REFUSED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "Rows and Columns",  # 3.7 thousand million columns
    "MR_truncated.dcm": "8130 bytes of 8192",
    "badVR.dcm": "cannot be read",  # letters in a number
    "image_dfl.dcm": "deflated",
    "meta_missing_tsyntax.dcm": "has no Rows",
    "nested_priv_SQ.dcm": "has no Rows",
}
# What DCMTK and pydicom together cannot render.
UNKNOWN_TO_DCMTK = ("GDCMJ2K_TextGBR.dcm", "J2K_pixelrep_mismatch.dcm", "SC_rgb_jpeg.dcm")
# Big-endian words of 32 bit, of which DCMTK swaps the halves; their little-endian twins are what we read.
TWINS = {"rtdose_expb.dcm": "rtdose.dcm", "rtdose_expb_1frame.dcm": "rtdose_1frame.dcm"}


def decoded(data: bytes) -> list[np.ndarray]:
    return list(decode_frames(read_dataset(data, DEFAULT_LIMITS)))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", BUNDLED)
def test_every_file_that_pydicom_ships(name: str) -> None:
    data, short = (_ROOT / name).read_bytes(), Path(name).name
    if "PixelData" not in pydicom.dcmread(_ROOT / name, force=True):
        with pytest.raises(ImageError, match=r"no pixels|no Rows"):
            decoded(data)
    elif short in REFUSED:
        with pytest.raises(ImageError, match=REFUSED[short]):
            decoded(data)
    elif short in TWINS:
        np.testing.assert_array_equal(decoded(data), decoded((_ROOT / name).with_name(TWINS[short]).read_bytes()))
    else:
        frames = decoded(data)
        for index, frame in enumerate(frames):
            rendered = dcmtk.render(data, index)
            assert isinstance(rendered, str) == (short in UNKNOWN_TO_DCMTK), rendered
            assert isinstance(rendered, str) or dcmtk.difference(frame, rendered) <= 1


RNG = np.random.default_rng(11)
GREY8, GREY12, GREY16 = (RNG.integers(0, 1 << bits, (1, 16, 20)).astype(f"u{-(-bits // 8)}") for bits in (8, 12, 16))
SIGNED = RNG.integers(-2000, 2000, (1, 16, 20)).astype(np.int16)
RGB = RNG.integers(0, 256, (1, 16, 20, 3), dtype=np.uint8)
CURVE = [int(1023 * (i / 255) ** 2) for i in range(256)]
SMOOTH = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
COLOUR = np.stack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH], 2)


def windowed(centre: float, width: float, function: str = "LINEAR", **more: Any) -> dict[str, Any]:
    return {"stored": 12, "WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function, **more}


def palette(bits: int) -> dict[str, Any]:
    entries = RNG.integers(0, 1 << bits, (256, 3))
    entries[0] = (1 << bits) - 1
    elements: dict[str, Any] = {}
    for i, name in enumerate(("Red", "Green", "Blue")):
        data = entries[:, i].astype("<u2" if bits == 16 else "u1").tobytes()
        keyword = f"{name}PaletteColorLookupTable"
        elements[f"{keyword}Descriptor"] = pydicom.DataElement(f"{keyword}Descriptor", "US", [256, 0, bits])
        elements[f"{keyword}Data"] = pydicom.DataElement(f"{keyword}Data", "OW", data)
    return elements


def jpeg(**options: Any) -> Any:
    return lambda frame: codecs.jpeg8_encode(frame, 90, **options)


KINDS: dict[str, bytes] = {
    "8 bit": image_file(GREY8),
    "8 bit, big endian words": image_file(GREY8, syntax=kinds.BIG, vr="OW"),
    "8 bit inverted": image_file(GREY8, "MONOCHROME1"),
    "12 bit": image_file(GREY12, stored=12),
    "12 bit at the top": image_file(GREY12 << 4, stored=12, high=15),
    "12 bit, RLE": image_file(GREY12, stored=12, syntax=kinds.RLE),
    "16 bit, big endian": image_file(GREY16, syntax=kinds.BIG),
    "signed": image_file(SIGNED),
    "signed, implicit, inverted": image_file(SIGNED, "MONOCHROME1", syntax=kinds.IMPLICIT),
    "rescaled": image_file(GREY12, stored=12, RescaleSlope=2, RescaleIntercept=-1024),
    "rescaled downwards": image_file(GREY12, stored=12, RescaleSlope=-1, RescaleIntercept=100),
    "window": image_file(GREY12, **windowed(1000, 900)),
    "window of 1": image_file(GREY12, **windowed(1000, 1)),
    "window of 2": image_file(GREY12, **windowed(1000, 2)),
    "window of 0": image_file(GREY12, **windowed(1000, 0)),
    "window and rescale": image_file(GREY12, **windowed(40, 400, RescaleSlope=1, RescaleIntercept=-1024)),
    "window, inverted": image_file(GREY12, "MONOCHROME1", **windowed(1000, 900)),
    "two windows": image_file(GREY12, stored=12, WindowCenter=[300, 2000], WindowWidth=[200, 1000]),
    "exact window": image_file(GREY12, **windowed(1000, 900, "LINEAR_EXACT")),
    "sigmoid": image_file(GREY12, **windowed(1000, 900, "SIGMOID")),
    "VOI LUT": image_file(GREY8, VOILUTSequence=pydicom.Sequence([lut_item((256, 0, 10), CURVE, "US")])),
    "VOI LUT, OW": image_file(
        GREY8, VOILUTSequence=pydicom.Sequence([lut_item((256, 0, 10), np.array(CURVE, "<u2").tobytes(), "OW")])
    ),
    "modality LUT": image_file(GREY8, ModalityLUTSequence=pydicom.Sequence([lut_item((256, 0, 10), CURVE, "US")])),
    "RGB": image_file(RGB, "RGB"),
    "RGB by plane": image_file(RGB, "RGB", planar=1),
    "RGB, big endian words": image_file(RGB, "RGB", syntax=kinds.BIG, vr="OW"),
    "RGB, RLE": image_file(RGB, "RGB", syntax=kinds.RLE),
    "RGB of 16 bit": image_file(RGB.astype(np.uint16) * 200, "RGB"),
    "YBR_FULL": image_file(RGB, "YBR_FULL"),
    "YBR_FULL by plane": image_file(RGB, "YBR_FULL", planar=1),
    "YBR_FULL, RLE": image_file(RGB, "YBR_FULL", syntax=kinds.RLE),
    "YBR_FULL_422": image_file(RGB, "YBR_FULL_422"),
    "palette of 8 bit": image_file(GREY8, "PALETTE COLOR", **palette(8)),
    "palette of 16 bit": image_file(GREY8, "PALETTE COLOR", **palette(16)),
    "frames": image_file(np.concatenate([GREY12, GREY12[:, ::-1]]), stored=12),
    "JPEG": image_file(SMOOTH[None], syntax=kinds.JPEG, encode=jpeg()),
    "JPEG of YCbCr": image_file(COLOUR[None], "YBR_FULL_422", syntax=kinds.JPEG, encode=jpeg(subsampling="422")),
    "JPEG of YCbCr, whole": image_file(COLOUR[None], "YBR_FULL", syntax=kinds.JPEG, encode=jpeg(subsampling="444")),
    "JPEG of RGB": image_file(COLOUR[None], "RGB", syntax=kinds.JPEG, encode=jpeg(colorspace="RGB", outcolorspace="RGB")),
    "JPEG of 12 bit": image_file(
        SMOOTH[None].astype(np.uint16) * 16, stored=12, syntax=kinds.JPEG12, encode=jpeg(bitspersample=12)
    ),
    "JPEG Lossless": image_file(
        GREY12, stored=12, syntax=kinds.JPEG_LOSSLESS_FIRST, encode=jpeg(lossless=True, bitspersample=12)
    ),
    "JPEG-LS": image_file(GREY12, stored=12, syntax=kinds.JPEG_LS, encode=codecs.jpegls_encode),
    "JPEG-LS of YBR_FULL": image_file(RGB, "YBR_FULL", syntax=kinds.JPEG_LS, encode=codecs.jpegls_encode),
    "JPEG 2000": image_file(
        GREY8, syntax=kinds.J2K, encode=lambda frame: codecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, level=0)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind(kind: str) -> None:
    for index, frame in enumerate(decoded(KINDS[kind])):
        rendered = dcmtk.render(KINDS[kind], index)
        assert not isinstance(rendered, str), rendered
        assert dcmtk.difference(frame, rendered) <= 1
