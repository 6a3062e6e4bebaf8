"""Known vulnerabilities in what the image installs and in everything the tests run with, from whichever source answers.

    python deploy/audit.py PIP_AUDIT          or: make audit

Two sources of advisories, PyPI's own records and OSV, are asked in turn for each list. Status 0: a source knew every package
and had nothing against any. 1: a package has a known vulnerability. 3: no source could be reached that knows all packages of
a list, so that list was **not audited**, which the last line says in as many words.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LISTS = {
    "deploy/requirements-cpu.txt": ["--require-hashes"],
    "deploy/requirements-gpu.txt": ["--require-hashes"],
    "constraints.txt": ["--no-deps"],
}
SOURCES = ("pypi", "osv")
_SECONDS = 300


def verdict(answer: str) -> tuple[list[str], list[str]]:
    """(vulnerabilities as `package version: id`, packages that the source did not know) of pip-audit's JSON.

    Raises ValueError where it is none.
    """
    found: dict[str, Any] = json.loads(answer)
    if not isinstance(found, dict) or "dependencies" not in found:
        raise ValueError("no answer of pip-audit")
    bad = [
        f"{part['name']} {part['version']}: {flaw['id']}" for part in found["dependencies"] for flaw in part.get("vulns", [])
    ]
    return bad, [part["name"] for part in found["dependencies"] if "skip_reason" in part]


def ask(pip_audit: str, file: str, source: str) -> tuple[list[str], str]:
    """(vulnerabilities, why the list was not audited, "" where it was)."""
    command = [pip_audit, "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    command += ["--vulnerability-service", source, *LISTS[file], "-r", str(ROOT / file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        bad, unknown = verdict(done.stdout)
    except subprocess.TimeoutExpired:
        return [], f"no answer in {_SECONDS} s"
    except ValueError:
        return [], "could not be reached"
    return bad, f"{len(unknown)} packages are not known to it, {unknown[0]} for one" if unknown else ""


def main() -> int:
    flaws: list[str] = []
    missing = []
    for file in LISTS:
        for source in SOURCES:
            bad, reason = ask(sys.argv[1], file, source)
            flaws += [f"{file}: {flaw}" for flaw in bad]
            print(f"{file}: {source}: {reason or ('known vulnerabilities' if bad else 'nothing known')}", flush=True)
            if not reason:
                break
        else:
            missing.append(file)
    for flaw in sorted(set(flaws)):
        print(flaw)
    if missing:
        print(f"NOT AUDITED: {', '.join(missing)}; no source of advisories could be reached that knows all its packages")
    return 1 if flaws else 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
