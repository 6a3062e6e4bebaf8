"""The gate's own rules: at every batch size, every figure by hand, and what a conversion may not change."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from damage import made_before
from onnx import TensorProto, helper, numpy_helper

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.errors import ConfigError, GateError
from gazeseg_serve.export import pipeline
from gazeseg_serve.export.bench import Timing
from gazeseg_serve.export.candidate import Candidate, recommend
from gazeseg_serve.export.fidelity import Fidelity, Truth, hold_fidelity, measure_fidelity
from gazeseg_serve.export.gate_images import GateImages, gate_images, learning_images
from gazeseg_serve.export.onnx_graph import declared, drop_empty_pads
from gazeseg_serve.export.parity import Parity, eager_ensemble, hold, measure
from gazeseg_serve.export.pipeline import export_run, measure_loss
from gazeseg_serve.export.quantize import halve_weights, to_int8
from gazeseg_serve.export.settings import EXACT, LOSSY, AllowedLoss, ExportSettings, Tolerance
from gazeseg_serve.export.tools import Tools
from gazeseg_serve.metrics import bootstrap_interval, labels_of
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble, load_ensemble

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)


def right(batch: np.ndarray) -> Outputs:
    """Brightness as probability, half of it as disagreement."""
    p = (batch.mean(axis=3)[:, None] / 255).astype(np.float32)
    return Outputs(p, p[:, 0] / 2)


class Engine:
    """Right, but changed where `change` says: it gets the batch and the outputs."""

    name = "changed"

    def __init__(self, change: Callable[[np.ndarray, Outputs], Outputs]) -> None:
        self.change = change
        self.sizes: list[int] = []

    def run(self, batch: np.ndarray) -> Outputs:
        self.sizes.append(len(batch))
        return self.change(batch, right(batch))


def flipped_at(size: int, index: int) -> Engine:
    """The mask of image `index` is turned over in batches of `size`."""

    def change(batch: np.ndarray, said: Outputs) -> Outputs:
        for i, image in enumerate(batch):
            if len(batch) == size and np.array_equal(image, IMAGES[index]):
                said.probability[i] = 1 - said.probability[i]
        return said

    return Engine(change)


# Equality with the networks


@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_is_wrong_at_one_batch_size_is_kept_whatever_comes_after(size: int) -> None:
    parity = measure(flipped_at(size, 1), right, IMAGES)
    p = right(IMAGES).probability[1, 0]
    assert parity.flipped_by_image == (0, np.mean((p >= 0.5) != (1 - p >= 0.5)), 0, 0, 0, 0, 0, 0)
    assert parity.flipped == pytest.approx(parity.flipped_by_image[1] / 8)
    assert parity.max_difference == pytest.approx(np.abs(1 - 2 * p).max(), abs=1e-6)
    assert parity.max_disagreement_difference == 0


def test_each_size_sees_every_image_and_the_last_batch_is_as_short_as_it_comes() -> None:
    engine = flipped_at(99, 0)
    parity = measure(engine, right, IMAGES)
    assert engine.sizes == [1] * 8 + [2] * 4 + [5, 3]
    assert (parity.images, parity.batch_sizes) == (8, (1, 2, 5))
    assert measure(flipped_at(3, 6), right, IMAGES).max_difference > 0, "an image of the short batch"


def test_the_disagreement_is_compared_at_every_size() -> None:
    def change(batch: np.ndarray, said: Outputs) -> Outputs:
        return said if len(batch) != 2 else Outputs(said.probability, said.disagreement + np.float32(0.25))

    parity = measure(Engine(change), right, IMAGES)
    assert parity.max_disagreement_difference == pytest.approx(0.25, abs=1e-6)
    assert parity.max_difference == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b, o: Outputs(o.probability, None), "disagreement is missing"),
        (
            lambda b, o: Outputs(o.probability[:, :, :2], o.disagreement),
            r"batch size 2 has shape \(2, 1, 2, 4\), expected \(2, 1, 4, 4\)",
        ),
        (
            lambda b, o: Outputs(np.where(o.probability > 0.5, np.inf, o.probability), o.disagreement),
            "probability at batch size 2",
        ),
        (lambda b, o: Outputs(o.probability, o.disagreement * np.nan), "disagreement at batch size 2"),
    ],
)
def test_a_fault_in_pairs_alone_is_found(change: Callable[[np.ndarray, Outputs], Outputs], words: str) -> None:
    with pytest.raises(GateError, match=words):
        measure(Engine(lambda b, o: o if len(b) != 2 else change(b, o)), right, IMAGES)


def test_an_output_that_nobody_asked_for_is_found() -> None:
    with pytest.raises(GateError, match="disagreement is unexpected"):
        measure(Engine(lambda b, o: o), lambda b: Outputs(right(b).probability), IMAGES)


@pytest.mark.parametrize("field", ["max_difference", "max_disagreement_difference", "flipped"])
def test_a_figure_may_be_at_its_limit_and_not_above(field: str) -> None:
    tolerance = Tolerance(0.01, 0.002)
    limit = 0.002 if field == "flipped" else 0.01
    hold(dataclasses.replace(Parity(1, (1,), 0, 0, 0, (0,)), **{field: limit}), tolerance)
    with pytest.raises(GateError, match="Nothing was written"):
        hold(dataclasses.replace(Parity(1, (1,), 0, 0, 0, (0,)), **{field: limit * 1.001}), tolerance)


def test_what_exact_means() -> None:
    assert (EXACT.max_difference, EXACT.flipped) == (1e-3, 1e-4)
    Tolerance(1e-9, 0.0)
    for wrong in ((0.0, 0.1), (-1.0, 0.1), (0.1, -1e-9)):
        with pytest.raises(GateError, match="positive"):
            Tolerance(*wrong)


def test_the_reference_is_the_mean_logit_and_the_spread_of_the_probabilities() -> None:
    for classes, levels in ((1, 3), (2, 2), (1, 1)):
        spec = InputSpec(16, classes=tuple(f"c{i}" for i in range(classes)))
        ensemble = Ensemble(Architecture(4, "batch", 3, spec.outputs), spec, range(levels)).eval()
        batch = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        found = eager_ensemble(ensemble)(batch)
        import torch

        with torch.no_grad():
            x = ensemble.normalise(torch.from_numpy(batch).permute(0, 3, 1, 2).float())
            each = np.stack([level(x).numpy() for level in ensemble.levels])

        def chance(z: np.ndarray) -> np.ndarray:
            return 1 / (1 + np.exp(-z)) if z.shape[-3] == 1 else np.exp(z) / np.exp(z).sum(-3, keepdims=True)

        np.testing.assert_allclose(found.probability, chance(each.mean(0)), atol=1e-5)
        if levels == 1:
            assert found.disagreement is None
        else:
            np.testing.assert_allclose(found.disagreement, chance(each).std(0).mean(1), atol=1e-5)


# Fidelity of a lossy graph


def test_the_figures_of_a_lossy_graph_by_hand() -> None:
    graph, ensemble = np.full((2, 1, 4, 5), 0.2, np.float32), np.full((2, 1, 4, 5), 0.1, np.float32)
    graph[0, 0, :2], ensemble[0, 0, :3] = 0.9, 0.8  # 10 and 15 pixels, 10 in common
    graph[1, 0, 0], ensemble[1, 0, 0] = 0.5, 0.7  # 0.5 is foreground
    u, v = np.full((2, 4, 5), 0.1, np.float32), np.full((2, 4, 5), 0.3, np.float32)
    u[0, 0, 0], v[0, 0, 0] = 0.4, 0.2
    found = measure_fidelity(Outputs(graph, u), Outputs(ensemble, v), [None, None], 1)
    assert found.images == 2
    assert found.agreement_by_image == pytest.approx((20 / 25, 1))
    assert found.agreement == pytest.approx(0.9)
    assert found.agreement_worst == pytest.approx(0.8)
    assert found.flipped == pytest.approx(5 / 40)
    assert found.area_bias == pytest.approx((15 - 20) / 20)
    assert found.max_difference == pytest.approx(0.6)  # where the graph says 0.2 and the ensemble 0.8
    assert found.disagreement_error == pytest.approx(0.2)
    assert found.disagreement_correlation == pytest.approx(-1)
    # By the graph's bins: [.2, .267) holds 25 pixels (20 of .1, 5 of .8), .9 ten of .8, .5 five of .7.
    assert found.calibration_shift == pytest.approx((abs(25 * 0.2 - 20 * 0.1 - 5 * 0.8) + 10 * 0.1 + 5 * 0.2) / 40, abs=1e-6)


def test_the_worst_are_a_twentieth_and_at_least_one() -> None:
    graph, ensemble = (np.zeros((60, 1, 2, 10), np.float32) for _ in range(2))
    graph[:, 0, 0], ensemble[:, 0, 0] = 1, 1
    for i in range(5):
        graph[i, 0, 0, : i + 1] = 0
    found = measure_fidelity(Outputs(graph), Outputs(ensemble), [None] * 60, 1)
    each = sorted(2 * (9 - i) / (19 - i) for i in range(5))
    assert found.agreement_worst == pytest.approx(np.mean(each[:3]))


@pytest.mark.parametrize(("area", "bias"), [(0, 0.0), (3, 1.0)])
def test_against_an_ensemble_that_calls_nothing_any_area_is_a_bias(area: int, bias: float) -> None:
    graph = np.zeros((1, 1, 4, 4), np.float32)
    graph[0, 0, 0, :area] = 1
    assert measure_fidelity(Outputs(graph), Outputs(np.zeros_like(graph)), [None], 1).area_bias == bias


def test_a_constant_disagreement_has_no_correlation() -> None:
    p, flat = np.zeros((1, 1, 4, 4), np.float32), np.full((1, 4, 4), 0.1, np.float32)
    varied = flat + np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    for a, b in ((flat, varied), (varied, flat)):
        assert measure_fidelity(Outputs(p, a), Outputs(p, b), [None], 1).disagreement_correlation is None
    assert measure_fidelity(Outputs(p, varied), Outputs(p), [None], 1).disagreement_error is None


def test_graph_and_ensemble_have_their_own_dice_and_calibration() -> None:
    truth = np.zeros((4, 5), np.uint8)
    truth[:2] = 1
    graph, ensemble = np.full((3, 1, 4, 5), 0.3, np.float32), np.full((3, 1, 4, 5), 0.1, np.float32)
    graph[:, 0, :1], ensemble[:, 0, :2] = 0.6, 0.9
    found = measure_fidelity(Outputs(graph), Outputs(ensemble), [truth, None, truth], 1).truth
    assert found is not None
    assert found.images == 2
    assert (found.dice_ensemble, found.dice_graph) == pytest.approx((1, 10 / 15))
    assert found.dice_loss == pytest.approx(1 / 3)
    assert found.calibration_error_ensemble == pytest.approx(0.1, abs=1e-6)
    assert found.calibration_error_graph == pytest.approx((5 * 0.4 + abs(15 * 0.3 - 5)) / 20, abs=1e-6)
    assert (found.dice_loss_low, found.dice_loss_high) == pytest.approx((1 / 3, 1 / 3))


def test_calibration_of_several_classes_is_that_of_any_foreground() -> None:
    p = np.zeros((1, 3, 2, 2), np.float32)
    p[0] = np.array([0.7, 0.2, 0.1])[:, None, None]
    truth = np.array([[0, 0], [0, 2]], np.uint8)
    found = measure_fidelity(Outputs(p), Outputs(p), [truth], 2).truth
    assert found is not None
    assert found.calibration_error_graph == pytest.approx(abs(0.3 - 0.25), abs=1e-5)


def test_the_interval_of_the_loss_is_paired() -> None:
    """Images differ far more than graph and ensemble on one image, so an interval of unpaired draws would be wide."""
    truths, graph, ensemble = [], [], []
    for i in range(12):
        truth = np.zeros((10, 10), np.uint8)
        truth[:, : 1 + i % 6] = 1
        seen = np.zeros((1, 10, 10), np.float32)
        seen[0, :, :3] = 1
        ensemble.append(seen)
        graph.append(seen.copy())
        graph[-1][0, 9, 0] = 0
        truths.append(truth)
    found = measure_fidelity(Outputs(np.stack(graph)), Outputs(np.stack(ensemble)), truths, 1).truth
    assert found is not None
    losses = []
    for truth, a, b in zip(truths, ensemble, graph, strict=True):
        e, g = (2 * (m[0] * truth).sum() / (m.sum() + truth.sum()) for m in (a, b))
        losses.append(e - g)
    low, high = bootstrap_interval(np.array(losses))
    assert (found.dice_loss_low, found.dice_loss_high) == pytest.approx((low, high))
    assert high - low < 0.03


@pytest.mark.parametrize(("level", "half"), [(0.95, 1.959964), (0.9, 1.644854), (0.99, 2.575829)])
def test_an_interval_is_as_wide_as_its_level_says(level: float, half: float) -> None:
    """Of a normal sample the interval of the mean is +- z s / sqrt(n)."""
    values = np.random.default_rng(3).normal(5, 2, 400)
    low, high = bootstrap_interval(values, level, rounds=20_000)
    assert (high - low) / 2 == pytest.approx(half * values.std() / 20, rel=0.03)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.02)
    wanted = bootstrap_interval(values, 0.95)
    assert bootstrap_interval(values) == wanted, "95 % unless another level is asked for"


FINE = Fidelity(4, 0.98, 0.9, 0.001, 0.0, 0.1, 0.0, None, None, None, (0.98,) * 4)
TRUE = Truth(4, 0.8, 0.796, 0.004, 0.0, 0.01, 0.1, 0.1)


@pytest.mark.parametrize(
    ("found", "limits", "held"),
    [
        (dataclasses.replace(FINE, agreement=0.97), LOSSY, True),
        (dataclasses.replace(FINE, agreement=0.9699), LOSSY, False),
        (dataclasses.replace(FINE, agreement=0.5, truth=TRUE), LOSSY, True),
        (dataclasses.replace(FINE, truth=dataclasses.replace(TRUE, dice_loss=0.005)), LOSSY, True),
        (dataclasses.replace(FINE, truth=dataclasses.replace(TRUE, dice_loss=0.0051)), LOSSY, False),
        (dataclasses.replace(FINE, agreement=0.9, truth=TRUE), AllowedLoss(0.005, 0.9), True),
        (dataclasses.replace(FINE, agreement=0.8999, truth=TRUE), AllowedLoss(0.005, 0.9), False),
        (dataclasses.replace(FINE, agreement=0.1), AllowedLoss(0.005, 0.0), True),
    ],
)
def test_the_limits_from_both_sides(found: Fidelity, limits: AllowedLoss, held: bool) -> None:
    if held:
        hold_fidelity(found, limits)
    else:
        with pytest.raises(GateError, match="Nothing was written"):
            hold_fidelity(found, limits)


def test_half_is_foreground() -> None:
    assert labels_of(np.array([0.5, 0.49999], np.float32).reshape(1, 1, 1, 2)).tolist() == [[[1, 0]]]


# The pipeline


@pytest.fixture
def gate(lively_run: Path, phantoms: Path) -> GateImages:
    return gate_images(load_ensemble(lively_run)[0], phantoms, "val", 8)


def test_a_lossy_engine_that_is_wrong_only_in_batches_is_refused(lively_run: Path, gate: GateImages) -> None:
    """Alone each image is answered as the ensemble would; in a batch the neighbours' answers are swapped."""
    ensemble = load_ensemble(lively_run)[1]
    eager = eager_ensemble(ensemble)
    images = np.concatenate([gate.images, gate.images[:, ::-1], gate.images[:, :, ::-1], gate.images[:, ::-1, ::-1]])[:8]
    gate = GateImages(tuple(map(str, range(len(images)))), images, (None,) * len(images), "images")

    class Swaps:
        name = "swaps"

        def __init__(self, size: int) -> None:
            self.size = size

        def run(self, batch: np.ndarray) -> Outputs:
            said = eager(batch)
            return said if len(batch) != self.size else Outputs(said.probability[::-1].copy(), said.disagreement)

    measure_loss(Swaps(99), ensemble, gate, AllowedLoss(1.0, 0.0), "fuse", "int8")
    for size in (2, 5):
        with pytest.raises(GateError, match="not as good"):
            measure_loss(Swaps(size), ensemble, gate, AllowedLoss(1.0, 0.0), "fuse", "int8")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_conversion_that_changes_an_output_s_type_is_refused(
    precision: str, lively_run: Path, lively_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    def careless(model: Path, *_: np.ndarray) -> None:
        graph = onnx.load(model)
        for node in graph.graph.node:
            node.output[:] = ["exact" if name == "probability" else name for name in node.output]
            node.input[:] = ["exact" if name == "probability" else name for name in node.input]
        graph.graph.node.append(helper.make_node("Cast", ["exact"], ["probability"], to=TensorProto.FLOAT16))
        graph.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        onnx.save(graph, model)

    tools = Tools(trace=made_before(lively_artifact))
    tools = dataclasses.replace(tools, **{f"to_{precision}": careless})
    with pytest.raises(GateError, match="probability float16"):
        export_run(
            lively_run,
            tmp_path / "out",
            phantoms,
            ExportSettings(precision=precision, allowed=AllowedLoss(1.0, 0.0)),
            tools=tools,
        )
    assert list(tmp_path.iterdir()) == []


def test_int8_is_calibrated_with_training_images_and_not_with_the_gate_s(
    lively_run: Path, lively_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    seen: list[np.ndarray] = []

    def spy(model: Path, images: np.ndarray) -> None:
        seen.append(images)
        to_int8(model, images)

    tools = Tools(trace=made_before(lively_artifact))
    tools = dataclasses.replace(tools, to_int8=spy)
    artifact = export_run(
        lively_run, tmp_path / "out", phantoms, ExportSettings(precision="int8", allowed=AllowedLoss(1.0, 0.0)), tools=tools
    )
    run = load_ensemble(lively_run)[0]
    np.testing.assert_array_equal(seen[0], learning_images(run, phantoms, count=64))
    held_out = {image.tobytes() for image in gate_images(run, phantoms, "val", 99).images}
    assert not held_out & {image.tobytes() for image in seen[0]}
    assert artifact.precision == "int8"
    assert artifact.parity["images"] == len(run.splits["val"])


def test_a_lossy_gate_looks_at_more_images(lively_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []

    def spy(run: Any, data: Any, split: str, count: int) -> GateImages:
        asked.append(count)
        raise ConfigError("enough")

    monkeypatch.setattr(pipeline, "gate_images", spy)
    for settings in ({}, {"precision": "fp16"}, {"precision": "fp16-weights"}, {"strategy": "average"}, {"images": 7}):
        with pytest.raises(ConfigError, match="enough"):
            export_run(lively_run, tmp_path / "out", None, ExportSettings(**settings))  # type: ignore[arg-type]
    assert asked == [32, 200, 200, 200, 7]


def test_the_gate_has_at_most_so_many_images_each_with_its_own_mask(lively_run: Path, phantoms: Path) -> None:
    from gazeseg_serve.dataset import Dataset

    run, dataset = load_ensemble(lively_run)[0], Dataset.open(phantoms)
    stems = run.splits["train"]
    gate = gate_images(run, phantoms, "train", 3)
    assert gate.names == stems[:3]
    assert gate.images.shape == (3, 32, 32, 3)
    for stem, truth in zip(gate.names, gate.truths, strict=True):
        np.testing.assert_array_equal(truth, dataset.mask(stem))
    made = gate_images(run, None, "val", 2)
    assert (made.names, made.truths) == (("phantom 0", "phantom 1"), (None, None))
    assert not np.array_equal(made.images[0], made.images[1])


# Graphs


def small_graph(pads: list[int], weight: float = 1.0) -> onnx.ModelProto:
    w = np.full((1, 1, 1, 1), weight, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Pad", ["x", "pads"], ["p"]), helper.make_node("Conv", ["p", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4 + pads[2] + pads[6], 4 + pads[3] + pads[7]])],
        [numpy_helper.from_array(np.array(pads, np.int64), "pads"), numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("pads", "kept"), [([0] * 8, False), ([0, 0, 0, 0, 0, 0, 0, 1], True), ([0, 0, 1, 0, 0, 0, 0, 0], True)]
)
def test_only_a_pad_that_adds_nothing_is_taken_out(pads: list[int], kept: bool) -> None:
    model = small_graph(pads)
    drop_empty_pads(model.graph)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == (["Pad", "Conv"] if kept else ["Conv"])
    assert {tensor.name for tensor in model.graph.initializer} == ({"pads", "w"} if kept else {"w"})


@pytest.mark.parametrize(("weight", "halved"), [(1.0, True), (65504.0, True), (-65504.0, True), (1e5, False), (-1e5, False)])
def test_a_weight_that_float16_cannot_hold_stays(tmp_path: Path, weight: float, halved: bool) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(small_graph([0] * 8, weight), path)
    halve_weights(path)
    graph = onnx.load(path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert (kinds.get("w_half") == TensorProto.FLOAT16) == halved
    assert ("w" in kinds) == (not halved)
    assert [node.op_type for node in graph.node] == (["Cast"] if halved else []) + ["Pad", "Conv"]


def test_int8_weights_have_a_scale_a_channel(lively_artifact: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(lively_artifact / "model.onnx", tmp_path / "m.onnx"))
    to_int8(model, np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    graph = onnx.load(model).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and stored[node.input[0]].ndim == 4:
            scales[node.input[0]] = (stored[node.input[1]], stored[node.input[0]])
    assert len(scales) >= 30
    assert all(scale.shape == (weight.shape[0],) for scale, weight in scales.values())
    assert any(len(set(scale.tolist())) > 1 for scale, _ in scales.values())


def test_what_a_graph_says_of_itself_names_every_axis() -> None:
    value = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 3])
    (tensor,) = declared([value])
    assert (tensor.name, tensor.dtype, tensor.axes) == ("image", "uint8", ("batch", 32, 32, 3))


# Which way to run it


def way(name: str, milliseconds: float, dice: float, held: bool = True) -> Candidate:
    timings = {b: Timing(b, 1, 10, milliseconds / 1000, milliseconds / 1000) for b in (1, 8)}
    truth = dataclasses.replace(TRUE, dice_graph=dice)
    return Candidate(name, "e", "fp32", 1, 1, timings, None, dataclasses.replace(FINE, truth=truth), held)


@pytest.mark.parametrize(
    ("others", "best"),
    [
        ([way("fast", 10, 0.7), way("good", 10.5, 0.8)], "good"),
        ([way("fast", 10, 0.7), way("good", 10.6, 0.8)], "fast"),
        ([way("fast", 10, 0.7, held=False), way("good", 50, 0.6)], "good"),
        ([way("fast", 10, 0.7, held=False)], "eager"),
    ],
)
def test_the_fastest_that_holds_and_among_ties_the_better(others: list[Candidate], best: str) -> None:
    name, reason = recommend([way("eager", 100, 0.8), *others])
    assert name == best
    if best == "fast":
        assert "10.0 times" in reason


def of_convolutions(count: int, groups: dict[int, int] | None = None) -> onnx.ModelProto:
    """A graph of bytes in, float out, with so many 1 x 1 convolutions one after the other; groups: of those that have some."""
    of = [(groups or {}).get(i, 1) for i in range(count)]
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["c0"], perm=[0, 3, 1, 2]),
        *[helper.make_node("Conv", [f"c{i}", f"w{i}"], [f"c{i + 1}"], name=f"conv{i}", group=of[i]) for i in range(count)],
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 4, 4, 3])],
        [helper.make_tensor_value_info(f"c{count}", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [numpy_helper.from_array(np.full((3, 3 // of[i], 1, 1), 0.1, np.float32), f"w{i}") for i in range(count)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_three_convolutions_leave_one_between_the_ends_to_quantise(tmp_path: Path) -> None:
    model, images = tmp_path / "m.onnx", IMAGES[:2]
    onnx.save(of_convolutions(2), model)
    with pytest.raises(ConfigError, match="three convolutions"):
        to_int8(model, images)
    onnx.save(of_convolutions(3), model)
    with pytest.raises(ConfigError, match="images to calibrate"):
        to_int8(model, images[:0])
    to_int8(model, images)
    assert quantised(model) == ["conv1"]


def test_depthwise_convolutions_stay_as_they_are(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(of_convolutions(5, {2: 3}), model)
    to_int8(model, IMAGES[:2])
    assert quantised(model) == ["conv1", "conv3"]


def quantised(model: Path) -> list[str]:
    graph = onnx.load(model).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    return [node.name for node in graph.node if node.op_type == "Conv" and makers.get(node.input[1]) == "DequantizeLinear"]


def test_the_work_of_an_ensemble_is_counted_by_hand() -> None:
    """Against a forward pass whose convolutions are written down as they run."""
    from gazeseg_serve.export.compare import multiply_adds

    spec = InputSpec(16)
    ensemble = Ensemble(Architecture(4, "batch", 3, 1), spec, range(2)).eval()
    counts = multiply_adds(ensemble)
    # The first convolution: 3 channels in, 4 out, 3 x 3, on 16 x 16 pixels. The last of each level: 8 in, 1 out, 1 x 1.
    assert counts[0] == 3 * 4 * 9 * 256
    assert counts[-1] == 8 * 256
    assert len(counts) == 2 * sum(type(m).__name__ in ("Conv2d", "ConvTranspose2d") for m in ensemble.networks[0].modules())
