"""Which image a cell of a gaze table means: matched with care, never merged in silence."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

# Endings that a recording may give an image without another image being meant.
_SUFFIX = re.compile(r"\.(?:png|jpe?g|tiff?|bmp|gif|webp|dcm|dicom|jp2|mhd|mha|nrrd|nii|nii\.gz|avi|mp4)$", re.IGNORECASE)
# Endings of the files that hold gaze; a file's name without them may name its image.
_TABLE = re.compile(r"\.(?:csv|tsv|txt|asc|json|xdf|xdfz|xlsx?|gz|dat|log)$", re.IGNORECASE)


class ImageNames:
    """The images of a dataset by stem, and what other spellings of them mean."""

    def __init__(self, stems: Iterable[str], size_of: Callable[[str], tuple[int, int] | None] | None = None) -> None:
        """`size_of` gives (height, width) by stem, None where an image cannot be read; it is asked only where it matters."""
        self.stems = frozenset(stems)
        self.size = lru_cache(maxsize=None)(size_of or (lambda stem: None))
        self._folded: dict[str, list[str]] = {}
        for stem in sorted(self.stems):
            self._folded.setdefault(_fold(stem), []).append(stem)
        self.match = lru_cache(maxsize=4096)(self._match)

    def _match(self, cell: str) -> str | None:
        """The stem that a cell means, None where it means none or could mean several.

        A path counts by its last part, an image's suffix may be there or not, and composed and decomposed letters
        and upper and lower case are the same unless two images differ in nothing else.
        """
        name = base_name(cell)
        bare = bare_name(cell)
        for exact in (name, bare):
            if exact in self.stems:
                return exact
        for spelling in (name, bare):
            found = self._folded.get(_fold(spelling), [])
            if len(found) == 1:
                return found[0]
        return None

    def of_file(self, name: str) -> str | None:
        """The stem that a gaze file's own name means, its endings aside: `l.tsv.gz` means the image l."""
        while True:
            found = self.match(name)
            if found is not None:
                return found
            shorter = _TABLE.sub("", name)
            if shorter == name:
                return None
            name = shorter

    def shown_size(self, cell: str) -> tuple[float, float] | None:
        """(width, height) in pixels of the image that a cell means, where that is known."""
        stem = self.match(cell)
        size = None if stem is None else self.size(stem)
        return None if size is None else (size[1], size[0])

    def nearest(self, cell: str) -> str | None:
        """The image whose name is most like an unknown one, where any is alike."""
        found = difflib.get_close_matches(_fold(bare_name(cell)), self._folded, n=1, cutoff=0.6)
        return self._folded[found[0]][0] if found else None


def base_name(cell: str) -> str:
    """The last part of a path or address, without quotation marks, a query or a fragment."""
    name = cell.strip().strip("\"'").replace("\\", "/")
    if "://" in name:
        name = re.split(r"[?#]", name)[0]
    return name.rstrip("/").rpartition("/")[2].strip()


def bare_name(cell: str) -> str:
    """The name in a cell without folders and without an image's suffix."""
    return _SUFFIX.sub("", base_name(cell))


def same_place(cell: str) -> str:
    """A cell as it is compared with others that mean the same image: two that differ here may be two images."""
    return _fold(cell.strip().strip("\"'").replace("\\", "/"))


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
