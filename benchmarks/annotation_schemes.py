"""Ways to annotate, side by side: Dice, what a network marks too much and too little, and what the annotation took.

    python benchmarks/annotation_schemes.py $DATA/kvasir_seg --run full=runs/full --run box=runs/box --run gaze=runs/gaze \\
        --gaze build/kvasir --out build/schemes

Each --run is SCHEME=RUN, several of one scheme being its seeds. Every validation image with a mask is segmented at the
network's size; a scheme's Dice of an image is the mean over its seeds, and the interval is over the images. A run with
several levels has a row for each subset of them. Precision and recall are of the pixels of an image, and area is what is
marked as a share of what is true, over all images. Minutes are those of the training images: of gaze as `masks` measured
them (--gaze, its folder), of other annotations the seconds that were published. Writes schemes.md, schemes.csv, curve.png (Dice
against minutes) and predictions.png (the images on which the first two schemes differ most) into --out; the last line is
JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from annotation_cost import PUBLISHED, reader_seconds
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gazeseg_serve.contract import Run
from gazeseg_serve.csv_text import records_csv
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.files import write_bytes, write_text
from gazeseg_serve.folders import claim_folder, refuse_overlap
from gazeseg_serve.metrics import bootstrap_interval, dice, labels_of
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.learning.data import pack_truth, unit_images
from gazeseg_serve.training.networks.ensemble import activation, load_ensemble

# Of PointSup, a box and ten points take a fifth of the time of a mask (Cheng et al., CVPR 2022).
SECONDS = {"full": "full mask", "box": "box", "boxinst": "box", "boxteacher": "box", "point": "point", "scribble": "scribble"}
POINTS_IN_BOX = PUBLISHED["full mask"][0] / 5
BATCH = 16


@dataclass(frozen=True)
class Row:
    """One scheme, or one subset of its levels."""

    scheme: str
    runs: int
    dice: float
    low: float
    high: float
    precision: float
    recall: float
    area: float
    minutes: float | None


@torch.no_grad()
def marks(folder: Path, dataset: Dataset) -> tuple[Run, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The run; labels `(N, H, W)` by subset of its levels, all of them last; the true labels; and the images."""
    run, ensemble = load_ensemble(folder)
    truth = pack_truth(dataset, [stem for stem in run.splits["val"] if stem not in dataset.negatives], run.input)
    parts = []
    for start in range(0, len(truth), BATCH):
        images = unit_images(truth.images[start : start + BATCH])
        parts.append(ensemble(ensemble.normalise(images * 255)))
    logits, found = torch.cat(parts, dim=1), {}
    for count in range(1, len(logits) + 1):
        for chosen in itertools.combinations(range(len(logits)), count):
            name = " + ".join(f"{run.levels[i].threshold:g}" for i in chosen)
            found[name] = labels_of(activation(logits[list(chosen)].mean(dim=0)).numpy())
    return run, found, truth.targets[:, 0], truth.images


def scores(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Dice of each image `(N,)`, mean over the classes, as validation has it."""
    labels = range(1, classes + 1)
    return np.array([np.mean([dice(a == c, b == c) for c in labels]) for a, b in zip(found, truth, strict=True)])


def minutes_of(scheme: str, images: int, gaze: float | None) -> float | None:
    base = scheme.split(":")[0].split(" ")[0]
    if base.startswith("gaze"):
        return gaze
    if base in ("box_points", "pointsup"):
        return images * POINTS_IN_BOX / 60
    name = "box" if base == "extreme" else SECONDS.get(base.removeprefix("agmm_"))
    return None if name is None else images * PUBLISHED[name][0] / 60


def rows(
    runs: dict[str, list[Path]], dataset: Dataset, gaze: Path | None
) -> Iterator[tuple[Row, np.ndarray, np.ndarray, np.ndarray]]:
    """Each row, with labels of its first run, the truth and the images."""
    for scheme, folders in runs.items():
        made = [marks(folder, dataset) for folder in folders]
        run, first, truth, images = made[0]
        seconds = None if gaze is None else reader_seconds(gaze)
        known = None if seconds is None else sum(seconds.get(stem, 0) for stem in run.splits["train"]) / 60
        for name in first:
            each = np.mean([scores(labels[name], t, len(run.input.classes)) for _, labels, t, _ in made], axis=0)
            on = [(labels[name] > 0, t > 0) for _, labels, t, _ in made]
            both = sum(int((a & b).sum()) for a, b in on)
            marked, true = (sum(int(pair[i].sum()) for pair in on) for i in (0, 1))
            title = scheme if len(first) == 1 else f"{scheme}: {name}"
            row = Row(
                title,
                len(made),
                float(each.mean()),
                *bootstrap_interval(each),
                both / max(marked, 1),
                both / max(true, 1),
                marked / max(true, 1),
                minutes_of(scheme, len(run.splits["train"]), known),
            )
            yield row, first[name], truth, images


def table(found: list[Row]) -> str:
    lines = [
        "| scheme | runs | Dice | 95 % interval | precision | recall | area | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in found:
        took = "" if r.minutes is None else f"{r.minutes:.0f}"
        lines.append(
            f"| {r.scheme} | {r.runs} | {r.dice:.3f} | {r.low:.3f} to {r.high:.3f} | {r.precision:.2f} | {r.recall:.2f} "
            f"| {r.area:.2f} | {took} |"
        )
    return "\n".join(lines) + "\n"


def curve(found: list[Row]) -> np.ndarray:
    figure = Figure(figsize=(7.4, 4.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for row in (row for row in found if row.minutes is not None):
        colour = "#d62828" if row.scheme.startswith("gaze") else "#0077b6"
        axes.errorbar(row.minutes, row.dice, [[row.dice - row.low], [row.high - row.dice]], fmt="o", color=colour, alpha=0.7)
        axes.annotate(row.scheme, (row.minutes, row.dice), xytext=(6, 3), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="minutes of annotating the training images", ylabel="validation Dice, network's size")
    axes.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def strip(images: np.ndarray, truth: np.ndarray, marked: dict[str, np.ndarray], shown: list[int]) -> np.ndarray:
    """A line an image: the image, then each scheme's mask in red over it with the true outline in green."""
    lines = []
    for i in shown:
        image = images[i] if images.dtype == np.uint8 else np.uint8(np.rint(255 * images[i]))
        image = image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
        edge = cv2.morphologyEx((truth[i] > 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        cells = [image]
        for labels in marked.values():
            cell = image.copy()
            cell[labels[i] > 0] = cell[labels[i] > 0] // 2 + np.array([127, 0, 0], np.uint8)
            cell[edge] = (60, 220, 60)
            cells.append(cell)
        lines.append(np.concatenate(cells, axis=1))
    return np.concatenate(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", action="append", required=True, metavar="SCHEME=RUN")
    parser.add_argument("--gaze", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs: dict[str, list[Path]] = {}
    for item in options.run:
        scheme, _, folder = item.partition("=")
        runs.setdefault(scheme, []).append(Path(folder))
    refuse_overlap(options.out, options.data, options.gaze, *itertools.chain(*runs.values()))
    claim_folder(options.out, "schemes", ("schemes.md", "schemes.csv", "curve.png", "predictions.png"))
    made = list(rows(runs, Dataset.open(options.data), options.gaze))
    found, marked = [row for row, *_ in made], {row.scheme: labels for row, labels, _, _ in made}
    *_, truth, images = made[0]
    pair = list(marked.values())[:2]
    apart = [dice(pair[0][i] > 0, pair[-1][i] > 0) for i in range(len(truth))]
    write_text(options.out / "schemes.md", table(found))
    write_text(options.out / "schemes.csv", records_csv([asdict(row) for row in found]))
    write_bytes(options.out / "curve.png", encode_png(curve(found)))
    write_bytes(options.out / "predictions.png", encode_png(strip(images, truth, marked, list(np.argsort(apart)[:6]))))
    print(", ".join(marked))
    print(table(found))
    print(json.dumps([asdict(row) for row in found]))


if __name__ == "__main__":
    main()
