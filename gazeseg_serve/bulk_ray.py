"""Segment many images over a Ray cluster: actors that hold one engine each; needs the `ray` extra.

Every mask has one place, `<stem>.png` in a folder that all machines share, and is written aside and renamed. So an image
whose actor dies half-way may be done again by another, and there is one mask of it all the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from .bulk import STDIN, Summary, collect
from .errors import ConfigError, ImageError
from .files import write_bytes
from .imaging import read_image
from .outputs import encode_mask
from .predictor import Predictor

_IMAGES = 8  # in one task: what is done again where an actor dies
_TRIES = 2


class _Worker:
    """An engine in an actor; a call segments some images and says for each what was wrong with it, or nothing."""

    def __init__(self, artifact: str, out: str, threshold: float | None, device: str) -> None:
        self.predictor = Predictor.open(artifact, device, threads=1)
        assert self.predictor.artifact is not None, "opened from a folder"
        self.cut = self.predictor.artifact.threshold if threshold is None else threshold
        self.out = Path(out)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        errors = [self._segment(str(name), Path(str(path))) for name, path in zip(batch["name"], batch["path"], strict=True)]
        return {"name": batch["name"], "path": batch["path"], "error": np.array(errors, dtype=object)}

    def _segment(self, name: str, path: Path) -> str:
        spec = self.predictor.spec
        try:
            mask = self.predictor.predict(read_image(path, spec.channels, dtype=spec.dtype)).mask(self.cut)
            write_bytes(self.out / f"{name}.png", encode_mask(mask, len(spec.classes)))
        except (ImageError, OSError) as error:
            return str(error) or type(error).__name__
        return ""


def predict_on_ray(
    artifact: Path,
    inputs: Sequence[Path],
    out: Path,
    threshold: float | None = None,
    device: str = "auto",
    actors: int | None = None,
) -> Summary:
    """As `bulk.predict_files`, on the cluster of RAY_ADDRESS or, without one, on this machine's cores.

    Masks that are in `out` already are left as they are and not counted; images that failed are tried once more, then
    listed. Raises DatasetError (inputs), ConfigError (standard input, a number of actors).
    """
    files = collect(inputs)
    if STDIN in files.values():
        raise ConfigError("standard input is one image on this machine; leave out --engine ray for it")
    if actors is not None and actors < 1:
        raise ConfigError(f"--actors {actors}: at least one engine is needed")
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to the makers of Ray
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    actors = actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
    summary = Summary()
    waiting = {name: path.absolute() for name, path in files.items() if not (out / f"{name}.png").is_file()}
    for _ in range(_TRIES):
        if not waiting:
            break
        summary.failures = {}
        table = ray.data.from_items(
            [{"name": name, "path": str(path)} for name, path in waiting.items()],
            override_num_blocks=-(-len(waiting) // _IMAGES),
        )
        answers = table.map_batches(
            _Worker,
            fn_constructor_args=(str(artifact.absolute()), str(out), threshold, device),
            batch_size=_IMAGES,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
            num_cpus=1,
        )
        for row in answers.iter_rows():
            if row["error"]:
                summary.failures[row["path"]] = row["error"]
            else:
                summary.written += 1
        waiting = {name: path for name, path in waiting.items() if str(path) in summary.failures}
    return summary
