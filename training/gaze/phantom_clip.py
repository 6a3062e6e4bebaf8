"""A synthetic endoscopy clip with exact masks: a camera that moves over one large phantom.

The lesion comes into view, stays while the camera sways, and leaves. Motion blurs, reflections of the lamp wander, and the
sensor's noise is new in every frame. The camera moves by whole pixels, so that a frame's mask is a part of the phantom's.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from .phantoms import phantom

RATE = 25  # frames a second
_SPAN = 3  # sides of the frame that the phantom measures


def phantom_clip(size: int, frames: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`frames` images `(size, size, 3)` uint8 RGB, each with its mask `(size, size)` uint8, 0 background, 1 lesion.

    The first and the last tenth show no lesion. Raises ValueError for fewer than 10 frames.
    """
    if frames < 10:
        raise ValueError(f"a clip of {frames} frames has no time for a lesion to come and go; make 10 or more")
    scene, truth = phantom(_SPAN * size, rng, (0.18 / _SPAN, 0.24 / _SPAN))
    path = _path(truth, size, frames, rng)
    spots, phases = rng.uniform(0.1, 0.9, (5, 2)), rng.uniform(0, 2 * np.pi, 5)
    before = path[0]
    for number, (x, y) in enumerate(path):
        speed = float(np.hypot(*(path[number] - before)))
        before = path[number]
        image = cv2.GaussianBlur(scene[y : y + size, x : x + size], (0, 0), 0.3 + 0.15 * speed).astype(np.float32)
        image += 255 * _reflections(size, spots, phases + 0.2 * number)[..., None]
        image += rng.normal(0, 4, image.shape)
        yield np.rint(image.clip(0, 255)).astype(np.uint8), truth[y : y + size, x : x + size].copy()


def _path(truth: np.ndarray, size: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """The left top corner `(frames, 2)` of the window, int x and y: from a far corner to the lesion, and away again."""
    rows, columns = np.nonzero(truth)
    lesion, span = np.array([columns.mean(), rows.mean()]), len(truth)
    corners = np.array([(x, y) for x in (size / 2, span - size / 2) for y in (size / 2, span - size / 2)])
    far = corners[np.argsort(-np.hypot(*(corners - lesion).T))]
    time = np.linspace(0, 1, frames)
    # How near the lesion is: 0 in the first and last tenth, 1 from three tenths to seven.
    near = np.clip(np.minimum(time - 0.1, 0.9 - time) / 0.2, 0, 1)
    near = (near * near * (3 - 2 * near))[:, None]
    away = np.where(time[:, None] < 0.5, far[0], far[1])
    sway = 0.12 * size * np.stack([np.sin(18 * time + rng.uniform(0, 6)), np.sin(25 * time + rng.uniform(0, 6))], axis=1)
    centre = away + near * (lesion - away) + sway
    return np.rint(np.clip(centre - size / 2, 0, span - size)).astype(int)


def _reflections(size: int, spots: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Small reflections that come and go at `spots` `(N, 2)` in [0, 1], float32 `(size, size)` in [0, 0.6]."""
    canvas = np.zeros((size, size), np.float32)
    for (x, y), phase in zip(spots, phases, strict=True):
        place = (int(size * (x + 0.03 * np.sin(phase))), int(size * (y + 0.03 * np.cos(0.7 * phase))))
        cv2.circle(canvas, place, max(1, size // 50), 0.6 * max(0.0, float(np.sin(phase))), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(canvas, (0, 0), max(0.5, size / 200))
