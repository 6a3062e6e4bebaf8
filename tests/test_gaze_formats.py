"""Each tracker's own file: recognised by content, and one look comes out where it was, to the pixel."""

from pathlib import Path

import gaze_files as made
import numpy as np
import pytest

from gazeseg_serve.errors import DatasetError
from gazeseg_serve.training.gaze.names import ImageNames
from gazeseg_serve.training.gaze.scan_paths import FixationTable
from gazeseg_serve.training.gaze.sources import read_for
from gazeseg_serve.training.masks.heatmap import heatmap


def read(path: Path, **options: object) -> FixationTable:
    return read_for(path, ImageNames(made.SIZES, made.SIZES.get), **options)  # type: ignore[arg-type]


def peak(table: FixationTable, stem: str) -> tuple[float, float]:
    """The place of the heatmap's peak, shares of the image, from the middle of its pixel."""
    scan, size = table.paths[stem], made.SIZES[stem]
    heat = heatmap(scan.x, scan.y, scan.duration, size, 20.0)
    down, across = np.unravel_index(int(heat.argmax()), heat.shape)
    return (across + 0.5) / size[1], (down + 0.5) / size[0]


@pytest.mark.parametrize(("maker", "called"), made.MAKERS.items(), ids=[maker.__name__ for maker in made.MAKERS])
def test_one_look_is_where_it_was(tmp_path, maker, called):
    table = read(maker(tmp_path))
    assert any(called in note for note in table.notes), table.notes
    assert table.dropped == ()
    assert table.skipped == {}
    for stem, place in made.PLACES.items():
        height, width = made.SIZES[stem]
        scan = table.paths[stem]
        np.testing.assert_allclose(scan.x, place[0], atol=0.5 / width)
        np.testing.assert_allclose(scan.y, place[1], atol=0.5 / height)
        assert 100 < scan.gaze_ms < 1000
        found = peak(table, stem)
        assert abs(found[0] - place[0]) * width <= 1
        assert abs(found[1] - place[1]) * height <= 1


def test_readers_are_those_that_the_file_names(tmp_path):
    names = {}
    for maker in (made.tobii_pro_lab, made.gazepoint):
        folder = tmp_path / maker.__name__
        folder.mkdir()
        names[maker.__name__] = set(read(maker(folder)).readers["l"])
    assert names == {"tobii_pro_lab": {"P1", "P2"}, "gazepoint": {"User 0", "User 1"}}


def test_of_two_forms_of_one_recording_one_is_read(tmp_path):
    notes = read(made.gazepoint(tmp_path)).notes
    assert sum("is left aside: User" in note for note in notes) == 2


def test_columns_of_samples_choose_the_file_of_samples(tmp_path):
    """The file of fixations lies elsewhere; a pattern that catches both must not mix them."""
    made.gazepoint(tmp_path)
    for file in (tmp_path / "raw").glob("*_fixations.csv"):
        header, *rows = file.read_text().splitlines()
        file.write_text("\n".join([header, *(row.replace("0.72222", "0.10000") for row in rows)]))
    columns = '[columns]\ntime = "TIME"\nx = "BPOGX"\ny = "BPOGY"\nimage = "MEDIA_NAME"\nvalidity = "BPOGV"\n'
    table = read(made.mapping(tmp_path, "raw/*.csv", columns + '[units]\ntime = "s"\nposition = "screen"'))
    np.testing.assert_allclose(table.paths["l"].y, 0.75, atol=0.01)
    assert any("all gaze (raw samples)" in note for note in table.notes)


def test_files_without_gaze_are_left_aside_in_a_folder_and_refused_alone(tmp_path):
    surfaces = made.pupil_gaze(tmp_path)
    scene = "gaze_timestamp,world_index,confidence,norm_pos_x,norm_pos_y\n1,2,3,.4,.5\n"
    (surfaces / "gaze_positions.csv").write_text(scene)
    for n in range(4):
        (surfaces / f"events_{n}.csv").write_text("surface,event\nl,seen\n")
    table = read(surfaces)
    assert list(table.paths) == ["l", "p"]
    assert any("events_0.csv is left aside: events_0.csv is no tracker's gaze" in note for note in table.notes)
    assert "and 2 more files are left aside: they hold no gaze" in table.notes
    for file in surfaces.glob("*_on_surface_*"):
        file.unlink()
    with pytest.raises(DatasetError, match=r"none of its 5 file\(s\) is a tracker's gaze"):
        read(surfaces)


def test_a_folder_with_edf_alone_names_the_converter(tmp_path):
    (tmp_path / "s1.edf").write_bytes(b"SR_RESEARCH")
    with pytest.raises(DatasetError, match="edf2asc"):
        read(tmp_path)


def test_a_recording_of_bids_without_its_sidecar_says_so(tmp_path):
    made.bids(tmp_path)
    for file in tmp_path.glob("*_physio.json"):
        file.unlink()
    with pytest.raises(DatasetError, match="no sidecar sub-01_task-look_recording-eye1_physio"):
        read(tmp_path / "sub-01_task-look_recording-eye1_physio.tsv.gz")


def test_both_eyes_events_are_one_look(tmp_path):
    table = read(made.eyelink_asc_events(tmp_path))
    assert len(table.paths["l"]) == 2
    assert any("each eye has rows of its own; those of L are read (3, not 1)" in note for note in table.notes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s1.edf", b"SR_RESEARCH...", "edf2asc"),
        ("s1.EDF", b"0       X X", "edf2asc"),
        ("gaze.h5", b"\x89HDF\r\n", "HDF5"),
        ("gaze.mat", b"MATLAB 5.0 MAT-file", "writetable"),
        ("gaze.xlsx", b"PK\x03\x04" + bytes(40), "no whole Excel workbook"),
        ("gaze.xls", b"\xd0\xcf\x11\xe0", r"save it as \.xlsx"),
        ("gaze.csv.gz", b"\x1f\x8b\x08\x00", "damaged gzip"),
        ("gaze.json", b'[{"x": 1}', "not JSON"),
        ("gaze.json", b'[{"stimulus": "l.png"}]', "without webgazer_data"),
        ("gaze_positions.csv", b"gaze_timestamp,world_index,confidence,norm_pos_x,norm_pos_y\n1,2,3,.4,.5\n", "scene camera"),
        ("gaze.csv", b"section id,recording id,timestamp [ns],gaze x [px],gaze y [px]\na,b,1,2,3\n", "Marker Mapper"),
        ("s1.asc", b"** CONVERTED FROM s1.edf\nSAMPLES\tHREF\tLEFT\tRATE\t500\n", "positions are HREF"),
        ("sac.txt", b"RECORDING_SESSION_LABEL\tCURRENT_SAC_DURATION\ns1\t30\n", "saccade report"),
        ("a.csv", b"when,where\n1,2\n", "is no tracker's file that is known"),
    ],
)
def test_what_is_no_gaze_of_an_image_is_refused_by_its_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read(path)


def test_pixels_of_a_screen_that_nobody_knows_are_refused_with_the_fix(tmp_path):
    made.eyelink_fixations(tmp_path)
    with pytest.raises(DatasetError, match=r"width_px and height_px under \[screen\]"):
        read(tmp_path / "report.txt")


def test_neon_in_the_scene_camera_is_read_where_its_place_is_said(tmp_path):
    rows = ["section id,recording id,timestamp [ns],gaze x [px],gaze y [px]"]
    for stem, time, dx, dy in made.samples(200):
        if stem == "l":
            rows.append(f"a,b,{round(time * 1e6)},{400 + 0.25 * 800 + dx},{300 + 0.75 * 400 + dy}")
    made.write(tmp_path / "l.csv", rows)
    place = "[area]\nleft = 400\ntop = 300\nwidth = 800\nheight = 400\n"
    made.write(tmp_path / "gaze.toml", ['files = ["l.csv"]', place])
    np.testing.assert_allclose(read(tmp_path / "gaze.toml").paths["l"].x, 0.25, atol=0.004)
