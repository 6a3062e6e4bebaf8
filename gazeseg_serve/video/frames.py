"""Frames of a video, upright and in the order they are shown: a file, a camera, an RTSP address, or raw pixels.

FFmpeg (through PyAV) decodes. Only plain containers may be opened, and only the file that was named: a playlist that points
at other files or at addresses is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, ImageTooLarge, MalformedImage, UnsupportedImage, require

if TYPE_CHECKING:
    from av import VideoFrame

CONTAINERS = (
    "3g2,3gp,aac,asf,avi,dv,flv,gif,h264,hevc,ivf,m4a,m4v,matroska,mj2,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,"
    "webm,yuv4mpegpipe"
)
LIVE_SCHEMES = ("rtsp://", "rtsps://")
_WAIT_SECONDS = 10.0  # for a camera or an address to answer, and between two of its frames
_ONE = 1 << 16  # 1.0 in the first two columns of a display matrix
_RAW_BASE = Fraction(1, 90_000)  # of the time stamps of raw frames, as in MPEG


@dataclass(frozen=True)
class VideoLimits:
    """The largest video that is decoded. max_pixels: of one frame (4096 x 2304 fits, 8K does not); max_frames: of a file."""

    max_pixels: int = 4096 * 2304
    max_frames: int = 500_000


DEFAULT_LIMITS = VideoLimits()


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    number   from 0, counting every frame that was decoded
    pts      presentation time in units of `time_base` seconds, ever growing within a source
    pixels   uint8 `(H, W, 3)` RGB, upright (the container's rotation applied), alpha composited on black
    damaged  the decoder had to guess a part of it; frames that are predicted from such a one are not marked
    """

    number: int
    pts: int
    time_base: Fraction
    pixels: np.ndarray
    damaged: bool = False

    @property
    def seconds(self) -> float:
        """The presentation time in seconds."""
        return float(self.pts * self.time_base)


class Video:
    """An open video. `frames()` gives every frame once; use it as a context manager, or `close` it.

    rate: frames a second as the container announces it, None where it does not. damaged: packets that could not be decoded
    so far. announced: frames by the container's header, 0 where it does not say.
    """

    def __init__(
        self,
        source: str | Path | IO[bytes],
        limits: VideoLimits = DEFAULT_LIMITS,
        live: bool = False,
        rate: float | None = None,
        name: str | None = None,
    ) -> None:
        """Open a file, a binary file object, an RTSP address or a camera (/dev/video0).

        live: decode without delay, a frame out for each one in. rate: frames a second where the stream has no time stamps,
        and `name` what errors call it. Raises MalformedImage, UnsupportedImage, ImageTooLarge.
        """
        self._av = require("av", "video")
        self._name = name or ("the stream" if hasattr(source, "read") else str(source))
        self._limits, self.damaged = limits, 0
        self._container = self._open(source)
        try:
            if not self._container.streams.video:
                raise UnsupportedImage(f"{self._name} holds no video stream; name a file with pictures")
            self._stream = self._container.streams.video[0]
            self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)
            self._stream.thread_type = "SLICE" if live else "AUTO"
        except BaseException:
            self._container.close()
            raise
        announced = self._stream.average_rate
        self.rate = rate if rate is not None or announced is None else float(announced)
        self.announced = int(self._stream.frames or 0)

    def _open(self, source: Any) -> Any:
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        more: dict[str, Any] = {"timeout": None}
        if isinstance(source, str) and source.startswith(LIVE_SCHEMES):
            options = {"rtsp_transport": "tcp", "protocol_whitelist": "rtsp,rtp,udp,tcp,tls,crypto"}
            more = {"timeout": _WAIT_SECONDS}
        elif isinstance(source, str | Path) and is_camera(source):
            more, options = {"format": "v4l2", "timeout": _WAIT_SECONDS}, {}
        elif isinstance(source, str | Path):
            if not Path(source).is_file():
                raise MalformedImage(f"{source} is no file; name a video file, rtsp://..., /dev/video0 or -")
            source = str(Path(source).absolute())  # never taken for an address
        try:
            return self._av.open(source, options=options, metadata_errors="ignore", **more)
        except self._av.FFmpegError as error:
            raise MalformedImage(f"{self._name} cannot be opened as a video ({error.strerror}); {_HINT}") from error
        except ValueError as error:  # a name that FFmpeg cannot be given
            raise MalformedImage(f"{self._name} cannot be opened as a video ({error})") from error

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise ImageTooLarge(
                f"{self._name}: a frame has {width} x {height} pixels, the limit is {self._limits.max_pixels}; scale the video "
                "down, as with ffmpeg -vf scale=1920:-2"
            )

    def frames(self) -> Iterator[Frame]:
        """Every frame that can be decoded, in the order of presentation. Packets that cannot are counted in `damaged`.

        Raises ImageTooLarge for a frame over the limit, MalformedImage where there is none at all.
        """
        last, number = None, 0
        turn: int | None = None
        matrix: bytes | None = None
        for decoded in self._decoded():
            self._check_size(decoded.width, decoded.height)
            base = decoded.time_base or self._stream.time_base
            pts = decoded.pts if decoded.pts is not None else (0 if last is None else last + self._step(base))
            if last is not None and pts <= last:
                pts = last + 1
            last = pts
            if decoded.rotation != turn:
                # Not asked of every frame: side data and frame hold one another, and wait for the garbage collector.
                turn, matrix = decoded.rotation, _display_matrix(decoded)
            yield Frame(number, pts, base, upright(pixels_of(decoded), matrix), decoded.is_corrupt)
            number += 1
        if not number:
            raise MalformedImage(f"{self._name}: no frame can be decoded; the video is empty or damaged, {_HINT}")

    def _decoded(self) -> Iterator[VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._av.FFmpegError:  # the container ends where it should not
                self.damaged += 1
                packet = None
            self.damaged += packet is not None and packet.is_corrupt
            try:
                yield from self._stream.decode(packet)
            except self._av.EOFError:
                return
            except self._av.FFmpegError:
                self.damaged += 1
            if packet is None:
                return

    def _step(self, base: Fraction) -> int:
        return max(1, round(1 / ((self.rate or 25.0) * base)))

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_HINT = "play it, or convert it with: ffmpeg -i IN -c:v libx264 OUT.mp4"


class RawVideo:
    """Frames of RGB bytes, row by row, without any header, as `ffmpeg -f rawvideo -pix_fmt rgb24 -` writes them."""

    def __init__(self, file: IO[bytes], width: int, height: int, rate: float, limits: VideoLimits = DEFAULT_LIMITS) -> None:
        """rate: frames a second, from which the time stamps are made. Raises ConfigError or ImageTooLarge."""
        if width < 1 or height < 1 or not 0 < rate < 10_000:
            raise ConfigError(f"raw frames of {width} x {height} at {rate} a second cannot be; give --raw 640x480 --rate 25")
        if width * height > limits.max_pixels:
            raise ImageTooLarge(f"a frame has {width} x {height} pixels, the limit is {limits.max_pixels}")
        self._file, self._size = file, (height, width, 3)
        self.rate: float | None = rate
        self._step = 1 / rate
        self.damaged = self.announced = 0

    def frames(self) -> Iterator[Frame]:
        """Every whole frame; a last one that is cut off is counted in `damaged`. Raises MalformedImage where none is whole."""
        count, number = int(np.prod(self._size)), 0
        while len(data := read_exactly(self._file, count)) == count:
            pts = round(number * self._step / _RAW_BASE)
            yield Frame(number, pts, _RAW_BASE, np.frombuffer(data, np.uint8).reshape(self._size))
            number += 1
        self.damaged += bool(data)
        if not number:
            raise MalformedImage(f"standard input ended before one frame of {count} bytes was whole; is --raw right?")

    def close(self) -> None:
        pass


def read_exactly(file: IO[bytes], count: int) -> bytes:
    """`count` bytes, fewer only where the file ends."""
    parts, missing = [], count
    while missing and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def is_camera(source: str | Path) -> bool:
    """Whether the name is a camera's, as Linux has them."""
    return str(source).startswith("/dev/video")


def read_video(source: str | Path | IO[bytes], limits: VideoLimits = DEFAULT_LIMITS) -> Iterator[Frame]:
    """Every frame of a video file, one after another; raises as Video does."""
    with closing(Video(source, limits)) as video:
        yield from video.frames()


def pixels_of(frame: VideoFrame) -> np.ndarray:
    """uint8 `(H, W, 3)` RGB of a decoded frame as it is stored, alpha composited on black."""
    if not any(component.is_alpha for component in frame.format.components):
        return frame.to_ndarray(format="rgb24")
    rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
    return ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)


def _display_matrix(frame: VideoFrame) -> bytes | None:
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else bytes(found)


def upright(pixels: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """Turn `(H, W, 3)` as a display matrix says: nine int32, x' = a x + c y, y' = b x + d y for a, b, _, c, d (libavutil's
    display.h). Raises UnsupportedImage for one that does not only turn by quarters and mirror.
    """
    if matrix is None:
        return pixels
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    if abs(a) == abs(d) == _ONE and b == c == 0:
        turned, right, down = pixels, a, d
    elif abs(b) == abs(c) == _ONE and a == d == 0:
        turned, right, down = pixels.transpose(1, 0, 2), c, b
    else:
        raise UnsupportedImage("the video's frames are to be shown turned or scaled by no quarter turn; convert it first")
    return np.ascontiguousarray(turned[:: 1 if down > 0 else -1, :: 1 if right > 0 else -1])
