"""Read every DICOM file that pydicom ships, compare with what DCMTK makes of it, and print a table for docs/dicom.md.

python benchmarks/dicom_against_dcmtk.py          needs apt-get install dcmtk
"""

from __future__ import annotations

import argparse
import collections
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pydicom

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests")]

import dcmtk  # noqa: E402

from gazeseg_serve.dicom import decode_frames, is_dicom, layout_of, read_dataset  # noqa: E402
from gazeseg_serve.errors import ImageError  # noqa: E402
from gazeseg_serve.pixels import DEFAULT_LIMITS  # noqa: E402


def files() -> Iterator[bytes]:
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        if path.is_file() and is_dicom(data := path.read_bytes()):
            yield data


def compare(data: bytes) -> tuple[str, str]:
    """The kind of file, or why it was refused; and the greatest difference of its frames in grey levels, or "refused"."""
    try:
        dataset = read_dataset(data, DEFAULT_LIMITS)
        frames = list(decode_frames(dataset))
    except ImageError as error:
        return str(error).partition(";")[0], "refused"
    layout = layout_of(dataset)
    sign = " signed" if layout.signed else ""
    kind = f"{pydicom.uid.UID(layout.syntax).name.partition(' (')[0]} | {layout.photometric}, {layout.stored} bit{sign}"
    differences = []
    for index, frame in enumerate(frames):
        rendered = dcmtk.render(data, index)
        if isinstance(rendered, str):
            return kind, "not read by DCMTK"
        differences.append(dcmtk.difference(frame, rendered))
    return kind, str(max(differences))


def masks(url: str) -> str:
    """Segment every file on the command line and over HTTP. Raises AssertionError where the two do not agree."""
    import httpx

    same = refused = 0
    with tempfile.TemporaryDirectory() as name, httpx.Client(base_url=url, timeout=60) as client:
        folder, out = Path(name) / "images", Path(name) / "masks"
        folder.mkdir()
        sources = list(files())
        for number, data in enumerate(sources):
            (folder / f"{number:03}.dcm").write_bytes(data)
        program = str(Path(sys.executable).with_name("gazeseg-serve"))
        command = [program, "predict", str(folder), "--out", str(out), "--force"]
        subprocess.run(command, capture_output=True, check=False)  # it ends with 1, since files without pixels are skipped
        for number, data in enumerate(sources):
            answer = client.post("/v1/segment?force=true", content=data, headers={"Content-Type": "application/dicom"})
            written = out / f"{number:03}.png"
            if written.exists():
                theirs = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
                assert np.array_equal(cv2.imread(str(written), cv2.IMREAD_UNCHANGED), theirs), number
                same += 1
            else:
                assert answer.status_code in (400, 413, 415), answer.text
                refused += 1
    return f"{same} files have the same mask on the command line and over HTTP, {refused} are refused by both"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a service with the model of the package, to compare masks")
    options = parser.parse_args()
    kinds: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    refused: collections.Counter[str] = collections.Counter()
    for data in files():
        kind, result = compare(data)
        if result == "refused":
            refused[kind] += 1
        else:
            kinds[kind][result] += 1
    print("| transfer syntax | pixels | files | greatest difference |\n|---|---|---|---|")
    for kind, results in sorted(kinds.items()):
        print(f"| {kind} | {results.total()} | {', '.join(sorted(results))} |")
    print("\n| refused, because | files |\n|---|---|")
    for reason, count in refused.most_common():
        print(f"| {reason} | {count} |")
    if options.url:
        print("\n" + masks(options.url))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
