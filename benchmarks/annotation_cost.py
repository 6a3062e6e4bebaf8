"""What annotating costs: Dice against minutes of a reader's time, from gaze of more and more images under one recipe.

    python benchmarks/annotation_cost.py configs/kvasir_small.toml --data $DATA/kvasir_seg --masks build/kvasir \\
        --out build/cost --images 100,200,400,800

Each point is a training on the first so many of the training images in a fixed random order; all are validated on the same
images, and what a point trains on contains what the smaller ones trained on. The minutes are those that `masks` reports, from
the first fixation on an image to the end of the last; for other annotations they are the seconds an image that were published
(`PUBLISHED`), times the images. A point that is finished is not trained again. Writes cost.csv and cost.md into --out.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path

from gazeseg_serve.contract import RUN_FILE, Run
from gazeseg_serve.csv_text import records_csv
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.files import write_text
from gazeseg_serve.folders import claim_folder, refuse_overlap
from gazeseg_serve.training.learning.config import load_config
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.masks.folder import QUALITY_FILE, load_masks_info

# Seconds an object, as published for photographs. The gaze paper's own anchor: gaze took 15.4 % of the time of full masks
# (Zhong et al., MICCAI 2024).
PUBLISHED = {
    "full mask": (79.2, "polygons of MS COCO, Lin et al., ECCV 2014"),
    "scribble": (10.9, "Bearman et al., ECCV 2016"),
    "box": (7.0, "extreme clicks, Papadopoulos et al., ICCV 2017"),
    "point": (2.4, "Bearman et al., ECCV 2016"),
}


@dataclass(frozen=True)
class Point:
    """One training: how many images, the minutes of annotating them, and the validation Dice at the network's size."""

    images: int
    minutes: float
    dice: float


def reader_seconds(masks: Path) -> dict[str, float]:
    """Seconds at each image, from the table that `masks` wrote. Raises DatasetError where the gaze held no times."""
    with (masks / QUALITY_FILE).open(encoding="utf-8", newline="") as file:
        found = {row["image"]: float(row["viewing_seconds"]) for row in csv.DictReader(file) if row.get("viewing_seconds")}
    if not found:
        raise DatasetError(f"{masks / QUALITY_FILE} has no viewing_seconds; make the masks again with gaze that holds times")
    return found


def subset(data: Path, folder: Path, train_stems: list[str], held_out: list[str]) -> Path:
    """A dataset folder of links to `data` whose splits are these."""
    if not folder.exists():
        write_text(folder / "splits" / "train.txt", "\n".join(train_stems) + "\n")
        write_text(folder / "splits" / "val.txt", "\n".join(held_out) + "\n")
        for name in ("images", "masks", "fixations.csv"):
            if (data / name).exists():
                (folder / name).symlink_to((data / name).resolve())
    return folder


def measure(config: Path, settings: list[str], data: Path, masks: Path, out: Path, counts: list[int]) -> list[Point]:
    dataset, seconds, recipe = Dataset.open(data), reader_seconds(masks), load_config(config, settings)
    mapped = set(load_masks_info(masks).stems)
    splits = dataset.splits()
    order = sorted(stem for stem in splits["train"] if stem in seconds and stem in mapped)
    random.Random(0).shuffle(order)
    if max(counts) > len(order):
        raise ConfigError(f"--images {max(counts)}: {len(order)} training images have gaze with times")
    points = []
    for count in sorted(counts):
        chosen, run = sorted(order[:count]), out / f"run_{count}"
        folder = subset(data, out / f"data_{count}", chosen, list(splits["val"]))
        if not (run / RUN_FILE).is_file():
            train(recipe, folder, masks, run, (run / "checkpoint" / "state.safetensors").is_file())
        points.append(Point(count, sum(seconds[stem] for stem in chosen) / 60, Run.load(run).metrics["val_dice"]))
        write_text(out / "cost.csv", records_csv([vars(point) for point in points]))
        write_text(out / "cost.md", table(points))
    return points


def table(points: list[Point]) -> str:
    """The points, and what the same images would have cost with other annotations."""
    lines = [["images", "Dice", "minutes of gaze", *(f"minutes of a {name}" for name in PUBLISHED)]]
    lines.append(["---"] * len(lines[0]))
    for point in points:
        others = [f"{point.images * seconds / 60:.0f}" for seconds, _ in PUBLISHED.values()]
        lines.append([str(point.images), f"{point.dice:.4f}", f"{point.minutes:.1f}", *others])
    sources = "".join(f"- {name}: {seconds:g} s an image, {source}\n" for name, (seconds, source) in PUBLISHED.items())
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n" + sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", default="100,200,400,800")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    refuse_overlap(options.out, options.data, options.masks, options.config)
    claim_folder(options.out, "cost", ("cost.csv", "cost.md", "data_*", "run_*"))
    counts = [int(part) for part in options.images.split(",")]
    points = measure(options.config, options.settings, options.data, options.masks, options.out, counts)
    print(table(points))
    print(json.dumps([vars(point) for point in points]))


if __name__ == "__main__":
    main()
