"""gaze.toml: what each entry means, names of images, several readers, and bounds that are checked before any work."""

import unicodedata
from pathlib import Path

import gaze_files as made
import numpy as np
import pytest

from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.training.gaze import bounds, readers
from gazeseg_serve.training.gaze import scan_paths as sp
from gazeseg_serve.training.gaze.mapping import load_mapping
from gazeseg_serve.training.gaze.names import ImageNames
from gazeseg_serve.training.gaze.scan_paths import FixationTable, ScanPath
from gazeseg_serve.training.gaze.sources import find_gaze, read_for

COLUMNS = 'files = ["raw/*.csv"]\n[columns]\ntime = "t"\nx = "x"\ny = "y"\nimage = "image"\n'


def read(path: Path, sizes: dict[str, tuple[int, int]] | None = None, **options: object) -> FixationTable:
    sizes = sizes or made.SIZES
    return read_for(path, ImageNames(sizes, sizes.get), **options)  # type: ignore[arg-type]


def table(folder: Path, toml: str, rows: list[str], header: str = "t,x,y,image", name: str = "raw/a.csv") -> Path:
    made.write(folder / name, [header, *rows])
    return made.write(folder / "gaze.toml", [toml])


def looks(place: dict[str, tuple[float, float]], rate: float = 100) -> list[str]:
    """Rows t,x,y,image of a gaze that rests on one place an image."""
    return [f"{t},{place[s][0]},{place[s][1]},{s}.png" for s, t, _, _ in made.samples(rate)]


def flipped(place: dict[str, tuple[float, float]], height: dict[str, float]) -> dict[str, tuple[float, float]]:
    return {stem: (x, height[stem] - y) for stem, (x, y) in place.items()}


SHARES = made.PLACES
PIXELS = {stem: made.on_screen(stem) for stem in made.SIZES}
OWN = {stem: made.on_image(stem) for stem in made.SIZES}


@pytest.mark.parametrize(
    ("units", "place"),
    [
        ('position = "pixels"', PIXELS),
        ('position = "pixels"\norigin = "bottom left"', flipped(PIXELS, dict.fromkeys("lp", 1080))),
        ('position = "pixels"\norigin = "center"', {s: (x - 960, 540 - y) for s, (x, y) in PIXELS.items()}),
        ('position = "screen"', {s: (x / 1920, y / 1080) for s, (x, y) in PIXELS.items()}),
        ('position = "screen"\norigin = "bottom left"', {s: (x / 1920, 1 - y / 1080) for s, (x, y) in PIXELS.items()}),
        ('position = "screen_percent"', {s: (x / 19.2, y / 10.8) for s, (x, y) in PIXELS.items()}),
        ('position = "image"', SHARES),
        ('position = "image"\norigin = "bottom left"', flipped(SHARES, dict.fromkeys("lp", 1))),
        ('position = "image_percent"', {s: (100 * x, 100 * y) for s, (x, y) in SHARES.items()}),
        ('position = "image_pixels"', OWN),
        ('position = "image_pixels"\norigin = "bottom left"', flipped(OWN, {"l": 60, "p": 120})),
    ],
)
def test_positions_and_origins(tmp_path, units, place):
    found = read(table(tmp_path, f"{COLUMNS}[units]\n{units}\n{made.SCREEN_TOML}", looks(place)))
    for stem, (x, y) in made.PLACES.items():
        np.testing.assert_allclose(found.paths[stem].x, x, atol=1e-3)
        np.testing.assert_allclose(found.paths[stem].y, y, atol=1e-3)


@pytest.mark.parametrize(
    ("said", "place", "message"),
    [
        ("screen", PIXELS, r'are pixels, not shares of the screen.*"pixels" \(of the screen\) or "image_pixels"'),
        ("image", PIXELS, "are pixels, not shares of the image"),
        ("image", {s: (100 * x, 100 * y) for s, (x, y) in SHARES.items()}, r'are percent, not.*"image_percent"'),
        ("pixels", SHARES, r'are shares, not pixels.*"image" or "screen"'),
        ("image_pixels", SHARES, "are shares, not image pixels"),
        ("image_percent", SHARES, "are shares, not image percent"),
    ],
)
@pytest.mark.parametrize("fixations", [False, True])
def test_positions_in_another_unit_are_named_with_the_fix(tmp_path, said, place, message, fixations):
    columns = COLUMNS.replace('time = "t"', 'duration = "t"') if fixations else COLUMNS
    with pytest.raises(DatasetError, match=message):
        read(table(tmp_path, f'{columns}[units]\nposition = "{said}"\n{made.SCREEN_TOML}', looks(place)))


@pytest.mark.parametrize("area", ["[area]", '[area."L.PNG"]', "[areas.l]"])
def test_where_an_image_stood(tmp_path, area):
    place = {"l": (500 + 0.25 * 300, 100 + 0.75 * 200), "p": made.on_screen("p")}
    toml = f"{COLUMNS}{made.SCREEN_TOML}{area}\nleft = 500\ntop = 100\nwidth = 300\nheight = 200\n"
    found = read(table(tmp_path, toml, looks(place)))
    np.testing.assert_allclose(found.paths["l"].x, 0.25, atol=1e-3)
    np.testing.assert_allclose(found.paths["l"].y, 0.75, atol=1e-3)
    if area != "[area]":
        np.testing.assert_allclose(found.paths["p"].x, made.PLACES["p"][0], atol=1e-3)


def test_zoom_and_pan_are_undone(tmp_path):
    """The right half of l, 60 x 60 of its pixels, is shown on 600 x 600 of the screen."""
    toml = 'files = ["a.csv"]\n[columns]\nx = "x"\ny = "y"\nimage = "image"\nduration = "d"\narea = ["al", "at", "aw", "ah"]\n'
    toml += 'shown = ["sl", "st", "sr", "sb"]\n[screen]\nwidth_px = 1920\nheight_px = 1080\n'
    header = "image,x,y,d,al,at,aw,ah,sl,st,sr,sb"
    path = table(tmp_path, toml, ["l,400,240,200,100,90,600,600,60,0,120,60"], header, "a.csv")
    found = read(path).paths["l"]
    np.testing.assert_allclose([found.x[0], found.y[0]], [(60 + 60 * 300 / 600) / 120, 60 * 150 / 600 / 60])


def test_pixels_of_an_image_of_another_size(tmp_path):
    toml = 'files = ["a.csv"]\n[columns]\nx = "x"\ny = "y"\nduration = "d"\nimage = "image"\nimage_size = ["w", "h"]\n'
    toml += '[units]\nposition = "image_pixels"\nduration = "s"\n'
    found = read(table(tmp_path, toml, ["l,300,450,0.2,1200,600"], "image,x,y,d,w,h", "a.csv")).paths["l"]
    assert (found.x[0], found.y[0], found.duration[0]) == (0.25, 0.75, 200)


@pytest.mark.parametrize(
    ("units", "good", "bad"),
    [
        ("", "1", "0"),
        ("", "1.0", "0.0"),
        ("", "TRUE", "false"),
        ('valid = "ok"', "OK", "1"),
        ("valid = [0, 1]", "1.00", "4"),
        ("valid_from = 0.6", "0.6", "0.59"),
        ("valid_to = 1", "1", "2"),
        ("valid_from = 1\nvalid_to = 2", "2", "nan"),
    ],
)
def test_validity_by_words_and_by_limits(tmp_path, units, good, bad):
    rows = [f"{line},{good}" for line in looks(PIXELS)] + [f"{5000 + 10 * n},{300},{500},l,{bad}" for n in range(40)]
    toml = COLUMNS + f'validity = "ok"\n[units]\n{units}\n{made.SCREEN_TOML}'
    found = read(table(tmp_path, toml, rows, "t,x,y,image,ok"))
    np.testing.assert_allclose(found.paths["l"].x, 0.25, atol=1e-3)
    assert found.lost == 40


def test_each_eye_has_its_own_validity_and_codes(tmp_path):
    """The left eye is 0, then invalid, then -1, then a code of the user's own; the right one is seen throughout."""
    rows = []
    lost = ("0,0,1", "300,900,0", "-1,-1,1", "777,777,1", ".,.,1")
    for n, (stem, t, _, _) in enumerate(made.samples(100)):
        x, y = made.on_screen(stem)
        rows.append(f"{t},{lost[n % 5]},{x},{y},1,{stem}")
    toml = 'files = ["raw/*.csv"]\n[columns]\ntime = "t"\nx = ["lx", "rx"]\ny = ["ly", "ry"]\nvalidity = ["lv", "rv"]\n'
    toml += f'image = "image"\n[units]\nmissing = ["777"]\n{made.SCREEN_TOML}'
    found = read(table(tmp_path, toml, rows, "t,lx,ly,lv,rx,ry,rv,image"))
    for stem, (x, y) in made.PLACES.items():
        np.testing.assert_allclose(found.paths[stem].x, x, atol=1e-3)
        np.testing.assert_allclose(found.paths[stem].y, y, atol=1e-3)
    assert found.lost == 0


def test_a_mapping_without_files_describes_the_fixations_beside_it(tmp_path):
    rows = [f"{s}.png,{x},{y},200" for s, (x, y) in PIXELS.items()]
    made.write(tmp_path / "fixations.tsv", ["IMAGE,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION", *rows])
    made.write(tmp_path / "gaze.toml", [made.SCREEN_TOML])
    assert find_gaze(tmp_path) == tmp_path / "gaze.toml"
    np.testing.assert_allclose(read(tmp_path / "gaze.toml").paths["p"].x, [0.6], atol=1e-9)
    made.write(tmp_path / "gaze.toml", ['files = ["raw/*.csv"]', made.SCREEN_TOML])
    assert find_gaze(tmp_path) == tmp_path / "fixations.tsv"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("width_cm = 0.527", "if these are metres, write 52.7"),
        ("width_cm = 2000", "not within 5 to 1000"),
        ("distance_cm = 6000", "if these are millimetres, write 600"),
        ("height_px = 3", "3 is no size of a screen"),
        ("width_cm = nan", "not within"),
    ],
)
def test_a_screen_that_cannot_be_is_refused(tmp_path, line, message):
    path = made.write(tmp_path / "gaze.toml", [f"[screen]\n{line}"])
    with pytest.raises(ConfigError, match=message):
        load_mapping(path)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[units]\norigin = "top"', "origin 'top'; known: top left"),
        ('[columns]\nx = ["a", "b"]\ny = ["c", "d"]\nvalidity = ["e", "f", "g"]\ntime = "t"', "one an eye"),
        ('[columns]\narea = ["a"]', "columns.area needs 4"),
        ("[units]\nvalid_from = 2\nvalid_to = 1", "valid_from 2.0 is above valid_to 1.0"),
        ('[columns]\nx = "a"\ny = "b"', "columns.time is missing"),
        ("[area.l]\nleft = 0\ntop = 0\nwidth = nan\nheight = 5", "above 0"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, toml, message):
    with pytest.raises(ConfigError, match=message):
        load_mapping(made.write(tmp_path / "gaze.toml", [toml]))


# Names of images.


@pytest.mark.parametrize(
    ("cell", "stem"),
    [
        ("Bär.png", "Bär"),
        (unicodedata.normalize("NFD", "Bär.png"), "Bär"),
        ("BÄR.PNG", "Bär"),
        ("a", "a"),
        ("A", "A"),
        ("a.jpg", "a"),
        ("scan.v1", "scan.v1"),
        ("scan.v1.png", "scan.v1"),
        ("scan.v2", None),
        ("scan.v2.png", None),
        ("1.2.840.99", None),
        ("http://lab.org/img/a.png?x=1", "a"),
        ("a.png/", "a"),
        ("", None),
    ],
)
def test_names_are_matched_with_care(cell, stem):
    assert ImageNames(("Bär", "a", "A", "scan", "scan.v1", "1.2.840")).match(cell) == stem


def test_two_images_that_case_alone_tells_apart_are_not_guessed():
    names = ImageNames(("a", "A"))
    assert names.match("a.png") == "a"
    assert ImageNames(("ab", "AB")).match("Ab") is None
    assert names.nearest("zzzz") is None
    assert ImageNames(("polyp_12",)).nearest("polyp-12.png") == "polyp_12"


def fixations(folder: Path, rows: list[str], name: str = "fixations.csv", more: str = "") -> Path:
    return made.write(folder / name, ["IMAGE,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION" + more, *rows])


def test_two_images_of_one_name_are_not_merged(tmp_path):
    rows = ["case1/l.png,0.1,0.1,200", "case2/l.png,0.9,0.9,200", "p.png,0.5,0.5,200"]
    found = read(fixations(tmp_path, rows))
    assert list(found.paths) == ["p"]
    assert found.reasons == {sp.AMBIGUOUS: 2}


def test_an_unknown_image_is_listed_with_its_nearest(tmp_path):
    sizes = dict.fromkeys(("polyp_1", "liver"), (9, 9))
    found = read(fixations(tmp_path, ["liver,0.1,0.1,200", "polyp-1.png,0.1,0.1,200", "polyp-1.png,0.2,0.1,200"]), sizes)
    assert "unknown image 'polyp-1' on 2 row(s); the nearest is polyp_1" in found.notes
    assert found.reasons == {sp.UNKNOWN_IMAGE: 2}
    with pytest.raises(DatasetError, match=r"none of it.*the nearest is polyp_1"):
        read(fixations(tmp_path, ["polyp-1,0.1,0.1,200"]), sizes)


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".hidden", "a\\b", "nul\0", "x" * 101, "a:b"])
def test_a_class_that_is_no_folders_name_is_refused(tmp_path, name):
    rows = [f"l,0.1,0.1,200,{name}", "l,0.1,0.1,200,liver"]
    with pytest.raises(DatasetError, match=r"cannot be a folder's name|zero bytes"):
        read(fixations(tmp_path, rows, more=",CLASS"))


@pytest.mark.parametrize("name", ["P1", "../../x", "a/b", "", "..", "con:1", "x" * 300, "лаб 1"])
def test_a_readers_folder_is_no_path(name):
    folder = readers.folder_name(name, [])
    assert folder not in ("", ".", "..")
    assert Path(folder).name == folder
    assert len(folder) <= 60
    assert readers.folder_name(name, [folder.upper()]).casefold() != folder.casefold()


# Readers.


def both(folder: Path) -> list[str]:
    """Reader A looks left twice for 300 ms in all, reader B once right for 100 ms; p is A's alone."""
    return ["l,0.2,0.5,200,A", "l,0.2,0.5,100,A", "l,0.8,0.5,100,B", "p,0.5,0.5,70,A"]


def test_readers_are_pooled_or_taken_alone(tmp_path):
    path = fixations(tmp_path, both(tmp_path), more=",READER")
    mean, union = read(path), read(path, pool="union")
    np.testing.assert_array_equal(union.paths["l"].duration, [200, 100, 100])
    np.testing.assert_allclose(mean.paths["l"].duration, [200 * 200 / 300, 100 * 200 / 300, 200])
    np.testing.assert_array_equal(mean.paths["p"].duration, [70])
    assert {stem: list(scans) for stem, scans in mean.readers.items()} == {"l": ["A", "B"], "p": ["A"]}
    np.testing.assert_array_equal(read(path, reader="b").paths["l"].x, [0.8])
    with pytest.raises(DatasetError, match="no reader 'C'; the gaze names A, B"):
        read(path, reader="C")
    with pytest.raises(ConfigError, match="pool 'max'"):
        read(path, pool="max")


@pytest.mark.parametrize("name", ["reader", "Participant", "SUBJECT", "observer", "RECORDING_SESSION_LABEL"])
def test_a_reader_goes_by_several_names(tmp_path, name):
    assert list(read(fixations(tmp_path, both(tmp_path), more=f",{name}")).readers["l"]) == ["A", "B"]


def test_a_file_is_a_reader_where_gaze_toml_says_so_and_in_a_folder_of_readers(tmp_path):
    for name, x in (("ann", 0.2), ("bob", 0.8)):
        fixations(tmp_path / "readers", [f"l,{x},0.5,200"], f"{name}.csv")
    toml = made.write(tmp_path / "gaze.toml", ['files = ["readers/*.csv"]\nreader = "file"'])
    for source in (tmp_path / "readers", toml):
        assert {name: list(scan.x) for name, scan in read(source).readers["l"].items()} == {"ann": [0.2], "bob": [0.8]}
    assert read(tmp_path / "readers").classes == ("lesion",)


def test_a_folder_of_one_images_files_is_a_reader(tmp_path):
    header = "CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION"
    for name, x in (("ann", 0.2), ("bob", 0.8)):
        made.write(tmp_path / "raw" / name / "l.csv", [header, f"{x},0.5,200"])
    expected = {"ann": [0.2], "bob": [0.8]}
    assert {name: list(scan.x) for name, scan in read(tmp_path / "raw").readers["l"].items()} == expected
    (tmp_path / "raw").rename(tmp_path / "readers")
    assert {name: list(scan.x) for name, scan in read(tmp_path / "readers").readers["l"].items()} == expected


def test_files_that_show_one_image_are_readers_of_their_own(tmp_path):
    for name, place in (("s1", PIXELS), ("s2", {"l": (1500, 400), "p": made.on_screen("p")})):
        table(tmp_path, f"{COLUMNS}{made.SCREEN_TOML}", looks(place), name=f"raw/{name}.csv")
    assert list(read(tmp_path / "gaze.toml").readers["l"]) == ["s1", "s2"]


@pytest.mark.parametrize("second", [2, 12])
def test_a_reading_that_starts_anew_is_kept_apart(tmp_path, second):
    rows = [f"l,{i},0.2,0.5,200,{250 * i}" for i in range(1, 4)] + [
        f"l,{i},0.8,0.5,200,{250 * i}" for i in range(1, second + 1)
    ]
    path = made.write(
        tmp_path / "fixations.csv",
        ["IMAGE,CURRENT_FIX_INDEX,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION,CURRENT_FIX_START", *rows],
    )
    found = read(path)
    assert found.dropped == ()
    assert {name: len(scan) for name, scan in found.readers["l"].items()} == {"reading 1": 3, "reading 2": second}
    assert any("start anew (l for one)" in note for note in found.notes)
    np.testing.assert_array_equal(read(path, reader="reading 2").paths["l"].x, [0.8] * second)


def test_a_session_is_a_reader_and_a_trial_a_reading(tmp_path):
    header = "RECORDING_SESSION_LABEL,TRIAL_INDEX,IMAGE,CURRENT_FIX_INDEX,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION"
    rows = [f"{r},{t},l,{i},{x},0.5,200" for r, t, x in (("r1", 1, 0.2), ("r1", 2, 0.3), ("r2", 1, 0.8)) for i in (1, 2)]
    found = read(made.write(tmp_path / "fixations.csv", [header, *rows]))
    assert found.dropped == ()
    assert {name: list(scan.x) for name, scan in found.readers["l"].items()} == {"r1": [0.2, 0.2, 0.3, 0.3], "r2": [0.8, 0.8]}


def scan(x: list[float], y: list[float], duration: list[float]) -> ScanPath:
    return ScanPath(np.array(x), np.array(y), np.array(duration), np.ones(len(x), np.int64))


def test_agreement_is_one_for_the_same_gaze_and_nothing_for_gaze_elsewhere():
    one, other = scan([0.2, 0.3], [0.2, 0.2], [100, 300]), scan([0.9], [0.9], [50])
    same, apart = readers.agreement(
        {"a": {"A": one, "B": scan([0.2, 0.3], [0.2, 0.2], [10, 30])}, "b": {"A": one, "B": other}}
    ).values()
    assert same == pytest.approx(1)
    assert apart < 0.01
    half = readers.agreement({"a": {"A": scan([0.1, 0.9], [0.1, 0.9], [5, 5]), "B": scan([0.1], [0.1], [5])}})["a"]
    assert half == pytest.approx(0.5, abs=0.02)
    assert readers.agreement_lines({}) == []
    lines = readers.agreement_lines({"a": {"A": one, "B": one}, "b": {"A": one, "B": other}})
    assert lines[0] == "2 readers: A, B"
    assert "least on b, 0.00" in lines[1]
    assert "no image was read by two" in readers.agreement_lines({"a": {"A": one}, "b": {"B": other}})[1]


# Bounds.


@pytest.mark.parametrize(
    ("declared", "scale", "message"),
    [
        ("us", 1, r'read in us.*read in "ms" it would be 100: write time = "ms"'),
        ("s", 1, r'in "ms" it would be 100'),
        ("ms", 1000, r'in "us" it would be 100'),
        ("ms", 1e6, r'in "ns" it would be 100'),
    ],
)
def test_a_wrong_unit_of_time_is_named(tmp_path, declared, scale, message):
    rows = [f"{round(t * scale)},{x},{y},{s}" for s, t, _, _ in made.samples(100) for x, y in [made.on_screen(s)]]
    with pytest.raises(DatasetError, match=message):
        read(table(tmp_path, f'{COLUMNS}[units]\ntime = "{declared}"\n{made.SCREEN_TOML}', rows))


@pytest.mark.parametrize(
    ("step", "unit"), [(1 / 60, "s"), (16.7, "ms"), (2000, "us"), (5e6, "ns"), (0.9, "ms"), (1e12, None), (0, None)]
)
def test_the_rate_tells_the_unit(step, unit):
    assert bounds.unit_of_rate(np.arange(50) * step) == unit


def test_fixations_read_as_raw_gaze_are_refused(tmp_path):
    rows = [f"{400 * n},{500},{500},l" for n in range(30)]
    with pytest.raises(DatasetError, match=r"2\.5 samples a second.*columns\.duration"):
        read(table(tmp_path, f"{COLUMNS}{made.SCREEN_TOML}", rows))


def test_one_sparse_image_is_a_listed_skip(tmp_path):
    rows = looks(PIXELS) + [f"{9000 + 2000 * n},500,500,q" for n in range(5)]
    found = read(table(tmp_path, f"{COLUMNS}{made.SCREEN_TOML}", rows), made.SIZES | {"q": (60, 120)})
    assert list(found.paths) == ["l", "p"]
    assert found.skipped == {"q": "0.5 raw samples a second; 15 to 4000 are a tracker's"}


def test_a_jump_of_the_clock_costs_nothing_and_is_said(tmp_path):
    rows = [f"{t},{x},{y},{s}" for s, t, _, _ in made.samples(100) for x, y in [made.on_screen(s)]]
    rows += [f"{1e14 + 10 * n:.0f},{500},{500},l" for n in range(30)]  # three thousand years later
    found = read(table(tmp_path, f"{COLUMNS}{made.SCREEN_TOML}", rows))
    assert len(found.paths["l"]) == 2
    assert any("the clock jumps by more than a minute within l (1 time(s))" in note for note in found.notes)


def test_doubled_time_stamps_are_named(tmp_path):
    rows = [line for line in looks(PIXELS) for _ in (0, 1)]
    found = read(table(tmp_path, f"{COLUMNS}{made.SCREEN_TOML}", rows))
    assert found.reasons == {sp.DOUBLED: len(rows) // 2}


def test_hours_of_one_image_are_a_listed_skip(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "LONGEST_LOOK", 300.0)
    with pytest.raises(DatasetError, match="minutes of gaze; the clock or the image's name is wrong"):
        read(table(tmp_path, f"{COLUMNS}{made.SCREEN_TOML}", looks(PIXELS)))


def test_a_fixation_of_more_than_a_minute_is_dropped(tmp_path):
    found = read(fixations(tmp_path, ["l,0.1,0.1,60001", "l,0.1,0.1,60000", "l,0.1,0.1,300"]))
    assert found.reasons == {sp.TOO_LONG: 1}


def test_a_name_on_the_first_row_alone_holds_until_the_next(tmp_path):
    rows, last = [], ""
    for line in looks(PIXELS):
        start, _, name = line.rpartition(",")
        rows.append(line if name != last else f"{start},")
        last = name
    found = read(table(tmp_path, f"{COLUMNS}{made.SCREEN_TOML}", rows))
    assert {stem: len(scan) for stem, scan in found.paths.items()} == {"l": 1, "p": 1}
    assert any("stands on its first row alone" in note for note in found.notes)


def test_an_image_column_is_found_by_what_it_holds(tmp_path):
    rows = [f"{n},l.png,{x},{y},200" for n, (x, y) in enumerate([PIXELS["l"]] * 3)]
    made.write(tmp_path / "r.csv", ["TRIAL,which,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION", *rows])
    toml = made.mapping(tmp_path, "r.csv")
    assert "r.csv: the column which names the images" in read(toml).notes
    made.write(
        tmp_path / "r.csv", ["also,which,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION", *(f"l{r[1:]}" for r in rows)]
    )
    with pytest.raises(DatasetError, match="the columns also, which all name images"):
        read(toml)


# What a mapping or a file may hold that no recording has.


def test_patterns_beside_above_and_from_the_root(tmp_path):
    rows = [f"{s}.png,{x},{y},200" for s, (x, y) in SHARES.items()]
    made.write(tmp_path / "a" / "r.csv", ["IMAGE,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION", *rows])
    for pattern in ("../a/*.csv", f"{tmp_path}/a/*.csv", "../*/r.csv"):
        made.write(tmp_path / "b" / "gaze.toml", [f'files = "{pattern}"'])
        assert list(read(tmp_path / "b" / "gaze.toml").paths) == ["l", "p"]
    made.write(tmp_path / "b" / "gaze.toml", ['files = ""'])
    with pytest.raises((ConfigError, DatasetError), match=r"raw/\*\.csv"):
        read(tmp_path / "b" / "gaze.toml")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
def test_a_mapping_in_any_encoding(tmp_path, encoding):
    path = made.write(tmp_path / "gaze.toml", ['files = ["Bär.csv"]'], encoding)
    assert load_mapping(path).files == ("Bär.csv",)


@pytest.mark.parametrize(
    "said",
    [
        {"ScreenResolution": [float("nan"), 1080]},
        {"ScreenResolution": [10**400, 1080]},
        {"ScreenResolution": ["1920", "1080"]},
        {"ScreenResolution": [1920]},
        {"ScreenResolution": 1920},
    ],
)
def test_a_sidecars_screen_that_is_none_is_not_believed(tmp_path, said):
    import json

    made.bids(tmp_path)
    (tmp_path / "task-look_events.json").write_text(json.dumps({"StimulusPresentation": said}))
    with pytest.raises(DatasetError, match="whose size in pixels it does not say"):
        read(tmp_path)


@pytest.mark.parametrize("coords", ["0 0 1..9 1079", "0 0 1e9 5", "5 5 1 1", "0 0 99999999 1079"])
def test_an_asc_with_a_screen_that_is_none(tmp_path, coords):
    path = made.eyelink_asc_samples(tmp_path)
    path.write_text(path.read_text().replace("0 0 1919 1079", coords))
    with pytest.raises(DatasetError, match="whose size in pixels it does not say"):
        read(path)


def test_an_end_needs_its_start(tmp_path):
    with pytest.raises(ConfigError, match=r"columns\.end needs columns\.time"):
        load_mapping(made.write(tmp_path / "gaze.toml", ['[columns]\nx = "x"\ny = "y"\nend = "e"']))
