"""What an artifact gives when its graph is shown images at other sizes, and with the black border cropped away.

    python benchmarks/views.py ARTIFACT $DATA [--sizes 160,192,224]

Scored as `model_card.py` does, on the same images, and by how many polyps a presence threshold would take for nothing that
lets a tenth of all 100 empty frames of PolypGen pass. The border: rows and columns of which less than a tenth of the pixels
is brighter than 30 in any channel. Nothing here trains.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from model_card import SMALL, auroc, empty_frames, images

from gazeseg_serve.contract import Artifact
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.metrics import dice
from gazeseg_serve.pixels import log_odds, resize_image, resize_map, surest

BRIGHT, SHARE, LEAST = 30, 0.1, 0.4
SUREST = 0.001
ALARMS = 0.1


def view(image: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns inside the border; the whole image where less than LEAST of a side would be left."""
    bright = image.max(axis=2) > BRIGHT
    found = []
    for axis in (0, 1):
        lit = np.flatnonzero(bright.mean(axis=1 - axis) > SHARE)
        whole = slice(0, image.shape[axis])
        found.append(slice(int(lit[0]), int(lit[-1]) + 1) if len(lit) >= LEAST * image.shape[axis] else whole)
    return found[0], found[1]


def session(artifact: Path, size: int) -> onnxruntime.InferenceSession:
    """The graph, declared at another size: its weights do not depend on it."""
    known = Artifact.load(artifact)
    model = onnx.load(artifact / known.model)
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_value == known.input.size:
                dimension.dim_value = size
    del model.graph.value_info[:]
    return onnxruntime.InferenceSession(model.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sizes", default="160,192,224")
    wanted = parser.parse_args()
    polypgen = Dataset.open(wanted.data / "polypgen")
    teaching = [("empty, teaching", polypgen, stem) for stem in empty_frames(polypgen)[0]]
    for size in map(int, wanted.sizes.split(",")):
        graph = session(wanted.artifact, size)
        for cropped in (False, True):
            rows = []
            for name, dataset, stem in (*images(wanted.data), *teaching):
                image, truth = dataset.image(stem), dataset.mask(stem)
                box = view(image) if cropped else (slice(None), slice(None))
                part = np.ascontiguousarray(image[box])
                probability = graph.run(["probability"], {"image": resize_image(part, (size, size))[None]})[0][0]
                mask = np.zeros(truth.shape, bool)
                mask[box] = resize_map(log_odds(probability)[0], part.shape[:2]) >= 0
                rows.append((name, truth.mean(), dice(mask, truth), mask.any(), surest(probability, SUREST)))
            report(f"{size} px{', border cropped' if cropped else ''}", rows)


def report(title: str, rows: list[tuple[str, float, float, bool, float]]) -> None:
    names, areas, scores, marked, sure = (np.array(column) for column in zip(*rows, strict=True))
    abroad, empty = np.isin(names, ("abroad", "twins")), np.isin(names, ("empty", "empty, teaching"))
    shown = ~empty & (areas > 0)
    cut = np.sort(sure[empty])[::-1][int(ALARMS * empty.sum())]
    both = empty | (abroad & (areas > 0))
    print(
        f"{title}: home {scores[names == 'home'].mean():.3f}, abroad {scores[abroad].mean():.3f}, under 2 % "
        f"{scores[abroad & shown & (areas < SMALL)].mean():.3f}, false alarms {marked[names == 'empty'].mean():.2f}, AUROC "
        f"{auroc(sure[both], ~empty[both]):.3f}, polyps taken for nothing {np.mean(sure[shown] <= cut):.3f}"
    )


if __name__ == "__main__":
    main()
