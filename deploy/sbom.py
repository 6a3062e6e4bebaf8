"""Bills of material of what is shipped, in CycloneDX 1.6: the wheel with its serving extras, and the serving image's packages.

    python deploy/sbom.py --out build/sbom          or: make sbom

`wheel.cdx.json`: the wheel with its sha256, and every package that its extras cpu, serve, dicom and node were locked to, with
the sha256 of each of its files. `image-cpu.cdx.json`: the same packages as they lie installed, as in the image, with licences
and what needs what. Debian's own packages under the image are not in it. Ends with status 1 where the two do not hold the same
packages; packages whose metadata names no licence are told. Needs the package index.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "deploy" / "requirements-cpu.txt"
TOOL = "cyclonedx-bom==7.5.0"
WHEEL_BOM, IMAGE_BOM = "wheel.cdx.json", "image-cpu.cdx.json"


def locked(text: str) -> dict[str, str]:
    """Version by name of a lock file's packages; those for other systems or interpreters, after a `;`, are left out."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+) *(;[^\\]*)?\\", text, re.MULTILINE)
    return {plain(name): version for name, version, marker in pins if not marker or _holds_here(marker)}


def _holds_here(marker: str) -> bool:
    from packaging.markers import Marker

    return Marker(marker.lstrip(";").strip()).evaluate()


def plain(name: str) -> str:
    """A package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(bom: dict[str, Any]) -> dict[str, str]:
    """Version by name of a bill's packages from the index."""
    return {plain(part["name"]): part["version"] for part in bom["components"] if part.get("purl", "").startswith("pkg:pypi/")}


def without_licence(bom: dict[str, Any]) -> list[str]:
    return sorted(part["name"] for part in bom["components"] if not part.get("licenses"))


def name_root(bom: dict[str, Any], version: str, wheel: Path) -> None:
    """Say what the bill is of: the version, and the wheel's own hash."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    root = bom["metadata"]["component"]
    root.update(version=version, hashes=[{"alg": "SHA-256", "content": digest}], purl=f"pkg:pypi/gazeseg-serve@{version}")


def make(out: Path) -> dict[str, Any]:
    """Write both bills into `out`; returns what the last line says. Raises CalledProcessError where a tool fails."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tool, image = Path(scratch) / "tool", Path(scratch) / "image"
        venv.create(tool, with_pip=True)
        venv.create(image, with_pip=False)
        pip = [str(tool / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", TOOL])
        _run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", scratch, str(ROOT)])
        (wheel,) = Path(scratch).glob("*.whl")
        into = [*pip, "--python", str(image / "bin" / "python"), "install", "--quiet"]
        _run([*into, "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)])
        _run([*into, "--no-deps", str(wheel)])
        bills = {}
        for name, arguments in (
            (WHEEL_BOM, ["requirements", str(LOCK)]),
            (IMAGE_BOM, ["environment", str(image / "bin" / "python")]),
        ):
            drawn = Path(scratch) / name
            project = ["--pyproject", str(ROOT / "pyproject.toml"), "--of", "JSON", "--output-reproducible", "-o", str(drawn)]
            _run([str(tool / "bin" / "cyclonedx-py"), *arguments, *project])
            bills[name] = json.loads(drawn.read_text(encoding="utf-8"))
            name_root(bills[name], wheel.name.split("-")[1], wheel)
            aside = out / (name + ".part")
            aside.write_text(json.dumps(bills[name], indent=1) + "\n", encoding="utf-8")
            aside.replace(out / name)
    return compared(bills[WHEEL_BOM], bills[IMAGE_BOM], locked(LOCK.read_text(encoding="utf-8")))


def compared(wheel: dict[str, Any], image: dict[str, Any], lock: dict[str, str]) -> dict[str, Any]:
    """Whether both bills hold the lock's packages, and the installed ones nothing else."""
    installed, listed = packages(image), packages(wheel)
    installed.pop("gazeseg-serve", None)
    hashed = {plain(part["name"]) for part in wheel["components"] if _hashes(part)}
    return {
        "packages": len(lock),
        "installed_and_not_locked": sorted(set(installed.items()) - set(lock.items())),
        "locked_and_not_installed": sorted(set(lock.items()) - set(installed.items())),
        "locked_and_not_listed": sorted(set(lock.items()) - set(listed.items())),
        "without_hash": sorted(set(lock) - hashed),
        "without_licence": without_licence(image),
    }


def _hashes(part: dict[str, Any]) -> list[Any]:
    return [value for reference in part.get("externalReferences", []) for value in reference.get("hashes", [])]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "PYTHONWARNINGS": "ignore"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "sbom")
    report = make(parser.parse_args().out)
    print(json.dumps(report))
    return int(any(report[name] for name in report if "_not_" in name or name == "without_hash"))


if __name__ == "__main__":
    sys.exit(main())
