"""A grid of configurations, one run folder each, and one table of what they reach on the validation split."""

from __future__ import annotations

import itertools
import json
import re
import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gazeseg_serve.contract import RUN_FILE, Run
from gazeseg_serve.csv_text import records_csv
from gazeseg_serve.errors import ConfigError, GazesegError, TrainingError
from gazeseg_serve.files import write_text
from gazeseg_serve.folders import claim_folder, refuse_overlap
from gazeseg_serve.progress import log

from .checkpoint import STATE_FILE
from .config import TrainConfig, load_config, parse_config
from .loop import train

TABLE_FILE, PAGE_FILE = "sweep.csv", "sweep.md"
SEED = "seed"  # the one key that is averaged over where it is varied


@dataclass(frozen=True)
class Trial:
    """One point of the grid: the varied values as text by key, its run folder's name, and what became of it.

    dice    validation Dice at the network's size, by "level 1", "level 2", ... and "ensemble"; empty where it failed
    error   why it failed, or ""
    """

    values: dict[str, str]
    name: str
    dice: dict[str, float]
    error: str = ""


@dataclass(frozen=True)
class Sweep:
    trials: tuple[Trial, ...]

    def table(self) -> list[dict[str, str]]:
        """One row a point of the grid, seeds averaged: mean, and +- sample standard deviation over the seeds that ended."""
        groups: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(tuple((k, v) for k, v in trial.values.items() if k != SEED), []).append(trial)
        members = sorted({name for trial in self.trials for name in trial.dice}, key=lambda n: (n == "ensemble", n))
        rows = []
        for point, trials in groups.items():
            ended = [trial for trial in trials if not trial.error]
            cells = {name: _mean([trial.dice[name] for trial in ended if name in trial.dice]) for name in members}
            rows.append(dict(point) | cells | {"runs": str(len(ended)), "failed": str(len(trials) - len(ended))})
        return rows

    def markdown(self) -> str:
        rows = self.table()
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
        text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
        failed = [f"- {trial.name}: {trial.error}\n" for trial in self.trials if trial.error]
        return text + ("\nFailed:\n\n" + "".join(failed) if failed else "")


def sweep(
    config: Path,
    vary: Sequence[str],
    dataset: Path,
    masks: Path | None,
    out: Path,
    settings: Sequence[str] = (),
    device: str = "auto",
) -> Sweep:
    """Train every point of the grid that `vary` spans over `config`, each in its own run folder of `out`.

    vary        "section.key=a,b,c", one each; values in TOML, bare words as text; `seed` is averaged over in the table
    A point that was finished is not trained again, one that was interrupted goes on, one that fails is recorded and the
    next is tried. `sweep.csv` (a row a run) and `sweep.md` (seeds averaged) are written anew after each. Raises
    ConfigError before anything is trained where no point is a config, TrainingError where a folder holds another run.
    """
    refuse_overlap(out, config, dataset, masks)
    grid = dict(map(parse_vary, vary))
    if len(grid) < len(vary):
        raise ConfigError("a key is varied twice; give all its values in one --vary")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    configs, wrong = {}, {}
    for point in points:
        try:
            wanted = load_config(config, [*settings, *(f"{k}={v}" for k, v in point.items())])
        except ConfigError as error:
            wrong[_name(point)] = error
            continue
        configs[_name(point)] = (point, wanted)
    if wrong and not configs:
        raise next(iter(wrong.values()))
    if len(configs) + len(wrong) < len(points):
        raise ConfigError("two points of the grid are the same; give each value once")
    for name, (_, wanted) in configs.items():
        _check_same(out / name, wanted)
    claim_folder(out, "sweep", (TABLE_FILE, PAGE_FILE))
    trials = [Trial(point, _name(point), {}, str(wrong[_name(point)])) for point in points if _name(point) in wrong]
    for trial in trials:
        log.warning("%s cannot be trained: %s", trial.name, trial.error)
    for number, (name, (point, wanted)) in enumerate(configs.items(), start=1):
        log.info("run %d of %d: %s", number, len(configs), name)
        trials.append(_try(point, name, wanted, dataset, masks, out / name, device))
        _write(out, Sweep(tuple(trials)))
    return Sweep(tuple(trials))


def parse_vary(text: str) -> tuple[str, tuple[str, ...]]:
    """ "loss.weight=1,3" -> ("loss.weight", ("1", "3")); lists may be values: levels.thresholds=[0.5],[0.5,0.3]."""
    key, separator, values = text.partition("=")
    if not separator or not values.strip():
        raise ConfigError(f"--vary {text!r}: write KEY=A,B, for instance loss.consistency=none,pure,prop")
    try:
        found = [json.dumps(value) for value in tomllib.loads(f"value = [{values}]")["value"]]
    except tomllib.TOMLDecodeError:
        found = [value.strip() for value in values.split(",")]
    return key.strip(), tuple(found)


def _name(point: dict[str, str]) -> str:
    """A folder name: loss.consistency=prop+seed=0."""
    return "+".join(f"{key}=" + re.sub(r"[^\w.-]+", "-", value.strip('[]"')) for key, value in point.items())


def _check_same(run: Path, config: TrainConfig) -> None:
    if (run / RUN_FILE).is_file() and parse_config(Run.load(run).config) != config:
        raise TrainingError(f"{run} holds a run of another config; choose another --out, or delete it")


def _try(
    point: dict[str, str], name: str, config: TrainConfig, dataset: Path, masks: Path | None, out: Path, device: str
) -> Trial:
    try:
        run = (
            Run.load(out)
            if (out / RUN_FILE).is_file()
            else train(config, dataset, masks, out, (out / STATE_FILE).is_file(), device)
        )
    except (GazesegError, RuntimeError, ValueError, MemoryError) as error:  # what torch and numpy raise, too
        log.warning("%s failed: %s", name, error)
        return Trial(point, name, {}, str(error).partition("\n")[0])
    dice = {f"level {i}": level.metrics["val_dice"] for i, level in enumerate(run.levels, start=1) if level.metrics}
    return Trial(point, name, dice | ({"ensemble": run.metrics["val_dice"]} if run.metrics else {}))


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def _write(out: Path, found: Sweep) -> None:
    rows = [
        trial.values | {name: f"{value:.6f}" for name, value in trial.dice.items()} | {"run": trial.name, "error": trial.error}
        for trial in found.trials
    ]
    write_text(out / TABLE_FILE, records_csv(rows))
    write_text(out / PAGE_FILE, found.markdown())
