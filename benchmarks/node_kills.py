"""A thousand images into the DICOM node while node, service and archive are killed in turn.

    python benchmarks/node_kills.py --images 1000 --kills 10 --out benchmarks/results/node_kills.json

Needs Debian's orthanc and orthanc-dicomweb. The model is the tests' tiny one, for it is the node that is looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests")]
import node_kills  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two kills")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for all of it")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = node_kills.run(Path(folder), arguments.images, arguments.kills, arguments.pause, arguments.limit)
    arguments.out.write_text(json.dumps(dataclasses.asdict(outcome), indent=2) + "\n")
    print(json.dumps(dataclasses.asdict(outcome)))


if __name__ == "__main__":
    main()
