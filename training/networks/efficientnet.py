"""A UNet whose encoder is EfficientNet-Lite0 and begins with its ImageNet weights, stored beside this file."""

from __future__ import annotations

from pathlib import Path

from monai.networks.nets.basic_unet import UpCat
from monai.networks.nets.efficientnet import EfficientNet, MBConvBlock
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("efficientnet_lite0.safetensors")  # made by benchmarks/encoder_weights.py
# EfficientNet-B0 without squeeze and excitation. Repeats, kernel, stride, expansion, channels in and out.
_BLOCKS = [
    "r1_k3_s11_e1_i32_o16",
    "r2_k3_s22_e6_i16_o24",
    "r2_k5_s22_e6_i24_o40",
    "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112",
    "r4_k5_s22_e6_i112_o192",
    "r1_k3_s11_e6_i192_o320",
]
_KEPT = (0, 1, 2, 4, 6)  # the last stages at strides 2, 4, 8, 16 and 32
_CHANNELS = (16, 24, 40, 112, 320)


class EfficientNetLite0(nn.Module):
    """Normalised float `(B, 3, H, W)` -> five maps of 16, 24, 40, 112 and 320 channels at H/2 to H/32.

    H and W must be multiples of 32. Source: Tan and Le, ICML 2019, in the Lite form (ReLU6, nothing squeezed), which
    quantises well.
    """

    def __init__(self) -> None:
        super().__init__()
        whole = EfficientNet(
            _BLOCKS, image_size=224, num_classes=1, drop_connect_rate=0.0, norm=("batch", {"eps": 1e-3, "momentum": 0.1})
        )
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

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = EfficientNetLite0()
        self.decoder, below = nn.ModuleList(), _CHANNELS[-1]
        for skip, out in zip(_CHANNELS[-2::-1], (8 * width, 4 * width, 2 * width, 2 * width), strict=True):
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
        """Begin with the encoder's ImageNet weights (kept as float16, the norms as float32)."""
        self.encoder.load_state_dict(
            {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in load_file(WEIGHTS).items()}
        )
