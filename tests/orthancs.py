"""A real Orthanc on loopback, of Debian's packages, for the tests of the node."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[1]
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@dataclass
class Orthanc:
    """One archive; `start` and `kill` as often as wanted, its storage stays."""

    folder: Path
    node_port: int
    scripts: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    user: tuple[str, str] | None = None
    http_port: int = field(default_factory=free_port)
    dicom_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def web(self) -> str:
        return self.url + "/dicom-web"

    def start(self) -> None:
        program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Name": "test", "StorageDirectory": str(self.folder / "storage"), "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [str(DICOMWEB)], "HttpPort": self.http_port, "DicomPort": self.dicom_port, "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "OverwriteInstances": True, "StableAge": 1,
            "DicomModalities": {"gazeseg": ["GAZESEG", "127.0.0.1", self.node_port]}, "DicomAlwaysAllowStore": True,
            "DicomCheckCalledAet": False, "ExecuteLuaEnabled": True, "SaveJobs": True, "StorageCompression": False,
            "LuaScripts": [str(ROOT / "deploy" / "orthanc" / name) for name in self.scripts],
            **self.changes,
        }  # fmt: skip
        (self.folder / "orthanc.json").write_text(json.dumps(settings))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, str(self.folder / "orthanc.json")],
                stdout=log,
                stderr=log,
                env={**os.environ, "GAZESEG_STATE": str(self.folder), **self.environment},
            )
        end = time.monotonic() + 60
        while True:
            try:
                if self.ask("GET", "/system", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)

    def get(self, path: str) -> Any:
        return self.ask("GET", path).json()

    def ask(self, method: str, path: str, timeout: float = 120, **arguments: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=timeout, auth=self.user, **arguments)

    def put(self, content: bytes) -> None:
        self.ask("POST", "/instances", content=content).raise_for_status()

    def sweep(self) -> None:
        """What a timer does where Orthanc has no heartbeat of its own."""
        self.ask("POST", "/tools/execute-script", content="gazeseg_sweep()")

    def instances(self, modality: str) -> list[dict[str, Any]]:
        """Study, series and instance UIDs, Orthanc's id and the file of every instance of a modality."""
        found = self.ask(
            "POST", "/tools/find", json={"Level": "Instance", "Query": {"Modality": modality}, "Expand": True}
        ).json()
        return [{"id": item["ID"], "series": item["ParentSeries"]} for item in found]

    def file(self, instance: str) -> bytes:
        return self.ask("GET", f"/instances/{instance}/file").content


@contextmanager
def archive(folder: Path, node_port: int, **options: Any) -> Iterator[Orthanc]:
    if shutil.which("Orthanc") is None and not Path("/usr/sbin/Orthanc").exists():
        pytest.skip("no Orthanc (apt-get install orthanc orthanc-dicomweb)")
    if not DICOMWEB.exists():
        pytest.skip("no DICOMweb plugin (apt-get install orthanc-dicomweb)")
    made = Orthanc(folder, node_port, **options)
    made.start()
    try:
        yield made
    finally:
        made.kill()


@dataclass
class NodeProcess:
    """`gazeseg-serve node` as a process of its own."""

    arguments: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gazeseg_serve", "node", *self.arguments], stdout=log, stderr=log
            )

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)


def listening(port: int, process: subprocess.Popen[bytes] | None, log: Path) -> None:
    """Wait until a port is listened on."""
    end = time.monotonic() + 120
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            assert process is None or process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
