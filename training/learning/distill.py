"""A student of any width, depth, stride and norm learns the ensemble's probability and disagreement.

No mask is needed, only images, so unlabelled ones serve as well. Teacher and student see the same augmented images
("function matching": Beyer et al., CVPR 2022). A second head learns the levels' disagreement (DUDES, Landgraf et al.,
arXiv 2303.09843).
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from gazeseg_serve.errors import ConfigError, TrainingError
from gazeseg_serve.progress import log, track

from ..networks.architecture import ENCODER_MULTIPLE, Architecture
from ..networks.ensemble import Ensemble, activation
from ..networks.unet import UNet, seeded_unet
from .augment import Augmenter
from .checkpoint import STATE_FILE, load_checkpoint, save_checkpoint
from .config import Augment
from .data import batch_indices, unit_images
from .optimise import rate_at
from .student import Student

# Geometry alone: an ensemble is not asked of colours that it may not have been taught with. With brightness, contrast and
# noise a student of kvasir_imagenet's networks, which never saw such, lost 0.05 Dice (docs/performance.md).
AUGMENT = Augment(flips=True, rotate=45.0, scale=0.25, translate=0.1)
Network = TypeVar("Network", bound=nn.Module)
_CHECKPOINT_EVERY = 100
_LOG_EVERY = 100


def distil(
    ensemble: Ensemble,
    images: np.ndarray,
    settings: Student,
    start: UNet | None = None,
    keep: Path | None = None,
    device: str = "cpu",
) -> UNet:
    """Train a student on `images` `(N, H, W, C)` of the ensemble's input size and dtype; returned in eval mode on the CPU.

    start: a level to begin from, used where it fits. keep: a folder for the training state; a training that was
    interrupted there goes on, a finished one is taken as it is. The result depends on the arguments and the seed alone
    (on one machine). Raises TrainingError for a loss that is not finite, or a `keep` of other settings.
    """
    if not len(images):
        raise ConfigError("a student learns from images; pass --data DATASET or --unlabelled FOLDER")
    fabric = Fabric(accelerator=device, devices=1, precision=settings.precision)  # type: ignore[arg-type]
    student = _channels_last(fabric.to_device(make_student(ensemble, settings, start)))
    optimiser = torch.optim.AdamW(student.parameters(), settings.rate, weight_decay=settings.schedule.weight_decay)
    facts = asdict(settings) | {"images": len(images), "augment": asdict(AUGMENT)}
    first = 0
    if keep is not None and (keep / STATE_FILE).is_file():
        first, _ = load_checkpoint(keep, facts, student, optimiser)
        log.info("the student of %s goes on at step %d", keep, first)
    teacher, augment = Teacher(ensemble, fabric), Augmenter(AUGMENT)
    known = teacher.views(images, augment, settings) if settings.views and first < settings.steps else None
    for step in track(range(first, settings.steps), "distilling", settings.steps - first):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, settings.schedule)
        count = len(images) if known is None else len(known[0])
        chosen = batch_indices(step, count, settings.batch, settings.seed)
        if known is None:
            x = augmented(augment, images[chosen], settings.seed * 1_000_003 + step)
            target = teacher.answer(x)
        else:
            x, target = known[0][chosen], known[1][chosen]
        with fabric.autocast():
            logits = student(teacher.prepare(x)).float()
            loss = distillation_loss(logits, fabric.to_device(target).float(), ensemble.spec.outputs)
        if not math.isfinite(loss.item()):
            raise TrainingError(f"the student's loss is {loss.item()} at step {step}; lower its rate, or use precision 32-true")
        optimiser.zero_grad()
        fabric.backward(loss)
        optimiser.step()
        done = step + 1
        if done % _LOG_EVERY == 0 or done == settings.steps:
            log.info("distilling, step %d: loss %.4f", done, loss.item())
        if keep is not None and (done % _CHECKPOINT_EVERY == 0 or done == settings.steps):
            save_checkpoint(keep, done, facts, [], student, optimiser)
    ensemble.to("cpu")
    student.cpu()
    return student.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload] # unknown to torch's own stubs


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
    spread = activation(teacher).std(dim=0, correction=0).mean(dim=1, keepdim=True)
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
    wanted = Architecture(
        settings.width, settings.norm, ensemble.spec.channels, heads, settings.stride, settings.depth, settings.encoder
    )
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
