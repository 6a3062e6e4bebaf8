"""Folders and files of the contracts: what is refused, what is kept, which permissions; records, devices, the default model."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from artifacts import write_artifact
from PIL import Image

from gazeseg_serve import progress
from gazeseg_serve.card import model_card
from gazeseg_serve.contract import Artifact, InputSpec, Run, Tensor, graph_inputs, graph_outputs, split_fingerprints
from gazeseg_serve.dataset import Dataset, image_files, seeded_split
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.open import open_engine
from gazeseg_serve.errors import ContractError, DatasetError
from gazeseg_serve.files import read_json, sha256, write_bytes, write_json
from gazeseg_serve.folders import Kind, staged_folder
from gazeseg_serve.records import from_dict


def edit(path: Path, change: Any) -> None:
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


# Artifacts


def test_an_id_that_is_not_the_model_s_hash_is_refused(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path)
    assert artifact.id == sha256((tmp_path / "model.onnx").read_bytes())
    edit(tmp_path / "manifest.json", lambda facts: facts.update(id="0" * 64))
    with pytest.raises(ContractError, match=f"the id is {'0' * 64}, the model's hash {artifact.id}"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["files"].pop("model.onnx"), "the model's hash None"),
        (lambda f: f["files"].update({"report.html": "0" * 64}), r"report\.html is missing"),
        (lambda f: f["files"].update({"../outside": "0" * 64}), "is not the name of a file"),
        (lambda f: f["inputs"][0].update(dtype="float32"), "its InputSpec asks for"),
        (lambda f: f.update(schema="gazeseg-artifact/2"), "gazeseg-artifact/2"),
        (lambda f: f["input"].update(size=30), "multiple of 16"),
    ],
)
def test_a_manifest_that_does_not_fit_its_folder_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    write_artifact(tmp_path)
    edit(tmp_path / "manifest.json", change)
    with pytest.raises(ContractError, match=words):
        Artifact.load(tmp_path)


def test_a_folder_without_a_dtype_took_bytes(tmp_path: Path) -> None:
    """Written before inputs had one: then every graph took bytes, z-scored ones, too."""
    spec = InputSpec(32, 1, normalisation="zscore", dtype="uint8")
    run = Run(spec, {}, (), {}, 0, {}, {}, {})
    run.save(tmp_path)
    edit(tmp_path / "run.json", lambda facts: facts["input"].pop("dtype"))
    with pytest.raises(ContractError, match="names no level"):
        Run.load(tmp_path)
    assert InputSpec(32, 1, normalisation="zscore").dtype == "float32"
    assert InputSpec(32).dtype == "uint8"
    artifact = write_artifact(tmp_path / "a")
    edit(tmp_path / "a" / "manifest.json", lambda facts: facts["input"].pop("dtype"))
    assert Artifact.load(tmp_path / "a") == artifact


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 15},
        {"size": 24},
        {"channels": 1},
        {"channels": 4},
        {"normalisation": "imagenet", "dtype": "float32"},
        {"normalisation": "zscore", "dtype": "int8"},
    ],
)
def test_inputs_that_cannot_be_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        InputSpec(**{"size": 32, **arguments})


def test_the_graph_s_tensors_follow_the_spec() -> None:
    spec = InputSpec(48, 1, normalisation="zscore", classes=("a", "b"))
    assert graph_inputs(spec) == (Tensor("image", "float32", ("batch", 48, 48, 1)),)
    assert graph_outputs(spec, True) == (
        Tensor("probability", "float32", ("batch", 3, 48, 48)),
        Tensor("disagreement", "float32", ("batch", 48, 48)),
    )
    assert len(graph_outputs(spec, False)) == 1


def test_an_artifact_knows_whether_it_disagrees(tmp_path: Path) -> None:
    assert write_artifact(tmp_path / "a").has_disagreement
    assert not write_artifact(tmp_path / "b", disagreement=False).has_disagreement


def test_a_split_is_known_by_its_size_and_the_hash_of_its_sorted_names() -> None:
    found = split_fingerprints({"val": ("b", "a"), "test": ()})
    assert found["val"] == {"images": 2, "sha256": sha256(b"a\nb")}
    assert found["test"] == {"images": 0, "sha256": sha256(b"")}


def test_the_card_of_an_artifact_and_of_nothing(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "a")
    lines, facts = model_card(tmp_path / "a")
    assert facts["id"] == artifact.id
    text = "\n".join(lines)
    for words in (
        artifact.id,
        "fuse, fp32",
        "RGB 32 x 32, stretch, imagenet, uint8",
        "lesion",
        "probability float32 (batch, 1, 32, 32)",
    ):
        assert words in text
    with pytest.raises(ContractError, match="neither a run"):
        model_card(tmp_path)


# Files


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_what_is_written_has_the_rights_that_open_would_have_given(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "deep" / "file", b"x")
        with staged_folder(tmp_path / "folder", Kind("a folder", lambda folder: None)) as folder:
            write_bytes(folder / "marker", b"m")
        assert stat.S_IMODE((tmp_path / "deep" / "file").stat().st_mode) == 0o666 & ~mask
        assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask
        assert os.umask(mask) == mask, "the process keeps its own"
    finally:
        os.umask(before)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_bytes(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_json_keeps_its_letters_and_ends_in_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "f.json", {"name": "Zürich", "n": [1]})
    text = (tmp_path / "f.json").read_text(encoding="utf-8")
    assert "Zürich" in text
    assert text.endswith("}\n")
    assert read_json(tmp_path / "f.json") == {"name": "Zürich", "n": [1]}
    (tmp_path / "g.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ContractError, match="is not JSON"):
        read_json(tmp_path / "g.json")


# Records


@dataclasses.dataclass(frozen=True)
class Inner:
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    share: float = 0.5
    inner: Inner | None = None
    pair: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = ()
    table: dict[str, int] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "expected a table"),
        ({}, "'name' is missing"),
        ({"name": "a", "nam": 1}, "unknown field 'nam'"),
        ({"name": 1}, "expected str"),
        ({"name": "a", "share": True}, "expected float"),
        ({"name": "a", "share": "0.5"}, "expected float"),
        ({"name": "a", "inner": {"count": True}}, "count: expected int"),
        ({"name": "a", "inner": {"count": 1.0}}, "expected int"),
        ({"name": "a", "pair": [1]}, "expected"),
        ({"name": "a", "pair": ["a", 1]}, "expected int"),
        ({"name": "a", "many": [1, "b"]}, "expected float"),
        ({"name": "a", "many": 1}, "expected"),
        ({"name": "a", "table": {"x": "y"}}, r"table\.x: expected int"),
    ],
)
def test_a_record_says_where_a_value_is_wrong(data: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        from_dict(Outer, data, "here")


def test_a_record_is_built_of_plain_values() -> None:
    data = {"name": "a", "share": 1, "inner": {"count": 3}, "pair": [2, "b"], "many": [1, 2.5], "table": {"x": 1}}
    assert from_dict(Outer, data, "here") == Outer("a", 1.0, Inner(3), (2, "b"), (1.0, 2.5), {"x": 1})
    assert from_dict(Outer, {"name": "a", "inner": None}, "here").inner is None


# The dataset folder and bulk work


def test_hidden_files_folders_and_other_suffixes_are_no_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".c.png", "d.txt", "e.tiff"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "f.png").mkdir()
    assert [path.name for path in image_files(tmp_path)] == ["a.jpg", "b.PNG", "e.tiff"]


@pytest.mark.parametrize(("count", "held"), [(2, 1), (8, 1), (9, 1), (17, 1), (18, 2), (27, 3), (900, 100)])
def test_one_image_in_nine_is_held_out_and_at_least_one(count: int, held: int) -> None:
    train, val = seeded_split(f"{i:04d}" for i in range(count))
    assert (len(train), len(val)) == (count - held, held)
    assert seeded_split(["one"]) == (("one",), ())


def test_masks_without_an_image_are_left_out_and_splits_need_no_training_file(tmp_path: Path) -> None:
    for kind in ("images", "masks", "splits"):
        (tmp_path / kind).mkdir()
    for stem in "abcd":
        Image.new("L", (4, 4)).save(tmp_path / "images" / f"{stem}.png")
    for stem in "az":
        Image.new("L", (4, 4)).save(tmp_path / "masks" / f"{stem}.png")
    (tmp_path / "splits" / "val.txt").write_text("b\n\n")
    data = Dataset.open(tmp_path)
    assert (list(data.images), list(data.masks)) == (list("abcd"), ["a"])
    assert data.splits() == {"train": ("a", "c", "d"), "val": ("b",)}
    with pytest.raises(DatasetError, match="no mask for b"):
        data.mask("b")


# Engines and progress


@pytest.mark.parametrize(("threads", "lanes", "count"), [(3, True, 3), (1, True, 0), (3, False, 0)])
def test_a_batch_is_spread_over_as_many_lanes_as_there_are_threads(
    tmp_path: Path, threads: int, lanes: bool, count: int
) -> None:
    write_artifact(tmp_path)
    engine = OnnxRuntimeEngine(tmp_path / "model.onnx", "cpu", threads, lanes)
    found = 0 if engine._lanes is None else engine._lanes._max_workers
    assert found == count
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
    np.testing.assert_allclose(engine.run(images).probability[:, 0, 0, 0], np.arange(5) / 255, rtol=1e-5)


def test_the_served_engine_uses_lanes_and_the_gate_s_does_not(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path)
    served = open_engine(tmp_path, artifact, "cpu", 2)
    assert isinstance(served, OnnxRuntimeEngine)
    assert served._lanes is not None
    assert served.name == "onnxruntime-cpu"
    assert OnnxRuntimeEngine(tmp_path / "model.onnx", "cpu", 2)._lanes is None


@pytest.mark.parametrize(
    ("rank", "tty", "bar"), [(None, True, True), ("0", True, True), ("1", True, False), (None, False, False)]
)
def test_a_bar_is_for_a_terminal_and_for_the_first_process(
    rank: str | None, tty: bool, bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rich.progress

    shown: list[int] = []
    monkeypatch.setattr(rich.progress, "track", lambda items, **_: (shown.append(i) or i for i in items))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: tty, raising=False)
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    assert list(progress.track(iter(range(4)), "work", 4)) == [0, 1, 2, 3]
    assert bool(shown) == bar


def test_plain_lines_come_every_ten_seconds_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([0.0, 1.0, 9.9, 10.0, 12.0, 20.5, *[99.0] * 5])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))  # other threads have the real one
    with caplog.at_level("INFO", logger="gazeseg_serve"):
        list(progress.track(range(4), "work", 4))
    assert [record.getMessage() for record in caplog.records] == ["work: 3 of 4", "work: 4 of 4"]
