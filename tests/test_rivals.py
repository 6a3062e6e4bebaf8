"""BoxInst, BoxTeacher, PointSup and AGMM against slow ways to compute them, and a training with each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from tiny import tiny_config

from gazeseg_serve.errors import ConfigError
from gazeseg_serve.training.learning.annotations import annotate
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.learning.rivals.agmm import agmm_parts, mixture
from gazeseg_serve.training.learning.rivals.boxinst import alike, boxinst_parts, projection_loss
from gazeseg_serve.training.learning.rivals.boxteacher import affine, boxteacher_parts, pseudo_masks
from gazeseg_serve.training.learning.rivals.choice import RIVALS
from gazeseg_serve.training.learning.rivals.edges import disagreement_loss, ends
from gazeseg_serve.training.learning.rivals.parts import rival_parts
from gazeseg_serve.training.learning.rivals.pointsup import boxes_of, pointsup_parts
from gazeseg_serve.training.masks.levels import IGNORE

RNG = np.random.default_rng(0)
SIDE = 9
EDGES = [(0, 2), (2, 0), (2, 2), (2, -2)]


def sigmoid(z: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-z)))


def some_boxes() -> np.ndarray:
    boxes = np.zeros((3, SIDE, SIDE), bool)
    boxes[0, 2:7, 1:5] = boxes[1, :3, :3] = boxes[1, 6:8, 5:9] = True
    return boxes  # the third image has none


def all_edges(n: int) -> list[tuple[int, int, int, int, int, int]]:
    """(direction, image, y, x, y2, x2) of every edge inside the image, pixel by pixel."""
    return [
        (d, i, y, x, y + dy, x + dx)
        for d, (dy, dx) in enumerate(EDGES)
        for i in range(n)
        for y in range(SIDE)
        for x in range(SIDE)
        if 0 <= y + dy < SIDE and 0 <= x + dx < SIDE
    ]


def joined_of(shape_like: torch.Tensor, joins: dict[tuple[int, int, int, int], bool]) -> list[torch.Tensor]:
    """The dictionary (direction, image, y, x of the first end) -> bool as the tensors that `ends` lines up with."""
    n = len(shape_like)
    places = torch.arange(n * SIDE * SIDE).view(n, SIDE, SIDE)
    found = []
    for d, (a, _) in enumerate(ends(places)):
        keys = [(d, int(p) // SIDE**2, int(p) % SIDE**2 // SIDE, int(p) % SIDE) for p in a.flatten()]
        found.append(torch.tensor([joins[key] for key in keys]).view(a.shape))
    return found


def slow_disagreement(logits: np.ndarray, boxes: np.ndarray, joins: dict[tuple[int, int, int, int], bool]) -> np.ndarray:
    p, loss, count = sigmoid(logits), np.zeros(len(logits)), np.zeros(len(logits))
    for d, i, y, x, y2, x2 in all_edges(len(logits)):
        if joins[d, i, y, x] and (boxes[i, y, x] or boxes[i, y2, x2]):
            a, b = p[i, y, x], p[i, y2, x2]
            loss[i] -= np.log(a * b + (1 - a) * (1 - b))
            count[i] += 1
    return np.asarray(loss / np.maximum(count, 1))


def test_edges_are_every_near_pair_once() -> None:
    place = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE)
    found = [(int(a), int(b)) for one, two in ends(place) for a, b in zip(one.flatten(), two.flatten(), strict=True)]
    wanted = {(y * SIDE + x, y2 * SIDE + x2) for _, _, y, x, y2, x2 in all_edges(1)}
    assert len(found) == len(wanted)
    assert {frozenset(pair) for pair in found} == {frozenset(pair) for pair in wanted}


def test_disagreement_against_a_loop_over_pixels() -> None:
    logits, boxes = RNG.normal(0, 2, (3, SIDE, SIDE)), some_boxes()
    joins = {(d, i, y, x): bool(RNG.random() < 0.5) for d, i, y, x, y2, x2 in all_edges(3)}
    first_ends = {}  # an edge to the lower left begins at its upper end
    for d, i, y, x, _, _ in all_edges(3):
        first_ends[d, i, y, x] = joins[d, i, y, x]
    found = disagreement_loss(torch.from_numpy(logits), torch.from_numpy(boxes), joined_of(torch.zeros(3), first_ends))
    np.testing.assert_allclose(found.numpy(), slow_disagreement(logits, boxes, joins), rtol=1e-6)
    assert found[2] == 0


def slow_alike(images: np.ndarray) -> dict[tuple[int, int, int, int], bool]:
    colours = [rgb2lab(np.moveaxis(image, 0, -1)) for image in images]
    return {
        (d, i, y, x): bool(np.exp(-np.linalg.norm(colours[i][y, x] - colours[i][y2, x2]) / 2) >= 0.3)
        for d, i, y, x, y2, x2 in all_edges(len(images))
    }


def test_boxinst_against_its_equations() -> None:
    images = (0.5 + 0.01 * RNG.normal(0, 1, (3, 3, SIDE, SIDE))).astype(np.float32)
    logits, boxes = RNG.normal(0, 2, (3, SIDE, SIDE)), some_boxes()
    joins = slow_alike(images)
    share = np.mean(list(joins.values()))
    assert 0.05 < share < 0.95  # both kinds of edges are there
    for found, wanted in zip(alike(torch.from_numpy(images)), joined_of(torch.zeros(3), joins), strict=True):
        assert torch.equal(found, wanted)
    parts = boxinst_parts(torch.from_numpy(logits), torch.from_numpy(boxes), torch.from_numpy(images), progress=1 / 18)
    p, projection = sigmoid(logits), 0.0
    for one, box in zip(p, boxes.astype(float), strict=True):
        for axis in (0, 1):
            a, b = one.max(axis), box.max(axis)
            projection += (1 - 2 * (a * b).sum() / ((a**2).sum() + (b**2).sum() + 1e-5)) / 3
    assert parts["projection"][0] == 1.0
    assert parts["projection"][1].item() == pytest.approx(projection)
    weight, pairwise = parts["pairwise"]
    assert weight == pytest.approx(0.5)  # a ninth of the steps brings it in whole
    assert pairwise.item() == pytest.approx(slow_disagreement(logits, boxes, joins).mean(), rel=1e-5)
    assert boxinst_parts(torch.from_numpy(logits), torch.from_numpy(boxes), torch.from_numpy(images), 0.5)["pairwise"][0] == 1.0


def test_the_projection_is_content_with_any_shape_that_spans_its_box_and_with_no_other() -> None:
    boxes = torch.zeros(1, SIDE, SIDE)
    boxes[0, 2:7, 2:7] = 1
    diagonal = torch.zeros(1, SIDE, SIDE)
    for i in range(2, 7):
        diagonal[0, i, i] = 1
    short, outside = diagonal.clone(), diagonal.clone()
    short[0, 6, 6] = 0
    outside[0, 8, 3] = 1
    losses = [projection_loss(p, boxes).item() for p in (diagonal, short, outside)]
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert losses[1] > 0.1
    assert losses[2] > 0.05


def test_pseudo_masks_count_where_they_span_the_box_and_by_how_sure_they_are() -> None:
    boxes = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    boxes[:, 2:6, 2:8] = True  # 4 x 6
    p = torch.full((4, SIDE, SIDE), 0.2)
    p[0, 2:6, 2:8] = 0.81
    p[1, 2:4, 2:8] = 0.64  # half of the box
    p[2, 2:4, 2:7] = 0.9  # 10 of 24
    p[3, 7:, :] = 0.99  # outside
    masks, weights = pseudo_masks(p, boxes)
    np.testing.assert_allclose(weights, [0.9, 0.8, 0, 0], rtol=1e-6)
    assert [int(mask.sum()) for mask in masks] == [24, 12, 10, 0]


def test_boxteacher_is_boxinst_and_what_its_teacher_adds() -> None:
    images = torch.rand(3, 3, SIDE, SIDE)
    logits, boxes = RNG.normal(0, 2, (3, SIDE, SIDE)), some_boxes()
    teacher = np.where(boxes & (RNG.random(boxes.shape) < 0.8), 0.9, 0.1)
    z, box = torch.from_numpy(logits), torch.from_numpy(boxes)
    masks = (teacher > 0.5).astype(float)
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    mean = np.stack([padded[:, y : y + SIDE, x : x + SIDE] for y in range(3) for x in range(3)]).mean(0)
    b = (masks + mean) / 2
    joins = {
        (d, i, y, x): bool(b[i, y, x] * b[i, y2, x2] + (1 - b[i, y, x]) * (1 - b[i, y2, x2]) >= 0.5)
        for d, i, y, x, y2, x2 in all_edges(3)
    }
    for found, wanted in zip(affine(torch.from_numpy(masks)), joined_of(torch.zeros(3), joins), strict=True):
        assert torch.equal(found, wanted)
    p, weight = sigmoid(logits), np.sqrt(0.9)
    dice = [1 - 2 * (p[i] * masks[i]).sum() / ((p[i] ** 2).sum() + masks[i].sum() + 1e-5) for i in (0, 1)]
    found = boxteacher_parts(z, box, images, 1.0, torch.from_numpy(teacher))
    assert found["pseudo_mask"][1].item() == pytest.approx(
        weight * np.mean(dice), rel=1e-5
    )  # the image without a box is left out
    wanted = weight * slow_disagreement(logits, boxes, joins)[:2].mean()
    assert found["affinity"][1].item() == pytest.approx(wanted, rel=1e-5)
    assert (found["pseudo_mask"][0], found["affinity"][0]) == (0.5, 0.1)
    for name, (_, value) in boxinst_parts(z, box, images, 1.0).items():
        assert found[name][1].item() == value.item()


def test_pointsup_is_the_mean_over_the_points_and_the_mean_over_the_outside() -> None:
    mask = np.zeros((2, 24, 24), np.uint8)
    mask[0, 3:17, 4:9] = mask[0, 3:5, 4:20] = mask[1, 10:22, 2:12] = 1
    labels = np.stack([annotate(one, "box_points") for one in mask])
    labels[1, 12, 4:6] = 0  # two points side by side
    boxes = np.stack([annotate(one, "box") for one in mask]) > 0
    np.testing.assert_array_equal(boxes_of(torch.from_numpy(labels)).numpy(), boxes)
    logits = RNG.normal(0, 2, mask.shape)
    each = -np.log(np.where(labels == 1, sigmoid(logits), 1 - sigmoid(logits)))
    found = pointsup_parts(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found["points"][1].item() == pytest.approx(each[boxes & (labels != IGNORE)].mean())
    assert found["outside"][1].item() == pytest.approx(each[~boxes].mean())


@pytest.mark.parametrize("K", [1, 3])
def test_agmm_against_its_equations(K: int) -> None:
    features, logits = RNG.normal(0, 1, (2, 5, SIDE, SIDE)), RNG.normal(0, 1, (2, K, SIDE, SIDE))
    labels = np.full((2, SIDE, SIDE), IGNORE, np.uint8)
    labels[0, 1, 1:5], labels[0, 6, 2:4], labels[1, 3, 3] = 0, 1, 1
    classes = max(K, 2)
    p = (
        np.concatenate([1 - sigmoid(logits), sigmoid(logits)], 1)
        if K == 1
        else np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    )
    wanted = dict.fromkeys(("mixture_labelled", "mixture_everywhere"), 0.0)
    labelled, centres = int((labels != IGNORE).sum()), [[], []]
    for n in range(2):
        present = [k for k in range(classes) if (labels[n] == k).any()]
        for k in present:
            mu = features[n][:, labels[n] == k].mean(1)
            centres[k].append(mu)
            d = np.abs(features[n] - mu[:, None, None]).mean(0)
            g = np.exp(-(d**2) / (2 * (p[n, k] * d**2).sum() / p[n, k].sum()))
            for y in range(SIDE):
                for x in range(SIDE):
                    share = 1 / (2 * len(present))
                    near = [np.log(q + 1e-6) for q in (p[n, k, y, x], 1 - p[n, k, y, x])]
                    wanted["mixture_everywhere"] -= share * (g[y, x] * near[0] + (1 - g[y, x]) * near[1]) / (2 * SIDE**2)
                    if labels[n, y, x] != IGNORE:
                        right = g[y, x] if labels[n, y, x] == k else 1 - g[y, x]
                        wanted["mixture_labelled"] -= share * np.log(right + 1e-6) / labelled
    apart = np.abs(np.mean(centres[0], 0) - np.mean(centres[1], 0)).mean()
    found = agmm_parts(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(features))
    assert found["mixture_apart"][1].item() == pytest.approx(np.exp(-(apart**2)), rel=1e-5)
    for name, value in wanted.items():
        assert found[name][1].item() == pytest.approx(value, rel=1e-4)


def test_the_mixture_teaches_the_unlabelled_pixels_of_a_class_s_kind() -> None:
    """Two halves of different features, one labelled pixel in each: G tells the halves apart, and pulls the logits there."""
    features = torch.zeros(1, 2, 4, 6)
    features[0, 0, :, :3], features[0, 1, :, 3:] = 1, 1
    features += 0.01 * torch.rand(features.shape, generator=torch.Generator().manual_seed(0))
    labels = torch.full((1, 4, 6), IGNORE, dtype=torch.uint8)
    labels[0, 1, 1], labels[0, 2, 4] = 1, 0
    logits = torch.zeros(1, 1, 4, 6, requires_grad=True)
    g, _, known = mixture(features, torch.full((1, 2, 4, 6), 0.5), labels)
    assert known.all()
    assert g[0, 1, :, :3].min() > g[0, 1, :, 3:].max()
    assert g[0, 0, :, 3:].min() > g[0, 0, :, :3].max()
    agmm_parts(logits, labels, features)["mixture_everywhere"][1].backward()
    assert logits.grad is not None
    assert (logits.grad[0, 0, :, :3] < 0).all()
    assert (logits.grad[0, 0, :, 3:] > 0).all()


def test_images_without_any_label_give_losses_of_nothing_and_finite_gradients() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    features = torch.randn(2, 5, 4, 4, requires_grad=True)
    parts = agmm_parts(logits, torch.full((2, 4, 4), IGNORE, dtype=torch.uint8), features)
    assert all(value.item() == 0 for _, value in parts.values())
    torch.stack([value for _, value in parts.values()]).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


ANNOTATION = {"pointsup": "box_points", "boxinst": "box", "boxteacher": "box", "agmm": "scribble"}


@pytest.mark.parametrize("rival", RIVALS)
def test_levels_are_summed_and_boxes_leave_the_cross_entropy_out(rival: str, phantoms: Path, tmp_path: Path) -> None:
    z, f = torch.randn(2, 2, 1, 8, 8), [torch.randn(2, 3, 4, 4) for _ in range(2)]
    targets = torch.zeros(2, 2, 8, 8, dtype=torch.uint8)
    targets[:, :, 2:5, 2:6] = 1
    images, teacher = torch.rand(2, 3, 8, 8), torch.randn(2, 1, 8, 8)
    both = rival_parts(rival, z, targets, f, images, 1.0, teacher)
    each = [rival_parts(rival, z[i : i + 1], targets[i : i + 1], f[i : i + 1], images, 1.0, teacher) for i in range(2)]
    for name, (weight, value) in both.items():
        assert value.item() == pytest.approx(sum(one[name][1].item() for one in each), rel=1e-5)
        assert weight == each[0][name][0]
    overrides = [f"data.supervision={ANNOTATION[rival]}", f"loss.rival={rival}", "augment.rotate=0.0", "optimiser.average=0.5"]
    run = train(tiny_config(*overrides, "loss.dice=1.0"), phantoms, None, tmp_path / "run", device="cpu")
    assert len(run.levels) == 2
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert ("segmentation" in header) == ("dice_loss" in header) == (rival == "agmm")
    assert set(both) <= set(header)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("loss.rival=cyclemix",), "boxinst, boxteacher, pointsup, agmm"),
        (("loss.rival=boxinst", "data.supervision=point"), "learns from data.supervision box, not 'point'"),
        (("loss.rival=agmm",), "point or scribble or extreme, not 'gaze'"),
        (("loss.rival=boxinst", "data.supervision=box"), "augment.rotate = 20.0 turns the boxes"),
        (("loss.rival=boxteacher", "data.supervision=box", "augment.rotate=0.0"), "set optimiser.average"),
        (("loss.rival=boxinst", "data.supervision=box", 'data.classes=["a", "b"]', "augment.rotate=0.0"), "takes one class"),
    ],
)
def test_a_rival_that_cannot_learn_from_the_rest_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_config(*overrides)
