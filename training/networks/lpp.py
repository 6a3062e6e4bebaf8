"""Local Pixel Propagation without the unfold: similarities as a sum over shifts, half of them by symmetry.

The definition (METHOD: Zhong et al., MICCAI 2024, eq. 3; its released code): every pixel x takes the weighted mean of
its neighbours' features, `f'(x) = sum_y w(x, y) f(y)`, over a window x window neighbourhood of a dilation, zero beyond
the rim, `w(x, .) = softmax(max(0, s(x, .)))` with s the cosine (paper) or the dot product (release).

Two facts make it lean. The similarity is symmetric, s(x, x + d) = s(x + d, x), so 13 of 25 shifts are computed and the
rest read off. And what the method uses is `classifier(f')`, which is linear in f', so the weights may be applied to the
classifier's K output channels in place of the 2w feature channels: `propagate(f, values)` takes any values.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .architecture import SIMILARITIES


def neighbour_offsets(window: int, dilation: int) -> list[tuple[int, int]]:
    """(dy, dx) in pixels, row by row; the centre is in the middle and offset i is minus offset -1 - i."""
    reach = range(-(window // 2), window // 2 + 1)
    return [(dy * dilation, dx * dilation) for dy in reach for dx in reach]


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """The positions x with x + shift inside [0, size), and those x + shift."""
    return (slice(max(0, -shift), max(0, size - max(0, shift))), slice(max(0, shift), max(0, size - max(0, -shift))))


def _together(features: Tensor) -> list[slice]:
    """The images of a batch that are worked on together: one at a time stays in a CPU's cache, a GPU wants them all."""
    return [slice(None)] if features.is_cuda else [slice(b, b + 1) for b in range(len(features))]


class _ShiftedDot(torch.autograd.Function):
    """`(B, C, H, W)` -> `(B, N, H, W)`: dot product of each pixel with each of its N neighbours, 0 beyond the rim."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, window: int, dilation: int) -> Tensor:
        offsets = neighbour_offsets(window, dilation)
        ctx.save_for_backward(features)
        ctx.offsets = offsets
        B, _, H, W = features.shape
        out = features.new_zeros((B, len(offsets), H, W))
        for images in _together(features):
            f, o = features[images], out[images]
            for i, (dy, dx) in enumerate(offsets[: len(offsets) // 2 + 1]):
                (y, y2), (x, x2) = _overlap(H, dy), _overlap(W, dx)
                dot = (f[:, :, y, x] * f[:, :, y2, x2]).sum(1)
                o[:, i, y, x] = dot
                o[:, len(offsets) - 1 - i, y2, x2] = dot
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (features,), (gradient,) = ctx.saved_tensors, gradients
        offsets = ctx.offsets
        H, W = features.shape[2:]
        out = torch.zeros_like(features)
        for images in _together(features):
            f, g, given = features[images], out[images], gradient[images]
            for i, (dy, dx) in enumerate(offsets[: len(offsets) // 2 + 1]):
                (y, y2), (x, x2) = _overlap(H, dy), _overlap(W, dx)
                j = len(offsets) - 1 - i
                if i == j:
                    g.addcmul_(f, given[:, i].unsqueeze(1), value=2)
                    continue
                both = (given[:, i, y, x] + given[:, j, y2, x2]).unsqueeze(1)
                g[:, :, y, x].addcmul_(f[:, :, y2, x2], both)
                g[:, :, y2, x2].addcmul_(f[:, :, y, x], both)
        return out, None, None


def neighbour_weights(features: Tensor, similarity: str = "cosine", window: int = 5, dilation: int = 2) -> Tensor:
    """Weights w(x, y), float `(B, window**2, H, W)`, non-negative, summing to 1 over the neighbours.

    features: float `(B, C, H, W)`. A neighbour beyond the rim has similarity 0 and so keeps a share, as released.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(f"unknown similarity {similarity!r}; known: {', '.join(SIMILARITIES)}")
    if similarity == "cosine":
        features = F.normalize(features, dim=1)
    dots = _ShiftedDot.apply(features, window, dilation)
    full = dots if dots.dtype == torch.float64 else dots.float()  # bf16 dots, fp32 softmax
    return full.clamp_min(0).softmax(dim=1)


def propagate(features: Tensor, values: Tensor, similarity: str = "cosine", window: int = 5, dilation: int = 2) -> Tensor:
    """`sum_y w(x, y) values(y)`, zero beyond the rim: float `(B, K, H, W)` -> float `(B, K, H, W)`.

    With `values = features` this is LPP itself. Gradients flow through the weights and the values.
    """
    weights = neighbour_weights(features, similarity, window, dilation)
    reach = window // 2 * dilation
    padded = F.pad(values, (reach,) * 4)
    H, W = values.shape[2:]
    shifted = (
        padded[:, :, reach + dy : reach + dy + H, reach + dx : reach + dx + W] for dy, dx in neighbour_offsets(window, dilation)
    )
    total = torch.zeros_like(values)
    for weight, value in zip(weights.unbind(1), shifted, strict=True):
        total = total + weight.unsqueeze(1) * value
    return total


def propagated_logits(
    features: Tensor, logits: Tensor, bias: Tensor, similarity: str = "cosine", window: int = 5, dilation: int = 2
) -> Tensor:
    """`classifier(LPP(features))` from `logits = classifier(features)`, both `(B, K, H, W)`, and the classifier's bias `(K,)`.

    As the weights sum to 1 and the features beyond the rim are 0: sum_y w (logits(y) - bias) + bias.
    """
    offset = bias.view(1, -1, 1, 1)
    return propagate(features, logits - offset, similarity, window, dilation) + offset
