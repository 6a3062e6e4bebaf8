"""What the verdict knows without masks, what it knows with them, and what it says it does not know."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.training.gaze.fixations import read_fixations, write_fixations
from gazeseg_serve.training.gaze.rows import Row
from gazeseg_serve.training.gaze.scan_paths import LOST, OFF_SAMPLE, ScanPath
from gazeseg_serve.training.gaze.simulate import write_phantoms
from gazeseg_serve.training.gaze.track_loss import Looked, seconds, shares, track_loss
from gazeseg_serve.training.masks.agreement import LEAST_IMAGES, LEAST_MASKS, fit_images, fit_masks, look, points_of
from gazeseg_serve.training.masks.evidence import SAMPLE, gather, sample
from gazeseg_serve.training.masks.make import MaskSettings, make_masks
from gazeseg_serve.training.masks.mistakes import inside, mistakes
from gazeseg_serve.training.masks.verdict import BAD, GOOD, LOOK, Evidence, judge

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
ROW = {
    "fixations": 25.0, "dispersion": 0.15, "wander": 0.8, "in_image": 1.0, "area_level_1": 0.1, "centroid_x": 0.5,
    "centroid_y": 0.5, "duration": 300.0, "longest": 0.1, "left": 0.1, "right": 0.9, "top": 0.1, "bottom": 0.9,
}  # fmt: skip
APART = [{"centroid_x": 0.3 + 0.02 * i} for i in range(20)]
WRONG: dict[str, tuple[Change, str]] = {
    "x and y were swapped": (lambda x, y: (y, x), LOOK),
    "left and right were mirrored": (lambda x, y: (1 - x, y), LOOK),
    "y were counted from the bottom": (lambda x, y: (x, 1 - y), LOOK),
    "turned by 180 degrees": (lambda x, y: (1 - x, 1 - y), LOOK),
    "turned by 90 degrees clockwise": (lambda x, y: (1 - y, x), LOOK),
    "too far right": (lambda x, y: (x + 0.2, y), LOOK),
    "squeezed towards the top left": (lambda x, y: (x / 2, y / 2), LOOK),
    "does not move": (lambda x, y: (0.5 + 0 * x, 0.5 + 0 * y), BAD),
    "same place in all images": (lambda x, y: (0.5 + 0 * x, 0.5 + 0 * y), BAD),
}


@pytest.fixture(scope="module")
def phantoms_40(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "data", 40, 64, seed=5)


def moved(data: Path, change: Change) -> dict[str, ScanPath]:
    paths = {}
    for stem, scan in read_fixations(data / "fixations.csv", Dataset.open(data).images).paths.items():
        x, y = change(scan.x, scan.y)
        on = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
        if on.any():
            paths[stem] = ScanPath(x[on], y[on], scan.duration[on], scan.label[on])
    return paths


def verdict_of(data: Path, out: Path, paths: dict[str, ScanPath], masks: int):
    """The verdict of `masks` on the images of `data`, with other gaze and so many of its masks."""
    out.mkdir()
    (out / "images").symlink_to(data / "images")
    (out / "masks").mkdir()
    for path in sorted((data / "masks").iterdir())[:masks]:
        (out / "masks" / path.name).symlink_to(path)
    write_fixations(out / "fixations.csv", paths, dict.fromkeys(paths, (64, 64)))
    return make_masks(out, settings=MaskSettings(crf=None), jobs=1).verdict


@pytest.mark.parametrize("masks", [0, 40])
@pytest.mark.parametrize(("words", "wrong"), WRONG.items())
def test_wrong_gaze_is_named(phantoms_40: Path, tmp_path: Path, words: str, wrong: tuple[Change, str], masks: int) -> None:
    change, word = wrong
    verdict = verdict_of(phantoms_40, tmp_path / "data", moved(phantoms_40, change), masks)
    assert verdict.word in (word, BAD)
    assert any(words in reason for reason in verdict.reasons), verdict.reasons


def test_right_gaze_is_good_and_what_was_not_checked_is_said(phantoms_40: Path, tmp_path: Path) -> None:
    right = moved(phantoms_40, lambda x, y: (x, y))
    without = verdict_of(phantoms_40, tmp_path / "without", right, 0)
    assert (without.word, without.reasons) == (GOOD, ())
    assert "No true mask is there" in without.line
    assert "not checked whether the gaze lies on the target" in without.line
    few = verdict_of(phantoms_40, tmp_path / "few", right, LEAST_MASKS - 1)
    assert few.word == GOOD
    assert f"Only {LEAST_MASKS - 1} true mask(s)" in few.line
    with_masks = verdict_of(phantoms_40, tmp_path / "with", right, LEAST_MASKS)
    assert (with_masks.word, with_masks.unchecked) == (GOOD, "")


def test_gaze_of_the_next_image_fits_no_better_than_any(phantoms_40: Path, tmp_path: Path) -> None:
    right = moved(phantoms_40, lambda x, y: (x, y))
    stems = sorted(right)
    rotated = {stem: right[other] for stem, other in zip(stems, stems[1:] + stems[:1], strict=True)}
    without = verdict_of(phantoms_40, tmp_path / "without", rotated, 0)
    assert without.word == LOOK
    assert "fits other images as well as its own" in without.reasons[0]
    with_masks = verdict_of(phantoms_40, tmp_path / "with", rotated, 40)
    assert with_masks.word == BAD
    assert any("as if each image's gaze belonged to the next image by name" in reason for reason in with_masks.reasons)


def test_a_sample_keeps_neighbours_together() -> None:
    stems = [f"{i:03d}" for i in range(400)]
    chosen = sample(stems)
    assert len(set(chosen)) == len(chosen) == SAMPLE
    assert chosen == sorted(chosen)
    assert sum(int(b) - int(a) == 1 for a, b in itertools.pairwise(chosen)) >= SAMPLE - 10
    assert sample(stems[:SAMPLE]) == stems[:SAMPLE]


def test_few_images_are_not_judged_by_chance(phantoms_40: Path, tmp_path: Path) -> None:
    wrong = dict(list(moved(phantoms_40, lambda x, y: (y, x)).items())[: LEAST_IMAGES - 1])
    verdict = verdict_of(phantoms_40, tmp_path / "data", wrong, 0)
    assert not any("as if" in reason for reason in verdict.reasons)
    assert f"with {LEAST_IMAGES} images or more" in verdict.unchecked


def test_bars_of_a_screen_are_told_by_masks(phantoms_40: Path, tmp_path: Path) -> None:
    barred = moved(phantoms_40, lambda x, y: (0.5 + (x - 0.5) * 9 / 16, y))  # a square image on a 16:9 screen
    verdict = verdict_of(phantoms_40, tmp_path / "data", barred, 40)
    assert verdict.word == LOOK
    assert any("shares of a 16:9 screen" in reason for reason in verdict.reasons)


def test_undoing_a_mistake_gives_back_the_points() -> None:
    points = np.array([[0.3, 0.6, 100.0], [0.9, 0.2, 50.0]])
    x, y, d = points.T
    made = {
        "x and y were swapped": (y, x), "left and right were mirrored": (1 - x, y),
        "y were counted from the bottom": (x, 1 - y),
        "it were turned by 90 degrees clockwise": (1 - y, x), "it were turned by 90 degrees anticlockwise": (y, 1 - x),
        "it lay about 0.2 of the width too far right and 0.1 of the height too far up": (x + 0.2, y - 0.1),
        "it were squeezed towards the top left corner, to 1/1.5 of the width and 1/1 of the height": (x / 1.5, y),
        # An image of 2:1 fills a 4:3 screen across, and 2/3 of it down.
        "positions were shares of a 4:3 screen, the bars beside the image included": (x, 0.5 + (y - 0.5) * 2 / 3),
    }  # fmt: skip
    by_words = {mistake.words: mistake for mistake in mistakes()}
    for words, (u, v) in made.items():
        np.testing.assert_allclose(by_words[words].undo(np.stack([u, v, d], axis=1), 2.0), points, atol=1e-12)
    assert inside(np.array([[0.0, 1.0, 1.0], [-0.1, 0.5, 1.0], [0.5, 1.01, 1.0]])).tolist() == [True, False, False]


def test_a_habit_of_the_middle_is_no_agreement() -> None:
    """The same gaze on every image fits none of them; gaze on what is bright fits."""
    rng = np.random.default_rng(0)
    images, right, middle = [], [], []
    for _ in range(LEAST_IMAGES):
        image = rng.integers(0, 60, (48, 48, 3)).astype(np.uint8)
        x, y = rng.integers(4, 36, 2)
        image[y : y + 8, x : x + 8] += 150
        images.append(look(image))
        near = rng.normal((x + 4) / 48, 0.03, 12), rng.normal((y + 4) / 48, 0.03, 12)
        right.append(np.column_stack([*near, np.full(12, 300.0)]))
        middle.append(np.column_stack([rng.normal(0.5, 0.05, (12, 2)), np.full(12, 300.0)]))
    looks, aspects = np.stack(images), [1.0] * LEAST_IMAGES
    good, habit = fit_images(looks, right, aspects), fit_images(looks, middle, aspects)
    assert good is not None
    assert habit is not None
    assert good.strength > 5
    assert good.mistake is None
    assert habit.strength < 2.5
    assert fit_images(looks, [right[0]] * LEAST_IMAGES, aspects) is None
    assert fit_images(looks[1:], right[1:], aspects[1:]) is None


def test_masks_compare_each_class_with_its_own_gaze() -> None:
    mask = np.zeros((20, 40), np.uint8)
    mask[8:12, :8], mask[8:12, 32:] = 1, 2
    scan = ScanPath(np.array([0.1, 0.9]), np.array([0.5, 0.5]), np.array([9.0, 9.0]), np.array([1, 2]))
    fit = fit_masks([mask] * LEAST_MASKS, [scan] * LEAST_MASKS, [2.0] * LEAST_MASKS)
    assert fit is not None
    assert fit.strength > 0.5
    assert fit.mistake is None
    swapped = ScanPath(scan.x, scan.y, scan.duration, np.array([2, 1]))
    other = fit_masks([mask] * LEAST_MASKS, [swapped] * LEAST_MASKS, [2.0] * LEAST_MASKS)
    assert other is not None
    assert other.strength < 0.1
    assert other.mistake is not None
    assert fit_masks([mask] * (LEAST_MASKS - 1), [scan] * (LEAST_MASKS - 1), [2.0] * (LEAST_MASKS - 1)) is None
    assert points_of(scan).tolist() == [[0.1, 0.5, 9.0], [0.9, 0.5, 9.0]]


@pytest.mark.parametrize(("change", "evidence", "word", "reason"), [
    ({}, Evidence(track_loss=[0.1] * 4), GOOD, None),
    ({}, Evidence(track_loss=[0.0, 0.5]), LOOK, "track loss: the tracker had lost the eye for 25% of the time"),
    ({}, Evidence(track_loss=[0.6]), BAD, "track loss: the tracker had lost the eye for 60%"),
    ({}, Evidence(without_gaze=2, expected=10), GOOD, None),
    ({}, Evidence(without_gaze=3, expected=10), LOOK, "3 of 10 images have no gaze"),
    ({}, Evidence(dropped=0.11), LOOK, "11% of the rows"),
    ({"dispersion": 0.014}, Evidence(), BAD, "does not move"),
    ({"dispersion": 0.016}, Evidence(), GOOD, None),
    ({"duration": 79.0}, Evidence(), LOOK, "a fixation lasts 79 ms (median)"),
    ({"duration": 1501.0}, Evidence(), LOOK, "a fixation lasts 1501 ms (median)"),
    ({"duration": 80.0}, Evidence(), GOOD, None),
    ({"longest": 0.51}, Evidence(), LOOK, "one fixation lasts longer than all others together"),
    ({"right": 0.55}, Evidence(), LOOK, "no image has gaze in the 45% at its right"),
    ({"top": 0.45}, Evidence(), LOOK, "no image has gaze in the 45% at its top"),
    ({"left": 0.35, "right": 0.65}, Evidence(), GOOD, None),  # a target that is always in the middle
])  # fmt: skip
def test_each_limit_on_both_of_its_sides(change: dict[str, float], evidence: Evidence, word: str, reason: str | None) -> None:
    verdict = judge([ROW | apart | change for apart in APART], evidence)
    assert verdict.word == word
    assert (reason is None) == (not verdict.reasons)
    assert reason is None or any(reason in text for text in verdict.reasons)


def test_slight_track_loss_is_named_without_blame() -> None:
    verdict = judge([ROW | apart for apart in APART], Evidence(track_loss=[0.1]))
    assert verdict.advice[0] == "track loss: 10% of the time (mean over the images)"
    assert judge([ROW | apart for apart in APART], Evidence(track_loss=[0.04])).advice == ()


def table(path: Path, rows: list[tuple[object, ...]]) -> Path:
    columns = ("IMAGE", "CURRENT_FIX_X", "CURRENT_FIX_Y", "CURRENT_FIX_DURATION", "CURRENT_FIX_START")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_track_loss_is_read_from_the_gaps_between_fixations(tmp_path: Path) -> None:
    rows = [("a", 0.5, 0.5, 300, 0), ("a", 0.5, 0.5, 300, 320), ("a", 0.5, 0.5, 300, 1020), ("b", 0.5, 0.5, 300, 0)]
    read = read_fixations(table(tmp_path / "t.csv", rows), ["a", "b"])
    # 900 ms seen, gaps of 20 and 400 ms, of which 300 are longer than a saccade; one fixation says nothing.
    assert read.track_loss == {"a": pytest.approx(300 / 1320)}
    assert read.rows == 4
    assert read.seconds == {"a": pytest.approx(1.32), "b": pytest.approx(0.3)}


def test_rows_without_a_place_are_lost_time(tmp_path: Path) -> None:
    rows = [("a", 0.5, 0.5, 300, 0), ("a", ".", ".", 400, 320), ("a", 0.5, 0.5, 300, 740)]
    read = read_fixations(table(tmp_path / "t.csv", rows), ["a"])
    assert read.track_loss == {"a": pytest.approx((440 - 100) / 1040)}


def test_images_held_out_or_without_a_target_need_no_gaze(phantoms_40: Path, tmp_path: Path) -> None:
    paths = dict(list(moved(phantoms_40, lambda x, y: (x, y)).items())[:10])
    data = tmp_path / "data"
    verdict_of(phantoms_40, data, paths, 0)
    assert (
        gather(Dataset.open(data), read_fixations(data / "fixations.csv", Dataset.open(data).images), list(paths)).expected
        == 40
    )
    stems = sorted(Dataset.open(data).images)
    (data / "negatives.txt").write_text("\n".join(stems[30:]))
    (data / "splits").mkdir()
    (data / "splits" / "test.txt").write_text("\n".join(stems[20:30]))
    opened = Dataset.open(data)
    found = gather(opened, read_fixations(data / "fixations.csv", opened.images), list(paths))
    assert (found.without_gaze, found.expected) == (10, 20)


def sample_row(image: str, time: float, reason: str = "") -> Row:
    return Row("f", 1, image, "", "", "", time, 0.5, 0.5, float("nan"), "", "", reason)


def test_track_loss_of_samples_counts_the_empty_and_the_missing() -> None:
    rows = [sample_row("a", 10.0 * i, LOST if i < 10 else "") for i in range(50)]
    rows += [sample_row("a", 1000.0 + 10 * i) for i in range(50)]  # 51 samples are missing between 490 and 1000 ms
    rows += [sample_row("b", 10.0 * i, OFF_SAMPLE) for i in range(5)]  # the eye was seen, beside the screen
    rows += [sample_row("c", 10.0 * i + (90 if i > 2 else 0)) for i in range(6)]  # a gap no longer than a saccade
    found: dict[str, Looked] = {}
    track_loss(rows, False, found)
    assert shares(found, "abc") == {"a": pytest.approx(60 / 150), "b": 0.0, "c": 0.0}
    assert seconds(found, "ab") == {"a": pytest.approx(1.5), "b": pytest.approx(0.05)}


def test_looks_of_two_readers_are_not_one_gap() -> None:
    first = [sample_row("a", 10.0 * i) for i in range(20)]
    second = [sample_row("a", 9000 + 10.0 * i) for i in range(20)]
    for row in second:
        row.reader = "other"
    found: dict[str, Looked] = {}
    track_loss(first + second, False, found)
    assert shares(found, "a") == {"a": 0.0}
    assert seconds(found, "a") == {"a": pytest.approx(0.4)}
