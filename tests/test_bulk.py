"""`predict` on files and folders as people have them: nothing overwritten, nothing dropped in silence."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from artifacts import write_artifact
from dicoms import dicom_file, enhanced_file
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from gazeseg_serve.bulk import MaskOptions, is_done, predict_files, segment_file
from gazeseg_serve.clinical import IntendedUse
from gazeseg_serve.errors import DatasetError
from gazeseg_serve.files import sha256, write_bytes
from gazeseg_serve.image_inputs import collect, image_kind
from gazeseg_serve.mask_file import Stamp, read_stamp, stamped
from gazeseg_serve.predictor import Predictor


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    return folder


def image(width: int, suffix: str = ".png") -> bytes:
    """A picture of this width, white on the left: its mask's size and pixels tell which it is."""
    pixels = np.zeros((20, width, 3), np.uint8)
    pixels[:, : width // 2] = 255
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def width(mask: Path) -> int:
    with Image.open(mask) as picture:
        return picture.width


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def cli(*arguments: str | bytes | Path, stdin: bytes | None = None, code: str = "") -> subprocess.CompletedProcess[bytes]:
    run = ["-c", f"{code}; from gazeseg_serve.__main__ import main; main()"] if code else ["-m", "gazeseg_serve"]
    return subprocess.run([sys.executable, *run, *arguments], capture_output=True, input=stdin, timeout=120)


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12).map(
    lambda stem: stem.lstrip(".") or "x"
)
FEW = st.builds(
    str.__add__,
    st.sampled_from(["a", "A", "a.b", "IM0001", "é", "x" * 250]),
    st.sampled_from(["", ".png", ".PNG", ".IMA", ".jfif", ".5"]),
)


@given(names=st.sets(st.one_of(FEW, NAMES), min_size=1, max_size=6))
@example(names={"a.png", "a.PNG", "A.png", "a", "a_png.png", "a-2.png"})
@example(names={"x" * 255, "x" * 251 + ".png", "x" * 254 + "y"})
@example(names={"-", "--help", "\n.png", "1.2.3", "1.2.4"})
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_file_of_a_folder_gets_a_mask_of_its_own(artifact: Path, names: set[str], tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("run")
    folder, out = root / "in", root / "out"
    folder.mkdir()
    written = {}
    for name in names:
        if len(name.encode()) <= 255 and not name.lower().startswith("dicomdir"):
            written[name] = 30 + len(written)
            (folder / name).write_bytes(image(written[name]))
    before = contents(folder)
    summary = predict_files(artifact, [folder], out)
    assert (summary.written, summary.failures, summary.skipped) == (len(written), {}, {})
    assert contents(folder) == before
    widths = sorted(width(mask) for mask in out.iterdir())
    assert widths == sorted(written.values()), "one mask an image, no more"


@pytest.mark.parametrize(
    "way",
    [
        "folder",
        "relative",
        "link to the folder",
        "one file",
        "hard link",
        "symbolic link",
        "another's picture",
        "a folder in the way",
        "its own mask as an image",
    ],
)
def test_no_file_is_overwritten_that_predict_did_not_write(
    artifact: Path, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    (photos / "x.png").write_bytes(image(40))
    (photos / "y.jpg").write_bytes(image(50, ".jpg"))
    inputs, target = [photos], out
    if way in ("folder", "one file", "relative"):
        target = photos
        inputs = [photos / "x.png"] if way == "one file" else [photos]
        if way == "relative":
            monkeypatch.chdir(photos)
            inputs, target = [Path("../photos")], Path()
    elif way == "link to the folder":
        target = tmp_path / "link"
        target.symlink_to(photos)
    elif way == "hard link":
        os.link(photos / "x.png", out / "y.png")
    elif way == "symbolic link":
        (out / "y.png").symlink_to(photos / "x.png")
    elif way == "another's picture":
        (out / "y.png").write_bytes(image(60))
    elif way == "a folder in the way":
        (out / "y.png").mkdir()
    else:
        predict_files(artifact, [photos / "y.jpg"], out)
        inputs = [out / "y.png"]
    before = contents(photos), contents(out)
    with pytest.raises(DatasetError, match="nothing was written"):
        predict_files(artifact, inputs, target)
    assert (contents(photos), contents(out)) == before


def test_its_own_masks_are_replaced_wherever_they_lie(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(image(40, ".jpg"))
    first = predict_files(artifact, [tmp_path], tmp_path, threshold=0.5)
    assert sorted(contents(tmp_path)) == ["x.jpg", "x.png"]
    stamp = read_stamp(tmp_path / "x.png")
    again = predict_files(artifact, [tmp_path], tmp_path, threshold=0.25)
    assert (first.written, again.written) == (1, 1)
    assert again.skipped == {str(tmp_path / "x.png"): "a mask that predict wrote"}
    assert stamp is not None
    assert read_stamp(tmp_path / "x.png") == Stamp(stamp.model, 0.25, sha256(image(40, ".jpg")))


def test_a_folder_as_a_scanner_left_it(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    slice_ = dicom_file(1, np.full((20, 30), 900, np.uint16))
    files = {
        "IM0001": slice_,
        "one.IMA": slice_,
        "1.2.840.5": slice_,
        "1.2.840.6": slice_,
        "photo.jfif": image(40, ".jpg"),
        "y.bmp": image(41, ".bmp"),
        "broken.png": b"\x89PNG\r\n\x1a\n",
        "cut.dcm": slice_[:400],
        "empty.tif": b"",
        "notes.txt": b"two readers",
        "DICOMDIR": slice_,
        ".hidden.png": image(3),
        "z" * 251 + ".png": image(42),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "gone.png").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.png")
    summary = predict_files(artifact, [folder], tmp_path / "out")
    good = ["1.2.840.5.png", "1.2.840.6.png", "IM0001.png", "one.png", "photo.png", "z" * 251 + ".png"]
    assert sorted(contents(tmp_path / "out")) == good
    assert summary.written == len(good)
    assert {Path(path).name for path in summary.failures} == {"broken.png", "cut.dcm", "empty.tif", "y.bmp"}
    assert summary.failures[str(folder / "y.bmp")].startswith("a BMP file: ")
    assert {Path(path).name: reason.split(" ")[:2] for path, reason in summary.skipped.items()} == {
        "notes.txt": ["no", "image:"],
        "DICOMDIR": ["an", "index"],
        "sub": ["a", "folder;"],
        "gone.png": ["a", "link"],
        "pipe.png": ["not", "a"],
    }
    assert not any(str(folder) in reason for reason in summary.failures.values()), "the path is said once"


def test_the_command_says_one_line_a_bad_file_and_goes_on(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"good.png", b"same.jpg", b"same.png"):
        (folder / os.fsdecode(name)).write_bytes(image(40))
    for name in (b"bad\nname.png", b"\xff\xfe.png"):
        (folder / os.fsdecode(name)).write_bytes(b"junk")
    (folder / "read me").write_bytes(b"text")
    done = cli("predict", artifact, folder, "--out", tmp_path / "out", "--json")
    assert done.returncode == 1
    lines = [line for line in done.stderr.decode("ascii").splitlines() if line.startswith("skipped ")]
    assert [line.split(": ")[0] for line in lines] == [
        f"skipped {folder}/bad\\nname.png",
        f"skipped {folder}/\\udcff\\udcfe.png",
        f"skipped {folder}/read me",
    ]
    assert b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == len(lines) + 1, "and the progress"
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["written"], len(result["failures"]), len(result["skipped"])) == (3, 2, 1)
    assert result["names"] == {f"{folder}/same.png": "same_png.png"}
    assert f"{folder}/same.png: its mask is same_png.png" in done.stdout.decode()


def test_files_that_are_no_images_are_no_failure(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image(40))
    (tmp_path / "in" / "a.txt").write_bytes(b"of the scanner")
    done = cli("predict", artifact, tmp_path / "in", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert b"a.txt: no image" in done.stderr


def test_a_package_that_is_missing_for_one_file_stops_no_other(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(50))
    (tmp_path / "in" / "b.png").write_bytes(image(40))
    code = "import sys; sys.modules['pydicom'] = None"
    done = cli("predict", artifact, tmp_path / "in", "--out", tmp_path / "out", code=code)
    assert done.returncode == 1
    assert b"a.dcm: pydicom is not installed; install it with: pip install 'gazeseg-serve[dicom]'" in done.stderr
    assert sorted(contents(tmp_path / "out")) == ["b.png"]


def test_inputs_that_cannot_be_meant_are_refused_before_any_work(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.png").write_bytes(image(40))
    os.mkfifo(tmp_path / "pipe")
    wrong = {
        "does not exist": [tmp_path / "x.png", tmp_path / "y.png"],
        "holds no image": [tmp_path / "empty"],
        "neither a file nor a folder": [tmp_path / "pipe"],
    }
    for words, inputs in wrong.items():
        with pytest.raises(DatasetError, match=words):
            predict_files(artifact, inputs, tmp_path / "out")
    with pytest.raises(DatasetError, match="is a file"):
        predict_files(artifact, [tmp_path / "x.png"], tmp_path / "x.png")
    assert not (tmp_path / "out").exists()


def test_standard_input_is_an_image_with_a_limit(artifact: Path, tmp_path: Path) -> None:
    done = cli("predict", artifact, "-", "--out", tmp_path / "out", stdin=image(44))
    assert done.returncode == 0, done.stderr
    assert width(tmp_path / "out" / "stdin.png") == 44
    done = cli("predict", artifact, "-", "--out", tmp_path / "out", stdin=bytes(33 * 2**20))
    assert done.returncode == 1
    assert b"skipped -: the image has" in done.stderr


def test_dicom_that_the_model_is_not_for_is_listed_and_can_be_forced(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    made = write_artifact(tmp_path / "artifact")
    dataclasses.replace(made, intended_use=IntendedUse("colour images of a bowel", ("ES",))).save(tmp_path / "artifact")
    (tmp_path / "slice.dcm").write_bytes(dicom_file(1, np.full((20, 30), 900, np.uint16)))
    refused = cli("predict", tmp_path / "artifact", tmp_path / "slice.dcm", "--out", tmp_path / "out")
    assert refused.returncode == 1
    assert b"this model is for: colour images of a bowel" in refused.stderr
    assert b"--force" in refused.stderr
    assert not (tmp_path / "out").exists()
    forced = cli("predict", tmp_path / "artifact", tmp_path / "slice.dcm", "--out", tmp_path / "out", "--force")
    assert forced.returncode == 0, forced.stderr
    stamp = read_stamp(tmp_path / "out" / "slice.png")
    assert stamp is not None
    assert stamp.forced


def test_a_multi_frame_object_has_a_mask_a_frame(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    frames = np.full((3, 20, 30), 100, np.uint16)
    for i in range(3):
        frames[i, :, : 10 * i] = 4000
    (tmp_path / "us.dcm").write_bytes(enhanced_file(frames))
    folder = tmp_path / "out" / "us"
    assert predict_files(artifact, [tmp_path / "us.dcm"], tmp_path / "out").written == 1
    assert sorted(contents(folder)) == [f"frame_000{i}.png" for i in (1, 2, 3)]
    for i, path in enumerate(sorted(folder.iterdir())):
        predictor = Predictor.open(artifact, "cpu")
        (tmp_path / "one.dcm").write_bytes(dicom_file(1, frames[i]))
        segment_file(predictor, tmp_path / "one.dcm", tmp_path / "one.png")
        np.testing.assert_array_equal(cv2.imread(str(path)), cv2.imread(str(tmp_path / "one.png")))

    (folder / "notes.png").write_bytes(image(40))
    (tmp_path / "us.dcm").write_bytes(enhanced_file(frames[:2]))
    assert predict_files(artifact, [tmp_path / "us.dcm"], tmp_path / "out").written == 1
    assert sorted(contents(folder)) == ["frame_0001.png", "frame_0002.png", "notes.png"], "no third of the object before"

    (folder / "frame_0002.png").write_bytes(image(40))
    before = contents(folder)
    summary = predict_files(artifact, [tmp_path / "us.dcm"], tmp_path / "out")
    assert "would take the place of" in summary.failures[str(tmp_path / "us.dcm")]
    assert contents(folder) == before

    (tmp_path / "cut.dcm").write_bytes(enhanced_file(frames)[:-700])
    assert predict_files(artifact, [tmp_path / "cut.dcm"], tmp_path / "out").written == 0
    assert not (tmp_path / "out" / "cut").exists(), "nothing is written of an object that cannot be read whole"


def test_one_file_named_twice_is_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(image(40))
    monkeypatch.chdir(tmp_path)
    assert collect([Path("x.png"), tmp_path, tmp_path / "x.png"]).images == [Path("x.png")]


def test_a_stamp_survives_and_changes_no_pixel(tmp_path: Path) -> None:
    stamp, path = Stamp("abc", 0.125, sha256(b"image")), tmp_path / "m.png"
    path.write_bytes(stamped(image(40), stamp))
    assert read_stamp(path) == stamp
    with Image.open(path) as picture:
        text = picture.info["gazeseg-mask"]
    np.testing.assert_array_equal(cv2.imread(str(path)), cv2.imdecode(np.frombuffer(image(40), np.uint8), cv2.IMREAD_COLOR))
    assert json.loads(text)["threshold"] == 0.125


def test_only_a_mask_of_this_image_model_and_threshold_is_done(artifact: Path, tmp_path: Path) -> None:
    source, mask, predictor = tmp_path / "x.png", tmp_path / "m.png", Predictor.open(artifact, "cpu")
    assert predictor.artifact is not None
    other = dataclasses.replace(predictor.artifact, id="other")
    source.write_bytes(image(40))
    assert not is_done(predictor.artifact, source, mask)
    segment_file(predictor, source, mask)
    assert is_done(predictor.artifact, source, mask)
    assert is_done(predictor.artifact, source, mask, MaskOptions(0.5))
    assert not is_done(predictor.artifact, source, mask, MaskOptions(0.25))
    assert not is_done(other, source, mask)
    assert not is_done(predictor.artifact, tmp_path / "gone.png", mask)
    source.write_bytes(image(41))
    assert not is_done(predictor.artifact, source, mask)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        image(9),
        stamped(image(9), Stamp("m", 0.5, "s"))[:60],
        stamped(image(9), Stamp("m", 0.5, "s")).replace(b'"model"', b'"madel"'),
    ],
)
def test_what_bears_no_whole_stamp_is_another_s_file(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(data)
    assert read_stamp(tmp_path / "m.png") is None
    assert read_stamp(tmp_path) is None


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".png", "PNG"), (".jpg", "JPEG"), (".tif", "TIFF"), (".bmp", "BMP"), (".webp", "WebP")]
)
def test_formats_are_told_by_their_content(suffix: str, kind: str) -> None:
    assert image_kind(image(20, suffix)[:132]) == kind


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\0\0\0\x18ftypheic", "HEIF"),
        (b"GIF89a", "GIF"),
        (b"BMW and others", ""),
        (b"\x08\0\x05\0CS\n\0ISO_IR 100", "DICOM"),
        (b"\x08\0\x05\0 the", ""),
        (b"RIFF\0\0\0\0WAVE", ""),
        (b"", ""),
    ],
)
def test_other_beginnings(head: bytes, kind: str) -> None:
    assert image_kind(head) == kind


def test_a_file_may_have_the_longest_name_there_is(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127 + "x")
    write_bytes(path, b"data")
    assert path.read_bytes() == b"data"
