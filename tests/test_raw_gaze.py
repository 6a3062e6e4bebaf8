"""Raw samples: fixations that were put in come out, whatever the tracker's rate, units and column names."""

from pathlib import Path

import numpy as np
import pytest

from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.gaze import scan_paths as fx
from gazeseg_serve.training.gaze.detection import Detection, Monitor, detect
from gazeseg_serve.training.gaze.mapping import fit, load_mapping
from gazeseg_serve.training.gaze.names import ImageNames
from gazeseg_serve.training.gaze.sources import find_gaze, image_size, read_for, read_gaze
from gazeseg_serve.training.masks.make import MaskSettings, load_map, make_masks
from gazeseg_serve.training.masks.settings import Screen, canvas_sigma

MONITOR = Monitor(1920, 1080, 53.0, 30.0, 60.0)
TARGETS = np.array([[300, 300], [1600, 250], [900, 800], [400, 900], [1200, 500]], float)
DWELL = 400.0
MAPPING = """
files = ["raw/*.csv"]
[columns]
time = "t"
x = "gx"
y = "gy"
image = "stimulus"
[screen]
width_px = 1920
height_px = 1080
width_cm = 53.0
height_cm = 30.0
distance_cm = 60.0
"""


def read_samples(path: Path, sizes: dict[str, tuple[int, int]], classes: tuple[str, ...] | None = None) -> fx.FixationTable:
    return read_for(path, ImageNames(sizes, sizes.get), classes)


def recording(rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Times in ms and screen pixels of a gaze that rests on each target in turn, with a little noise."""
    time = np.arange(0, DWELL * len(TARGETS), 1000 / rate) + 5000
    place = TARGETS[np.minimum(((time - 5000) / DWELL + 1e-9).astype(int), len(TARGETS) - 1)]
    return time, place + np.random.default_rng(seed).normal(0, 2, place.shape)


def write(folder: Path, rows: list[str], header: str = "t,gx,gy,stimulus", mapping: str = MAPPING) -> Path:
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw" / "a.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "gaze.toml").write_text(mapping)
    return folder / "gaze.toml"


@pytest.mark.parametrize("method", ["ivt", "idt"])
@pytest.mark.parametrize("rate", [30, 60, 250, 1000])
def test_fixations_are_found_at_any_rate(rate, method):
    time, place = recording(rate)
    found = detect(time, place[:, 0], place[:, 1], MONITOR, Detection(method))
    np.testing.assert_allclose(np.stack([found.x, found.y], 1), TARGETS, atol=5)
    np.testing.assert_allclose(found.duration, DWELL, atol=3000 / rate + 40)
    np.testing.assert_allclose(found.start, 5000 + DWELL * np.arange(5), atol=2000 / rate + 20)
    np.testing.assert_allclose(time[found.first], found.start, atol=1000 / rate)


@pytest.mark.parametrize("method", ["ivt", "idt"])
def test_a_long_gap_ends_a_fixation_and_a_short_one_does_not(method):
    time, place = recording(100)
    place[10:15] = np.nan  # 50 ms of the first fixation
    place[55:65] = np.nan  # 100 ms in the middle of the second
    found = detect(time, place[:, 0], place[:, 1], MONITOR, Detection(method))
    assert len(found.x) == 6
    assert found.duration[0] == pytest.approx(DWELL, abs=50)
    np.testing.assert_allclose(found.duration[1:3], [150, 150], atol=40)


def test_dropped_and_irregular_samples_do_no_harm():
    time, place = recording(120)
    keep = np.random.default_rng(1).random(len(time)) > 0.2
    time = time + np.random.default_rng(2).uniform(-2, 2, len(time))
    found = detect(time[keep], place[keep, 0], place[keep, 1], MONITOR, Detection("idt"))
    np.testing.assert_allclose(np.stack([found.x, found.y], 1), TARGETS, atol=6)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_samples_are_no_fixation(count):
    values = np.arange(float(count))
    assert len(detect(values, values, values, MONITOR, Detection()).x) == 0


def test_samples_without_gaze_are_no_fixation():
    nothing = np.full(200, np.nan)
    assert len(detect(np.arange(200.0), nothing, nothing, MONITOR, Detection()).x) == 0


@pytest.mark.parametrize(
    "change", [{"method": "hmm"}, {"velocity": 0.0}, {"dispersion": -1.0}, {"minimum_ms": float("nan")}, {"max_gap_ms": 0.0}]
)
def test_detection_settings_that_find_nothing_are_an_error(change):
    with pytest.raises(ConfigError):
        Detection(**change)


def expected_shares(size: tuple[int, int]) -> np.ndarray:
    area = fit(MONITOR, size)
    return (TARGETS - (area.left, area.top)) / (area.width, area.height)


@pytest.mark.parametrize(
    ("units", "rescale", "clock"),
    [
        ('[units]\ntime = "ms"\nposition = "pixels"', lambda p: p, 1.0),
        ('[units]\ntime = "s"\nposition = "screen"', lambda p: p / (1920, 1080), 1e-3),
        ('[units]\ntime = "us"\nposition = "image"', lambda p: (p - (420, 0)) / 1080, 1e3),
    ],
)
def test_units_and_the_place_of_the_image_on_the_screen(tmp_path, units, rescale, clock):
    time, place = recording(120)
    inside = (place[:, 0] > 425) & (place[:, 0] < 1495)
    rows = [f"{t * clock:.9g},{x:.9g},{y:.9g},a.png" for t, (x, y) in zip(time, rescale(place), strict=True)]
    table = read_samples(write(tmp_path, rows, mapping=MAPPING + units), {"a": (64, 64)})
    scan = table.paths["a"]  # a square image: 1080 px in the middle, so two targets lie beside it
    on_image = expected_shares((64, 64))[[2, 4]]
    np.testing.assert_allclose(np.stack([scan.x, scan.y], 1), on_image, atol=0.006)
    assert table.reasons == {fx.OFF_SCREEN: 3}
    assert inside.any()


def test_eyes_validity_and_blinks(tmp_path):
    time, place = recording(100)
    rows = []
    for i, (t, (x, y)) in enumerate(zip(time, place, strict=True)):
        left = f"{x - 10},{y}" if i % 7 else ","  # the left eye is lost now and then, the right one is 10 px off
        rows.append(f"{t},{left},{x + 10},{y},{'Valid' if i % 50 else 'Invalid'},a")
    rows.insert(5, "5049.5,,,,,,,,")  # more cells than the header
    mapping = MAPPING.replace('x = "gx"', 'x = ["lx", "rx"]').replace('y = "gy"', 'y = ["ly", "ry"]\nvalidity = "ok"')
    header = "t,lx,ly,rx,ry,ok,stimulus"
    table = read_samples(write(tmp_path, rows, header, mapping), {"a": (1080, 1920)})
    np.testing.assert_allclose(np.stack([table.paths["a"].x, table.paths["a"].y], 1), TARGETS / (1920, 1080), atol=0.008)
    assert table.reasons == {fx.LOST: 4, fx.MALFORMED: 1}
    assert [d.reason for d in table.dropped] == [fx.MALFORMED]
    assert table.lost == 4


def test_bad_samples_are_named_by_file_and_line(tmp_path):
    time, place = recording(100)
    rows = [f"{t},{x},{y},a" for t, (x, y) in zip(time, place, strict=True)]
    rows += ["9000,2000,5,a", "9001,x,5,a", "5000,5,5,a", "9003,5,5,zebra", "9004,5,5,", "when,5,5,a"]
    path = write(tmp_path, rows)
    table = read_samples(path, {"a": (1080, 1920), "b": (10, 10)})
    first = len(time) + 2
    assert {(d.line - first, d.reason) for d in table.dropped} == {
        (0, fx.OFF_SAMPLE),
        (1, fx.NOT_A_NUMBER),
        (2, fx.BACKWARDS),
        (3, fx.UNKNOWN_IMAGE),
        (5, fx.NOT_A_NUMBER),
    }
    assert all(d.file.endswith("a.csv") for d in table.dropped)
    assert table.skipped == {"b": "no usable fixation"}
    with pytest.raises(DatasetError, match=f"line {first}"):
        table.require_clean()


def test_classes_and_files_named_after_their_image(tmp_path):
    time, place = recording(100)
    rows = [f"{t},{x},{y},{'left' if x < 1000 else 'right'}" for t, (x, y) in zip(time, place, strict=True)]
    rows.append("9999,5,5,spleen")
    mapping = MAPPING.replace('image = "stimulus"', 'label = "organ"')
    path = write(tmp_path, rows, "t,gx,gy,organ", mapping)
    table = read_samples(path, {"a": (1080, 1920)}, ("left", "right"))
    np.testing.assert_array_equal(np.sort(table.paths["a"].label), [1, 1, 1, 2, 2])
    assert table.reasons == {fx.UNKNOWN_CLASS: 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('time = "t"', 'tim = "t"', "unknown field 'tim'"),
        ("width_px = 1920", "width_px = 0", "width_px"),
        ('x = "gx"', 'x = ["a", "b"]', "as many columns"),
        ('files = ["raw/*.csv"]', "files = 3", "files"),
        ("[screen]", '[units]\ntime = "h"\n[screen]', "unit of time"),
        ("[columns]", "[columns", "not TOML"),
        ("[screen]", '[units]\nposition = "cm"\n[screen]', "unit of position"),
        ("[screen]", "[area]\nleft = 0\ntop = 0\nwidth = 0\nheight = 5\n[screen]", "area"),
        ("[screen]", '[detection]\nmethod = "x"\n[screen]', "detection method"),
    ],
)
def test_a_wrong_mapping_is_an_error_that_names_the_entry(tmp_path, old, new, message):
    assert old in MAPPING
    (tmp_path / "gaze.toml").write_text(MAPPING.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_mapping(tmp_path / "gaze.toml")


def test_missing_and_empty_samples_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_mapping(tmp_path / "gaze.toml")
    path = write(tmp_path, [])
    with pytest.raises(DatasetError, match="no row"):
        read_samples(path, {"a": (9, 9)})
    with pytest.raises(DatasetError, match="lacks the column"):
        read_samples(write(tmp_path, ["1,2,3"], header="t,gx,gy"), {"a": (9, 9)})
    with pytest.raises(DatasetError, match="none of it"):
        read_samples(write(tmp_path, ["1,2,3,a"]), {"a": (9, 9)})
    (tmp_path / "raw" / "a.csv").unlink()
    with pytest.raises(DatasetError, match="no file matches"):
        read_samples(path, {"a": (9, 9)})


def test_masks_come_from_raw_samples_too(tmp_path):
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "images" / "a.png").write_bytes(encode_png(np.zeros((54, 96, 3), np.uint8)))
    time, place = recording(100)
    path = write(data, [f"{t},{x},{y},a" for t, (x, y) in zip(time, place, strict=True)])
    assert find_gaze(data) == path
    make_masks(data, tmp_path / "raw_out", MaskSettings(crf=None), jobs=1)
    written = tmp_path / "raw_out" / "detected_fixations.csv"
    assert len(read_gaze(written, {"a": data / "images/a.png"}).paths["a"]) == 5
    make_masks(data, tmp_path / "table_out", MaskSettings(crf=None), jobs=1, gaze=written)
    np.testing.assert_array_equal(load_map(tmp_path / "raw_out", "a", False), load_map(tmp_path / "table_out", "a", False))


def test_a_dataset_without_gaze_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"gaze\.toml for raw samples"):
        find_gaze(tmp_path)


def test_image_size_is_that_of_the_upright_image(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (20, 10)).save(tmp_path / "plain.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    assert image_size(tmp_path / "turned.jpg") == (20, 10)
    assert image_size(tmp_path / "plain.png") == (10, 20)
    assert image_size(tmp_path / "junk.png") is None
    assert image_size(tmp_path / "none.png") is None


def test_degrees_of_visual_angle():
    # At 57.3 cm, 1 cm is 1 degree. A square image on a 40 x 30 screen is shown 30 cm wide: 768 px.
    screen = Screen.parse("40x30@57.3")
    assert canvas_sigma(1.0, screen, (100, 100)) == pytest.approx((768 / 30, 768 / 30), rel=1e-3)
    # An image twice as wide as high is 40 cm wide and 20 cm high: fewer canvas pixels across than down.
    assert canvas_sigma(1.0, screen, (100, 200)) == pytest.approx((768 / 20, 768 / 40), rel=1e-3)


@pytest.mark.parametrize("text", ["40x30", "40x30@0", "axb@c", "40x30@-5", ""])
def test_a_screen_that_is_none_is_an_error(text):
    with pytest.raises(ConfigError, match="53x30@60"):
        Screen.parse(text)


@pytest.mark.parametrize("degrees", [0.0, 90.0, float("nan")])
def test_an_angle_that_is_none_is_an_error(degrees):
    with pytest.raises(ConfigError, match="degrees"):
        MaskSettings(degrees=degrees, screen=Screen(40, 30, 60))
