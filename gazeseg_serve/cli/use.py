"""The verbs that use an artifact: serve, predict, inspect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from .options import JsonFlag, app, finish


@app.command()
def serve(
    artifact: Annotated[
        Path | None, typer.Argument(help="Artifact folder; default: GAZESEG_ARTIFACT, else the model of the package.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, tensorrt or openvino.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="One more model, as NAME=FOLDER; may be repeated.")] = None,
    api_key: Annotated[list[str] | None, typer.Option(help="A key that clients must send; may be repeated.")] = None,
    api_keys_file: Annotated[Path | None, typer.Option(help="A file of keys, one a line.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Requests under way at once.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one a GPU, or one for the CPU.")] = None,
) -> None:
    """Serve an artifact over HTTP until SIGTERM. Every setting is also an environment variable GAZESEG_NAME.

    Example: gazeseg-serve serve artifacts/polyps --port 3000
    """
    for module in ("pydantic_settings", "fastapi", "prometheus_client"):
        require(module, "serve")
    from ..default_model import default_artifact
    from ..service.launch import serve as run

    named = any(os.environ.get(f"GAZESEG_{name}") for name in ("ARTIFACT", "MODELS", "SETTINGS"))
    if artifact is None and not model and not named:
        artifact = default_artifact()
    run(
        {
            "artifact": artifact,
            "device": device,
            "models": model or None,
            "workers": workers,
            "api_keys": api_key or None,
            "api_keys_file": api_keys_file,
            "max_queue": max_queue,
        },
        host,
        port,
    )


@app.command()
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[ARTIFACT] IMAGES...",
            help="Artifact folder (default: the model of the package), then image files or folders; - is standard input.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the masks, one PNG an image; only older masks are replaced.")],
    threshold: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Default: the artifact's own.")] = None,
    presence: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Presence under which nothing is marked; default: the artifact's own, 0: never."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, tensorrt or openvino.")] = "auto",
    engine: Annotated[str, typer.Option(help="local; or ray: over a Ray cluster, going on where it stopped.")] = "local",
    actors: Annotated[int | None, typer.Option(help="ray: engines at once; default: one a CPU of the cluster.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Segment images: masks in their own geometry.

    Example: gazeseg-serve predict artifacts/small photos/ --out masks/
    """
    from ..bulk import predict_files
    from ..contract import is_artifact
    from ..default_model import default_artifact
    from ..names import printable

    artifact, images = (inputs[0], inputs[1:]) if is_artifact(inputs[0]) else (default_artifact(), inputs)
    if not images:
        raise typer.BadParameter(f"{artifact} is an artifact; name images for it to segment, too")
    if engine == "ray":
        require("ray.data", "ray")
        from ..bulk_ray import predict_on_ray

        summary = predict_on_ray(artifact, images, out, threshold, device, actors, presence)
    elif engine == "local":
        summary = predict_files(artifact, images, out, threshold, device, presence)
    else:
        raise typer.BadParameter(f"unknown engine {engine!r}; known: local, ray")
    for path, reason in [*summary.failures.items(), *summary.skipped.items()]:
        typer.echo(f"skipped {path}: {reason}", err=True)
    lines = [f"{path}: its mask is {name}" for path, name in summary.names.items()]
    lines.append(f"wrote {summary.written} mask(s) to {printable(out)}, {len(summary.failures)} image(s) failed")
    finish(lines, summary.as_dict(), as_json)
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
    from ..card import model_card

    lines, facts = model_card(model)
    finish(lines, facts, as_json)
