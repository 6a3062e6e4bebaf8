"""Mean Dice over the validation images at the network's size, and which levels are dead."""

from __future__ import annotations

import numpy as np
import torch
from lightning_fabric import Fabric

from gazeseg_serve.metrics import dice, is_dead, labels_of
from gazeseg_serve.progress import log

from ..networks.ensemble import Ensemble, activation
from .data import Packed, unit_images


@torch.no_grad()
def validate(
    model: Ensemble, truth: Packed, fabric: Fabric, empty: np.ndarray | None = None, batch: int = 16
) -> dict[str, float]:
    """Mean Dice over validation images at the network's size, per level and for the ensemble; calls out dead levels.

    empty: images without a target, `(N, H, W, C)` at the network's size. Where there are some, `false_alarms` is the share of
    them in which the ensemble marks anything.
    """
    row = {}
    if empty is not None and len(empty):
        marked = _labels(model, empty, fabric, batch)[-1]
        row["false_alarms"] = float(np.mean(marked.any(axis=(1, 2))))
    if not len(truth):
        return row
    predicted = _labels(model, truth.images, fabric, batch)
    names = [f"dice_level_{i + 1}" for i in range(len(predicted) - 1)] + ["dice_ensemble"]
    classes = range(1, len(model.spec.classes) + 1)
    for name, labels in zip(names, predicted, strict=True):
        pairs = zip(labels, truth.targets[:, 0], strict=True)
        row[name] = float(np.mean([dice(a == c, t == c) for a, t in pairs for c in classes]))
        share = np.count_nonzero(labels) / labels.size
        if is_dead(share):
            log.warning("%s is dead: it calls %.2f %% of the pixels foreground", name.removeprefix("dice_"), 100 * share)
    return row


def _labels(model: Ensemble, images: np.ndarray, fabric: Fabric, batch: int) -> np.ndarray:
    """Labels `(m + 1, N, H, W)` of the levels and, last, of the ensemble."""
    model.eval()
    masks = []
    for start in range(0, len(images), batch):
        with fabric.autocast():
            pixels = fabric.to_device(unit_images(images[start : start + batch]))
            logits = model(model.normalise(pixels * 255)).float()
        both = torch.cat([logits, logits.mean(dim=0, keepdim=True)])
        masks.append(labels_of(activation(both).cpu().numpy()))
    model.train()
    return np.concatenate(masks, axis=1)
