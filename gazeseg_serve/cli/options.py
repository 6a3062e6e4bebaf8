"""The app, and what several verbs share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..files import json_text

app = typer.Typer(
    name="gazeseg-serve",
    help="From the gaze of doctors to segmentation models, and to one served graph as good as the ensemble.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print a machine-readable last line.")]


def finish(lines: list[str], result: dict[str, Any], as_json: bool) -> None:
    """Print the lines, and with --json the result as the last one."""
    for line in lines:
        typer.echo(line)
    if as_json:
        typer.echo(json_text(result))
