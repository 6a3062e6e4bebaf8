"""Training: read top to bottom."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from gazeseg_serve.contract import Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.folders import refuse_overlap
from gazeseg_serve.progress import log, track

from ..masks.levels import IGNORE
from ..networks.ensemble import Ensemble
from ..networks.lpp import propagated_logits
from .augment import Augmenter
from .checkpoint import load_checkpoint, save_checkpoint
from .config import Loss, TrainConfig
from .data import pack_annotated, pack_gaze, pack_images, pack_truth
from .distributed import average_gradients, open_fabric
from .losses import consistency_loss, dice_loss, segmentation_loss
from .negatives import draw, pack_negatives
from .optimise import average_weights, check_finite, make_optimiser, set_rate
from .rivals.choice import BOX_LOSSES
from .rivals.parts import rival_parts
from .run_folder import BOARD, begin_with, open_run, write_history, write_run
from .sharpen import gain_at, sharpened_targets, teacher_logits
from .validate import validate


def train(
    config: TrainConfig,
    dataset_folder: Path | str,
    masks: Path | str | None,
    out: Path | str,
    resume: bool = False,
    device: str = "auto",
    start: Path | str | None = None,
) -> Run:
    """Train the m peer networks on gaze pseudo-masks, or on what `data.supervision` names, and write the run folder `out`.

    masks: the folder that `gazeseg-serve masks` wrote, the dataset's where None; only gaze needs it. Weights are those of
    the last step: nothing is selected. start: a finished run of the same architecture whose weights the levels begin with,
    at whatever size it was trained.
    Raises DatasetError, TrainingError (a non-finite loss; a run that is already there, finished or not), ConfigError where
    `out` overlaps the data.
    """
    dataset_folder, out = Path(dataset_folder), Path(out)
    masks, start = Path(masks) if masks is not None else None, Path(start) if start is not None else None
    refuse_overlap(out, dataset_folder, masks, start)
    open_run(out, resume)
    fabric = open_fabric(config, device)
    mine = slice(fabric.global_rank, None, fabric.world_size)  # this process's share of a batch
    dataset = Dataset.open(dataset_folder)
    dataset.warn_of_unmatched()
    splits = dataset.splits()
    spec = config.input_spec
    taught = [stem for stem in splits["train"] if stem not in dataset.negatives]
    gaze_maps = masks or dataset_folder if config.data.supervision == "gaze" else None
    empty = None
    if config.data.negatives:
        empty = pack_negatives(dataset, splits["train"], spec, gaze_maps, config.levels.thresholds, config.seed)
    elif len(taught) < len(splits["train"]):
        log.info("%d negatives are left out; data.negatives takes them in", len(splits["train"]) - len(taught))
    if gaze_maps is not None:
        data = pack_gaze(
            dataset,
            taught,
            gaze_maps,
            spec,
            config.levels.thresholds,
            config.data.maps == "refined",
            bool(config.data.sharpen),
            config.levels.readers,
        )
    else:
        data = pack_annotated(dataset, taught, spec, len(config.levels.thresholds), config.data.supervision)
    truth = pack_truth(dataset, [stem for stem in splits["val"] if stem not in dataset.negatives], spec)
    nothing_there = pack_images(dataset, [stem for stem in splits["val"] if stem in dataset.negatives], spec)
    log.info("%d training images, %d validation images with a mask", len(data), len(truth))

    seeds = [config.seed if config.levels.shared_start else config.seed + i for i in range(len(config.levels.thresholds))]
    model = Ensemble(config.architecture, spec, seeds).to(fabric.device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start is not None:
        begin_with(model, start)
    optimiser = make_optimiser(config.optimiser, model)
    average = copy.deepcopy(model) if config.optimiser.average else model  # what is validated and kept
    state = nn.ModuleDict({"now": model, "average": average}) if config.optimiser.average else model
    first, history = load_checkpoint(out, config.as_dict(), state, optimiser) if resume else (0, [])
    unknown = config.data.supervision in ("point", "scribble")  # of what augmentation moves in from outside the image
    augment, steps = Augmenter(config.augment, IGNORE if unknown else 0), config.optimiser.steps
    board = SummaryWriter(str(out / BOARD), purge_step=first) if fabric.is_global_zero else None

    for step in track(range(first, steps), "training", steps - first):
        rate = set_rate(optimiser, step, config.optimiser)
        images, targets, negative, names = draw(data, empty, step, config.optimiser.batch, config.data.negatives, config.seed)
        images, targets = augment(images, targets, seed=config.seed * 1_000_003 + step)
        images, targets = fabric.to_device((images[mine], targets[mine].transpose(0, 1)))
        with fabric.autocast():
            if config.data.sharpen:
                targets = sharpened_targets(
                    targets.transpose(0, 1),
                    teacher_logits(average, images * 255),
                    gain_at(step, steps, config.data.sharpen),
                    config.levels.thresholds,
                )
                targets[:, negative[mine]] = 0  # what the teacher sees there is not there
            teacher = teacher_logits(average, images * 255) if config.loss.rival == "boxteacher" else None
            loss, parts = total_loss(model, images * 255, targets, config.loss, config.channels_last, step / steps, teacher)
        check_finite(loss.item(), step, f"images {names[mine]}")
        optimiser.zero_grad()
        fabric.backward(loss)
        parts = average_gradients(fabric, model, parts)
        optimiser.step()
        done = step + 1
        if config.optimiser.average:
            average_weights(average, model, min(config.optimiser.average, done / (done + 10)))

        if board is None:
            continue  # the first process writes what there is to write
        for name, value in parts.items():
            board.add_scalar(f"loss/{name}", value, done)
        if done % config.evaluate_every == 0 or done == steps:
            row = {
                "step": done,
                "rate": rate,
                **parts,
                **validate(average, truth, fabric, nothing_there),
            }
            history.append(row)
            for name, value in row.items():
                board.add_scalar(f"validation/{name}", value, done)
            write_history(out, history)
            log.info("step %d: %s", done, "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step"))
        if done % config.checkpoint_every == 0 or done == steps:
            save_checkpoint(out, done, config.as_dict(), history, state, optimiser)
    if board is not None:
        board.close()
        write_run(out, config, average, data, splits, history[-1] if history else {}, dataset, empty)
    fabric.barrier()
    return Run.load(out)


def total_loss(
    model: Ensemble,
    images: Tensor,
    targets: Tensor,
    settings: Loss,
    channels_last: bool,
    progress: float = 1.0,
    teacher: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """L = L_seg + lambda sum_i L_cons_i (METHOD: Zhong et al., eq. 5), or what `loss.rival` names, and its parts.

    images: float `(B, C, H, W)` in [0, 255]; targets: `(m, B, H, W)` as in `losses`. progress (share of the steps that are
    done) and teacher (its logits `(B, K, H, W)`) are for a rival.
    """
    x = model.normalise(images)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    features = [level.features(x) for level in model.networks]
    raw = [level.classifier(f).float() for level, f in zip(model.networks, features, strict=True)]
    logits = torch.stack([level.enlarge(r) for level, r in zip(model.networks, raw, strict=True)])
    parts: dict[str, tuple[float, Tensor]] = {}
    if settings.rival not in BOX_LOSSES:
        parts["segmentation"] = (1.0, segmentation_loss(logits, targets))
        if settings.dice:
            parts["dice_loss"] = (settings.dice, dice_loss(logits, targets))
    if settings.rival:
        parts |= rival_parts(settings.rival, logits, targets, features, images / 255, progress, teacher)
    if settings.consistency != "none":
        pupils = logits
        if settings.consistency == "prop":
            pupils = torch.stack(
                [
                    level.enlarge(
                        propagated_logits(
                            f, r, cast(Tensor, level.classifier.bias), settings.similarity, settings.window, settings.dilation
                        )
                    )
                    for level, f, r in zip(model.networks, features, raw, strict=True)
                ]
            )
        parts["consistency"] = (settings.weight, consistency_loss(logits, pupils))
    loss = torch.stack([weight * part for weight, part in parts.values()]).sum()
    return loss, {"loss": loss.item(), **{name: part.item() for name, (_, part) in parts.items()}}
