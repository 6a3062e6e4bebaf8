"""Frames of videos: all of them, in order, upright, at their times; and what is refused."""

from __future__ import annotations

import gc
import io
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("av")
import av
from clips import HEIGHT, WIDTH, number_of, numbered, with_matrix, write_clip

from gazeseg_serve.errors import ConfigError, ImageError, ImageTooLarge, MalformedImage, UnsupportedImage
from gazeseg_serve.video.frames import RawVideo, Video, VideoLimits, read_video, upright

PICTURES = [numbered(i) for i in range(12)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.webm", "libvpx"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg2video")],
)
def test_every_frame_comes_once_in_order_at_its_time(name: str, codec: str, tmp_path: Path) -> None:
    frames = list(read_video(write_clip(tmp_path / name, PICTURES, codec=codec)))
    assert [number_of(frame.pixels) for frame in frames] == [frame.number for frame in frames] == list(range(12))
    first = frames[0].seconds
    np.testing.assert_allclose([frame.seconds - first for frame in frames], np.arange(12) / 25, atol=0.0011)
    assert {frame.pixels.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}
    assert not any(frame.damaged for frame in frames)


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    stamps = [0, 10, 200, 210, 900, 1000, 1001, 1500, 1540, 1580, 2000, 5000]
    frames = list(read_video(write_clip(tmp_path / "v.mkv", PICTURES, stamps)))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.array(stamps) / 1000, atol=1e-6)
    assert [number_of(frame.pixels) for frame in frames] == list(range(12))


def test_a_rotated_video_is_shown_upright(tmp_path: Path) -> None:
    """The matrix of a phone held upright turns by a quarter to the right: what is stored left top is shown right top."""
    clip = with_matrix(write_clip(tmp_path / "r.mp4", PICTURES), 0, 1, -1, 0)
    (first, *_) = list(read_video(clip))
    assert first.pixels.shape == (WIDTH, HEIGHT, 3)
    bright = first.pixels[..., 1] > 128
    assert bright[: WIDTH // 2 - 1, HEIGHT // 2 + 1 :].all()
    assert not bright[:, : HEIGHT // 2 - 1].any()
    assert not bright[WIDTH // 2 + 1 :].any()


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1)])
def test_upright_follows_the_matrix_point_by_point(matrix: tuple[int, int, int, int]) -> None:
    a, b, c, d = matrix
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    places = {(a * x + c * y, b * x + d * y): pixels[y, x] for y in range(3) for x in range(5)}
    left, top = min(x for x, _ in places), min(y for _, y in places)
    packed = np.array([a, b, 0, c, d, 0, 0, 0, 1], np.int32) * (1 << 16)
    shown = upright(pixels, packed.tobytes())
    for (x, y), value in places.items():
        np.testing.assert_array_equal(shown[y - top, x - left], value)
    with pytest.raises(UnsupportedImage, match="quarter turn"):
        upright(pixels, (packed * 0.7).astype(np.int32).tobytes())


def test_decoded_frames_do_not_wait_for_the_garbage_collector(tmp_path: Path) -> None:
    """Each holds its pixels: two hundred of a large video are gigabytes."""
    clip = write_clip(tmp_path / "a.mp4", [numbered(i % 20) for i in range(60)])
    gc.collect()
    gc.disable()
    try:
        alive = [sum(isinstance(found, av.VideoFrame) for found in gc.get_objects()) for _ in read_video(clip)]
    finally:
        gc.enable()
    assert max(alive[:30]) < 10, "the last come together, when the decoder is emptied"


def test_odd_sizes_deep_pixels_and_alpha(tmp_path: Path) -> None:
    odd = [numbered(i, 47, 31) for i in range(3)]
    assert [frame.pixels.shape for frame in read_video(write_clip(tmp_path / "o.mkv", odd, codec="ffv1", pixels="bgr0"))] == [
        (31, 47, 3)
    ] * 3
    deep = write_clip(tmp_path / "d.mkv", PICTURES, codec="ffv1", pixels="yuv444p10le")
    assert [number_of(frame.pixels) for frame in read_video(deep)] == list(range(12))
    clear = np.dstack([np.full((HEIGHT, WIDTH, 3), 200, np.uint8), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    clear[:, : WIDTH // 2, 3] = 51  # a fifth
    (frame,) = read_video(write_clip(tmp_path / "a.mov", [clear], codec="qtrle", pixels="argb", given="rgba"))
    np.testing.assert_array_equal(frame.pixels[:, : WIDTH // 2], 40)
    np.testing.assert_array_equal(frame.pixels[:, WIDTH // 2 :], 200)


def test_a_truncated_video_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    whole = write_clip(
        tmp_path / "w.mkv", [np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8) for i in range(12)]
    )
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    frames = list(read_video(cut))
    assert 1 < len(frames) < 12


def test_a_frame_that_the_decoder_had_to_guess_is_marked(tmp_path: Path) -> None:
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 2)
    clip = write_clip(tmp_path / "c.mkv", [np.roll(texture, 3 * i, 1) for i in range(24)], codec="mpeg4")
    assert not any(frame.damaged for frame in read_video(clip))
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20] = bytes(20)
    clip.write_bytes(data)
    with Video(clip) as video:
        found = list(video.frames())
    assert len(found) + video.damaged == 24
    assert video.damaged + sum(frame.damaged for frame in found) == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot be opened"),
        (b"no video at all" * 50, "cannot be opened"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/hostname\n", "cannot be opened"),
    ],
)
def test_what_is_no_video_is_refused(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.m3u8"
    path.write_bytes(data)
    with pytest.raises(MalformedImage, match=says):
        list(read_video(path))


def test_a_playlist_is_refused_though_its_parts_are_there(tmp_path: Path) -> None:
    """Else a file could make its reader open others."""
    write_clip(tmp_path / "part.ts", PICTURES, codec="mpeg2video", container="mpegts")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\npart.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MalformedImage, match="cannot be opened"):
        list(read_video(playlist))
    concat = tmp_path / "list.ffconcat"
    concat.write_text("ffconcat version 1.0\nfile part.ts\n")
    with pytest.raises(MalformedImage, match="cannot be opened"):
        list(read_video(concat))


def test_sound_alone_no_file_and_no_address(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "s.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
        file.mux(stream.encode(None))
    with pytest.raises(UnsupportedImage, match="no video stream"):
        list(read_video(tmp_path / "s.mp4"))
    for name in (tmp_path / "missing.mp4", tmp_path, "http://127.0.0.1:1/x.mp4"):
        with pytest.raises(MalformedImage, match="is no file"):
            list(read_video(name))
    with pytest.raises(MalformedImage, match="cannot be opened"):
        list(read_video("rtsp://127.0.0.1:1/stream"))


def test_a_frame_over_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", PICTURES)
    assert len(list(read_video(clip, VideoLimits(max_pixels=WIDTH * HEIGHT)))) == 12
    with pytest.raises(ImageTooLarge, match="48 x 32 pixels, the limit is 1535"):
        Video(clip, VideoLimits(max_pixels=WIDTH * HEIGHT - 1))


def test_raw_frames() -> None:
    data = b"".join(picture.tobytes() for picture in PICTURES)
    video = RawVideo(io.BytesIO(data + b"half"), WIDTH, HEIGHT, 10)
    frames = list(video.frames())
    assert [number_of(frame.pixels) for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(12) / 10, atol=1e-4)
    assert video.damaged == 1
    with pytest.raises(MalformedImage, match="before one frame of 4608 bytes"):
        list(RawVideo(io.BytesIO(data[:4607]), WIDTH, HEIGHT, 10).frames())
    for width, rate in ((0, 25.0), (10, 0.0), (10, float("nan"))):
        with pytest.raises(ConfigError):
            RawVideo(io.BytesIO(), width, 10, rate)
    with pytest.raises(ImageTooLarge):
        RawVideo(io.BytesIO(), 5000, 5000, 25)


@pytest.mark.parametrize("kind", ["even", "uneven", "rotated", "truncated", "transport"])
def test_frames_are_those_that_ffprobe_counts(kind: str, tmp_path: Path) -> None:
    if kind == "transport":
        clip = write_clip(tmp_path / "c.ts", PICTURES, codec="mpeg2video")
    else:
        clip = write_clip(tmp_path / "c.mkv", PICTURES, [i * i * 20 for i in range(12)] if kind == "uneven" else None)
    if kind == "rotated":
        clip = with_matrix(write_clip(tmp_path / "c.mp4", PICTURES), 0, 1, -1, 0)
    if kind == "truncated":
        noise = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8) for i in range(12)]
        clip = write_clip(tmp_path / "c.mkv", noise)
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    assert sum(1 for _ in read_video(clip)) == counted_by_ffprobe(clip)


def test_every_frame_of_a_real_clip(real_data: Path) -> None:
    clip = real_data / "video" / "polyp_clip.mp4"
    if not clip.is_file():
        pytest.skip("no real clip")
    assert sum(1 for _ in read_video(clip)) == counted_by_ffprobe(clip)


def counted_by_ffprobe(clip: Path) -> int:
    command = ["ffprobe", "-v", "quiet", "-count_frames", "-select_streams", "v", "-show_entries", "stream=nb_read_frames"]
    try:
        told = subprocess.run([*command, "-of", "csv=p=0", str(clip)], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("no ffprobe on this machine")
    return int(told.stdout.split()[0].rstrip(","))


@pytest.mark.parametrize("seed", range(6))
def test_noise_in_a_file_is_a_clear_error_or_fewer_frames(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    clip = write_clip(tmp_path / "a.mp4", PICTURES)
    data = bytearray(clip.read_bytes())
    for place in rng.integers(0, len(data), 30):
        data[place] = rng.integers(0, 256)
    clip.write_bytes(data)
    said, frames = "", []
    try:
        frames = list(read_video(clip))
    except ImageError as error:
        said = str(error)
    assert (said and "\n" not in said) or 0 < len(frames) <= 12
