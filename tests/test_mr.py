"""The whole path on 16-bit MR slices in DICOM, z-scored: one class, as NCI prostate; gaze is simulated.

The slices hold one bright pixel, beside which all of the anatomy lies within one step of 8 bit: what is learnt and found
of it got through reading, training, the graph and the service at full depth.
"""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import cv2
import fake_tensorrt
import numpy as np
import pydicom
import pytest
import torch
from artifacts import write_artifact
from dicoms import dicom_file, enhanced_file
from serving import serve, wait_until_ready
from tiny import tiny_config

from gazeseg_serve.bulk import predict_files
from gazeseg_serve.contract import Artifact, InputSpec, Run, graph_inputs
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.dicom import decode_frames, read_dataset
from gazeseg_serve.engines.base import Engine
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.openvino import OpenVinoEngine, has_bf16
from gazeseg_serve.engines.tensorrt import TensorRtEngine
from gazeseg_serve.engines.tensorrt_plan import build_plan, check_plan, this_machine
from gazeseg_serve.errors import ContractError, DatasetError, MalformedImage
from gazeseg_serve.export.fuse import FusedEnsemble
from gazeseg_serve.export.onnx_graph import write_onnx
from gazeseg_serve.export.parity import check_declaration, eager_ensemble
from gazeseg_serve.export.pipeline import export_run
from gazeseg_serve.export.quantize import to_fp16
from gazeseg_serve.export.triton import triton_config
from gazeseg_serve.imaging import decode_image, read_image
from gazeseg_serve.pixels import DEFAULT_LIMITS, resize_image
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.service.settings import Settings
from gazeseg_serve.training.gaze.fixations import ScanPath, write_fixations
from gazeseg_serve.training.gaze.simulate import simulate_gaze
from gazeseg_serve.training.learning.augment import Augmenter
from gazeseg_serve.training.learning.config import Augment
from gazeseg_serve.training.learning.data import pack_gaze
from gazeseg_serve.training.learning.distill import augmented
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.masks.folder import load_map
from gazeseg_serve.training.masks.make import make_masks
from gazeseg_serve.training.masks.settings import MaskSettings
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble
from gazeseg_serve.training.scoring.evaluate import evaluate


def slices(root: Path, classes: tuple[str, ...]) -> Path:
    """A dataset folder of 10 slices, 40 x 48: a disc in a ring, within 200 of 65535; with one class both are that class."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    paths, sizes = {}, {}
    for i in range(10):
        generator, (y, x) = np.random.default_rng(i), np.mgrid[:40, :48]
        distance = np.hypot(y - generator.uniform(14, 26), x - generator.uniform(14, 34))
        labels = np.where(distance < 6, 1, np.where(distance < 11, len(classes), 0)).astype(np.uint8)
        pixels = np.array([1040, 1140, 1090])[np.where(distance < 6, 1, np.where(distance < 11, 2, 0))]
        pixels = (pixels + generator.normal(0, 5, pixels.shape)).clip(1029, 1156).astype(np.uint16)
        pixels[0, :2] = 0, 65535
        stem = f"slice_{i}"
        (root / "images" / f"{stem}.dcm").write_bytes(dicom_file(i + 1, pixels))
        cv2.imwrite(str(root / "masks" / f"{stem}.png"), labels)
        scans = [simulate_gaze(labels == c, np.random.default_rng((i, c))) for c in range(1, len(classes) + 1)]
        label = np.concatenate([np.full(len(scan), c) for c, scan in enumerate(scans, start=1)])
        paths[stem] = ScanPath(
            *(np.concatenate([getattr(scan, name) for scan in scans]) for name in ("x", "y", "duration")), label
        )
        sizes[stem] = labels.shape
    write_fixations(root / "fixations.csv", paths, sizes, classes)
    return root


@pytest.mark.parametrize("classes", [("prostate",)], ids=["one class"])
def test_gaze_to_the_mask_of_a_dicom_slice(classes: tuple[str, ...], tmp_path: Path) -> None:
    data = slices(tmp_path / "data", classes)
    make_masks(data, tmp_path / "masks", MaskSettings(sigma=50, crf=None, classes=classes), jobs=1)
    assert np.unique(read_image(data / "images" / "slice_0.dcm", 1)).tolist() == [0, 4, 255]  # in 8 bit there is nothing
    assert load_map(tmp_path / "masks", "slice_0", refined=False).shape == ((40, 48) if len(classes) == 1 else (2, 40, 48))
    config = tiny_config(
        "data.channels=1",
        "data.normalisation=zscore",
        f"data.classes={list(classes)}",
        "optimiser.steps=25",
        "optimiser.batch=8",
        "augment.rotate=0.0",
        "evaluate_every=25",
        "checkpoint_every=25",
    )
    train(config, data, tmp_path / "masks", tmp_path / "run", device="cpu")
    run = Run.load(tmp_path / "run")
    assert run.input.classes == classes
    assert (run.input.normalisation, run.input.dtype) == ("zscore", "float32")

    evaluation = evaluate(tmp_path / "run", data, "val", tmp_path / "scores")
    assert evaluation.members() == ("level 1", "level 2", "ensemble")
    assert evaluation.values("ensemble", "dice").mean() > 0.2  # it learnt where to look; chance is 0.1
    export_run(tmp_path / "run", tmp_path / "artifact", data)
    artifact = Artifact.load(tmp_path / "artifact")
    assert artifact.input == run.input
    assert artifact.inputs[0].dtype == "float32"
    assert artifact.parity["max_difference"] < 1e-3
    graph = evaluate(tmp_path / "artifact", data, "val")
    np.testing.assert_allclose(graph.values("artifact", "dice"), evaluation.values("ensemble", "dice"), atol=1e-3)

    stem = run.splits["val"][0]
    summary = predict_files(tmp_path / "artifact", [data / "images" / f"{stem}.dcm"], tmp_path / "predicted", None, "cpu")
    assert (summary.written, summary.failures) == (1, {})
    mask = cv2.imread(str(tmp_path / "predicted" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (40, 48)
    predictor = Predictor.open(tmp_path / "artifact", "cpu")
    image = read_image(data / "images" / f"{stem}.dcm", 1, dtype="float32")
    wanted = predictor.predict(image).mask()
    assert mask.any()
    np.testing.assert_array_equal(mask > 0, wanted > 0)
    np.testing.assert_array_equal(predictor.predict(7000 * image - 3000).mask(), wanted)  # no scale, no offset

    content = (data / "images" / f"{stem}.dcm").read_bytes()
    with serve(Settings(artifact=tmp_path / "artifact")) as client:
        wait_until_ready(client)
        png = client.post("/v1/segment", files={"image": content}).content
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) > 0, wanted > 0)
        overlay = client.post("/v1/segment?output=overlay", files={"image": content}).content
        shown = cv2.imdecode(np.frombuffer(overlay, np.uint8), cv2.IMREAD_COLOR)
        assert (shown[0, 1] == 255).all()  # the picture is of the 8-bit view
        seg = client.post("/v1/segment?output=dicom-seg", files={"image": content})
        assert pydicom.dcmread(io.BytesIO(seg.content)).pixel_array.sum() == np.count_nonzero(wanted)


def test_what_reading_keeps(tmp_path: Path) -> None:
    """DICOM at full depth: rescaled, not windowed, MONOCHROME1 inverted; a 16-bit PNG the same; shrunk as floats."""
    pixels = np.random.default_rng(0).integers(0, 4096, (32, 40)).astype(np.uint16)
    pixels[0, :2] = 0, 4095
    unit = (pixels / 4095).astype(np.float32)[..., None]
    plain = dicom_file(1, pixels, RescaleSlope="3", RescaleIntercept="-1024", WindowCenter="40", WindowWidth="80")
    np.testing.assert_allclose(decode_image(plain, 1, dtype="float32"), unit, atol=1e-7)
    inverted = dicom_file(1, pixels, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(decode_image(inverted, 1, dtype="float32"), 1 - unit, atol=1e-7)
    frames = list(decode_frames(read_dataset(enhanced_file(np.stack([pixels, pixels // 2])), DEFAULT_LIMITS), "float32"))
    np.testing.assert_allclose(frames[0], unit, atol=1e-7)
    assert len(np.unique(frames[1])) == len(np.unique(pixels // 2))
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    cv2.imwrite(str(tmp_path / "a.tif"), pixels)
    for suffix in (".png", ".tif"):
        read = read_image(tmp_path / f"a{suffix}", 1, dtype="float32")
        np.testing.assert_allclose(read, unit, atol=1e-7)
        blocks = unit[..., 0].reshape(16, 2, 20, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(resize_image(read, (16, 20))[..., 0], blocks, atol=1e-6)
    assert read_image(tmp_path / "a.png", 3, dtype="float32").shape == (32, 40, 3)
    flat = dicom_file(1, np.full((8, 8), 500, np.uint16))
    np.testing.assert_array_equal(decode_image(flat, 1, dtype="float32"), np.zeros((8, 8, 1), np.float32))
    with pytest.raises(MalformedImage, match="not finite"):
        decode_image(dicom_file(1, pixels, RescaleSlope="1e307", RescaleIntercept="0"), 1, dtype="float32")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "plan"])
def test_graphs_keep_the_depth(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw 16-bit values, of which the last seven bits matter, through the graph of each precision and a TensorRT plan."""
    spec = InputSpec(32, 1, normalisation="zscore")
    ensemble, model = Ensemble(Architecture(4, "group", 1), spec, (0, 1)).eval(), tmp_path / "model.onnx"
    for network in ensemble.networks:
        torch.nn.init.normal_(network.classifier.weight, std=5, generator=torch.Generator().manual_seed(0))
    write_onnx(FusedEnsemble(ensemble), spec, True, model)
    check_declaration(model, spec, True)
    if precision == "fp16":
        to_fp16(model)
    if precision == "bf16" and not has_bf16():
        pytest.skip("this CPU has no bf16 arithmetic")
    engine: Engine = OpenVinoEngine(model, "bf16") if precision == "bf16" else OnnxRuntimeEngine(model, "cpu")
    if precision == "plan":
        monkeypatch.setenv("GAZESEG_PLAN_CACHE", str(tmp_path))
        fake_tensorrt.install(monkeypatch, fake_tensorrt.Gpu())
        plan = build_plan(model, "fp32", this_machine())
        check_plan(plan, model, spec, "fp32")
        engine = TensorRtEngine(plan, spec.dtype)
    images = (60000 + np.random.default_rng(0).integers(0, 128, (3, 32, 32, 1))).astype(np.float32)
    found, wanted = engine.run(images), eager_ensemble(ensemble)(images - 60000)
    assert wanted.probability.std() > 0.05  # it says something of them
    np.testing.assert_allclose(found.probability, wanted.probability, atol=0.05 if "16" in precision else 2e-3)
    assert np.isfinite(engine.run(np.zeros_like(images)).probability).all()  # which a warm-up sends
    view = augmented(Augmenter(Augment(noise=0.02)), images / 65535, seed=0)  # what a student is shown
    assert view.dtype == torch.float32
    assert len(view.unique()) > 1000


def test_folders_of_before_the_dtype_are_used_as_they_were_written(tmp_path: Path, tiny_run: Path) -> None:
    """A z-scored run that names no dtype learnt from 8 bit, and goes on so."""
    facts = json.loads((tiny_run / "run.json").read_text())
    facts["input"] |= {"normalisation": "zscore"}
    del facts["input"]["dtype"]
    for level in facts["levels"]:
        (tmp_path / level["weights"]).write_bytes((tiny_run / level["weights"]).read_bytes())
    (tmp_path / "run.json").write_text(json.dumps(facts))
    run = Run.load(tmp_path)
    assert run.input.dtype == "uint8"
    assert graph_inputs(run.input)[0].dtype == "uint8"
    with pytest.raises(ContractError, match="float32"):
        InputSpec(32, dtype="float32")


def test_the_manifest_and_triton_name_the_dtype(tmp_path: Path) -> None:
    spec = InputSpec(32, 1, normalisation="zscore")
    artifact = dataclasses.replace(write_artifact(tmp_path), input=spec, inputs=graph_inputs(spec))
    artifact.save(tmp_path)
    assert Artifact.load(tmp_path).inputs[0].dtype == "float32"
    assert 'input { name: "image" data_type: TYPE_FP32 dims: [ 32, 32, 1 ] }' in triton_config(artifact, "mr", 8, 0)
    dataclasses.replace(artifact, inputs=graph_inputs(InputSpec(32))).save(tmp_path)
    with pytest.raises(ContractError, match=r"uint8.*float32"):
        Artifact.load(tmp_path)


def test_masks_of_other_classes_are_refused(tmp_path: Path) -> None:
    data = slices(tmp_path / "data", ("wall", "cavity"))
    make_masks(data, tmp_path / "masks", MaskSettings(sigma=50, crf=None), jobs=1)  # in the order of the alphabet
    spec, dataset = InputSpec(32, 1, normalisation="zscore", classes=("wall", "cavity")), Dataset.open(data)
    with pytest.raises(DatasetError, match=r"cavity, wall.*wall, cavity"):
        pack_gaze(dataset, tuple(dataset.images), tmp_path / "masks", spec, (0.5,), refined=False)
