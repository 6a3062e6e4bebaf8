"""The loss against a slow oracle in numpy, loop by loop from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gazeseg_serve.training.learning.losses import consistency_loss, dice_loss, segmentation_loss
from gazeseg_serve.training.masks.levels import IGNORE

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


def test_ignored_pixels_teach_nothing_and_soft_targets_are_shares() -> None:
    logits = RNG.normal(0, 2, (2, 2, 1, 3, 4))
    targets = RNG.integers(0, 2, (2, 2, 3, 4))
    ignored = RNG.random(targets.shape) < 0.4
    soft = torch.from_numpy(np.where(ignored, IGNORE, targets)).float().requires_grad_(False)
    z = torch.from_numpy(logits).requires_grad_()
    loss = segmentation_loss(z, soft)
    wanted = 0.0
    for i in range(2):
        p = 1 / (1 + np.exp(-logits[i, :, 0]))
        each = -np.log(np.where(targets[i] == 1, p, 1 - p))
        wanted += each[~ignored[i]].mean()
    assert loss.item() == pytest.approx(wanted)
    loss.backward()
    assert z.grad is not None
    np.testing.assert_array_equal(z.grad[:, :, 0].numpy() == 0, ignored)
    # A share between 0 and 1 is the mixture of both labels.
    both = [segmentation_loss(z, torch.full((2, 2, 3, 4), label)).item() for label in (0.0, 1.0)]
    mixed = segmentation_loss(z, torch.full((2, 2, 3, 4), 0.25)).item()
    assert mixed == pytest.approx(0.75 * both[0] + 0.25 * both[1])


def test_labels_of_several_classes_can_be_ignored_and_a_level_without_any_adds_nothing() -> None:
    logits = torch.from_numpy(RNG.normal(0, 1, (2, 1, 3, 2, 2)))
    targets = torch.tensor([[[[0, 1], [2, IGNORE]]], [[[IGNORE, IGNORE], [IGNORE, IGNORE]]]], dtype=torch.uint8)
    log_p = logits[0, 0].log_softmax(0)
    wanted = -(log_p[0, 0, 0] + log_p[1, 0, 1] + log_p[2, 1, 0]) / 3
    assert segmentation_loss(logits, targets).item() == pytest.approx(wanted.item())


def test_dice_loss_against_the_definition() -> None:
    logits = torch.from_numpy(RNG.normal(0, 2, (2, 3, 1, 4, 5)))
    targets = torch.from_numpy(RNG.integers(0, 2, (2, 3, 4, 5)).astype(np.uint8))
    targets[0, 1, 2] = IGNORE
    wanted = 0.0
    for i in range(2):
        for b in range(3):
            keep = (targets[i, b] != IGNORE).numpy()
            p, y = logits[i, b, 0].sigmoid().numpy()[keep], targets[i, b].numpy()[keep]
            wanted += (1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)) / 3
    assert dice_loss(logits, targets).item() == pytest.approx(wanted)
    # Several classes: the foreground classes' own, of their softmax probabilities.
    several = torch.from_numpy(RNG.normal(0, 1, (1, 1, 3, 2, 2)))
    labels = torch.tensor([[[[0, 1], [2, 1]]]], dtype=torch.uint8)
    p = several[0, 0].softmax(0)
    one = (2 * (p[1, 0, 1] + p[1, 1, 1]) + 1) / (p[1].sum() + 2 + 1)
    two = (2 * p[2, 1, 0] + 1) / (p[2].sum() + 1 + 1)
    assert dice_loss(several, labels).item() == pytest.approx(1 - (one + two).item() / 2)
