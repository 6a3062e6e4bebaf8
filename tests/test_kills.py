"""Killed at any moment: inputs and strangers' files are untouched, what was finished is there, and a second call ends well.

A child process counts what it does to files (audit events) and kills itself before one of them; so each moment between two
operations can be met, and the same seeds meet the same ones.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_config

from gazeseg_serve.contract import Run
from gazeseg_serve.files import write_text

pytestmark = pytest.mark.slow
KILLS = 5  # of each verb
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


def masks(room: Path, again: bool) -> None:
    """First all images; then other maps, and one image's gaze is gone."""
    from gazeseg_serve.training.masks.make import MaskSettings, make_masks

    gaze = room / "data" / "fixations.csv"
    if again:
        lines = gaze.read_text().splitlines()
        gaze = room / "fewer.csv"
        write_text(gaze, "\n".join(line for line in lines if not line.startswith("phantom_0003")) + "\n")
    settings = MaskSettings(crf=None, sigma=50.0 if again else 70.0)
    make_masks(room / "data", room / "out", settings, jobs=1, gaze=gaze)


def relabel(room: Path, again: bool) -> None:
    from gazeseg_serve.training.learning.relabel import relabel as run

    run(room / "run", room / "data", room / "masks", room / "out", gain=0.5 if again else 0.0)


def export(room: Path, again: bool) -> None:
    from gazeseg_serve.export.pipeline import export_run
    from gazeseg_serve.export.settings import ExportSettings

    export_run(room / "run", room / "out", room / "data", ExportSettings(strategy="average" if again else "fuse"))


def train(room: Path, again: bool) -> None:
    from gazeseg_serve.training.learning.loop import train as run

    unfinished = (room / "out" / "checkpoint" / "state.safetensors").is_file()
    run(tiny_config(), room / "data", room / "masks", room / "out", resume=unfinished, device="cpu")


VERBS: dict[str, Callable[[Path, bool], None]] = {"masks": masks, "relabel": relabel, "export": export, "train": train}


def child(verb: str, room: Path, again: bool, last: int | None, counted: Any) -> None:
    """Run the verb; die before its change number `last` to a file of `room`, or count them."""
    done = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes or event in _CHANGES) or not str(arguments[0]).startswith(str(room)):
            return
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    sys.addaudithook(hook)
    VERBS[verb](room, again)
    counted.value = done


def run(verb: str, room: Path, again: bool, last: int | None = None) -> tuple[int | None, int]:
    """(exit status, how many changes it made)."""
    context = multiprocessing.get_context("forkserver")
    counted = context.Value("i", 0)
    process = context.Process(target=child, args=(verb, room, again, last, counted))
    process.start()
    process.join()
    return process.exitcode, counted.value


def contents(folder: Path, *without: str) -> dict[str, bytes]:
    """The files of a folder that say the same whenever they are made."""
    return {
        name: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (name := path.relative_to(folder).as_posix()).startswith(without or ("\0",))
    }


@pytest.fixture(scope="module")
def start(phantoms: Path, phantom_masks: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("start")
    for name, source in (("data", phantoms), ("masks", phantom_masks), ("run", tiny_run)):
        shutil.copytree(source, root / name)
    return root


@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_any_moment_nothing_is_lost(start: Path, tmp_path: Path, verb: str) -> None:
    # What holds times, or is written in an order that a hash decides: not the same bytes twice.
    times = {"train": ("tensorboard", "checkpoint", "run.json"), "export": ("report.html", "parity.json", "manifest.json")}.get(
        verb, ()
    )
    room = tmp_path / "room"
    shutil.copytree(start, room)
    if verb != "train":  # which never writes over a finished run
        assert run(verb, room, again=False)[0] == 0
    (room / "notes.txt").write_text("mine")
    shutil.copytree(room, tmp_path / "before")
    status, changes = run(verb, room, again=True)
    assert status == 0
    assert changes > 10
    old = contents(tmp_path / "before" / "out")
    new = contents(room / "out", *times)
    shutil.rmtree(room)
    moments = random.Random(f"{verb} 1").sample(range(changes), KILLS)
    for last in moments:
        shutil.copytree(tmp_path / "before", room)
        (room / "out").mkdir(exist_ok=True)
        if verb in ("masks", "train"):  # in a folder that is written whole, a stranger's file is refused
            (room / "out" / "thesis.txt").write_text("years")
        assert run(verb, room, True, last)[0] == -signal.SIGKILL, f"{verb} at {last}"
        for name in ("data", "run", "masks"):
            assert contents(room / name) == contents(start / name), f"{verb} at {last}: {name}"
        assert (room / "notes.txt").read_text() == "mine"
        if verb in ("relabel", "export"):
            found = contents(room / "out")
            assert found == old or contents(room / "out", *times) == new, f"{verb} at {last}: neither the old nor the new"
        assert run(verb, room, again=True)[0] == 0, f"{verb} after {last}"
        after = contents(room / "out", *times)
        if verb in ("masks", "train"):
            assert after.pop("thesis.txt") == b"years"
        if verb == "train":
            assert Run.load(room / "out").levels
        assert after == new, f"{verb} after {last}"
        assert [path.name for path in room.iterdir() if path.name.startswith(".")] == [], f"{verb} after {last}"
        shutil.rmtree(room)
