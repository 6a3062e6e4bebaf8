"""Maps, masks and splits that do not belong to the images: refused or said, never trained on or scored in silence."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import tiny_config
from typer.testing import CliRunner

from gazeseg_serve.cli.main import app
from gazeseg_serve.contract import Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, ContractError, DatasetError, TrainingError
from gazeseg_serve.export.gate_images import gate_images
from gazeseg_serve.files import json_text, read_json, write_json
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.learning.distributed import check_device
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.learning.relabel import relabel
from gazeseg_serve.training.masks.make import MaskSettings, make_masks
from gazeseg_serve.training.scoring.evaluate import evaluate

PLAIN = MaskSettings(crf=None)


@pytest.fixture
def data(phantoms: Path, tmp_path: Path) -> Path:
    """A copy of the phantoms that a test may change."""
    return Path(shutil.copytree(phantoms, tmp_path / "data"))


def turn(folder: Path) -> None:
    """Give every image of a folder another size."""
    for path in folder.iterdir():
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        path.write_bytes(encode_png(np.ascontiguousarray(image[:, :40])))


# Of another size or of another image.


@pytest.mark.parametrize("supervision", ["full", "box", "point"])
def test_masks_of_another_size_teach_nothing(data: Path, tmp_path: Path, supervision: str) -> None:
    turn(data / "masks")
    with pytest.raises(DatasetError, match="is 40 x 48 pixels, its image 48 x 48; give the mask the image's size"):
        train(tiny_config(f"data.supervision={supervision}"), data, None, tmp_path / "run", device="cpu")


def test_masks_of_another_size_score_nothing(data: Path, tiny_run: Path, phantom_masks: Path, tmp_path: Path) -> None:
    turn(data / "masks")
    with pytest.raises(DatasetError, match="40 x 48"):
        evaluate(tiny_run, data, "val")
    with pytest.raises(DatasetError, match="40 x 48"):  # the validation of a training
        train(tiny_config(), data, phantom_masks, tmp_path / "run", device="cpu")
    with pytest.raises(DatasetError, match="40 x 48"):
        gate_images(Run.load(tiny_run), data, "val", 2)


def test_maps_of_another_size_teach_nothing(data: Path, tiny_run: Path, phantom_masks: Path, tmp_path: Path) -> None:
    turn(data / "images")
    shutil.rmtree(data / "masks")
    with pytest.raises(DatasetError, match=r"map of phantom_\d+ in .* is 48 x 48 pixels and its image 40 x 48"):
        train(tiny_config(), data, phantom_masks, tmp_path / "run", device="cpu")
    with pytest.raises(DatasetError, match="make the masks of this dataset again"):
        relabel(tiny_run, data, phantom_masks, tmp_path / "out")


def test_maps_of_another_image_teach_nothing(data: Path, tiny_run: Path, phantom_masks: Path, tmp_path: Path) -> None:
    for path in (data / "images").iterdir():
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        path.write_bytes(encode_png(np.ascontiguousarray(image[::-1])))
    with pytest.raises(DatasetError, match="was made of another image of that name and size"):
        train(tiny_config(), data, phantom_masks, tmp_path / "run", device="cpu")
    with pytest.raises(DatasetError, match="another image"):
        relabel(tiny_run, data, phantom_masks, tmp_path / "out")


def test_relabelled_maps_know_their_images(data: Path, tiny_run: Path, phantom_masks: Path, tmp_path: Path) -> None:
    relabel(tiny_run, data, phantom_masks, tmp_path / "maps")
    train(tiny_config(), data, tmp_path / "maps", tmp_path / "run", device="cpu")
    for path in (data / "images").iterdir():
        path.write_bytes(encode_png(np.zeros((48, 48, 3), np.uint8)))
    with pytest.raises(DatasetError, match="another image"):
        train(tiny_config(), data, tmp_path / "maps", tmp_path / "second", device="cpu")


def test_maps_of_images_without_gaze_are_removed_and_not_trained_on(data: Path, tmp_path: Path) -> None:
    make_masks(data, tmp_path / "maps", PLAIN, jobs=1)
    gone, kept = sorted(Dataset.open(data).images)[:2]
    mine = tmp_path / "maps" / "heatmaps" / "mine.png"
    shutil.copy(tmp_path / "maps" / "heatmaps" / f"{kept}.png", mine)
    table = (data / "fixations.csv").read_text().splitlines()
    (data / "fixations.csv").write_text("\n".join(line for line in table if not line.startswith(gone)) + "\n")
    make_masks(data, tmp_path / "maps", PLAIN, jobs=1)
    assert not list((tmp_path / "maps").rglob(f"{gone}.*"))
    assert (tmp_path / "maps" / "heatmaps" / f"{kept}.png").is_file()
    assert mine.is_file()  # not of this program, so not removed
    assert gone not in read_json(tmp_path / "maps" / "masks.json")["stems"]
    shutil.copy(mine, tmp_path / "maps" / "heatmaps" / f"{gone}.png")  # a stale map that no record knows
    run = train(tiny_config(), data, tmp_path / "maps", tmp_path / "run", device="cpu")
    assert run.fingerprints != {}
    assert gone in run.splits["train"] or gone in run.splits["val"]


# Under another name.


def test_masks_under_other_names_are_said(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in list((data / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    summary = make_masks(data, tmp_path / "maps", PLAIN, jobs=1)
    assert "No true mask is there (18 file(s) in masks/ match no image)" in summary.verdict.line
    assert "18 of 18 file(s)" in caplog.text
    assert "_mask.png for one; a mask has the name of its image" in caplog.text


# Of images that were trained on.


def test_scores_of_training_images_are_called_so(
    data: Path, tiny_run: Path, tiny_artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(tiny_run, data, "val")
    evaluate(tiny_artifact, data, "val")
    assert caplog.records == [] or not any("trained on" in record.message for record in caplog.records)
    for model in (tiny_run, tiny_artifact):
        caplog.clear()
        evaluate(model, data, "train")
        assert "16 of the 16 images of split train were trained on: these scores say nothing of new images" in caplog.text
    trained = sorted(Run.load(tiny_run).splits["train"])[:3]
    (data / "splits").mkdir()
    (data / "splits" / "test.txt").write_text("\n".join(trained))
    caplog.clear()
    evaluate(tiny_run, data, "test")
    assert "3 of the 3 images of split test were trained on" in caplog.text
    caplog.clear()
    evaluate(tiny_artifact, data, "test")  # its training images are not named, and the folder's splits are others now
    assert "whether images of split test were trained on cannot be told" in caplog.text


# An unfinished run.


def test_an_unfinished_run_is_not_begun_anew_without_a_word(data: Path, phantom_masks: Path, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gazeseg_serve.training.learning.loop.write_run", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(), data, phantom_masks, out, device="cpu")
    before = (out / "checkpoint" / "state.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="holds an unfinished run; go on with it by --resume"):
        train(tiny_config(), data, phantom_masks, out, device="cpu")
    assert (out / "checkpoint" / "state.safetensors").read_bytes() == before
    train(tiny_config(), data, phantom_masks, out, resume=True, device="cpu")
    with pytest.raises(TrainingError, match="already holds a finished run"):
        train(tiny_config(), data, phantom_masks, out, device="cpu")
    with pytest.raises(TrainingError, match="start without --resume"):
        train(tiny_config(), data, phantom_masks, tmp_path / "other", resume=True, device="cpu")


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"\x08" + bytes(7) + b"{}      "])
def test_a_checkpoint_that_is_none_is_refused_and_kept(data: Path, phantom_masks: Path, tmp_path: Path, content: bytes) -> None:
    state = tmp_path / "run" / "checkpoint" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(content)
    with pytest.raises(ContractError, match=r"state\.safetensors"):
        train(tiny_config(), data, phantom_masks, tmp_path / "run", resume=True, device="cpu")
    assert state.read_bytes() == content


@pytest.mark.parametrize(("device", "words"), [("gpu", "use one of: auto, cpu, cuda"), ("tpu", "not known")])
def test_an_unknown_device_is_one_line(device: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_device(device)


@pytest.mark.parametrize("override", ["seed=-1", "data.size=100000", "optimiser.rate=nan", "loss.dice=inf"])
def test_a_value_that_no_training_takes_is_named(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        tiny_config(override)


# What machines read.


def test_json_is_json_whatever_the_figures(tmp_path: Path) -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf"), {"c": (float("-inf"), 2)}], "d": "NaN"}
    wanted = {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "NaN"}
    write_json(tmp_path / "x.json", value)
    for text in (json_text(value), (tmp_path / "x.json").read_text()):
        assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) == wanted


def test_the_last_line_of_evaluate_is_json(data: Path, tiny_run: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["evaluate", str(tiny_run), "--data", str(data), "--out", str(tmp_path / "out"), "--json"])
    for text in (shown.stdout.splitlines()[-1], (tmp_path / "out" / "evaluation.json").read_text()):
        found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert [row["member"] for row in found["members"]] == ["level 1", "level 2", "ensemble"]


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_command_does_its_work_without_standard_streams(data: Path, tmp_path: Path, closed: str) -> None:
    command = f'"{sys.executable}" -m gazeseg_serve masks "{data}" --no-crf --jobs 1 --out "{tmp_path / "maps"}" {closed}'
    found = subprocess.run(["bash", "-c", command], capture_output=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert found.returncode == 0, found.stderr
    assert read_json(tmp_path / "maps" / "masks.json")["stems"]


def test_the_log_of_a_test_reaches_the_capture(caplog: pytest.LogCaptureFixture) -> None:
    """Else the tests above would pass with nothing said."""
    logging.getLogger("gazeseg_serve").warning("said")
    assert "said" in caplog.text
