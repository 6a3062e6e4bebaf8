"""Augmentation of a batch: one geometric transform for image and pseudo-masks, then photometry on the image alone."""

from __future__ import annotations

from typing import cast

import kornia.augmentation as K
import torch
from kornia.augmentation.random_generator import AffineGenerator
from torch import Tensor

from .config import Augment


class Augmenter:
    """`augment(images, targets, seed)`: float images `(B, C, H, W)` in [0, 1] and targets `(B, m, H, W)` of any dtype.

    Returns both in the same layout; targets are moved by nearest neighbour. What comes in from outside is 0 in the image
    and `outside` in the targets.
    The draw depends on `seed` alone; the global generator is left as it was.
    """

    def __init__(self, settings: Augment, outside: int = 0) -> None:
        s, self._outside = settings, outside
        geometry: list[K.GeometricAugmentationBase2D] = []
        if s.flips:
            geometry += [K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.5)]
        if s.rotate or s.scale or s.translate or s.zoom:
            low, high = s.zoom or (1 - s.scale, 1 + s.scale)
            affine = K.RandomAffine(degrees=s.rotate, translate=(s.translate, s.translate), scale=(low, high), p=1.0)
            if s.zoom:
                affine._param_generator = _LogUniformScale((-s.rotate, s.rotate), (s.translate, s.translate), (low, high))
            geometry.append(affine)
        self._geometry = K.AugmentationSequential(*geometry, data_keys=["input", "mask"]) if geometry else None
        photometry: list[K.IntensityAugmentationBase2D] = []
        if s.brightness or s.contrast or s.saturation or s.hue:
            photometry.append(K.ColorJiggle(s.brightness, s.contrast, s.saturation, s.hue, p=1.0))
        if s.noise:
            photometry.append(K.RandomGaussianNoise(std=s.noise, p=1.0))
        self._photometry = K.AugmentationSequential(*photometry, data_keys=["input"]) if photometry else None

    def __call__(self, images: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self._geometry is not None:
                images, moved = self._geometry(images, targets.to(images.dtype) - self._outside)
                moved = moved + self._outside
                targets = (moved if targets.is_floating_point() else moved.round()).to(targets.dtype)
            if self._photometry is not None:
                images = self._photometry(images)
        return images.clamp(0, 1), targets


class _LogUniformScale(AffineGenerator):
    """Scales whose logarithm is uniform, so that zooming out by a factor is as likely as zooming in by it."""

    def forward(self, batch_shape: tuple[int, ...], same_on_batch: bool = False) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = super().forward(batch_shape, same_on_batch)
        low, high = cast(tuple[float, float], self.scale)
        drawn["scale"] = low * (high / low) ** ((drawn["scale"] - low) / (high - low))
        return drawn
