"""Can this gaze be trained on? One word and its reasons, from the figures of all images and what they are compared with.

The limits were set on real EyeLink gaze (GazeMedSeg: 900 polyp images, 789 prostate slices), where 0.3 % and 0 % of the
images wander, and on gaze simulated at the noise measured for a webcam tracker, where 90 % and 92 % do
(`benchmarks/gaze_figures.py`); those of the comparisons on real gaze that was made wrong (`benchmarks/wrong_gaze.py`). What
could not be compared is always said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gazeseg_serve.metrics import is_dead

from .agreement import LEAST_IMAGES, LEAST_MASKS, Fit
from .mistakes import TURNED

GOOD, LOOK, BAD = "good", "look first", "do not train on this"
WANDER, DISPERSION = 1.0, 0.2  # an image above both wanders: its gaze jumps over the whole image as noise does
_FEW = 5
_STILL = 0.015  # image sides: a spread below it is a gaze that does not move; the least of 1,689 real images is 0.018
_SAME = 0.01  # image sides, of the centroids over the images: where prostates are read it is 0.02 and 0.06
_SIDED = 0.3  # image sides, by which the margins without gaze on two opposite sides may differ
_DURATIONS = (80.0, 1500.0)  # ms, of a median fixation: 304 and 311 in real gaze
_CHANCE, _SURE = 2.0, 4.0  # t statistics of `Fit.strength`
_TOLD = 30  # images: below, a fit no better than chance says nothing
_GAIN = {True: 2.0, False: 3.0}  # least `Fit.gain` of a turn, and of another mistake
_LOST = (0.2, 0.5)  # shares of the time: in real gaze 0.03 and 0.01
_MASK_GAIN = 0.03  # least gain of the mean Dice with true masks; right gaze loses 0.01 and more by any change


@dataclass(frozen=True)
class Evidence:
    """What the verdict knows beside the quality figures of the images.

    dropped         share of the gaze table's rows that could not be used
    without_gaze    images that should have gaze and have none, and `expected`, how many should have it
    track_loss      share of the time in which the tracker had lost the eye, of the images whose table tells
    masks           images with gaze and a true mask; unmatched: files in masks/ that are no image's
    images, on_masks    the comparisons with images and with true masks; None where there are too few
    """

    dropped: float = 0.0
    without_gaze: int = 0
    expected: int = 0
    track_loss: Sequence[float] = ()
    masks: int = 0
    unmatched: int = 0
    images: Fit | None = None
    on_masks: Fit | None = None


@dataclass(frozen=True)
class Verdict:
    """word is GOOD, LOOK or BAD; reasons say why, the gravest first; advice is no fault of the gaze.

    unchecked says what was not compared, and so may be wrong unseen; "" where true masks settled it.
    """

    word: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...] = ()
    unchecked: str = ""

    @property
    def line(self) -> str:
        reasons = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"gaze: {self.word}{reasons}" + (f". {self.unchecked}" if self.unchecked else "")


def wanders(row: Mapping[str, float]) -> bool:
    """Whether one image's gaze looks like a webcam tracker's."""
    return row["wander"] > WANDER and row["dispersion"] > DISPERSION


def dead_levels(rows: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """By level (1 is the first): the share of images where it is nearly all background or all foreground."""
    count = sum(name.startswith("area_level_") for name in rows[0])
    areas = {i: np.array([row[f"area_level_{i}"] for row in rows]) for i in range(1, count + 1)}
    return {i: float(np.mean([is_dead(share) for share in area])) for i, area in areas.items()}


def judge(rows: Sequence[Mapping[str, float]], evidence: Evidence | None = None) -> Verdict:
    """The verdict over the quality figures of all images (`quality.measure`, and `in_image`); at least one row."""
    known = evidence or Evidence()
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
    _of_movement(rows, find, known.on_masks is None)
    find(known.dropped, (0.1, 1.0), f"{known.dropped:.0%} of the rows of gaze could not be used")
    if known.expected:
        share = known.without_gaze / known.expected
        find(share, (0.2, 1.0), f"{known.without_gaze} of {known.expected} images have no gaze")
    if len(known.track_loss):
        lost = float(np.mean(known.track_loss))
        find(lost, _LOST, f"track loss: the tracker had lost the eye for {lost:.0%} of the time (mean over the images)")
    findings += [(LOOK, text) for text in _of_fit(known)]
    word = next((word for word in (BAD, LOOK) if any(found == word for found, _ in findings)), GOOD)
    reasons = [text for wanted in (BAD, LOOK) for found, text in findings if found == wanted]
    return Verdict(word, tuple(reasons), (*_slight_loss(known), *_advice(rows, median)), _unchecked(known))


def _slight_loss(known: Evidence) -> list[str]:
    lost = float(np.mean(known.track_loss)) if len(known.track_loss) else 0.0
    return [f"track loss: {lost:.0%} of the time (mean over the images)"] if 0.05 <= lost <= _LOST[0] else []


def _of_movement(
    rows: Sequence[Mapping[str, float]], find: Callable[[float, tuple[float, float], str], None], alone: bool
) -> None:
    """Gaze that stands still, lies in one place or, without masks, in one part of every image, or lasts as no fixation does."""
    several = [row for row in rows if row["fixations"] >= _FEW]
    if not several:
        return
    still = float(np.mean([row["dispersion"] < _STILL for row in several]))
    find(still, (0.1, 0.5), f"the gaze does not move (spread below {_STILL} image sides) on {still:.0%} of the images")
    if len(several) >= LEAST_MASKS and "centroid_x" in several[0]:
        apart = max(float(np.std([row[name] for row in several])) for name in ("centroid_x", "centroid_y"))
        find(float(apart < _SAME), (0.5, 0.9), "the gaze lies in the same place in all images")
    if "duration" in several[0]:
        typical = float(np.median([row["duration"] for row in several]))
        low, high = _DURATIONS
        unusual = float(not low <= typical <= high)
        find(unusual, (0.5, 1.0), f"a fixation lasts {typical:.0f} ms (median); {low:.0f} to {high:.0f} are usual")
        longest = float(np.mean([row["longest"] > 0.5 for row in several]))
        find(longest, (0.1, 1.0), f"one fixation lasts longer than all others together on {longest:.0%} of the images")
    if alone and len(several) >= LEAST_MASKS and "left" in several[0]:
        for sides, names in ((("left", "right"), "x"), (("top", "bottom"), "y")):
            least, most = (
                float(np.quantile([row[side] for row in several], share))
                for side, share in zip(sides, (0.02, 0.98), strict=True)
            )
            empty, where = (1 - most, sides[1]) if 1 - most > least else (least, sides[0])
            find(
                abs((1 - most) - least),
                (_SIDED, 2.0),
                f"no image has gaze in the {empty:.0%} at its {where} (is {names} of another screen, or of a part of it?)",
            )


def _of_fit(known: Evidence) -> list[str]:
    """What the comparisons say against the gaze. True masks settle it; only without them the images alone are asked."""
    masks, images = known.on_masks, known.images
    if masks is not None:
        told = masks.mistake is not None and masks.best - masks.strength >= _MASK_GAIN and masks.gain >= _GAIN[True]
        if not told or masks.mistake is None:
            return []
        return [
            f"it fits the true masks as if {masks.mistake.words} (Dice of the heatmaps {masks.best:.2f} when undone, "
            f"{masks.strength:.2f} as it is)"
        ]
    if images is None:
        return []
    if images.mistake is not None and images.best >= _SURE and images.gain >= _GAIN[images.mistake.kind == TURNED]:
        return [
            f"it fits the images' own colours and edges as if {images.mistake.words} "
            f"(t = {images.best:.1f} when undone, {images.strength:.1f} as it is)"
        ]
    if images.compared >= _TOLD and images.strength < _CHANCE:
        return [
            f"it fits other images as well as its own (t = {images.strength:.1f} over {images.compared} images): "
            "are the names mixed up, or is the target one that colours and edges do not show?"
        ]
    return []


def _unchecked(known: Evidence) -> str:
    if known.on_masks is not None:
        return ""
    have = "No true mask is there" if not known.masks else f"Only {known.masks} true mask(s) are there"
    have += f" ({known.unmatched} file(s) in masks/ match no image)" if known.unmatched else ""
    text = f"{have}, so it was not checked whether the gaze lies on the target: "
    if known.images is None:
        text += (
            f"swapped axes, a shift, another screen or mixed-up names would not be seen (with {LEAST_IMAGES} images or more, "
            "their colours and edges are asked)"
        )
    else:
        text += "a shift by less than a tenth of the image, bars of a screen beside it, or gaze on the wrong thing are not seen"
    return text + f"; put true masks of {LEAST_MASKS} or more images into masks/"


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
