"""The client against a real service, and against one that misbehaves."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from artifacts import write_artifact
from dicoms import dicom_file
from serving import PIXELS, Running, encoded, running

from gazeseg_serve.client import AsyncClient, Client, Mask, ServiceError
from gazeseg_serve.predictor import Predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    write_artifact(folder / "zones", classes=("zone", "core"), disagreement=False)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        folder, tmp_path_factory.mktemp("service"), GAZESEG_API_KEYS="secret", GAZESEG_MODELS=f"zones={folder / 'zones'}"
    ) as service:
        yield service


def test_paths_bytes_and_arrays_give_the_same_mask(service: Running, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded())
    expected = Predictor.open(folder, "cpu").predict(PIXELS).mask(0.4)
    with Client(service.url, api_key="secret") as client:
        for source in (path, str(path), encoded(), PIXELS):
            mask = client.segment(source, threshold=0.4)
            np.testing.assert_array_equal(mask.labels, expected)
            assert mask.labels.dtype == np.uint8
            assert mask.seconds["engine"] >= 0
        assert mask.model == client.model()["id"]


def test_describe_and_arrays_agree_with_the_mask(service: Running) -> None:
    with Client(service.url, api_key="secret") as client:
        mask = client.segment(PIXELS)
        arrays = client.arrays(PIXELS, disagreement=True)
        assert client.describe(PIXELS)["classes"][0]["area"] == mask.labels.sum()
    np.testing.assert_array_equal(arrays["mask"], mask.labels)
    assert arrays["disagreement"].shape == mask.labels.shape


def test_a_named_model_gives_its_labels(service: Running, folder: Path) -> None:
    with Client(service.url, api_key="secret", model="zones") as client:
        labels = client.segment(PIXELS).labels
        assert client.model()["name"] == "zones"
    np.testing.assert_array_equal(labels, Predictor.open(folder / "zones", "cpu").predict(PIXELS).mask())


def test_the_async_client_sends_many_at_once(service: Running) -> None:
    async def scenario() -> list[np.ndarray]:
        async with AsyncClient(service.url, api_key="secret") as client:
            masks = await asyncio.gather(*[client.segment(PIXELS[: 10 + i]) for i in range(20)])
            assert (await client.describe(PIXELS))["size"] == [48, 80]
            assert (await client.arrays(PIXELS))["mask"].shape == (48, 80)
            return [mask.labels for mask in masks]

    assert [labels.shape[0] for labels in asyncio.run(scenario())] == [10 + i for i in range(20)]


def test_refusals_keep_their_status_and_code(service: Running) -> None:
    with Client(service.url, api_key="secret") as client, pytest.raises(ServiceError, match="not an image") as caught:
        client.segment(b"junk")
    assert (caught.value.status, caught.value.code) == (415, "unsupported-image")
    with Client(service.url, api_key="other") as client, pytest.raises(ServiceError) as caught:
        client.segment(PIXELS)
    assert caught.value.status == 401


def test_overlay_seg_and_batch_come_as_values(service: Running, folder: Path) -> None:
    pytest.importorskip("highdicom")
    import pydicom

    slices = [dicom_file(i, np.full((20, 30), 100 * i, np.uint16)) for i in (1, 2)]
    with Client(service.url, api_key="secret") as client:
        overlay = client.overlay(PIXELS)
        assert (overlay.shape, overlay.dtype) == (PIXELS.shape, np.uint8)
        assert (overlay != PIXELS).any()
        assert pydicom.dcmread(io.BytesIO(client.dicom_seg(slices[0]))).Modality == "SEG"
        assert pydicom.dcmread(io.BytesIO(client.dicom_seg(slices))).NumberOfFrames == 2
        assert pydicom.dcmread(io.BytesIO(client.dicom_sr(slices, force=True))).Modality == "SR"
        first, bad, last = client.batch([PIXELS, b"junk", PIXELS[:10]], threshold=0.4)
        assert client.models() == ["default", "zones"]
    expected = Predictor.open(folder, "cpu").predict(PIXELS).mask(0.4)
    assert isinstance(first, Mask)
    assert isinstance(last, Mask)
    np.testing.assert_array_equal(first.labels, expected)
    assert last.labels.shape == (10, 80)
    assert first.model == client_id(service)
    assert isinstance(bad, ServiceError)
    assert (bad.status, bad.code) == (415, "unsupported-image")


def client_id(service: Running) -> str:
    with Client(service.url, api_key="secret") as client:
        return str(client.model()["id"])


def test_the_client_loads_neither_torch_nor_bentoml() -> None:
    code = (
        "import sys, gazeseg_serve.client as c; c.Client('http://x').close(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'bentoml', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
