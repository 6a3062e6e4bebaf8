"""Nothing is written over an input, and nothing is deleted or overwritten that this program did not make."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from clips import numbered, write_clip
from typer.testing import CliRunner

from gazeseg_serve import folders
from gazeseg_serve.cli.main import app
from gazeseg_serve.errors import ConfigError, ContractError, GazesegError
from gazeseg_serve.folders import Kind, claim_folder, clear_partial, refuse_overlap, staged_folder

CONFIG = """
checkpoint_every = 1
[data]
size = 32
maps = "heatmaps"
[levels]
thresholds = [0.5, 0.3]
shared_start = false
[network]
width = 4
norm = "batch"
[optimiser]
name = "adamw"
steps = 1
batch = 2
"""


def _made(folder: Path) -> set[str] | None:
    listed = folders.json_of(folder / "done.json")
    return {"done.json", *listed["files"]} if listed.get("schema") == "test/1" else None


KIND = Kind("a folder of the test", _made)


def make(target: Path, *files: str) -> None:
    with staged_folder(target, KIND) as folder:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        (folder / "done.json").write_text(json.dumps({"schema": "test/1", "files": files}))


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Every file and folder below `folder`, hidden ones too, with what it holds; links by where they lead."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = str(path.readlink()) if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes()
    return found


# Of a staged folder.


def test_a_staged_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with staged_folder(tmp_path / "out", KIND) as folder:
            (folder / "file").write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert snapshot(tmp_path) == {}
    make(tmp_path / "out", "a", "b/c")
    assert set(snapshot(tmp_path)) == {"out", "out/a", "out/b", "out/b/c", "out/done.json"}
    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert set(snapshot(tmp_path)) == {"out", "out/a", "out/b", "out/b/c", "out/done.json"}


@pytest.mark.parametrize("exchanges", [True, False])
def test_an_older_folder_of_the_kind_is_replaced(tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanges:  # as where the file system cannot
        monkeypatch.setattr(folders, "_swap", lambda one, other: False)
    make(tmp_path / "out", "a", "b/c")
    make(tmp_path / "out", "d")
    assert set(snapshot(tmp_path)) == {"out", "out/d", "out/done.json"}


def test_a_link_to_an_older_folder_stays_a_link(tmp_path: Path) -> None:
    make(tmp_path / "disk" / "real", "a")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    make(tmp_path / "out", "b")
    assert set(snapshot(tmp_path)) == {"out", "disk", "disk/real", "disk/real/b", "disk/real/done.json"}
    assert (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("foreign", ["notes.txt", "a/deep/x", ".hidden", "empty.json"])
def test_a_file_that_was_added_is_not_deleted(tmp_path: Path, foreign: str) -> None:
    make(tmp_path / "out", "file")
    (tmp_path / "out" / foreign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / foreign).write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(ContractError, match=re.escape(foreign)):
        make(tmp_path / "out", "file")
    assert snapshot(tmp_path) == before


def test_a_link_that_was_added_is_not_deleted(tmp_path: Path) -> None:
    make(tmp_path / "out", "file")
    (tmp_path / "out" / "data").symlink_to(tmp_path)
    with pytest.raises(ContractError, match="data"):
        make(tmp_path / "out", "file")


def test_a_file_that_comes_during_the_work_is_not_deleted(tmp_path: Path) -> None:
    make(tmp_path / "out", "file")

    def work() -> None:
        with staged_folder(tmp_path / "out", KIND) as folder:
            (folder / "file").write_text("new")
            (tmp_path / "out" / "notes.txt").write_text("mine")

    with pytest.raises(ContractError, match=r"notes\.txt"):
        work()
    assert set(snapshot(tmp_path)) == {"out", "out/file", "out/notes.txt", "out/done.json"}
    assert (tmp_path / "out" / "file").read_text() == "file"


@pytest.mark.parametrize("content", ["{}", "[1]", '"x"', "not json", '{"schema": "other/1"}', '{"schema": 3}', "\xff"])
def test_a_marker_file_of_another_program_proves_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "done.json").write_text(content, encoding="latin-1")
    before = snapshot(tmp_path)
    with pytest.raises(ContractError, match="is not a folder of the test"):
        make(tmp_path / "out", "file")
    assert snapshot(tmp_path) == before


def test_what_a_crash_left_is_brought_back_or_removed(tmp_path: Path) -> None:
    make(tmp_path / "out", "file")
    (tmp_path / "out").rename(tmp_path / ".out.gazeseg-old-abcdefgh")  # killed between the two renames
    (tmp_path / ".out.gazeseg-part-abcdefgh").mkdir()  # killed while it made one
    (tmp_path / ".out.gazeseg-part-abcdefgh" / "half").write_text("half")
    (tmp_path / ".out.gazeseg-part-of-my-own").mkdir()  # no name that we give
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out", KIND):
        raise RuntimeError
    assert set(snapshot(tmp_path)) == {"out", "out/file", "out/done.json", ".out.gazeseg-part-of-my-own"}


def test_the_half_made_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out", KIND) as folder:
        (folder / "done.json").write_text('{"schema": "test/1", "files": []}')
        make(tmp_path / "out", "other")
        assert folder.is_dir()
    assert set(snapshot(tmp_path)) == {"out", "out/done.json"}


def test_a_file_system_without_locks_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with staged_folder(tmp_path / "out", KIND) as folder:
        (folder / "done.json").write_text('{"schema": "test/1", "files": []}')
        make(tmp_path / "out", "other")
        assert folder.is_dir()
    assert set(snapshot(tmp_path)) == {"out", "out/done.json"}


# Of a claimed folder.


def test_a_claimed_folder_may_be_claimed_again_and_others_not(tmp_path: Path) -> None:
    claim_folder(tmp_path, "test", ["table.csv", "level_*"])
    (tmp_path / "table.csv").write_text("ours")
    claim_folder(tmp_path, "test", ["table.csv", "level_*"])
    with pytest.raises(ContractError, match=r"table\.csv"):
        claim_folder(tmp_path, "another", ["table.csv"])
    claim_folder(tmp_path, "third", ["table.csv"], ours=True)


@pytest.mark.parametrize("foreign", ["table.csv", "level_7", ".gazeseg-test"])
def test_a_name_that_is_there_already_is_not_claimed(tmp_path: Path, foreign: str) -> None:
    (tmp_path / "unrelated.txt").write_text("mine")
    (tmp_path / foreign).write_text("{}")
    before = snapshot(tmp_path)
    with pytest.raises(ContractError, match="this program did not make it"):
        claim_folder(tmp_path, "test", ["table.csv", "level_*"])
    assert snapshot(tmp_path) == before


def test_only_half_written_files_of_known_names_are_removed(tmp_path: Path) -> None:
    for name in (".a.csv.abcdefg1", ".a.csv.short", ".b.csv.abcdefg1", "a.csv", ".a.csv"):
        (tmp_path / name).write_text("")
    clear_partial(tmp_path, "a.csv")
    assert set(snapshot(tmp_path)) == {".a.csv.short", ".b.csv.abcdefg1", "a.csv", ".a.csv"}


# Of overlaps.


@pytest.mark.parametrize(
    ("out", "relation"),
    [
        ("in", "is"),
        ("in/", "is"),
        ("in/new/deep", "lies in"),
        (".", "holds"),
        ("link", "is"),
        ("link/new", "lies in"),
        ("in/images/new", "lies in"),
        ("other/../in", "is"),
        ("elsewhere", "is"),
        ("elsewhere/new", "lies in"),
    ],
)
def test_an_output_that_touches_an_input_is_refused(tmp_path: Path, out: str, relation: str) -> None:
    for name in ("in", "other", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "images").symlink_to(tmp_path / "elsewhere")  # an input may lead elsewhere
    with pytest.raises(ConfigError, match=f"output .* {relation} the input .*choose"):
        refuse_overlap(tmp_path / out, None, tmp_path / "in")


@pytest.mark.parametrize("out", ["new", "input", "other/new", "other"])
def test_an_output_beside_its_inputs_is_fine(tmp_path: Path, out: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "other").mkdir()
    refuse_overlap(tmp_path / out, None, tmp_path / "in", tmp_path / "absent")


# Of every verb that writes.


@pytest.fixture(scope="module")
def room(
    phantoms: Path, phantom_masks: Path, tiny_run: Path, tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with one input of every kind, copied so that a test may look whether it was touched."""
    root = tmp_path_factory.mktemp("room")
    for name, source in (("data", phantoms), ("masks", phantom_masks), ("run", tiny_run), ("artifact", tiny_artifact)):
        shutil.copytree(source, root / name)
    write_clip(root / "clip.mp4", [numbered(number) for number in range(3)])
    (root / "train.toml").write_text(CONFIG)
    (root / "use.toml").write_text('[intended_use]\ntext = "phantoms"\n')
    return root


# By verb: its arguments without --out, its inputs, and a file of a stranger that it would write over.
VERBS: dict[str, tuple[list[str], list[str], str]] = {
    "masks": (["data", "--no-crf", "--jobs", "1"], ["data/images"], "quality.csv"),
    "thresholds": (["masks", "--data", "data"], ["masks", "data"], "thresholds.html"),
    "train": (["train.toml", "--data", "data", "--masks", "masks"], ["data", "masks"], "metrics.csv"),
    "relabel": (["run", "--data", "data", "--masks", "masks"], ["run", "data", "masks"], "masks.json"),
    "sweep": (["train.toml", "--vary", "seed=0", "--data", "data", "--masks", "masks"], ["data", "masks"], "sweep.csv"),
    "evaluate": (["run", "--data", "data"], ["run", "data"], "summary.csv"),
    "export": (["run", "--data", "data"], ["run", "data"], "manifest.json"),
    "compare": (["run", "--data", "data", "--strategies", "fuse", "--seconds", "0.01"], ["run", "data"], "compare.json"),
    "triton": (["artifact"], ["artifact"], "gazeseg/config.pbtxt"),
    "describe": (["artifact", "--clinical", "use.toml"], ["artifact"], "manifest.json"),
    "video": (["clip.mp4", "--artifact", "artifact", "--no-film"], ["clip.mp4", "artifact"], "report.json"),
    "demo": (["--quick"], [], ".gazeseg-demo"),
}  # fmt: skip
ELSEWHERE = {"predict"}  # its own tests hold it
CASES = [(verb, given, place) for verb, (_, inputs, _) in VERBS.items() for given in inputs
         for place in ("itself", "inside", "above", "link", "link inside")]  # fmt: skip


def run_verb(room: Path, verb: str, out: Path) -> GazesegError | None:
    """Run the verb as the command line does, in `room`; the error it raised on purpose."""
    arguments, *_ = VERBS[verb]
    command = [verb, *arguments]
    if verb == "triton" and "triton" not in registered():
        command = ["export", *arguments, "--format", "triton"]
    here = Path.cwd()
    os.chdir(room)
    try:
        result = CliRunner().invoke(app, [*command, "--out", str(out)])
    finally:
        os.chdir(here)
    if result.exception is not None and not isinstance(result.exception, (GazesegError, SystemExit)):
        raise result.exception
    return result.exception if isinstance(result.exception, GazesegError) else None


def registered() -> dict[str, Callable[..., object]]:
    return {str(command.name or command.callback.__name__): command.callback
            for command in app.registered_commands if command.callback is not None}  # fmt: skip


def test_no_verb_that_writes_is_left_out_of_these_tests() -> None:
    writing = {name for name, callback in registered().items() if "out" in callback.__annotations__}
    assert writing - ELSEWHERE - set(VERBS) == set()


@pytest.mark.parametrize(("verb", "given", "place"), CASES)
def test_no_verb_writes_to_where_it_reads(room: Path, tmp_path: Path, verb: str, given: str, place: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(room / given)
    out = {"itself": room / given, "inside": room / given / "new", "above": room, "link": link, "link inside": link / "new"}
    before = snapshot(room)
    error = run_verb(room, verb, out[place])
    assert isinstance(error, ConfigError), f"{verb} --out {out[place]}: {error}"
    assert "the input" in str(error)
    assert snapshot(room) == before


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["file", "marker", "foreign"])
def test_no_verb_writes_over_what_it_did_not_make(room: Path, tmp_path: Path, verb: str, kind: str) -> None:
    stranger = VERBS[verb][2]
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("a file of somebody's")
    else:
        (out / stranger).parent.mkdir(parents=True)
        (out / stranger).write_text('{"name": "web app"}' if kind == "marker" else '{"schema": "another/1"}')
        (out / "thesis.txt").write_text("years")
    before = snapshot(tmp_path) | snapshot(room)
    assert run_verb(room, verb, out) is not None
    assert snapshot(tmp_path) | snapshot(room) == before


@pytest.mark.parametrize(
    "verb",
    [
        "relabel",
        "evaluate",
        "export",
        pytest.param("compare", marks=pytest.mark.slow),
        "triton",
        "thresholds",
        "describe",
        "video",
    ],
)
def test_a_verb_replaces_its_own_older_folder_and_no_file_that_was_added(room: Path, tmp_path: Path, verb: str) -> None:
    out = tmp_path / "out"
    assert run_verb(room, verb, out) is None
    own = snapshot(tmp_path)
    inside = out / "gazeseg" if verb == "triton" else out
    (inside / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    error = run_verb(room, verb, out)
    assert error is not None
    assert "notes.txt" in str(error)
    assert snapshot(tmp_path) == before
    (inside / "notes.txt").unlink()
    assert run_verb(room, verb, out) is None
    assert set(snapshot(tmp_path)) == set(own)


def test_triton_leaves_the_other_models_of_a_repository_alone(room: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "other" / "1").mkdir(parents=True)
    (tmp_path / "models" / "other" / "1" / "model.onnx").write_text("theirs")
    for _ in range(2):
        assert run_verb(room, "triton", tmp_path / "models") is None
    assert (tmp_path / "models" / "other" / "1" / "model.onnx").read_text() == "theirs"
    assert (tmp_path / "models" / "gazeseg" / "config.pbtxt").is_file()


def test_gaze_maps_and_relabelled_maps_do_not_replace_one_another(room: Path, tmp_path: Path) -> None:
    assert run_verb(room, "relabel", tmp_path / "sharpened") is None
    assert run_verb(room, "masks", tmp_path / "maps") is None
    before = snapshot(tmp_path)
    assert isinstance(run_verb(room, "masks", tmp_path / "sharpened"), ContractError)
    assert isinstance(run_verb(room, "relabel", tmp_path / "maps"), ContractError)
    assert snapshot(tmp_path) == before


def test_masks_may_stand_in_the_dataset_folder(room: Path, tmp_path: Path) -> None:
    shutil.copytree(room / "data", tmp_path / "data")
    before = snapshot(tmp_path)
    result = CliRunner().invoke(app, ["masks", str(tmp_path / "data"), "--no-crf", "--jobs", "1"])
    assert result.exit_code == 0, result.output
    assert before.items() <= snapshot(tmp_path).items()
    assert (tmp_path / "data" / "masks.json").is_file()
