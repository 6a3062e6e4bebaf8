"""The gate: is the exported graph as good as the PyTorch ensemble it replaces? Names, axes, shapes, then values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from gazeseg_serve.contract import InputSpec, graph_inputs, graph_outputs
from gazeseg_serve.engines.base import Engine, Outputs
from gazeseg_serve.errors import GateError
from gazeseg_serve.metrics import labels_of
from gazeseg_serve.training.networks.ensemble import Ensemble, activation, disagreement

from .onnx_graph import declared
from .settings import Tolerance

BATCH_SIZES = (1, 2, 5)


@dataclass(frozen=True)
class Parity:
    """What was measured. differences are of probabilities; `flipped` is the share of mask pixels that changed."""

    images: int
    batch_sizes: tuple[int, ...]
    max_difference: float
    max_disagreement_difference: float
    flipped: float
    flipped_by_image: tuple[float, ...]

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def eager_ensemble(ensemble: Ensemble) -> Callable[[np.ndarray], Outputs]:
    """The reference: the networks as trained, in PyTorch, unfused and unfolded. `(B, H, W, C)` -> Outputs."""

    @torch.no_grad()
    def run(batch: np.ndarray) -> Outputs:
        logits = ensemble(ensemble.normalise(torch.from_numpy(batch).permute(0, 3, 1, 2).float()))
        spread = disagreement(activation(logits)).numpy() if len(logits) > 1 else None
        return Outputs(activation(logits.mean(dim=0)).numpy(), spread)

    return run


def check_declaration(model: Path, spec: InputSpec, disagreement: bool) -> None:
    """The file's own names, dtypes and axes against the contract's. Raises GateError naming both."""
    graph = onnx.load(model).graph
    for kind, found, wanted in (
        ("inputs", declared(list(graph.input)), graph_inputs(spec)),
        ("outputs", declared(list(graph.output)), graph_outputs(spec, disagreement)),
    ):
        if found != wanted:
            raise GateError(f"the graph's {kind} are {_say(found)}, the contract wants {_say(wanted)}")


def measure(
    engine: Engine, reference: Callable[[np.ndarray], Outputs], images: np.ndarray, batch_sizes: Sequence[int] = BATCH_SIZES
) -> Parity:
    """Run `images` `(N, H, W, C)` through both at every batch size, the last batch as short as it comes.

    Raises GateError for a shape that differs, a missing output or a value that is not finite.
    """
    wanted = [reference(images[i : i + 1]) for i in range(len(images))]
    worst = worst_spread = 0.0
    flips = np.zeros(len(images))
    for size in batch_sizes:
        for start in range(0, len(images), size):
            found = engine.run(images[start : start + size])
            for i in range(len(found.probability)):
                _check_shapes(found, i, wanted[start + i], size)
                p, q = found.probability[i], wanted[start + i].probability[0]
                worst = max(worst, float(np.abs(p - q).max()))
                flips[start + i] = max(flips[start + i], float(np.mean(labels_of(p) != labels_of(q))))
                spread = wanted[start + i].disagreement
                if found.disagreement is not None and spread is not None:  # one without the other was refused above
                    worst_spread = max(worst_spread, float(np.abs(found.disagreement[i] - spread[0]).max()))
    return Parity(len(images), tuple(batch_sizes), worst, worst_spread, float(flips.mean()), tuple(flips.tolist()))


def hold(parity: Parity, tolerance: Tolerance) -> None:
    """Raise GateError with every figure that is over its limit."""
    limits = (
        ("max |difference| of the probability", parity.max_difference, tolerance.max_difference),
        ("max |difference| of the disagreement", parity.max_disagreement_difference, tolerance.max_difference),
        ("share of flipped mask pixels", parity.flipped, tolerance.flipped),
    )
    # `not <=` rather than `>`: a NaN must not pass.
    broken = [f"{name} is {value:.3g}, the limit {limit:.3g}" for name, value, limit in limits if not value <= limit]
    if broken:
        raise GateError("the graph is not as good as the ensemble: " + "; ".join(broken) + ". Nothing was written")


def _check_shapes(found: Outputs, i: int, wanted: Outputs, size: int) -> None:
    pairs = [("probability", found.probability, wanted.probability), ("disagreement", found.disagreement, wanted.disagreement)]
    for name, a, b in pairs:
        if (a is None) != (b is None):
            raise GateError(f"output {name} is {'missing' if a is None else 'unexpected'}")
        if a is None or b is None:
            continue
        if a.shape[1:] != b.shape[1:]:
            raise GateError(f"output {name} at batch size {size} has shape {a.shape}, expected {(len(a), *b.shape[1:])}")
        if not np.isfinite(a[i]).all():
            raise GateError(f"output {name} at batch size {size} holds a value that is not finite")


def _say(tensors: Sequence[object]) -> str:
    return "; ".join(f"{t.name} {t.dtype} {t.axes}" for t in tensors)  # type: ignore[attr-defined]
