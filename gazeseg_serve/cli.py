"""The command line. A command reads its options, calls one public function and prints; nothing heavy loads for --help.

Exit status: 0 done, 1 the user's problem or a gate that did not hold (one line on stderr), 2 usage.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

from . import __version__
from .errors import GazesegError

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
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def _finish(lines: list[str], result: dict[str, Any], as_json: bool) -> None:
    for line in lines:
        typer.echo(line)
    if as_json:
        typer.echo(json.dumps(result))


def main() -> NoReturn:
    """Entry point: errors raised on purpose become one line on stderr and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gazeseg_serve").setLevel(logging.INFO)
    try:
        app()
    except GazesegError as error:
        typer.echo(f"gazeseg-serve: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("gazeseg-serve: interrupted", err=True)
        sys.exit(130)
    sys.exit(0)
