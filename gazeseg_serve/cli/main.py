"""The command line. A command reads its options, calls one public function and prints; nothing heavy loads for --help.

Exit status: 0 done, 1 the user's problem or a gate that did not hold (one line on stderr), 2 usage.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..errors import GazesegError, named_extra
from . import learn, ship, use  # noqa: F401  their commands register with the app
from .options import app


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


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
