"""How much the past counts, and the defaults of what plays videos; loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError

SMOOTH_SECONDS, RELEASE = 0.04, 0.7  # docs/video.md has what smoothing gains and what it costs


@dataclass(frozen=True)
class Steadiness:
    """How much the past counts.

    seconds   time constant of the exponential mean of log odds; 0 leaves every frame to itself
    release   part of the presence threshold under which what was shown is no longer shown, in (0, 1]; 1 is no hysteresis
    """

    seconds: float = 0.0
    release: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.seconds <= 10:
            raise ConfigError(f"a smoothing of {self.seconds} s is not in 0 to 10 s; 0 switches it off")
        if not 0 < self.release <= 1:
            raise ConfigError(f"a release of {self.release} is not above 0 and at most 1; 1 switches hysteresis off")
