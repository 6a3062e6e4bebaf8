"""The command line. A command reads its options, calls one public function and prints; nothing heavy loads for --help.

Exit status: 0 done, 1 the user's problem or a gate that did not hold (one line on stderr), 2 usage.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from . import __version__
from .errors import GazesegError, named_extra, require
from .progress import speaks

app = typer.Typer(
    name="gazeseg-serve",
    help="From the gaze of doctors to segmentation models, and to one served graph as good as the ensemble.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print a machine-readable last line.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _finish(lines: list[str], result: dict[str, Any], as_json: bool) -> None:
    for line in lines:
        typer.echo(line)
    if as_json:
        typer.echo(json.dumps(result))


@app.command()
def serve(
    artifact: Annotated[Path | None, typer.Argument(
        help="Artifact folder; default: GAZESEG_ARTIFACT, else the model of the package.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, tensorrt or openvino.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="One more model, as NAME=FOLDER; may be repeated.")] = None,
    api_key: Annotated[list[str] | None, typer.Option(help="A key that clients must send; may be repeated.")] = None,
    api_keys_file: Annotated[Path | None, typer.Option(help="A file of keys, one a line.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Requests in the house at once.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one a GPU, or one for the CPU.")] = None,
) -> None:
    """Serve an artifact over HTTP until SIGTERM. Every setting is also an environment variable GAZESEG_NAME.

    Example: gazeseg-serve serve artifacts/polyps --port 3000
    """
    for module in ("pydantic_settings", "fastapi", "prometheus_client"):
        require(module, "serve")
    from .default_model import default_artifact
    from .service.launch import serve as run

    if artifact is None and not (model or os.environ.get("GAZESEG_ARTIFACT") or os.environ.get("GAZESEG_MODELS")):
        artifact = default_artifact()
    run({"artifact": artifact, "device": device, "models": ",".join(model) if model else None, "workers": workers,
         "api_keys": ",".join(api_key) if api_key else None, "api_keys_file": api_keys_file, "max_queue": max_queue},
        host, port)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("gazeseg-demo"),
    quick: Annotated[bool, typer.Option(help="Fewer phantoms and steps: does it run, not how well.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole path on synthetic images with simulated gaze.

    Example: gazeseg-serve demo --out gazeseg-demo
    """
    from .export.demo import run_demo

    result = run_demo(out, quick)
    _finish([
        f"Dice on {result.test_images} held-out phantoms: {result.dice:.3f} (ensemble, through the exported graph)",
        f"open        {result.page}",
        f"serve it    gazeseg-serve serve {result.artifact}",
        f"and ask it  curl -F image=@{result.sample} http://127.0.0.1:3000/v1/segment --output mask.png",
    ], result.as_dict(), as_json)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="TOML, for instance configs/kvasir_small.toml.")],
    data: Annotated[Path, typer.Option(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    masks: Annotated[Path | None, typer.Option(help="Folder that `masks` wrote; the dataset folder where not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override the config.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train the m peer networks on gaze pseudo-masks, or on what data.supervision names.

    Example: gazeseg-serve train configs/kvasir_small.toml --data kvasir --masks build/kvasir --out runs/small
    """
    from .training.config import load_config
    from .training.loop import train as run_training

    run = run_training(load_config(config, settings or ()), data, masks, out, resume, device)
    if not speaks():
        return
    lines = [f"wrote {out} ({len(run.levels)} levels)"]
    lines += [f"validation Dice of the ensemble at the network's size: {value:.4f}" for value in run.metrics.values()]
    _finish([*lines, f"next: gazeseg-serve evaluate {out} --data {data} --split val"], {"run": str(out)} | run.metrics, as_json)


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
    from .training.sweep import sweep as run_sweep

    found = run_sweep(config, vary, data, masks, out, settings or (), device)
    _finish([*found.markdown().splitlines(), f"wrote {out / 'sweep.md'}"], {"table": found.table()}, as_json)
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
    from .training.relabel import relabel as run_relabel

    means = run_relabel(run, data, masks or data, out, gain)
    lines = [f"wrote {out}", *(f"Dice of the pseudo-masks against the truth, {name.replace('_', ' ')}: {value:.4f}"
                               for name, value in means.items())]
    _finish([*lines, f"next: gazeseg-serve train CONFIG.toml --data {data} --masks {out} --out RUN"],
            {"masks": str(out), "dice": means}, as_json)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_ARTIFACT")],
    data: Annotated[Path, typer.Option(help="Dataset folder with masks/.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    out: Annotated[Path | None, typer.Option(help="Folder for tables, the worst cases and the calibration.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score a run or an artifact against true masks: Dice, IoU, HD95, and the calibration of the probability (ECE).

    Example: gazeseg-serve evaluate runs/small --data kvasir --split val --out runs/small/val
    """
    from .training.evaluate import evaluate as run_evaluation

    summary = run_evaluation(model, data, split, out).summary()
    lines = [f"{'member':<14} {'images':>6} {'Dice':>7} {'95 % interval':>17} {'IoU':>7} {'HD95 px':>8} {'ECE':>7}"]
    lines += [("{member:<14} {images:>6} {dice:>7.4f} [{dice_low:.4f}, {dice_high:.4f}] {iou:>7.4f} {hd95:>8.1f} "
               "{calibration_error:>7.4f}").format_map(row) for row in summary]
    lines += [f"Dice of {name.removeprefix('dice_of_')}, {row['member']}: {row[name]:.4f}"
              for row in summary[-1:] for name in row if name.startswith("dice_of_")]
    _finish(lines, {"split": split, "members": summary}, as_json)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Artifact folder to write.")],
    strategy: Annotated[str, typer.Option(help="fuse (all levels, exact), average, best-level or distill.")] = "fuse",
    format: Annotated[str, typer.Option(help="onnx; tensorrt (a plan beside it); or triton, of an artifact as RUN.")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, int8, fp16 (GPUs) or bf16 (OpenVINO).")] = "fp32",
    half_weights: Annotated[bool, typer.Option("--half-weights", help="fp32, bf16: store the weights as fp16.")] = False,
    data: Annotated[Path | None, typer.Option(help="Dataset folder whose validation images the gate uses.")] = None,
    images: Annotated[int | None, typer.Option(help="Images of the gate at most; default: 32, or 200 if lossy.")] = None,
    max_difference: Annotated[float, typer.Option(help="Gate: largest absolute difference of a probability.")] = 1e-3,
    flipped: Annotated[float, typer.Option(help="Gate: largest share of mask pixels that may change.")] = 1e-4,
    max_dice_loss: Annotated[float, typer.Option(help="Lossy gate: of the mean Dice, where there are masks.")] = 0.005,
    min_agreement: Annotated[float | None, typer.Option(help="Lossy gate: Dice with the ensemble; 0.97 without masks.")] = None,
    unlabelled: Annotated[list[Path] | None, typer.Option(help="distill: one more folder of images; repeatable.")] = None,
    width: Annotated[int, typer.Option(help="distill: the student's width.")] = 16,
    stride: Annotated[int, typer.Option(help="distill: 2 or 4 make blocks of pixels channels: less work.")] = 1,
    depth: Annotated[int, typer.Option(help="distill: stages of the student, 2 to 5.")] = 5,
    encoder: Annotated[str, typer.Option(help="distill: the student's way down, unet or efficientnet-lite0.")] = "unet",
    norm: Annotated[str, typer.Option(help="distill: batch (folds away), group or instance.")] = "batch",
    steps: Annotated[int, typer.Option(help="distill: training steps, of 8 images each.")] = 2000,
    rate: Annotated[float, typer.Option(help="distill: learning rate.")] = 2e-3,
    views: Annotated[int, typer.Option(help="distill: views an image for which the ensemble is asked once; 0: all new.")] = 0,
    warm_start: Annotated[bool, typer.Option(help="distill: begin with a level's weights where they fit.")] = True,
    seed: Annotated[int, typer.Option(help="distill: seed.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="distill: folder of the student's state, to go on or export again.")] = None,
    pictures: Annotated[bool, typer.Option(help="Show images in the report; not for data that may not leave.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Make ONE graph of a run and prove it as good as the ensemble; exit 1 and write nothing where it is not.

    Example: gazeseg-serve export runs/small --data kvasir --strategy distill --out artifacts/small
    """
    require("onnx", "export")
    if format == "triton":
        from .export.triton import write_triton

        folder = write_triton(run, out)
        return _finish([f"wrote {folder}", f"next: tritonserver --model-repository {out}"], {"model": str(folder)}, as_json)
    from .export.distill import Student
    from .export.fidelity import Limits
    from .export.parity import Tolerance
    from .export.pipeline import export_run

    student = Student(width, norm, steps, rate=rate, seed=seed, warm_start=warm_start, stride=stride, depth=depth, views=views,
                      encoder=encoder)
    artifact = export_run(
        run, out, strategy, data, "val", images, Tolerance(max_difference, flipped), precision=precision,
        limits=Limits(max_dice_loss, min_agreement), student=student, unlabelled=unlabelled or (), keep=keep,
        pictures=pictures, format=format, half_weights=half_weights)
    parity = artifact.parity
    lines = [f"wrote {out}: {strategy}, {precision}, of {len(artifact.provenance['levels'])} levels, id {artifact.id[:12]}",
             f"gate held on {parity['images']} {parity['source']}: max |difference| {parity['max_difference']:.2g}, "
             f"flipped pixels {100 * parity['flipped']:.4f} %"]
    if "agreement" in parity:
        lines.append(f"agreement with the ensemble: Dice {parity['agreement']:.4f}, worst 5 % {parity['agreement_worst']:.4f}")
    if "truth" in parity:
        lines.append("on {images} true masks: ensemble {dice_ensemble:.4f}, graph {dice_graph:.4f}, loss {dice_loss:+.4f} "
                     "[{dice_loss_low:+.4f}, {dice_loss_high:+.4f}]".format(**parity["truth"]))
    _finish([*lines, f"next: gazeseg-serve serve {out}"], {"artifact": str(out), "id": artifact.id, "parity": parity}, as_json)


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path, typer.Option(help="Dataset folder whose validation images are used.")],
    out: Annotated[Path, typer.Option(help="Folder for compare.html and compare.json.")],
    strategies: Annotated[str, typer.Option(help="Which, by commas.")] = "fuse,average,best-level,distill",
    keep: Annotated[Path | None, typer.Option(help="distill: folder of the student's state, taken up where it is.")] = None,
    unlabelled: Annotated[list[Path] | None, typer.Option(help="distill: one more folder of images; repeatable.")] = None,
    width: Annotated[int, typer.Option(help="distill: the student's width.")] = 16,
    stride: Annotated[int, typer.Option(help="distill: the student's stride.")] = 1,
    encoder: Annotated[str, typer.Option(help="distill: the student's way down, unet or efficientnet-lite0.")] = "unet",
    steps: Annotated[int, typer.Option(help="distill: training steps, of 8 images each.")] = 2000,
    rate: Annotated[float, typer.Option(help="distill: learning rate.")] = 2e-3,
    threads: Annotated[int, typer.Option(help="CPU threads of each engine; 0: all cores.")] = 0,
    seconds: Annotated[float, typer.Option(help="How long each is timed.")] = 2.0,
    as_json: JsonFlag = False,
) -> None:
    """Measure every strategy and precision of a run in one go, and say which to take.

    Example: gazeseg-serve compare runs/small --data kvasir --out build/compare
    """
    require("onnx", "export")
    from .export.compare import compare as run_comparison
    from .export.distill import Student

    names = [name.strip() for name in strategies.split(",")]
    student = Student(width, steps=steps, rate=rate, stride=stride, encoder=encoder)
    result = run_comparison(run, data, out, student, unlabelled or (), keep, strategies=names, threads=threads, seconds=seconds)
    _finish([*result.lines(), f"take {result.recommended}: {result.reason}", f"report: {out / 'compare.html'}"],
            result.as_dict(), as_json)


@app.command()
def bench(
    artifact: Annotated[Path | None, typer.Argument(help="Artifact folder; default: the model of the package.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, tensorrt or openvino.")] = "auto",
    batches: Annotated[str, typer.Option(help="Batch sizes, by commas.")] = "1,8",
    threads: Annotated[str, typer.Option(help="CPU threads, by commas; default: one, and all cores.")] = "",
    seconds: Annotated[float, typer.Option(help="How long each setting is timed.")] = 2.0,
    as_json: JsonFlag = False,
) -> None:
    """Time an artifact by batch size and threads, beside what this machine can do; the last line of --json is JSON.

    Example: gazeseg-serve bench artifacts/small --batches 1,8 --threads 1,2 --json
    """
    require("onnx", "export")
    from .default_model import default_artifact
    from .export.bench import bench as run_bench
    from .export.bench import parse_counts

    result = run_bench(artifact or default_artifact(), device, parse_counts(batches), parse_counts(threads), seconds)
    _finish(result.lines(), result.as_dict(), as_json)


@app.command()
def predict(
    inputs: Annotated[list[Path], typer.Argument(
        metavar="[ARTIFACT] IMAGES...",
        help="Artifact folder (default: the model of the package), then image files or folders; - is standard input.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks, one PNG an image.")],
    threshold: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Default: the artifact's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, tensorrt or openvino.")] = "auto",
    engine: Annotated[str, typer.Option(help="local; or ray: over a Ray cluster, going on where it stopped.")] = "local",
    actors: Annotated[int | None, typer.Option(help="ray: engines at once; default: one a CPU of the cluster.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Segment images: masks in their own geometry.

    Example: gazeseg-serve predict artifacts/small photos/ --out masks/
    """
    from .bulk import predict_files
    from .contract import is_artifact
    from .default_model import default_artifact

    artifact, images = (inputs[0], inputs[1:]) if is_artifact(inputs[0]) else (default_artifact(), inputs)
    if not images:
        raise typer.BadParameter(f"{artifact} is an artifact; name images for it to segment, too")
    if engine == "ray":
        require("ray.data", "ray")
        from .bulk_ray import predict_on_ray

        summary = predict_on_ray(artifact, images, out, threshold, device, actors)
    elif engine == "local":
        summary = predict_files(artifact, images, out, threshold, device)
    else:
        raise typer.BadParameter(f"unknown engine {engine!r}; known: local, ray")
    for path, reason in summary.failures.items():
        typer.echo(f"skipped {path}: {reason}", err=True)
    _finish([f"wrote {summary.written} mask(s) to {out}, {len(summary.failures)} image(s) failed"], summary.as_dict(), as_json)
    if summary.failures:
        raise typer.Exit(1)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(metavar="ARTIFACT_OR_RUN")],
    as_json: JsonFlag = False,
) -> None:
    """Show what a run or an artifact is, where it came from and how good it is.

    Example: gazeseg-serve inspect artifacts/small
    """
    from .card import model_card

    lines, facts = model_card(model)
    _finish(lines, facts, as_json)


@app.command()
def masks(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder: images/, fixations.csv, optional masks/.")],
    out: Annotated[Path | None, typer.Option(help="Where the maps go; default: the dataset folder.")] = None,
    sigma: Annotated[float, typer.Option(help="Width of a fixation, in pixels of a 768-pixel canvas.")] = 70.0,
    thresholds: Annotated[str, typer.Option(help="One threshold a level, each in (0, 1).")] = "0.5,0.3",
    crf: Annotated[bool, typer.Option(help="Refine the heatmaps along the image's edges.")] = True,
    crf_set: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="sxy, srgb, compat or iterations.")] = None,
    sigma_degrees: Annotated[float | None, typer.Option(help="Width in degrees of visual angle; needs --screen.")] = None,
    screen: Annotated[str | None, typer.Option(help="The reader's screen in cm, WIDTHxHEIGHT@DISTANCE: 53x30@60.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the classes in label order, like lv,myo,rv.")] = None,
    gaze: Annotated[Path | None, typer.Option(help="Fixation table, folder of tables, or gaze.toml of raw samples.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; default: one a core.")] = None,
    strict: Annotated[bool, typer.Option(help="Stop with an error where a row or an image cannot be used.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn fixations into heatmaps, refined maps and pseudo-masks, with a report of their quality.

    Example: gazeseg-serve masks data/polyps --thresholds 0.5,0.3
    """
    require("scipy", "train")
    from .training.crf import parse_crf
    from .training.pseudo_masks import MaskSettings, make_masks, parse_thresholds
    from .training.visual_angle import Screen

    settings = MaskSettings(
        sigma=sigma, thresholds=parse_thresholds(thresholds), crf=parse_crf(crf_set or ()) if crf else None,
        classes=tuple(name.strip() for name in classes.split(",")) if classes else None,
        degrees=sigma_degrees, screen=Screen.parse(screen) if screen else None)
    summary = make_masks(dataset, out, settings, jobs, strict, gaze)
    _finish(summary.lines(), summary.as_dict(), as_json)


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
    from .training.threshold_report import write_sweep
    from .training.threshold_sweep import as_dict, parse_grid, recommend, sweep_thresholds

    sweep = sweep_thresholds(masks, data, parse_grid(grid))
    recommendation = recommend(sweep)
    lines = write_sweep(out, sweep, recommendation)
    _finish([*lines, f"report: {out / 'thresholds.html'}"], as_dict(sweep, recommendation), as_json)


def main() -> NoReturn:
    """Entry point: errors raised on purpose become one line on stderr and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gazeseg_serve").setLevel(logging.INFO)
    try:
        app()
    except GazesegError as error:
        typer.echo(f"gazeseg-serve: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        missing = named_extra(error)
        if missing is None:
            raise
        typer.echo(f"gazeseg-serve: {missing}", err=True)
        sys.exit(1)
    except OSError as error:  # a folder that cannot be written, a full disk: the system's words name the path
        typer.echo(f"gazeseg-serve: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("gazeseg-serve: interrupted", err=True)
        sys.exit(130)
    sys.exit(0)
