"""Copied text: a table of what hospitals write, and what of it another object may repeat."""

from __future__ import annotations

import io
from typing import Any

import pytest

pytest.importorskip("pydicom")
import pydicom
from dicom_images import image
from hypothesis import given
from hypothesis import strategies as st

from gazeseg_serve import dicom_text
from gazeseg_serve.dicom_text import made_at, patient_and_study

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # about the odd values that are tried here


@pytest.mark.parametrize(
    ("normalise", "found", "kept"),
    [
        (dicom_text.uid, "1.2.840.10008.1", "1.2.840.10008.1"),
        (dicom_text.uid, "0.1", "0.1"),
        (dicom_text.uid, "1.02", ""),
        (dicom_text.uid, "1..2", ""),
        (dicom_text.uid, "5", ""),
        (dicom_text.uid, "1." + "1" * 62, "1." + "1" * 62),
        (dicom_text.uid, "1." + "1" * 63, ""),
        (dicom_text.uid, "1.2\0", "1.2"),
        (dicom_text.uid, None, ""),
        (dicom_text.day, "20240229", "20240229"),
        (dicom_text.day, "20230229", ""),
        (dicom_text.day, "1994.05.27", "19940527"),
        (dicom_text.day, "27.05.1994", ""),
        (dicom_text.day, "00000000", ""),
        (dicom_text.day, "ANON", ""),
        (dicom_text.clock, "101112.25", "101112.25"),
        (dicom_text.clock, "10:11:12", "101112"),
        (dicom_text.clock, "10", "10"),
        (dicom_text.clock, "1011", "1011"),
        (dicom_text.clock, "24", ""),
        (dicom_text.clock, "1060", ""),
        (dicom_text.clock, "101160", ""),
        (dicom_text.clock, "noon", ""),
        (dicom_text.sex, "m", "M"),
        (dicom_text.sex, "Female", "F"),
        (dicom_text.sex, "O", "O"),
        (dicom_text.sex, "U", ""),
        (dicom_text.age, "054Y", "054Y"),
        (dicom_text.age, "54Y", ""),
        (dicom_text.age, "054", ""),
        (dicom_text.number, "70.5", "70.5"),
        (dicom_text.number, "0", ""),
        (dicom_text.number, "-3", ""),
        (dicom_text.number, "nan", ""),
        (dicom_text.number, "inf", ""),
        (dicom_text.number, "seventy", ""),
        (dicom_text.name, "Doe^Jane", "Doe^Jane"),
        (dicom_text.name, "a^b^c^d^e", "a^b^c^d^e"),
        (dicom_text.name, "a^b^c^d^e^f", ""),
        (dicom_text.name, "a=b=c", "a=b=c"),
        (dicom_text.name, "a=b=c=d", ""),
        (dicom_text.name, "x" * 65, ""),
        (dicom_text.name, "a\\b", ""),
        (dicom_text.name, "M\ufffdller", ""),
        (dicom_text.code, "es ", "ES"),
        (dicom_text.code, "A" * 17, ""),
        (dicom_text.code, "Ü", ""),
    ],
)
def test_a_value_is_normalised_or_left_empty(normalise: Any, found: object, kept: str) -> None:
    assert normalise(found) == kept
    assert normalise(kept) == kept


@given(st.text(max_size=100), st.integers(1, 70))
def test_a_line_is_kept_whole_or_not_at_all(text: str, longest: int) -> None:
    kept = dicom_text.line(text, longest)
    assert kept in ("", text.strip(" \0"))
    assert len(kept) <= longest
    assert not set(kept) & set("\\\n\r\x1b\ufffd")


def through_a_file(**attributes: object) -> pydicom.Dataset:
    file = io.BytesIO()
    pydicom.dcmwrite(file, image("mr", **attributes), enforce_file_format=True)
    file.seek(0)
    return pydicom.dcmread(file)


@pytest.mark.parametrize(
    ("declared", "raw", "kept"),
    [
        (None, b"Doe^Jane", "Doe^Jane"),
        (None, "Müller^J".encode("latin-1"), ""),  # no character set is declared, so the letter may be any
        ("ISO_IR 100", "Müller^J".encode("latin-1"), "Müller^J"),
        ("ISO_IR 192", "Müller^Jürg".encode(), "Müller^Jürg"),
        ("ISO_IR 192", b"M\xfcller^J", ""),
        ("ISO_IR 999", "Müller^J".encode("latin-1"), ""),
        ("ISO_IR 144", "Люкceмбypг".encode("iso8859-5"), "Люкceмбypг"),
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
    ],
)
def test_a_name_is_read_in_its_character_set_or_left_empty(declared: str | None, raw: bytes, kept: str) -> None:
    """The bytes of the examples in PS3.5 (annexes H to J) and of files that break them."""
    data = through_a_file(PatientName=None, SpecificCharacterSet=None)
    plain = io.BytesIO()
    pydicom.dcmwrite(plain, data, enforce_file_format=True)
    element = b"\x10\0\x10\0PN" + (len(raw) + len(raw) % 2).to_bytes(2, "little") + raw + b" " * (len(raw) % 2)
    charset = (declared or "").encode()
    charset += b" " * (len(charset) % 2)
    content = plain.getvalue().replace(b"\x10\0\x20\0LO", element + b"\x10\0\x20\0LO", 1)
    if declared is not None:
        tag = b"\x08\0\x05\0CS" + len(charset).to_bytes(2, "little") + charset
        content = content.replace(b"\x08\0\x16\0UI", tag + b"\x08\0\x16\0UI", 1)
    found = patient_and_study(pydicom.dcmread(io.BytesIO(content)))
    assert str(found.PatientName or "") == kept
    assert found.SpecificCharacterSet == "ISO_IR 192"
    file = io.BytesIO()
    found.file_meta = data.file_meta
    found.SOPClassUID, found.SOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    pydicom.dcmwrite(file, found, enforce_file_format=True)
    file.seek(0)
    assert str(pydicom.dcmread(file).PatientName or "") == kept


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"ContentDate": "20240301", "ContentTime": "0102"}, ("20240301", "0102")),
        ({"AcquisitionDate": "20240302", "AcquisitionTime": "x"}, ("20240302", "000000")),
        ({}, ("20240229", "101112")),
        ({"StudyDate": "someday"}, ("19700101", "000000")),
    ],
)
def test_the_object_is_dated_by_its_image(attributes: dict[str, object], expected: tuple[str, str]) -> None:
    assert made_at(image("mr", **attributes)) == expected
