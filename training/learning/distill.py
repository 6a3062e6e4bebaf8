"""A student of any width, depth, stride and norm learns the ensemble's probability and disagreement.

No mask is needed, only images, so unlabelled ones serve as well. Teacher and student see the same augmented images
("function matching": Beyer et al., CVPR 2022). A second head learns the levels' disagreement (DUDES, Landgraf et al.,
arXiv 2303.09843).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from gazeseg_serve.contract import RUN_FILE, Run
from gazeseg_serve.errors import ConfigError, TrainingError
from gazeseg_serve.files import sha256
from gazeseg_serve.progress import log, track

from ..networks.architecture import ENCODER_MULTIPLE
from ..networks.ensemble import Ensemble, activation, disagreement, load_ensemble
from ..networks.unet import UNet, seeded_unet
from .augment import Augmenter
from .checkpoint import STATE_FILE, load_checkpoint, save_checkpoint
from .data import batch_indices, unit_images
from .optimise import check_finite, make_optimiser, set_rate
from .run_folder import claim_run, versions, write_history, write_level
from .student import Student

Network = TypeVar("Network", bound=nn.Module)
_CHECKPOINT_EVERY = 100
_LOG_EVERY = 100


def distill(
    ensemble: Ensemble,
    images: np.ndarray,
    settings: Student,
    start: UNet | None = None,
    out: Path | None = None,
    origin: dict[str, Any] | None = None,
    device: str = "cpu",
    empty: np.ndarray | None = None,
) -> UNet:
    """Train a student on `images` `(N, H, W, C)` of the ensemble's input size and dtype; returned in eval mode on the CPU.

    start   a level to begin from, used where it fits
    out     a folder for the training state: a training that was interrupted there goes on
    origin  what else the state must have come from, compared when it is taken up
    empty   images of the same kind that show nothing, of which `settings.negatives` of each batch are

    The result depends on the arguments and the seed alone (on one machine). Raises ConfigError, and TrainingError for a loss
    that is not finite or an `out` of other settings.
    """
    if not len(images):
        raise ConfigError("a student learns from images; pass --data DATASET or --unlabelled FOLDER")
    fabric = Fabric(accelerator=device, devices=1, precision=settings.precision)  # type: ignore[arg-type]
    student = _channels_last(fabric.to_device(make_student(ensemble, settings, start)))
    optimiser = make_optimiser(settings.schedule, student)
    config = student_config(settings, images, origin, empty)
    first = 0
    history: list[dict[str, float]] = []
    if out is not None and (out / STATE_FILE).is_file():
        first, history = load_checkpoint(out, config, student, optimiser)
        log.info("the student of %s goes on at step %d", out, first)
    teacher, augment = Teacher(ensemble, fabric), Augmenter(settings.augment)
    known = teacher.views(images, augment, settings) if settings.views and first < settings.steps else None
    spared = 0 if empty is None else min(settings.batch - 1, round(settings.negatives * settings.batch))
    for step in track(range(first, settings.steps), "distilling", settings.steps - first):
        rate = set_rate(optimiser, step, settings.schedule)
        count = len(images) if known is None else len(known[0])
        chosen = batch_indices(step, count, settings.batch - spared, settings.seed)
        if known is None:
            x = augmented(augment, images[chosen], settings.seed * 1_000_003 + step)
            target = teacher.answer(x)
        else:
            x, target = known[0][chosen], known[1][chosen]
        if empty is not None and spared:
            nothing = empty[np.random.default_rng((settings.seed, step)).integers(len(empty), size=spared)]
            x = torch.cat([x, augmented(augment, nothing, settings.seed * 1_000_003 + settings.steps + step)])
            target = torch.cat([target, _background(target, spared, ensemble.spec.outputs)])
        with fabric.autocast():
            logits = student(teacher.prepare(x)).float()
            loss = distillation_loss(logits, fabric.to_device(target).float(), ensemble.spec.outputs)
        check_finite(loss.item(), step, f"images {chosen.tolist()} of the student's")
        optimiser.zero_grad()
        fabric.backward(loss)
        optimiser.step()
        done = step + 1
        if done % _LOG_EVERY == 0 or done == settings.steps:
            log.info("distilling, step %d: loss %.4f", done, loss.item())
            history.append({"step": done, "rate": rate, "loss": loss.item()})
        if out is not None and (done % _CHECKPOINT_EVERY == 0 or done == settings.steps):
            write_history(out, history)
            save_checkpoint(out, done, config, history, student, optimiser)
    ensemble.to("cpu")
    student.cpu()
    return student.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload] # unknown to torch's own stubs


def _background(like: Tensor, count: int, classes: int) -> Tensor:
    """Targets `(count, ...)` as `soft_targets` gives them, of images that show nothing, on which all levels agree."""
    target = like.new_zeros((count, *like.shape[1:]))
    if classes > 1:
        target[:, 0] = 1
    return target


def student_config(
    settings: Student, images: np.ndarray, origin: dict[str, Any] | None, empty: np.ndarray | None = None
) -> dict[str, Any]:
    """What a student's training depends on, as JSON values."""

    def seen(pixels: np.ndarray) -> dict[str, Any]:
        return {"count": len(pixels), "sha256": sha256(np.ascontiguousarray(pixels).tobytes())}

    negatives = {} if empty is None or not settings.negatives else {"empty": seen(empty)}
    facts = {"images": seen(images), "augment": asdict(settings.augment), "origin": origin or {}}
    return cast(dict[str, Any], json.loads(json.dumps(asdict(settings) | facts | negatives)))


def distill_run(
    run: Run,
    ensemble: Ensemble,
    images: np.ndarray,
    settings: Student,
    start: UNet,
    out: Path,
    empty: np.ndarray | None = None,
) -> tuple[UNet, Run]:
    """`distill` into the run folder `out`, which `export`, `evaluate` and `relabel` then read like any other.

    A training that was interrupted there goes on; a finished one of the same settings, images and teachers is taken as it
    is. Its last output is the disagreement, where the teachers are several. Raises what `distill` raises, and TrainingError
    where `out` holds another run.
    """
    origin = {"distilled_from": [level.sha256 for level in run.levels]}
    if (out / RUN_FILE).exists():
        found, student = load_ensemble(out)
        if found.config != student_config(settings, images, origin, empty):
            raise TrainingError(f"{out} holds another finished run (other settings, images or teachers); choose another folder")
        log.info("the student of %s is finished, and taken as it is", out)
        return student.networks[0], found
    claim_run(out)
    network = distill(ensemble, images, settings, start, out, origin, empty=empty)
    config = student_config(settings, images, origin, empty)
    made = Run(
        run.input,
        asdict(settings.architecture(run.input.channels, network.classifier.out_channels)),
        (write_level(out, 1, network, run.levels[0].threshold, {}),),
        config,
        settings.seed,
        run.splits,
        {"images": config["images"]["sha256"]},
        versions(),
    )
    made.save(out)
    return network, made


def augmented(augment: Augmenter, images: np.ndarray, seed: int) -> Tensor:
    """`(B, H, W, C)`, uint8 or float32 in [0, 1] -> another view of each, `(B, C, H, W)` of the same dtype, as `seed` says."""
    moved, _ = augment(unit_images(images), torch.zeros(len(images), 1, *images.shape[1:3]), seed=seed)
    return (moved * 255).round().byte() if images.dtype == np.uint8 else moved


class Teacher:
    """An ensemble that is asked for its opinion of views of images."""

    def __init__(self, ensemble: Ensemble, fabric: Fabric) -> None:
        self._fabric = fabric
        self._normalise = ensemble.normalise
        self._ensemble = _channels_last(fabric.to_device(ensemble)).eval()

    def prepare(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` as `augmented` gives it -> normalised float in the memory format that is fastest."""
        normalised: Tensor = self._normalise(self._fabric.to_device(x).float())
        return normalised.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def answer(self, x: Tensor) -> Tensor:
        """What a student shall say of images `(B, C, H, W)`: see `soft_targets`."""
        with self._fabric.autocast():
            logits = self._ensemble(self.prepare(x))
        return soft_targets(logits.float())

    def views(self, images: np.ndarray, augment: Augmenter, settings: Student) -> tuple[Tensor, Tensor]:
        """`settings.views` views of each image, `(V N, C, H, W)`, and the answers, float16 `(V N, K or K + 1, H, W)`."""
        starts = [(view, i) for view in range(settings.views) for i in range(0, len(images), settings.batch)]
        seen, said = [], []
        for view, i in track(starts, "asking the ensemble", len(starts)):
            part = images[i : i + settings.batch]
            seen.append(augmented(augment, part, settings.seed * 1_000_003 + view * len(images) + i))
            said.append(self.answer(seen[-1]).half().cpu())
        return torch.cat(seen), torch.cat(said)


def _channels_last(module: Network) -> Network:
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # unknown to torch's own stubs


def soft_targets(teacher: Tensor) -> Tensor:
    """The levels' logits `(m, B, K, H, W)` -> their ensemble's probabilities `(B, K, H, W)` and, for m > 1, one map more:
    twice the deviation of the levels' probabilities, which lies in [0, 1].

    The ensemble is the activation of the mean logit (Hinton et al., 2015, at temperature 1).
    """
    probability = activation(teacher.mean(dim=0))
    if len(teacher) == 1:
        return probability
    spread = disagreement(activation(teacher)).unsqueeze(1)
    return torch.cat([probability, (2 * spread).clamp(0, 1)], dim=1)


def distillation_loss(logits: Tensor, target: Tensor, classes: int) -> Tensor:
    """KL(ensemble || student), up to the ensemble's own entropy, plus the same for the disagreement; a mean over pixels.

    logits and target: `(B, K, H, W)`, or `(B, K + 1, H, W)` with the disagreement's last; target as `soft_targets` gives
    it, K = classes. The least that a binary cross-entropy can be is at the target's mean.
    """
    if classes == 1:
        loss = F.binary_cross_entropy_with_logits(logits[:, :1], target[:, :1])
    else:
        loss = F.cross_entropy(logits[:, :classes], target[:, :classes])
    if target.shape[1] > classes:
        loss = loss + F.binary_cross_entropy_with_logits(logits[:, classes], target[:, classes])
    return loss


def make_student(ensemble: Ensemble, settings: Student, start: UNet | None) -> UNet:
    """A seeded UNet with the disagreement's head where there is more than one level, or a copy of `start` with one added."""
    own, size = ensemble.architecture, ensemble.spec.size
    if settings.encoder != "unet" and size % ENCODER_MULTIPLE:
        raise ConfigError(
            f"a student on {settings.encoder} wants a size that {ENCODER_MULTIPLE} divides, and the run's is {size}; "
            "use encoder unet"
        )
    heads = ensemble.spec.outputs + (len(ensemble.levels) > 1)
    wanted = settings.architecture(ensemble.spec.channels, heads)
    student = seeded_unet(wanted, settings.seed)
    if start is None or not settings.warm_start or wanted != replace(own, outputs=heads):
        return student
    log.info("the student begins with the weights of a level")
    student.backbone.load_state_dict(start.backbone.state_dict())
    with torch.no_grad():
        classes = ensemble.spec.outputs
        student.classifier.weight[:classes].copy_(start.classifier.weight)
        assert student.classifier.bias is not None, "made with one"
        assert start.classifier.bias is not None, "made with one"
        student.classifier.bias[:classes].copy_(start.classifier.bias)
    return student
