"""One step's losses of the one that `loss.rival` names."""

from __future__ import annotations

from torch import Tensor

from gazeseg_serve.errors import ConfigError

from ...networks.ensemble import activation
from .agmm import agmm_parts
from .boxinst import boxinst_parts
from .boxteacher import boxteacher_parts
from .pointsup import pointsup_parts


def rival_parts(
    rival: str,
    logits: Tensor,
    targets: Tensor,
    features: list[Tensor],
    images: Tensor,
    progress: float,
    teacher: Tensor | None = None,
) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of each loss by name, summed over the levels.

    logits `(m, B, K, H, W)`; targets `(m, B, H, W)` of the annotation; features a level `(B, C, h, w)`; images
    `(B, C, H, W)` in [0, 1]; progress the share of the steps that are done; teacher: logits `(B, K, H, W)`, for boxteacher.
    """
    found: dict[str, tuple[float, Tensor]] = {}
    for z, target, feature in zip(logits, targets, features, strict=True):
        if rival == "agmm":
            parts = agmm_parts(z, target, feature)
        elif rival == "pointsup":
            parts = pointsup_parts(z[:, 0], target)
        elif rival == "boxinst":
            parts = boxinst_parts(z[:, 0], target == 1, images, progress)
        elif rival == "boxteacher" and teacher is not None:
            parts = boxteacher_parts(z[:, 0], target == 1, images, progress, activation(teacher)[:, 0])
        else:
            raise ConfigError(f"loss.rival = {rival!r} is not known, or has no teacher")
        for name, (weight, value) in parts.items():
            found[name] = (weight, found[name][1] + value if name in found else value)
    return found
