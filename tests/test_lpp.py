"""LPP against the unfold version, which is slow and plainly the definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gazeseg_serve.training.networks import lpp
from gazeseg_serve.training.networks.architecture import SIMILARITIES
from gazeseg_serve.training.networks.lpp import neighbour_weights, propagate, propagated_logits


def unfold_lpp(features: Tensor, values: Tensor, similarity: str, window: int, dilation: int) -> Tensor:
    B, C, H, W = features.shape
    f = F.normalize(features, dim=1) if similarity == "cosine" else features
    reach, count = window // 2 * dilation, window**2
    near = F.unfold(f, window, dilation=dilation, padding=reach).view(B, C, count, H, W)
    weights = (near * f.unsqueeze(2)).sum(1).clamp_min(0).softmax(dim=1)
    shifted = F.unfold(values, window, dilation=dilation, padding=reach).view(B, values.shape[1], count, H, W)
    return (shifted * weights.unsqueeze(1)).sum(2)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(SIMILARITIES),
    st.sampled_from([(1, 1), (3, 1), (3, 2), (5, 2), (5, 1)]),
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_values_and_gradients_are_those_of_the_unfold(
    similarity: str, shape: tuple[int, int], seed: int, H: int, W: int
) -> None:
    window, dilation = shape
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 6, H, W, dtype=torch.float64, generator=generator, requires_grad=True)
    values = torch.randn(2, 3, H, W, dtype=torch.float64, generator=generator, requires_grad=True)
    wanted = unfold_lpp(features, values, similarity, window, dilation)
    found = propagate(features, values, similarity, window, dilation)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    weight = torch.randn(wanted.shape, dtype=torch.float64, generator=generator)
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), (features, values)),
        torch.autograd.grad((wanted * weight).sum(), (features, values)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_single_precision_agrees_to_1e_5(similarity: str) -> None:
    torch.manual_seed(0)
    features, values = torch.randn(2, 16, 24, 20), torch.randn(2, 1, 24, 20)
    torch.testing.assert_close(
        propagate(features, values, similarity), unfold_lpp(features, values, similarity, 5, 2), rtol=0, atol=1e-5
    )


def test_a_batch_at_once_as_on_a_gpu_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    features, values = torch.randn(3, 8, 9, 7, requires_grad=True), torch.randn(3, 1, 9, 7)
    found = []
    for together in (lpp._together(features), [slice(None)]):
        monkeypatch.setattr(lpp, "_together", lambda _, together=together: together)
        features.grad = None
        result = lpp.propagate(features, values)
        result.square().sum().backward()
        found.append((result.detach(), features.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_propagating_logits_is_classifying_propagated_features(similarity: str) -> None:
    torch.manual_seed(1)
    features = torch.randn(2, 8, 10, 11, dtype=torch.float64)
    classifier = torch.nn.Conv2d(8, 3, 1).double()
    wanted = classifier(unfold_lpp(features, features, similarity, 5, 2))
    found = propagated_logits(features, classifier(features), classifier.bias, similarity)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_weights_are_a_distribution_and_alike_pixels_share() -> None:
    weights = neighbour_weights(torch.randn(1, 4, 9, 9))
    assert weights.shape == (1, 25, 9, 9)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 9, 9))
    same = neighbour_weights(torch.ones(1, 4, 9, 9))
    torch.testing.assert_close(same[0, :, 4, 4], torch.full((25,), 1 / 25))


def test_low_precision_features_give_full_precision_weights() -> None:
    weights = neighbour_weights(torch.randn(1, 4, 9, 9, dtype=torch.bfloat16))
    assert weights.dtype == torch.float32


def test_an_unknown_similarity_is_refused() -> None:
    with pytest.raises(ValueError, match="cosine, dot"):
        neighbour_weights(torch.ones(1, 4, 9, 9), "euclidean")
