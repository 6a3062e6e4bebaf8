"""Heatmap, CRF and the masks folder: what one changed constant, comparison or clean-up would break in silence."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazeseg_serve.errors import ConfigError, DatasetError, GazesegError
from gazeseg_serve.files import read_json
from gazeseg_serve.pixels import resize_map
from gazeseg_serve.png import encode_map, encode_png, read_map
from gazeseg_serve.training.gaze.fixations import ScanPath
from gazeseg_serve.training.gaze.simulate import write_phantoms
from gazeseg_serve.training.masks import make as pseudo_masks
from gazeseg_serve.training.masks.crf import refine
from gazeseg_serve.training.masks.folder import load_map, load_masks_info
from gazeseg_serve.training.masks.heatmap import accumulate, heatmap
from gazeseg_serve.training.masks.levels import pseudo_mask_levels
from gazeseg_serve.training.masks.make import make_masks
from gazeseg_serve.training.masks.quality import entropy, inside_share, measure
from gazeseg_serve.training.masks.settings import CANVAS, CrfSettings, MaskSettings, parse_crf

PLAIN = MaskSettings(crf=None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_phantoms(tmp_path / "data", 4, 32)


# Heatmap


@pytest.mark.parametrize("size", [(546, 626), (1024, 1280), (100, 90), (CANVAS, 900)])
def test_a_heatmap_is_resized_by_cubic_interpolation(size: tuple[int, int]) -> None:
    x, y, duration = np.array([0.3, 0.35, 0.8]), np.array([0.6, 0.2, 0.7]), np.array([200.0, 500.0, 300.0])
    heat = accumulate(x, y, duration, 20.0)
    unit = ((heat - heat.min()) / (heat.max() - heat.min())).astype(np.float32)
    wanted = np.clip(cv2.resize(unit, size[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)
    np.testing.assert_allclose(heatmap(x, y, duration, size, 20.0), wanted, atol=1e-5)
    linear = cv2.resize(unit, size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(linear - wanted).max() > 1e-4, "the test tells them apart"


def test_only_a_sigma_up_to_the_canvas_is_a_width() -> None:
    one = np.array([0.5])
    assert heatmap(np.array([0.2]), one, one, (8, 8), 200.0).max() == pytest.approx(1, abs=0.1)
    MaskSettings(sigma=float(CANVAS))
    with pytest.raises(ConfigError):
        MaskSettings(sigma=CANVAS + 0.01)


@given(st.integers(1, 12), st.integers(1, 40))
def test_the_canvas_is_made_in_pieces_that_fit_together(count: int, side: int) -> None:
    """The product is done a few rows at a time: whatever the number of fixations, no row is missed."""
    rng = np.random.default_rng(count * 100 + side)
    x, y, duration = rng.random(count), rng.random(count), rng.uniform(50, 500, count)
    heat = accumulate(x, y, duration, 3.0, side=40)
    assert heat.sum() == pytest.approx(duration.sum(), rel=1e-6)
    alone = sum(accumulate(x[i : i + 1], y[i : i + 1], duration[i : i + 1], 3.0, side=40) for i in range(count))
    np.testing.assert_allclose(heat, alone, atol=1e-9)


# CRF


def test_the_defaults_are_the_published_parameters() -> None:
    """Zhong et al., MICCAI 2024, and its release: sxy 80, srgb 13, compat 1, ten mean-field steps."""
    assert dataclasses.astuple(CrfSettings()) == (80.0, 13.0, 1.0, 10)
    assert MaskSettings().crf == CrfSettings()
    assert (MaskSettings().sigma, MaskSettings().thresholds) == (70.0, (0.5, 0.3))


@pytest.mark.parametrize(
    ("name", "low", "high"), [("sxy", 0.01, 10_000), ("srgb", 0.01, 1_000), ("compat", 0.0, 1_000), ("iterations", 1, 1000)]
)
def test_the_limits_of_a_setting_are_part_of_its_range(name: str, low: float, high: float) -> None:
    for value in (low, high):
        CrfSettings(**{name: value})
    step = 1 if name == "iterations" else 1e-4
    for value in (low - step, high + step):
        with pytest.raises(ConfigError, match=name):
            CrfSettings(**{name: value})


def test_each_setting_is_passed_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydensecrf")
    from pydensecrf import densecrf

    given: dict[str, Any] = {}

    class Spy:
        def __init__(self, width: int, height: int, labels: int) -> None:
            given.update(width=width, height=height, labels=labels)

        def setUnaryEnergy(self, energy: np.ndarray) -> None:
            given["unary"] = energy

        def addPairwiseBilateral(self, **settings: Any) -> None:
            given.update(settings)

        def inference(self, steps: int) -> np.ndarray:
            given["steps"] = steps
            return np.exp(-given["unary"])

    monkeypatch.setattr(densecrf, "DenseCRF2D", Spy)
    heat = np.array([[0.0, 0.25, 1.0]], np.float32)
    image = np.zeros((1, 3, 3), np.uint8)
    np.testing.assert_allclose(refine(image, heat, CrfSettings(2.0, 3.0, 4.0, 5)), heat, atol=1.1e-5)
    assert (given["width"], given["height"], given["labels"]) == (3, 1, 2)
    assert (given["sxy"], given["srgb"], given["compat"], given["steps"]) == (2.0, 3.0, 4.0, 5)
    np.testing.assert_allclose(given["unary"], -np.log([[1, 0.75, 1e-5], [1e-5, 0.25, 1]]), rtol=1e-5)


def test_numbers_on_the_command_line_are_of_their_kind() -> None:
    assert parse_crf(["compat=2", "srgb=5.5"]) == CrfSettings(compat=2.0, srgb=5.5)
    with pytest.raises(ConfigError, match="is not a whole number"):
        parse_crf(["iterations=2.5"])
    with pytest.raises(ConfigError, match="is not a number"):
        parse_crf(["sxy=wide"])


# Maps as files


@given(st.integers(0, 65535))
def test_a_stored_map_comes_back_to_a_step(step: int) -> None:
    values = np.array([[step / 65535, 0.0, 1.0]], np.float32)
    data = encode_map(values)
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16
    assert raw.tolist() == [[step, 0, 65535]]


def test_a_map_is_read_on_its_own_scale(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    (tmp_path / "m.png").write_bytes(encode_map(values))
    np.testing.assert_allclose(read_map(tmp_path / "m.png"), values, atol=0.5 / 65535)
    (tmp_path / "eight.png").write_bytes(encode_png(np.zeros((4, 6), np.uint8)))
    with pytest.raises(GazesegError, match="16-bit"):
        read_map(tmp_path / "eight.png")


def test_labels_of_several_classes_at_another_size_are_cut_after_the_resize() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((3, 9, 12)).astype(np.float32)
    small = np.stack([resize_map(one, (5, 7)) for one in maps])
    wanted = np.where(small.max(0) >= 0.6, small.argmax(0) + 1, 0)
    np.testing.assert_array_equal(pseudo_mask_levels(maps, (0.6,), (5, 7))[0], wanted)
    assert pseudo_mask_levels(maps, (0.6, 0.2), (5, 7)).shape == (2, 5, 7)


def test_a_value_at_the_threshold_is_foreground() -> None:
    values = np.array([[0.5, 0.4999]], np.float32)
    assert pseudo_mask_levels(values, (0.5,)).tolist() == [[[1, 0]]]
    assert pseudo_mask_levels(np.stack([values, values / 2]), (0.5,)).tolist() == [[[1, 0]]]


# The folder


def test_work_that_stops_half_way_leaves_no_summary_of_the_old_settings(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_masks(data, None, PLAIN, jobs=1)
    right, made = pseudo_masks.make_image, []

    def stops(job: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.append(job)
        return right(job)

    monkeypatch.setattr(pseudo_masks, "make_image", stops)
    with pytest.raises(KeyboardInterrupt):
        make_masks(data, None, dataclasses.replace(PLAIN, sigma=40.0), jobs=1)
    assert not (data / "masks.json").exists(), "it speaks of maps that are half replaced"
    with pytest.raises(DatasetError, match="no finished masks"):
        load_map(data, "phantom_0000", refined=False)
    monkeypatch.undo()
    summary = make_masks(data, None, dataclasses.replace(PLAIN, sigma=40.0), jobs=1)
    assert (summary.made, summary.reused) == (3, 1)


def test_a_folder_with_nothing_to_do_keeps_its_summary_while_it_looks(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_masks(data, None, PLAIN, jobs=1)
    before = (data / "masks.json").read_bytes()
    summary = make_masks(data, None, PLAIN, jobs=1)
    assert (summary.made, summary.reused) == (0, 4)
    assert (data / "masks.json").read_bytes() == before


@pytest.mark.parametrize("kind", ["heatmaps", "pseudo_masks/level_2"])
def test_a_truncated_file_is_made_again(data: Path, kind: str) -> None:
    make_masks(data, None, PLAIN, jobs=1)
    path = data / kind / "phantom_0002.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    summary = make_masks(data, None, PLAIN, jobs=1)
    assert (summary.made, summary.reused) == (1, 3)
    assert path.read_bytes() == whole


def test_a_killed_worker_is_one_error_that_says_the_fix(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system kills the largest process when memory runs out; what is left must say so without a traceback."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    def killed(self: ProcessPoolExecutor, *_: Any, **__: Any) -> Iterator[Any]:
        raise BrokenProcessPool("a process in the process pool was terminated abruptly")

    monkeypatch.setattr(ProcessPoolExecutor, "map", killed)
    with pytest.raises(GazesegError, match=r"killed.*fewer --jobs"):
        make_masks(data, None, PLAIN, jobs=2)


def test_the_share_of_fixations_in_the_image_counts_the_rows_beside_it(data: Path) -> None:
    table = data / "fixations.csv"
    lines = table.read_text().splitlines()
    n = sum(line.startswith("phantom_0001") for line in lines)
    lines += [f"phantom_0001.png,{900 + i},1.5,0.5,300,0,{99_000 + i},32,32" for i in range(3)]
    lines += ["phantom_0001.png,990,0.5,0.5,-1,0,99100,32,32"]  # dropped for another reason: not counted here
    table.write_text("\n".join(lines) + "\n")
    make_masks(data, None, PLAIN, jobs=1)
    with (data / "quality.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert float(rows["phantom_0001"]["in_image"]) == pytest.approx(n / (n + 3), abs=1e-6)
    assert float(rows["phantom_0000"]["in_image"]) == 1
    assert rows["phantom_0001"]["fixations"] == f"{n:.1f}"


def test_maps_of_settings_that_no_longer_hold_are_gone(data: Path) -> None:
    make_masks(data, None, MaskSettings(thresholds=(0.5, 0.3, 0.2)), jobs=1)
    assert (data / "refined").is_dir()
    make_masks(data, None, PLAIN, jobs=1)
    assert not (data / "refined").exists()
    assert sorted(path.name for path in (data / "pseudo_masks").iterdir()) == ["level_1", "level_2"]


def test_a_class_that_an_image_does_not_show_has_an_empty_map(data: Path) -> None:
    header, *rows = (data / "fixations.csv").read_text().splitlines()
    named = [f"{row},{'left' if row.startswith('phantom_0000') else 'right'}" for row in rows]
    (data / "fixations.csv").write_text("\n".join([f"{header},CLASS", *named]) + "\n")
    shutil.rmtree(data / "masks")  # of one class
    make_masks(data, None, MaskSettings(classes=("left", "right")), jobs=1)
    for stem, shown in (("phantom_0000", 0), ("phantom_0001", 1)):
        for refined in (False, True):
            maps = load_map(data, stem, refined)
            assert maps[shown].max() > 0.5
            assert maps[1 - shown].max() == 0


def test_the_fingerprint_is_of_settings_and_files(data: Path, tmp_path: Path) -> None:
    make_masks(data, tmp_path / "a", PLAIN, jobs=1)
    make_masks(data, tmp_path / "b", dataclasses.replace(PLAIN, thresholds=(0.5, 0.2)), jobs=1)
    make_masks(data, tmp_path / "c", PLAIN, jobs=1)
    a, b, c = (load_masks_info(tmp_path / name).fingerprint for name in "abc")
    assert a == c != b


def test_detected_fixations_are_written_with_the_size_of_their_image(tmp_path: Path) -> None:
    from test_raw_gaze import recording, write

    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode_png(np.zeros((54, 96, 3), np.uint8)))
    time, place = recording(100)
    write(tmp_path, [f"{t},{x},{y},a" for t, (x, y) in zip(time, place, strict=True)])
    make_masks(tmp_path, None, PLAIN, jobs=1)
    with (tmp_path / "detected_fixations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["IMAGE_HEIGHT"], row["IMAGE_WIDTH"]) for row in rows} == {("54", "96")}


def test_a_record_says_the_size_and_the_bytes_of_every_file(data: Path) -> None:
    make_masks(data, None, PLAIN, jobs=1)
    record = read_json(data / "records" / "phantom_0003.json")
    assert record["size"] == [32, 32]
    assert set(record["files"]) == {
        f"heatmaps/{s}.png" if k == 0 else f"pseudo_masks/level_{k}/{s}.png" for s in ["phantom_0003"] for k in (0, 1, 2)
    }
    for name, (length, _) in record["files"].items():
        assert (data / name).stat().st_size == length


def test_a_worker_is_deaf_to_ctrl_c_and_leaves_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    here, there = os.pipe()
    left: list[int] = []

    class Parent:
        sentinel = here

    monkeypatch.setattr(pseudo_masks.multiprocessing, "parent_process", lambda: Parent)
    monkeypatch.setattr(pseudo_masks.os, "_exit", left.append)
    try:
        pseudo_masks._start_worker()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        followers = [t for t in pseudo_masks.threading.enumerate() if t.name.endswith("(follow)")]
        assert left == []
        os.close(there)  # the parent is gone
        for thread in followers:
            thread.join(20)
        assert left == [1]
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(here)


# Quality


def scan(*fixations: tuple[float, float, float], labels: tuple[int, ...] | None = None) -> ScanPath:
    x, y, duration = (np.array(column) for column in zip(*fixations, strict=True))
    return ScanPath(x, y, duration, np.array(labels or (1,) * len(fixations)))


def test_the_figures_of_one_image_by_hand() -> None:
    path = scan((0.2, 0.5, 100.0), (0.6, 0.5, 300.0), (0.6, 0.9, 100.0))
    heat = np.zeros((1, 10, 10), np.float32)
    heat[0, 4:8, 4:8], heat[0, 5, 5] = 0.5, 1.0
    refined = np.zeros_like(heat)
    refined[0, 4:8, 4:6] = 0.9
    levels = np.stack([refined[0] >= 0.5, heat[0] >= 0.3]).astype(np.uint8)
    truth = np.zeros((10, 10), np.uint8)
    truth[4:9, 4:8] = 1
    row = measure(path, heat, refined, levels, truth)
    assert row["fixations"] == 3
    assert row["gaze_seconds"] == 0.5
    assert row["centroid_x"] == pytest.approx(0.2 * 0.2 + 0.6 * 0.8, abs=1e-6)
    assert row["centroid_y"] == pytest.approx(0.5 * 0.8 + 0.9 * 0.2, abs=1e-6)
    dispersion = np.sqrt(0.2 * (0.32**2 + 0.08**2) + 0.6 * (0.08**2 + 0.08**2) + 0.2 * (0.08**2 + 0.32**2))
    assert row["dispersion"] == pytest.approx(dispersion, abs=1e-6)
    assert row["step"] == pytest.approx(0.4, abs=1e-6)
    assert row["wander"] == pytest.approx(0.4 / dispersion, abs=1e-5)
    assert row["coverage"] == 0.16
    assert (row["area_level_1"], row["area_level_2"]) == (0.08, 0.16)
    assert row["nesting"] == 0.5
    assert row["crf_agreement"] == pytest.approx(2 * 8 / (16 + 8), abs=1e-6)
    assert row["inside"] == pytest.approx(1 / 3, abs=1e-6)  # (6, 5) lies inside, (2, 5) and (6, 9) do not
    assert row["dice_heatmap"] == pytest.approx(2 * 16 / (16 + 20), abs=1e-6)
    assert row["dice_refined"] == pytest.approx(2 * 8 / (8 + 20), abs=1e-6)
    assert row["dice_level_1"] == row["dice_refined"]
    assert row["dice_level_2"] == row["dice_heatmap"]
    blind = measure(path, heat, None, levels, None)
    assert not {"inside", "dice_heatmap", "dice_refined", "crf_agreement", "dice_level_1"} & set(blind)


def test_one_fixation_neither_wanders_nor_spreads() -> None:
    row = measure(scan((0.5, 0.5, 100.0)), np.ones((1, 4, 4), np.float32), None, np.zeros((2, 4, 4), np.uint8), None)
    assert (row["dispersion"], row["step"], row["wander"], row["nesting"]) == (0, 0, 0, 0)


def test_entropy_is_0_for_a_point_and_1_for_a_flat_map() -> None:
    assert entropy(np.ones((100, 130), np.float32)) == pytest.approx(1)
    point = np.zeros((64, 64), np.float32)
    point[3, 5] = 2
    assert entropy(point) == 0
    point[3, 40] = 2
    assert entropy(point) == pytest.approx(np.log(2) / np.log(64 * 64))


def test_a_fixation_counts_on_its_own_class_and_on_the_last_pixel() -> None:
    truth = np.zeros((4, 8), np.uint8)
    truth[3, 7], truth[0, 0] = 1, 2
    path = scan((1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 1.0), labels=(1, 2, 1))
    assert inside_share(path, truth) == pytest.approx(2 / 3)
