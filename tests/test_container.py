"""The image, built and run for real: `make container` does both and then these tests, with podman and runc as root."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from artifacts import write_artifact
from serving import encoded, running

from gazeseg_serve.default_model import default_artifact

ROOT = Path(__file__).parents[1]
IMAGE = os.environ.get("GAZESEG_IMAGE", "localhost/gazeseg-serve:cpu")
STORE = Path(os.environ.get("GAZESEG_IMAGE_STORE", ROOT / "build" / "containers"))
pytestmark = pytest.mark.container


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("container", ROOT / "deploy" / "container.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["container"] = module
    spec.loader.exec_module(module)
    return module


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    missing = [tool for tool in ("podman", "runc") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} missing; make container says what to install")
    return load_script()


@pytest.fixture(scope="module")
def container(script: ModuleType) -> Iterator[tuple[str, str]]:
    """(name, URL) of a container with the model of the package, ready."""
    port = free_port()
    with script.running(script.Store(STORE), IMAGE, port) as name:
        script.wait_until_ready(script.Store(STORE), name, port)
        yield name, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def inside(script: ModuleType, container: tuple[str, str]):
    """Run Python code in the container; what it printed."""

    def run(code: str) -> str:
        return script.Store(STORE).podman("exec", container[0], "python3", "-c", code)

    return run


def photographs() -> dict[str, bytes]:
    samples = {path.name: path.read_bytes() for path in sorted((ROOT / "service" / "page").glob("sample*.jpg"))}
    return {**samples, "noise.png": encoded(".png")}


def test_its_answers_are_the_local_ones_byte_for_byte(container: tuple[str, str], tmp_path: Path) -> None:
    # One thread on both sides: how work is split over cores changes the last bits of a sum.
    seen = {}
    with running(default_artifact(), tmp_path) as local:
        for name, photo in photographs().items():
            for output in ("png", "json", "probability", "overlay"):
                here, there = (
                    httpx.post(f"{url}/v1/segment", params={"output": output}, files={"image": photo}, timeout=60)
                    for url in (local.url, container[1])
                )
                assert here.status_code == there.status_code == 200, there.text
                assert here.content == there.content, f"{name} as {output} differs"
                assert here.headers["x-model-id"] == there.headers["x-model-id"]
                seen[name, output] = hashlib.sha256(there.content).hexdigest()
    assert len(set(seen.values())) == len(seen), "different questions must have different answers"


def test_it_runs_without_rights_on_a_root_that_cannot_be_written(inside) -> None:
    facts = json.loads(
        inside("""
import json, os
def writable(path):
    try:
        open(path, "w").close()
    except OSError:
        return False
    return True
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({"uid": os.getuid(), "capabilities": int(status["CapEff"], 16), "no_new": status["NoNewPrivs"],
                  "writable": [path for path in ("/x", "/opt/gazeseg/x", "/models/x", "/home/x", "/tmp/x") if writable(path)]}))
""")
    )
    assert facts == {"uid": 10001, "capabilities": 0, "no_new": "1", "writable": ["/tmp/x"]}


def test_it_holds_no_torch_compiler_or_installer(inside) -> None:
    found = json.loads(
        inside("""
import importlib.util, json, shutil
modules = [m for m in ("torch", "monai", "pydensecrf", "onnx", "pip", "setuptools", "pandas", "polars")
           if importlib.util.find_spec(m)]
print(json.dumps(modules + [tool for tool in ("gcc", "cc", "g++", "make", "pip", "git") if shutil.which(tool)]))
""")
    )
    # What the base's own Python brings is not reachable from the service's environment.
    assert found == []


def test_every_package_in_it_is_of_the_locked_version(inside) -> None:
    lock = (ROOT / "deploy" / "requirements-cpu.txt").read_text()
    locked = {
        line.split("==")[0].lower().replace("_", "-").replace(".", "-"): line.split("==")[1].split()[0]
        for line in lock.splitlines()
        if "==" in line
    }
    code = "import json; from importlib.metadata import distributions as d; print(json.dumps({p.name: p.version for p in d()}))"
    found = json.loads(inside(code))
    installed = {name.lower().replace("_", "-").replace(".", "-"): version for name, version in found.items()}
    assert installed.pop("gazeseg-serve")
    assert {name: locked.get(name) for name in installed} == installed


def test_its_own_health_check_passes(script: ModuleType, container: tuple[str, str]) -> None:
    store = script.Store(STORE)
    config = json.loads(store.podman("image", "inspect", IMAGE))[0]
    assert config["Config"]["StopSignal"] in ("SIGTERM", "15")
    assert config["Config"]["Labels"]["org.opencontainers.image.title"] == "gazeseg-serve"
    command = config["HealthCheck" if "HealthCheck" in config else "Healthcheck"]["Test"]
    assert command[0] == "CMD"
    # The image's check asks its default port; the container here listens on another.
    port = container[1].rpartition(":")[2]
    store.podman("exec", container[0], *(part.replace("3000", port) for part in command[1:]))
    with pytest.raises(SystemExit):
        store.podman("exec", container[0], *(part.replace("3000", "9") for part in command[1:]))


def test_an_artifact_mounted_at_models_is_served(script: ModuleType, tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact")
    for path in (tmp_path, *tmp_path.parents):  # the user of the container is another
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    port, store = free_port(), script.Store(STORE)
    with script.running(store, IMAGE, port, tmp_path / "artifact") as name:
        script.wait_until_ready(store, name, port)
        assert httpx.get(f"http://127.0.0.1:{port}/v1/model").json()["id"] == artifact.id


def test_sigterm_drains_and_ends_with_status_0(script: ModuleType) -> None:
    port, store = free_port(), script.Store(STORE)
    with script.running(store, IMAGE, port) as name:
        script.wait_until_ready(store, name, port)
        start = time.monotonic()
        subprocess.run([*store.command("podman"), "kill", "--signal", "TERM", name], check=True, capture_output=True)
        time.sleep(0.4)
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 503
        assert store.podman("wait", name) == "0"
        assert time.monotonic() - start < 10
