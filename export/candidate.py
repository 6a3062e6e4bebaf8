"""One way to run a model, measured; which of several are worth having, and which to take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from .bench import Timing
from .fidelity import Fidelity


@dataclass(frozen=True)
class Candidate:
    """One way to run a model. timings: of batch 1 and 8, by batch; peak_memory in bytes, of a process that runs it once.

    held: whether the gate's limits hold; fidelity is None for the ensemble itself.
    """

    name: str
    engine: str
    precision: str
    file_bytes: int
    flops: int
    timings: dict[int, Timing]
    peak_memory: int | None
    fidelity: Fidelity | None
    held: bool

    def quality(self) -> float:
        """Dice against the true masks, or the agreement with the ensemble where there are none; in [0, 1]."""
        if self.fidelity is None:
            return 1.0
        return self.fidelity.agreement if self.fidelity.truth is None else self.fidelity.truth.dice_graph


@dataclass(frozen=True)
class Comparison:
    """candidates: the eager ensemble first. recommended: a name, with the reason in one sentence."""

    source: str
    candidates: tuple[Candidate, ...]
    recommended: str
    reason: str

    def lines(self) -> list[str]:
        lines = [f"{'what':<32} {'held':>4} {'quality':>8} {'ms, 1':>8} {'ms, 8':>9} {'peak MB':>8} {'file MB':>8}"]
        for c in self.candidates:
            memory = "" if c.peak_memory is None else f"{c.peak_memory / 1e6:.0f}"
            lines.append(
                f"{c.name:<32} {'yes' if c.held else 'no':>4} {c.quality():>8.4f} {1000 * c.timings[1].median:>8.2f} "
                f"{1000 * c.timings[8].median:>9.2f} {memory:>8} {c.file_bytes / 1e6:>8.2f}"
            )
        return lines

    def as_dict(self) -> dict[str, object]:
        facts = dataclasses.asdict(self)
        for candidate in facts["candidates"]:
            if candidate["fidelity"] is not None:
                del candidate["fidelity"]["agreement_by_image"]
        return facts


def recommend(candidates: Sequence[Candidate]) -> tuple[str, str]:
    """(name, reason): the fastest at batch 1 whose limits hold; ties within 5 % go to the better Dice."""
    eager, *rest = candidates
    good = [c for c in rest if c.held]
    if not good:
        return eager.name, "no export holds the limits; serve the ensemble as it is, or loosen them knowingly"
    fastest = min(c.timings[1].median for c in good)
    best = max((c for c in good if c.timings[1].median <= 1.05 * fastest), key=Candidate.quality)
    times = eager.timings[1].median / best.timings[1].median
    assert best.fidelity is not None, "exports are compared with the ensemble"
    truth = best.fidelity.truth
    cost = (
        f"agreement with the ensemble {best.fidelity.agreement:.3f}"
        if truth is None
        else f"a Dice loss of {truth.dice_loss:+.4f} [{truth.dice_loss_low:+.4f}, {truth.dice_loss_high:+.4f}]"
    )
    return best.name, f"the fastest that holds the limits: {times:.1f} times the ensemble in PyTorch at batch 1, with {cost}"


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in both time at batch 1 and quality, fastest first."""
    front: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (c.timings[1].median, -c.quality())):
        if not front or c.quality() > front[-1].quality():
            front.append(c)
    return front
