"""The CPUs a process may use: affinity and quotas of both versions of cgroups, with /proc made up for the purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from artifacts import write_artifact

from gazeseg_serve import cpus
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.errors import EngineError

V1 = "32 31 0:29 {root} {mount} rw,relatime - cgroup none rw,cpu,cpuacct\n"
V2 = "41 31 0:38 {root} {mount} rw,nosuid shared:4 - cgroup2 none rw,nsdelegate\n"


def made_up(tmp_path: Path, line: str, kind: str, root: str = "/", groups: dict[str, str] | None = None) -> Path:
    """A process whose cgroup is `line`, of a hierarchy of that kind; groups: text of the quota by the group's path."""
    mount, proc = tmp_path / "mount", tmp_path / "proc"
    for group, text in (groups or {}).items():
        folder = mount / group
        folder.mkdir(parents=True, exist_ok=True)
        if kind == V2:
            (folder / "cpu.max").write_text(text + "\n")
        else:
            for name, value in zip(("cpu.cfs_quota_us", "cpu.cfs_period_us"), text.split(), strict=True):
                (folder / name).write_text(value + "\n")
    proc.mkdir()
    (proc / "cgroup").write_text(line + "\n")
    (proc / "mountinfo").write_text("20 1 0:2 / / rw - ext4 /dev/vda rw,cpu\n" + kind.format(root=root, mount=mount))
    return proc


@pytest.mark.parametrize(("kind", "line"), [(V2, "0::/pod/cri:box"), (V1, "2:cpu,cpuacct:/pod/cri:box")])
@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        ({"pod/cri:box": "200000 100000"}, 2.0),
        ({"pod/cri:box": "50000 100000"}, 0.5),
        ({"pod/cri:box": "-1 100000"}, None),
        ({"pod/cri:box": "400000 100000", "pod": "75000 50000"}, 1.5),  # a pod's own limit holds for all its containers
        ({"pod/cri:box": "-1 100000", "pod": "300000 100000"}, 3.0),
        ({"pod/other": "100000 100000"}, None),
        ({}, None),
    ],
)
def test_the_least_quota_on_the_way_up_holds(
    tmp_path: Path, kind: str, line: str, groups: dict[str, str], wanted: float | None
) -> None:
    written = {group: text.replace("-1", "max") if kind == V2 else text for group, text in groups.items()}
    assert cpus.quota(made_up(tmp_path, line, kind, groups=written)) == wanted


@pytest.mark.parametrize(("root", "line"), [("/pod/box", "0::/pod/box"), ("/pod/box", "0::/"), ("/", "0::/")])
def test_in_a_container_the_mount_is_the_group(tmp_path: Path, root: str, line: str) -> None:
    """With Docker on version 1 the mount's root is the container's group; with a namespace both are `/`."""
    assert cpus.quota(made_up(tmp_path, line, V2, root, {"": "250000 100000"})) == 2.5


def test_other_controllers_say_nothing_of_cpus(tmp_path: Path) -> None:
    proc = made_up(tmp_path, "4:memory:/box\n3:cpuset:/box\n0::/elsewhere", V1, groups={"box": "100000 100000"})
    assert cpus.quota(proc) is None


def test_without_proc_there_is_no_quota(tmp_path: Path) -> None:
    assert cpus.quota(tmp_path) is None


@pytest.mark.parametrize(
    ("affinity", "limit", "wanted"), [(64, None, 64), (64, 2.0, 2), (64, 1.5, 2), (64, 0.2, 1), (3, 8.0, 3), (1, 2.0, 1)]
)
def test_affinity_and_quota_both_bound(
    monkeypatch: pytest.MonkeyPatch, affinity: int, limit: float | None, wanted: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    monkeypatch.setattr(cpus, "quota", lambda: limit)
    assert cpus.available() == wanted


def test_a_system_without_affinity_counts_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(cpus, "quota", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus.available() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.available() == 1


def test_this_process_is_bound_by_its_real_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from gazeseg_serve import cpus; print(cpus.available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("may_use", [1, 3])
def test_an_engine_has_no_more_threads_than_cpus_it_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_use: int
) -> None:
    """Counted in a process of its own, with a machine that claims 64 CPUs."""
    write_artifact(tmp_path)
    code = f"""
import os, threading
import psutil, numpy as np
os.cpu_count = lambda: 64
from gazeseg_serve import cpus
cpus.available = lambda: {may_use}
from pathlib import Path
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
import onnxruntime
before = psutil.Process().num_threads()
engine = OnnxRuntimeEngine(Path({str(tmp_path)!r}) / "model.onnx", "cpu", lanes=True)
engine.run(np.zeros((40, 32, 32, 3), np.uint8))
print(engine.threads, psutil.Process().num_threads() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    threads, started = map(int, done.stdout.split())
    assert threads == may_use
    # A session computes with the thread that calls it and one fewer of its own; the lanes are Python's.
    assert started == (may_use - 1) + (may_use if may_use > 1 else 0)


def test_threads_asked_for_are_taken(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    assert OnnxRuntimeEngine(tmp_path / "model.onnx", "cpu", 5).threads == 5


class Offered:
    """onnxruntime-gpu where the CUDA provider is offered and ends as `told`: it raises, or another provider runs."""

    def __init__(self, real: Any, raises: bool) -> None:
        self.capi, self.SessionOptions, self._real, self._raises = real.capi, real.SessionOptions, real, raises
        self.asked: list[list[str]] = []

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, model: Path, options: Any, providers: list[str]) -> Any:
        self.asked.append(providers)
        if self._raises and "CUDAExecutionProvider" in providers:
            raise self._real.capi.onnxruntime_pybind11_state.Fail("CUDA failure 100: no CUDA-capable device is detected")
        return self._real.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("raises", [True, False])
def test_auto_goes_on_with_the_cpu_and_says_so_where_a_gpu_is_offered_and_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, raises: bool
) -> None:
    write_artifact(tmp_path)
    offered = Offered(onnxruntime, raises)
    monkeypatch.setattr("gazeseg_serve.engines.onnxruntime.require", lambda *_: offered)
    with caplog.at_level("WARNING", logger="gazeseg_serve"):
        engine = OnnxRuntimeEngine(tmp_path / "model.onnx", "auto", 2, lanes=True)
    assert engine.name == "onnxruntime-cpu"
    assert offered.asked[0] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert all(providers == ["CPUExecutionProvider"] for providers in offered.asked[1:])
    (record,) = caplog.records
    assert "running on the CPU" in record.getMessage()
    images = np.full((3, 32, 32, 3), 51, np.uint8)
    np.testing.assert_allclose(engine.run(images).probability, 0.2, rtol=1e-5)
    with pytest.raises(EngineError, match="cuda"):  # who asks for a GPU gets one, or an error
        OnnxRuntimeEngine(tmp_path / "model.onnx", "cuda")


def test_a_broken_model_is_an_error_on_any_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot run"):
        OnnxRuntimeEngine(tmp_path / "model.onnx", "auto")
    monkeypatch.setattr("gazeseg_serve.engines.onnxruntime.require", lambda *_: Offered(onnxruntime, True))
    with pytest.raises(EngineError, match="cannot run"):
        OnnxRuntimeEngine(tmp_path / "model.onnx", "auto")
