"""How good a run or an artifact is on a split with true masks: per image, per level and for the ensemble."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from gazeseg_serve.contract import InputSpec, Run, is_artifact, is_run, split_fingerprints
from gazeseg_serve.csv_text import records_csv
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ContractError, DatasetError
from gazeseg_serve.files import write_bytes, write_json, write_text
from gazeseg_serve.folders import Kind, refuse_foreign, refuse_overlap, schema_of, staged_folder
from gazeseg_serve.metrics import dice, iou
from gazeseg_serve.pictures import as_rgb, outline, thumbnail
from gazeseg_serve.pixels import resize_image
from gazeseg_serve.png import encode_png
from gazeseg_serve.predictor import Prediction, Predictor
from gazeseg_serve.progress import log, track

from ..networks.ensemble import activation, disagreement, load_ensemble
from ..plots import reliability_plot
from .calibration import Reliability
from .scores import Evaluation, Score
from .surface_distance import hd95

EVALUATION_SCHEMA = "gazeseg-evaluation/1"
RESULT_FILE = "evaluation.json"
FILES = (RESULT_FILE, "scores.csv", "summary.csv", "worst.png", "calibration.csv", "calibration.png")


def evaluate(model: Path | str, data: Path | str, split: str, out: Path | str | None = None, pictures: int = 12) -> Evaluation:
    """Score a run or an artifact on `split` of the dataset folder `data`.

    Each image is resized to the network's size, the scores back to the mask's own size, then cut at 0.5 (METHOD:
    Zhong et al., section 3). The split is the run's own where it recorded one, so that training images stay out of
    it. Images of the split that negatives.txt lists are not scored so; counted is in how many of them anything is marked.
    With `out`, writes the folder whole: `evaluation.json`, `scores.csv`, `summary.csv`, `worst.png`, `calibration.csv` and
    `calibration.png`. Raises DatasetError, ContractError, ConfigError where `out` overlaps the model or the data.
    """
    model, data, out = Path(model), Path(data), Path(out) if out is not None else None
    if out is not None:
        refuse_overlap(out, model, data)
        refuse_foreign(out, EVALUATION_FOLDER)
    dataset = Dataset.open(data)
    opened = _open(model)
    spec, predict = opened.spec, opened.predict
    stems, negatives = _stems(dataset, opened, split)
    scores, masks = [], {}
    reliability: dict[str, Reliability] = {}
    classes = len(spec.classes)
    for stem in track(stems, f"evaluating {split}", len(stems)):
        image = dataset.image(stem, spec.channels, spec.dtype, spec.window)
        truth = dataset.mask_of(stem, image, classes)
        for member, prediction in predict(image).items():
            mask = masks[stem] = prediction.mask()  # the last member's is kept, for the pictures
            scores.append(_score(stem, member, mask, truth, classes))
            table = Reliability.of(_foreground(prediction), truth > 0)
            reliability[member] = reliability[member] + table if member in reliability else table
    alarms = _alarms(dataset, negatives, spec, predict)
    evaluation = Evaluation(split, tuple(scores), reliability, spec.classes, len(negatives), alarms)
    if out is not None:
        with staged_folder(out, EVALUATION_FOLDER) as folder:
            write_json(folder / RESULT_FILE, {"schema": EVALUATION_SCHEMA, "split": split, "members": evaluation.summary()})
            write_text(folder / "scores.csv", records_csv(evaluation.table()))
            write_text(folder / "summary.csv", records_csv(evaluation.summary()))
            write_bytes(folder / "worst.png", encode_png(worst_cases(evaluation, dataset, masks, spec, pictures)))
            tables = {name: table.rows() for name, table in reliability.items()}
            write_text(
                folder / "calibration.csv",
                records_csv([{"member": name, **row} for name, rows in tables.items() for row in rows]),
            )
            shown = {name: rows for name, rows in tables.items() if "+" not in name}
            write_bytes(folder / "calibration.png", encode_png(reliability_plot(shown)))
    return evaluation


def _alarms(
    dataset: Dataset,
    negatives: tuple[str, ...],
    spec: InputSpec,
    predict: Callable[[np.ndarray], dict[str, Prediction]],
) -> dict[str, int]:
    """By member, in how many of the negatives it marks anything."""
    alarms: dict[str, int] = {}
    for stem in track(negatives, "evaluating the negatives", len(negatives)):
        for member, prediction in predict(dataset.image(stem, spec.channels, spec.dtype, spec.window)).items():
            alarms[member] = alarms.get(member, 0) + bool(prediction.mask().any())
    return alarms


def _made(folder: Path) -> set[str] | None:
    return set(FILES) if schema_of(folder / RESULT_FILE) == EVALUATION_SCHEMA else None


EVALUATION_FOLDER = Kind(f"a folder of evaluate ({RESULT_FILE})", _made)


def _foreground(prediction: Prediction) -> np.ndarray:
    """Probability that a pixel is of any class, float32 `(H, W)`."""
    probability = prediction.full_probability()
    return probability[0] if len(probability) == 1 else 1 - probability[0]


@dataclass(frozen=True)
class _Opened:
    """A run or an artifact: image -> Prediction by member name, and what it recorded of its splits."""

    spec: InputSpec
    predict: Callable[[np.ndarray], dict[str, Prediction]]
    splits: dict[str, tuple[str, ...]]
    fingerprints: dict[str, dict[str, object]]


def _open(model: Path) -> _Opened:
    if is_artifact(model):
        predictor = Predictor.open(model, device="cpu")
        assert predictor.artifact is not None, "opened from a folder"
        origin = predictor.artifact.provenance
        return _Opened(predictor.spec, lambda image: {"artifact": predictor.predict(image)}, {}, origin.get("splits", {}))
    if is_run(model):
        run = Run.load(model)
        return _Opened(run.input, run_members(model, subsets=True), run.splits, split_fingerprints(run.splits))
    raise ContractError(f"{model} is neither a run (run.json) nor an artifact (manifest.json)")


def run_members(folder: Path, subsets: bool = False) -> Callable[[np.ndarray], dict[str, Prediction]]:
    """image `(H, W, C)` as the InputSpec says -> Prediction of "level 1", "level 2", ... and of "ensemble", their mean logit.

    With `subsets`, also of the levels that are fewer than all: "levels 1+2", "levels 1+3", ...
    """
    run, ensemble = load_ensemble(folder)
    size = (run.input.size, run.input.size)

    @torch.no_grad()
    def predict(image: np.ndarray) -> dict[str, Prediction]:
        x = torch.from_numpy(resize_image(image, size)[None].copy()).permute(0, 3, 1, 2).float()
        logits = ensemble(ensemble.normalise(x))[:, 0]
        spread = disagreement(activation(logits)).numpy() if len(logits) > 1 else None
        members = {f"level {i + 1}": level for i, level in enumerate(logits)}
        if subsets:
            members |= {
                "levels " + "+".join(str(i + 1) for i in chosen): logits[list(chosen)].mean(dim=0)
                for count in range(2, len(logits))
                for chosen in itertools.combinations(range(len(logits)), count)
            }
        members["ensemble"] = logits.mean(dim=0)
        return {name: Prediction(activation(value).numpy(), spread, image.shape[:2]) for name, value in members.items()}

    return predict


def _stems(dataset: Dataset, opened: _Opened, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(scored against their masks, negatives) of the split."""
    own = dataset.splits()
    stems = opened.splits.get(split, own.get(split))
    if stems is None:
        raise DatasetError(
            f"{dataset.root} has no split {split!r}; known: {', '.join(own)}. Write its stems to "
            f"{dataset.root / 'splits' / (split + '.txt')}"
        )
    here = tuple(stem for stem in stems if stem in dataset.images)
    if not here:  # another dataset than the one trained on: its own split holds nothing the run saw
        here = stems = own.get(split, ())
    if split in opened.fingerprints and split_fingerprints({split: here})[split] != opened.fingerprints[split]:
        log.warning(
            "split %s of %s is not the one recorded in training: another dataset, or images were added", split, dataset.root
        )
    negatives = tuple(stem for stem in here if stem in dataset.negatives)
    usable = tuple(stem for stem in here if stem in dataset.masks and stem not in dataset.negatives)
    if not usable:
        raise DatasetError(f"no image of split {split} has a mask in {dataset.root / 'masks'}; there is no truth to score by")
    if len(usable) + len(negatives) < len(stems):
        log.warning(
            "%d of %d images of split %s have no image or mask here and are left out",
            len(stems) - len(usable) - len(negatives),
            len(stems),
            split,
        )
    dataset.warn_of_unmatched()
    _warn_of_training(dataset, opened, split, (*usable, *negatives), own)
    return usable, negatives


def _warn_of_training(
    dataset: Dataset, opened: _Opened, split: str, stems: tuple[str, ...], own: dict[str, tuple[str, ...]]
) -> None:
    """Say where images that are scored were trained on, or where that cannot be told.

    An artifact holds no names of its images, only each split's size and hash: they tell where the splits of the dataset
    folder are the ones it was trained with.
    """
    trained = opened.splits.get("train")
    recorded = opened.fingerprints.get("train")
    if trained is None and recorded is not None and split_fingerprints({"train": own["train"]})["train"] == recorded:
        trained = own["train"]
    if trained is not None:
        seen = set(trained) & set(stems)
        if seen:
            log.warning(
                "%d of the %d images of split %s were trained on: these scores say nothing of new images",
                len(seen),
                len(stems),
                split,
            )
    elif split in opened.fingerprints and split_fingerprints({split: stems})[split] == opened.fingerprints[split]:
        return  # the very split that was held out
    else:
        log.warning(
            "whether images of split %s were trained on cannot be told: %s has other splits than the artifact",
            split,
            dataset.root,
        )


def _score(stem: str, member: str, mask: np.ndarray, truth: np.ndarray, classes: int) -> Score:
    pairs = [(mask == c, truth == c) for c in range(1, classes + 1)]
    distances = [hd95(a, b) for a, b in pairs]
    defined = [d for d in distances if not np.isnan(d)]
    each = tuple(dice(a, b) for a, b in pairs)
    return Score(
        stem,
        member,
        float(np.mean(each)),
        float(np.mean([iou(a, b) for a, b in pairs])),
        float(np.mean(defined)) if defined else float("nan"),
        each,
    )


def worst_cases(
    evaluation: Evaluation, dataset: Dataset, masks: dict[str, np.ndarray], spec: InputSpec, count: int
) -> np.ndarray:
    """A sheet of the images with the lowest Dice of the last member, whose `masks` these are: truth in blue, prediction
    in yellow."""
    member = evaluation.members()[-1]
    worst = sorted((score for score in evaluation.scores if score.member == member), key=lambda s: s.dice)[:count]
    tiles = []
    for score in worst:
        image = as_rgb(dataset.image(score.image, spec.channels, window=spec.window))
        picture = outline(outline(image, dataset.mask(score.image, len(spec.classes)), (0, 180, 216)), masks[score.image])
        tile = np.full((222, 222, 3), 255, np.uint8)
        small = thumbnail(picture, 200)
        tile[: small.shape[0], : small.shape[1]] = small
        cv2.putText(tile, f"Dice {score.dice:.2f}", (2, 216), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(tile)
    columns = min(6, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)])
