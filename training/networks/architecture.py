"""The settings of a network, without torch: what its layers are, not how they are built."""

from __future__ import annotations

from dataclasses import dataclass

from gazeseg_serve.errors import ConfigError

SIMILARITIES = ("cosine", "dot")  # of local pixel propagation
ENCODERS = ("unet", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
NORMS = ("group", "batch", "instance")
STRIDES = (1, 2, 4)
ENCODER_STRIDE = 2  # the first features of an EfficientNet-Lite are at half size
ENCODER_MULTIPLE = 32  # its H and W


@dataclass(frozen=True)
class Architecture:
    """METHOD: width 64, norm "group", 3 channels, 1 output is the paper's network (31.4 M parameters).

    width    channels of the first stage; the stages are (w, 2w, 4w, 8w, 16w), the features 2w
    depth    how many of the five stages there are: 4 leaves out the 16w one, which holds three quarters of the weights
    norm     "group" (4 groups, as released), "batch" (folds into the convolutions at export) or "instance"
    stride   blocks of stride x stride pixels become channels before the first convolution (Shi et al., CVPR 2016), and
             the logits are enlarged bilinearly behind the last: stride 2 does a quarter of the work. 1, 2 or 4
    encoder  "unet" begins from nothing; "efficientnet-lite0", "-lite1" and "-lite2" take theirs, with its ImageNet weights, in
             place of the five stages (`training.networks.efficientnet`), and want norm "batch", 3 channels, stride 2, depth 5
    """

    width: int = 64
    norm: str = "group"
    channels: int = 3
    outputs: int = 1
    stride: int = 1
    depth: int = 5
    encoder: str = "unet"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ConfigError(f"unknown norm {self.norm!r}; known: {', '.join(NORMS)}")
        if self.width < 4 or self.width % 4:
            raise ConfigError(f"width {self.width} is not a positive multiple of 4, which group norm's 4 groups need")
        if self.stride not in STRIDES:
            raise ConfigError(f"stride {self.stride} is not one of {', '.join(map(str, STRIDES))}")
        if not 2 <= self.depth <= 5:
            raise ConfigError(f"depth {self.depth} is not from 2 to 5")
        if self.encoder not in ENCODERS:
            raise ConfigError(f"unknown encoder {self.encoder!r}; known: {', '.join(ENCODERS)}")
        if self.encoder != "unet" and (self.norm, self.channels, self.stride, self.depth) != ("batch", 3, ENCODER_STRIDE, 5):
            raise ConfigError(
                f'encoder {self.encoder!r} wants norm "batch", 3 channels, stride {ENCODER_STRIDE} and depth 5, not '
                f'{self.norm!r}, {self.channels}, {self.stride} and {self.depth}; or use encoder "unet"'
            )
