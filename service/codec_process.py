"""A process that decodes and encodes one file after another, within a memory limit, until it is killed.

It speaks over a pipe: a JSON object, then blobs of bytes, each way. No pickle: what a decoder was made to say by a
hostile file is only ever read as JSON and numbers. What its libraries write goes nowhere: they quote the files.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gazeseg_serve.contract import Artifact, InputSpec
from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.errors import GazesegError
from gazeseg_serve.pixels import Limits
from gazeseg_serve.records import from_dict

from . import codec_tasks
from .codec_tasks import Content, OutputOptions, Purpose, SeriesLimits
from .memory import bound_heaps

if sys.platform != "win32":
    import resource

FILE_FROM = 4 * 2**20  # bytes of an answer from which it comes as a file
_WORN = 64 * 2**20  # bytes kept after a piece of work, from which the process is replaced
_NICE = 5  # the engine and the small images come first
_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = -4  # cv2.Error.StsNoMem
Reply = tuple[dict[str, Any], Sequence[bytes | memoryview]]


class Blobs:
    """The blobs of a request, each received when it is asked for, so that not all need be held at once."""

    def __init__(self, pipe: Connection, count: int) -> None:
        self._pipe, self._left = pipe, count

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            self._left -= 1
            yield self._pipe.recv_bytes()

    def take(self, count: int) -> list[bytes]:
        blobs = iter(self)
        return [next(blobs) for _ in range(count)]


def serve(pipe: Connection) -> None:
    """Answer requests until the other end is closed. Runs in a process of its own."""
    _settle_in()
    base = _data_bytes()
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        _limit_memory(base + request["memory"])
        blobs = Blobs(pipe, request["blobs"])
        header, content = _answer(request, blobs)
        _limit_memory(None)
        for _ in blobs:  # the other end sends them all before it listens
            pass
        if _data_bytes() > base + _WORN:
            header["worn"] = True
        _send(pipe, request["pid"], header, content)


def _answer(request: dict[str, Any], blobs: Blobs) -> Reply:
    try:
        return TASKS[request["task"]](request["arguments"], blobs)
    except GazesegError as error:
        return {"error": type(error).__name__, "detail": str(error)}, []
    except MemoryError:
        return {"error": "OutOfMemory"}, []
    except Exception as error:  # noqa: BLE001 - the edge of the process: a bug is told with its place alone
        if isinstance(error, cv2.error) and (error.code == _OUT_OF_MEMORY or "bad_alloc" in str(error)):
            return {"error": "OutOfMemory"}, []
        frames = traceback.extract_tb(error.__traceback__)
        return {
            "error": "Bug",
            "detail": f"{type(error).__name__} at "
            + " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames)),
        }, []


def _send(pipe: Connection, pid: int, header: dict[str, Any], content: Sequence[bytes | memoryview]) -> None:
    """One large blob goes by a file without a name, which the other end reads when its client does."""
    if len(content) == 1 and len(content[0]) >= FILE_FROM:
        try:
            with tempfile.TemporaryFile() as file:
                file.write(content[0])
                file.flush()
                pipe.send_bytes(json.dumps({**header, "file": len(content[0]), "blobs": 0}).encode())
                send_handle(pipe, file.fileno(), pid)
                return
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            header, content = {"error": "StorageFull"}, []
    pipe.send_bytes(json.dumps({**header, "blobs": len(content)}).encode())
    for blob in content:
        pipe.send_bytes(blob)


def _prepare(arguments: dict[str, Any], blobs: Blobs) -> Reply:
    spec, limits = from_dict(InputSpec, arguments["spec"], "spec"), Limits(**arguments["limits"])
    prepared, size = codec_tasks.prepare(spec, blobs.take(1)[0], limits, _purpose(arguments))
    return {"size": size}, [_bytes(prepared)]


def _outputs(arguments: dict[str, Any], blobs: Blobs) -> Outputs:
    """What the engine gave for one image, from the first blobs."""
    found = zip(arguments["shapes"], blobs.take(len(arguments["shapes"])), strict=True)
    return Outputs(*(np.frombuffer(blob, np.float32).reshape(shape) for shape, blob in found))


def _encode(arguments: dict[str, Any], blobs: Blobs) -> Reply:
    artifact, outputs = from_dict(Artifact, arguments["artifact"], "artifact"), _outputs(arguments, blobs)
    data = blobs.take(1)[0] if arguments["pictured"] else b""
    content = codec_tasks.encode(
        artifact,
        outputs,
        0,
        tuple(arguments["size"]),
        OutputOptions(**arguments["options"]),
        data,
        Limits(**arguments["limits"]),
    )
    return _content(content)


def _prepare_series(arguments: dict[str, Any], blobs: Blobs) -> Reply:
    spec, limits = from_dict(InputSpec, arguments["spec"], "spec"), Limits(**arguments["limits"])
    frames, size = codec_tasks.prepare_series(spec, blobs, limits, SeriesLimits(**arguments["together"]), _purpose(arguments))
    return {"size": size}, [_bytes(frame) for frame in frames]


def _pack_mask(arguments: dict[str, Any], blobs: Blobs) -> Reply:
    artifact, outputs = from_dict(Artifact, arguments["artifact"], "artifact"), _outputs(arguments, blobs)
    return {}, [codec_tasks.pack_mask(artifact, outputs, 0, tuple(arguments["size"]), OutputOptions(**arguments["options"]))]


def _encode_series(arguments: dict[str, Any], blobs: Blobs) -> Reply:
    artifact = from_dict(Artifact, arguments["artifact"], "artifact")
    masks = blobs.take(arguments["masks"])
    made = codec_tasks.encode_series(artifact, blobs, masks, tuple(arguments["size"]), OutputOptions(**arguments["options"]))
    return _content(Content(made, "application/dicom"))


def _purpose(arguments: dict[str, Any]) -> Purpose:
    return from_dict(Purpose, arguments["purpose"], "purpose")


TASKS: dict[str, Callable[[dict[str, Any], Blobs], Reply]] = {
    "prepare": _prepare,
    "encode": _encode,
    "prepare_series": _prepare_series,
    "pack_mask": _pack_mask,
    "encode_series": _encode_series,
}


def _content(content: Content) -> Reply:
    return {"media_type": content.media_type, "gzipped": content.gzipped}, [content.data]


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")


def _settle_in() -> None:
    """Ignore what a supervisor sends to all its children: this process ends by its pipe, its parent or SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    warnings.simplefilter("ignore")
    os.nice(_NICE)
    cv2.setNumThreads(1)
    bound_heaps()


def _data_bytes() -> int:
    """Writable private memory of this process, which RLIMIT_DATA counts; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def _limit_memory(total: int | None) -> None:
    if sys.platform == "linux":
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard if total is None else total, hard))
