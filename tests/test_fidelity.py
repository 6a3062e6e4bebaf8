"""The figures of the lossy gate against slow oracles, and its limits from both sides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.errors import GateError
from gazeseg_serve.export.fidelity import calibration_error, hold_fidelity, measure_fidelity, run_all
from gazeseg_serve.export.settings import AllowedLoss
from gazeseg_serve.metrics import labels_of

RNG = np.random.default_rng(0)


def blobs(shift: int = 0, count: int = 6) -> np.ndarray:
    """Probabilities `(N, 1, 32, 32)` of squares, moved by `shift` pixels."""
    p = np.full((count, 1, 32, 32), 0.1, np.float32)
    for i in range(count):
        p[i, 0, 8:20, 4 + shift : 16 + shift] = 0.9
    return p


def truths(count: int = 6) -> list[np.ndarray]:
    return [(blobs()[i, 0] > 0.5).astype(np.uint8) for i in range(count)]


def test_equal_outputs_lose_nothing() -> None:
    outputs = Outputs(blobs(), np.linspace(0, 0.5, 6 * 32 * 32, dtype=np.float32).reshape(6, 32, 32))
    found = measure_fidelity(outputs, outputs, truths(), 1)
    assert (found.agreement, found.agreement_worst, found.flipped, found.area_bias) == (1, 1, 0, 0)
    assert (found.max_difference, found.calibration_shift, found.disagreement_error) == (0, 0, 0)
    assert found.disagreement_correlation == pytest.approx(1)
    assert found.truth is not None
    assert (found.truth.dice_loss, found.truth.dice_ensemble, found.truth.images) == (0, 1, 6)
    hold_fidelity(found, AllowedLoss(0, 1))


def test_the_figures_of_a_moved_mask() -> None:
    graph = np.concatenate([blobs(1, 1), blobs(0, 5)])
    found = measure_fidelity(Outputs(graph), Outputs(blobs()), truths(), 1)
    one = 2 * 12 * 11 / (2 * 12 * 12)
    assert found.agreement == pytest.approx((one + 5) / 6)
    assert found.agreement_worst == pytest.approx(one)
    assert found.flipped == pytest.approx(24 / (6 * 32 * 32))
    assert found.area_bias == 0
    assert found.max_difference == pytest.approx(0.8)
    assert found.disagreement_error is None
    assert found.truth is not None
    assert found.truth.dice_loss == pytest.approx((1 - one) / 6)
    assert found.truth.dice_loss_low <= found.truth.dice_loss <= found.truth.dice_loss_high
    hold_fidelity(found, AllowedLoss(0.02))
    with pytest.raises(GateError, match=r"loss of mean Dice is 0\.01"):
        hold_fidelity(found, AllowedLoss(0.01))
    with pytest.raises(GateError, match="mean agreement"):
        hold_fidelity(found, AllowedLoss(0.02, 0.99))


def test_without_masks_the_agreement_decides() -> None:
    moved = measure_fidelity(Outputs(blobs(1)), Outputs(blobs()), [None] * 6, 1)
    assert moved.truth is None
    with pytest.raises(GateError, match=r"the limit 0\.97"):
        hold_fidelity(moved, AllowedLoss())
    hold_fidelity(moved, AllowedLoss(min_agreement=0.9))


def test_a_gain_passes_and_a_nan_does_not() -> None:
    better = measure_fidelity(Outputs(blobs()), Outputs(blobs(2)), truths(), 1)
    assert better.truth is not None
    assert better.truth.dice_loss < 0
    hold_fidelity(better, AllowedLoss(0.0))
    with pytest.raises(GateError, match="nan"):
        hold_fidelity(dataclasses.replace(better, truth=None, agreement=float("nan")), AllowedLoss())


def test_a_dead_graph_has_no_area_and_does_not_hold() -> None:
    dead = measure_fidelity(Outputs(np.zeros_like(blobs())), Outputs(blobs()), [None] * 6, 1)
    assert dead.area_bias == -1
    assert dead.agreement == 0
    with pytest.raises(GateError):
        hold_fidelity(dead, AllowedLoss())


def test_the_calibration_error_is_the_weighted_gap_of_fifteen_bins() -> None:
    p, target = RNG.random(500), RNG.random(500)
    slow = 0.0
    for i in range(15):
        inside = [(a, b) for a, b in zip(p, target, strict=True) if i / 15 <= a < (i + 1) / 15]
        if inside:
            slow += len(inside) / 500 * abs(np.mean([a for a, _ in inside]) - np.mean([b for _, b in inside]))
    assert calibration_error(p, target) == pytest.approx(slow)
    assert calibration_error(np.ones(4), np.ones(4)) == 0


def test_several_classes_are_labelled_by_the_likeliest() -> None:
    p = RNG.random((2, 3, 8, 8)).astype(np.float32)
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(labels_of(p), p.argmax(axis=1))
    found = measure_fidelity(Outputs(p), Outputs(p[:, [0, 2, 1]]), [None, None], 2)
    assert found.agreement < 1
    assert measure_fidelity(Outputs(p), Outputs(p), [labels_of(p)[0].astype(np.uint8), None], 2).truth.images == 1  # type: ignore[union-attr]


def test_batches_are_joined_in_order() -> None:
    images = RNG.integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    sizes = []

    def run(batch: np.ndarray) -> Outputs:
        sizes.append(len(batch))
        return Outputs(batch.mean(axis=3)[:, None] / 255, batch[..., 0] / 510)

    joined = run_all(run, images, 3)
    assert sizes == [3, 3, 1]
    np.testing.assert_allclose(joined.probability[:, 0], images.mean(axis=3) / 255)
    np.testing.assert_allclose(joined.disagreement, images[..., 0] / 510)


def test_limits_outside_the_range_of_a_dice_are_refused() -> None:
    for limits in ({"max_dice_loss": -0.1}, {"max_dice_loss": 2.0}, {"min_agreement": 1.1}):
        with pytest.raises(GateError, match=r"\[0, 1\]"):
            AllowedLoss(**limits)
