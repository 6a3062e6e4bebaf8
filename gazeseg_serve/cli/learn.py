"""The verbs that learn: masks, thresholds, train, sweep, relabel, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, require
from ..progress import is_main_process
from ..training.masks.settings import MaskSettings, Screen, parse_crf, parse_thresholds
from .options import JsonFlag, app, finish

MASKS = MaskSettings()


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="TOML, for instance configs/kvasir_small.toml.")],
    data: Annotated[Path, typer.Option(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    masks: Annotated[Path | None, typer.Option(help="Folder that `masks` wrote; the dataset folder where not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    start: Annotated[Path | None, typer.Option(help="Finished run of the same networks, whose weights are begun with.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override the config.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train the m peer networks on gaze pseudo-masks, or on what data.supervision names.

    Example: gazeseg-serve train configs/kvasir_small.toml --data kvasir --masks build/kvasir --out runs/small
    """
    from ..training.learning.config import load_config
    from ..training.learning.loop import train as run_training

    run = run_training(load_config(config, settings or ()), data, masks, out, resume, device, start)
    if not is_main_process():
        return
    lines = [f"wrote {out} ({len(run.levels)} levels)"]
    lines += [f"validation Dice of the ensemble at the network's size: {value:.4f}" for value in run.metrics.values()]
    finish([*lines, f"next: gazeseg-serve evaluate {out} --data {data} --split val"], {"run": str(out)} | run.metrics, as_json)


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="TOML that every run starts from.")],
    vary: Annotated[list[str], typer.Option(metavar="KEY=A,B", help="Values of one config key; may be repeated.")],
    data: Annotated[Path, typer.Option(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the run folders, sweep.md and sweep.csv.")],
    masks: Annotated[Path | None, typer.Option(help="Folder that `masks` wrote; the dataset folder where not given.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override the config.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train a grid of configs and tabulate their validation Dice, seeds averaged; interrupted, it goes on where it was.

    Example: gazeseg-serve sweep configs/kvasir_small.toml --vary loss.consistency=none,pure,prop --vary seed=0,1
        --data kvasir --masks build/kvasir --out runs/sweep
    """
    from ..training.learning.sweep import sweep as run_sweep

    found = run_sweep(config, vary, data, masks, out, settings or (), device)
    finish([*found.markdown().splitlines(), f"wrote {out / 'sweep.md'}"], {"table": found.table()}, as_json)
    if any(trial.error for trial in found.trials):
        raise typer.Exit(1)


@app.command()
def relabel(
    run: Annotated[Path, typer.Argument(help="Run folder, trained on these images.")],
    data: Annotated[Path, typer.Option(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Masks folder to write.")],
    masks: Annotated[Path | None, typer.Option(help="Folder that `masks` wrote; the dataset folder where not given.")] = None,
    gain: Annotated[float, typer.Option(help="How much the network's logit counts beside the map's log odds.")] = 1 / 3,
    as_json: JsonFlag = False,
) -> None:
    """Sharpen the gaze maps of the training images by what a trained run makes of them, for a second training.

    Example: gazeseg-serve relabel runs/first --data kvasir --masks build/kvasir --out build/kvasir_2
    """
    from ..training.learning.relabel import relabel as run_relabel

    means = run_relabel(run, data, masks or data, out, gain)
    lines = [
        f"wrote {out}",
        *(
            f"Dice of the pseudo-masks against the truth, {name.replace('_', ' ')}: {value:.4f}"
            for name, value in means.items()
        ),
    ]
    finish(
        [*lines, f"next: gazeseg-serve train CONFIG.toml --data {data} --masks {out} --out RUN"],
        {"masks": str(out), "dice": means},
        as_json,
    )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_ARTIFACT")],
    data: Annotated[Path, typer.Option(help="Dataset folder with masks/.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    out: Annotated[Path | None, typer.Option(help="Folder for tables, the worst cases and the calibration.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score a run or an artifact against true masks: Dice, IoU, HD95, and the calibration of the probability (ECE).

    Example: gazeseg-serve evaluate runs/small --data kvasir --split val --out build/small_val
    """
    from ..training.scoring.evaluate import evaluate as run_evaluation

    summary = run_evaluation(model, data, split, out).summary()
    lines = [f"{'member':<14} {'images':>6} {'Dice':>7} {'95 % interval':>17} {'IoU':>7} {'HD95 px':>8} {'ECE':>7}"]
    lines += [
        (
            "{member:<14} {images:>6} {dice:>7.4f} [{dice_low:.4f}, {dice_high:.4f}] {iou:>7.4f} {hd95:>8.1f} "
            "{calibration_error:>7.4f}"
        ).format_map(row)
        for row in summary
    ]
    lines += [
        f"Dice of {name.removeprefix('dice_of_')}, {row['member']}: {row[name]:.4f}"
        for row in summary[-1:]
        for name in row
        if name.startswith("dice_of_")
    ]
    lines += [
        "false alarms, {member}: {false_alarms:.1%} of {negatives} images without a target".format_map(row)
        for row in summary
        if "false_alarms" in row
    ]
    finish(lines, {"split": split, "members": summary}, as_json)


@app.command()
def masks(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder: images/, fixations.csv, optional masks/.")],
    out: Annotated[Path | None, typer.Option(help="Where the maps go; default: the dataset folder.")] = None,
    sigma: Annotated[float, typer.Option(help="Width of a fixation, in pixels of a 768-pixel canvas.")] = MASKS.sigma,
    thresholds: Annotated[str, typer.Option(help="One threshold a level, each in (0, 1).")] = ",".join(
        map(str, MASKS.thresholds)
    ),
    crf: Annotated[bool, typer.Option(help="Refine the heatmaps along the image's edges.")] = True,
    crf_set: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="sxy, srgb, compat or iterations.")] = None,
    sigma_degrees: Annotated[float | None, typer.Option(help="Width in degrees of visual angle; needs --screen.")] = None,
    screen: Annotated[str | None, typer.Option(help="The reader's screen in cm, WIDTHxHEIGHT@DISTANCE: 53x30@60.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the classes in label order, like lv,myo,rv.")] = None,
    gaze: Annotated[Path | None, typer.Option(help="Any tracker's file, a folder of them, or gaze.toml.")] = None,
    reader: Annotated[str | None, typer.Option(help="Of several readers, this one alone.")] = None,
    pool: Annotated[str, typer.Option(help="Of several readers: mean, union, or each into a folder of his own.")] = "mean",
    jobs: Annotated[int | None, typer.Option(help="Worker processes; default: one a core.")] = None,
    strict: Annotated[bool, typer.Option(help="Stop with an error where a row or an image cannot be used.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn fixations into heatmaps, refined maps and pseudo-masks, with a report of their quality.

    Example: gazeseg-serve masks data/polyps --thresholds 0.5,0.3
    """
    require("scipy", "train")
    from ..training.masks.by_reader import make_masks_by_reader
    from ..training.masks.make import make_masks

    settings = MaskSettings(
        sigma=sigma,
        thresholds=parse_thresholds(thresholds),
        crf=parse_crf(crf_set or ()) if crf else None,
        classes=tuple(name.strip() for name in classes.split(",")) if classes else None,
        degrees=sigma_degrees,
        screen=Screen.parse(screen) if screen else None,
    )
    if pool == "each" and reader is None:
        if out is None:
            raise ConfigError("--pool each makes a folder a reader; say with --out where")
        made = make_masks_by_reader(dataset, out, settings, jobs, strict, gaze)
        lines = [line for name, one in made.items() for line in (f"reader {name}:", *one.lines())]
        finish(lines, {"readers": {name: one.as_dict() for name, one in made.items()}}, as_json)
        return
    summary = make_masks(dataset, out, settings, jobs, strict, gaze, reader, pool)
    finish(summary.lines(), summary.as_dict(), as_json)


@app.command()
def thresholds(
    masks: Annotated[Path, typer.Argument(help="Folder that `masks` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for thresholds.html, its tables and plots.")],
    data: Annotated[Path | None, typer.Option(help="Dataset folder with masks/: adds Dice.")] = None,
    grid: Annotated[str, typer.Option(help="FROM:TO:STEP, or a list.")] = "0.1:0.85:0.05",
    as_json: JsonFlag = False,
) -> None:
    """Sweep the pseudo-masks' thresholds, and recommend two with the reason.

    Example: gazeseg-serve thresholds data/polyps --data data/polyps --out build/thresholds
    """
    require("scipy", "train")
    from ..training.masks.threshold_report import report_thresholds
    from ..training.masks.threshold_sweep import as_dict, parse_grid

    sweep, recommendation, lines = report_thresholds(masks, data, parse_grid(grid), out)
    finish([*lines, f"report: {out / 'thresholds.html'}"], as_dict(sweep, recommendation), as_json)
