"""Segment many images over a Ray cluster: actors that hold one engine each; needs the `ray` extra.

Every mask has one place in a folder that all machines share, and is written aside and renamed. So an image whose actor
dies half-way may be done again by another, and there is one mask of it all the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from .bulk import MaskOptions, Summary, is_done, make_plan, segment_file
from .contract import Artifact
from .errors import ConfigError, DatasetError, ImageError, MissingExtraError
from .image_inputs import STDIN
from .names import printable
from .predictor import Predictor, check_presence

_IMAGES = 8  # in one task: what is done again where an actor dies
_TRIES = 2


class _Worker:
    """An engine in an actor; a call segments some images and says for each what was wrong with it, or nothing."""

    def __init__(self, artifact: str, work: list[tuple[Path, Path]], device: str, options: MaskOptions) -> None:
        self.predictor = Predictor.open(artifact, device, threads=1)
        self.work, self.options = work, options

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        numbers = batch.get("number", np.zeros(0, np.int64))  # Ray also hands over blocks without a row, and so without columns
        errors = [self._segment(*self.work[number]) for number in numbers]
        return {"number": numbers, "error": np.array(errors, dtype=object)}

    def _segment(self, image: Path, mask: Path) -> str:
        try:
            segment_file(self.predictor, image, mask, self.options)
        except (ImageError, MissingExtraError, DatasetError, OSError) as error:
            return printable(str(error) or type(error).__name__)
        return ""


def predict_on_ray(
    artifact: Path,
    inputs: Sequence[Path],
    out: Path,
    threshold: float | None = None,
    device: str = "auto",
    actors: int | None = None,
    presence: float | None = None,
    force: bool = False,
) -> Summary:
    """As `bulk.predict_files`, on the cluster of RAY_ADDRESS or, without one, on this machine's cores.

    Masks in `out` that say they are of this image, model and thresholds are left as they are and not counted; images that
    failed are tried once more, then listed. Raises DatasetError (inputs, masks' places), ConfigError (standard input, a
    number of actors, a presence that the model cannot hold).
    """
    if STDIN in inputs:
        raise ConfigError("standard input is one image on this machine; leave out --engine ray for it")
    if actors is not None and actors < 1:
        raise ConfigError(f"--actors {actors}: at least one engine is needed")
    model = Artifact.load(artifact)
    check_presence(model.presence, presence)
    options = MaskOptions(threshold, presence, force)
    plan = make_plan(inputs, out.absolute())
    summary = plan.summary
    work = [(image.absolute(), mask) for image, mask in plan.masks.items()]
    waiting = [i for i, (image, mask) in enumerate(work) if not is_done(model, image, mask, options)]
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to the makers of Ray
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    actors = actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
    for _ in range(_TRIES):
        if not waiting:
            break
        failures: dict[int, str] = {}
        table = ray.data.from_items([{"number": i} for i in waiting], override_num_blocks=-(-len(waiting) // _IMAGES))
        answers = table.map_batches(
            _Worker,
            fn_constructor_args=(str(artifact.absolute()), work, device, options),
            batch_size=_IMAGES,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
            num_cpus=1,
        )
        for row in answers.iter_rows():
            if row["error"]:
                failures[row["number"]] = row["error"]
            else:
                summary.written += 1
        summary.failures = {printable(work[i][0]): reason for i, reason in failures.items()}
        waiting = list(failures)
    return summary
