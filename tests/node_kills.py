"""Images pushed into a node while node, service and archive are killed in turn: what is in the archive at the end.

Used by a short test, and at length by benchmarks/node_kills.py.
"""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import psutil
import pydicom
from artifacts import write_artifact
from dicom_images import SIZE, image
from orthancs import NodeProcess, Orthanc, archive, free_port, listening
from pynetdicom import AE

from gazeseg_serve.predictor import Predictor


@dataclass
class Outcome:
    """results: SEG instances in the archive; wrong: of another mask; of_image: how often each image has a result."""

    images: int
    kills: dict[str, int]
    seconds: float
    results: int
    wrong: int
    missing: int
    twice: int
    dead: int
    resent: int
    memory_mib: list[float] = field(default_factory=list)


def picture(number: int) -> pydicom.Dataset:
    """An image in a series of its own: a square of its own place and size, so that no two masks are alike."""
    dataset = image("endoscopy", 1, InstanceNumber=1)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.2.9.{number // 50 + 1}", f"1.2.9.{number // 50 + 1}.{number + 1}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SeriesInstanceUID}.1"
    pixels = np.zeros((*SIZE, 3), np.uint8)
    side = 6 + number % 7
    row, column = number // 7 % (SIZE[0] - side), number // (7 * SIZE[0]) * 3 % (SIZE[1] - side)
    pixels[row : row + side, column : column + side] = 255
    dataset.PixelData = pixels.tobytes()
    return dataset


class Service:
    """`gazeseg-serve serve` that can be killed and started again at its port."""

    def __init__(self, artifact: Path, log: Path) -> None:
        self.artifact, self.log, self.port = artifact, log, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "gazeseg_serve", "serve", str(self.artifact), "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """The supervisor and its workers, all at once."""
        assert self.process is not None
        for process in (*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)):
            process.kill()
        self.process.wait(30)


def run(folder: Path, count: int, kills: int, pause: float, limit: float) -> Outcome:
    """Push `count` images; kill `kills` times, `pause` seconds apart; wait at most `limit` seconds for the results."""
    artifact = folder / "artifact"
    write_artifact(artifact)
    service, port = Service(artifact, folder / "service.log"), free_port()
    service.start()
    with archive(folder / "orthanc", port) as orthanc:
        listening(service.port, service.process, service.log)
        node = NodeProcess(
            ["--service", f"http://127.0.0.1:{service.port}", "--port", str(port), "--to", orthanc.web, "--quiet", "0.3",
             "--spool", str(folder / "spool")],
            folder / "node.log",
        )  # fmt: skip
        node.start()
        started, resent = time.monotonic(), [0]
        sender = threading.Thread(target=push, args=(port, count, resent, started + limit))
        try:
            listening(port, node.process, node.log)
            sender.start()
            killed, memory = disturb(node, service, orthanc, kills, pause)
            sender.join()
            ids = settle(orthanc, count, started + limit, memory, node)
            seconds = time.monotonic() - started
            return judge(
                orthanc, ids, artifact, count, Outcome(count, killed, seconds, len(ids), 0, 0, 0, 0, resent[0], memory)
            )
        finally:
            node.kill()
            service.kill()


def push(port: int, count: int, resent: list[int], end: float) -> None:
    """What a modality does: keep an image until it is told that it was stored."""
    entity, association, number = AE("MODALITY"), None, 0
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context(picture(0).SOPClassUID, "1.2.840.10008.1.2.1")
    while number < count and time.monotonic() < end:
        if association is None or not association.is_established:
            association = entity.associate("127.0.0.1", port, ae_title="GAZESEG")
            if not association.is_established:
                time.sleep(0.1)
                continue
        try:
            answer: Any = association.send_c_store(picture(number))
        except (RuntimeError, ValueError):
            answer = {}
        if "Status" in answer and answer.Status == 0:
            number += 1
        else:
            resent[0] += 1
            if association.is_established:
                association.abort()
    if association is not None and association.is_established:
        association.release()


def disturb(
    node: NodeProcess, service: Service, orthanc: Orthanc, kills: int, pause: float
) -> tuple[dict[str, int], list[float]]:
    killed: Counter[str] = Counter()
    memory: list[float] = []
    for number in range(kills):
        time.sleep(pause)
        assert node.process is not None
        memory.append(psutil.Process(node.process.pid).memory_info().rss / 2**20)
        name = ("node", "service", "orthanc")[number % 3]
        if name == "node":
            node.kill()
            time.sleep(0.2)
            node.start()
        elif name == "service":
            service.kill()
            time.sleep(0.5)
            service.start()
        else:
            orthanc.kill()
            time.sleep(0.5)
            orthanc.start()
        killed[name] += 1
    if node.process is not None and node.process.poll() is not None:
        node.start()  # it could not start while the service was down: what an orchestrator does
    return dict(killed), memory


def settle(orthanc: Orthanc, count: int, end: float, memory: list[float], node: NodeProcess) -> list[str]:
    """Wait until the archive has as many results as images, and no more come."""
    while time.monotonic() < end:
        if node.process is not None and node.process.poll() is not None:
            node.start()
        ids = [item["id"] for item in orthanc.instances("SEG")]
        if len(ids) >= count:
            time.sleep(2)
            break
        time.sleep(0.5)
    if node.process is not None and node.process.poll() is None:
        memory.append(psutil.Process(node.process.pid).memory_info().rss / 2**20)
    return [item["id"] for item in orthanc.instances("SEG")]


def judge(orthanc: Orthanc, ids: list[str], artifact: Path, count: int, outcome: Outcome) -> Outcome:
    """Every image has its one result, and its own mask in it, by the engine asked directly."""
    predictor, of_image = Predictor.open(artifact, "cpu"), Counter[str]()
    wanted = {str((dataset := picture(number)).SOPInstanceUID): dataset for number in range(count)}
    for instance in ids:
        seg = hd.seg.segread(io.BytesIO(orthanc.file(instance)))
        for source in seg.SourceImageSequence:
            uid = str(source.ReferencedSOPInstanceUID)
            of_image[uid] += 1
            mask = predictor.predict(wanted[uid].pixel_array).mask(0.5)
            found = seg.get_pixels_by_source_instance([uid], ignore_spatial_locations=True, combine_segments=True)[0]
            outcome.wrong += not np.array_equal(found, mask) or seg.StudyInstanceUID != wanted[uid].StudyInstanceUID
    outcome.missing = sum(of_image[uid] == 0 for uid in wanted)
    outcome.twice = sum(of_image[uid] > 1 for uid in wanted)
    outcome.dead = len(list((artifact.parent / "spool" / "dead").iterdir()))
    return outcome
