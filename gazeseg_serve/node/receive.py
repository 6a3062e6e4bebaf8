"""The receiving end: C-ECHO and C-STORE. An image is on the disk before its sender hears that it was stored.

Statuses (PS3.4, B.2.3): 0x0000 stored, or taken and left; 0xA700 the spool or the disk is full; 0xA900 not the object that
was announced; 0xC000 not an object that can be read, whole and with its UIDs; 0xC001 larger than one object may be.
"""

from __future__ import annotations

import logging
import sqlite3
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..clinical import IntendedUse
from ..dicom import broken_errors, frame_count, parse_dicom
from ..dicom_pixels import readable_syntaxes
from ..dicom_text import code, uid, value
from ..errors import ConfigError, ImageError
from ..files import sha256
from .settings import NodeSettings, Tls
from .spool import Spool

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.events import Event

log = logging.getLogger("gazeseg_serve.node")

STORED, FULL, OTHER_OBJECT, UNREADABLE, TOO_LARGE = 0x0000, 0xA700, 0xA900, 0xC000, 0xC001
# Of these no mask can be made, and among them are the node's own results: to segment what one made never ends.
LEFT = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "REG", "FID", "DOC", "AU", "ECG", "PLAN", "ANN")


class Receiver:
    """An SCP that fills the spool. `arrived` is called with the series of every image that is new."""

    def __init__(self, settings: NodeSettings, spool: Spool, use: IntendedUse | None, arrived: Callable[[str], None]) -> None:
        self._settings, self._spool, self._arrived = settings, spool, arrived
        self._use = None if settings.force else use
        self._modalities = tuple(code(name) for name in settings.modalities)
        self._storing = threading.Lock()
        self._server: Any = None

    def start(self) -> int:
        """Listen; the port that is listened on. Raises ConfigError where it is taken."""
        from pynetdicom import AE, AllStoragePresentationContexts, evt

        entity = AE(self._settings.title)
        entity.maximum_associations = self._settings.associations
        entity.network_timeout, entity.acse_timeout, entity.dimse_timeout = 60, 30, 60
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._settings.senders)
        syntaxes = readable_syntaxes()
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), syntaxes)
        entity.add_supported_context("1.2.840.10008.1.1")  # verification: C-ECHO
        try:
            self._server = entity.start_server(
                (self._settings.host, self._settings.port),
                block=False,
                ssl_context=tls_context(self._settings.tls),
                evt_handlers=[
                    (evt.EVT_C_STORE, self.store),
                    (evt.EVT_C_ECHO, lambda event: STORED),
                    (evt.EVT_REJECTED, self._rejected),
                ],
            )
        except OSError as error:
            raise ConfigError(f"cannot listen on {self._settings.host}:{self._settings.port} ({error.strerror})") from None
        return int(self._server.socket.getsockname()[1])

    def stop(self) -> None:
        """Take no more; what is being stored is stored."""
        if self._server is not None:
            self._server.shutdown()
            with self._storing:
                self._server = None

    def store(self, event: Event) -> int:
        """Handle one C-STORE request; the status to answer with."""
        try:
            with self._storing:
                status, what = self._store(event)
        except (OSError, sqlite3.Error) as error:  # a full or failing disk: the sender keeps its copy
            log.error("an image could not be written (%s)", type(error).__name__)
            status, what = FULL, "refused-disk-error"
        self._spool_count(what)
        if status != STORED:
            log.warning("an object was refused with status 0x%04X: %s", status, what)
        return status

    def _spool_count(self, what: str) -> None:
        try:
            self._spool.count(what)
        except (OSError, sqlite3.Error) as error:  # which must not change what the sender is told
            log.error("a counter could not be written (%s)", type(error).__name__)

    def _store(self, event: Event) -> tuple[int, str]:
        request: Any = event.request
        content = event.encoded_dataset()
        if len(content) > self._settings.object_bytes:
            return TOO_LARGE, "refused-too-large"
        announced = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        try:
            answer, identity = self._look(content, announced)
        except broken_errors():
            return UNREADABLE, "refused-unreadable"
        if answer is not None:
            return answer
        if self._full(len(content)):
            return FULL, "refused-full"
        series = sha256("|".join(identity[:2]).encode())
        if not self._spool.accept(identity[2], series, content):
            return STORED, "again"
        self._arrived(series)
        return STORED, "received"

    def _look(self, content: bytes, announced: tuple[str, str]) -> tuple[tuple[int, str] | None, list[str]]:
        """The answer to an object that is not to be kept, or None; and the UIDs of study, series and instance."""
        dataset, complaint = read_whole(content)
        if dataset is None:
            return (UNREADABLE, f"refused-{complaint}"), []
        if (str(dataset.get("SOPClassUID")), str(dataset.get("SOPInstanceUID"))) != announced:
            return (OTHER_OBJECT, "refused-other-object"), []
        if reason := self.leave(dataset):
            return (STORED, f"left-{reason}"), []
        identity = [value(dataset, keyword, uid) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
        return (None if all(identity) else (UNREADABLE, "refused-uid")), identity

    def leave(self, dataset: Dataset) -> str:
        """Why an object is taken and left: acknowledged, counted, and not kept; "" where it is to be segmented."""
        modality = value(dataset, "Modality", code)
        if modality in LEFT or "Rows" not in dataset:
            return "no-image"
        if self._modalities and modality not in self._modalities:
            return "other-modality"
        return "other-use" if self._use is not None and self._use.contradictions(dataset) else ""

    def _full(self, coming: int) -> bool:
        used, free = self._spool.used_bytes(), self._spool.free_bytes()
        return used + coming > self._settings.spool_bytes or free - coming < self._settings.reserve_bytes

    def _rejected(self, event: Event) -> None:
        log.warning("an association was rejected; check the AE titles of sender and node")
        self._spool_count("rejected-association")


def read_whole(content: bytes) -> tuple[Dataset | None, str]:
    """The dataset of a file, or None and a word for what is wrong. Pixels that end early are seen without decoding them."""
    from pydicom.uid import UID

    broken: tuple[type[Exception], ...] = (*broken_errors(), ImageError)
    try:
        dataset = parse_dicom(content)
        if "Rows" not in dataset:
            is_image = "Image" in UID(str(dataset.get("SOPClassUID"))).name and value(dataset, "Modality", code) not in LEFT
            return (None, "truncated") if is_image else (dataset, "")
        pixels = dataset.get("PixelData")
        if pixels is None:
            return None, "no-pixels"
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            whole = content.rstrip(b"\0").endswith(b"\xfe\xff\xdd\xe0") or b"\xfe\xff\xdd\xe0" in content[-4096:]
            return (dataset, "") if whole else (None, "truncated")
        bits = (
            int(dataset.Rows)
            * int(dataset.Columns)
            * frame_count(dataset)
            * int(dataset.get("SamplesPerPixel", 1))
            * int(dataset.BitsAllocated)
        )
        if str(dataset.get("PhotometricInterpretation")) == "YBR_FULL_422":
            bits = bits * 2 // 3
        return (dataset, "") if len(pixels) >= (bits + 7) // 8 else (None, "truncated")
    except broken:
        return None, "unreadable"


def tls_context(tls: Tls | None) -> ssl.SSLContext | None:
    """Raises ConfigError for files that are missing or do not fit together."""
    if tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # PS3.15, B.9 and later profiles
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.authority is not None:
            context.load_verify_locations(tls.authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"TLS: {tls.certificate}, {tls.key}: {error.strerror or error}") from None
    return context
