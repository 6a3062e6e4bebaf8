"""The CRF: images a second through the `masks` command's workers, for 1 and 2 jobs.

    python benchmarks/crf.py [--data $DATA/kvasir_seg] [--images 40] [--jobs 1 2] [--rounds 3]

Without --data, phantoms of 512 pixels stand in. Start-up of the workers counts, as it does for a user. Median of the
rounds; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.training.gaze.simulate import write_phantoms
from gazeseg_serve.training.masks.make import make_masks


def subset(source: Path, target: Path, count: int) -> Path:
    """A dataset folder of every n-th image of `source`."""
    data = Dataset.open(source)
    stems = list(data.images)
    (target / "images").mkdir(parents=True)
    for stem in stems[:: max(1, len(stems) // count)][:count]:
        shutil.copyfile(data.images[stem], target / "images" / data.images[stem].name)
    shutil.copyfile(data.fixations, target / "fixations.csv")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {jobs: [] for jobs in options.jobs}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data = subset(options.data, data, options.images) if options.data else write_phantoms(data, options.images, 512)
        for number in range(options.rounds):
            for jobs in options.jobs:
                start = time.perf_counter()
                summary = make_masks(data, Path(folder) / f"{number}_{jobs}", jobs=jobs)
                rates[jobs].append(summary.images / (time.perf_counter() - start))
    medians = {jobs: float(np.median(values)) for jobs, values in rates.items()}
    for jobs, rate in medians.items():
        print(f"{jobs} job(s): {rate:.2f} images a second, {rate / medians[options.jobs[0]]:.2f} x")
    print(json.dumps({"images": options.images, "images_per_second": medians}))


if __name__ == "__main__":
    main()
