"""The gate of a lossy export: how well a graph that is not the ensemble answers for it, with and without true masks."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.errors import GateError
from gazeseg_serve.metrics import bootstrap_interval, class_dice, flipped_share, labels_of
from gazeseg_serve.predictor import Prediction
from gazeseg_serve.progress import log
from gazeseg_serve.training.scoring.calibration import Reliability

from .settings import AllowedLoss

_AGREEMENT_WITHOUT_MASKS = 0.97


@dataclass(frozen=True)
class Truth:
    """Dice of both against the true masks, of `images` that have one; loss = ensemble - graph, with a 95 % interval."""

    images: int
    dice_ensemble: float
    dice_graph: float
    dice_loss: float
    dice_loss_low: float
    dice_loss_high: float
    calibration_error_ensemble: float
    calibration_error_graph: float


@dataclass(frozen=True)
class Fidelity:
    """What was measured at the network's size, over `images`; masks are cut at 0.5.

    agreement            Dice of the graph's mask with the ensemble's: mean, and mean of the worst 5 % (at least one image)
    flipped              share of pixels whose label differs
    area_bias            (foreground pixels of the graph - of the ensemble) / of the ensemble; 0 where neither has any
    max_difference       largest |difference| of a probability
    calibration_shift    mean over 15 bins of the graph's probability, weighted by pixels, of
                         |mean probability of the graph - of the ensemble|
    disagreement_error   mean |difference| of the disagreement; None where one of the two has none
    disagreement_correlation   Pearson's, over all pixels; None likewise, or where one is constant
    """

    images: int
    agreement: float
    agreement_worst: float
    flipped: float
    area_bias: float
    max_difference: float
    calibration_shift: float
    disagreement_error: float | None
    disagreement_correlation: float | None
    truth: Truth | None
    agreement_by_image: tuple[float, ...]

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def run_all(run: Callable[[np.ndarray], Outputs], images: np.ndarray, batch: int = 8) -> Outputs:
    """All of `images` `(N, H, W, C)` through `run`, in batches, as one Outputs."""
    parts = [run(images[i : i + batch]) for i in range(0, len(images), batch)]
    spread = None if parts[0].disagreement is None else np.concatenate([p.disagreement for p in parts])
    return Outputs(np.concatenate([p.probability for p in parts]), spread)


def measure_fidelity(graph: Outputs, ensemble: Outputs, truths: Sequence[np.ndarray | None], classes: int) -> Fidelity:
    """Compare the outputs of the graph with those of the ensemble, for images with the true masks `truths` (or None)."""
    p, q = graph.probability.astype(np.float64), ensemble.probability.astype(np.float64)
    a, b = labels_of(graph.probability), labels_of(ensemble.probability)
    agreement = np.array([float(np.mean(class_dice(x, y, classes))) for x, y in zip(a, b, strict=True)])
    worst = np.sort(agreement)[: max(1, round(0.05 * len(agreement)))]
    area, wanted = np.count_nonzero(a), np.count_nonzero(b)
    if not wanted:
        log.warning("the ensemble calls nothing foreground on the gate's images; a dead ensemble is easy to agree with")
    bias = (area - wanted) / wanted if wanted else float(area > 0)
    error = correlation = None
    if graph.disagreement is not None and ensemble.disagreement is not None:
        u, v = graph.disagreement.astype(np.float64), ensemble.disagreement.astype(np.float64)
        error = float(np.abs(u - v).mean())
        correlation = float(np.corrcoef(u.ravel(), v.ravel())[0, 1]) if u.std() > 0 and v.std() > 0 else None
    return Fidelity(
        len(a),
        float(agreement.mean()),
        float(worst.mean()),
        flipped_share(a, b),
        bias,
        float(np.abs(p - q).max()),
        calibration_error(p, q),
        error,
        correlation,
        _against_truth(graph, ensemble, truths, classes),
        tuple(agreement.tolist()),
    )


def calibration_error(p: np.ndarray, target: np.ndarray) -> float:
    """Expected calibration error of `p` against `target`, arrays of one shape in [0, 1] (Guo et al., ICML 2017)."""
    return Reliability.of(p, target).error()


def hold_fidelity(found: Fidelity, limits: AllowedLoss) -> None:
    """Raise GateError with every figure that is beyond its limit."""
    broken = [f"{name} is {value:.4f}, the limit {limit:.4f}" for name, value, limit, held in judged(found, limits) if not held]
    if broken:
        raise GateError("the graph is not as good as the ensemble: " + "; ".join(broken) + ". Nothing was written")


def judged(found: Fidelity, limits: AllowedLoss) -> list[tuple[str, float, float, bool]]:
    """(what, measured, limit, held) of each figure that has a limit. A NaN does not hold."""
    rows = []
    if found.truth is not None:
        loss = found.truth.dice_loss
        rows.append(("loss of mean Dice", loss, limits.max_dice_loss, bool(loss <= limits.max_dice_loss)))
    floor = limits.min_agreement
    if floor is None and found.truth is None:
        floor = _AGREEMENT_WITHOUT_MASKS
    if floor is not None:
        rows.append(("mean agreement (Dice with the ensemble)", found.agreement, floor, bool(found.agreement >= floor)))
    return rows


def _against_truth(graph: Outputs, ensemble: Outputs, truths: Sequence[np.ndarray | None], classes: int) -> Truth | None:
    """By the protocol of `evaluate`: scores are resized to the mask's own size, then cut; calibration is over all pixels."""
    each: list[tuple[float, float]] = []
    tables: list[tuple[Reliability, Reliability]] = []
    for i, truth in enumerate(truths):
        if truth is None:
            continue
        both = [Prediction(o.probability[i], None, truth.shape) for o in (graph, ensemble)]
        each.append(tuple(float(np.mean(class_dice(p.mask(), truth, classes))) for p in both))  # type: ignore[arg-type]
        foreground = [p.full_probability() for p in both]
        tables.append(
            tuple(  # type: ignore[arg-type]
                Reliability.of(f[0] if len(f) == 1 else 1 - f[0], truth > 0) for f in foreground
            )
        )
    if not each:
        return None
    mine, theirs = np.array(each).T
    low, high = bootstrap_interval(theirs - mine)  # the same images in each draw: paired
    own, ensembles = (functools.reduce(operator.add, column) for column in zip(*tables, strict=True))
    return Truth(
        len(each),
        float(theirs.mean()),
        float(mine.mean()),
        float((theirs - mine).mean()),
        low,
        high,
        ensembles.error(),
        own.error(),
    )
