"""The verbs that make and measure an artifact: export, compare, bench, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from ..export.settings import STRATEGIES, AllowedLoss, ExportSettings
from .options import JsonFlag, app, finish

DEFAULT = ExportSettings()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("gazeseg-demo"),
    quick: Annotated[bool, typer.Option(help="Fewer phantoms and steps: does it run, not how well.")] = False,
    clip: Annotated[bool, typer.Option("--clip", help="A video of a phantom, too, with its true masks.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole path on synthetic images with simulated gaze.

    Example: gazeseg-serve demo --out gazeseg-demo
    """
    from ..export.demo import run_demo

    result = run_demo(out, quick, clip)
    told = []
    if (film := result.clip) is not None:
        told = [
            f"clip: Dice {film.dice:.3f} on the {film.shown} of {film.frames} frames that show the lesion",
            f"its masks flicker {film.flicker:.3f}, the true ones {film.flicker_true:.3f}; steadied {film.flicker_steady:.3f}, "
            f"at Dice {film.dice_steady:.3f}",
        ]
    finish(
        [
            *told,
            f"Dice on {result.test_images} held-out phantoms: {result.dice:.3f} (ensemble, through the exported graph)",
            f"open        {result.page}",
            f"serve it    gazeseg-serve serve {result.artifact}",
            f"and ask it  curl -F image=@{result.sample} http://127.0.0.1:3000/v1/segment --output mask.png",
        ],
        result.as_dict(),
        as_json,
    )


STUDENT_HELP = "distill: TOML of the student and its training, for instance configs/student_small.toml."
StudentFile = Annotated[Path | None, typer.Option("--student", help=STUDENT_HELP)]
StudentSet = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="distill: override the student.")]
StudentRun = Annotated[Path | None, typer.Option(help="distill: run folder of the student; default: OUT-student.")]
Unlabelled = Annotated[list[Path] | None, typer.Option(help="distill: one more folder of images; may be repeated.")]


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Artifact folder to write.")],
    strategy: Annotated[str, typer.Option(help="fuse (all levels, exact), average, best-level or distill.")] = DEFAULT.strategy,
    format: Annotated[str, typer.Option(help="onnx; or tensorrt: a plan for this machine's GPU beside it.")] = DEFAULT.format,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16-weights (half the file), int8, fp16 (GPUs) or bf16 (OpenVINO).")
    ] = DEFAULT.precision,
    data: Annotated[Path | None, typer.Option(help="Dataset folder whose validation images the gate uses.")] = None,
    max_dice_loss: Annotated[
        float, typer.Option(help="Gate of a lossy export: mean Dice it may lose, where there are masks.")
    ] = DEFAULT.allowed.max_dice_loss,
    min_agreement: Annotated[
        float | None, typer.Option(help="Gate of a lossy export: mean Dice with the ensemble; without masks 0.97.")
    ] = DEFAULT.allowed.min_agreement,
    alarm_rate: Annotated[
        float, typer.Option(help="Images without a target that may be marked all the same; negatives.txt proves it.")
    ] = DEFAULT.alarm_rate,
    student: StudentFile = None,
    settings: StudentSet = None,
    student_run: StudentRun = None,
    unlabelled: Unlabelled = None,
    pictures: Annotated[
        bool, typer.Option(help="Show images in the report; not for data that may not leave.")
    ] = DEFAULT.pictures,
    as_json: JsonFlag = False,
) -> None:
    """Make ONE graph of a run and prove it as good as the ensemble; exit 1 and write nothing where it is not.

    Example: gazeseg-serve export runs/small --data kvasir --strategy distill --student configs/student_small.toml
    --out artifacts/small
    """
    require("onnx", "export")
    from ..export.pipeline import export_run
    from ..training.learning.student import load_student

    artifact = export_run(
        run,
        out,
        data,
        ExportSettings(
            strategy,
            precision,
            format,
            allowed=AllowedLoss(max_dice_loss, min_agreement),
            alarm_rate=alarm_rate,
            pictures=pictures,
            student=load_student(student, settings or ()),
            student_run=student_run,
            unlabelled=tuple(unlabelled or ()),
        ),
    )
    parity = artifact.parity
    lines = [
        f"wrote {out}: {strategy}, {precision}, of {len(artifact.provenance['levels'])} levels, id {artifact.id[:12]}",
        f"gate held on {parity['images']} {parity['source']}: max |difference| {parity['max_difference']:.2g}, "
        f"flipped pixels {100 * parity['flipped']:.4f} %",
    ]
    if "agreement" in parity:
        lines.append(f"agreement with the ensemble: Dice {parity['agreement']:.4f}, worst 5 % {parity['agreement_worst']:.4f}")
    if "truth" in parity:
        lines.append(
            "on {images} true masks: ensemble {dice_ensemble:.4f}, graph {dice_graph:.4f}, loss {dice_loss:+.4f} "
            "[{dice_loss_low:+.4f}, {dice_loss_high:+.4f}]".format(**parity["truth"])
        )
    if artifact.presence is None:
        lines.append("no rate of false alarms is promised: no image without a target was at hand that taught nothing")
    else:
        lines.append(
            f"presence threshold {artifact.presence.threshold:.3g}: at most {100 * alarm_rate:g} % false alarms, and "
            f"{100 * artifact.presence.suppressed:.1f} % of the images with a target taken for empty"
        )
    finish([*lines, f"next: gazeseg-serve serve {out}"], {"artifact": str(out), "id": artifact.id, "parity": parity}, as_json)


@app.command()
def triton(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder.")],
    out: Annotated[Path, typer.Option(help="Model repository folder to write.")],
    cpus: Annotated[int, typer.Option(help="CPUs that Triton may compute on; 0: it has a GPU.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write a Triton model repository of an artifact: its graph and config.pbtxt.

    Example: gazeseg-serve triton artifacts/small --out repository
    """
    from ..export.triton import write_triton

    folder = write_triton(artifact, out, cpus=cpus)
    finish([f"wrote {folder}", f"next: tritonserver --model-repository {out}"], {"model": str(folder)}, as_json)


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path, typer.Option(help="Dataset folder whose validation images are used.")],
    out: Annotated[Path, typer.Option(help="Folder for compare.html and compare.json.")],
    strategies: Annotated[str, typer.Option(help="Which, by commas.")] = ",".join(STRATEGIES),
    student: StudentFile = None,
    settings: StudentSet = None,
    student_run: StudentRun = None,
    unlabelled: Unlabelled = None,
    threads: Annotated[int, typer.Option(help="CPU threads of each engine; 0: all that may be used.")] = 0,
    seconds: Annotated[float, typer.Option(help="How long each is timed.")] = 2.0,
    as_json: JsonFlag = False,
) -> None:
    """Measure every strategy and precision of a run in one go, and say which to take.

    Example: gazeseg-serve compare runs/small --data kvasir --out build/compare
    """
    require("onnx", "export")
    from ..export.compare import compare as run_comparison
    from ..training.learning.student import load_student

    wanted = ExportSettings(
        student=load_student(student, settings or ()), student_run=student_run, unlabelled=tuple(unlabelled or ())
    )
    names = [name.strip() for name in strategies.split(",")]
    result = run_comparison(run, data, out, wanted, strategies=names, threads=threads, seconds=seconds)
    finish(
        [*result.lines(), f"take {result.recommended}: {result.reason}", f"report: {out / 'compare.html'}"],
        result.as_dict(),
        as_json,
    )


@app.command()
def bench(
    artifact: Annotated[Path | None, typer.Argument(help="Artifact folder; default: the model of the package.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, tensorrt or openvino.")] = "auto",
    batches: Annotated[str, typer.Option(help="Batch sizes, by commas.")] = "1,8",
    threads: Annotated[str, typer.Option(help="CPU threads, by commas; default: one, and all that may be used.")] = "",
    seconds: Annotated[float, typer.Option(help="How long each setting is timed.")] = 2.0,
    as_json: JsonFlag = False,
) -> None:
    """Time an artifact by batch size and threads, beside what this machine can do; the last line of --json is JSON.

    Example: gazeseg-serve bench artifacts/small --batches 1,8 --threads 1,2 --json
    """
    require("onnx", "export")
    from ..default_model import default_artifact
    from ..export.bench import bench as run_bench
    from ..export.bench import parse_counts

    result = run_bench(artifact or default_artifact(device), device, parse_counts(batches), parse_counts(threads), seconds)
    finish(result.lines(), result.as_dict(), as_json)


@app.command()
def describe(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder.")],
    clinical: Annotated[Path, typer.Option(help="TOML file: [intended_use] and [codes.CLASS].")],
    out: Annotated[Path, typer.Option(help="Artifact folder to write: the same graph, described anew.")],
    as_json: JsonFlag = False,
) -> None:
    """Say what an artifact is for and what its classes are in SNOMED, as DICOM needs it.

    Example: gazeseg-serve describe artifacts/small --clinical configs/clinical/polyp.toml --out artifacts/clinical
    """
    from ..clinical import read_clinical
    from ..describe import describe_artifact

    made = describe_artifact(artifact, read_clinical(clinical), out)
    use = made.intended_use.text if made.intended_use else "any image"
    finish([f"wrote {out}: for {use}", f"next: gazeseg-serve serve {out}"], {"artifact": str(out), "id": made.id}, as_json)
