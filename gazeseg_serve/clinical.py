"""What a model is for, and what its classes are called where DICOM wants codes: the clinical part of a manifest."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ContractError, OutsideIntendedUse
from .records import from_dict

if TYPE_CHECKING:
    from pydicom import Dataset

PHOTOMETRICS = ("", "colour", "grey")
OWN_SCHEME = "99GAZESEG"  # DICOM reserves names that begin with 99 for private coding schemes


@dataclass(frozen=True)
class Code:
    """A coded concept: its value in a coding scheme ("SCT" is SNOMED CT), and its meaning in words."""

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        for text, longest, what in ((self.value, 16, "value"), (self.scheme, 16, "scheme"), (self.meaning, 64, "meaning")):
            if not 0 < len(text) <= longest or "\\" in text or not text.isprintable():
                raise ContractError(f"the {what} of code {text!r} must have 1 to {longest} printable characters and no \\")


@dataclass(frozen=True)
class ClassCodes:
    """What a segment of a class is: its category (CID 7150), its type (CID 7151), and where in the body, if that is fixed."""

    category: Code
    type: Code
    region: Code | None = None


@dataclass(frozen=True)
class IntendedUse:
    """What images a model is for. Empty fields allow everything.

    text            one line for people
    modalities      values of DICOM's Modality
    photometric     "colour" or "grey"
    body_parts      values of DICOM's BodyPartExamined; an image that names none is not refused
    """

    text: str
    modalities: tuple[str, ...] = ()
    photometric: str = ""
    body_parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.photometric not in PHOTOMETRICS:
            raise ContractError(f"photometric {self.photometric!r}; use colour, grey, or leave it empty")

    def contradictions(self, dataset: Dataset) -> list[str]:
        """In what a DICOM image says that it is not for this model: one phrase an attribute, without its value."""
        found = []
        if self.modalities and _term(dataset, "Modality") not in map(_bare, self.modalities):
            found.append(f"its Modality is not {' or '.join(self.modalities)}")
        if self.photometric and _is_grey(dataset) != (self.photometric == "grey"):
            found.append(f"its PhotometricInterpretation is not of a {self.photometric} image")
        part = _term(dataset, "BodyPartExamined")
        if self.body_parts and part and part not in map(_bare, self.body_parts):
            found.append(f"its BodyPartExamined is not {' or '.join(self.body_parts)}")
        return found


@dataclass(frozen=True)
class Clinical:
    """A file to describe a model by: `[intended_use]`, and `[codes.CLASS]` for every class."""

    intended_use: IntendedUse | None = None
    codes: dict[str, ClassCodes] = field(default_factory=dict)

    def codes_of(self, classes: Sequence[str]) -> tuple[ClassCodes, ...]:
        """The codes in the order of `classes`, of those that the file leaves out as `known_codes` has them."""
        unknown = sorted(set(self.codes) - set(classes))
        if unknown:
            raise ContractError(f"codes for a class {unknown[0]!r}, which the model has not; it has {', '.join(classes)}")
        return tuple(self.codes.get(name) or known_codes(name) for name in classes)


def read_clinical(path: Path) -> Clinical:
    """Read a TOML file. Raises ContractError for one that is missing, or has an unknown or wrong field."""
    try:
        return from_dict(Clinical, tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise ContractError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"{path} is not TOML ({error})") from error


def check_intended_use(use: IntendedUse | None, datasets: Sequence[Dataset], force: bool = False) -> list[str]:
    """What contradicts the intended use, over all of `datasets`. Raises OutsideIntendedUse unless `force`."""
    if use is None:
        return []
    found = list(dict.fromkeys(phrase for dataset in datasets for phrase in use.contradictions(dataset)))
    if found and not force:
        raise OutsideIntendedUse(
            f"this model is for: {use.text}. The image is none of these: {'; '.join(found)}. "
            "force (force=true, --force) segments it all the same, and the result says so"
        )
    return found


def check_file(use: IntendedUse | None, data: bytes, force: bool = False) -> list[str]:
    """As `check_intended_use`, of a file that may be of any format: only DICOM can contradict."""
    from .dicom import is_dicom

    if use is None or not is_dicom(data):
        return []
    from .dicom import broken_errors, parse_dicom

    wanted = ["Modality", "PhotometricInterpretation", "BodyPartExamined", "SpecificCharacterSet"]
    try:
        header = parse_dicom(data, stop_before_pixels=True, specific_tags=wanted)
    except broken_errors():
        return []  # whoever decodes it says what is wrong
    return check_intended_use(use, [header], force)


_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
_NO_CATEGORY = Code("309825002", "SCT", "Spatial and Relational Concept")  # of a class whose name says no more
_KNOWN = {
    "lesion": ClassCodes(_ABNORMAL, Code("52988006", "SCT", "Lesion")),
    "polyp": ClassCodes(_ABNORMAL, Code("52988006", "SCT", "Lesion")),
    "prostate": ClassCodes(_ANATOMY, Code("41216001", "SCT", "Prostate")),
}


def known_codes(name: str) -> ClassCodes:
    """The codes of a class that this package knows by its name; else a private code, whose meaning is the name."""
    label = "".join(character for character in name if character.isprintable() and character != "\\").strip() or "class"
    return _KNOWN.get(name.lower()) or ClassCodes(_NO_CATEGORY, Code(_private(label), OWN_SCHEME, label[:64]))


def _private(label: str) -> str:
    bare = "".join(c for c in label.upper() if c.isascii() and c.isalnum())
    if bare and len(label) <= 16:
        return bare
    from .files import sha256

    return sha256(label.encode())[:16].upper()


def _term(dataset: Dataset, keyword: str) -> str:
    from .dicom_text import code, value

    return _bare(value(dataset, keyword, code))


def _bare(term: str) -> str:
    return "".join(character for character in term.upper() if character.isalnum())


def _is_grey(dataset: Dataset) -> bool:
    from .dicom_text import code, value

    return value(dataset, "PhotometricInterpretation", code).startswith("MONOCHROME")
