"""Bytes or pixels in, a Prediction in the image's own geometry out: the one hot path.

The command line, the service and the benchmarks all go through here. `prepare` and `finish` hold the work around the
engine, so that a server may run them beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .contract import Artifact, InputSpec
from .engines.base import Engine, Outputs
from .engines.open import open_engine
from .errors import ConfigError, EngineError, ImageError
from .pixels import log_odds, resize_image, resize_map, surest
from .presence import Presence


@dataclass(frozen=True)
class Prediction:
    """What the network said of one image; the methods bring it to the image's own `size` = (height, width).

    probability   float32 `(K, h, w)` at the network's size
    disagreement  float32 `(h, w)` at the network's size, or None
    presence      how likely it is that the image shows anything, in [0, 1]; None where the model does not say
    presence_threshold   under this presence the mask is empty; 0 leaves it alone. The probability is never changed
    unusual       why the image is unlike those that the model learned from, in words; empty where it is not, None where the
                  model does not know what those looked like
    """

    probability: np.ndarray
    disagreement: np.ndarray | None
    size: tuple[int, int]
    presence: float | None = None
    presence_threshold: float = 0.0
    unusual: tuple[str, ...] | None = None

    @property
    def shows_nothing(self) -> bool:
        """Whether the presence is under its threshold, so that nothing is marked whatever the pixels say."""
        return self.presence is not None and self.presence < self.presence_threshold

    def mask(self, threshold: float = 0.5) -> np.ndarray:
        """Labels `(H, W)` uint8: 1 where the probability is at least `threshold` (K = 1), else the likeliest class.

        Scores are resized as log odds, which is the paper's protocol: logits are resized, then cut. With several
        classes a pixel whose best foreground probability is under `threshold` stays background only if background
        is likelier, so `threshold` is not used there. All background where `shows_nothing`.
        """
        if self.shows_nothing:
            return np.zeros(self.size, np.uint8)
        if len(self.probability) == 1:  # every answer of the service comes this way: no stack, no copy
            return (resize_map(log_odds(self.probability)[0], self.size) >= _logit(threshold)).view(np.uint8)
        return self._scores().argmax(axis=0).astype(np.uint8)

    def full_probability(self) -> np.ndarray:
        """float32 `(K, H, W)` in [0, 1] at the image's size; cut at t it gives `mask(t)`."""
        scores = self._scores()
        if len(scores) == 1:
            return 1 / (1 + np.exp(-scores))
        odds = np.exp(scores - scores.max(axis=0))
        return odds / odds.sum(axis=0)

    def full_disagreement(self) -> np.ndarray | None:
        """float32 `(H, W)` at the image's size, or None where the graph has one level."""
        return None if self.disagreement is None else resize_map(self.disagreement, self.size)

    def _scores(self) -> np.ndarray:
        return np.stack([resize_map(score, self.size) for score in log_odds(self.probability)])


class Predictor:
    """An engine and its InputSpec. Open one with `Predictor.open(artifact_folder)`.

    >>> predictor = Predictor.open("artifacts/polyps")                # doctest: +SKIP
    >>> mask = predictor.predict(read_image("photo.jpg")).mask()      # doctest: +SKIP
    """

    def __init__(self, engine: Engine, spec: InputSpec, artifact: Artifact | None = None) -> None:
        self.engine, self.spec, self.artifact = engine, spec, artifact

    @classmethod
    def open(cls, folder: Path | str, device: str = "auto", threads: int = 0) -> Predictor:
        """Open the artifact and try it with one blank image. Raises ContractError, EngineError or MissingExtraError."""
        artifact = Artifact.load(Path(folder))
        predictor = cls(open_engine(Path(folder), artifact, device, threads), artifact.input, artifact)
        predictor._try_out(artifact)
        return predictor

    def _try_out(self, artifact: Artifact) -> None:
        """The graph must give what its manifest declares. Raises EngineError."""
        spec = self.spec
        given = self.run([np.zeros((spec.size, spec.size, spec.channels), spec.dtype)])
        for tensor in artifact.outputs:
            shape, declared = np.shape(getattr(given, tensor.name)), (1, *tensor.axes[1:])
            if shape != declared:
                raise EngineError(
                    f"the graph gives {tensor.name} of {shape}, its manifest declares {declared}; export it again"
                )

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """`(H, W, C)` of any size -> `(size, size, C)`, as the network takes it; both of the InputSpec's dtype.

        float32 may have any scale and offset: the z-score inside the graph undoes both. Raises ImageError.
        """
        spec = self.spec
        if image.dtype != spec.dtype or image.ndim != 3 or image.shape[2] != spec.channels:
            raise ImageError(
                f"an image is (H, W, {spec.channels}) {spec.dtype}, this one is {image.shape} {image.dtype}; "
                "give read_image the channels and dtype of the predictor's spec"
            )
        if image.dtype == np.float32 and not np.isfinite(image).all():
            raise ImageError("the image holds a value that is not finite; replace it")
        return resize_image(image, (spec.size, spec.size))

    def run(self, prepared: Sequence[np.ndarray]) -> Outputs:
        """Run images as `prepare` gives them, `(size, size, C)` each, as one batch -> Outputs with B = their number."""
        return self.engine.run(np.stack(prepared))

    def finish(self, outputs: Outputs, index: int, size: tuple[int, int], presence: float | None = None) -> Prediction:
        """As `finish` below, by the artifact's own rule of presence."""
        return finish(outputs, index, size, None if self.artifact is None else self.artifact.presence, presence)

    def predict(self, image: np.ndarray, presence: float | None = None) -> Prediction:
        """Segment one image.

        image       `(H, W, C)` of any size, C and dtype as `spec` says: uint8, or float32 of any scale; see `read_image`
        presence    threshold in [0, 1] under which the image is taken to show nothing; None takes the artifact's own, 0
                    marks whatever the pixels say

        Returns a Prediction, whose `mask()` has the image's own size. Raises ImageError for another shape, dtype or a value
        that is not finite, ConfigError for a presence that this model cannot answer.
        """
        return self.predict_batch([image], presence)[0]

    def predict_batch(self, images: Sequence[np.ndarray], presence: float | None = None) -> list[Prediction]:
        """As `predict`, for images that may differ in size, in one call of the engine; one Prediction an image, in order."""
        prepared = [self.prepare(image) for image in images]
        outputs = self.run(prepared)
        return [
            replace(self.finish(outputs, i, image.shape[:2], presence), unusual=self.unusual(prepared[i]))
            for i, image in enumerate(images)
        ]

    def unusual(self, prepared: np.ndarray) -> tuple[str, ...] | None:
        """Why an image, as `prepare` gives it, is unlike those that the model learned from: see `Prediction.unusual`."""
        familiar = None if self.artifact is None else self.artifact.familiar
        return None if familiar is None else familiar.reasons(familiar.distances(prepared))


def finish(
    outputs: Outputs, index: int, size: tuple[int, int], rule: Presence | None, presence: float | None = None
) -> Prediction:
    """Take item `index` of a batch, for an image of `size` = (height, width).

    rule: the artifact's. presence: the threshold in [0, 1] under which the image is taken to show nothing; None takes the
    rule's own, 0 marks whatever the pixels say. Raises ConfigError for one above 0 without a rule.
    """
    check_presence(rule, presence)
    disagreement, probability = outputs.disagreement, outputs.probability[index]
    found = None if rule is None else rule.of(surest(probability, rule.share))
    threshold = presence if presence is not None else 0.0 if rule is None else rule.threshold
    return Prediction(probability, None if disagreement is None else disagreement[index], size, found, threshold)


def check_presence(rule: Presence | None, threshold: float | None) -> None:
    """Raise ConfigError for a threshold outside [0, 1], or one above 0 where the artifact holds no `rule`."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"a presence of {threshold} is not in [0, 1]; 0 switches the check off")
    if threshold and rule is None:
        raise ConfigError(
            "this model does not say whether an image shows anything, so presence can only be 0; export the run again with "
            "--data, where the dataset folder lists images without a target in negatives.txt"
        )


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p)) if 0 < p < 1 else (-np.inf if p <= 0 else np.inf)
