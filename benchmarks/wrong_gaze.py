"""What the verdict says of gaze that was made wrong, or lost, with and without true masks.

    python benchmarks/wrong_gaze.py $DATA/kvasir_seg --images 30
    python benchmarks/wrong_gaze.py $DATA/nci_isbi --sigma 50 --images 150

Each table of wrong gaze is written to a file and read again, as a lab's would be. The figures are those of `masks --no-crf`,
measured on maps of a smaller size, which is enough for all that the verdict looks at. A dataset folder without images/ is
judged by its masks alone.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from gazeseg_serve.dataset import Dataset, image_files
from gazeseg_serve.training.gaze.fixations import FixationTable, read_fixations
from gazeseg_serve.training.gaze.gazemedseg import COLUMNS
from gazeseg_serve.training.gaze.scan_paths import OFF_SCREEN
from gazeseg_serve.training.masks.agreement import fit_images, fit_masks, look, points_of
from gazeseg_serve.training.masks.heatmap import heatmap
from gazeseg_serve.training.masks.levels import pseudo_mask_levels
from gazeseg_serve.training.masks.quality import measure
from gazeseg_serve.training.masks.verdict import Evidence, Verdict, judge

Row = dict[str, str]
Place = Callable[[float, float, float], tuple[float, float]]
IMAGE, X, Y = COLUMNS[0], "CURRENT_FIX_X", "CURRENT_FIX_Y"
SIDE = 128  # of the maps that are measured


def on_screen(width: float, height: float, shown: tuple[float, float]) -> Place:
    """Shares of a width x height screen, of which the image took as much as fits `shown`, in that part's middle."""

    def place(x: float, y: float, aspect: float) -> tuple[float, float]:
        w = min(shown[0], shown[1] * aspect)
        h = w / aspect
        return ((shown[0] - w) / 2 + x * w) / width, ((shown[1] - h) / 2 + y * h) / height

    return place


WRONG: dict[str, Place] = {
    "as recorded": lambda x, y, _: (x, y),
    "x and y swapped": lambda x, y, _: (y, x),
    "upside down": lambda x, y, _: (x, 1 - y),
    "mirrored": lambda x, y, _: (1 - x, y),
    "0.15 to the right": lambda x, y, _: (x + 0.15, y),
    "0.1 right and down": lambda x, y, _: (x + 0.1, y + 0.1),
    "bars of a 16:9 screen left in": on_screen(1920, 1080, (1920, 1080)),
    "recorded on 1280 x 1024, divided by 1920 x 1080": on_screen(1920, 1080, (1280, 1024)),
    "half scale": lambda x, y, _: (x / 2, y / 2),
    "one spot in the middle": lambda x, y, _: (0.5, 0.5),
    "all in a corner": lambda x, y, _: (x * 0.02, y * 0.02),
}


def moved(rows: list[Row], aspects: Mapping[str, float], place: Place) -> list[Row]:
    made = []
    for row in rows:
        x, y = place(float(row[X]), float(row[Y]), aspects[row[IMAGE]])
        made.append(row | {X: repr(x), Y: repr(y)})
    return made


def shuffled(rows: list[Row]) -> list[Row]:
    """Every image has the gaze of the next one."""
    names = sorted({row[IMAGE] for row in rows})
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    return sorted((row | {IMAGE: following[row[IMAGE]]} for row in rows), key=lambda row: row[IMAGE])


def lost(rows: list[Row], share: float, empty: bool) -> list[Row]:
    """A share of the fixations is gone: their rows hold no place, or are not there."""
    rng = random.Random(0)
    gone = [rng.random() < share for _ in rows]
    if empty:
        return [row | {X: ".", Y: "."} if out else row for row, out in zip(rows, gone, strict=True)]
    return [row for row, out in zip(rows, gone, strict=True) if not out]


class Judge:
    """Images, their looks and masks, read once."""

    def __init__(self, data: Dataset, stems: list[str], sigma: float) -> None:
        self.stems, self.sigma = stems, sigma
        self.masks = {stem: cv2.resize(data.mask(stem), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) for stem in stems}
        self.looks = {stem: look(data.image(stem)) for stem in stems} if (data.root / "images").is_dir() else {}
        self.aspects: dict[str, float] = {}

    def verdict(self, table: FixationTable, with_masks: bool) -> Verdict:
        off = Counter(row.image for row in table.dropped if row.reason == OFF_SCREEN)
        rows = []
        for stem, scan in table.paths.items():
            heat = heatmap(scan.x, scan.y, scan.duration, (SIDE, SIDE), self.sigma)
            truth = self.masks[stem] if with_masks else None
            quality = measure(scan, heat[None], None, pseudo_mask_levels(heat, (0.5, 0.3)), truth)
            rows.append(quality | {"in_image": len(scan) / (len(scan) + off[stem])})
        scans = [table.paths[stem] for stem in table.paths]
        aspects = [self.aspects[stem] for stem in table.paths]
        masks = [self.masks[stem] for stem in table.paths]
        points = [points_of(scan) for scan in scans]
        looks = np.stack([self.looks[stem] for stem in table.paths]) if self.looks else None
        return judge(
            rows,
            Evidence(
                len(table.dropped) / table.rows,
                len(table.skipped),
                len(self.stems),
                list(table.track_loss.values()),
                masks=len(rows) if with_masks else 0,
                images=None if with_masks or looks is None else fit_images(looks, points, aspects),
                on_masks=fit_masks(masks, scans, aspects, self.sigma) if with_masks else None,
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=30, help="the first so many, by name")
    parser.add_argument("--sigma", type=float, default=70.0)
    options = parser.parse_args()
    files = {path.stem: path for path in image_files(options.data / "masks")}
    has_images = (options.data / "images").is_dir()
    data = Dataset.open(options.data) if has_images else Dataset(options.data, files, files)
    with (options.data / "fixations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = sorted({row[IMAGE] for row in rows})[: options.images]
    rows = [row for row in rows if row[IMAGE] in chosen]
    aspects = {row[IMAGE]: float(row["IMAGE_WIDTH"]) / float(row["IMAGE_HEIGHT"]) for row in rows}
    judged = Judge(data, [Path(name).stem for name in chosen], options.sigma)
    judged.aspects = {Path(name).stem: aspect for name, aspect in aspects.items()}
    cases = {name: moved(rows, aspects, place) for name, place in WRONG.items()}
    cases["gaze of the next image"] = shuffled(rows)
    for share in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9):
        cases[f"{share:.0%} of the fixations without a place"] = lost(rows, share, empty=True)
        cases[f"{share:.0%} of the fixations missing"] = lost(rows, share, empty=False)
    print("| gaze | without masks | with masks |\n|---|---|---|")
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "fixations.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(case)
            table = read_fixations(path, judged.stems)
        said = [judged.verdict(table, with_masks) for with_masks in (False, True)]
        print(
            f"| {name} | " + " | ".join(f"{one.word}: {'; '.join(one.reasons)}".rstrip(": ") for one in said) + " |", flush=True
        )


if __name__ == "__main__":
    main()
