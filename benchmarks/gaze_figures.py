"""Figures on gaze that need more than the commands: see `--help` for the four.

    python benchmarks/gaze_figures.py stand-in $DATA/nci_isbi build/nci   # a dataset folder where only masks exist
    python benchmarks/gaze_figures.py simulate $DATA/kvasir_seg           # simulated gaze beside the recorded one
    python benchmarks/gaze_figures.py classes $DATA/acdc build/acdc       # a dataset folder with simulated gaze a class
    python benchmarks/gaze_figures.py bits build/kvasir $DATA/kvasir_seg  # what storing a heatmap at 8 bit costs

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gazeseg_serve.dataset import Dataset, image_files
from gazeseg_serve.files import write_bytes, write_text
from gazeseg_serve.imaging import read_image
from gazeseg_serve.metrics import dice
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.gaze.fixations import ScanPath, read_fixations, write_fixations
from gazeseg_serve.training.gaze.simulate import NOISE, simulate_gaze
from gazeseg_serve.training.masks.folder import load_map, load_masks_info
from gazeseg_serve.training.masks.heatmap import heatmap
from gazeseg_serve.training.masks.levels import pseudo_mask_levels
from gazeseg_serve.training.masks.quality import measure
from gazeseg_serve.training.masks.verdict import wanders

FIGURES = ("fixations", "gaze_seconds", "inside", "dispersion", "wander", "dice_heatmap")


def stand_in(source: Path, out: Path) -> dict[str, int]:
    """Copy fixations and masks, and put a black image of each mask's size where the images are not at hand."""
    masks = image_files(source / "masks")
    for path in masks:
        size = read_image(path, channels=1).shape[:2]
        write_bytes(out / "images" / f"{path.stem}.png", encode_png(np.zeros(size, np.uint8)))
        write_bytes(out / "masks" / path.name, path.read_bytes())
    shutil.copyfile(source / "fixations.csv", out / "fixations.csv")
    return {"images": len(masks)}


def simulate(source: Path, sigma: float, every: int) -> dict[str, dict[str, float]]:
    """Means over every `every`-th image of recorded gaze, and of gaze simulated on the same masks."""
    stems = {path.stem: path for path in image_files(source / "masks")}
    data = Dataset(source, stems, stems)
    table = read_fixations(source / "fixations.csv", stems)
    rows: dict[str, list[dict[str, float]]] = {"recorded": [], **{noise: [] for noise in NOISE}}
    for i, (stem, recorded) in enumerate(list(table.paths.items())[::every]):
        truth = data.mask(stem)
        if not truth.any():
            continue
        rows["recorded"].append(_row(recorded, truth, sigma))
        for noise in NOISE:
            rows[noise].append(_row(simulate_gaze(truth, np.random.default_rng((0, i)), noise), truth, sigma))
    means = {kind: {name: float(np.mean([row[name] for row in found])) for name in FIGURES} for kind, found in rows.items()}
    for kind, found in rows.items():
        means[kind]["inside_median"] = float(np.median([row["inside"] for row in found]))
        means[kind]["wandering"] = float(np.mean([wanders(row) for row in found]))
    return means


def classes(source: Path, out: Path, names: Sequence[str], seed: int = 0) -> dict[str, int]:
    """A dataset folder of `images/` and `labels/` with simulated gaze of each class on its own; labels are 1..C.

    Real `scribbles/` are copied. A stem is PATIENT_...: one patient in five, drawn with `seed`, is the validation split, so
    that no patient has slices on both sides.
    """
    labels = {path.stem: path for path in image_files(source / "labels")}
    paths, sizes = {}, {}
    for i, (stem, file) in enumerate(labels.items()):
        truth = read_image(file, channels=1)[..., 0]
        scans = [
            simulate_gaze(truth == label, np.random.default_rng((seed, i, label)))
            for label in range(1, len(names) + 1)
            if (truth == label).any()
        ]
        found = [label for label in range(1, len(names) + 1) if (truth == label).any()]
        if scans:
            label = np.concatenate([np.full(len(scan), c) for scan, c in zip(scans, found, strict=True)])
            paths[stem] = ScanPath(
                *(np.concatenate([getattr(scan, name) for scan in scans]) for name in ("x", "y", "duration")), label
            )
            sizes[stem] = truth.shape
            write_bytes(out / "images" / f"{stem}.png", (source / "images" / f"{stem}.png").read_bytes())
            write_bytes(out / "masks" / f"{stem}.png", file.read_bytes())
            scribble = source / "scribbles" / f"{stem}.png"
            if scribble.is_file():
                write_bytes(out / "scribbles" / f"{stem}.png", scribble.read_bytes())
    write_fixations(out / "fixations.csv", paths, sizes, names)
    patients = sorted({stem.split("_")[0] for stem in paths})
    held_out = set(np.random.default_rng(seed).permutation(patients)[: len(patients) // 5].tolist())
    val = [stem for stem in paths if stem.split("_")[0] in held_out]
    write_text(out / "splits" / "val.txt", "\n".join(val) + "\n")
    return {"images": len(paths), "patients": len(patients), "val_images": len(val), "val_patients": len(held_out)}


def _row(scan: ScanPath, truth: np.ndarray, sigma: float) -> dict[str, float]:
    heat = heatmap(scan.x, scan.y, scan.duration, truth.shape, sigma)
    return measure(scan, heat[None], None, pseudo_mask_levels(heat, (0.5,)), truth)


def bits(masks: Path, source: Path) -> dict[str, float]:
    """Mean Dice of heatmaps cut at 0.5: as stored (16 bit), and rounded or cut off to 8 bit first."""
    data = Dataset.open(source)
    scores: dict[str, list[float]] = {"16 bit": [], "8 bit, rounded": [], "8 bit, cut off": []}
    for stem in load_masks_info(masks).stems:
        if stem in data.masks:
            values, truth = load_map(masks, stem, refined=False), data.mask(stem)
            scores["16 bit"].append(dice(values >= 0.5, truth))
            scores["8 bit, rounded"].append(dice(np.rint(values * 255) / 255 >= 0.5, truth))
            scores["8 bit, cut off"].append(dice(np.floor(values * 255) / 255 >= 0.5, truth))
    return {name: float(np.mean(values)) for name, values in scores.items()} | {"images": len(scores["16 bit"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("stand-in")
    one.add_argument("source", type=Path)
    one.add_argument("out", type=Path)
    two = commands.add_parser("simulate")
    two.add_argument("source", type=Path)
    two.add_argument("--sigma", type=float, default=70.0)
    two.add_argument("--every", type=int, default=1)
    three = commands.add_parser("bits")
    three.add_argument("masks", type=Path)
    three.add_argument("source", type=Path)
    four = commands.add_parser("classes")
    four.add_argument("source", type=Path)
    four.add_argument("out", type=Path)
    four.add_argument("--names", default="right_ventricle,myocardium,left_ventricle")
    options = parser.parse_args()
    if options.command == "stand-in":
        result: dict = stand_in(options.source, options.out)
    elif options.command == "classes":
        result = classes(options.source, options.out, options.names.split(","))
    elif options.command == "simulate":
        result = simulate(options.source, options.sigma, options.every)
        for kind, means in result.items():
            print(f"{kind:9}", "  ".join(f"{name} {value:.3f}" for name, value in means.items()))
    else:
        result = bits(options.masks, options.source)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
