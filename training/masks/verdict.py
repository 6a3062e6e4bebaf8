"""Can this gaze be trained on? One word and its reasons, from the quality figures of all images.

The limits were set on real EyeLink gaze (GazeMedSeg: 900 polyp images, 789 prostate slices), where 0.3 % and 0 % of the
images wander, and on gaze simulated at the noise measured for a webcam tracker, where 90 % and 92 % do
(`benchmarks/gaze_figures.py`). A tracker that is off by the same amount in every image wanders no more than a good one:
only true masks show that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gazeseg_serve.metrics import is_dead

GOOD, LOOK, BAD = "good", "look first", "do not train on this"
WANDER, DISPERSION = 1.0, 0.2  # an image above both wanders: its gaze jumps over the whole image as noise does
_FEW = 5


@dataclass(frozen=True)
class Verdict:
    """word is GOOD, LOOK or BAD; reasons say why, the gravest first; advice is no fault of the gaze."""

    word: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        return f"gaze: {self.word}" + (f" ({'; '.join(self.reasons)})" if self.reasons else "")


def wanders(row: Mapping[str, float]) -> bool:
    """Whether one image's gaze looks like a webcam tracker's."""
    return row["wander"] > WANDER and row["dispersion"] > DISPERSION


def dead_levels(rows: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """By level (1 is the first): the share of images where it is nearly all background or all foreground."""
    count = sum(name.startswith("area_level_") for name in rows[0])
    areas = {i: np.array([row[f"area_level_{i}"] for row in rows]) for i in range(1, count + 1)}
    return {i: float(np.mean([is_dead(share) for share in area])) for i, area in areas.items()}


def judge(rows: Sequence[Mapping[str, float]], dropped: float = 0.0) -> Verdict:
    """The verdict over the quality figures of all images (`quality.measure`, and `in_image`); at least one row.

    dropped is the share of the gaze table's rows that could not be used.
    """
    findings: list[tuple[str, str]] = []

    def find(value: float, limits: tuple[float, float], text: str) -> None:
        """Above the first limit is worth a look, above the second is bad."""
        if value > limits[0]:
            findings.append((BAD if value > limits[1] else LOOK, text))

    def median(name: str) -> float:
        return float(np.median([row[name] for row in rows if name in row]))

    wandering = float(np.mean([wanders(row) for row in rows]))
    find(wandering, (0.1, 0.4), f"the gaze wanders like a webcam tracker's on {wandering:.0%} of the images")
    if any("inside" in row for row in rows):
        inside = median("inside")
        find(1 - inside, (0.3, 0.5), f"only {inside:.0%} of an image's fixations (median) are on the true mask")
    in_image = median("in_image")
    find(1 - in_image, (0.15, 0.4), f"only {in_image:.0%} of an image's fixations (median) are on the image")
    for level, share in dead_levels(rows).items():
        find(share, (0.05, 0.3), f"level {level} is dead (nearly all background or foreground) on {share:.0%} of the images")
    few = float(np.mean([row["fixations"] < _FEW for row in rows]))
    find(few, (0.1, 0.5), f"{few:.0%} of the images have fewer than {_FEW} fixations")
    find(dropped, (0.1, 1.0), f"{dropped:.0%} of the rows of gaze could not be used")
    word = next((word for word in (BAD, LOOK) if any(found == word for found, _ in findings)), GOOD)
    reasons = [text for wanted in (BAD, LOOK) for found, text in findings if found == wanted]
    return Verdict(word, tuple(reasons), _advice(rows, median))


def _advice(rows: Sequence[Mapping[str, float]], median: Callable[[str], float]) -> tuple[str, ...]:
    advice = []
    if any("dice_refined" in row for row in rows):
        plain, refined = (
            float(np.mean([row[name] for row in rows if name in row])) for name in ("dice_heatmap", "dice_refined")
        )
        better = "helps" if refined > plain else "hurts: make the masks with --no-crf"
        advice.append(f"the CRF {better} (mean Dice {refined:.3f} refined, {plain:.3f} plain, both cut at 0.5)")
    elif any("crf_agreement" in row for row in rows) and median("crf_agreement") < 0.7:
        advice.append(
            f"the CRF changes the maps a lot (median agreement {median('crf_agreement'):.2f}): "
            "look at the pictures, and compare with --no-crf"
        )
    return tuple(advice)
