"""Augmentation of a batch: one geometric transform for image and pseudo-masks, then photometry on the image alone."""

from __future__ import annotations

import kornia.augmentation as K
import torch
from torch import Tensor

from .config import Augment


class Augmenter:
    """`augment(images, targets, seed)`: float images `(B, C, H, W)` in [0, 1] and labels `(B, m, H, W)` of any dtype.

    Returns both in the same layout; labels are moved by nearest neighbour, what comes in from outside is 0 in both.
    The draw depends on `seed` alone; the global generator is left as it was.
    """

    def __init__(self, settings: Augment) -> None:
        s = settings
        geometry: list[K.GeometricAugmentationBase2D] = []
        if s.flips:
            geometry += [K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.5)]
        if s.rotate or s.scale or s.translate:
            geometry.append(K.RandomAffine(degrees=s.rotate, translate=(s.translate, s.translate),
                                           scale=(1 - s.scale, 1 + s.scale), p=1.0))
        self._geometry = K.AugmentationSequential(*geometry, data_keys=["input", "mask"]) if geometry else None
        photometry: list[K.IntensityAugmentationBase2D] = []
        if s.brightness or s.contrast:
            photometry.append(K.ColorJiggle(brightness=s.brightness, contrast=s.contrast, p=1.0))
        if s.noise:
            photometry.append(K.RandomGaussianNoise(std=s.noise, p=1.0))
        self._photometry = K.AugmentationSequential(*photometry, data_keys=["input"]) if photometry else None

    def __call__(self, images: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self._geometry is not None:
                images, moved = self._geometry(images, targets.to(images.dtype))
                targets = moved.round().to(targets.dtype)
            if self._photometry is not None:
                images = self._photometry(images)
        return images.clamp(0, 1), targets
