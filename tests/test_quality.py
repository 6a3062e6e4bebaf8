"""The quality report: figures against slow oracles, and a verdict that webcam-like gaze cannot pass."""

import html.parser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.gaze.fixations import ScanPath, read_fixations, write_fixations
from gazeseg_serve.training.gaze.simulate import write_phantoms
from gazeseg_serve.training.masks.heatmap import heatmap
from gazeseg_serve.training.masks.make import MaskSettings, load_masks_info, make_masks, pseudo_mask_levels
from gazeseg_serve.training.masks.quality import entropy, inside_share, measure
from gazeseg_serve.training.masks.quality_report import doubtful
from gazeseg_serve.training.masks.verdict import BAD, GOOD, LOOK, Evidence, dead_levels, judge

GOOD_ROW = {"fixations": 25.0, "dispersion": 0.15, "wander": 0.8, "in_image": 1.0, "area_level_1": 0.1, "area_level_2": 0.2}


def scan(*rows: tuple[float, float, float]) -> ScanPath:
    x, y, duration = (np.array(column) for column in zip(*rows, strict=True))
    return ScanPath(x, y, duration, np.ones(len(x), np.int64))


def test_figures_of_one_image_against_plain_arithmetic():
    path = scan((0.2, 0.5, 100), (0.6, 0.5, 300), (0.6, 0.8, 100))
    heat = heatmap(path.x, path.y, path.duration, (40, 50), 50.0)[None]
    refined = (heat**2).astype(np.float32)
    truth = np.zeros((40, 50), np.uint8)
    truth[15:25, 25:35] = 1
    row = measure(path, heat, refined, pseudo_mask_levels(refined[0], (0.5, 0.2)), truth)
    cx, cy = (0.2 + 3 * 0.6 + 0.6) / 5, (0.5 * 4 + 0.8) / 5
    spread = (0.2 - cx) ** 2 + (0.5 - cy) ** 2 + 3 * ((0.6 - cx) ** 2 + (0.5 - cy) ** 2) + (0.6 - cx) ** 2 + (0.8 - cy) ** 2
    assert row["dispersion"] == pytest.approx(np.sqrt(spread / 5), abs=1e-6)
    assert row["step"] == pytest.approx(0.35)
    assert row["wander"] == pytest.approx(0.35 / np.sqrt(spread / 5), abs=1e-5)
    assert row["gaze_seconds"] == 0.5
    assert row["coverage"] == pytest.approx((heat >= 0.5).mean(), abs=1e-6)
    high, low = refined[0] >= 0.5, refined[0] >= np.float32(0.2)
    assert row["area_level_1"] == pytest.approx(high.mean(), abs=1e-6)
    assert row["nesting"] == pytest.approx(high.sum() / low.sum(), abs=1e-6)
    warm = heat[0] >= 0.5
    assert row["crf_agreement"] == pytest.approx(2 * (warm & high).sum() / (warm.sum() + high.sum()), abs=1e-6)
    assert row["inside"] == pytest.approx(1 / 3, abs=1e-6)
    assert row["dice_level_2"] == pytest.approx(2 * (truth & low).sum() / (truth.sum() + low.sum()), abs=1e-6)


def test_one_fixation_has_no_step():
    heat = heatmap(np.array([0.5]), np.array([0.5]), np.array([9.0]), (20, 20))[None]
    row = measure(scan((0.5, 0.5, 9.0)), heat, None, pseudo_mask_levels(heat[0], (0.5,)), None)
    assert row["step"] == row["wander"] == row["dispersion"] == 0
    assert "crf_agreement" not in row
    assert "inside" not in row


def test_entropy_is_0_for_a_point_and_1_for_a_flat_map():
    point = np.zeros((64, 64), np.float32)
    point[3, 4] = 1
    assert entropy(point) == 0
    assert entropy(np.ones((70, 90), np.float32)) == pytest.approx(1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 2)), min_size=1, max_size=9), st.integers(0, 99))
def test_inside_share_looks_up_each_fixation_of_its_own_class(rows, seed):
    truth = np.random.default_rng(seed).integers(0, 3, (7, 5)).astype(np.uint8)
    x, y, label = (np.array(column) for column in zip(*rows, strict=True))
    hits = [truth[min(int(b * 7), 6), min(int(a * 5), 4)] == c for a, b, c in rows]
    assert inside_share(ScanPath(x, y, np.ones(len(x)), label), truth) == pytest.approx(np.mean(hits))


@pytest.mark.parametrize(
    ("change", "word", "reason"),
    [
        ({}, GOOD, None),
        ({"wander": 1.3, "dispersion": 0.28}, BAD, "wanders like a webcam"),
        ({"wander": 1.3, "dispersion": 0.1}, GOOD, None),  # small lesions: short jumps
        ({"wander": 0.7, "dispersion": 0.3}, GOOD, None),  # large lesions: a wide but steady gaze
        ({"inside": 0.17}, BAD, "17% of an image's fixations"),
        ({"inside": 0.6}, LOOK, "60% of an image's fixations"),
        ({"inside": 0.9}, GOOD, None),
        ({"in_image": 0.5}, BAD, "are on the image"),
        ({"area_level_2": 0.0001}, BAD, "level 2 is dead"),
        ({"area_level_1": 0.9999}, BAD, "level 1 is dead"),
        ({"fixations": 2.0}, BAD, "fewer than 5"),
    ],
)
def test_the_verdict_and_its_reason(change, word, reason):
    verdict = judge([GOOD_ROW | change] * 10)
    assert verdict.word == word
    assert (reason is None and not verdict.reasons) or (reason and reason in verdict.reasons[0])
    assert verdict.line.startswith(f"gaze: {word}")


def test_a_few_bad_images_are_no_bad_verdict():
    bad = GOOD_ROW | {"wander": 1.3, "dispersion": 0.28}
    assert judge([GOOD_ROW] * 95 + [bad] * 5).word == GOOD
    assert judge([GOOD_ROW] * 80 + [bad] * 20).word == LOOK
    assert dead_levels([GOOD_ROW] * 3 + [GOOD_ROW | {"area_level_1": 0.0}]) == {1: 0.25, 2: 0.0}


def test_many_unusable_rows_are_worth_a_look():
    assert judge([GOOD_ROW], Evidence(dropped=0.05)).word == GOOD
    verdict = judge([GOOD_ROW], Evidence(dropped=0.5))
    assert verdict.word == LOOK
    assert "50% of the rows" in verdict.reasons[0]


def test_the_advice_names_the_better_map():
    assert "--no-crf" in judge([GOOD_ROW | {"dice_refined": 0.6, "dice_heatmap": 0.7}]).advice[0]
    assert "helps" in judge([GOOD_ROW | {"dice_refined": 0.8, "dice_heatmap": 0.7}]).advice[0]
    assert "compare" in judge([GOOD_ROW | {"crf_agreement": 0.3}]).advice[0]


def test_doubtful_images_come_first():
    rows = {f"i{k}": GOOD_ROW | {"dispersion": 0.15 + 0.001 * k} for k in range(9)} | {"odd": GOOD_ROW | {"dispersion": 0.4}}
    first = doubtful(rows)[0]
    assert first.stem == "odd"
    assert "dispersion 0.4 is high" in first.reason
    rows = {name: row | {"dice_level_1": 0.9, "dice_level_2": 0.9} for name, row in rows.items()}
    rows["i3"] |= {"dice_level_1": 0.1}
    assert doubtful(rows)[0].stem == "i3"


class Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]


@pytest.mark.parametrize(
    ("noise", "sentence", "word"),
    [("eyelink", "This gaze is good to train on.", GOOD), ("webcam", "Do not train on this gaze.", BAD)],
)
@pytest.mark.parametrize("with_masks", [True, False])
def test_the_report_tells_webcam_from_eyelink_gaze(tmp_path, noise, sentence, word, with_masks):
    data = write_phantoms(tmp_path / "data", 12, 48, seed=1, noise=noise)
    if not with_masks:
        for path in (data / "masks").iterdir():
            path.unlink()
    summary = make_masks(data, tmp_path / "out", MaskSettings(crf=None), jobs=1)
    assert summary.verdict.word == word
    assert load_masks_info(tmp_path / "out").verdict == summary.verdict.line
    text = (tmp_path / "out" / "quality.html").read_text(encoding="utf-8")
    assert sentence in text
    links = Links()
    links.feed(text)
    assert "script" not in links.tags
    assert all(source.startswith("data:image/png;base64,") for source in links.sources)
    assert len(links.sources) == 1 + 3 * 12


def test_the_report_lists_what_was_left_out_and_escapes_names(tmp_path):
    data = write_phantoms(tmp_path / "data", 2, 32)
    (data / "images" / "<b>.png").write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))
    with (data / "fixations.csv").open("a") as file:
        file.write("phantom_0001.png,99,7,0.5,300,0,99999,32,32\n")
    make_masks(data, tmp_path / "out", MaskSettings(crf=None), jobs=1)
    text = (tmp_path / "out" / "quality.html").read_text(encoding="utf-8")
    assert "outside the image" in text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text


def test_several_classes_are_reported_too(tmp_path):
    data = write_phantoms(tmp_path / "data", 2, 32)
    table = read_fixations(data / "fixations.csv", Dataset.open(data).images)
    paths = {stem: ScanPath(s.x, s.y, s.duration, 1 + (s.x > 0.5)) for stem, s in table.paths.items()}
    write_fixations(data / "fixations.csv", paths, dict.fromkeys(paths, (32, 32)), ("left", "right"))
    truth = np.full((32, 32), 2, np.uint8)
    truth[:, :16] = 1
    for path in (data / "masks").iterdir():
        path.write_bytes(encode_png(truth))
    summary = make_masks(data, tmp_path / "out", MaskSettings(crf=None, classes=("left", "right")), jobs=1)
    assert summary.images == 2
    assert summary.means["inside"] == 1.0
    assert 0 < summary.means["dice_level_2"] < 1
