"""The command line. A command reads its options, calls one public function and prints; nothing heavy loads for --help.

Exit status: 0 done, 1 the user's problem or a gate that did not hold (one line on stderr), 2 usage.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..errors import GazesegError, named_extra
from . import learn, ship, use, watch  # noqa: F401  their commands register with the app
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


def _open_streams() -> None:
    """Give a process that was started without standard streams (`2>&-`, some schedulers) ones that lead nowhere.

    Else the next file that is opened takes the free number, and what others print lands in it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (it stays open as long as the process)


def main() -> NoReturn:
    """Entry point: errors raised on purpose become one line on stderr and exit status 1."""
    _open_streams()
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
