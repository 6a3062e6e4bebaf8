"""Does the gaze fit the images it is said to belong to? Asked of the images alone, without a true mask.

Where people look, an image has something to look at: other colours, other edges than where they do not. What that is, is
learned from the gaze itself. A linear rule over local colours, contrasts and edges is fitted to tell, on nine tenths of the
images, the places looked at in an image from the places looked at in the other images; it is then tried on the last tenth.
Places of other images, not random places, are the counter-examples, so that a habit of looking at the middle earns nothing
(the "shuffled AUC" of Zhang et al., JoV 2008, and of Tatler et al., Vision Research 2005, use them so).

The same is asked with the gaze turned, mirrored and moved. Right gaze fits best as it is. Gaze that was mirrored, swapped or
moved on its way fits better once that is undone, and gaze that belongs to other images fits in no way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

GRID = 32  # cells a side
LEAST = 20  # images: below, chance decides which way the gaze fits best
SAMPLE = 150  # images that are compared at most
_SHRINKAGE = 0.5  # of the covariance towards a multiple of the identity
_FOLDS = 10
_BLUR = 1.0  # cells, of a fixation
_STEP = 0.1  # image sides, of the moves that are tried
_KEPT = 0.9  # share of the fixations that must still be on the image for a move or a scale to be tried

Points = np.ndarray
"""`(K, 3)` float64: x and y in shares of the image, duration."""
Change = Callable[[Points, float], Points]
"""Points of an image and its width over its height -> the points as they would have to be."""


@dataclass(frozen=True)
class Fit:
    """How well the gaze fits its images as it is, and the way of changing it that fits best.

    images      how many were compared
    strength    t statistic over the images of the fit as it is: 2 or less is chance, 5 and more is sure
    change      in words, what was done to the gaze to make it fit best; "" where it fits best as it is
    best        t statistic of that fit
    gain        t statistic of the difference between the two, image by image; 0 where there is no change
    """

    images: int
    strength: float
    change: str
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


def changes() -> dict[str, Change]:
    """What is tried, by its words: every turn and mirroring of the image, moves of 0.1 and 0.2, screens, larger scales.

    Each undoes what its words say. A screen of a given aspect is one on which the image stood as large as it fits, in the
    middle, so that there were bars beside it.
    """
    found: dict[str, Change] = {
        "x and y are swapped": _change(lambda x, y: (y, x)),
        "left and right are mirrored": _change(lambda x, y: (1 - x, y)),
        "y is counted from the bottom": _change(lambda x, y: (x, 1 - y)),
        "the gaze is turned by 180 degrees": _change(lambda x, y: (1 - x, 1 - y)),
        "the gaze is turned by 90 degrees clockwise": _change(lambda x, y: (y, 1 - x)),
        "the gaze is turned by 90 degrees anticlockwise": _change(lambda x, y: (1 - y, x)),
        "x and y are swapped and mirrored": _change(lambda x, y: (1 - y, 1 - x)),
    }
    for across in range(-2, 3):
        for down in range(-2, 3):
            if across or down:
                found[_moved(across * _STEP, down * _STEP)] = _move(-across * _STEP, -down * _STEP)
    for wide, high in ((2, 2), (1.5, 1.5), (1.5, 1), (1, 1.5)):
        found[f"the gaze is squeezed towards the top left corner, to 1/{wide:g} in x and 1/{high:g} in y"] = _scale(wide, high)
    for wide, high in ((16, 9), (16, 10), (4, 3), (5, 4)):
        found[f"positions are shares of a {wide}:{high} screen, bars beside the image included"] = _screen(wide / high)
    return found


def fit(looks: np.ndarray, points: Sequence[Points], aspects: Sequence[float]) -> Fit | None:
    """Compare gaze and images: looks `(N, GRID * GRID, D)` of `look`; in the same order each image's points, and its width
    over its height.

    None where there are fewer than LEAST images, or the gaze is the same in all of them.
    """
    if len(points) < LEAST:
        return None
    given = _heats(points)
    if float(np.abs(given - given.mean(axis=0)).max()) < 1e-3:
        return None
    scores = _scores(looks, given)
    best, change, gain = _t(scores), "", 0.0
    for words, apply in changes().items():
        changed = [apply(one, aspect) for one, aspect in zip(points, aspects, strict=True)]
        if sum(_inside(one).sum() for one in changed) < _KEPT * sum(_inside(one).sum() for one in points):
            continue
        other = _scores(looks, _heats(changed))
        if _t(other) > best:
            best, change, gain = _t(other), words, _t(other - scores)
    return Fit(len(points), _t(scores), change, best, gain)


def _change(swap: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Change:
    return lambda points, _: np.stack([*swap(points[:, 0], points[:, 1]), points[:, 2]], axis=1)


def _move(across: float, down: float) -> Change:
    return _change(lambda x, y: (x + across, y + down))


def _scale(wide: float, high: float) -> Change:
    return _change(lambda x, y: (x * wide, y * high))


def _screen(screen: float) -> Change:
    def change(points: Points, aspect: float) -> Points:
        share = np.array([min(1.0, aspect / screen), min(1.0, screen / aspect), 1.0])  # of the screen that the image took
        return (points - (0.5, 0.5, 0)) / share + (0.5, 0.5, 0)

    return change


def _moved(across: float, down: float) -> str:
    parts = [
        f"{abs(value):.1f} of the {side} too far {way[value > 0]}"
        for value, side, way in ((across, "width", ("left", "right")), (down, "height", ("up", "down")))
        if value
    ]
    return f"the gaze lies about {' and '.join(parts)}"


def _inside(points: Points) -> np.ndarray:
    return ((points[:, :2] >= 0) & (points[:, :2] <= 1)).all(axis=1)


def _heats(points: Sequence[Points]) -> np.ndarray:
    """Where each image was looked at: `(N, GRID * GRID)` float32, a row sums to 1 (0 where nothing is on the image)."""
    rows = []
    for one in points:
        heat = np.zeros((GRID, GRID), np.float32)
        kept = one[_inside(one)]
        cells = np.minimum((kept[:, :2] * GRID).astype(np.int64), GRID - 1)
        np.add.at(heat, (cells[:, 1], cells[:, 0]), kept[:, 2].astype(np.float32))
        heat = cv2.GaussianBlur(heat, (0, 0), _BLUR)
        rows.append(heat.ravel() / max(float(heat.sum()), 1e-9))
    return np.stack(rows)


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
