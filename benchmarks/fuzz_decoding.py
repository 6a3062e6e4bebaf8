"""Mutate image files of every kind, decode each, and count what comes of it.

    python benchmarks/fuzz_decoding.py --cases 20000 --seed 1

The corpus is a small file of every kind that is read, and those that pydicom ships, up to 100 kB each. Nothing may come out of
the decoder but an image or an error of ours, in little time and memory. Ends with status 1 where something else does, or where
the process that decodes dies, which native code can. The seed and the number of a case make it again: --first N --cases 1.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import random
import resource
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from fuzzing import mutate_image, seed_corpus  # noqa: E402

from gazeseg_serve.dicom import decode_frames, is_dicom, read_dataset  # noqa: E402
from gazeseg_serve.errors import GazesegError  # noqa: E402
from gazeseg_serve.imaging import decode_image  # noqa: E402
from gazeseg_serve.pixels import Limits  # noqa: E402

LARGEST = 100_000  # bytes of a file of the corpus
_PIXEL_DATA = b"\xe0\x7f\x10\x00"  # its tag, in little endian
LIMITS = Limits(max_pixels=10_000_000)


def corpus() -> dict[str, bytes]:
    import pydicom

    root = Path(pydicom.__file__).parent / "data"
    files = seed_corpus()
    for path in sorted(root.rglob("*")):
        if (
            path.is_file()
            and path.stat().st_size <= LARGEST
            and is_dicom(data := path.read_bytes())
            and b"\xe0\x7f\x10\x00" in data
        ):
            files[f"pydicom {path.name}"] = data
    return files


def decode(data: bytes, dtype: str) -> None:
    if is_dicom(data):
        for _ in decode_frames(read_dataset(data, LIMITS), dtype):
            pass
    else:
        decode_image(data, 3, LIMITS, dtype)


def work(seed: int, first: int, last: int, results: Connection) -> None:
    """Send the number of each case before it, and its outcome after."""
    files = corpus()
    names = sorted(files)
    for name in names:  # what is imported and allocated once is no growth
        try:
            decode(files[name], "uint8")
        except GazesegError:
            continue
    started_with = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, last):
        results.send(number)
        rng = random.Random(f"{seed}/{number}")
        name = rng.choice(names)
        data, outcome, started = mutate_image(files[name], rng), "decoded", time.process_time()
        try:
            decode(data, rng.choice(("uint8", "float32")))
        except GazesegError as error:
            outcome = type(error).__name__
        except Exception:  # noqa: BLE001 - what escapes is what this looks for
            outcome = "escaped: " + traceback.format_exc()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started_with) / 1024
        results.send((name, outcome, time.process_time() - started, grown))
    results.send(None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for the report")
    options = parser.parse_args()
    report = run(options.seed, options.first, options.first + options.cases)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return bool(report["escaped"] or report["deaths"])


def run(seed: int, first: int, last: int) -> dict[str, Any]:
    outcomes: collections.Counter[str] = collections.Counter()
    escaped, deaths, slowest, grown, number = [], [], (0.0, -1, ""), 0.0, first
    while number < last:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.get_context("spawn").Process(target=work, args=(seed, number, last, sender))
        worker.start()
        sender.close()
        try:
            while (message := receiver.recv()) is not None:
                if isinstance(message, int):
                    number = message
                    continue
                name, outcome, seconds, more = message
                outcomes[outcome.partition(":")[0]] += 1
                slowest, grown = max(slowest, (round(seconds, 3), number, name)), max(grown, more)
                if outcome.startswith("escaped"):
                    escaped.append({"case": number, "file": name, "error": outcome})
            number = last
        except EOFError:
            deaths.append({"case": number, "exit": worker.exitcode})
            number += 1
        worker.join()
    return {
        "seed": seed,
        "cases": last - first,
        "outcomes": dict(outcomes),
        "escaped": escaped[:20],
        "deaths": deaths,
        "slowest": {"cpu_seconds": slowest[0], "case": slowest[1], "file": slowest[2]},
        "peak_memory_grew_mib": round(grown),
    }


if __name__ == "__main__":
    sys.exit(main())
