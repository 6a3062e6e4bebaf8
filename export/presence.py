"""Where to draw the line between an image with a target and one without: chosen at export, on images that taught nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gazeseg_serve.contract import Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.pixels import surest
from gazeseg_serve.presence import Presence, logistic
from gazeseg_serve.progress import log

from .fidelity import run_all
from .gate_images import stack
from .settings import ALARM_RATE, check_rate

SHARE = 0.001  # of the pixels: fewer would listen to single ones, more would overlook what is small
_STEPS = 100  # of Newton's method, far more than it takes
_SETTLED = 1e-10
_RIDGE = 1e-6


def choose_presence(
    graph: Callable[[np.ndarray], Outputs], run: Run, data: Path | None, split: str, alarm_rate: float = ALARM_RATE
) -> Presence | None:
    """The Presence of a graph, chosen on the images of `split`: those of the dataset folder's negatives.txt, and the others.

    None, said in the log, where there are too few for any promise. Raises ConfigError for a rate outside (0, 1).
    """
    check_rate(alarm_rate)
    dataset = None if data is None else Dataset.open(data)
    here = [] if dataset is None else [stem for stem in run.splits.get(split) or () if stem in dataset.images]
    without = [stem for stem in here if dataset is not None and stem in dataset.negatives]
    shown = [stem for stem in here if stem not in set(without)]
    if dataset is None or not shown or len(without) < needed(alarm_rate):
        log.warning(
            "no rate of false alarms can be promised: that takes images without a target that taught nothing, %d for a rate "
            "of %g, in %s and in the split %s; here are %d, so every image may be marked",
            needed(alarm_rate),
            alarm_rate,
            "--data's negatives.txt" if dataset is None else dataset.root / "negatives.txt",
            split,
            len(without),
        )
        return None
    scores: dict[str, float] = {}
    for stems in (shown, without):
        outputs = run_all(graph, stack([dataset.images[stem] for stem in stems], run.input))
        scores |= {stem: surest(map_, SHARE) for stem, map_ in zip(stems, outputs.probability, strict=True)}
    found = calibrate([scores[stem] for stem in shown], [scores[stem] for stem in without], alarm_rate)
    log.info(
        "presence: nothing is marked under %.4f; of %d images without a target at most %g %% may pass, of %d with one %.1f %% "
        "are taken for empty",
        found.threshold,
        found.without,
        100 * alarm_rate,
        found.with_target,
        100 * found.suppressed,
    )
    return found


def calibrate(
    with_target: Sequence[float], without: Sequence[float], alarm_rate: float = ALARM_RATE, share: float = SHARE
) -> Presence:
    """A Presence of the scores (`pixels.surest`) of images with and without a target, neither of which taught the graph.

    Raises ConfigError where `without` is too short to promise the rate, which takes 1 / alarm_rate - 1 images, where
    `with_target` is empty, and for a rate outside (0, 1).
    """
    check_rate(alarm_rate)
    if not with_target or len(without) < needed(alarm_rate):
        raise ConfigError(
            f"a rate of false alarms of {alarm_rate} takes {needed(alarm_rate)} images without a target and one with one, that "
            f"taught nothing; here are {len(without)} and {len(with_target)}"
        )
    slope, offset = platt(with_target, without)
    threshold = cut([logistic(slope * score + offset) for score in without], alarm_rate)
    missed = float(np.mean([logistic(slope * score + offset) < threshold for score in with_target]))
    return Presence(share, slope, offset, threshold, alarm_rate, missed, len(with_target), len(without))


def needed(alarm_rate: float) -> int:
    """The least number of images without a target for which `cut` can promise the rate: 9 for 0.1."""
    return math.ceil(1 / alarm_rate - 1 - 1e-9)


def cut(without: Sequence[float], alarm_rate: float) -> float:
    """The least presence that may count as a find: a new image without a target reaches it with a chance of at most
    `alarm_rate`, if it is of the same kind as these, of which there are at least `needed`.

    Conformal risk control (Angelopoulos et al., ICLR 2024, equation 4) with the loss "presence >= cut", which is at most 1:
    the least cut at which (alarms among the n images + 1) / (n + 1) is at most the rate.
    """
    allowed = math.floor(alarm_rate * (len(without) + 1) - 1 + 1e-9)  # alarms among these that may remain
    highest = sorted(without, reverse=True)
    return min(math.nextafter(highest[allowed], math.inf), 1.0)


def platt(with_target: Sequence[float], without: Sequence[float]) -> tuple[float, float]:
    """(slope, offset) of the logistic function of a score that gives the chance of a target, both kinds being as likely.

    Source: Platt, Probabilistic outputs for support vector machines, 1999, with its targets a little short of 0 and 1;
    each kind has half of the weight, for how many images of either are at hand says nothing of where it will be used.
    By Newton's method on the standardised scores, with a ridge that keeps a separable case finite.
    """
    sizes = [len(with_target), len(without)]
    scores = np.array([*with_target, *without], np.float64)
    targets = np.repeat([(sizes[0] + 1) / (sizes[0] + 2), 1 / (sizes[1] + 2)], sizes)
    middle, width = scores.mean(), scores.std() or 1.0
    x = np.stack([(scores - middle) / width, np.ones_like(scores)])
    weights, found = 0.5 / np.repeat(sizes, sizes), np.zeros(2)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(found @ x)))
        gradient = x @ (weights * (p - targets)) + _RIDGE * found
        curvature = (x * (weights * p * (1 - p))) @ x.T + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found = found - step
        if np.abs(step).max() < _SETTLED:
            break
    slope = max(float(found[0]) / width, 1e-6)  # a score that sank where there is a target would be of no use
    return slope, float(found[1]) - slope * float(middle)
