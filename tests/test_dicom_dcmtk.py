"""Every DICOM file that pydicom ships, and files of every kind, within one grey level of what DCMTK makes of them."""

from __future__ import annotations

from pathlib import Path

import dcmtk
import numpy as np
import pytest
from dicom_kinds import every_kind

from gazeseg_serve.dicom import decode_frames, is_dicom, read_dataset
from gazeseg_serve.errors import ImageError
from gazeseg_serve.pixels import DEFAULT_LIMITS

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("imagecodecs")
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


KINDS = every_kind()


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind(kind: str) -> None:
    for index, frame in enumerate(decoded(KINDS[kind])):
        rendered = dcmtk.render(KINDS[kind], index)
        assert not isinstance(rendered, str), rendered
        assert dcmtk.difference(frame, rendered) <= 1
