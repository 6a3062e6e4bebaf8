"""A masks folder for the next round by an artifact: gaze maps sharpened by it, and its own maps of images without gaze.

    python benchmarks/self_labels.py ARTIFACT DATASET MASKS OUT

For the training images of DATASET. One with a map in MASKS (the refined one) gets the sum of that map's log odds and of the
artifact's mean log odds over four flips, as `relabel` does with gain 1. One without gets the artifact's alone, looked at
more closely: the mean of that over the image without its black border, and over nine overlapping windows of 0.6 of its sides;
where that marks less than 0.05 % of the image, it gets none. Negatives get none. No true mask has a part in it.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
from views import view

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.files import sha256, write_bytes, write_json
from gazeseg_serve.folders import staged_folder
from gazeseg_serve.pixels import log_odds, resize_map
from gazeseg_serve.png import encode_map
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.progress import track
from gazeseg_serve.training.learning.relabel import combine
from gazeseg_serve.training.masks.folder import HEATMAPS, MASKS_FILE, REFINED, RELABELLED_FOLDER, load_map, load_masks_info

WINDOW, STEPS, LEAST = 0.6, 3, 0.0005


def ask(predictor: Predictor, views: list[np.ndarray]) -> np.ndarray:
    """Log odds `(N, h, w)` at the network's size of views `(H, W, C)` of any size."""
    outputs = predictor.run([predictor.prepare(np.ascontiguousarray(one)) for one in views])
    return np.stack([log_odds(one)[0] for one in outputs.probability])


def flipped(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """Mean log odds `(H, W)` over the four flips."""
    said = ask(predictor, [image, image[::-1], image[:, ::-1], image[::-1, ::-1]])
    mean = (said[0] + said[1][::-1] + said[2][:, ::-1] + said[3][::-1, ::-1]) / 4
    return resize_map(np.ascontiguousarray(mean), image.shape[:2])


def windowed(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """Mean log odds `(H, W)` over the windows that hold a pixel."""
    height, width = image.shape[:2]
    h, w = int(height * WINDOW), int(width * WINDOW)
    tops, lefts = (np.linspace(0, whole - part, STEPS).astype(int) for whole, part in ((height, h), (width, w)))
    places = [(top, left) for top in tops for left in lefts]
    total, count = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    parts = [image[top : top + h, left : left + w] for top, left in places]
    for (top, left), said in zip(places, ask(predictor, parts), strict=True):
        total[top : top + h, left : left + w] += resize_map(said, (h, w))
        count[top : top + h, left : left + w] += 1
    return total / count


def closely(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """Probability `(H, W)` of an image without gaze."""
    box = view(image)
    part = np.ascontiguousarray(image[box])
    odds = np.full(image.shape[:2], -16, np.float32)
    odds[box] = (flipped(predictor, part) + windowed(predictor, part)) / 2
    return np.asarray(1 / (1 + np.exp(-odds)), np.float32)


def main(artifact: Path, data: Path, masks: Path, out: Path) -> None:
    predictor, dataset, info = Predictor.open(artifact, device="cpu"), Dataset.open(data), load_masks_info(masks)
    stems = [stem for stem in dataset.splits()["train"] if stem not in dataset.negatives]
    made, skipped = [], {}
    with staged_folder(out, RELABELLED_FOLDER) as folder:
        for stem in track(stems, "labelling", len(stems)):
            image = dataset.image(stem)
            if stem in info.stems:
                said = 1 / (1 + np.exp(-flipped(predictor, image)))
                values = combine(load_map(masks, stem, refined=True)[None], said[None].astype(np.float32), 1.0)[0]
                write_bytes(folder / HEATMAPS / f"{stem}.png", (masks / HEATMAPS / f"{stem}.png").read_bytes())
            else:
                values = closely(predictor, image)
                if np.mean(values >= 0.5) < LEAST:
                    skipped[stem] = "the artifact marks nothing"
                    continue
            write_bytes(folder / REFINED / f"{stem}.png", encode_map(values))
            made.append(stem)
        assert predictor.artifact is not None, "opened from a folder"
        origin = {"artifact": predictor.artifact.id, "masks": info.fingerprint, "gain": 1.0}
        digest = sha256(repr((origin, [sha256((folder / REFINED / f"{stem}.png").read_bytes()) for stem in made])).encode())
        write_json(
            folder / MASKS_FILE,
            dataclasses.asdict(info)
            | {
                "stems": made,
                "skipped": skipped,
                "dropped": {},
                "quality": {},
                "fingerprint": digest,
                "relabelled": origin,
                "negatives": sorted(dataset.negatives),
            },
        )
    print(f"{len(made)} maps, {len(skipped)} images in which nothing is marked")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
