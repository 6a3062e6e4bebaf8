"""File names of answers: never two alike, never longer than a file system takes, never one suffix upon another.

answer_names(["a.jpg", "b.dcm", "IM0001"], ".png")     # ["a.png", "b.png", "IM0001.png"]
answer_names(["a.jpg", "A.dcm", "A.dcm"], ".png")      # ["a.png", "A_dcm.png", "A_dcm-2.png"]
answer_names(["1.2.840.5", "1.2.840.6"], ".png")       # ["1.2.840.5.png", "1.2.840.6.png"]: 5 and 6 are no suffixes
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

MAX_BYTES = 255  # of one file name: ext4, XFS, NTFS, APFS

# What ends the name of an image, read here or not. Anything else after a dot is part of the name: 1.2.840.5
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".dcm", ".dicom", ".ima", ".bmp", ".gif", ".webp")
# What Windows keeps for its devices, with any suffix; and what it takes in no name.
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)")
_RESERVED = re.compile(r'[<>:"|?*]')


def answer_names(names: Sequence[str], suffix: str) -> list[str]:
    """A file name for the answer to each of `names`, in their order: `<stem><suffix>`.

    No two are the same, on a file system that takes upper and lower case or composed and decomposed letters for one,
    either; none has more than MAX_BYTES bytes. A later input of a stem that is taken adds its own suffix (`a_dcm`), and
    after that a number. `names` are bare file names, without a folder.
    """
    parts = [_split(name) for name in names]
    return _distinct(
        [stem for stem, _ in parts], [f"{stem}_{own[1:]}" if own else stem for stem, own in parts], [suffix] * len(names)
    )


def distinct_names(names: Sequence[str]) -> list[str]:
    """`names` themselves, with their suffixes, each made different from the others as `answer_names` does."""
    parts = [_split(name, one=True) for name in names]
    stems = [stem for stem, _ in parts]
    return _distinct(stems, stems, [own for _, own in parts])


def sent_name(name: str, number: int) -> str:
    """The file name a client sent, as one that every file system can hold; `image_<number>` where nothing is left of it.

    Folders are cut off; control and direction marks go; `<>:"|?*`, and what is no Unicode text, become `_`.
    """
    name = re.split(r"[/\\]", name)[-1]
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode("utf-8"))
    name = "".join(letter for letter in name if unicodedata.category(letter) not in ("Cc", "Cf", "Zl", "Zp"))
    name = _RESERVED.sub("_", name).strip(" .")
    if _DEVICES.match(name):
        name = f"_{name}"
    return name or f"image_{number:04d}"


def printable(path: Path | str) -> str:
    """A path, or a text that holds one, fit for one line of a terminal or a log: bytes that are no text, line ends and
    control codes are escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(path))


def _split(name: str, one: bool = False) -> tuple[str, str]:
    """A name without its image suffixes (all of them, or `one`), and the last of these."""
    stem, own = name, ""
    while (parts := stem.rpartition("."))[1] and f".{parts[2].lower()}" in SUFFIXES:
        stem, own = parts[0], own or f".{parts[2]}"
        if one:
            break
    return stem or "image", own


def _distinct(stems: Sequence[str], others: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    plain = [_fitted(stem, suffix) for stem, suffix in zip(stems, suffixes, strict=True)]
    holders: dict[str, int] = {}
    for i, name in enumerate(plain):
        holders.setdefault(_folded(name), i)
    taken = set(holders)
    numbers: dict[str, int] = {}
    chosen = []
    for i, name in enumerate(plain):
        if holders[_folded(name)] != i:
            base = _folded(_fitted(others[i], suffixes[i]))
            number = numbers.get(base, 1)
            while _folded(candidate := _numbered(others[i], suffixes[i], number)) in taken:
                number += 1
            numbers[base] = number + 1
            taken.add(_folded(candidate))
            name = candidate
        chosen.append(name)
    return chosen


def _numbered(stem: str, suffix: str, number: int) -> str:
    return _fitted(stem, suffix if number == 1 else f"-{number}{suffix}")


def _fitted(stem: str, tail: str) -> str:
    """`stem` + `tail`, the stem cut at a whole character where both would be over MAX_BYTES."""
    room = MAX_BYTES - _size(tail)
    while _size(stem) > room:
        stem = stem[: min(len(stem) - 1, room)]
    return stem + tail


def _size(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))  # a name that is no UTF-8 counts as longer than it is, never shorter


def _folded(name: str) -> str:
    """What a file system that ignores case and composition compares."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
