"""Help for the tests of the node: masks that cost nothing, an archive in memory, senders."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from artifacts import write_artifact
from pynetdicom import AE

from gazeseg_serve.contract import Artifact
from gazeseg_serve.dicom import decode_frames, read_dataset
from gazeseg_serve.node.run import Node
from gazeseg_serve.node.settings import NodeSettings, WebTarget
from gazeseg_serve.pixels import DEFAULT_LIMITS


class BrightMasks:
    """Marks every pixel above the middle: an independent rule, which a test can work out by itself."""

    threshold = 0.5

    def __init__(self, folder: Path) -> None:
        self.artifact: Artifact = write_artifact(folder)
        self.calls = 0

    def masks(self, content: bytes) -> tuple[np.ndarray, pydicom.Dataset]:
        self.calls += 1
        dataset = read_dataset(content, DEFAULT_LIMITS)
        return np.stack([bright(frame) for frame in decode_frames(dataset)]), dataset


def bright(frame: np.ndarray) -> np.ndarray:
    return (frame.reshape(*frame.shape[:2], -1).mean(axis=2) > 127).astype(np.uint8)


class MemoryArchive:
    """Holds what it is given, by UID; `fail` is asked before, and may raise."""

    def __init__(self) -> None:
        self.held: dict[str, pydicom.Dataset] = {}
        self.stores: list[str] = []
        self.fail: Callable[[], None] = lambda: None

    def store(self, content: bytes, replaces: bool) -> None:
        self.fail()
        dataset = pydicom.dcmread(io.BytesIO(content))
        self.held[str(dataset.SOPInstanceUID)] = dataset
        self.stores.append(str(dataset.SOPInstanceUID))


def settings_in(folder: Path, **changes: Any) -> NodeSettings:
    standard: dict[str, Any] = {
        "title": "GAZESEG",
        "target": WebTarget("http://127.0.0.1:9"),
        "spool": folder / "spool",
        "port": 0,
        "quiet_seconds": 0.2,
        "first_pause": 0.05,
        "longest_pause": 0.2,
        "reserve_bytes": 0,
    }
    return NodeSettings(**{**standard, **changes})


@contextmanager
def running(settings: NodeSettings, masks: Any, archive: Any) -> Iterator[Node]:
    node = Node(settings, masks, archive)
    node.start()
    try:
        yield node
    finally:
        assert node.stop()


def send(port: int, datasets: Sequence[pydicom.Dataset], title: str = "TEST", called: str = "GAZESEG") -> list[int]:
    """The status of every C-STORE; empty where the association was refused."""
    entity = AE(title)
    for context in {(str(d.SOPClassUID), str(d.file_meta.TransferSyntaxUID)) for d in datasets}:
        entity.add_requested_context(*context)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return []
    try:
        return [int(association.send_c_store(dataset).Status) for dataset in datasets]
    finally:
        association.release()


def wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not true():
        assert time.monotonic() < end, "it did not come"
        pause.wait(0.02)
