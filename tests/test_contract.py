from __future__ import annotations

import json
from pathlib import Path

import pytest

from gazeseg_serve.contract import Artifact, InputSpec, Level, Run
from gazeseg_serve.errors import ContractError
from gazeseg_serve.files import sha256, write_bytes
from gazeseg_serve.records import from_dict


def write_run(folder: Path) -> Run:
    write_bytes(folder / "level_1.safetensors", b"weights")
    run = Run(
        InputSpec(32),
        {"width": 4},
        (Level(0.5, "level_1.safetensors", sha256(b"weights"), {"val_dice": 0.5}),),
        {"seed": 1},
        1,
        {"train": ("a", "b"), "val": ("c",)},
        {"images": "0" * 64},
        {"torch": "2"},
    )
    run.save(folder)
    return run


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    assert Run.load(tmp_path) == run


def test_an_unknown_schema_is_named_with_the_known_one(tmp_path: Path) -> None:
    write_run(tmp_path)
    edit(tmp_path / "run.json", schema="gazeseg-run/99")
    with pytest.raises(ContractError, match=r"gazeseg-run/99.*gazeseg-run/1"):
        Run.load(tmp_path)


def test_a_changed_weights_file_is_an_error_naming_both_hashes(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "level_1.safetensors").write_bytes(b"other")
    with pytest.raises(ContractError) as caught:
        Run.load(tmp_path)
    assert sha256(b"weights") in str(caught.value)
    assert sha256(b"other") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"seed": "one"}, "seed: expected int"),
        ({"seed": True}, "seed: expected int"),
        ({"levels": []}, "no level"),
        ({"input": {"size": 33}}, "multiple of 16"),
        ({"levels": [{"threshold": 0.5, "weights": "../x", "sha256": ""}]}, "not the name of a file"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    write_run(tmp_path)
    edit(tmp_path / "run.json", **changes)
    with pytest.raises(ContractError, match=words):
        Run.load(tmp_path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    data = json.loads((tmp_path / "run.json").read_text())
    del data["levels"]
    (tmp_path / "run.json").write_text(json.dumps(data))
    with pytest.raises(ContractError, match="'levels' is missing"):
        Run.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null"])
def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ContractError):
        Run.load(tmp_path)
    with pytest.raises(ContractError, match="does not exist"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 0},
        {"size": 40},
        {"size": 32, "channels": 2},
        {"size": 32, "resize": "crop"},
        {"size": 32, "normalisation": "none"},
        {"size": 32, "channels": 1},
        {"size": 32, "classes": ()},
    ],
)
def test_an_impossible_input_spec_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        InputSpec(**arguments)  # type: ignore[arg-type]


def test_outputs_count_the_background_only_with_several_classes() -> None:
    assert InputSpec(32).outputs == 1
    assert InputSpec(32, classes=("a", "b", "c")).outputs == 4


def test_whole_numbers_pass_for_floats_but_not_the_other_way() -> None:
    assert from_dict(Level, {"threshold": 1, "weights": "w", "sha256": "s"}, "here").threshold == 1.0
    with pytest.raises(ContractError, match="here: weights"):
        from_dict(Level, {"threshold": 1, "weights": 2, "sha256": "s"}, "here")
