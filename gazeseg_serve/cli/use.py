"""The verbs that use an artifact: serve, predict, inspect."""

from __future__ import annotations

import os
from contextlib import closing
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
        artifact = default_artifact(device or os.environ.get("GAZESEG_DEVICE", "auto"))
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
    force: Annotated[bool, typer.Option("--force", help="Segment DICOM that the artifact is not for, too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Segment images: masks in their own geometry.

    Example: gazeseg-serve predict artifacts/small photos/ --out masks/
    """
    from ..bulk import predict_files
    from ..contract import is_artifact
    from ..default_model import default_artifact
    from ..names import printable

    artifact, images = (inputs[0], inputs[1:]) if is_artifact(inputs[0]) else (default_artifact(device), inputs)
    if not images:
        raise typer.BadParameter(f"{artifact} is an artifact; name images for it to segment, too")
    if engine == "ray":
        require("ray.data", "ray")
        from ..bulk_ray import predict_on_ray

        summary = predict_on_ray(artifact, images, out, threshold, device, actors, presence, force)
    elif engine == "local":
        summary = predict_files(artifact, images, out, threshold, device, presence, force)
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


@app.command()
def node(
    artifact: Annotated[
        Path | None,
        typer.Argument(metavar="[ARTIFACT|status|retry]", help="Artifact folder; or what to do with a spool: see below."),
    ] = None,
    aet: Annotated[str, typer.Option(help="AE title of the node.")] = "GAZESEG",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 11112,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    to: Annotated[str | None, typer.Option(help="Where results go: a DICOMweb URL, or AET@HOST:PORT.")] = None,
    sender: Annotated[list[str] | None, typer.Option("--from", help="An AE title that may store; may be repeated.")] = None,
    modality: Annotated[str | None, typer.Option(help="Modalities to segment, like ES,US; default: the model's.")] = None,
    spool: Annotated[Path, typer.Option(help="Folder for what arrived and what is to be sent.")] = Path("gazeseg-spool"),
    service: Annotated[str | None, typer.Option(help="URL of a running service that makes the masks.")] = None,
    service_key_file: Annotated[Path | None, typer.Option(help="File with the service's API key.")] = None,
    to_user: Annotated[str, typer.Option(help="User for the DICOMweb URL.")] = "",
    to_password_file: Annotated[Path | None, typer.Option(help="File with that user's password.")] = None,
    to_token_file: Annotated[Path | None, typer.Option(help="File with a bearer token instead.")] = None,
    to_ca: Annotated[Path | None, typer.Option(help="Certificates to trust for the DICOMweb URL.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Listen with TLS: the node's certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Senders must have a certificate that this one signed.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Default: the artifact's own.")] = None,
    reports: Annotated[bool, typer.Option("--reports", help="A TID 1500 report beside every segmentation.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Segment against the intended use, too, and record it.")] = False,
    quiet: Annotated[float, typer.Option(help="Seconds without an image after which a series is complete.")] = 5.0,
    spool_gib: Annotated[float, typer.Option(help="The spool's limit; beyond it senders keep their images.")] = 10.0,
    keep_images: Annotated[bool, typer.Option("--keep-images", help="Keep images after their results are stored.")] = False,
    attempts: Annotated[int, typer.Option(help="To send a result, before it is a dead letter.")] = 200,
    late_hours: Annotated[float, typer.Option(help="How long headers and masks are kept for late slices.")] = 24.0,
    monitor_port: Annotated[int | None, typer.Option(help="Port for /metrics, /livez and /readyz.")] = None,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, tensorrt or openvino.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Receive DICOM images, segment them and send the segmentations back, until SIGTERM.

    `node status` shows what waits in --spool, what failed and why; `node retry` gives dead letters another try.

    Example: gazeseg-serve node --to http://localhost:8042/dicom-web --from ORTHANC --modality ES
    """
    for module in ("pynetdicom", "dicomweb_client", "prometheus_client"):
        require(module, "node")
    from ..node.settings import MIB, NodeSettings, Tls, parse_target, read_secret
    from ..node.spool import Spool
    from ..node.status import retry, status, status_lines

    if artifact == Path("status"):
        with closing(Spool(spool, writing=False)) as held:
            facts = status(held)
        return finish(status_lines(facts), facts, as_json)
    if artifact == Path("retry"):
        with closing(Spool(spool)) as held:
            count = retry(held)
        return finish([f"{count} dead letter(s) wait again; start the node"], {"retried": count}, as_json)
    if to is None:
        raise typer.BadParameter("name where the results go: --to http://HOST/dicom-web, or --to AET@HOST:PORT")
    if (tls_certificate is None) != (tls_key is None) or (tls_ca is not None and tls_key is None):
        raise typer.BadParameter("TLS takes --tls-certificate and --tls-key, and then --tls-ca")
    if artifact is not None and service is not None:
        raise typer.BadParameter("masks are made by an artifact here, or by --service; name one of them")
    from ..node.run import run_node
    from ..service.telemetry import configure_logging

    configure_logging(log_format)
    run_node(
        NodeSettings(
            title=aet,
            target=parse_target(to, to_user, read_secret(to_password_file), read_secret(to_token_file), to_ca),
            spool=spool,
            artifact=artifact,
            service=service,
            service_key=read_secret(service_key_file),
            host=host,
            port=port,
            senders=tuple(sender or ()),
            modalities=tuple(name.strip() for name in modality.split(",")) if modality else (),
            threshold=threshold,
            force=force,
            reports=reports,
            tls=Tls(tls_certificate, tls_key, tls_ca) if tls_certificate and tls_key else None,
            device=device,
            quiet_seconds=quiet,
            spool_bytes=int(spool_gib * 1024 * MIB),
            keep_images=keep_images,
            late_seconds=late_hours * 3600,
            attempts=attempts,
            monitor_port=monitor_port,
        )
    )
