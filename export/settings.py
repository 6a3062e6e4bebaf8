"""What a graph may differ by from the networks it stands for."""

from __future__ import annotations

from dataclasses import dataclass

from gazeseg_serve.errors import GateError


@dataclass(frozen=True)
class Tolerance:
    """What an exact strategy may differ by: absolute, with no relative part; shares of pixels in [0, 1]."""

    max_difference: float = 1e-3
    flipped: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.max_difference > 0 and self.flipped >= 0):
            raise GateError("a tolerance must be positive")


EXACT = Tolerance()


@dataclass(frozen=True)
class Limits:
    """What a lossy export may lose. Dice in [0, 1].

    max_dice_loss   of the mean Dice against the true masks, where there are any
    min_agreement   of the mean Dice with the ensemble's own masks; None: 0.97 without true masks, else no limit
    """

    max_dice_loss: float = 0.005
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_dice_loss <= 1 or not (self.min_agreement is None or 0 <= self.min_agreement <= 1):
            raise GateError("a limit of a Dice lies in [0, 1]")


LOSSY = Limits()
