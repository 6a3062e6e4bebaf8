"""Synthetic endoscopy: a mucosa-like background with one polyp-like lesion of a similar hue.

No single channel or brightness separates the lesion: light falls off over the image, lesions are a little darker or
lighter, folds and highlights look like edges. Texture, the shading of a bump and the rim give it away.
"""

from __future__ import annotations

import cv2
import numpy as np


def phantom(size: int, rng: np.random.Generator, radii: tuple[float, float] = (0.14, 0.28)) -> tuple[np.ndarray, np.ndarray]:
    """One image `(size, size, 3)` uint8 RGB and its mask `(size, size)` uint8, 0 background, 1 lesion.

    radii: least and greatest radius of the lesion, as parts of the image's side.
    """
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    y, x = np.meshgrid(grid, grid, indexing="ij")
    mask, height = _lesion(x, y, rng, radii)
    soft = cv2.GaussianBlur(mask, (0, 0), size / 160)

    light = _light(x, y, rng)
    relief = 0.9 * _noise(size, 3, rng) + 0.5 * _noise(size, 7, rng)
    tissue = np.array([0.78, 0.42, 0.34], np.float32) + rng.normal(0, (0.04, 0.05, 0.05)).astype(np.float32)
    lesion = tissue + rng.choice((-1, 1)) * rng.uniform(0.03, 0.07) + rng.normal(0, 0.02, 3).astype(np.float32)
    lesion[1:] -= rng.uniform(0.03, 0.08)
    colour = tissue + soft[..., None] * (lesion - tissue)
    colour = colour * (1 + 0.08 * relief[..., None]) * (1 - 0.35 * _vessels(size, rng) * (1 - 0.7 * soft))[..., None]
    colour *= (1 - 0.3 * _folds(x, y, rng) * (1 - soft))[..., None]
    pits = _noise(size, max(8, size // 6), rng)
    colour *= (1 + (0.02 + 0.14 * soft) * pits)[..., None]

    angle = rng.uniform(0, 2 * np.pi)
    slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) * np.cos(angle) + cv2.Sobel(height, cv2.CV_32F, 0, 1) * np.sin(angle)
    colour *= (1 + np.clip(0.012 * size * slope, -0.28, 0.28))[..., None]
    image = colour * light[..., None] + _highlights(size, mask, rng)[..., None]
    image += rng.normal(0, 0.012, image.shape)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), (mask > 0.5).astype(np.uint8)


def _lesion(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, radii: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """An irregular blob: its mask in {0, 1} and its height, 0 outside to 1 in the middle; float32 `(H, W)`."""
    radius = rng.uniform(*radii)
    cx, cy = rng.uniform(0.08 + radius, 0.92 - radius, 2)
    stretch, turn = rng.uniform(0.75, 1.0), rng.uniform(0, np.pi)
    dx, dy = x - cx, y - cy
    along, across = dx * np.cos(turn) + dy * np.sin(turn), (dy * np.cos(turn) - dx * np.sin(turn)) / stretch
    theta = np.arctan2(across, along)
    edge = np.full_like(x, radius)
    for k, amplitude in ((2, 0.10), (3, 0.08), (4, 0.05), (5, 0.03)):
        edge += radius * rng.normal(0, amplitude) * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    inward = 1 - np.hypot(along, across) / np.maximum(edge, 0.4 * radius)
    mask = (inward > 0).astype(np.float32)
    return mask, np.sqrt(np.clip(inward, 0, 1)).astype(np.float32)


def _light(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The lamp beside the lens: brightest somewhere near the middle, falling off to the corners."""
    cx, cy = rng.normal(0.5, 0.12, 2)
    return (1.08 - rng.uniform(0.5, 0.9) * ((x - cx) ** 2 + (y - cy) ** 2)).clip(0.25, None).astype(np.float32)


def _noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance with about `cells` bumps a side, float32 `(size, size)`."""
    coarse = rng.normal(0, 1, (cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _vessels(size: int, rng: np.random.Generator) -> np.ndarray:
    """Branching dark lines, 0..1."""
    canvas = np.zeros((size, size), np.uint8)
    for _ in range(int(rng.integers(4, 9))):
        heading, point = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1, 2)
        steps = np.cumsum(rng.normal(0, 0.35, 24)) + heading
        line = point + np.cumsum(np.stack([np.cos(steps), np.sin(steps)], 1), axis=0) * 0.03
        width = max(1, round(size * rng.uniform(0.004, 0.016)))
        cv2.polylines(canvas, [np.rint(line * size).astype(np.int32)], False, int(rng.integers(120, 256)), width, cv2.LINE_AA)
    return cv2.GaussianBlur(canvas, (0, 0), size / 200).astype(np.float32) / 255


def _folds(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark arcs as between the folds of the bowel, 0..1."""
    shade = np.zeros_like(x)
    for _ in range(int(rng.integers(1, 4))):
        (cx, cy), radius = rng.uniform(-0.6, 1.6, 2), rng.uniform(0.5, 1.0)
        distance = np.abs(np.hypot(x - cx, y - cy) - radius) / rng.uniform(0.02, 0.05)
        shade = np.maximum(shade, np.exp(-0.5 * distance**2))
    return shade


def _highlights(size: int, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Small saturated reflections of the lamp, on the lesion and off it, 0..0.7."""
    canvas = np.zeros((size, size), np.uint8)
    rows, columns = np.nonzero(mask)
    on_lesion = rng.integers(0, len(rows), int(rng.integers(0, 4)))
    places = [(int(columns[i]), int(rows[i])) for i in on_lesion]
    places += [(int(a), int(b)) for a, b in rng.integers(0, size, (int(rng.integers(2, 7)), 2))]
    for place in places:
        axes = [max(1, round(size * a)) for a in rng.uniform(0.004, 0.018, 2)]
        cv2.ellipse(canvas, place, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
    return 0.7 * cv2.GaussianBlur(canvas, (0, 0), size / 250).astype(np.float32) / 255
