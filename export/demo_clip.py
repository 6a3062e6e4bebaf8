"""The demo's clip: ten seconds of a phantom that the camera passes over, with its true masks, segmented by the demo's graph."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from gazeseg_serve.files import write_bytes
from gazeseg_serve.metrics import dice, flicker
from gazeseg_serve.png import encode_png
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.training.gaze.phantom_clip import RATE, phantom_clip
from gazeseg_serve.video.frames import Frame
from gazeseg_serve.video.settings import SMOOTH_SECONDS, Steadiness
from gazeseg_serve.video.steady import FrameSegmenter
from gazeseg_serve.video.writing import Film

FILM, TRUTH = "clip.mp4", "true_masks"


@dataclass(frozen=True)
class ClipScore:
    """Frames that show the lesion and their mean Dice, and the flicker of all masks, each frame by itself and steadied; and
    the flicker of the true masks."""

    frames: int
    shown: int
    dice: float
    dice_steady: float
    flicker: float
    flicker_steady: float
    flicker_true: float


def make_clip(out: Path, artifact: Path, seconds: float = 10.0) -> ClipScore:
    """Write `clip.mp4` and `true_masks/frame_000000.png` and so on (1 bit) into `out`, and score the artifact on the frames.

    Raises MissingExtraError without the extra `video`.
    """
    predictor, film = Predictor.open(artifact, device="cpu"), Film(out / FILM)
    out.mkdir(parents=True, exist_ok=True)
    plain, steady = (FrameSegmenter(predictor, Steadiness(smooth)) for smooth in (0.0, SMOOTH_SECONDS))
    truths, masks, steadied = [], [], []
    size, frames = 2 * predictor.spec.size, round(seconds * RATE)
    for number, (image, truth) in enumerate(phantom_clip(size, frames, np.random.default_rng(1))):
        film.write(Frame(number, number, Fraction(1, RATE), image), image)
        write_bytes(out / TRUTH / f"frame_{number:06d}.png", encode_png(truth, bilevel=True))
        truths.append(truth)
        masks.append(plain(image, number / RATE).mask())
        steadied.append(steady(image, number / RATE).mask())
    film.close()
    shown = [number for number, truth in enumerate(truths) if truth.any()]
    alone, steadier = (float(np.mean([dice(found[i], truths[i]) for i in shown])) for found in (masks, steadied))
    return ClipScore(frames, len(shown), alone, steadier, flicker(masks), flicker(steadied), flicker(truths))
