"""`masks` on trackers' own files: what it prints, readers together and apart, and damaged files that end in one line."""

import random
import shutil
from pathlib import Path

import gaze_files as made
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gazeseg_serve.cli.main import app
from gazeseg_serve.contract import InputSpec
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError, GazesegError
from gazeseg_serve.training.gaze.names import ImageNames
from gazeseg_serve.training.gaze.sources import find_gaze, read_for
from gazeseg_serve.training.learning.config import Data, Levels, TrainConfig
from gazeseg_serve.training.learning.data import pack_gaze
from gazeseg_serve.training.masks.by_reader import make_masks_by_reader
from gazeseg_serve.training.masks.folder import load_map
from gazeseg_serve.training.masks.make import MaskSettings, make_masks

SETTINGS = MaskSettings(crf=None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for stem, (height, width) in made.SIZES.items():
        Image.new("RGB", (width, height), (90, 60, 40)).save(folder / "images" / f"{stem}.png")
    return folder


def by_readers(data: Path) -> Path:
    rows = ["l,0.2,0.5,200,ann", "l,0.2,0.5,200,ann", "l,0.8,0.5,100,b/ob", "p,0.5,0.5,70,ann"]
    return made.write(data / "fixations.csv", ["IMAGE,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION,READER", *rows])


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["masks", "--no-crf", "--jobs", "1", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.output


def test_the_command_says_what_it_recognised_and_assumed(data, tmp_path):
    source = made.tobii_pro_lab(tmp_path / "gaze")
    code, said = run(data, "--gaze", source, "--out", tmp_path / "out")
    assert code == 0
    assert "source: Tobii Pro Lab export (raw samples), told by its columns Recording timestamp, Gaze point left X" in said
    assert "source: every image is taken to have been as large as fits the screen of 1920 x 1080 pixels" in said
    assert "source: the screen is taken to be 52.7 x 29.6 cm, 60 cm away" in said
    assert "source: 2 readers: P1, P2" in said
    assert "the reader's time: 0.0 minutes, 0.8 s an image (0.8 s of it fixations)" in said
    page = (tmp_path / "out" / "quality.html").read_text()
    assert "Tobii Pro Lab export" in page
    assert "2 readers: P1, P2" in page
    assert (tmp_path / "out" / "detected_fixations.csv").is_file()
    assert read_for(tmp_path / "out" / "detected_fixations.csv", ImageNames(made.SIZES)).paths.keys() == made.SIZES.keys()


def test_pools_make_the_maps_of_what_they_say(data, tmp_path):
    by_readers(data)
    peaks = {}
    for pool in ("mean", "union"):
        make_masks(data, tmp_path / pool, SETTINGS, 1, pool=pool)
        heat = load_map(tmp_path / pool, "l", False)
        peaks[pool] = heat[30, 94] / heat[30, 24]
    assert peaks["union"] == pytest.approx(0.25, abs=0.02)  # 100 ms to the right, 400 to the left
    assert peaks["mean"] == pytest.approx(1, abs=0.02)


def test_each_reader_has_maps_of_his_own(data, tmp_path):
    by_readers(data)
    code, said = run(data, "--pool", "each", "--out", tmp_path / "each")
    assert code == 0
    assert "reader ann:" in said
    assert "reader b/ob:" in said
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == ["ann", "b_ob"]
    for folder, place in (("ann", 0.2), ("b_ob", 0.8)):
        heat = load_map(tmp_path / "each" / folder, "l", False)
        assert abs(int(heat.argmax()) % 120 - place * 120) <= 1
    alone = tmp_path / "alone"
    make_masks(data, alone, SETTINGS, 1, reader="ann")
    np.testing.assert_array_equal(load_map(alone, "l", False), load_map(tmp_path / "each" / "ann", "l", False))


def test_levels_may_be_readers(data, tmp_path):
    """Level 1 is ann's, level 2 is bob's; p, which bob did not see, is the pooled map's in both."""
    by_readers(data)
    make_masks(data, tmp_path / "m" / "all", SETTINGS, 1)
    make_masks_by_reader(data, tmp_path / "m", SETTINGS, 1)
    dataset, spec = Dataset.open(data), InputSpec(32)
    cut = pack_gaze(dataset, ("l", "p"), tmp_path / "m" / "all", spec, (0.5, 0.5), False, readers=("ann", "b_ob")).targets
    centres = [float(np.flatnonzero(level.any(axis=0)).mean()) / 32 for level in cut[0]]
    np.testing.assert_allclose(centres, [0.2, 0.8], atol=0.05)
    np.testing.assert_array_equal(cut[1, 0], cut[1, 1])
    pooled = pack_gaze(dataset, ("l", "p"), tmp_path / "m" / "all", spec, (0.5, 0.3), False).targets
    np.testing.assert_array_equal(cut[1, 0], pooled[1, 0])
    with pytest.raises(DatasetError, match="nobody holds no finished masks"):
        pack_gaze(dataset, ("l",), tmp_path / "m" / "all", spec, (0.5, 0.5), False, readers=("ann", "nobody"))


@pytest.mark.parametrize(
    ("levels", "rest", "message"),
    [
        ({"readers": ("a",)}, {}, "names 1, levels.thresholds 2"),
        ({"readers": ("a", "../b")}, {}, "not paths"),
        ({"readers": ("a", "b")}, {"data": Data(supervision="full")}, "levels of gaze maps"),
    ],
)
def test_readers_that_cannot_be_levels(levels, rest, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(levels=Levels(**levels), **rest)


def test_each_without_a_folder_or_without_readers_is_refused(data, tmp_path):
    by_readers(data)
    with pytest.raises(ConfigError, match="say with --out where"):
        run(data, "--pool", "each")
    made.gazemedseg(data)
    with pytest.raises(DatasetError, match="the gaze of one reader"):
        make_masks_by_reader(data, tmp_path / "out", SETTINGS, 1)


def test_the_gaze_of_a_folder_is_looked_for_in_this_order(tmp_path):
    with pytest.raises(DatasetError, match="has no gaze"):
        find_gaze(tmp_path)
    (tmp_path / "fixations.md").write_text("notes")
    order = ["raw", "gaze", "gaze.toml", "readers", "fixations", "fixations.tsv", "fixations.csv"]
    for name in order:
        path = tmp_path / name
        if "." in name:
            path.write_text('files = ["x"]' if name == "gaze.toml" else "x")
        else:
            path.mkdir()
        assert find_gaze(tmp_path) == path


def spoil(content: bytes, chance: random.Random) -> bytes:
    """One kind of damage: bytes changed, cut out, put in, or the end lost."""
    at = chance.randrange(len(content))
    return {
        0: content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
        1: content[:at] + content[at + chance.randint(1, 60) :],
        2: content[:at] + chance.choice([b"nan", b"-1e308", b'"', b",", b"\n", b"\xff", b"9" * 20, b"{", b"\0"]) + content[at:],
        3: content[:at],
        4: b"\n".join(chance.sample(lines := content.split(b"\n"), len(lines))),
    }[chance.randrange(5)]


@pytest.mark.parametrize("maker", made.MAKERS, ids=[maker.__name__ for maker in made.MAKERS])
def test_a_damaged_file_is_read_in_part_or_ends_in_one_line(tmp_path, maker):
    chance = random.Random(maker.__name__)
    (tmp_path / "whole").mkdir()
    source = maker(tmp_path / "whole")
    for n in range(12):
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "whole", folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        victim = chance.choice(files)
        for _ in range(chance.randint(1, 3)):
            victim.write_bytes(spoil(victim.read_bytes() or b" ", chance))
        try:
            table = read_for(folder / source.relative_to(tmp_path / "whole"), ImageNames(made.SIZES, made.SIZES.get))
        except GazesegError:  # anything else that escapes fails this test
            continue
        for scan in table.paths.values():
            assert np.isfinite(scan.duration).all()
            assert ((scan.x >= 0) & (scan.x <= 1) & (scan.y >= 0) & (scan.y <= 1)).all()
