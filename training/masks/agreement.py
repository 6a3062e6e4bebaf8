"""Does the gaze fit the images it is said to belong to, and their true masks where there are some?

Without a mask, the images alone are asked. Where people look, an image has something to look at: other colours, other edges
than where they do not. What that is, is learned from the gaze itself. A linear rule over local colours, contrasts and edges
is fitted to tell, on nine tenths of the images, the places looked at in an image from the places looked at in the other
images; it is then tried on the last tenth. Places of other images, not random places, are the counter-examples, so that a
habit of looking at the middle earns nothing (as in the "shuffled AUC" of Zhang et al., Journal of Vision 2008).

The same is asked with every mistake undone that gaze is known to suffer (`mistakes`). Right gaze fits best as it is; gaze
that was swapped, mirrored or moved on its way fits better once that is undone; gaze of other images fits in no way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from gazeseg_serve.metrics import dice

from ..gaze.scan_paths import ScanPath
from .mistakes import MIXED, SCREEN, Mistake, Points, inside, mistakes
from .settings import CANVAS

GRID = 32  # cells a side
LEAST_IMAGES, LEAST_MASKS = 20, 8  # below, chance decides what fits best
_SHRINKAGE = 0.5  # of the covariance towards a multiple of the identity
_FOLDS = 10
_MASK_GRID = 48  # cells a side, of heatmaps that are compared with masks
_BLUR = 1.0  # cells, of a fixation
_KEPT = 0.9  # share of the fixations that must still be on the image for a mistake to be tried


@dataclass(frozen=True)
class Fit:
    """How well the gaze fits as it is, and the mistake that, undone, makes it fit best.

    compared    images
    strength    with images the t statistic of the fit over them (2 or less is chance, 5 and more is sure); with masks the
                mean Dice of a coarse heatmap, cut at half its height
    mistake     None where the gaze fits best as it is
    best        strength with the mistake undone
    gain        t statistic of the difference it makes, image by image; 0 without a mistake
    """

    compared: int
    strength: float
    mistake: Mistake | None
    best: float
    gain: float


def look(image: np.ndarray) -> np.ndarray:
    """What each cell of an image looks like: `(H, W, 1 or 3)` uint8 -> `(GRID * GRID, D)` float32, each column standardised.

    Colour (CIELAB) at three scales, its difference from the surroundings, and how strong edges and texture are around it.
    Where in the image a cell lies has no part in it.
    """
    rgb = image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
    colour = cv2.cvtColor(cv2.resize(rgb, (2 * GRID, 2 * GRID), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    scales = [cv2.GaussianBlur(colour.astype(np.float32), (0, 0), sigma) for sigma in (1, 3, 6, 12)]
    maps = [*scales[:3], scales[0] - scales[2], scales[1] - scales[3], scales[0] - scales[3]]
    grey = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (8 * GRID, 8 * GRID), interpolation=cv2.INTER_AREA)
    grey = grey.astype(np.float32) / 255
    edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    texture = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 2))
    energies = [(edges, sigma) for sigma in (2, 6, 14)] + [(texture, sigma) for sigma in (4, 12)]
    maps += [np.log(cv2.GaussianBlur(values, (0, 0), sigma) + 1e-3)[..., None] for values, sigma in energies]
    cells = [cv2.resize(one, (GRID, GRID), interpolation=cv2.INTER_AREA).reshape(GRID * GRID, -1) for one in maps]
    table = np.concatenate(cells, axis=1)
    return np.asarray((table - table.mean(axis=0)) / (table.std(axis=0) + 1e-6), np.float32)


def fit_images(looks: np.ndarray, points: Sequence[Points], aspects: Sequence[float]) -> Fit | None:
    """Compare gaze with images: looks `(N, GRID * GRID, D)` of `look`; in the same order each image's points, and its width
    over its height.

    None where there are fewer than LEAST_IMAGES, or the gaze is the same in all of them. Screens with bars are not tried:
    the images alone do not tell them.
    """
    if len(points) < LEAST_IMAGES:
        return None
    given = _heats(points)
    if float(np.abs(given - given.mean(axis=0)).max()) < 1e-3:
        return None
    scores = _scores(looks, given)
    found = Fit(len(points), _t(scores), None, _t(scores), 0.0)
    here = sum(int(inside(one).sum()) for one in points)
    for mistake in mistakes():
        undone = [mistake.undo(one, aspect) for one, aspect in zip(points, aspects, strict=True)]
        if mistake.kind == SCREEN or sum(int(inside(one).sum()) for one in undone) < _KEPT * here:
            continue
        other = _scores(looks, _heats(undone))
        if _t(other) > found.best:
            found = Fit(len(points), found.strength, mistake, _t(other), _t(other - scores))
    return found


def fit_masks(
    masks: Sequence[np.ndarray], scans: Sequence[ScanPath], aspects: Sequence[float], sigma: float = 70.0
) -> Fit | None:
    """Compare gaze with true masks, labels `(H, W)` in the same order; None where there are fewer than LEAST_MASKS.

    sigma is that of the heatmaps, in pixels of the canvas. The images are in the order of their names: gaze that fits the
    masks of the next or the previous image is one of the mistakes.
    """
    if len(masks) < LEAST_MASKS:
        return None
    truths = [_by_class(mask) for mask in masks]
    pairs = [(points_of(scan), scan.label) for scan in scans]
    blur = sigma * _MASK_GRID / CANVAS
    given = np.array([_dice(truth, *pair, blur) for truth, pair in zip(truths, pairs, strict=True)])
    found = Fit(len(masks), float(given.mean()), None, float(given.mean()), 0.0)
    for mistake in mistakes():
        scores = np.array(
            [
                _dice(truth, mistake.undo(points, aspect), label, blur)
                for truth, (points, label), aspect in zip(truths, pairs, aspects, strict=True)
            ]
        )
        if scores.mean() > found.best:
            found = Fit(len(masks), found.strength, mistake, float(scores.mean()), _t(scores - given))
    for step, words in ((1, "next"), (-1, "previous")):  # are names and gaze one line apart?
        here = range(max(0, -step), len(masks) - max(0, step))
        scores = np.array([_dice(truths[k + step], *pairs[k], blur) for k in here])
        if scores.mean() > found.best:
            mistake = Mistake(f"each image's gaze belonged to the {words} image by name", MIXED, lambda points, _: points)
            found = Fit(len(masks), found.strength, mistake, float(scores.mean()), _t(scores - given[here.start : here.stop]))
    return found


def points_of(scan: ScanPath) -> Points:
    """A scan path as points `(K, 3)`."""
    return np.stack([scan.x, scan.y, scan.duration], axis=1)


def _by_class(mask: np.ndarray) -> dict[int, np.ndarray]:
    """The cells of each class that a mask shows, bool `(_MASK_GRID, _MASK_GRID)`."""
    side = (_MASK_GRID, _MASK_GRID)
    shares = {
        int(c): cv2.resize((mask == c).astype(np.float32), side, interpolation=cv2.INTER_AREA) for c in np.unique(mask) if c
    }
    return {label: share >= 0.5 for label, share in shares.items()}


def _dice(truth: dict[int, np.ndarray], points: Points, label: np.ndarray, blur: float) -> float:
    """Mean Dice over the classes of a mask, of the heatmap of their fixations cut at 0.5."""
    scores = []
    for wanted, mask in truth.items():
        heat = _heat(points[label == wanted], _MASK_GRID, blur)
        scores.append(dice(heat >= 0.5 * heat.max() if heat.any() else heat > 0, mask))
    return float(np.mean(scores)) if scores else 0.0


def _heats(points: Sequence[Points]) -> np.ndarray:
    """Where each image was looked at: `(N, GRID * GRID)` float32, a row sums to 1 (0 where nothing is on the image)."""
    heats = [_heat(one, GRID, _BLUR).ravel() for one in points]
    return np.stack([heat / max(float(heat.sum()), 1e-9) for heat in heats])


def _heat(points: Points, side: int, blur: float) -> np.ndarray:
    """The durations of the points on the image, on `side` x `side` cells, blurred by so many cells: float32."""
    heat = np.zeros((side, side), np.float32)
    kept = points[inside(points)]
    cells = np.minimum((kept[:, :2] * side).astype(np.int64), side - 1)
    np.add.at(heat, (cells[:, 1], cells[:, 0]), kept[:, 2].astype(np.float32))
    return np.asarray(cv2.GaussianBlur(heat, (0, 0), blur, borderType=cv2.BORDER_REFLECT))


def _scores(looks: np.ndarray, heats: np.ndarray) -> np.ndarray:
    """How much better the learned rule likes an image's own places than the other images', `(N,)`, in standard deviations.

    The rule is Fisher's linear discriminant, fitted on the other folds.
    """
    count = len(looks)
    others = (heats.sum(axis=0) - heats) / (count - 1)
    difference, both = heats - others, (heats + others) / 2
    means = np.matmul(both[:, None], looks)[:, 0]
    towards = np.matmul(difference[:, None], looks)[:, 0]
    squares = np.matmul((looks * both[..., None]).transpose(0, 2, 1), looks) - means[:, :, None] * means[:, None]
    scores, fold = np.zeros(count), np.arange(count) % _FOLDS
    for k in range(_FOLDS):
        learn, test = fold != k, fold == k
        covariance = squares[learn].mean(axis=0)
        level = np.trace(covariance) / len(covariance)
        covariance = (1 - _SHRINKAGE) * covariance + (_SHRINKAGE * level + 1e-9) * np.eye(len(covariance))
        rule = np.linalg.solve(covariance, towards[learn].mean(axis=0))
        liked = looks[test] @ rule
        middle = (both[test] * liked).sum(axis=1, keepdims=True)
        spread = np.sqrt((both[test] * (liked - middle) ** 2).sum(axis=1))
        scores[test] = (difference[test] * liked).sum(axis=1) / (spread + 1e-9)
    return scores


def _t(values: np.ndarray) -> float:
    """The t statistic of a mean against 0."""
    return float(values.mean() / (values.std(ddof=1) / np.sqrt(len(values)) + 1e-9))
