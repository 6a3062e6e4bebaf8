"""The figures of the model card, of a run folder or an artifact folder: at home, abroad, by size, and where there is nothing.

    python benchmarks/model_card.py MODEL $DATA [--json FILE]

`$DATA` holds `kvasir_seg` (the 100 validation images of the convention: sorted by name, seed 0), `polypgen_val` (other
hospitals) and `polypgen` (of its 100 frames without a polyp the 50 that `empty_frames` draws for scoring). Nothing of these
teaches anything here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from gazeseg_serve.contract import is_artifact
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.metrics import bootstrap_interval, dice
from gazeseg_serve.predictor import Prediction, Predictor

SMALL = 0.02  # of the image: a polyp under this is called small
BAD = 0.5  # a Dice under this is a bad mask
SCORING = 50  # of PolypGen's empty frames: those that never teach


@dataclass(frozen=True)
class Row:
    """One image: the set it is of, the true share of foreground, the Dice (1 where both are empty) and what was said.

    marked: share of the image marked; sure: mean probability inside the mask; right: share of the mask that is right;
    doubt: mean disagreement inside the mask. NaN where the mask is empty. presence: NaN where the model gives none.
    suppressed: the mask is empty because the presence is under the model's threshold, and would not be otherwise.
    """

    image: str
    set: str
    area: float
    dice: float
    marked: float
    sure: float
    right: float
    doubt: float
    presence: float
    suppressed: bool


def empty_frames(polypgen: Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(teaching, scoring): PolypGen's frames without a polyp, sorted by name, half and half by seed 0."""
    empty = [stem for stem in polypgen.images if stem in polypgen.masks and not polypgen.mask(stem).any()]
    order = np.random.default_rng(0).permutation(len(empty))
    cut = len(empty) - SCORING
    return tuple(sorted(empty[i] for i in order[:cut])), tuple(sorted(empty[i] for i in order[cut:]))


def images(data: Path) -> Iterator[tuple[str, Dataset, str]]:
    """(set, dataset, stem) of everything that is scored."""
    home = Dataset.open(data / "kvasir_seg")
    yield from (("home", home, stem) for stem in home.splits()["val"])
    abroad = Dataset.open(data / "polypgen_val")
    listed = data / "polypgen_val" / "near_duplicates.txt"
    twins = set(listed.read_text(encoding="utf-8").split("\n")) if listed.is_file() else set()
    yield from (("twins" if stem in twins else "abroad", abroad, stem) for stem in abroad.images)
    polypgen = Dataset.open(data / "polypgen")
    yield from (("empty", polypgen, stem) for stem in empty_frames(polypgen)[1])


def opened(model: Path) -> Callable[[np.ndarray], Prediction]:
    if is_artifact(model):
        predictor = Predictor.open(model, device="cpu")
        return predictor.predict
    from gazeseg_serve.training.scoring.evaluate import run_members

    members = run_members(model)
    return lambda image: members(image)["ensemble"]


def measure(name: str, stem: str, prediction: Prediction, truth: np.ndarray) -> Row:
    mask = prediction.mask()
    free = mask if prediction.presence is None else replace(prediction, presence_threshold=0.0).mask()
    inside, spread = mask > 0, prediction.full_disagreement()
    some = bool(inside.any())
    return Row(
        stem,
        name,
        float(truth.mean()),
        dice(inside, truth),
        float(inside.mean()),
        float(prediction.full_probability()[0][inside].mean()) if some else np.nan,
        float(truth[inside].mean()) if some else np.nan,
        float(spread[inside].mean()) if some and spread is not None else np.nan,
        np.nan if prediction.presence is None else prediction.presence,
        bool(free.any()) and not some,
    )


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive one scores higher than a negative one, ties counted half (Mann and Whitney, 1947)."""
    ranks, count = rankdata(scores), int(positive.sum())
    others = len(positive) - count
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others)) if count and others else float("nan")


def figures(rows: list[Row]) -> dict[str, Any]:
    def of(*names: str) -> list[Row]:
        return [row for row in rows if row.set in names]

    def mean(part: list[Row]) -> dict[str, Any]:
        values = np.array([row.dice for row in part])
        return {"dice": float(values.mean()), "interval": bootstrap_interval(values), "images": len(part)} if part else {}

    found: dict[str, Any] = {
        "home": mean(of("home")),
        "abroad": mean(of("abroad", "twins")),
        "abroad, no twins": mean(of("abroad")),
    }
    polyps = [row for row in of("abroad", "twins") if row.area > 0]
    edges = np.quantile([row.area for row in polyps], [0.25, 0.5, 0.75])
    for i in range(4):
        found[f"abroad, quartile {i + 1} of size"] = mean([row for row in polyps if np.searchsorted(edges, row.area) == i])
    found["abroad, under 2 %"] = mean([row for row in polyps if row.area < SMALL])
    empty, shown = of("empty"), [row for row in of("home", "abroad", "twins") if row.area > 0]
    found["false alarms"] = float(np.mean([row.marked > 0 for row in empty]))
    found["polyps suppressed"] = float(np.mean([row.suppressed for row in shown]))
    found["polyps without any mark"] = float(np.mean([row.marked == 0 for row in shown]))
    if not np.isnan([row.presence for row in rows]).any():
        both = empty + [row for row in shown if row.set != "home"]
        found["presence AUROC"] = auroc(np.array([row.presence for row in both]), np.array([row.area > 0 for row in both]))
    for name, part in (("home", of("home")), ("abroad", of("abroad", "twins"))):
        marked = [row for row in part if row.marked > 0]
        weights = np.array([row.marked for row in marked])
        found[f"{name}, mean probability of the marked"] = float(np.average([row.sure for row in marked], weights=weights))
        found[f"{name}, share of the marked that is right"] = float(np.average([row.right for row in marked], weights=weights))
        doubted = [row for row in marked if not np.isnan(row.doubt)]
        if doubted:
            doubt, scores = np.array([row.doubt for row in doubted]), np.array([row.dice for row in doubted])
            found[f"{name}, Spearman of disagreement and Dice"] = float(spearmanr(doubt, scores).statistic)
            found[f"{name}, AUROC of the disagreement for Dice < {BAD}"] = auroc(doubt, scores < BAD)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    predict = opened(wanted.model)
    rows = [
        measure(name, stem, predict(dataset.image(stem)), dataset.mask(stem)) for name, dataset, stem in images(wanted.data)
    ]
    found = figures(rows)
    for name, value in found.items():
        if isinstance(value, dict):
            low, high = value["interval"]
            print(f"| {name} | {value['dice']:.4f} [{low:.3f}, {high:.3f}], {value['images']} images |")
        else:
            print(f"| {name} | {value:.4f} |")
    if wanted.json:
        wanted.json.write_text(json.dumps({"figures": found, "rows": [vars(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
