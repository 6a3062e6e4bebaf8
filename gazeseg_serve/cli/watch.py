"""The verb for what moves: video."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from ..video.settings import RELEASE, SMOOTH_SECONDS, Steadiness
from .options import JsonFlag, app, finish


@app.command()
def video(
    source: Annotated[
        str, typer.Argument(help="A video file, rtsp://..., a camera (/dev/video0), or - for raw frames on standard input.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks, film and report; only an older one is replaced.")],
    artifact: Annotated[Path | None, typer.Option(help="Artifact folder; default: the model of the package.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Default: the artifact's own.")] = None,
    presence: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Presence under which nothing is marked; default: the artifact's own, 0: never."),
    ] = None,
    smooth: Annotated[float, typer.Option(help="Seconds over which masks are steadied; 0: not at all.")] = SMOOTH_SECONDS,
    release: Annotated[float, typer.Option(help="Part of the presence threshold under which what was shown goes.")] = RELEASE,
    live: Annotated[bool, typer.Option("--live", help="At the source's own pace, the newest frame wins.")] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    png: Annotated[bool, typer.Option("--png", help="A PNG mask a frame, too.")] = False,
    film: Annotated[bool, typer.Option("--film/--no-film", help="The overlay as a film.")] = True,
    raw: Annotated[str | None, typer.Option(help="Size of the raw RGB frames on standard input, as 640x480.")] = None,
    rate: Annotated[float, typer.Option(help="Frames a second of --raw.")] = 25.0,
    force: Annotated[bool, typer.Option("--force", help="Segment DICOM that the artifact is not for, too.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, tensorrt or openvino.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Segment a video: a mask a frame, an overlay film and a report.

    Of a file every frame is segmented; of a camera or an RTSP address the newest, until the stream ends or SIGINT.

    Example: gazeseg-serve video clip.mp4 --out clip-masks/
    """
    require("av", "video")
    from ..default_model import default_artifact
    from ..video.run import Raw, VideoOptions, is_live, segment_video

    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", raw) if raw is not None else None
    if raw is not None and size is None:
        raise typer.BadParameter(f"--raw {raw!r} is no size; write width and height as 640x480")
    report = segment_video(
        source,
        out,
        default_artifact(device) if artifact is None else artifact,
        VideoOptions(
            threshold=threshold,
            presence=presence,
            steadiness=Steadiness(smooth, release),
            frames=frames,
            live=live or is_live(source),
            png=png,
            film=film,
            force=force,
        ),
        device,
        None if size is None else Raw(int(size[1]), int(size[2]), rate),
    )
    finish(_lines(report, out), report, as_json)


def _lines(report: dict[str, object], out: Path) -> list[str]:
    """What a person wants to know of the report."""
    lines = [
        f"wrote {report['frames']} mask(s) to {out}, {report['frames_per_second']} frames a second, "
        f"{report['dropped']} left out; {report['marked']} show something"
    ]
    if report["damaged_packets"] or report["damaged_frames"]:
        lines.append(
            f"the video is damaged: {report['damaged_packets']} packet(s) could not be decoded, {report['damaged_frames']} "
            "frame(s) in part"
        )
    return lines
