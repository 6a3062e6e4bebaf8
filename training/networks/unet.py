"""One level's network: a UNet giving 2w features a pixel, MONAI's BasicUNet or one on a pretrained encoder, and a 1x1
classifier on them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn

from .architecture import Architecture
from .efficientnet import EfficientUNet


class UNet(nn.Module):
    """`features(x)`: float `(B, C, H, W)` normalised image -> `(B, 2w, H/s, W/s)`; `forward` -> logits `(B, K, H, W)`.

    `enlarge(classifier(features(x)))` is `forward(x)`. H and W of any size from 16 up that the stride s divides; multiples
    of 16 s need no padding inside. Source: Ronneberger et al., MICCAI 2015; the stages and the classifier as in Zhong et
    al., MICCAI 2024.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        w = architecture.width
        norm: Any = ("group", {"num_groups": 4}) if architecture.norm == "group" else architecture.norm
        self.stride = architecture.stride
        self.backbone: BasicUNet | EfficientUNet
        if architecture.encoder == "unet":
            self.block = self.stride
            self.backbone = BasicUNet(
                spatial_dims=2,
                in_channels=architecture.channels * self.block**2,
                out_channels=2 * w,
                features=(w, 2 * w, 4 * w, 8 * w, 16 * w, 2 * w),
                norm=norm,
            )
            for stage in range(architecture.depth, 5):
                setattr(self.backbone, f"down_{stage}", nn.Identity())
                setattr(self.backbone, f"upcat_{stage}", _Skip())
        else:
            self.block = 1  # the encoder itself begins by halving the image
            self.backbone = EfficientUNet(w, architecture.encoder)
        self.classifier = nn.Conv2d(2 * w, architecture.outputs, kernel_size=1)

    def features(self, x: Tensor) -> Tensor:
        return self.backbone(x if self.block == 1 else _blocks_to_channels(x, self.block))

    def enlarge(self, logits: Tensor) -> Tensor:
        """Logits of the features' size `(B, K, H/s, W/s)` -> of the image's, `(B, K, H, W)`."""
        return logits if self.stride == 1 else F.interpolate(logits, scale_factor=self.stride, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        return self.enlarge(self.classifier(self.features(x)))


class _Skip(nn.Module):
    """In place of a way up from a stage that is not there: what came along the skip connection."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return skip


def _blocks_to_channels(x: Tensor, stride: int) -> Tensor:
    """`pixel_unshuffle` in the memory format of x."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    blocks = F.pixel_unshuffle(x, stride)
    return blocks.contiguous(memory_format=torch.channels_last) if last else blocks


def seeded_unet(architecture: Architecture, seed: int, pretrained: bool = True) -> UNet:
    """A UNet whose initial weights depend on `seed` alone, but for a pretrained encoder's; the global generator is left as
    it was. pretrained: False spares the encoder's own weights, for one that is given all of its weights at once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(architecture)
    if pretrained and isinstance(network.backbone, EfficientUNet):
        network.backbone.load_imagenet()
    return network
