"""What scoring finds: one image under one member, and the whole of them with its means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from gazeseg_serve.metrics import bootstrap_interval

from .calibration import Reliability


@dataclass(frozen=True)
class Score:
    """One image under one member: Dice and IoU in [0, 1] (mean over the classes), HD95 in pixels (NaN where undefined).

    by_class: the Dice of each class, in label order.
    """

    image: str
    member: str
    dice: float
    iou: float
    hd95: float
    by_class: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """Scores of every image and member, and how well each member's probability of foreground is calibrated.

    Members are the levels, every other subset of them (by the mean of its logits), and the ensemble, which is last.
    negatives: how many images without a target were looked at; alarms: by member, in how many of them it marks anything.
    """

    split: str
    scores: tuple[Score, ...]
    reliability: dict[str, Reliability]
    classes: tuple[str, ...]
    negatives: int = 0
    alarms: dict[str, int] = field(default_factory=dict)

    def members(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(score.member for score in self.scores))

    def values(self, member: str, metric: str) -> np.ndarray:
        return np.array([getattr(score, metric) for score in self.scores if score.member == member])

    def summary(self) -> list[dict[str, object]]:
        """Means by member, with a 95 % bootstrap interval of the Dice over images; of several classes also each one's Dice."""
        rows = []
        for member in self.members():
            values = self.values(member, "dice")
            low, high = bootstrap_interval(values)
            hd95 = self.values(member, "hd95")
            undefined = int(np.isnan(hd95).sum())
            rows.append(
                {
                    "member": member,
                    "images": len(values),
                    "dice": float(values.mean()),
                    "dice_low": low,
                    "dice_high": high,
                    "iou": float(self.values(member, "iou").mean()),
                    "hd95": float(np.nanmean(hd95)) if undefined < len(hd95) else float("nan"),
                    "hd95_undefined": undefined,
                    "calibration_error": self.reliability[member].error(),
                    **self._named(self.values(member, "by_class").mean(axis=0)),
                    **self._false_alarms(member),
                }
            )
        return rows

    def table(self) -> list[dict[str, object]]:
        """One row an image and member."""
        return [
            {name: value for name, value in vars(score).items() if name != "by_class"} | self._named(score.by_class)
            for score in self.scores
        ]

    def _false_alarms(self, member: str) -> dict[str, object]:
        if not self.negatives:
            return {}
        return {"negatives": self.negatives, "false_alarms": self.alarms[member] / self.negatives}

    def _named(self, by_class: Iterable[float]) -> dict[str, object]:
        if len(self.classes) == 1:  # it is the Dice
            return {}
        return {f"dice_of_{name}": float(value) for name, value in zip(self.classes, by_class, strict=True)}
