"""Training: read top to bottom."""

from __future__ import annotations

import bisect
import copy
import csv
import io
import math
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from ..contract import RUN_FILE, Level, Run
from ..dataset import Dataset
from ..errors import ContractError, TrainingError
from ..files import sha256, sha256_file, write_bytes, write_text
from ..metrics import dice
from ..progress import log, track
from .augment import Augmenter
from .checkpoint import load_checkpoint, save_checkpoint
from .config import Loss, Optimiser, TrainConfig
from .data import Packed, batch_indices, pack_annotated, pack_gaze, pack_truth, to_tensors
from .ensemble import Ensemble, activation
from .losses import consistency_loss, cross_loss, dice_loss, disputed_weights, segmentation_loss
from .lpp import propagated_logits
from .masks_folder import IGNORE
from .processes import average_gradients, open_fabric
from .sharpen import gain_at, sharpened_targets, teacher_logits

DEAD_SHARE = 0.001  # a level that calls less than this, or all but this, foreground over the validation split is dead


def train(config: TrainConfig, dataset_folder: Path, masks: Path | None, out: Path, resume: bool = False,
          device: str = "auto") -> Run:
    """Train the m peer networks on gaze pseudo-masks, or on what `data.supervision` names, and write the run folder `out`.

    masks: the folder that `gazeseg-serve masks` wrote, the dataset's where None; only gaze needs it. Weights are those of
    the last step: nothing is selected.
    Raises DatasetError, TrainingError (a non-finite loss; a run that is already there).
    """
    if (out / RUN_FILE).exists() and not resume:
        raise TrainingError(f"{out} already holds a finished run; choose another --out, or delete it")
    fabric = open_fabric(config, device)
    mine = slice(fabric.global_rank, None, fabric.world_size)  # this process's share of a batch
    dataset = Dataset.open(dataset_folder)
    splits = dataset.splits()
    spec = config.input_spec
    if config.data.supervision == "gaze":
        data = pack_gaze(dataset, splits["train"], masks or dataset_folder, spec, config.levels.thresholds,
                         config.data.maps == "refined", config.data.ramp, config.data.band, bool(config.data.sharpen))
    else:
        data = pack_annotated(dataset, splits["train"], spec, len(config.levels.thresholds), config.data.supervision)
    truth = pack_truth(dataset, splits["val"], spec)
    log.info("%d training images, %d validation images with a mask", len(data), len(truth))

    seeds = [config.seed if config.levels.shared_start else config.seed + i for i in range(len(config.levels.thresholds))]
    model = Ensemble(config.architecture, spec, seeds).to(fabric.device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = make_optimiser(config.optimiser, model)
    average = copy.deepcopy(model) if config.optimiser.average else model  # what is validated and kept
    state = nn.ModuleDict({"now": model, "average": average}) if config.optimiser.average else model
    first, history = load_checkpoint(out, config.as_dict(), state, optimiser) if resume else (0, [])
    unknown = config.data.supervision in ("point", "scribble")  # of what augmentation moves in from outside the image
    augment, steps = Augmenter(config.augment, IGNORE if unknown else 0), config.optimiser.steps
    board = SummaryWriter(str(out / "tensorboard"), purge_step=first) if fabric.is_global_zero else None

    for step in track(range(first, steps), "training", steps - first):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, config.optimiser)
        indices = batch_indices(step, len(data), config.optimiser.batch, config.seed)
        images, targets = augment(*to_tensors(data, indices), seed=config.seed * 1_000_003 + step)
        images, targets = fabric.to_device((images[mine], targets[mine].transpose(0, 1)))
        with fabric.autocast():
            if config.data.sharpen:
                targets = sharpened_targets(targets.transpose(0, 1), teacher_logits(average, images * 255),
                                            gain_at(step, steps, config.data.sharpen), config.levels.thresholds)
            loss, parts = total_loss(model, images * 255, targets, config.loss, config.channels_last)
        if not math.isfinite(loss.item()):
            raise TrainingError(f"the loss is {loss.item()} at step {step}, images {[data.stems[i] for i in indices[mine]]}; "
                                "lower optimiser.rate, or use precision 32-true")
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
            row = {"step": done, "rate": rate_at(step, config.optimiser), **parts, **validate(average, truth, fabric)}
            history.append(row)
            for name, value in row.items():
                board.add_scalar(f"validation/{name}", value, done)
            write_history(out, history)
            log.info("step %d: %s", done, "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step"))
        if done % config.checkpoint_every == 0 or done == steps:
            save_checkpoint(out, done, config.as_dict(), history, state, optimiser)
    if board is not None:
        board.close()
        write_run(out, config, average, data, splits, history[-1] if history else {}, dataset)
    fabric.barrier()
    return Run.load(out)


def total_loss(model: Ensemble, images: Tensor, targets: Tensor, settings: Loss, channels_last: bool
               ) -> tuple[Tensor, dict[str, float]]:
    """L = L_seg + lambda sum_i L_cons_i (METHOD: Zhong et al., eq. 5), and its parts.

    images: float `(B, C, H, W)` in [0, 255]; targets: `(m, B, H, W)` as in `losses`.
    """
    x = model.normalise(images)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    features = [level.features(x) for level in model.networks]
    raw = [level.classifier(f).float() for level, f in zip(model.networks, features, strict=True)]
    logits = torch.stack([level.enlarge(r) for level, r in zip(model.networks, raw, strict=True)])
    weights = disputed_weights(targets, settings.disputed) if settings.disputed < 1 else None
    parts = {"segmentation": (1.0, segmentation_loss(logits, targets, weights))}
    if settings.dice:
        parts["dice_loss"] = (settings.dice, dice_loss(logits, targets))
    if settings.cross:
        parts["cross"] = (settings.cross, cross_loss(logits))
    if settings.consistency != "none":
        pupils = logits
        if settings.consistency == "prop":
            pupils = torch.stack([
                level.enlarge(propagated_logits(f, r, cast(Tensor, level.classifier.bias), settings.similarity,
                                                settings.window, settings.dilation))
                for level, f, r in zip(model.networks, features, raw, strict=True)])
        parts["consistency"] = (settings.weight, consistency_loss(logits, pupils))
    loss = torch.stack([weight * part for weight, part in parts.values()]).sum()
    return loss, {"loss": loss.item(), **{name: part.item() for name, (_, part) in parts.items()}}


def make_optimiser(settings: Optimiser, model: Ensemble) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return torch.optim.SGD(model.parameters(), settings.rate, settings.momentum, nesterov=True,
                               weight_decay=settings.weight_decay)
    return torch.optim.AdamW(model.parameters(), settings.rate, weight_decay=settings.weight_decay)


@torch.no_grad()
def average_weights(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, parameters and norm statistics alike; counters are copied."""
    for kept, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(now, 1 - decay)
        else:
            kept.copy_(now)


def rate_at(step: int, settings: Optimiser) -> float:
    """Linear rise over the warm-up, then a half cosine from the cycle's rate to `final_rate`."""
    begins = (0, *settings.restarts)
    cycle = bisect.bisect_right(begins, step) - 1
    end = (*settings.restarts, settings.steps)[cycle]
    rate, length, at = settings.rate / 2**cycle, end - begins[cycle], step - begins[cycle]
    rising = settings.warmup * length
    if at < rising:
        return rate * (at + 1) / (rising + 1)
    progress = (at - rising) / max(1.0, length - rising)
    return settings.final_rate + (rate - settings.final_rate) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def validate(model: Ensemble, truth: Packed, fabric: Fabric, batch: int = 16) -> dict[str, float]:
    """Mean Dice over validation images at the network's size, per level and for the ensemble; calls out dead levels."""
    if not len(truth):
        return {}
    model.eval()
    masks = []
    for start in range(0, len(truth), batch):
        images, _ = to_tensors(truth, np.arange(start, min(start + batch, len(truth))))
        with fabric.autocast():
            logits = model(model.normalise(fabric.to_device(images) * 255)).float()
        both = torch.cat([logits, logits.mean(dim=0, keepdim=True)])
        masks.append(labels_of(both).cpu().numpy())
    model.train()
    predicted = np.concatenate(masks, axis=1)  # (m + 1, N, H, W)
    names = [f"dice_level_{i + 1}" for i in range(len(predicted) - 1)] + ["dice_ensemble"]
    classes = range(1, len(model.spec.classes) + 1)
    row = {}
    for name, labels in zip(names, predicted, strict=True):
        pairs = zip(labels, truth.targets[:, 0], strict=True)
        row[name] = float(np.mean([dice(a == c, t == c) for a, t in pairs for c in classes]))
        share = np.count_nonzero(labels) / labels.size
        if not DEAD_SHARE < share < 1 - DEAD_SHARE:
            log.warning("%s is dead: it calls %.2f %% of the pixels foreground", name.removeprefix("dice_"), 100 * share)
    return row


def labels_of(logits: Tensor) -> Tensor:
    """Labels uint8 of logits whose class axis is third from the end: p > 0.5 for K = 1, else the likeliest class."""
    probability = activation(logits)
    if probability.shape[-3] == 1:
        return (probability[..., 0, :, :] > 0.5).to(torch.uint8)
    return probability.argmax(dim=-3).to(torch.uint8)


def write_history(out: Path, history: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "metrics.csv", text.getvalue())


def write_run(out: Path, config: TrainConfig, model: Ensemble, data: Packed, splits: dict[str, tuple[str, ...]],
              final: dict[str, float], dataset: Dataset) -> Run:
    """Write the level weights, then `run.json` last: a run without it is not finished."""
    levels = []
    for i, (network, threshold) in enumerate(zip(model.levels, config.levels.thresholds, strict=True)):
        name = f"level_{i + 1}.safetensors"
        weights = save({key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()})
        write_bytes(out / name, weights)
        key = f"dice_level_{i + 1}"
        levels.append(Level(threshold, name, sha256(weights), {"val_dice": final[key]} if key in final else {}))
    fingerprints = data.fingerprints()
    if config.data.supervision == "gaze" and dataset.fixations.is_file():
        fingerprints["fixations"] = sha256_file(dataset.fixations)
    versions = {name: version(name) for name in ("gazeseg-serve", "torch", "monai", "numpy")}
    versions["python"] = platform.python_version()
    run = Run(config.input_spec, asdict(config.architecture), tuple(levels), config.as_dict(), config.seed, splits,
              fingerprints, versions, {"val_dice": final["dice_ensemble"]} if "dice_ensemble" in final else {})
    try:
        run.save(out)
    except OSError as error:
        raise ContractError(f"{out / RUN_FILE}: {error}") from error
    return run
