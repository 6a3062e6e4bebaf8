"""Is an image like those that a model learned from? A few plain figures of it, against the range that theirs have.

Whoever sends another organ, a photograph or a screen gets a mask all the same: a network answers anything. Figures that
tell such inputs are cheap: how bright, how contrasted, of what colour, how detailed. What lies far outside the range of the
learning images is called unusual, and said with the reason. It is a hint and never a refusal: it cannot tell a familiar
image that the model will get wrong, which the disagreement tells better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ContractError

if TYPE_CHECKING:
    import numpy as np

QUANTILES = (0.005, 0.995)  # between which the figures of the learning images are taken for usual
MARGIN = 0.25  # of that range, on either side: what lies beyond is unusual
_LEAST = 1e-6  # the detail of a blank image, before its logarithm
_WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("of less contrast", "of more contrast"),
    "red": ("less red", "redder"),
    "blue": ("less blue", "bluer"),
    "colour": ("less colourful", "more colourful"),
    "detail": ("more blurred", "more detailed or noisier"),
}


@dataclass(frozen=True)
class Familiar:
    """The usual range [low, high] of each figure of `figures`, by name, and how many images it was taken from."""

    low: dict[str, float]
    high: dict[str, float]
    images: int

    def __post_init__(self) -> None:
        for name, low in self.low.items():
            high = self.high.get(name, math.nan)
            if name not in _WORDS or not (math.isfinite(low) and low <= high < math.inf):
                raise ContractError(f"familiar: {name} ranges from {low} to {high}; export the run again")
        if set(self.low) != set(self.high):
            raise ContractError("familiar: low and high name other figures; export the run again")

    def distances(self, image: np.ndarray) -> dict[str, float]:
        """How far each figure of an image, as the network takes it, lies outside its range, in ranges; negative: below."""
        found, distances = figures(image), {}
        for name, low in self.low.items():
            high, value = self.high[name], found[name]
            beyond = max(value - high, 0.0) + min(value - low, 0.0)
            distances[name] = beyond / max(high - low, 1e-6)
        return distances

    def reasons(self, distances: dict[str, float]) -> tuple[str, ...]:
        """In words, why an image of those `distances` is unusual; empty where it is not."""
        return tuple(
            f"{_WORDS[name][distance > 0]} than the {self.images} images that the range was taken from"
            for name, distance in distances.items()
            if abs(distance) > MARGIN
        )


def figures(image: np.ndarray) -> dict[str, float]:
    """Plain figures of an image `(h, w, C)` as the network takes it: uint8, or float32 of any scale.

    uint8: brightness and contrast (mean and standard deviation of the grey values, 0 to 255); with three channels red and
    blue (mean of R - G and of B - G), and colour, the logarithm of 1 + the mean of |R - G| + |B - G|. All: detail, the
    logarithm of the mean |Laplacian| of the grey values over their standard deviation, which knows no scale.
    """
    import cv2  # here, for a manifest is read by what must load nothing heavy
    import numpy as np

    image = np.ascontiguousarray(image)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[..., 0]
    mean, spread = (float(value[0, 0]) for value in cv2.meanStdDev(grey))
    bends = cv2.Laplacian(grey, cv2.CV_16S if image.dtype == np.uint8 else cv2.CV_32F)
    steep = cv2.norm(bends, cv2.NORM_L1) / grey.size
    found = {"detail": math.log(max(steep / spread, _LEAST) if spread > 0 else _LEAST)}
    if image.dtype == np.uint8:
        found |= {"brightness": mean, "contrast": spread}
        if image.shape[2] == 3:
            red, green, blue = cv2.split(image)
            means = [cv2.mean(channel)[0] for channel in (red, green, blue)]
            spread = cv2.mean(cv2.absdiff(red, green))[0] + cv2.mean(cv2.absdiff(blue, green))[0]
            found |= {"red": means[0] - means[1], "blue": means[2] - means[1], "colour": math.log1p(spread)}
    return found


def learn(images: Iterable[np.ndarray]) -> Familiar | None:
    """The Familiar of learning images `(h, w, C)` as the network takes them, of which one at a time is held; None of none."""
    import numpy as np

    found = [figures(image) for image in images]
    if not found:
        return None
    values = {name: np.array([one[name] for one in found]) for name in found[0]}
    low, high = ({name: float(np.quantile(value, q)) for name, value in values.items()} for q in QUANTILES)
    return Familiar(low, high, len(found))
