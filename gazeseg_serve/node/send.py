"""The sending end: results to the archive by STOW-RS or C-STORE, again with growing pauses, and given up with a reason."""

from __future__ import annotations

import io
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import GazesegError, require
from .settings import EntityTarget, NodeSettings, Target, WebTarget
from .spool import Result, Spool

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger("gazeseg_serve.node")


class NotNow(GazesegError):
    """The archive is away, busy or full: the same object may be taken later."""


class NotEver(GazesegError):
    """The archive refuses the object itself."""


class Archive(Protocol):
    def store(self, content: bytes, replaces: bool) -> None:
        """Return once the archive has said that it holds the object. Raises NotNow or NotEver."""


def open_archive(settings: NodeSettings) -> Archive:
    target: Target = settings.target
    return WebArchive(target) if isinstance(target, WebTarget) else EntityArchive(target, settings)


class WebArchive:
    """STOW-RS (PS3.18, 10.5)."""

    def __init__(self, target: WebTarget) -> None:
        web = require("dicomweb_client", "node")
        import requests

        session = requests.Session()
        session.max_redirects = 0
        if target.user:
            session.auth = (target.user, target.password)
        if target.token:
            session.headers["Authorization"] = f"Bearer {target.token}"
        if target.certificates is not None:
            session.verify = str(target.certificates)
        self._client = web.DICOMwebClient(target.url, session=session, timeout=(5, 60))
        self._client.set_http_retry_params(retry=False)  # the spool tries again, and remembers

    def store(self, content: bytes, replaces: bool) -> None:
        import pydicom
        import requests

        dataset = pydicom.dcmread(io.BytesIO(content))
        try:
            answer = self._client.store_instances([dataset])
            _check_stored(answer)
            if replaces:
                self._check_replaced(dataset)
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            kind = NotEver if status in (400, 409, 413, 415, 422) else NotNow
            raise kind(f"the archive answers {status} to STOW-RS") from error
        except requests.TooManyRedirects as error:
            raise NotEver("the archive sends elsewhere (a redirect); name the DICOMweb root itself") from error
        except (requests.RequestException, OSError) as error:
            raise NotNow(f"the archive cannot be reached ({type(error).__name__})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotNow(f"the archive's answer to STOW-RS cannot be read ({type(error).__name__})") from error

    def _check_replaced(self, dataset: Dataset) -> None:
        """An archive may say "stored" and keep the object that it had: ask it how many frames it has."""
        found = self._client.retrieve_instance_metadata(
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
        )
        frames = (found.get("00280008") or {}).get("Value", [1])[0]
        if int(frames) != int(dataset.get("NumberOfFrames", 1)):
            raise NotEver(
                "the archive kept the older result of this series; let it overwrite instances (Orthanc: OverwriteInstances)"
            )


def _check_stored(answer: Dataset) -> None:
    failed = answer.get("FailedSOPSequence") or []
    if failed:
        reason = int(failed[0].get("FailureReason", 0))
        raise (NotNow if 0xA700 <= reason <= 0xA7FF or reason == 0x0110 else NotEver)(
            f"the archive refuses it with FailureReason 0x{reason:04X}"
        )


class EntityArchive:
    """C-STORE to an application entity, an association an object."""

    def __init__(self, target: EntityTarget, settings: NodeSettings) -> None:
        require("pynetdicom", "node")
        self._target, self._title = target, settings.title

    def store(self, content: bytes, replaces: bool) -> None:
        import pydicom
        from pynetdicom import AE

        dataset = pydicom.dcmread(io.BytesIO(content))
        entity = AE(self._title)
        entity.acse_timeout, entity.dimse_timeout, entity.network_timeout, entity.connection_timeout = 30, 60, 60, 10
        entity.add_requested_context(dataset.SOPClassUID, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
        association = entity.associate(self._target.host, self._target.port, ae_title=self._target.title)
        if not association.is_established:
            refused = association.is_rejected or bool(association.rejected_contexts)
            raise NotNow(
                "the archive refuses the association; check AE titles and SOP classes"
                if refused
                else "the archive cannot be reached"
            )
        try:
            answer: Any = association.send_c_store(dataset)
        except (RuntimeError, ValueError) as error:
            raise NotNow(f"the archive takes no object of this kind ({type(error).__name__})") from error
        finally:
            association.release()
        if "Status" not in answer:
            raise NotNow("the archive ended the association without an answer")
        status = int(answer.Status)
        if status == 0 or status & 0xF000 == 0xB000:  # a warning: it is stored all the same
            return
        raise (NotNow if status & 0xFF00 == 0xA700 or status == 0x0110 else NotEver)(
            f"the archive refuses it with status 0x{status:04X}"
        )


class Sender:
    """One thread's work; `step` sends one result and says whether there was one to send."""

    def __init__(self, settings: NodeSettings, spool: Spool, archive: Archive) -> None:
        self._settings, self._spool, self._archive = settings, spool, archive
        self._next: dict[str, float] = {}  # by UID, on the clock that never jumps; after a start all may be tried

    def step(self) -> bool:
        now = time.monotonic()
        due = [result for result in self._spool.results("state = 'waiting'") if self._next.get(result.uid, 0) <= now]
        if not due:
            return False
        self._send(due[0])
        return True

    def _send(self, result: Result) -> None:
        path = self._spool.path("results", f"{result.file}.dcm")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return  # a later version took its place
        try:
            self._archive.store(content, result.version > 1)
        except NotNow as error:
            self._later(result, str(error))
        except NotEver as error:
            self._give_up(result, str(error))
        else:
            self._sent(result)

    def _sent(self, result: Result) -> None:
        self._next.pop(result.uid, None)
        with self._spool.transaction() as database:
            changed = database.execute(
                "UPDATE result SET state = 'sent', bytes = 0 WHERE uid = ? AND version = ?", (result.uid, result.version)
            ).rowcount
            if not changed:
                return  # a later version waits, of the same images and more
            keep = "bytes" if self._settings.keep_images else "0"
            database.execute(
                f"UPDATE image SET state = 'done', bytes = {keep} WHERE result = ? AND state = 'segmented'", (result.uid,)
            )
        self._spool.remove("results", f"{result.file}.dcm")
        if not self._settings.keep_images:
            for image in self._spool.images("result = ? AND state = 'done'", result.uid):
                self._spool.remove("images", f"{image.file}.dcm")
        self._spool.count(f"sent-{result.kind}")
        log.info("series %s: its %s is stored", result.series[:12], result.kind)

    def _later(self, result: Result, reason: str) -> None:
        attempts = result.attempts + 1
        if attempts >= self._settings.attempts:
            self._give_up(result, f"{reason}; given up after {attempts} attempts")
            return
        pause = min(self._settings.first_pause * 2 ** min(attempts - 1, 30), self._settings.longest_pause)
        self._next[result.uid] = time.monotonic() + pause
        with self._spool.transaction() as database:
            database.execute(
                "UPDATE result SET attempts = ?, reason = ? WHERE uid = ? AND version = ?",
                (attempts, reason, result.uid, result.version),
            )
        log.warning("series %s: not stored yet, attempt %d: %s; again in %g s", result.series[:12], attempts, reason, pause)

    def _give_up(self, result: Result, reason: str) -> None:
        name = f"{result.file}.dcm"
        self._spool.bury("results", name, reason)
        with self._spool.transaction() as database:
            database.execute(
                "UPDATE result SET state = 'dead', reason = ? WHERE uid = ? AND version = ?",
                (reason, result.uid, result.version),
            )
        self._spool.remove("results", name)
        self._spool.count("dead-result")
        log.error("series %s: its result is a dead letter: %s", result.series[:12], reason)
