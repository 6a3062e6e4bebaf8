"""Every option of a command arrives at its function, under the right name; nothing else is run."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gazeseg_serve.cli.main import app
from gazeseg_serve.errors import MissingExtraError
from gazeseg_serve.export.settings import AllowedLoss, ExportSettings
from gazeseg_serve.training.learning.student import Student
from gazeseg_serve.training.masks.settings import CrfSettings, MaskSettings, Screen
from gazeseg_serve.video.run import Raw, VideoOptions
from gazeseg_serve.video.settings import RELEASE, SMOOTH_SECONDS, Steadiness

CONFIG = Path(__file__).parents[1] / "configs" / "kvasir_small.toml"


class Called(Exception):
    """In place of the work."""


def arguments(argv: list[str], module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the function got when the command was given, by parameter."""
    home = importlib.import_module(f"gazeseg_serve.{module}")
    signature, got = inspect.signature(getattr(home, name)), {}

    def spy(*given: Any, **named: Any) -> None:
        bound = signature.bind(*given, **named)
        bound.apply_defaults()
        got.update(bound.arguments)
        raise Called

    monkeypatch.setattr(home, name, spy)
    result = CliRunner().invoke(app, argv)
    assert isinstance(result.exception, Called), (result.output, result.exception)
    return got


@pytest.mark.parametrize(
    ("argv", "module", "name", "wanted"),
    [
        (
            ["train", str(CONFIG), "--data", "d", "--out", "o"],
            "training.learning.loop",
            "train",
            {"dataset_folder": Path("d"), "masks": None, "out": Path("o"), "resume": False, "device": "auto"},
        ),
        (
            ["train", str(CONFIG), "--data", "d", "--out", "o", "--masks", "m", "--resume", "--device", "cpu"],
            "training.learning.loop",
            "train",
            {"masks": Path("m"), "resume": True, "device": "cpu"},
        ),
        (
            [
                "sweep",
                "c.toml",
                "--vary",
                "seed=0,1",
                "--vary",
                "a.b=1",
                "--data",
                "d",
                "--out",
                "o",
                "--masks",
                "m",
                "--set",
                "x.y=2",
            ],
            "training.learning.sweep",
            "sweep",
            {
                "config": Path("c.toml"),
                "vary": ["seed=0,1", "a.b=1"],
                "dataset": Path("d"),
                "masks": Path("m"),
                "out": Path("o"),
                "settings": ["x.y=2"],
                "device": "auto",
            },
        ),
        (
            ["relabel", "r", "--data", "d", "--out", "o"],
            "training.learning.relabel",
            "relabel",
            {"run_folder": Path("r"), "dataset_folder": Path("d"), "masks": Path("d"), "out": Path("o"), "gain": 1 / 3},
        ),
        (
            ["relabel", "r", "--data", "d", "--out", "o", "--masks", "m", "--gain", "0.5"],
            "training.learning.relabel",
            "relabel",
            {"masks": Path("m"), "gain": 0.5},
        ),
        (
            ["evaluate", "r", "--data", "d"],
            "training.scoring.evaluate",
            "evaluate",
            {"model": Path("r"), "data": Path("d"), "split": "val", "out": None},
        ),
        (
            ["evaluate", "r", "--data", "d", "--split", "test", "--out", "o"],
            "training.scoring.evaluate",
            "evaluate",
            {"split": "test", "out": Path("o")},
        ),
        (
            ["masks", "d"],
            "training.masks.make",
            "make_masks",
            {"dataset": Path("d"), "out": None, "settings": MaskSettings(), "jobs": None, "strict": False, "gaze": None},
        ),
        (
            [
                "masks",
                "d",
                "--out",
                "o",
                "--sigma",
                "50",
                "--thresholds",
                "0.2,0.4",
                "--crf-set",
                "sxy=60",
                "--classes",
                "a, b",
                "--gaze",
                "g.csv",
                "--jobs",
                "3",
                "--strict",
            ],
            "training.masks.make",
            "make_masks",
            {
                "out": Path("o"),
                "settings": MaskSettings(50.0, (0.2, 0.4), CrfSettings(sxy=60.0), ("a", "b")),
                "jobs": 3,
                "strict": True,
                "gaze": Path("g.csv"),
            },
        ),
        (
            ["masks", "d", "--no-crf", "--sigma-degrees", "1.5", "--screen", "53x30@60"],
            "training.masks.make",
            "make_masks",
            {"settings": MaskSettings(crf=None, degrees=1.5, screen=Screen(53, 30, 60))},
        ),
        (
            ["thresholds", "m", "--out", "o", "--data", "d", "--grid", "0.2,0.4"],
            "training.masks.threshold_report",
            "report_thresholds",
            {"masks": Path("m"), "data": Path("d"), "out": Path("o"), "grid": (0.2, 0.4)},
        ),
        (
            ["export", "r", "--out", "o"],
            "export.pipeline",
            "export_run",
            {"run_folder": Path("r"), "out": Path("o"), "data": None, "settings": ExportSettings(student=Student())},
        ),
        (
            [
                "export",
                "r",
                "--out",
                "o",
                "--data",
                "d",
                "--strategy",
                "average",
                "--precision",
                "int8",
                "--max-dice-loss",
                "0.01",
                "--min-agreement",
                "0.9",
                "--no-pictures",
                "--unlabelled",
                "u",
                "--unlabelled",
                "v",
                "--student-run",
                "s",
            ],
            "export.pipeline",
            "export_run",
            {
                "data": Path("d"),
                "settings": ExportSettings(
                    "average",
                    "int8",
                    allowed=AllowedLoss(0.01, 0.9),
                    pictures=False,
                    unlabelled=(Path("u"), Path("v")),
                    student=Student(),
                    student_run=Path("s"),
                ),
            },
        ),
        (
            ["triton", "a", "--out", "o", "--cpus", "3"],
            "export.triton",
            "write_triton",
            {"artifact_folder": Path("a"), "out": Path("o"), "cpus": 3},
        ),
        (
            ["bench", "a", "--device", "cpu", "--batches", "1,4", "--threads", "2", "--seconds", "0.5"],
            "export.bench",
            "bench",
            {"folder": Path("a"), "device": "cpu", "batches": (1, 4), "threads": (2,), "seconds": 0.5},
        ),
        (["demo", "--out", "o", "--quick"], "export.demo", "run_demo", {"out": Path("o"), "quick": True, "clip": False}),
        (["demo", "--clip"], "export.demo", "run_demo", {"quick": False, "clip": True}),
        (
            [
                *("video", "-", "--out", "o", "--artifact", "a", "--raw", "64x48", "--rate", "10", "--threshold", "0.3"),
                *("--presence", "0.2", "--smooth", "0.5", "--release", "0.9", "--frames", "7", "--png", "--no-film"),
                *("--live", "--force", "--device", "cpu"),
            ],
            "video.run",
            "segment_video",
            {
                "source": "-",
                "out": Path("o"),
                "artifact": Path("a"),
                "options": VideoOptions(0.3, 0.2, Steadiness(0.5, 0.9), 7, True, True, False, True),
                "device": "cpu",
                "raw": Raw(64, 48, 10.0),
            },
        ),
        (
            ["video", "rtsp://host/a", "--out", "o"],
            "video.run",
            "segment_video",
            {"options": VideoOptions(steadiness=Steadiness(SMOOTH_SECONDS, RELEASE), live=True), "raw": None, "device": "auto"},
        ),
        (["inspect", "a"], "card", "model_card", {"folder": Path("a")}),
        (
            [
                "serve",
                "a",
                "--host",
                "0.0.0.0",
                "--port",
                "8080",
                "--model",
                "n=f",
                "--api-key",
                "k",
                "--max-queue",
                "7",
                "--workers",
                "2",
            ],
            "service.launch",
            "serve",
            {
                "host": "0.0.0.0",
                "port": 8080,
                "options": {
                    "artifact": Path("a"),
                    "device": None,
                    "models": ["n=f"],
                    "workers": 2,
                    "api_keys": ["k"],
                    "api_keys_file": None,
                    "max_queue": 7,
                },
            },
        ),
    ],
)
def test_options_arrive(
    argv: list[str], module: str, name: str, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    got = arguments(argv, module, name, monkeypatch)
    assert {key: got[key] for key in wanted} == wanted


def test_overrides_of_a_config_are_applied_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["train", str(CONFIG), "--data", "d", "--out", "o", "--set", "optimiser.steps=7", "--set", "loss.consistency=pure"]
    config = arguments(argv, "training.learning.loop", "train", monkeypatch)["config"]
    assert (config.optimiser.steps, config.loss.consistency) == (7, "pure")


def test_a_command_whose_packages_are_missing_names_them_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """`None` in sys.modules is how Python marks a module that cannot be imported."""
    for argv, missing in ((["serve", "a"], "fastapi"), (["export", "r", "--out", "o"], "onnx"), (["masks", "d"], "scipy")):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, missing, None)
            result = CliRunner().invoke(app, argv)
        assert isinstance(result.exception, MissingExtraError), (argv, result.exception)
        assert f"{missing} is not installed" in str(result.exception)


def test_a_summary_ends_in_one_line_for_machines(tiny_run: Path, phantoms: Path, phantom_masks: Path, tmp_path: Path) -> None:
    for argv, key in (
        (["evaluate", str(tiny_run), "--data", str(phantoms), "--json"], "members"),
        (
            [
                "relabel",
                str(tiny_run),
                "--data",
                str(phantoms),
                "--masks",
                str(phantom_masks),
                "--out",
                str(tmp_path / "m"),
                "--json",
            ],
            "dice",
        ),
        (["inspect", str(tiny_run), "--json"], "architecture"),
    ):
        result = CliRunner().invoke(app, argv)
        assert result.exit_code == 0, result.output
        assert key in json.loads(result.stdout.splitlines()[-1])
