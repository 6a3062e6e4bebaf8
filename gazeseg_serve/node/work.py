"""From spooled images to results in the spool: masks image by image as they come, a result once their series is quiet."""

from __future__ import annotations

import io
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dicom_result import ResultOptions, instance_number
from ..dicom_seg import segmentation
from ..dicom_series import check_series
from ..dicom_source import source_header
from ..errors import ImageError
from ..files import sha256
from .masks import MaskMaker, ServiceAway
from .settings import NodeSettings
from .spool import Image, Spool

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger("gazeseg_serve.node")

_MOST_TRIES = 5  # of an image over which the process ends: a decoder that crashes must not stop everybody's work


class Worker:
    """One thread's work; `step` does one piece of it and says whether there was any."""

    def __init__(self, settings: NodeSettings, spool: Spool, masks: MaskMaker) -> None:
        self._settings, self._spool, self._masks = settings, spool, masks
        self._last: dict[str, float] = {}  # by series, on the clock that never jumps
        self._pause_until = 0.0
        self._pause = settings.first_pause
        for row in spool.query("SELECT DISTINCT series FROM image WHERE state IN ('received', 'segmented')"):
            self._last[row["series"]] = time.monotonic()  # after a start, a series may go on arriving

    def arrived(self, series: str) -> None:
        """An image of the series came."""
        self._last[series] = time.monotonic()

    def step(self) -> bool:
        if time.monotonic() < self._pause_until:
            return False
        waiting = self._spool.images("state = 'received'", limit=1)
        if waiting:
            try:
                self._segment(waiting[0])
            except ServiceAway as error:
                log.warning("no mask can be made: %s; trying again in %g s", error, self._pause)
                self._pause_until = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, self._settings.longest_pause, 30.0)
                return False
            self._pause = self._settings.first_pause
            return True
        now = time.monotonic()
        quiet = [series for series, last in list(self._last.items()) if now - last >= self._settings.quiet_seconds]
        for series in quiet:
            if self._last[series] + self._settings.quiet_seconds <= time.monotonic():
                del self._last[series]
                self._finish(series)
        return bool(quiet)

    def _segment(self, image: Image) -> None:
        """Make the masks of one image, and keep them with its header."""
        tries = self._spool.try_image(image)
        if tries > _MOST_TRIES:
            self._refuse(image, f"the node ended {tries - 1} times while it worked on it")
            return
        try:
            content = self._spool.path("images", f"{image.file}.dcm").read_bytes()
            labels, dataset = self._masks.masks(content)
            header = source_header(dataset)
        except FileNotFoundError:
            if self._spool.images("name = ? AND digest = ?", image.name, image.digest):
                self._refuse(image, "its file is gone from the spool")
            return  # else another image of the same UID came meanwhile
        except ImageError as error:
            self._refuse(image, str(error))
            return
        except ServiceAway:
            self._spool.try_image(image, by=-1)
            raise
        self._spool.write("masks", f"{image.file}.head", encode_header(header))
        self._spool.write("masks", f"{image.file}.npz", encode_labels(labels))
        with self._spool.transaction() as database:
            database.execute("UPDATE image SET state = 'segmented' WHERE name = ? AND digest = ?", (image.name, image.digest))
        self._spool.count("segmented", len(labels))

    def _refuse(self, image: Image, reason: str) -> None:
        """Make a dead letter of an image that no mask can be made of."""
        name = f"{image.file}.dcm"
        if self._spool.path("images", name).exists():
            self._spool.bury("images", name, reason)
        with self._spool.transaction() as database:
            database.execute(
                "UPDATE image SET state = 'refused', reason = ?, bytes = 0 WHERE name = ? AND digest = ?",
                (reason, image.name, image.digest),
            )
        self._spool.remove("images", name)
        self._spool.count("refused-image")
        log.error("image %s is a dead letter: %s", image.name[:12], reason)

    def _finish(self, series: str) -> None:
        """Make the results of a series that lack an image which came since."""
        images = self._spool.images("series = ? AND state IN ('segmented', 'done')", series)
        parts = self._parts(series, images)
        for part, members in parts.items():
            if any(not image.result for image in members):
                self._finish_part(series, part, members)

    def _parts(self, series: str, images: Sequence[Image]) -> dict[str, list[Image]]:
        """The images by part: a scout beside its slices, pictures of two sizes, a multi-frame image are parts of their own.

        An image stays of the part it once was; one that is new joins the first whose images it agrees with.
        """
        parts: dict[str, list[Image]] = defaultdict(list)
        first: dict[str, Dataset] = {}
        count = self._spool.query("SELECT COUNT(DISTINCT part) AS n FROM image WHERE series = ? AND part != ''", series)[0]["n"]
        headers = {image.name: self._header(image) for image in images}
        for image in sorted(images, key=lambda image: (not image.part, instance_number(headers[image.name]), image.name)):
            part = image.part or next((known for known, head in first.items() if agree(head, headers[image.name])), "")
            if not part:
                part = f"{count + 1}"
                count += 1
            first.setdefault(part, headers[image.name])
            parts[part].append(image)
        return parts

    def _header(self, image: Image) -> Dataset:
        return decode_header(self._spool.path("masks", f"{image.file}.head").read_bytes())

    def _finish_part(self, series: str, part: str, images: Sequence[Image]) -> None:
        forgotten = self._spool.query(
            "SELECT COUNT(*) AS n FROM image WHERE series = ? AND part = ? AND state = 'forgotten'", series, part
        )[0]["n"]
        # What is left of a series whose beginning was let go gets an object of its own: it must not replace the whole one.
        identity = f"series {part}" + (f" without {forgotten}" if forgotten else "")
        try:
            self._make(series, part, images, identity)
        except ImageError as error:
            for image in images:
                if not image.result:
                    self._refuse(image, str(error))

    def _make(self, series: str, part: str, images: Sequence[Image], identity: str) -> None:
        headers = [decode_header(self._spool.path("masks", f"{image.file}.head").read_bytes()) for image in images]
        labels = np.concatenate(
            [decode_labels(self._spool.path("masks", f"{image.file}.npz").read_bytes()) for image in images]
        )
        artifact, use = self._masks.artifact, self._masks.artifact.intended_use
        found = [phrase for header in headers for phrase in use.contradictions(header)] if use and self._settings.force else []
        options = ResultOptions(self._masks.threshold, tuple(dict.fromkeys(found)), identity)
        made = {"seg": segmentation(headers, labels, artifact, options)}
        if self._settings.reports:
            from ..dicom_sr import report

            made["sr"] = report(headers, labels, artifact, options)
        kept = [(kind, instance_uid(content), content) for kind, content in made.items()]
        for _, uid, content in kept:
            self._spool.write("results", f"{result_name(uid, content)}.dcm", content)
        old = [row["file"] for _, uid, _ in kept for row in self._spool.query("SELECT file FROM result WHERE uid = ?", uid)]
        with self._spool.transaction() as database:
            for kind, uid, content in kept:
                database.execute(
                    "INSERT INTO result (uid, kind, series, version, frames, file, bytes, made, state) "
                    "VALUES (?, ?, ?, 1, ?, ?, ?, ?, 'waiting') ON CONFLICT (uid) DO UPDATE SET version = version + 1, "
                    "frames = excluded.frames, file = excluded.file, bytes = excluded.bytes, made = excluded.made, "
                    "state = 'waiting', attempts = 0, reason = ''",
                    (uid, kind, series, len(labels), result_name(uid, content), len(content), time.time()),
                )
            database.executemany(
                "UPDATE image SET result = ?, part = ? WHERE name = ? AND digest = ?",
                [(kept[0][1], part, image.name, image.digest) for image in images],
            )
        names = {result_name(uid, content) for _, uid, content in kept}
        self._spool.remove("results", *(f"{name}.dcm" for name in old if name not in names))
        log.info("series %s: a result of %d image(s)", series[:12], len(images))

    def forget(self) -> None:
        """Let go of headers and masks of images that are done since long; the rows stay, so that none is done twice."""
        before = time.time() - self._settings.late_seconds
        for image in self._spool.images("state = 'done' AND received < ?", before, limit=1000):
            with self._spool.transaction() as database:
                database.execute(
                    "UPDATE image SET state = 'forgotten' WHERE name = ? AND digest = ?", (image.name, image.digest)
                )
            self._spool.remove("masks", f"{image.file}.head", f"{image.file}.npz")


def agree(one: Dataset, other: Dataset) -> bool:
    """Whether two images may share a segmentation."""
    try:
        check_series([one, other])
    except ImageError:
        return False
    return True


def result_name(uid: str, content: bytes) -> str:
    return sha256(uid.encode())[:32] + "-" + sha256(content)[:16]


def instance_uid(content: bytes) -> str:
    import pydicom

    return str(pydicom.dcmread(io.BytesIO(content), specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID)


def encode_header(header: Dataset) -> bytes:
    import pydicom
    from pydicom.dataset import FileMetaDataset

    kept: Any = header
    kept.file_meta = FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = io.BytesIO()
    pydicom.dcmwrite(file, kept, enforce_file_format=True)
    return file.getvalue()


def decode_header(content: bytes) -> Dataset:
    import pydicom

    return pydicom.dcmread(io.BytesIO(content))


def encode_labels(labels: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, labels=labels)
    return file.getvalue()


def decode_labels(content: bytes) -> np.ndarray:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return np.asarray(stored["labels"])
