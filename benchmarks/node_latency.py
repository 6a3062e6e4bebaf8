"""From C-STORE to the segmentation in the archive: one image, and a series of 30, beside the model's own time.

    python benchmarks/node_latency.py --out benchmarks/results/node_latency.json --picture docs/clinical.png

Needs Debian's orthanc and orthanc-dicomweb, and chromium for the picture. The model is the package's; images are the pages'
sample pictures as endoscopy. The quiet time, which a series waits for late images, is a setting and given by itself.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pydicom

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT / "tests")]
from dicom_images import image  # noqa: E402
from nodes import send  # noqa: E402
from orthancs import NodeProcess, Orthanc, archive, free_port, listening  # noqa: E402

from gazeseg_serve.default_model import default_artifact  # noqa: E402
from gazeseg_serve.predictor import Predictor  # noqa: E402

QUIET = 1.0
SAMPLES = sorted((ROOT / "service" / "page").glob("sample*.jpg"))


def endoscopy(study: int, count: int) -> list[pydicom.Dataset]:
    """`count` pictures of one series."""
    made = []
    for number in range(1, count + 1):
        pixels = cv2.imread(str(SAMPLES[number % len(SAMPLES)]), cv2.IMREAD_COLOR)[..., ::-1]
        dataset = image(
            "endoscopy", number, PatientName="Made^Up", PatientID="MADE-UP", StudyDescription="Colonoscopy (made up)"
        )
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.2.11.{study}", f"1.2.11.{study}.1"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.11.{study}.1.{number}"
        dataset.Rows, dataset.Columns = 480, 512
        dataset.PixelData = np.ascontiguousarray(cv2.resize(pixels, (512, 480), interpolation=cv2.INTER_AREA)).tobytes()
        made.append(dataset)
    return made


def file_of(dataset: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def one_way(orthanc: Orthanc, port: int, study: int, count: int) -> float:
    """Seconds from the first C-STORE to the segmentation in the archive."""
    datasets = endoscopy(study, count)
    started = time.perf_counter()
    assert send(port, datasets, "ORTHANC") == [0] * count
    query = {"Level": "Instance", "Query": {"Modality": "SEG", "StudyInstanceUID": f"1.2.11.{study}"}}
    while not orthanc.ask("POST", "/tools/find", json=query).json():
        assert time.perf_counter() - started < 120
        time.sleep(0.01)
    return time.perf_counter() - started


def model_seconds(count: int) -> float:
    """Processor time of the model alone for the same images, in this process."""
    predictor = Predictor.open(default_artifact(), "cpu")
    pixels = [dataset.pixel_array for dataset in endoscopy(1, count)]
    predictor.predict(pixels[0])
    started = time.process_time()
    for frame in pixels:
        predictor.predict(frame).mask(0.5)
    return time.process_time() - started


def processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(orthanc: Orthanc, port: int, repeats: int, node: psutil.Process) -> dict[str, Any]:
    """Wall time, which a busy machine stretches, and the processor time of the node and of the model alone."""
    facts: dict[str, Any] = {"quiet_seconds": QUIET}
    for count in (1, 30):
        one_way(orthanc, port, 900 + count, count)
        before = processor_seconds(node)
        found = statistics.median(one_way(orthanc, port, 100 * count + i, count) for i in range(repeats))
        spent = (processor_seconds(node) - before) / repeats
        alone = statistics.median(model_seconds(count) for _ in range(repeats))
        facts[str(count)] = {
            "seconds": round(found, 3),
            "seconds_without_quiet": round(found - QUIET, 3),
            "node_processor_seconds": round(spent, 3),
            "model_processor_seconds": round(alone, 3),
            "model_share": round(alone / spent, 3),
        }
    return facts


def draw(orthanc: Orthanc, study: int, out: Path, folder: Path) -> None:
    """The explorer's page of a study, and beside it image and segmentation as DICOMweb renders them, one over the other."""
    query = {"Level": "Instance", "Query": {"Modality": "SEG", "StudyInstanceUID": f"1.2.11.{study}"}}
    (found,) = orthanc.ask("POST", "/tools/find", json=query).json()
    seg = pydicom.dcmread(io.BytesIO(orthanc.file(found)))
    source = seg.SourceImageSequence[0].ReferencedSOPInstanceUID
    root = f"{orthanc.web}/studies/{seg.StudyInstanceUID}/series"
    rendered = {
        "image.jpg": f"{root}/1.2.11.{study}.1/instances/{source}/rendered",
        "seg.jpg": f"{root}/{seg.SeriesInstanceUID}/instances/{seg.SOPInstanceUID}/frames/1/rendered",
    }
    for name, url in rendered.items():
        answer = httpx.get(url, headers={"Accept": "image/jpeg"}, timeout=30)
        answer.raise_for_status()
        (folder / name).write_bytes(answer.content)
    query = {"Level": "Study", "Query": {"StudyInstanceUID": f"1.2.11.{study}"}}
    (found,) = orthanc.ask("POST", "/tools/find", json=query).json()
    shot(f"{orthanc.url}/app/explorer.html#study?uuid={found}", folder / "explorer.png", "900,620")
    base, over = (cv2.imread(str(folder / name)) for name in ("image.jpg", "seg.jpg"))
    inside = over.max(axis=2) > 127
    painted = base.copy()
    painted[inside] = (0.6 * base[inside] + 0.4 * np.array((10, 214, 255))).astype(np.uint8)
    rim, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, rim, -1, (10, 214, 255), 2)
    explorer = cv2.imread(str(folder / "explorer.png"))
    height = explorer.shape[0]
    width = round(painted.shape[1] * height / painted.shape[0])
    cv2.imwrite(str(out), np.hstack([explorer, cv2.resize(painted, (width, height), interpolation=cv2.INTER_AREA)]))


def shot(url: str, path: Path, size: str) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}",
         "--virtual-time-budget=10000", f"--screenshot={path}", url],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        with archive(folder / "orthanc", port) as orthanc:
            options = [
                "--port",
                str(port),
                "--to",
                orthanc.web,
                "--quiet",
                str(QUIET),
                "--spool",
                str(folder / "spool"),
                "--reports",
            ]
            node = NodeProcess(options, folder / "node.log")
            node.start()
            try:
                listening(port, node.process, node.log)
                assert node.process is not None
                facts = measure(orthanc, port, arguments.repeats, psutil.Process(node.process.pid))
                if arguments.picture is not None:
                    for dataset in endoscopy(7, 1):
                        orthanc.put(file_of(dataset))
                    one_way(orthanc, port, 7, 1)
                    draw(orthanc, 7, arguments.picture, folder)
            finally:
                node.kill(signal.SIGTERM)
    arguments.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
