"""Patient and study as another object may repeat them: values that the standard allows, in UTF-8; the rest is left empty.

Headers hold what hospitals typed: dates of ACR-NEMA, a sex of "U", names in a character set that is not declared. None of
it may keep a segmentation from being made, and a value that is only half understood is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

from .dicom import broken_errors
from .errors import MalformedImage

if TYPE_CHECKING:
    from pydicom import Dataset

# PS3.5, 9.1: components without leading zeros. Device makers pad them all the same; such an UID is valid to nobody.
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_MAX_UID = 64
_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})")
_TIME = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(\.\d{1,6})?)?)?")
_AGE = re.compile(r"\d{3}[DWMY]")
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_SEXES = {"M": "M", "F": "F", "O": "O", "MALE": "M", "FEMALE": "F", "OTHER": "O"}
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\\ufffd]")  # \ufffd stands where bytes could not be read


def uid(value: object) -> str:
    """A UID as PS3.5 9.1 has it, else ""."""
    text = str(value or "").strip(" \0")
    return text if len(text) <= _MAX_UID and _UID.fullmatch(text) else ""


def day(value: object) -> str:
    """A date as YYYYMMDD, also from the older YYYY.MM.DD; "" where it is none of the calendar."""
    found = _DATE.fullmatch(str(value or "").strip(" \0"))
    if not found:
        return ""
    try:
        return date(*map(int, found.groups())).strftime("%Y%m%d") if int(found[1]) >= 1000 else ""
    except ValueError:
        return ""


def clock(value: object) -> str:
    """A time as HHMMSS.FFFFFF or its beginning, also from the older HH:MM:SS; "" where it is none."""
    found = _TIME.fullmatch(str(value or "").strip(" \0"))
    if not found:
        return ""
    hour, minute, second, part = found.groups()
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 59:
        return ""
    return hour + (minute or "") + (second or "") + (part or "")


def line(value: object, longest: int) -> str:
    """One line of text; "" where it is too long, or holds what a text may not. Never cut: half an ID is another one."""
    text = str(value or "").strip(" \0")
    return text if len(text) <= longest and not _FORBIDDEN.search(text) else ""


def name(value: object) -> str:
    """A person's name (PS3.5 6.2.1): up to three groups of up to five components and 64 characters each; else ""."""
    groups = [group.strip(" \0") for group in str(value or "").split("=")]
    fits = len(groups) <= 3 and all(len(group) <= 64 and group.count("^") <= 4 for group in groups)
    return "=".join(groups).rstrip("=") if fits and not any(map(_FORBIDDEN.search, groups)) else ""


def code(value: object) -> str:
    text = str(value or "").strip(" \0").upper()
    return text if _CODE.fullmatch(text) else ""


def sex(value: object) -> str:
    return _SEXES.get(str(value or "").strip(" \0").upper(), "")


def age(value: object) -> str:
    text = str(value or "").strip(" \0")
    return text if _AGE.fullmatch(text) else ""


def number(value: object) -> str:
    """A decimal string that is finite and positive, of 16 characters at most; else ""."""
    try:
        found = float(str(value or "").strip(" \0"))
    except ValueError:
        return ""
    text = f"{found:.10g}"
    return text if 0 < found < 1e9 and len(text) <= 16 else ""


def _short(value: object) -> str:
    return line(value, 16)


def _long(value: object) -> str:
    return line(value, 64)


# Of type 2: there, if empty. The others are repeated where they have a value.
_REQUIRED: dict[str, Callable[[object], str]] = {
    "PatientName": name,
    "PatientID": _long,
    "PatientBirthDate": day,
    "PatientSex": sex,
    "StudyDate": day,
    "StudyTime": clock,
    "AccessionNumber": _short,
    "StudyID": _short,
    "ReferringPhysicianName": name,
}
_OPTIONAL: dict[str, Callable[[object], str]] = {
    "IssuerOfPatientID": _long,
    "StudyDescription": _long,
    "PatientAge": age,
    "PatientSize": number,
    "PatientWeight": number,
    "PatientIdentityRemoved": code,
    "DeidentificationMethod": _long,
}
# When the image was made, as far as it tells.
_DATES = (
    ("ContentDate", "ContentTime"),
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)
_NO_DATE = ("19700101", "000000")


def patient_and_study(dataset: Dataset) -> Dataset:
    """The patient and study of `dataset` to copy into an object of the same study, in UTF-8 (ISO_IR 192).

    Raises MalformedImage where the UID of the study is missing or not valid: no object can be filed without it.
    """
    from pydicom import Dataset

    kept: Any = Dataset()
    kept.SpecificCharacterSet = "ISO_IR 192"
    kept.StudyInstanceUID = required_uid(dataset, "StudyInstanceUID")
    trusted = _known_character_set(dataset)
    for group in (_REQUIRED, _OPTIONAL):
        for keyword, normalise in group.items():
            text = value(dataset, keyword, normalise, trusted)
            if text or group is _REQUIRED:
                setattr(kept, keyword, text or None)
    if kept.get("PatientIdentityRemoved") not in (None, "YES", "NO"):
        del kept.PatientIdentityRemoved
    if kept.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in kept:
        kept.DeidentificationMethod = "see the source image"  # which may say it in codes alone
    return kept


def made_at(dataset: Dataset) -> tuple[str, str]:
    """When the image was made, (YYYYMMDD, HHMMSS), by the best of its dates; the epoch where it has none."""
    for date_keyword, time_keyword in _DATES:
        if found := value(dataset, date_keyword, day):
            return found, value(dataset, time_keyword, clock) or "000000"
    return _NO_DATE


def required_uid(dataset: Dataset, keyword: str) -> str:
    """Raises MalformedImage that names the attribute (and quotes nothing of it)."""
    found = value(dataset, keyword, uid)
    if not found:
        raise MalformedImage(f"the DICOM file has no valid {keyword}, which the answer must refer to")
    return found


def value(dataset: Dataset, keyword: str, normalise: Callable[[object], str], trusted: bool = True) -> str:
    """One attribute, normalised; "" where it cannot be read, or holds letters of a character set that is not known."""
    try:
        text = normalise(dataset.get(keyword))
    except broken_errors():
        return ""
    return text if trusted or text.isascii() else ""


def _known_character_set(dataset: Dataset) -> bool:
    """Whether letters beyond ASCII can be read: a character set is declared, and one that is known."""
    from pydicom.charset import python_encoding

    try:
        declared = dataset.get("SpecificCharacterSet")
    except broken_errors():
        return False
    terms = [declared] if isinstance(declared, str) else list(declared or [])
    terms = [str(term).strip() for term in terms]
    return any(terms) and all(term in python_encoding for term in terms)
