"""The threshold sweep against cutting every mask for real, and recommendations that follow the figures."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from gazeseg_serve.cli.main import app
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.metrics import class_dice, dice
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.gaze.fixations import ScanPath, read_fixations, write_fixations
from gazeseg_serve.training.gaze.simulate import write_phantoms
from gazeseg_serve.training.masks.make import MaskSettings, load_map, make_masks, pseudo_mask_levels
from gazeseg_serve.training.masks.threshold_report import write_sweep
from gazeseg_serve.training.masks.threshold_sweep import ThresholdSweep, parse_grid, recommend, sweep_thresholds

GRID = (0.2, 0.3, 0.4, 0.5, 0.6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_phantoms(tmp_path_factory.mktemp("phantoms"), 4, 48, seed=0)
    (folder / "masks" / "phantom_0003.png").unlink()
    make_masks(folder, jobs=1)
    return folder


def test_every_figure_is_that_of_masks_cut_for_real(data):
    sweep = sweep_thresholds(data, data, GRID)
    truths = Dataset.open(data)
    for n, stem in enumerate(["phantom_0000", "phantom_0001", "phantom_0002", "phantom_0003"]):
        heat, refined = (load_map(data, stem, refined) for refined in (False, True))
        cut = {"heatmap": pseudo_mask_levels(heat, GRID), "refined": pseudo_mask_levels(refined, GRID)}
        np.testing.assert_allclose(sweep.area[:, n], cut["refined"].mean(axis=(1, 2)))
        expected = [dice(a, b) for a, b in zip(cut["heatmap"], cut["refined"], strict=True)]
        np.testing.assert_allclose(sweep.crf_agreement[:, n], expected)
        for i in (1, 2, 3):
            assert sweep.steady[i, n] == pytest.approx(dice(cut["refined"][i - 1], cut["refined"][i + 1]))
        if stem in truths.masks:
            for name in cut:
                np.testing.assert_allclose(sweep.dice[name][:, n], [dice(m, truths.mask(stem)) for m in cut[name]])
    assert sweep.dice["heatmap"].shape == (5, 3)
    assert np.isnan(sweep.steady[[0, 4]]).all()


def test_agreement_of_a_pair_is_the_mean_dice_of_its_two_levels(data):
    sweep = sweep_thresholds(data, None, GRID)
    assert sweep.dice == {}
    masks = [pseudo_mask_levels(load_map(data, f"phantom_{n:04d}", refined=True), GRID) for n in range(4)]
    for i, j in np.ndindex(5, 5):
        assert sweep.agreement[i, j] == pytest.approx(np.mean([dice(m[i], m[j]) for m in masks]))


def test_several_classes_are_scored_by_class(tmp_path):
    folder = write_phantoms(tmp_path / "data", 2, 32)
    table = read_fixations(folder / "fixations.csv", Dataset.open(folder).images)
    paths = {stem: ScanPath(s.x, s.y, s.duration, 1 + (s.x > 0.5)) for stem, s in table.paths.items()}
    write_fixations(folder / "fixations.csv", paths, dict.fromkeys(paths, (32, 32)), ("left", "right"))
    truth = np.full((32, 32), 2, np.uint8)
    truth[:, :16] = 1
    for path in (folder / "masks").iterdir():
        path.write_bytes(encode_png(truth))
    make_masks(folder, None, MaskSettings(crf=None, classes=("left", "right")), jobs=1)
    sweep = sweep_thresholds(folder, folder, GRID)
    assert sweep.crf_agreement is None
    for n in range(2):
        cut = pseudo_mask_levels(load_map(folder, f"phantom_{n:04d}", refined=False), GRID)
        expected = [np.mean(class_dice(labels, truth, 2)) for labels in cut]
        np.testing.assert_allclose(sweep.dice["heatmap"][:, n], expected)
        np.testing.assert_allclose(sweep.area[:, n], (cut > 0).mean(axis=(1, 2)))


def made_up(dice_by_threshold: list[float] | None, steady: list[float]) -> ThresholdSweep:
    column = np.array(steady)[:, None]
    scores = {} if dice_by_threshold is None else {"heatmap": np.array(dice_by_threshold)[:, None]}
    return ThresholdSweep(GRID, "heatmap", np.full((5, 1), 0.1), column, np.ones((5, 5)), None, scores)


def test_with_masks_the_ends_of_the_plateau_are_recommended():
    found = recommend(made_up([0.5, 0.795, 0.80, 0.795, 0.6], [np.nan] * 5))
    assert found.thresholds == (0.5, 0.3)
    assert found.plateau == (0.3, 0.5)
    assert "best at 0.4 (mean Dice 0.8000)" in found.reason


@pytest.mark.parametrize(
    ("scores", "pair"),
    [([0.5, 0.6, 0.8, 0.7, 0.6], (0.5, 0.4)), ([0.9, 0.8, 0.7, 0.6, 0.5], (0.3, 0.2)), ([0.1, 0.2, 0.3, 0.4, 0.5], (0.6, 0.5))],
)
def test_a_steep_peak_takes_its_better_neighbour(scores, pair):
    assert recommend(made_up(scores, [np.nan] * 5)).thresholds == pair


def test_the_better_map_is_recommended():
    sweep = made_up([0.5, 0.6, 0.7, 0.6, 0.5], [np.nan] * 5)
    both = dataclasses.replace(sweep, dice=sweep.dice | {"refined": sweep.dice["heatmap"] + 0.1})
    assert recommend(both).maps == "refined"
    assert recommend(sweep).maps == "heatmap"


def test_without_masks_the_levels_stand_around_the_steadiest_threshold():
    found = recommend(made_up(None, [np.nan, 0.7, 0.75, 0.7, np.nan]))
    assert found.thresholds == (0.5, 0.3)
    assert found.plateau is None
    with pytest.raises(ConfigError, match="widen"):
        recommend(made_up(None, [np.nan] * 5))


def test_grids_are_read():
    assert parse_grid("0.1:0.3:0.05") == (0.1, 0.15, 0.2, 0.25, 0.3)
    assert parse_grid("0.5,0.3") == (0.3, 0.5)


@pytest.mark.parametrize("text", ["0.5", "0:1:0.1", "0.1:0.9", "0.1:0.9:0", "0.1:0.9:1e-9", "a,b", "0.3,0.3", "0.9:0.1:0.1"])
def test_a_grid_that_is_none_is_an_error(text):
    with pytest.raises(ConfigError):
        parse_grid(text)


def test_the_report_holds_tables_and_plots(data, tmp_path):
    sweep = sweep_thresholds(data, data, GRID)
    facts = write_sweep(tmp_path, sweep, recommend(sweep))
    assert facts[0].startswith("recommended: --thresholds ")
    assert any("published for Kvasir-SEG, 0.5,0.3" in fact for fact in facts)
    with (tmp_path / "thresholds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["threshold"]) for row in rows] == list(GRID)
    for row in rows:
        assert float(row["dice_refined_low"]) <= float(row["dice_refined"]) <= float(row["dice_refined_high"])
    with (tmp_path / "pairs.csv").open() as file:
        pairs = {(row["high"], row["low"]): row for row in csv.DictReader(file)}
    assert len(pairs) == 10
    expected = sweep.dice["refined"].mean(axis=1)
    assert float(pairs["0.5", "0.3"]["dice_refined"]) == pytest.approx((expected[3] + expected[1]) / 2, abs=1e-6)
    assert (tmp_path / "thresholds.html").read_text().count("data:image/png") == 2


def test_images_that_are_not_there_are_an_error(data, tmp_path):
    with pytest.raises(DatasetError, match="nobody"):
        sweep_thresholds(data, None, GRID, stems=["nobody"])
    with pytest.raises(DatasetError, match="is missing"):
        sweep_thresholds(tmp_path)


def test_the_commands_end_in_a_machine_readable_line(data, tmp_path):
    run = CliRunner().invoke(
        app, ["thresholds", str(data), "--data", str(data), "--out", str(tmp_path / "t"), "--grid", "0.2:0.6:0.1", "--json"]
    )
    assert run.exit_code == 0, run.output
    last = json.loads(run.stdout.splitlines()[-1], parse_constant=pytest.fail)
    assert len(last["recommendation"]["thresholds"]) == 2
    run = CliRunner().invoke(
        app,
        [
            "masks",
            str(data),
            "--out",
            str(tmp_path / "m"),
            "--no-crf",
            "--jobs",
            "1",
            "--sigma-degrees",
            "1.5",
            "--screen",
            "53x30@60",
            "--thresholds",
            "0.6,0.4,0.2",
            "--json",
        ],
    )
    assert run.exit_code == 0, run.output
    last = json.loads(run.stdout.splitlines()[-1])
    assert last["images"] == 4
    assert (tmp_path / "m" / "pseudo_masks" / "level_3").is_dir()
    for wrong in (["--sigma-degrees", "1"], ["--thresholds", "2"], ["--sigma", "0"], ["--screen", "x"]):
        run = CliRunner().invoke(app, ["masks", str(data), "--out", str(tmp_path / "w"), *wrong])
        assert run.exit_code == 1
        assert isinstance(run.exception, ConfigError)
