"""A whole video segmented: decoding, the engine and writing overlap, and the result appears whole or not at all."""

from __future__ import annotations

import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from ..clinical import IntendedUse
from ..dicom import is_dicom
from ..errors import ConfigError, ImageTooLarge, MalformedImage, require
from ..files import write_json
from ..folders import refuse_foreign, refuse_overlap, staged_folder
from ..metrics import iou
from ..pixels import unit_range, with_channels
from ..predictor import Predictor, check_presence
from ..progress import track
from .channel import Channel
from .frames import DEFAULT_LIMITS, LIVE_SCHEMES, Frame, RawVideo, Video, VideoLimits, is_camera
from .settings import Steadiness
from .steady import FrameSegmenter
from .writing import REPORT, SCHEMA, VIDEO_FOLDER, Segmented, VideoWriter

_AHEAD = 4  # frames that wait for the engine, and as many for the writer


@dataclass(frozen=True)
class VideoOptions:
    """threshold, presence: None takes the artifact's own. frames: stop after so many; None: at the end of the source.

    live: frames come as they are shown, and the newest wins; else every frame is segmented. png, film: what is written
    beside masks.jsonl and report.json. force: DICOM against the artifact's intended use, too.
    """

    threshold: float | None = None
    presence: float | None = None
    steadiness: Steadiness = Steadiness()  # noqa: RUF009  (frozen)
    frames: int | None = None
    live: bool = False
    png: bool = False
    film: bool = True
    force: bool = False
    limits: VideoLimits = DEFAULT_LIMITS


@dataclass(frozen=True)
class Raw:
    """Raw RGB frames on standard input."""

    width: int
    height: int
    rate: float


class Source(Protocol):
    """What frames come from. damaged: packets that could not be decoded; announced: frames by the header, 0: unknown."""

    rate: float | None
    damaged: int
    announced: int

    def frames(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...


def is_live(source: str) -> bool:
    """Whether a source comes at its own pace, whatever is wanted: a camera or an RTSP address."""
    return source.startswith(LIVE_SCHEMES) or is_camera(source)


def segment_video(
    source: str,
    out: Path,
    artifact: Path,
    options: VideoOptions = VideoOptions(),
    device: str = "auto",
    raw: Raw | None = None,
    stdin: IO[bytes] | None = None,
) -> dict[str, Any]:
    """Segment a video file, a camera, an RTSP address or, as "-", raw frames; write the folder `out`, return its report.

    `out` appears whole, at the end, and takes the place only of an older one of its kind. A live source ends with its
    stream, after `options.frames`, or on SIGINT or SIGTERM, and its result is kept. Raises ConfigError, ContractError,
    ImageError, EngineError or MissingExtraError, and then leaves nothing.
    """
    require("av", "video")
    require("pycocotools.mask", "video")
    if options.frames is not None and options.frames < 1:
        raise ConfigError(f"--frames {options.frames}; give 1 or more")
    refuse_overlap(out, artifact, *([] if source == "-" or is_live(source) else [Path(source)]))
    refuse_foreign(out, VIDEO_FOLDER)
    predictor = Predictor.open(artifact, device)
    assert predictor.artifact is not None, "opened from a folder"
    check_presence(predictor.artifact.presence, options.presence)
    use = predictor.artifact.intended_use
    with closing(open_source(source, options, raw, stdin, use)) as opened, staged_folder(out, VIDEO_FOLDER) as folder:
        work = _Work(predictor, opened, options, paced=options.live and source != "-" and not is_live(source))
        with _interrupted(options.live, work.stop):
            facts = work.run(folder)
        report = {"schema": SCHEMA, "model": predictor.artifact.id, **facts}
        write_json(folder / REPORT, report)
    return report


def open_source(
    source: str, options: VideoOptions, raw: Raw | None, stdin: IO[bytes] | None, use: IntendedUse | None
) -> Source:
    """What the frames come from. Raises ConfigError where `raw` and the source do not go together, or as Video and RawVideo."""
    if (source == "-") != (raw is not None):
        raise ConfigError("raw frames come on standard input: name the source - and give --raw 640x480 and --rate 25")
    if raw is not None:
        # Unbuffered: a thread that waits in a buffer's lock would keep the process from ending.
        pipe = stdin or open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115  (it is not ours to close)
        return RawVideo(pipe, raw.width, raw.height, raw.rate, options.limits)
    if not is_live(source) and _is_dicom(Path(source)):
        from .dicom_video import open_dicom_video

        return open_dicom_video(Path(source), options.limits, use, options.force)
    return Video(source, options.limits, live=options.live)


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return is_dicom(file.read(1024))


class _Work:
    """Three threads: one decodes, this one runs the engine, one writes."""

    def __init__(self, predictor: Predictor, source: Source, options: VideoOptions, paced: bool) -> None:
        assert predictor.artifact is not None, "opened from a folder"
        self._spec, self._artifact, self._source, self._options = predictor.spec, predictor.artifact, source, options
        self._segment = FrameSegmenter(predictor, options.steadiness, options.presence)
        self._threshold = self._artifact.threshold if options.threshold is None else options.threshold
        self._paced, self._stop = paced, threading.Event()
        self._decoded: Channel[tuple[Frame, float]] = Channel(1 if options.live else _AHEAD, newest=options.live)
        self._done: Channel[Segmented] = Channel(_AHEAD)
        self._ages, self._changes = array("d"), array("d")
        self._before: np.ndarray | None = None
        self._damaged = self._marked = 0

    def stop(self) -> None:
        """End as if the source had ended."""
        self._stop.set()
        self._decoded.finish()

    def run(self, folder: Path) -> dict[str, Any]:
        """Write all but the report into `folder`, and return the report."""
        begun, written = time.perf_counter(), Channel[None](1)
        writer = VideoWriter(folder, self._artifact, self._options.png, self._options.film)
        reading = _thread("decode", self._decode, self._decoded)
        writing = _thread("write", lambda: self._write(writer), written)
        try:
            total = self._options.frames or (0 if self._options.live else self._source.announced)
            for item in track(self._segmented(), "segmenting", total):
                if not self._done.put(item):
                    break
            self._done.finish()
            for _ in written:  # nothing comes of it but its error
                pass
        finally:
            self._stop.set()
            self._decoded.close()
            self._done.close()
            writing.join()
            if not isinstance(self._source, RawVideo):  # which may wait for a pipe for ever, and holds nothing
                reading.join()
        if not self._ages:
            raise MalformedImage("the source was stopped before its first frame; nothing was written")
        return self._report(time.perf_counter() - begun)

    def _decode(self) -> None:
        zero: float | None = None  # when the video's second 0 is, on this clock
        for frame in self._source.frames():
            if self._paced:
                zero = time.perf_counter() - frame.seconds if zero is None else zero
                self._stop.wait(max(0.0, zero + frame.seconds - time.perf_counter()))
            if frame.number >= self._options.limits.max_frames and not self._options.live:
                raise ImageTooLarge(
                    f"the video has more than {self._options.limits.max_frames} frames, the limit; cut it, or give --frames"
                )
            if not self._decoded.put((frame, time.perf_counter())) or self._stop.is_set():
                return

    def _segmented(self) -> Iterator[Segmented]:
        for frame, arrived in self._decoded:
            prediction = self._segment(self._image(frame.pixels), frame.seconds)
            mask = prediction.mask(self._threshold)
            age = 1000 * (time.perf_counter() - arrived)
            self._count(frame, mask, age)
            yield Segmented(frame, prediction, mask, age)
            if len(self._ages) == self._options.frames:
                return

    def _image(self, pixels: np.ndarray) -> np.ndarray:
        """The frame as the network's InputSpec wants it, as `imaging.decode_image` makes it of 8-bit pictures."""
        image = with_channels(pixels, self._spec.channels)
        if self._spec.dtype == "uint8":
            return image
        return unit_range(image) if self._spec.window is None else image / np.float32(255)

    def _count(self, frame: Frame, mask: np.ndarray, age: float) -> None:
        self._ages.append(age)
        self._marked += bool(mask.any())
        self._damaged += frame.damaged
        if self._before is not None and self._before.shape == mask.shape:
            self._changes.append(1 - iou(self._before, mask))
        self._before = mask

    def _write(self, writer: VideoWriter) -> None:
        try:
            for item in self._done:
                writer.write(item)
        finally:
            self._done.close()
            writer.close()

    def _report(self, seconds: float) -> dict[str, Any]:
        low, high, top = np.percentile(np.array(self._ages), (50, 95, 99))
        return {
            "frames": len(self._ages),
            "dropped": self._decoded.dropped,
            "marked": self._marked,
            "damaged_frames": self._damaged,
            "damaged_packets": self._source.damaged,
            "seconds": round(seconds, 3),
            "frames_per_second": round(len(self._ages) / seconds, 2),
            "age_ms": {"p50": round(low, 2), "p95": round(high, 2), "p99": round(top, 2)},
            "flicker": round(float(np.mean(self._changes)), 6) if self._changes else 0.0,
            "threshold": self._threshold,
            "smooth_seconds": self._options.steadiness.seconds,
            "live": self._options.live,
        }


def _thread(name: str, work: Callable[[], None], channel: Channel[Any]) -> threading.Thread:
    """Run `work` beside this thread; `channel` tells its end, and its error."""

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (it is raised in the thread that takes from the channel)
            channel.fail(error)
        else:
            channel.finish()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


@contextmanager
def _interrupted(active: bool, stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM while the block runs, where it is `active` and this is the main thread."""
    if not active or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
