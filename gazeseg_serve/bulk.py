"""Segment files and folders: one mask an image, under a name of its own; what failed or was skipped is listed."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .clinical import check_file
from .contract import Artifact
from .dicom import is_dicom
from .errors import ConfigError, DatasetError, ImageError, MalformedImage, MissingExtraError, UnsupportedImage
from .files import sha256, write_bytes
from .image_inputs import NOT_READ, STDIN, collect, image_kind
from .imaging import decode_image
from .mask_file import Stamp, read_stamp, stamped
from .names import answer_names, printable
from .outputs import mask_png
from .pixels import DEFAULT_LIMITS, with_channels
from .predictor import Predictor, check_presence
from .progress import log, track


@dataclass
class Summary:
    """How many masks were written; why not for the other images, and for what a folder held besides; `names`: the masks
    that are not called as their image is, because another one was."""

    written: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class MaskOptions:
    """How masks are made. threshold, presence: None is the artifact's own; force: images that it is not for, too."""

    threshold: float | None = None
    presence: float | None = None
    force: bool = False


_OWN = MaskOptions()


@dataclass(frozen=True)
class Plan:
    """What is to be done, known before any of it is: the mask's file for each image."""

    masks: dict[Path, Path]
    summary: Summary


def predict_files(
    artifact: Path,
    inputs: Sequence[Path],
    out: Path,
    threshold: float | None = None,
    device: str = "auto",
    presence: float | None = None,
    force: bool = False,
) -> Summary:
    """Write a mask, `<stem>.png` in the image's own size, for every image among `inputs` (files, folders, `-`).

    One class: 1 bit a pixel, 0 or 255. Several: a palette whose index is the label, as over HTTP. An image that cannot be read
    is listed and the rest go on. Raises DatasetError before anything is written where an input is missing or no image, or where
    a mask would take the place of a file that is an input, or that `predict` did not write. presence: the threshold under which
    an image is taken to show nothing; None takes the artifact's, 0 switches it off; ConfigError for one that it cannot hold.
    force: DICOM that contradicts the artifact's intended use is segmented, too, instead of listed.
    """
    plan = make_plan(inputs, out)
    predictor = Predictor.open(artifact, device)
    check_presence(None if predictor.artifact is None else predictor.artifact.presence, presence)
    options = MaskOptions(threshold, presence, force)
    for image, mask in track(plan.masks.items(), "segmenting", len(plan.masks)):
        try:
            segment_file(predictor, image, mask, options)
        except (ImageError, MissingExtraError, DatasetError) as error:
            plan.summary.failures[printable(image)] = printable(str(error))
        else:
            plan.summary.written += 1
    return plan.summary


def make_plan(inputs: Sequence[Path], out: Path) -> Plan:
    """Names for all masks, each checked against what lies in `out` already. Raises DatasetError."""
    found = collect(inputs, out)
    names = answer_names(["stdin" if path == STDIN else path.name for path in found.images], ".png")
    plan = Plan({image: out / name for image, name in zip(found.images, names, strict=True)}, Summary(skipped=found.skipped))
    if out.exists() and not out.is_dir():
        raise DatasetError(f"--out {printable(out)} is a file; name a folder for the masks")
    read = {_identity(image) for image in found.images if image != STDIN}
    taken = [mask for mask in plan.masks.values() if mask.exists() and (_identity(mask) in read or read_stamp(mask) is None)]
    if taken:
        raise DatasetError(
            f"{len(taken)} mask(s) would take the place of a file that predict did not write, or reads "
            f"({printable(taken[0])} for one); nothing was written: name another folder with --out"
        )
    for image, mask in plan.masks.items():
        if image != STDIN and mask.name != answer_names([image.name], ".png")[0]:
            plan.summary.names[printable(image)] = printable(mask.name)
    return plan


def segment_file(predictor: Predictor, image: Path, mask: Path, options: MaskOptions = _OWN) -> None:
    """Write the mask of one image file; of a multi-frame DICOM object the folder `mask` without its suffix, a mask a frame.

    Raises ImageError or MissingExtraError for an image that cannot be read, and then writes nothing of it; OSError for a mask
    that cannot be written.
    """
    if predictor.artifact is None:
        raise ConfigError("a mask file names the artifact that made it; open the predictor from an artifact folder")
    data = _read(image)
    stamp = _stamp(predictor.artifact, data, options)
    colours = predictor.artifact.colours
    try:
        if is_dicom(data) and (frames := _frames(data, predictor)) is not None:
            labels = (predictor.predict(frame, stamp.presence).mask(stamp.threshold) for frame in frames)
            _write_frames(mask.with_suffix(""), [stamped(mask_png(frame, colours), stamp) for frame in labels])
            return
        pixels = decode_image(data, predictor.spec.channels, dtype=predictor.spec.dtype, window=predictor.spec.window)
    except UnsupportedImage as error:
        kind = image_kind(data)
        raise UnsupportedImage(f"a {kind} file: {error}" if kind in NOT_READ else str(error)) from error
    found = predictor.predict(pixels, stamp.presence)
    if found.unusual:
        log.warning("%s is unusual: %s", printable(image.name), "; ".join(found.unusual))
    write_bytes(mask, stamped(mask_png(found.mask(stamp.threshold), colours), stamp))


def _frames(data: bytes, predictor: Predictor) -> Iterator[np.ndarray] | None:
    """The frames of a multi-frame DICOM file as the predictor takes them; None for a file of one. Raises ImageError."""
    from .dicom import decode_frames, frame_count, read_dataset

    dataset = read_dataset(data, DEFAULT_LIMITS)
    if frame_count(dataset) == 1:
        return None
    spec = predictor.spec
    return (with_channels(frame, spec.channels) for frame in decode_frames(dataset, spec.dtype, spec.window))


def _write_frames(folder: Path, masks: Sequence[bytes]) -> None:
    """Write frame_0001.png and so on, in the frames' order, and take away what an older run made of more frames."""
    wanted = {folder / f"frame_{number:04d}.png": mask for number, mask in enumerate(masks, start=1)}
    taken = [path for path in wanted if path.exists() and read_stamp(path) is None]
    if taken or (folder.exists() and not folder.is_dir()):
        there = printable(taken[0] if taken else folder)
        raise DatasetError(f"the masks of its frames would take the place of {there}; name another folder with --out")
    for path, mask in wanted.items():
        write_bytes(path, mask)
    for path in set(folder.glob("frame_[0-9][0-9][0-9][0-9].png")) - wanted.keys():
        if read_stamp(path) is not None:
            path.unlink()


def is_done(artifact: Artifact, image: Path, mask: Path, options: MaskOptions = _OWN) -> bool:
    """Whether `mask` is a file that `segment_file` wrote of this very image with this model and these thresholds."""
    stamp = read_stamp(mask)
    try:
        return stamp is not None and stamp == _stamp(artifact, _read(image), options)
    except (ImageError, MissingExtraError):
        return False


def _stamp(artifact: Artifact, data: bytes, options: MaskOptions) -> Stamp:
    """What the mask of an image file will say of itself. Raises OutsideIntendedUse for an image that the model is not for."""
    forced = bool(check_file(artifact.intended_use, data, options.force))
    presence = 0.0 if artifact.presence is None else artifact.presence.threshold
    return Stamp(
        artifact.id,
        artifact.threshold if options.threshold is None else options.threshold,
        sha256(data),
        presence if options.presence is None else options.presence,
        forced,
    )


def _read(image: Path) -> bytes:
    """The bytes of an image file, or of standard input; one more than the limit where there are more. Raises MalformedImage."""
    try:
        if image == STDIN:
            return sys.stdin.buffer.read(DEFAULT_LIMITS.max_bytes + 1)
        with image.open("rb") as file:
            return file.read(DEFAULT_LIMITS.max_bytes + 1)
    except OSError as error:
        raise MalformedImage(f"cannot be read ({error.strerror or error})") from error


def _identity(path: Path) -> tuple[int, int]:
    """What two paths of one file share, whatever links or spellings lead there."""
    status = path.stat()
    return status.st_dev, status.st_ino
