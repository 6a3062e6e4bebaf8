"""A whole video through the command's function: every frame, its mask, the film, the report; and nothing half-written."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("av")
from artifacts import write_artifact
from clips import HEIGHT, WIDTH, number_of, numbered, write_clip
from pycocotools import mask as coco

from gazeseg_serve.errors import ConfigError, ContractError, GazesegError, ImageTooLarge, MalformedImage
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.video import writing
from gazeseg_serve.video.frames import VideoLimits, read_video
from gazeseg_serve.video.run import Raw, VideoOptions, segment_video
from gazeseg_serve.video.settings import Steadiness
from gazeseg_serve.video.steady import FrameSegmenter

PICTURES = [numbered(i) for i in range(20)]
STAMPS = [int(1000 * i**1.5 / 25) for i in range(20)]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder, size=32)
    return folder


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mkv", PICTURES, STAMPS)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "masks.jsonl").read_text().splitlines()]


# pycocotools' decoder, not ours: it has not followed numpy 2's __array__ yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_every_frame_has_its_mask_its_time_and_its_place_in_the_film(artifact: Path, clip: Path, tmp_path: Path) -> None:
    out, steadiness = tmp_path / "out", Steadiness(0.2)
    report = segment_video(str(clip), out, artifact, VideoOptions(steadiness=steadiness, png=True), "cpu")
    predictor = Predictor.open(artifact, "cpu")
    segment = FrameSegmenter(predictor, steadiness)
    frames, found = list(read_video(clip)), lines(out)
    assert len(frames) == len(found) == report["frames"] == 20
    for frame, line in zip(frames, found, strict=True):
        mask = segment(frame.pixels, frame.seconds).mask()
        assert line["seconds"] == pytest.approx(frame.seconds)
        assert line["classes"][0]["area"] == np.count_nonzero(mask)
        np.testing.assert_array_equal(coco.decode(line["classes"][0]["rle"]), mask)
        np.testing.assert_array_equal(cv2.imread(str(out / line["file"]), cv2.IMREAD_GRAYSCALE) > 0, mask > 0)
        assert line["mean_disagreement"] > 0
    film = list(read_video(out / "overlay.mp4"))
    np.testing.assert_allclose([f.seconds - film[0].seconds for f in film], np.array(STAMPS) / 1000, atol=0.001)
    assert [number_of(f.pixels) for f in film[:12]] == list(range(12)), "the numbers that are not marked"
    assert json.loads((out / "report.json").read_text()) == report
    assert (report["dropped"], report["damaged_packets"], report["marked"]) == (0, 0, 20)
    assert 0 < report["age_ms"]["p50"] <= report["age_ms"]["p99"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_threshold_frames_and_what_is_left_out(artifact: Path, clip: Path, tmp_path: Path) -> None:
    options = VideoOptions(threshold=1.0, frames=7, film=False)
    report = segment_video(str(clip), tmp_path / "out", artifact, options, "cpu")
    assert (report["frames"], report["threshold"]) == (7, 1.0)
    assert [line["frame"] for line in lines(tmp_path / "out")] == list(range(7))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks.jsonl", "report.json"]


def test_the_film_of_odd_sizes_keeps_every_frame(artifact: Path, tmp_path: Path) -> None:
    odd = write_clip(tmp_path / "o.mkv", [numbered(i, 47, 31) for i in range(5)], codec="ffv1", pixels="bgr0")
    segment_video(str(odd), tmp_path / "out", artifact, VideoOptions(), "cpu")
    film = list(read_video(tmp_path / "out" / "overlay.mp4"))
    assert [frame.pixels.shape for frame in film] == [(32, 48, 3)] * 5
    assert lines(tmp_path / "out")[0]["size"] == [31, 47]


def test_raw_frames_from_a_pipe(artifact: Path, tmp_path: Path) -> None:
    pipe = io.BytesIO(b"".join(picture.tobytes() for picture in PICTURES))
    report = segment_video("-", tmp_path / "out", artifact, VideoOptions(film=False), "cpu", Raw(WIDTH, HEIGHT, 10.0), pipe)
    assert report["frames"] == 20
    assert lines(tmp_path / "out")[10]["seconds"] == pytest.approx(1.0, abs=1e-4)


def test_live_the_newest_wins_and_every_frame_is_counted(artifact: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mkv", PICTURES, [2 * i for i in range(20)])
    report = segment_video(str(clip), tmp_path / "out", artifact, VideoOptions(live=True), "cpu")
    found = [line["frame"] for line in lines(tmp_path / "out")]
    assert found == sorted(set(found))
    assert found[-1] == 19, "the last one is never left out"
    assert report["frames"] + report["dropped"] == 20
    assert len(found) == report["frames"]


def test_a_second_run_takes_the_place_of_the_first_and_of_nothing_else(artifact: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment_video(str(clip), out, artifact, VideoOptions(png=True), "cpu")
    segment_video(str(clip), out, artifact, VideoOptions(frames=3, film=False), "cpu")
    assert sorted(path.name for path in out.iterdir()) == ["masks.jsonl", "report.json"]
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ContractError, match=r"mine\.txt"):
        segment_video(str(clip), out, artifact, VideoOptions(), "cpu")
    assert (out / "mine.txt").read_text() == "keep"


def test_the_input_is_never_written_over(artifact: Path, clip: Path, tmp_path: Path) -> None:
    before = clip.read_bytes()
    for out in (clip, clip.parent, artifact):
        with pytest.raises(GazesegError, match=r"choose an(other)?"):
            segment_video(str(clip), out, artifact, VideoOptions(), "cpu")
    assert clip.read_bytes() == before


@pytest.mark.parametrize("kind", ["empty", "broken", "long", "write"])
def test_nothing_half_written_stays(
    kind: str, artifact: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, expected = VideoOptions(), GazesegError
    if kind == "empty":
        clip.write_bytes(b"")
    elif kind == "broken":
        clip.write_bytes(clip.read_bytes()[:400])
    elif kind == "long":
        options, expected = VideoOptions(limits=VideoLimits(max_frames=19)), ImageTooLarge
    else:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writing.Film, "write", full)
        expected = OSError  # type: ignore[assignment]
    folder = tmp_path / "here"
    with pytest.raises(expected):
        segment_video(str(clip), folder / "out", artifact, options, "cpu")
    assert not folder.exists() or not list(folder.iterdir())


def test_a_file_of_as_many_frames_as_the_limit_is_done(artifact: Path, clip: Path, tmp_path: Path) -> None:
    options = VideoOptions(limits=VideoLimits(max_frames=20), film=False)
    assert segment_video(str(clip), tmp_path / "out", artifact, options, "cpu")["frames"] == 20


@pytest.mark.parametrize(
    ("source", "options", "raw", "error"),
    [
        ("-", VideoOptions(), None, ConfigError),
        ("clip.mkv", VideoOptions(), Raw(4, 4, 1.0), ConfigError),
        ("clip.mkv", VideoOptions(frames=0), None, ConfigError),
        ("clip.mkv", VideoOptions(presence=0.5), None, ConfigError),
        ("missing.mp4", VideoOptions(), None, MalformedImage),
    ],
)
def test_wrong_arguments(
    source: str, options: VideoOptions, raw: Raw | None, error: type[Exception], artifact: Path, clip: Path, tmp_path: Path
) -> None:
    name = source if source == "-" else str(tmp_path / source)
    with pytest.raises(error):
        segment_video(name, tmp_path / "out", artifact, options, "cpu", raw, io.BytesIO())
    assert not (tmp_path / "out").exists()


def test_a_live_source_that_is_stopped_keeps_its_result(artifact: Path, tmp_path: Path) -> None:
    """SIGTERM ends an endless pipe, and what was made of it until then is there, whole."""
    code = f"""
import sys, threading, os, signal
from pathlib import Path
from gazeseg_serve.video import run
from gazeseg_serve.video.run import *
seen = run._Work._count
def count(self, *given):
    seen(self, *given)
    if len(self._ages) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
run._Work._count = count
out, artifact = Path({str(tmp_path / "out")!r}), Path({str(artifact)!r})
report = segment_video("-", out, artifact, VideoOptions(live=True), "cpu", Raw(8, 8, 25.0))
print(report["frames"])
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            while process.poll() is None:
                process.stdin.write(bytes(8 * 8 * 3))
                process.stdin.flush()
        told = process.stdout.read()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    assert process.returncode == 0
    assert len(lines(tmp_path / "out")) == int(told) >= 5


def test_the_command_says_what_it_did(artifact: Path, clip: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gazeseg_serve", "video", str(clip), "--out", str(tmp_path / "out"), "--artifact", str(artifact),
         "--device", "cpu", "--json"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, last = done.stdout.splitlines()
    assert first.startswith("wrote 20 mask(s)")
    assert json.loads(last)["frames"] == 20
    wrong = subprocess.run(
        [sys.executable, "-m", "gazeseg_serve", "video", str(tmp_path / "none.mp4"), "--out", str(tmp_path / "o")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("gazeseg-serve: ")
    assert wrong.stderr.count("\n") == 1
