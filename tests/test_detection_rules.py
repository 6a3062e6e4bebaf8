"""The rules by which samples become fixations: how long is long enough, which gaps are bridged, where the time begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gazeseg_serve.training.gaze.detection import Detection, Monitor, detect
from gazeseg_serve.training.gaze.fixations import read_fixations, write_fixations
from gazeseg_serve.training.gaze.raw_samples import fit
from gazeseg_serve.training.gaze.scan_paths import BACKWARDS, ScanPath

MONITOR = Monitor(1920, 1080, 53.0, 30.0, 60.0)
HERE, THERE = (400.0, 300.0), (1500.0, 800.0)


def rests(*stretches: tuple[tuple[float, float], float], rate: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Times in ms and screen pixels of a gaze that stays still at each place for so many ms, and then jumps."""
    counts = [round(ms * rate / 1000) for _, ms in stretches]
    place = np.repeat(np.array([where for where, _ in stretches]), counts, axis=0)
    return np.arange(len(place)) * 1000 / rate, place


def found(time: np.ndarray, place: np.ndarray, **settings: float | str) -> list[tuple[float, float, float, float, int]]:
    fixations = detect(time, place[:, 0], place[:, 1], MONITOR, Detection(**settings))  # type: ignore[arg-type]
    return list(zip(fixations.x, fixations.y, fixations.duration, fixations.start, fixations.first, strict=True))


@pytest.mark.parametrize("method", ["ivt", "idt"])
@pytest.mark.parametrize(("minimum", "kept"), [(70.0, True), (75.0, False), (80.0, False), (90.0, False)])
def test_a_rest_of_just_under_the_minimum_is_no_fixation(method: str, minimum: float, kept: bool) -> None:
    """Seven samples 10 ms apart are 70 ms; a minimum of 75 ms asks for eight."""
    time, place = rests((HERE, 300), (HERE, 200), (THERE, 70), (HERE, 200), (HERE, 300))
    place[30:50] = place[57:77] = np.nan
    short = [f for f in found(time, place, method=method, minimum_ms=minimum) if abs(f[0] - THERE[0]) < 5]
    assert [f[2] for f in short] == ([70] if kept else [])


def test_samples_slower_than_the_longest_gap_still_give_fixations() -> None:
    """A tracker of 12 Hz samples every 83 ms, more than the 75 ms of a gap that is bridged."""
    time, place = rests((HERE, 1200), (THERE, 1200), rate=12)
    time = time + np.random.default_rng(0).uniform(-8, 8, len(time))
    fixations = found(time, place, method="idt", minimum_ms=200.0)
    np.testing.assert_allclose([f[:2] for f in fixations], [HERE, THERE], atol=1)


@pytest.mark.parametrize("method", ["ivt", "idt"])
@pytest.mark.parametrize("end", ["first", "last"])
def test_samples_lost_at_either_end_lengthen_no_fixation(method: str, end: str) -> None:
    time, place = rests((HERE, 400), (THERE, 400))
    whole = found(time, place, method=method)
    lost = np.full((50, 2), np.nan)
    place = np.concatenate([lost, place] if end == "first" else [place, lost])
    time = np.arange(len(place)) * 10.0
    cut = found(time, place, method=method)
    shift = 500 if end == "first" else 0
    assert [(f[0], f[1], f[2], f[3] + shift) for f in whole] == [f[:4] for f in cut]


@pytest.mark.parametrize(("gap", "parts"), [(60, 1), (70, 1), (90, 2), (200, 2)])
def test_gaps_up_to_the_longest_are_bridged(gap: int, parts: int) -> None:
    """From the last sample before to the first after a gap of n lost samples are n + 1 steps."""
    time, place = rests((HERE, 600))
    lost = round(gap / 10) - 1
    place[25 : 25 + lost] = np.nan
    assert len(found(time, place, method="idt", max_gap_ms=75.0)) == parts


def test_a_gap_is_bridged_by_a_straight_line_between_its_ends() -> None:
    time = np.arange(40) * 10.0
    place = np.stack([400 + 0.2 * time, 300 - 0.1 * time], axis=1)
    whole = found(time, place, method="idt", dispersion=5.0)
    place[10:15] = np.nan
    np.testing.assert_allclose(found(time, place, method="idt", dispersion=5.0), whole)


def test_an_eye_alone_counts_as_gaze_only_with_both_coordinates() -> None:
    time, place = rests((HERE, 400))
    place[20:, 1] = np.nan
    (only,) = found(time, place, method="idt")
    assert only[2] == pytest.approx(200, abs=10)


def test_the_first_sample_of_a_fixation_is_named_by_its_place_among_all_samples() -> None:
    time, place = rests((HERE, 200), (HERE, 100), (THERE, 300), (HERE, 100), (HERE, 200))
    place[20:30] = place[60:70] = np.nan
    assert [f[4] for f in found(time, place, method="idt")] == [0, 30, 70]
    assert [f[3] for f in found(time, place, method="idt")] == [0, 300, 700]
    assert [f[2] for f in found(time, place, method="idt")] == [200, 300, 200]


def test_a_centre_is_the_median_so_one_stray_sample_does_not_move_it() -> None:
    time, place = rests((HERE, 300))
    place[-1] += 20
    (only,) = found(time, place, method="idt")
    assert only[:2] == HERE


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"method": "idt", "dispersion": 1.0}, 1),
        ({"method": "idt", "dispersion": 0.1}, 2),
        ({"method": "ivt", "velocity": 40.0}, 1),
        ({"method": "ivt", "velocity": 5.0}, 2),
    ],
)
def test_the_thresholds_are_in_degrees(settings: dict[str, float | str], count: int) -> None:
    """A step of 15 px is 0.41 cm, 0.4 degrees from 60 cm: within 1 degree, beyond 0.1; over 40 ms about 10 degrees a second."""
    time, place = rests((HERE, 400), ((HERE[0] + 15, HERE[1]), 400))
    assert len(found(time, place, **settings)) == count


@pytest.mark.parametrize(
    ("size", "area"),
    [((1080, 1920), (0, 0, 1920, 1080)), ((540, 540), (420, 0, 1080, 1080)), ((100, 400), (0, 300, 1920, 480))],
)
def test_an_image_is_shown_as_large_as_fits_in_the_middle(size: tuple[int, int], area: tuple[float, ...]) -> None:
    shown = fit(MONITOR, size)
    assert (shown.left, shown.top, shown.width, shown.height) == area


# The tables that detection writes and that trackers write

HEADER = "IMAGE,CURRENT_FIX_INDEX,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION,CURRENT_FIX_START"


def test_two_fixations_that_start_together_are_both_kept(tmp_path: Path) -> None:
    """Time does not run backwards where it stands still: two eyes, or a tracker that counts whole frames."""
    path = tmp_path / "fixations.csv"
    path.write_text(HEADER + "\na,1,0.2,0.5,100,50\na,2,0.3,0.5,100,50\na,3,0.4,0.5,100,49\n")
    table = read_fixations(path, ["a"])
    assert table.paths["a"].x.tolist() == [0.2, 0.3]
    assert [row.reason for row in table.dropped] == [BACKWARDS]


def test_the_rim_of_the_image_and_a_duration_of_nothing_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "fixations.csv"
    path.write_text(HEADER + "\na,1,0,0,0,0\na,2,1,1,100,1\n")
    table = read_fixations(path, ["a"])
    assert table.dropped == ()
    assert table.paths["a"].duration.tolist() == [0, 100]


def test_a_written_table_says_height_and_width_and_starts_that_follow_each_other(tmp_path: Path) -> None:
    scan = ScanPath(np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.5, 0.5]), np.array([100.0, 250.0, 80.0]), np.array([1, 1, 1]))
    write_fixations(tmp_path / "f.csv", {"a": scan}, {"a": (30, 70)})
    header, *rows = [line.split(",") for line in (tmp_path / "f.csv").read_text().splitlines()]
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert {(row["IMAGE_HEIGHT"], row["IMAGE_WIDTH"]) for row in cells} == {("30", "70")}
    assert [row["CURRENT_FIX_START"] for row in cells] == ["7", "127", "397"]
    assert [row["CURRENT_FIX_INDEX"] for row in cells] == ["1", "2", "3"]
    assert {row["IMAGE"] for row in cells} == {"a.png"}


def test_classes_have_indices_and_starts_of_their_own(tmp_path: Path) -> None:
    scan = ScanPath(np.full(4, 0.5), np.full(4, 0.5), np.full(4, 100.0), np.array([1, 2, 1, 2]))
    write_fixations(tmp_path / "f.csv", {"a": scan}, {"a": (10, 10)}, ("one", "two"))
    rows = [line.split(",") for line in (tmp_path / "f.csv").read_text().splitlines()[1:]]
    assert [(row[1], row[6], row[-1]) for row in rows] == [
        ("1", "7", "one"),
        ("1", "7", "two"),
        ("2", "127", "one"),
        ("2", "127", "two"),
    ]
