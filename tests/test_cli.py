"""The command line as a user meets it: help, exit status, one plain line on stderr."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gazeseg_serve import __version__
from gazeseg_serve.bulk import predict_files
from gazeseg_serve.card import model_card
from gazeseg_serve.cli.main import app
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.predictor import Predictor

VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)  # type: ignore[union-attr]


def cli(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "gazeseg_serve", *arguments], capture_output=True, input=stdin, timeout=120)


def test_the_verbs_of_the_design_are_there() -> None:
    assert {"demo", "masks", "train", "evaluate", "export", "predict", "serve", "inspect"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0
    assert f"gazeseg-serve {verb}" in " ".join(shown.output.split())


def test_the_version_is_the_package_s() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inspect", "nowhere"), b"neither a run"),
        (("masks", "nowhere"), b"images/"),
        (("train", "none.toml", "--data", "nowhere", "--out", "runs/x"), b"none.toml"),
        (("predict", "nowhere", "also-nowhere.png", "--out", "masks"), b"does not exist"),
        (("export", "nowhere", "--out", "x"), b"does not exist"),
    ],
)
def test_a_user_s_mistake_is_one_line_and_status_1(arguments: tuple[str, ...], words: bytes, tmp_path: Path) -> None:
    done = cli(*arguments)
    assert done.returncode == 1, done.stderr
    assert words in done.stderr
    assert b"Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = cli("demo", "--quick", "--out", str(tmp_path / "file" / "demo"))
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert str(tmp_path / "file").encode() in done.stderr


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (["train", "x.toml", "--data", "x", "--out", "x"], "torch", "train"),
        (["masks", "x"], "scipy", "train"),
        (["export", "x", "--out", "x"], "torch", "train"),
        (["predict", "x.png", "--out", "x"], "onnxruntime", "cpu"),
        (["serve"], "bentoml", "serve"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    arguments: list[str], module: str, extra: str, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['gazeseg-serve', *{arguments!r}]\n"
        "from gazeseg_serve.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert f"pip install 'gazeseg-serve[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_status_2() -> None:
    assert cli("export").returncode == 2
    assert cli("no-such-verb").returncode == 2


def test_predict_reads_files_folders_and_standard_input(tiny_artifact: Path, phantoms: Path, tmp_path: Path) -> None:
    image = next(iter(Dataset.open(phantoms).images.values()))
    done = cli(
        "predict", str(tiny_artifact), "-", str(phantoms / "images"), "--out", str(tmp_path), "--json", stdin=image.read_bytes()
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"written": 19, "failures": {}, "skipped": {}, "names": {}}
    wanted = Predictor.open(tiny_artifact, device="cpu").predict(Dataset.open(phantoms).image(image.stem)).mask()
    for name in ("stdin", image.stem):
        mask = Image.open(tmp_path / f"{name}.png")
        assert mask.mode == "1"
        np.testing.assert_array_equal(np.asarray(mask), wanted.astype(bool))


def test_an_unreadable_image_is_listed_and_the_rest_go_on(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"junk")
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "PNG")
    (tmp_path / "in" / "good.png").write_bytes(stream.getvalue())
    done = cli("predict", str(tiny_artifact), str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert b"bad.png" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


def test_two_inputs_of_one_name_get_a_mask_each(tiny_artifact: Path, tmp_path: Path) -> None:
    for folder, side in (("a", 20), ("b", 30)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (side, side)).save(tmp_path / folder / "x.png")
    summary = predict_files(tiny_artifact, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert summary.names == {str(tmp_path / "b" / "x.png"): "x_png.png"}
    sizes = {}
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as mask:
            sizes[path.name] = mask.size
    assert sizes == {"x.png": (20, 20), "x_png.png": (30, 30)}


def test_the_card_tells_what_a_folder_is(tiny_run: Path, tiny_artifact: Path) -> None:
    lines, facts = model_card(tiny_artifact)
    assert facts["id"] in "\n".join(lines)
    assert any("probability float32 (batch, 1, 32, 32)" in line for line in lines)
    lines, facts = model_card(tiny_run)
    assert any("threshold 0.3" in line for line in lines)
    json.dumps(facts)
