"""What is done to a file beside the engine: decode it for the network, and encode what the network said of it.

The same functions run in the service's threads, for small plain files, and in processes that can be killed, for all
others (codec_process.py). Nothing here keeps state.
"""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from gazeseg_serve.clinical import IntendedUse, check_file, check_intended_use
from gazeseg_serve.contract import Artifact, InputSpec
from gazeseg_serve.dicom import is_dicom
from gazeseg_serve.engines.base import Engine, Outputs
from gazeseg_serve.errors import ImageTooLarge, UnsupportedImage
from gazeseg_serve.imaging import decode_image
from gazeseg_serve.outputs import render
from gazeseg_serve.pixels import Limits, with_channels
from gazeseg_serve.predictor import Predictor, finish

if TYPE_CHECKING:
    from pydicom import Dataset

Size = tuple[int, int]
_GZIP_FROM = 1024  # bytes; under it the header costs more than is saved


@dataclass(frozen=True)
class OutputOptions:
    """What the client asked for; `presence` as `predictor.finish` takes it; `gzip` where a JSON answer may be compressed;
    `force` against the intended use. `unusual` is no wish: why the image is unlike those that the model learned from, as
    `Prediction.unusual` has it, for an answer that says so.
    """

    output: str
    threshold: float
    disagreement: bool
    presence: float | None = None
    gzip: bool = False
    force: bool = False
    unusual: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Content:
    """The bytes of an answer and their media type."""

    data: bytes
    media_type: str
    gzipped: bool = False


@dataclass(frozen=True)
class SeriesLimits:
    """What the files of one series may hold together."""

    frames: int
    pixels: int


@dataclass(frozen=True)
class Purpose:
    """What the model is for, and whether the client wants an answer all the same where DICOM says that it is not."""

    use: IntendedUse | None = None
    force: bool = False


def prepare(spec: InputSpec, data: bytes, limits: Limits, purpose: Purpose) -> tuple[np.ndarray, Size]:
    """An image file as the network takes it, `(size, size, C)`, and its own (height, width). Raises ImageError."""
    check_file(purpose.use, data, purpose.force)
    image = decode_image(data, spec.channels, limits, spec.dtype, spec.window)
    return _predictor(spec).prepare(image), (image.shape[0], image.shape[1])


def compare(artifact: Artifact, prepared: np.ndarray, options: OutputOptions) -> tuple[OutputOptions, float | None]:
    """The options with the reasons why a prepared image is unlike what the model learned from, and how far it is."""
    if artifact.familiar is None:
        return options, None
    distances = artifact.familiar.distances(prepared)
    told = dataclasses.replace(options, unusual=artifact.familiar.reasons(distances))
    return told, max(map(abs, distances.values()), default=0.0)


def encode(
    artifact: Artifact, outputs: Outputs, index: int, size: Size, options: OutputOptions, data: bytes, limits: Limits
) -> Content:
    """The answer to `options` for item `index` of the engine's outputs. An overlay decodes the file `data` once more:
    an image that is kept while others are worked on costs more than that.
    """
    spec = artifact.input
    picture = decode_image(data, spec.channels, limits, window=spec.window) if options.output == "overlay" else None
    prediction = finish(outputs, index, size, artifact.presence, options.presence)
    prediction = dataclasses.replace(prediction, unusual=options.unusual)
    rendered = render(prediction, artifact, options.output, options.threshold, options.disagreement, picture)
    if options.gzip and rendered.media_type == "application/json" and len(rendered.content) >= _GZIP_FROM:
        return Content(gzip.compress(rendered.content, 5, mtime=0), rendered.media_type, gzipped=True)
    return Content(rendered.content, rendered.media_type)


def prepare_series(
    spec: InputSpec, files: Iterable[bytes], limits: Limits, together: SeriesLimits, purpose: Purpose
) -> tuple[list[np.ndarray], Size]:
    """Every frame of a DICOM file, or of the slices of a series in their order, as the network takes it.

    `files` is gone through once. Counted are the frames and pixels that all headers announce, before any is decoded.
    Raises ImageError.
    """
    from gazeseg_serve.dicom import decode_frames, frame_count, read_dataset
    from gazeseg_serve.dicom_series import check_series

    sources: list[Dataset] = []
    frames = pixels = 0
    for data in files:
        if not is_dicom(data):
            raise UnsupportedImage("a DICOM SEG or SR refers to DICOM images; send DICOM, or ask for another output")
        source = read_dataset(data, limits)
        frames += frame_count(source)
        pixels += frame_count(source) * int(source.Rows) * int(source.Columns)
        if frames > together.frames or pixels > together.pixels:
            raise ImageTooLarge(
                f"the series has more than {together.frames} frames or {together.pixels} pixels in all, which "
                "are the limits; send it in parts"
            )
        sources.append(source)
    check_series(sources)
    check_intended_use(purpose.use, sources, purpose.force)
    size = int(sources[0].Rows), int(sources[0].Columns)
    predictor, prepared = _predictor(spec), []
    for place, source in enumerate(sources):
        prepared += [
            predictor.prepare(with_channels(frame, spec.channels)) for frame in decode_frames(source, spec.dtype, spec.window)
        ]
        sources[place] = None  # type: ignore[call-overload]  # its pixels are no longer needed
        del source
    return prepared, size


def pack_mask(artifact: Artifact, outputs: Outputs, index: int, size: Size, options: OutputOptions) -> bytes:
    """The labels `(H, W)` uint8 of one frame, compressed: a series is long, and its masks are mostly background."""
    prediction = finish(outputs, index, size, artifact.presence, options.presence)
    return zlib.compress(prediction.mask(options.threshold).tobytes(), 1)


def encode_series(
    artifact: Artifact, files: Iterable[bytes], masks: Sequence[bytes], size: Size, options: OutputOptions
) -> bytes:
    """The DICOM SEG or SR of the masks that `pack_mask` made, for the files that they were made of. Raises ImageError."""
    from gazeseg_serve import dicom_result, dicom_seg, dicom_sr

    headers = [_header(data) for data in files]
    forced = tuple(check_intended_use(artifact.intended_use, headers, options.force))
    make = dicom_seg.segmentation if options.output == "dicom-seg" else dicom_sr.report
    labels = np.empty((len(masks), *size), np.uint8)
    for place, mask in enumerate(masks):
        labels[place] = np.frombuffer(zlib.decompress(mask), np.uint8).reshape(size)
    return make(headers, labels, artifact, dicom_result.ResultOptions(options.threshold, forced, presence=options.presence))


def _header(data: bytes) -> Dataset:
    """What the answer keeps of a file that has been read before: no pixels."""
    from gazeseg_serve.dicom import parse_dicom
    from gazeseg_serve.dicom_source import source_header

    return source_header(parse_dicom(data))


def _predictor(spec: InputSpec) -> Predictor:
    """One that only prepares images: it has no engine."""
    return Predictor(cast(Engine, None), spec)
