"""The masks command's work: nested levels, the same bytes for any number of jobs, resumed work, listed skips."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gazeseg_serve.errors import ConfigError, ContractError, DatasetError
from gazeseg_serve.files import read_json
from gazeseg_serve.imaging import read_image
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.gaze.simulate import write_phantoms
from gazeseg_serve.training.masks import one_image as mask_image
from gazeseg_serve.training.masks.make import (
    MaskSettings,
    check_thresholds,
    load_map,
    load_masks_info,
    make_masks,
    parse_thresholds,
    pseudo_mask_levels,
)

PLAIN = MaskSettings(crf=None)
maps = arrays(np.float32, (5, 6), elements=st.floats(0, 1, width=32))
levels = st.lists(st.floats(0.05, 0.95), min_size=1, max_size=4, unique=True)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), 3, 40, seed=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(maps, levels)
def test_masks_nest_by_threshold_in_the_order_given(values, thresholds):
    cut = pseudo_mask_levels(values, thresholds)
    assert cut.dtype == np.uint8
    for threshold, mask in zip(thresholds, cut, strict=True):
        np.testing.assert_array_equal(mask, values >= np.float32(threshold))
    order = np.argsort(thresholds)
    for low, high in itertools.pairwise(order):
        assert (cut[low] >= cut[high]).all()


@given(arrays(np.float32, (3, 4, 5), elements=st.floats(0, 1, width=32)), levels)
def test_with_classes_a_pixel_takes_the_highest_map_that_reaches_the_threshold(values, thresholds):
    cut = pseudo_mask_levels(values, thresholds)
    for k, i, j in np.ndindex(cut.shape):
        column = values[:, i, j].tolist()
        expected = column.index(max(column)) + 1 if max(column) >= np.float32(thresholds[k]) else 0
        assert cut[k, i, j] == expected


@given(maps)
def test_cutting_commutes_with_flipping(values):
    np.testing.assert_array_equal(
        pseudo_mask_levels(values[:, ::-1], (0.5, 0.3)), pseudo_mask_levels(values, (0.5, 0.3))[..., ::-1]
    )


def test_a_map_is_resized_before_it_is_cut():
    values = np.array([[0, 1], [0, 1]], np.float32)
    np.testing.assert_array_equal(pseudo_mask_levels(values, (0.5, 0.9), (2, 4))[:, 0], [[0, 0, 1, 1], [0, 0, 0, 1]])
    two = np.stack([values, 1 - values])
    np.testing.assert_array_equal(pseudo_mask_levels(two, (0.5,), (1, 4))[0, 0], [2, 2, 1, 1])


@pytest.mark.parametrize("bad", [(), (0.0,), (1.0,), (-0.1,), (float("nan"),), (0.5, 0.3, 0.5)])
def test_thresholds_that_cut_nothing_are_an_error(bad):
    with pytest.raises(ConfigError, match="threshold"):
        check_thresholds(bad)
    with pytest.raises(ConfigError, match="threshold"):
        MaskSettings(thresholds=bad)


def test_thresholds_are_read_in_order():
    assert parse_thresholds("0.5, .3,0.4") == (0.5, 0.3, 0.4)
    with pytest.raises(ConfigError, match=r"like 0\.5,0\.3"):
        parse_thresholds("0.5;0.3")


def test_the_folder_holds_what_it_says(phantoms, tmp_path):
    summary = make_masks(phantoms, tmp_path, MaskSettings(), jobs=1)
    assert (summary.images, summary.made, summary.reused) == (3, 3, 0)
    stem = "phantom_0001"
    heat, refined = load_map(tmp_path, stem, refined=False), load_map(tmp_path, stem, refined=True)
    assert heat.shape == refined.shape == (40, 40)
    assert heat.dtype == np.float32
    cut = pseudo_mask_levels(refined, (0.5, 0.3))
    for i in (1, 2):
        stored = read_image(tmp_path / "pseudo_masks" / f"level_{i}" / f"{stem}.png", channels=1)[..., 0]
        np.testing.assert_array_equal(stored, cut[i - 1] * 255)
    info = load_masks_info(tmp_path)
    assert info.settings == MaskSettings()
    assert info.stems == ("phantom_0000", "phantom_0001", "phantom_0002")
    with (tmp_path / "quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["used"] * 3
    truth = read_image(phantoms / "masks" / f"{stem}.png", channels=1)[..., 0] > 0
    overlap = 2 * (truth & (heat >= 0.5)).sum() / (truth.sum() + (heat >= 0.5).sum())
    assert float(rows[1]["dice_heatmap"]) == pytest.approx(overlap, abs=1e-6)


def test_any_number_of_jobs_writes_the_same_bytes(phantoms, tmp_path):
    make_masks(phantoms, tmp_path / "one", jobs=1)
    make_masks(phantoms, tmp_path / "two", jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_finished_image_is_not_redone(phantoms, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(mask_image, "refine", lambda image, heat, settings: calls.append(1) or heat)
    make_masks(phantoms, tmp_path, jobs=1)
    before = contents(tmp_path)
    assert len(calls) == 3

    (tmp_path / "masks.json").unlink()  # as after an interruption: two images are done, one is not
    (tmp_path / "records" / "phantom_0002.json").unlink()
    (tmp_path / "refined" / ".phantom_0002.png.abcd1234").write_bytes(b"half")
    summary = make_masks(phantoms, tmp_path, jobs=1)
    assert (summary.made, summary.reused, len(calls)) == (1, 2, 4)
    assert contents(tmp_path) == before

    (tmp_path / "heatmaps" / "phantom_0000.png").unlink()
    assert make_masks(phantoms, tmp_path, jobs=1).made == 1
    assert contents(tmp_path) == before
    (tmp_path / "records" / "phantom_0000.json").write_text("{")
    assert make_masks(phantoms, tmp_path, jobs=1).made == 1
    assert contents(tmp_path) == before


def test_new_thresholds_keep_the_maps(phantoms, tmp_path, monkeypatch):
    make_masks(phantoms, tmp_path / "a", jobs=1)
    make_masks(phantoms, tmp_path / "b", MaskSettings(thresholds=(0.4, 0.2, 0.3)), jobs=1)
    monkeypatch.setattr(mask_image, "refine", None)  # must not be called
    make_masks(phantoms, tmp_path / "a", MaskSettings(thresholds=(0.4, 0.2, 0.3)), jobs=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    monkeypatch.undo()
    make_masks(phantoms, tmp_path / "a", PLAIN, jobs=1)
    make_masks(phantoms, tmp_path / "c", PLAIN, jobs=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "c")


def test_changed_gaze_makes_its_image_again(tmp_path):
    data = write_phantoms(tmp_path / "data", 2, 32)
    make_masks(data, None, PLAIN, jobs=1)
    first = load_masks_info(data)
    lines = (data / "fixations.csv").read_text().splitlines()
    (data / "fixations.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert make_masks(data, None, PLAIN, jobs=1).made == 1
    assert load_masks_info(data).fingerprint != first.fingerprint
    (data / "masks" / "phantom_0000.png").unlink()
    assert make_masks(data, None, PLAIN, jobs=1).made == 1


def test_bad_rows_and_images_are_listed_and_counted(tmp_path):
    data = write_phantoms(tmp_path / "data", 4, 32)
    (data / "images" / "phantom_0001.png").write_bytes(b"not an image")
    (data / "masks" / "phantom_0002.png").write_bytes(encode_png(np.zeros((5, 6), np.uint8)))
    lines = (data / "fixations.csv").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("phantom_0003")]
    lines += ["phantom_0000.png,900,1.5,0.5,300,0,99999,32,32", "gone.png,1,0.5,0.5,300,0,7,32,32"]
    (data / "fixations.csv").write_text("\n".join(lines) + "\n")
    summary = make_masks(data, tmp_path / "out", PLAIN, jobs=1)
    assert summary.images == 1
    assert summary.dropped == {"outside the image": 1, "unknown image": 1}
    assert set(summary.skipped) == {"phantom_0001", "phantom_0002", "phantom_0003"}
    assert "6 x 5" in summary.skipped["phantom_0002"]
    with (tmp_path / "out" / "quality.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert rows["phantom_0000"]["dropped: outside the image"] == "1"
    assert rows["gone"]["status"] == "unknown image"
    assert rows["gone"]["dropped: unknown image"] == "1"
    assert rows["phantom_0003"]["status"] == "skipped: no usable fixation"
    last = len(lines)
    assert (tmp_path / "out" / "dropped.csv").read_text().splitlines() == [
        "file,line,image,reason",
        f"{data / 'fixations.csv'},{last - 1},phantom_0000,outside the image",
        f"{data / 'fixations.csv'},{last},gone,unknown image",
    ]
    with pytest.raises(FileNotFoundError):
        load_map(tmp_path / "out", "phantom_0001", refined=False)
    with pytest.raises(DatasetError, match="3 problem"):
        make_masks(data, tmp_path / "strict", PLAIN, jobs=1, strict=True)
    assert not (tmp_path / "strict").exists()


def test_strict_also_refuses_an_unreadable_image(tmp_path):
    data = write_phantoms(tmp_path / "data", 2, 32)
    (data / "images" / "phantom_0001.png").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match="phantom_0001"):
        make_masks(data, tmp_path / "out", PLAIN, jobs=1, strict=True)
    with pytest.raises(DatasetError, match="is missing"):
        load_map(tmp_path / "out", "phantom_0000", refined=False)


def test_no_usable_image_is_an_error(tmp_path):
    data = write_phantoms(tmp_path / "data", 1, 32)
    lines = (data / "fixations.csv").read_text().splitlines()
    lines[1:] = [",".join([*cells[:4], "0", *cells[5:]]) for cells in (line.split(",") for line in lines[1:])]
    (data / "fixations.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match="0 ms"):
        make_masks(data, tmp_path / "out", PLAIN, jobs=1)


def test_several_classes_have_a_map_each(tmp_path):
    data = write_phantoms(tmp_path / "data", 1, 32)
    rows = ["phantom_0000,1,0.2,0.5,300,0,7,32,32,left", "phantom_0000,1,0.8,0.5,300,0,7,32,32,right"]
    header = (data / "fixations.csv").read_text().splitlines()[0]
    (data / "fixations.csv").write_text("\n".join([header + ",CLASS", *rows]) + "\n")
    labels = np.zeros((32, 32), np.uint8)
    labels[10:22, 2:12], labels[10:22, 20:30] = 1, 2
    (data / "masks" / "phantom_0000.png").write_bytes(encode_png(labels))
    settings = MaskSettings(classes=("left", "right"), crf=None, thresholds=(0.4,))
    summary = make_masks(data, tmp_path / "out", settings, jobs=1)
    values = load_map(tmp_path / "out", "phantom_0000", refined=False)
    assert values.shape == (2, 32, 32)
    np.testing.assert_allclose(values[0], values[1][:, ::-1], atol=0.06)
    stored = cv2.imread(str(tmp_path / "out/pseudo_masks/level_1/phantom_0000.png"), cv2.IMREAD_UNCHANGED)
    assert stored[16, 6] == 1
    assert stored[16, 25] == 2
    assert stored[0, 0] == 0
    assert summary.means["inside"] == 1.0
    assert summary.means["dice_level_1"] > 0.5


def test_a_folder_that_is_not_finished_or_lacks_the_crf_is_an_error(phantoms, tmp_path):
    with pytest.raises(DatasetError, match=r"masks\.json is missing"):
        load_map(tmp_path, "phantom_0000", refined=False)
    make_masks(phantoms, tmp_path, PLAIN, jobs=1)
    with pytest.raises(DatasetError, match="without CRF"):
        load_map(tmp_path, "phantom_0000", refined=True)
    data = read_json(tmp_path / "masks.json")
    (tmp_path / "masks.json").write_text(json.dumps(data | {"schema": "gazeseg-masks/99"}))
    with pytest.raises(ContractError, match="gazeseg-masks/99"):
        load_masks_info(tmp_path)


@pytest.mark.parametrize("change", [{"degrees": 1.0}, {"sigma": 0.0}, {"thresholds": (2.0,)}])
def test_settings_that_cannot_be_used_are_an_error(change):
    with pytest.raises(ConfigError):
        MaskSettings(**change)


def test_a_folder_that_cannot_be_written_is_an_error(phantoms, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ContractError, match="is a file"):
        make_masks(phantoms, tmp_path / "file", PLAIN, jobs=1)


@pytest.mark.parametrize("jobs", [0, 257])
def test_a_number_of_jobs_that_makes_no_sense_is_an_error(phantoms, tmp_path, jobs):
    with pytest.raises(ConfigError, match="jobs"):
        make_masks(phantoms, tmp_path, PLAIN, jobs=jobs)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_where_it_stopped(tmp_path, sent):
    data = write_phantoms(tmp_path / "data", 14, 128)
    command = [sys.executable, "-m", "gazeseg_serve", "masks", str(data), "--out", str(tmp_path / "out"), "--jobs", "2"]
    # A shell starts its background jobs deaf to SIGINT, and they hand that on: hear it again.
    with subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        records = tmp_path / "out" / "records"
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up and run.poll() is None and len(list(records.glob("p*.json"))) < 2:
            time.sleep(0.02)
        workers = psutil.Process(run.pid).children(recursive=True)
        os.kill(run.pid, sent)
        output = run.stdout.read().decode()
    assert run.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL), output
    assert "Traceback" not in output
    _, left = psutil.wait_procs(workers, timeout=60)
    assert not left, "workers of a killed parent see it and leave"
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "refined").glob("p*.png")}
    finished = {path.stem for path in records.glob("p*.json")}
    assert 2 <= len(finished) < 14
    assert not (tmp_path / "out" / "masks.json").exists()
    summary = make_masks(data, tmp_path / "out", jobs=1)
    assert (summary.images, summary.reused) == (14, len(finished))
    for stem in finished:
        assert (tmp_path / "out" / "refined" / f"{stem}.png").stat().st_mtime_ns == done[f"{stem}.png"]
