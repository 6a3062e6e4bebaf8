"""The public interface: which names there are, that each is explained, and that none loads before it is used."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_config

import gazeseg_serve

NAMES = [
    "Artifact",
    "AsyncClient",
    "Client",
    "Dataset",
    "ExportSettings",
    "GazesegError",
    "InputSpec",
    "MaskSettings",
    "Prediction",
    "Predictor",
    "Run",
    "Student",
    "TrainConfig",
    "decode_image",
    "evaluate",
    "export_run",
    "load_config",
    "load_student",
    "make_masks",
    "read_image",
    "train",
]


def test_the_names_are_these() -> None:
    assert sorted(NAMES) == gazeseg_serve.__all__
    assert set(NAMES) <= set(dir(gazeseg_serve))
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        gazeseg_serve.predict  # noqa: B018
    assert (Path(gazeseg_serve.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_explained(name: str) -> None:
    found = getattr(gazeseg_serve, name)
    assert found.__name__ == name
    assert len(inspect.getdoc(found) or "") > 30
    if inspect.isclass(found):
        own = [(n, f) for n, f in vars(found).items() if inspect.isfunction(f) and not n.startswith("_")]
        assert [n for n, f in own if not inspect.getdoc(f)] == []


def test_a_type_checker_sees_the_same_names() -> None:
    text = Path(str(importlib.util.find_spec("gazeseg_serve").origin)).read_text()  # type: ignore[union-attr]
    for name in NAMES:
        assert f"import {name} as {name}\n" in text


def test_the_package_alone_loads_nothing() -> None:
    code = "import sys, gazeseg_serve\nprint(sorted(m for m in sys.modules if m.startswith('gazeseg_serve.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [*gazeseg_serve.__all__, "Predictor.open", "Dataset.open", "Run.load", "Artifact.load"])
def test_a_path_may_be_text(name: str) -> None:
    thing = functools.reduce(getattr, name.split("."), gazeseg_serve)
    if not inspect.isclass(thing):
        for parameter in inspect.signature(thing).parameters.values():
            kinds = str(parameter.annotation).split(" | ")
            assert "Path" not in kinds or "str" in kinds, parameter


def test_the_path_from_masks_to_scores_takes_text(phantoms: Path, phantom_masks: Path, tmp_path: Path) -> None:
    run, artifact = str(tmp_path / "run"), str(tmp_path / "artifact")
    gazeseg_serve.train(tiny_config(), str(phantoms), str(phantom_masks), run, device="cpu")
    gazeseg_serve.export_run(run, artifact, str(phantoms))
    found = gazeseg_serve.evaluate(artifact, str(phantoms), "val", str(tmp_path / "scores"))
    assert len(found.scores) > 0
    assert (tmp_path / "scores" / "scores.csv").is_file()
