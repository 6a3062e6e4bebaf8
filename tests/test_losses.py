"""The loss against a slow oracle in numpy, loop by loop from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gazeseg_serve.training.losses import consistency_loss, segmentation_loss

RNG = np.random.default_rng(0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_segmentation(logits: np.ndarray, targets: np.ndarray) -> float:
    total = 0.0
    for i in range(len(logits)):
        losses = []
        for index in np.ndindex(targets[i].shape):
            b, y, x = index
            z = logits[i, b, :, y, x]
            if len(z) == 1:
                p = sigmoid(z[0])
                losses.append(-math.log(p) if targets[i][index] else -math.log(1 - p))
            else:
                losses.append(-math.log(math.exp(z[targets[i][index]]) / np.exp(z).sum()))
        total += sum(losses) / len(losses)
    return total


def slow_consistency(logits: np.ndarray, propagated: np.ndarray) -> float:
    m, total = len(logits), 0.0
    for i in range(m):
        per_teacher = []
        for j in range(m):
            if j == i:
                continue
            values = []
            for b, y, x in np.ndindex(logits.shape[1], *logits.shape[3:]):
                pupil, teacher = propagated[i, b, :, y, x], logits[j, b, :, y, x]
                if len(pupil) == 1:
                    p, q = sigmoid(pupil[0]), sigmoid(teacher[0])
                    values.append(p * q + (1 - p) * (1 - q))
                else:
                    p, q = np.exp(pupil) / np.exp(pupil).sum(), np.exp(teacher) / np.exp(teacher).sum()
                    values.append(float((p * q).sum()))
            per_teacher.append(sum(values) / len(values))
        total -= sum(per_teacher) / len(per_teacher)
    return total


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("K", [1, 4])
def test_values_against_the_oracle(m: int, K: int) -> None:
    logits, propagated = RNG.normal(0, 2, (2, m, 2, K, 3, 4))
    targets = RNG.integers(0, max(K, 2), (m, 2, 3, 4))
    a, b = torch.from_numpy(logits), torch.from_numpy(propagated)
    assert segmentation_loss(a, torch.from_numpy(targets)).item() == pytest.approx(slow_segmentation(logits, targets))
    wanted = slow_consistency(logits, propagated) if m > 1 else 0.0
    assert consistency_loss(a, b).item() == pytest.approx(wanted)


@pytest.mark.parametrize("K", [1, 3])
def test_gradients_by_finite_differences_and_none_to_the_teacher(K: int) -> None:
    logits = torch.from_numpy(RNG.normal(0, 1, (2, 1, K, 2, 2))).requires_grad_()
    propagated = torch.from_numpy(RNG.normal(0, 1, (2, 1, K, 2, 2))).requires_grad_()
    targets = torch.from_numpy(RNG.integers(0, 2, (2, 1, 2, 2)))
    assert torch.autograd.gradcheck(lambda z: segmentation_loss(z, targets), (logits,))
    assert torch.autograd.gradcheck(lambda z: consistency_loss(logits.detach(), z), (propagated,))
    consistency_loss(logits, propagated).backward()
    assert logits.grad is None
    assert propagated.grad is not None


def test_agreement_is_rewarded() -> None:
    sure = torch.full((2, 1, 1, 4, 4), 20.0)
    assert consistency_loss(sure, sure).item() == pytest.approx(-2)
    opposed = torch.stack([sure[0], -sure[0]])
    assert consistency_loss(opposed, opposed).item() == pytest.approx(0, abs=1e-6)
