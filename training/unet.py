"""One level's network: MONAI's BasicUNet giving 2w features a pixel, and a 1x1 classifier on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from ..errors import ConfigError

NORMS = ("group", "batch", "instance")


@dataclass(frozen=True)
class Architecture:
    """METHOD: width 64, norm "group", 3 channels, 1 output is the paper's network (31.4 M parameters).

    width    channels of the first stage; the stages are (w, 2w, 4w, 8w, 16w), the features 2w
    norm     "group" (4 groups, as released), "batch" (folds into the convolutions at export) or "instance"
    """

    width: int = 64
    norm: str = "group"
    channels: int = 3
    outputs: int = 1

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ConfigError(f"unknown norm {self.norm!r}; known: {', '.join(NORMS)}")
        if self.width < 4 or self.width % 4:
            raise ConfigError(f"width {self.width} is not a positive multiple of 4, which group norm's 4 groups need")


class UNet(nn.Module):
    """`features(x)`: float `(B, C, H, W)` normalised image -> `(B, 2w, H, W)`; `forward` -> logits `(B, K, H, W)`.

    H and W of any size from 16 up; multiples of 16 need no padding inside. Source: Ronneberger et al., MICCAI 2015;
    the stages and the classifier as in Zhong et al., MICCAI 2024.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        w = architecture.width
        norm: Any = ("group", {"num_groups": 4}) if architecture.norm == "group" else architecture.norm
        self.backbone = BasicUNet(spatial_dims=2, in_channels=architecture.channels, out_channels=2 * w,
                                  features=(w, 2 * w, 4 * w, 8 * w, 16 * w, 2 * w), norm=norm)
        self.classifier = nn.Conv2d(2 * w, architecture.outputs, kernel_size=1)

    def features(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.backbone(x))


def seeded_unet(architecture: Architecture, seed: int) -> UNet:
    """A UNet whose initial weights depend on `seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(architecture)
