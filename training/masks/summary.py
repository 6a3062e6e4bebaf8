"""What `masks` tells when it has done: a summary for people and machines, and the tables of its folder."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazeseg_serve.csv_text import rows_csv

from ..gaze.fixations import FixationTable
from .folder import REPORT_FILE
from .verdict import Verdict


@dataclass(frozen=True)
class MasksSummary:
    """What one call of `make_masks` did.

    made, reused    how many images were made now, and how many were finished before
    negatives       how many images negatives.txt lists
    skipped         reason by stem; dropped: rows of the fixation table by reason
    means           mean of every quality figure over the images
    notes           what the gaze was recognised as and how, what was assumed, and how several readers agree
    """

    out: Path
    images: int
    made: int
    reused: int
    skipped: dict[str, str]
    dropped: dict[str, int]
    means: dict[str, float]
    verdict: Verdict
    notes: tuple[str, ...] = ()
    negatives: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The summary for machines."""
        return dataclasses.asdict(self) | {"out": str(self.out)}

    def lines(self) -> list[str]:
        """The summary for people, one fact a line."""
        lines = [f"source: {note}" for note in self.notes]
        lines.append(f"{self.images} images in {self.out} ({self.made} made now, {self.reused} finished before)")
        if "viewing_seconds" in self.means:
            mean, gaze = self.means["viewing_seconds"], self.means["gaze_seconds"]
            minutes = self.images * mean / 60
            lines.append(f"the reader's time: {minutes:.1f} minutes, {mean:.1f} s an image ({gaze:.1f} s of it fixations)")
        if self.negatives:
            lines.append(f"{self.negatives} negatives, all background: training takes them in with data.negatives")
        lines += [f"dropped {count} row(s): {reason}" for reason, count in self.dropped.items()]
        lines += [f"skipped {count} image(s): {reason}" for reason, count in Counter(self.skipped.values()).most_common(5)]
        lines += [self.verdict.line, *self.verdict.advice, f"report: {self.out / REPORT_FILE}"]
        lines += [f"{name}: {value:.4f}" for name, value in self.means.items() if name.startswith(("dice", "inside"))]
        return lines


def quality_csv(
    names: list[str],
    rows: dict[str, dict[str, float]],
    skipped: dict[str, str],
    table: FixationTable,
    negatives: frozenset[str],
) -> str:
    """One row an image, skipped ones and negatives too; the rows dropped from its table, by reason, stand beside."""
    drops: dict[str, Counter[str]] = {}
    for row in table.dropped:
        drops.setdefault(row.image, Counter())[row.reason] += 1
    reasons = sorted(table.reasons)
    lines = []
    for stem in sorted({*rows, *skipped, *drops, *negatives}):
        status = "used" if stem in rows else f"skipped: {skipped[stem]}" if stem in skipped else "unknown image"
        status = "negative" if stem in negatives else status
        quality = rows.get(stem, {})
        count = drops.get(stem, Counter())
        lines.append([stem, status, *(quality.get(name, "") for name in names), *(count[r] for r in reasons)])
    return rows_csv(["image", "status", *names, *(f"dropped: {reason}" for reason in reasons)], lines)
