"""Several readers of one image: pooled into one scan path, or kept apart, and how much they agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from gazeseg_serve.errors import ConfigError, DatasetError

from .fixation_rows import Fixation
from .scan_paths import ScanPath, scan_path

POOLS = ("mean", "union", "each")
_CELLS = 16  # side of the grid on which two readers' gaze is compared
_BLUR = 0.1  # of the image's side: about sigma 70 on the canvas of 768


def pool(kept: Mapping[tuple[str, str], list[Fixation]], how: str) -> dict[str, list[Fixation]]:
    """The fixations of each image from all its readers.

    "union": all of them as they are; "mean": every reader of an image weighs the same, so durations are scaled to the
    mean of the readers' total times. An image with one reader keeps its numbers as they are either way.
    """
    if how not in POOLS:
        raise ConfigError(f"pool {how!r}; known: {', '.join(POOLS)}")
    readings: dict[str, list[list[Fixation]]] = {}
    for (stem, _), fixations in kept.items():
        readings.setdefault(stem, []).append(fixations)
    pooled = {}
    for stem, several in readings.items():
        totals = [sum(fixation[2] for fixation in one) for one in several]
        mean = sum(totals) / len(totals)
        scales = [mean / total if how == "mean" and len(several) > 1 and total > 0 else 1.0 for total in totals]
        pooled[stem] = [
            (x, y, duration if scale == 1 else duration * scale, label)
            for one, scale in zip(several, scales, strict=True)
            for x, y, duration, label in one
        ]
    return pooled


def by_reader(kept: Mapping[tuple[str, str], list[Fixation]]) -> dict[str, dict[str, ScanPath]]:
    """The scan paths of each reader by image, where there are several readers; else nothing."""
    names = {reader for _, reader in kept}
    if len(names) < 2:
        return {}
    found: dict[str, dict[str, ScanPath]] = {}
    for (stem, reader), fixations in kept.items():
        found.setdefault(stem, {})[reader or "unnamed"] = scan_path(fixations)
    return {stem: dict(sorted(scans.items())) for stem, scans in sorted(found.items())}


def choose(kept: Mapping[tuple[str, str], list[Fixation]], reader: str) -> dict[tuple[str, str], list[Fixation]]:
    """The fixations of one reader alone. Raises DatasetError that lists the readers where that one is not there."""
    names = sorted({name for _, name in kept if name})
    chosen = {key: fixations for key, fixations in kept.items() if key[1].casefold() == reader.casefold()}
    if not chosen:
        raise DatasetError(f"no reader {reader!r}; the gaze names {', '.join(names[:20]) or 'no reader'}")
    return chosen


def agreement(readers: Mapping[str, Mapping[str, ScanPath]]) -> dict[str, float]:
    """How much the readers of an image agree, by image with several: 1 the same gaze, 0 gaze in different places.

    The mean over all pairs of readers of the shared part of their gaze, min(p, q) summed over the cells of a grid on
    which durations are spread by a Gaussian of a tenth of the image's side and scaled to the sum 1 (the "similarity"
    of Bylinskii et al., PAMI 2019).
    """
    found = {}
    for stem, scans in readers.items():
        maps = [_spread(scan) for scan in scans.values() if scan.gaze_ms > 0]
        if len(maps) > 1:
            found[stem] = float(np.mean([np.minimum(p, q).sum() for p, q in itertools.combinations(maps, 2)]))
    return found


def agreement_lines(readers: Mapping[str, Mapping[str, ScanPath]]) -> list[str]:
    """What a report says of the readers: who they are, and how much they agree. Nothing where there is one."""
    if not readers:
        return []
    names = sorted({name for scans in readers.values() for name in scans})
    shared = agreement(readers)
    lines = [f"{len(names)} readers: {', '.join(names[:10])}" + (" ..." if len(names) > 10 else "")]
    if not shared:
        return [*lines, "no image was read by two of them, so nothing is known of their agreement"]
    worst = min(shared, key=lambda stem: (shared[stem], stem))
    values = np.array(list(shared.values()))
    return [
        *lines,
        f"agreement on {len(shared)} image(s) of several readers: median {np.median(values):.2f} "
        f"(1 the same gaze, 0 none shared); least on {worst}, {shared[worst]:.2f}",
    ]


def folder_name(reader: str, taken: Sequence[str]) -> str:
    """A folder's name for a reader: names from data are never paths."""
    safe = "".join(c if c.isalnum() or c in "-_ " else "_" for c in reader).strip(" _")[:60] or "reader"
    name, count = safe, 1
    while name.casefold() in {other.casefold() for other in taken}:
        count += 1
        name = f"{safe} {count}"
    return name


def _spread(scan: ScanPath) -> np.ndarray:
    centres = (np.arange(_CELLS) + 0.5) / _CELLS
    down = np.exp(-((centres[:, None] - scan.y) ** 2) / (2 * _BLUR**2))
    across = np.exp(-((centres[:, None] - scan.x) ** 2) / (2 * _BLUR**2))
    values = (down * scan.duration) @ across.T
    return values / values.sum()
