"""Bulk segmentation on a real Ray cluster of this machine: two workers, of which one is killed half-way."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from artifacts import write_artifact

from gazeseg_serve.bulk import MaskOptions, predict_files

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
IMAGES = 96


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    pytest.importorskip("ray.data")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        ray.init(address=made.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


def photos(folder: Path, number: int, size: int = 700) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(5)
    for i in range(number):
        small = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"image{i:03d}.png"), cv2.resize(small, (size + i, size)))
    return folder


def holds_an_engine(node) -> bool:
    """Whether an actor of the segmentation runs on this node of the cluster."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any("MapWorker" in " ".join(child.cmdline()) for child in raylet.children(recursive=True))


def test_a_block_without_a_row_has_no_answer(tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    from gazeseg_serve.bulk_ray import _Worker

    write_artifact(tmp_path)
    answers = _Worker(str(tmp_path), [], "cpu", MaskOptions())({})
    assert {name: len(column) for name, column in answers.items()} == {"number": 0, "error": 0}


def test_a_worker_killed_half_way_loses_nothing_and_doubles_nothing(cluster, tmp_path: Path) -> None:
    from gazeseg_serve.bulk_ray import predict_on_ray

    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    folder, artifact = photos(tmp_path / "photos", IMAGES), tmp_path / "artifact"
    write_artifact(artifact)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    out, killed_at = tmp_path / "out", []

    def kill_one_half_way() -> None:
        end = time.monotonic() + 240
        while time.monotonic() < end:
            done = len(list(out.glob("image*.png")))
            busy = [node for node in nodes if holds_an_engine(node)]
            if done >= IMAGES // 3 and busy:
                cluster.remove_node(busy[-1], allow_graceful=False)
                killed_at.append(done)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one_half_way)
    killer.start()
    summary = predict_on_ray(artifact, [folder], out, actors=2)
    killer.join()

    assert killed_at, "the worker was never killed"
    assert killed_at[0] < IMAGES, "the work was over before the worker was killed"
    assert list(summary.failures) == [str(folder / "broken.png")]
    assert summary.written == IMAGES
    predict_files(artifact, [folder], tmp_path / "local")
    masks = {path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == masks, "every mask once, no half-written file"

    # Going on: what is there is left alone, what was lost is made again, what failed is retried once it is mended.
    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "image007.png"}
    (out / "image007.png").unlink()
    (folder / "broken.png").write_bytes((folder / "image001.png").read_bytes())
    again = predict_on_ray(artifact, [folder], out, actors=1)
    assert (again.written, again.failures) == (2, {})
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "broken.png").read_bytes() == masks["image001.png"]
