"""What a training leaves in its run folder."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import save
from torch import nn

from gazeseg_serve.contract import RUN_FILE, Level, Run
from gazeseg_serve.csv_text import records_csv
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, ContractError, TrainingError
from gazeseg_serve.files import sha256, sha256_file, write_bytes, write_text
from gazeseg_serve.folders import claim_folder, clear_partial
from gazeseg_serve.progress import is_main_process

from ..networks.ensemble import Ensemble, load_ensemble
from .checkpoint import STATE_FILE
from .config import TrainConfig
from .data import Packed
from .negatives import Empty

HISTORY_FILE, BOARD = "metrics.csv", "tensorboard"


def open_run(out: Path, resume: bool) -> None:
    """Make sure that a training may begin, or with `resume` go on, in the folder `out`, and mark it as a run's.

    Raises TrainingError where there is a run already, or with `resume` none to go on with; ContractError where files of a
    run's names are there that no run made.
    """
    if resume and not (out / STATE_FILE).is_file():
        raise TrainingError(f"{out / STATE_FILE} does not exist; start without --resume")
    if not resume and (out / RUN_FILE).exists():
        raise TrainingError(f"{out} already holds a finished run; choose another --out, or delete it")
    if not resume and (out / STATE_FILE).exists():
        raise TrainingError(f"{out} holds an unfinished run; go on with it by --resume, or choose another --out")
    if is_main_process():
        claim_run(out)


def claim_run(out: Path) -> None:
    """Mark `out` as a run's folder, or raise ContractError where files of a run's names are there that no run made."""
    ours = (out / STATE_FILE).is_file()  # a checkpoint, which is read and refused where it is another training's
    claim_folder(out, "run", (RUN_FILE, HISTORY_FILE, "level_*.safetensors", STATE_FILE.partition("/")[0], BOARD), ours=ours)
    clear_partial(out, RUN_FILE, HISTORY_FILE, "level_*.safetensors")
    clear_partial((out / STATE_FILE).parent, Path(STATE_FILE).name)


def write_history(out: Path, history: list[dict[str, float]]) -> None:
    """The course of a training: one row an evaluation."""
    write_text(out / HISTORY_FILE, records_csv(history))


def begin_with(model: Ensemble, run: Path) -> None:
    """Give the levels of `model` the weights of a finished run's, in order. Raises ConfigError where they do not fit."""
    found, there = load_ensemble(run)
    own = (model.architecture, len(model.levels), model.spec.normalisation)
    if own != (there.architecture, len(there.levels), found.input.normalisation):
        raise ConfigError(
            f"{run} holds {len(there.levels)} level(s) of {there.architecture}, {found.input.normalisation}; the config asks "
            f"for {own[1]} of {own[0]}, {own[2]}: begin with a run of the same networks"
        )
    for network, known in zip(model.networks, there.networks, strict=True):
        network.load_state_dict(known.state_dict())


def write_level(out: Path, number: int, network: nn.Module, threshold: float, metrics: dict[str, float]) -> Level:
    """Write the weights of one level, counted from 1, and say what they are."""
    name = f"level_{number}.safetensors"
    weights = save({key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()})
    write_bytes(out / name, weights)
    return Level(threshold, name, sha256(weights), metrics)


def versions() -> dict[str, str]:
    """What a run was made with."""
    packages = {name: version(name) for name in ("gazeseg-serve", "torch", "monai", "numpy")}
    return packages | {"python": platform.python_version()}


def write_run(
    out: Path,
    config: TrainConfig,
    model: Ensemble,
    data: Packed,
    splits: dict[str, tuple[str, ...]],
    final: dict[str, float],
    dataset: Dataset,
    empty: Empty | None = None,
) -> Run:
    """Write the level weights, then `run.json` last: a run without it is not finished."""
    levels = []
    for i, (network, threshold) in enumerate(zip(model.levels, config.levels.thresholds, strict=True)):
        key = f"dice_level_{i + 1}"
        levels.append(write_level(out, i + 1, network, threshold, {"val_dice": final[key]} if key in final else {}))
    fingerprints = data.fingerprints() | ({} if empty is None else {"negatives": empty.fingerprint()})
    if config.data.supervision == "gaze" and dataset.fixations.is_file():
        fingerprints["fixations"] = sha256_file(dataset.fixations)
    run = Run(
        config.input_spec,
        asdict(config.architecture),
        tuple(levels),
        config.as_dict(),
        config.seed,
        splits,
        fingerprints,
        versions(),
        {"val_dice": final["dice_ensemble"]} if "dice_ensemble" in final else {},
    )
    try:
        run.save(out)
    except OSError as error:
        raise ContractError(f"{out / RUN_FILE}: {error}") from error
    return run
