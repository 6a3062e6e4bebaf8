"""What is shipped can be looked through: bills of material, the audit's verdict, the card's front matter."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gazeseg_serve.contract import Artifact
from gazeseg_serve.default_model import DEFAULT_MODEL, INT8_MODEL

ROOT = Path(__file__).parent.parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part(name: str, version: str, hashes: int = 1, **more: Any) -> dict[str, Any]:
    """A package of a bill."""
    found = {"name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}", **more}
    return {**found, "externalReferences": [{"hashes": [{"alg": "SHA-256", "content": "00"}] * hashes}]}


LOCK = """\
a-b==1.0 \\
    --hash=sha256:00
colorama==0.4.6 ; sys_platform == 'no such' \\
    --hash=sha256:00
C.d==2 ; python_version >= '3' \\
    --hash=sha256:00
"""


def test_a_lock_names_what_is_for_this_system() -> None:
    assert script("sbom").locked(LOCK) == {"a-b": "1.0", "c-d": "2"}
    everything = script("sbom").locked((ROOT / "deploy/requirements-cpu.txt").read_text())
    assert len(everything) > 80
    assert {"bentoml", "onnxruntime", "numpy"} <= set(everything)
    assert not {"torch", "colorama"} & set(everything)


def test_bills_that_differ_from_the_lock_are_told() -> None:
    sbom = script("sbom")
    lock = {"a-b": "1.0", "c-d": "2"}
    licensed = [{"license": {"id": "MIT"}}]
    wheel = {"components": [part("A_b", "1.0"), part("c.d", "2")]}
    own = part("gazeseg-serve", "0.1", licenses=licensed)
    image = {"components": [part("a-b", "1.0", licenses=licensed), part("c-d", "2"), own]}
    assert sbom.compared(wheel, image, lock) == {
        "packages": 2,
        "installed_and_not_locked": [],
        "locked_and_not_installed": [],
        "locked_and_not_listed": [],
        "without_hash": [],
        "without_licence": ["c-d"],
    }
    other = {"components": [part("a-b", "1.1"), part("c-d", "2", hashes=0), part("x", "3")]}
    told = sbom.compared(other, other, lock)
    assert told["installed_and_not_locked"] == [("a-b", "1.1"), ("x", "3")]
    assert told["locked_and_not_installed"] == told["locked_and_not_listed"] == [("a-b", "1.0")]
    assert told["without_hash"] == ["c-d"]


def test_a_bill_says_what_it_is_of(tmp_path: Path) -> None:
    wheel = tmp_path / "w.whl"
    wheel.write_bytes(b"abc")
    bill: dict[str, Any] = {"metadata": {"component": {"name": "gazeseg-serve"}}}
    script("sbom").name_root(bill, "0.1.0", wheel)
    root = bill["metadata"]["component"]
    # The first example of FIPS 180-2 for SHA-256.
    assert root["hashes"][0]["content"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (root["name"], root["version"]) == ("gazeseg-serve", "0.1.0")


CLEAN = {"dependencies": [{"name": "a", "version": "1", "vulns": []}]}
FLAWED = {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}]}
UNKNOWN = {"dependencies": [{"name": "a", "skip_reason": "not found"}, {"name": "b", "version": "1", "vulns": []}]}


@pytest.mark.parametrize(
    ("pypi", "osv", "status", "words"),
    [
        (CLEAN, None, 0, "pypi: nothing known"),
        (None, CLEAN, 0, "osv: nothing known"),
        (UNKNOWN, CLEAN, 0, "1 packages are not known to it, a for one"),
        (FLAWED, CLEAN, 1, "a 1: CVE-1"),
        (None, FLAWED, 1, "a 1: CVE-1"),
        (None, None, 3, "NOT AUDITED: deploy/requirements-cpu.txt, deploy/requirements-gpu.txt, constraints.txt"),
        (UNKNOWN, None, 3, "NOT AUDITED"),
        (UNKNOWN, UNKNOWN, 3, "NOT AUDITED"),
    ],
)
def test_the_audit_says_when_nothing_was_audited(
    tmp_path: Path, pypi: dict[str, Any] | None, osv: dict[str, Any] | None, status: int, words: str
) -> None:
    """pip-audit played by a program that answers so for each source; None is one that cannot be reached."""
    told = {name: "" if answer is None else json.dumps(answer) for name, answer in (("pypi", pypi), ("osv", osv))}
    player = tmp_path / "pip-audit"
    player.write_text(
        f"#!{sys.executable}\nimport sys\ntold = {told!r}[sys.argv[sys.argv.index('--vulnerability-service') + 1]]\n"
        "print(told)\nsys.exit(not told)\n"
    )
    player.chmod(0o755)
    command = [sys.executable, str(ROOT / "deploy/audit.py"), str(player)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONWARNINGS": "error"})
    assert done.returncode == status, done.stdout + done.stderr
    assert words in done.stdout
    assert ("NOT AUDITED" in done.stdout) == (status == 3)


@pytest.mark.parametrize("folder", [DEFAULT_MODEL, INT8_MODEL], ids=["default", "int8"])
def test_the_card_s_front_matter_says_what_the_gate_measured(folder: Path) -> None:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    (result,) = told["model-index"][0]["results"]
    (metric,) = result["metrics"]
    assert metric["value"] == round(Artifact.load(folder).parity["truth"]["dice_graph"], 4)
    assert (told["pipeline_tag"], told["license"]) == ("image-segmentation", "other")
    assert text.lstrip().startswith("# The default model")
