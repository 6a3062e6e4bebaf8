"""Which files among some files and folders are images, told by their content where the name does not say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import DatasetError
from .imaging import IMAGE_SUFFIXES
from .mask_file import read_stamp
from .names import printable

STDIN = Path("-")
_HEAD = 132  # bytes: a DICOM file's preamble and mark
# How the files of each format begin; those that are not read here are named in the reason why.
_MAGIC = {
    "PNG": (b"\x89PNG\r\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "GIF": (b"GIF87a", b"GIF89a"),
    "JPEG 2000": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
}
NOT_READ = ("GIF", "JPEG 2000", "BMP", "WebP", "HEIF")  # of the kinds that `image_kind` tells


@dataclass
class Inputs:
    """Images in the order given, a folder's by name, none twice; and, for what a folder holds besides, why it is skipped."""

    images: list[Path] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def collect(inputs: Sequence[Path], out: Path | None = None) -> Inputs:
    """The images among `inputs` (files, folders, `-` for standard input).

    Of a folder, every file that has the suffix or the content of an image; hidden files, and `out`, are left out. Raises
    DatasetError where an input is missing, is no file or folder, or where there is no image at all.
    """
    found = Inputs()
    seen: set[Path] = set()
    for item in inputs:
        if item == STDIN or item.is_file():
            group = [item]
        elif item.is_dir():
            group = _of_folder(item, out, found.skipped)
        elif item.exists():
            raise DatasetError(f"{printable(item)} is neither a file nor a folder; give its content to standard input: -")
        else:
            raise DatasetError(f"{printable(item)} does not exist")
        for path in group:
            if path.absolute() not in seen:
                seen.add(path.absolute())
                found.images.append(path)
    if not found.images:
        folders = ", ".join(printable(item) for item in inputs)
        raise DatasetError(f"{folders} holds no image ({len(found.skipped)} other files or folders)")
    return found


def image_kind(head: bytes) -> str:
    """The format of a file that begins with `head` (at least 132 bytes of it), "" where it is none of an image."""
    for kind, beginnings in _MAGIC.items():
        if head.startswith(beginnings):
            return kind
    if head[128:132] == b"DICM" or (head[:2] in (b"\x02\x00", b"\x08\x00") and head[4:6].isupper()):
        return "DICOM"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return "HEIF" if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif") else ""


def kind_of(path: Path) -> str:
    """`image_kind` of the file at `path`. Raises OSError."""
    with path.open("rb") as file:
        return image_kind(file.read(_HEAD))


def _of_folder(folder: Path, out: Path | None, skipped: dict[str, str]) -> list[Path]:
    images = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (out is not None and path.absolute() == out.absolute()):
            continue
        reason = _not_an_image(path)
        if reason:
            skipped[printable(path)] = reason
        else:
            images.append(path.absolute() if path == STDIN else path)  # a file of that name is not standard input
    return images


def _not_an_image(path: Path) -> str:
    """Why the file of a folder is left alone; "" for an image, and for what has the name of one."""
    if path.is_dir():
        return "a folder; name it, too, to have its images segmented"
    if not path.is_file():
        return "a link to nothing" if path.is_symlink() else "not a regular file"
    if path.name.upper() == "DICOMDIR":
        return "an index of DICOM files, without pixels"
    if read_stamp(path) is not None:
        return "a mask that predict wrote"
    try:
        known = path.suffix.lower() in IMAGE_SUFFIXES or kind_of(path)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "" if known else "no image: neither its suffix nor its content is that of one"
