"""What the training loop hands to whom: rates, averages, orders, checkpoints, validation; and the ranges of its settings."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from tiny import tiny_config

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.metrics import labels_of
from gazeseg_serve.pixels import resize_map
from gazeseg_serve.training.learning import loop
from gazeseg_serve.training.learning.augment import Augmenter
from gazeseg_serve.training.learning.checkpoint import load_checkpoint, save_checkpoint
from gazeseg_serve.training.learning.config import Augment, Loss, Optimiser
from gazeseg_serve.training.learning.data import Packed, batch_indices, pack_gaze, pack_truth, to_tensors
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.learning.optimise import make_optimiser, rate_at
from gazeseg_serve.training.learning.sharpen import gain_at
from gazeseg_serve.training.learning.validate import validate
from gazeseg_serve.training.masks.folder import load_map
from gazeseg_serve.training.masks.levels import IGNORE
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble, Normalise


def small(spec: InputSpec | None = None, levels: int = 2) -> Ensemble:
    spec = spec or InputSpec(32)
    return Ensemble(Architecture(4, "batch", spec.channels, spec.outputs), spec, range(levels))


# Optimiser and rate


def test_each_optimiser_is_set_up_as_its_settings_say() -> None:
    model = small(levels=1)
    sgd = make_optimiser(Optimiser("sgd", 0.02, momentum=0.9, weight_decay=0.003), model)
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.02, 0.9, 0.003, True)
    adamw = make_optimiser(Optimiser("adamw", 0.02, weight_decay=0.003), model)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["weight_decay"]) == (0.02, 0.003)


def test_the_defaults_are_the_paper_s() -> None:
    """Zhong et al., MICCAI 2024: SGD with Nesterov, momentum .99, decay 4e-4, 1e-2 to 1e-4, 15,000 steps of 8; lambda 3."""
    config = tiny_config()
    fresh = type(config)()
    o, loss = fresh.optimiser, fresh.loss
    assert (o.name, o.rate, o.final_rate, o.momentum, o.weight_decay, o.steps, o.batch) == (
        "sgd",
        1e-2,
        1e-4,
        0.99,
        4e-4,
        15000,
        8,
    )
    assert (o.warmup, o.restarts, o.average) == (0.0, (), 0.0)
    assert (loss.consistency, loss.weight, loss.similarity, loss.window, loss.dilation, loss.dice) == (
        "prop",
        3.0,
        "cosine",
        5,
        2,
        0.0,
    )
    assert (fresh.data.size, fresh.data.maps, fresh.data.normalisation) == (224, "refined", "imagenet")
    assert (fresh.levels.thresholds, fresh.levels.shared_start) == ((0.5, 0.3), True)
    assert (fresh.network.width, fresh.network.norm, fresh.network.stride) == (64, "group", 1)
    assert (fresh.augment.flips, fresh.augment.rotate, fresh.augment.noise) == (True, 0.0, 0.0)
    assert (fresh.precision, fresh.seed) == ("32-true", 0)


@given(st.integers(2, 400), st.floats(0, 0.5), st.floats(1e-4, 1), st.floats(0, 1e-4))
def test_the_rate_against_the_formula(steps: int, warmup: float, rate: float, final: float) -> None:
    settings = Optimiser("sgd", rate, final, warmup=warmup, steps=steps)
    rising = warmup * steps
    for step in {0, 1, steps // 3, steps - 1}:
        if step < rising:
            wanted = rate * (step + 1) / (rising + 1)
        else:
            share = (step - rising) / max(1.0, steps - rising)
            wanted = final + (rate - final) / 2 * (1 + math.cos(math.pi * share))
        assert rate_at(step, settings) == pytest.approx(wanted)


@pytest.mark.parametrize(("step", "share"), [(0, 0), (19, 0), (20, 0), (35, 0.5), (50, 1), (99, 1)])
def test_the_teacher_s_say_rises_between_a_fifth_and_the_half(step: int, share: float) -> None:
    assert gain_at(step, 100, 0.6) == pytest.approx(0.6 * share, abs=1e-9)


# Orders and batches


def test_two_epochs_come_in_different_orders_and_a_seed_in_its_own() -> None:
    first, second = batch_indices(0, 40, 40, 5), batch_indices(1, 40, 40, 5)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first.tolist() != second.tolist()
    assert first.tolist() == batch_indices(0, 40, 40, 5).tolist() != batch_indices(0, 40, 40, 6).tolist()


@given(st.integers(1, 20), st.integers(1, 30))
def test_steps_of_any_batch_read_on_in_the_same_order(count: int, batch: int) -> None:
    ones = [int(batch_indices(step, count, 1, 3)[0]) for step in range(3 * batch)]
    assert np.concatenate([batch_indices(step, count, batch, 3) for step in range(3)]).tolist() == ones


# The loop


def spied(monkeypatch: pytest.MonkeyPatch, name: str, seen: list[Any]) -> None:
    right = getattr(loop, name)

    def spy(*arguments: Any, **named: Any) -> Any:
        seen.append(arguments)
        return right(*arguments, **named)

    monkeypatch.setattr(loop, name, spy)


def test_the_first_averages_are_warm(
    phantoms: Path, phantom_masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After step n the decay is at most n / (n + 10): else the untrained weights would weigh for a thousand steps."""
    seen: list[Any] = []
    spied(monkeypatch, "average_weights", seen)
    train(tiny_config("optimiser.average=0.15"), phantoms, phantom_masks, tmp_path / "run", device="cpu")
    assert [round(decay, 9) for _, _, decay in seen] == [round(1 / 11, 9), 0.15, 0.15]


def test_what_is_validated_is_the_average(
    phantoms: Path, phantom_masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: list[Any] = []
    validated: list[Any] = []
    spied(monkeypatch, "average_weights", averages)
    spied(monkeypatch, "validate", validated)
    train(tiny_config("optimiser.average=0.9"), phantoms, phantom_masks, tmp_path / "run", device="cpu")
    assert {id(model) for model, *_ in validated} == {id(averages[0][0])}
    assert id(averages[0][0]) != id(averages[0][1])


@pytest.mark.parametrize(("supervision", "outside"), [("scribble", IGNORE), ("point", IGNORE), ("box", 0), ("full", 0)])
def test_nothing_is_known_of_what_comes_in_beside_an_image_of_few_annotations(
    supervision: str, outside: int, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    spied(monkeypatch, "Augmenter", seen)
    train(tiny_config(f"data.supervision={supervision}", "optimiser.steps=1"), phantoms, None, tmp_path / "run", device="cpu")
    assert [arguments[1] for arguments in seen] == [outside]


def test_each_step_has_its_own_augmentation(
    phantoms: Path, phantom_masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    right = Augmenter.__call__

    def noted(self: Augmenter, images: Any, targets: Any, seed: int) -> Any:
        seeds.append(seed)
        return right(self, images, targets, seed)

    monkeypatch.setattr(Augmenter, "__call__", noted)
    train(tiny_config("seed=3"), phantoms, phantom_masks, tmp_path / "run", device="cpu")
    assert len(set(seeds)) == 3


def test_a_resumed_training_keeps_the_rows_from_before(
    phantoms: Path, phantom_masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("optimiser.steps=4", "evaluate_every=1")
    kept = loop.save_checkpoint

    def stop_after_two(run: Path, step: int, *rest: Any) -> None:
        kept(run, step, *rest)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_checkpoint", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            train(config, phantoms, phantom_masks, tmp_path / "run", device="cpu")
    train(config, phantoms, phantom_masks, tmp_path / "run", resume=True, device="cpu")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["rate"]) for row in rows] == [rate_at(step, config.optimiser) for step in range(4)]


def test_a_checkpoint_gives_back_step_history_weights_and_moments(tmp_path: Path) -> None:
    def stepped(rate: float, steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimiser = torch.optim.AdamW(model.parameters(), rate)
        for i in range(steps):
            optimiser.zero_grad()
            model(torch.full((1, 3), float(i + 1))).square().sum().backward()
            optimiser.step()
        return model, optimiser

    model, optimiser = stepped(0.1, 3)
    save_checkpoint(tmp_path, 3, {"a": 1}, [{"step": 2, "dice": 0.5}], model, optimiser)
    other, fresh = stepped(0.1, 0)
    assert load_checkpoint(tmp_path, {"a": 1}, other, fresh) == (3, [{"step": 2, "dice": 0.5}])
    for m, o in ((model, optimiser), (other, fresh)):
        o.zero_grad()
        m(torch.ones(1, 3)).square().sum().backward()
        o.step()
    assert torch.equal(model.weight, other.weight)  # type: ignore[arg-type]


# Validation and what is packed


class Says(torch.nn.Module):
    """Logits that are the image itself, moved."""

    def __init__(self, outputs: int, shift: float = 0.0) -> None:
        super().__init__()
        self.outputs, self.shift = outputs, shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : self.outputs] + self.shift


def truth_of(spec: InputSpec, images: np.ndarray, targets: np.ndarray) -> Packed:
    return Packed(tuple(f"i{i}" for i in range(len(images))), images, targets[:, None])


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_validation_is_the_mean_dice_over_images_and_classes(batch: int) -> None:
    spec = InputSpec(16, classes=("a", "b"))
    model = small(spec)
    model.levels[0], model.levels[1] = Says(3), Says(3, 0.0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    targets = rng.integers(0, 3, (5, 16, 16), dtype=np.uint8)
    x = Normalise(spec)(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    labels = x.argmax(1).numpy()
    each = [
        2 * ((p == c) & (t == c)).sum() / ((p == c).sum() + (t == c).sum())
        for p, t in zip(labels, targets, strict=True)
        for c in (1, 2)
    ]
    row = validate(model, truth_of(spec, images, targets), Fabric(accelerator="cpu", devices=1), batch=batch)
    assert set(row) == {"dice_level_1", "dice_level_2", "dice_ensemble"}
    assert all(value == pytest.approx(np.mean(each)) for value in row.values())
    assert model.training


@pytest.mark.parametrize(("foreground", "dead"), [(0, True), (2, True), (3, False), (1021, False), (1022, True), (1024, True)])
def test_a_level_is_dead_from_two_pixels_in_a_thousand_either_way(
    foreground: int, dead: bool, caplog: pytest.LogCaptureFixture
) -> None:
    spec = InputSpec(32)
    model = small(spec, levels=1)
    model.levels[0] = Says(1)
    pixels = np.zeros((1, 32 * 32, 3), np.uint8)
    pixels[0, :foreground] = 255
    truth = truth_of(spec, pixels.reshape(1, 32, 32, 3), np.zeros((1, 32, 32), np.uint8))
    with caplog.at_level("WARNING", logger="gazeseg_serve"):
        validate(model, truth, Fabric(accelerator="cpu", devices=1))
    assert ("level_1 is dead" in caplog.text) == dead


def test_no_validation_image_is_no_figure() -> None:
    empty = Packed((), np.zeros((0, 32, 32, 3), np.uint8), np.zeros((0, 1, 32, 32), np.uint8))
    assert validate(small(), empty, Fabric(accelerator="cpu", devices=1)) == {}


def test_a_label_wants_even_odds() -> None:
    assert labels_of(np.array([0.4999, 0.5, 0.5001], np.float32).reshape(1, 1, 1, 3)).flatten().tolist() == [0, 1, 1]
    assert labels_of(np.array([0.4999, 0.5], np.float32).reshape(1, 1, 2), 0.3).tolist() == [[1, 1]]
    several = np.array([[0.1, 0.2], [0.5, 0.1], [0.4, 0.7]], np.float32).reshape(1, 3, 1, 2)
    assert labels_of(several).tolist() == [[[1, 2]]]
    assert labels_of(several).dtype == np.uint8


def test_packed_maps_are_whole_where_a_teacher_cuts_them(phantoms: Path, phantom_masks: Path) -> None:
    dataset, spec = Dataset.open(phantoms), InputSpec(32)
    stems = tuple(dataset.images)[:3]
    packed = pack_gaze(dataset, stems, phantom_masks, spec, (0.5, 0.3), refined=False, whole=True)
    assert packed.stems == stems
    assert (packed.targets.shape, packed.targets.dtype) == ((3, 1, 32, 32), np.float16)
    for stem, target in zip(stems, packed.targets, strict=True):
        np.testing.assert_allclose(target[0], resize_map(load_map(phantom_masks, stem, False), (32, 32)), atol=1e-3)


def test_the_truth_keeps_images_and_masks_together(phantoms: Path) -> None:
    dataset = Dataset.open(phantoms)
    stems = list(dataset.images)
    packed = pack_truth(dataset, [stems[4], "unknown", stems[2]], InputSpec(48))
    assert packed.stems == (stems[4], stems[2])
    for stem, image, mask in zip(packed.stems, packed.images, packed.targets, strict=True):
        np.testing.assert_array_equal(image, dataset.image(stem))
        np.testing.assert_array_equal(mask[0], dataset.mask(stem))


def test_pixels_are_brought_to_the_unit_range_once() -> None:
    images = np.array([[[[0, 51, 255]]]], np.uint8)
    packed = Packed(("a",), images, np.zeros((1, 2, 1, 1), np.uint8))
    floats = Packed(("a",), (images / 255).astype(np.float32), np.zeros((1, 2, 1, 1), np.uint8))
    for one in (packed, floats):
        found, _ = to_tensors(one, np.array([0]))
        torch.testing.assert_close(found.flatten(), torch.tensor([0, 0.2, 1.0]))
        assert found.shape == (1, 3, 1, 1)


def test_a_fingerprint_names_images_and_targets_apart() -> None:
    a = Packed(("a",), np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 1, 2, 2), np.uint8)).fingerprints()
    b = Packed(("a",), np.ones((1, 2, 2, 3), np.uint8), np.zeros((1, 1, 2, 2), np.uint8)).fingerprints()
    assert a["images"] != b["images"]
    assert a["pseudo_masks"] == b["pseudo_masks"]


# Augmentation


@pytest.mark.parametrize("setting", ["rotate", "translate"])
def test_what_comes_in_from_outside_is_0_in_the_image_and_ignored_in_the_targets(setting: str) -> None:
    augment = Augmenter(Augment(flips=False, **{setting: 45.0 if setting == "rotate" else 0.4}), IGNORE)
    images, targets = torch.full((4, 3, 32, 32), 0.5), torch.ones(4, 2, 32, 32, dtype=torch.uint8)
    moved, labels = augment(images, targets, seed=0)
    inside = moved[:, :1].expand_as(labels) > 0.4
    assert set(labels.unique().tolist()) == {1, IGNORE}
    assert (labels[inside] == 1).float().mean() > 0.98
    empty = (moved[:, :1] == 0).expand_as(labels)
    assert empty.any()
    assert (labels[empty] == IGNORE).all()


def test_flips_are_even_on_both_axes() -> None:
    corner = torch.zeros(400, 1, 4, 4)
    corner[:, 0, 0, 0] = 1
    moved, _ = Augmenter(Augment(flips=True))(corner, torch.zeros(400, 1, 4, 4, dtype=torch.uint8), seed=0)
    for row, column in ((0, 0), (0, 3), (3, 0), (3, 3)):
        assert 60 < moved[:, 0, row, column].sum() < 140  # a quarter each: 100, standard deviation 9


@pytest.mark.parametrize(
    ("setting", "value"), [("brightness", 0.2), ("contrast", 0.5), ("saturation", 0.5), ("hue", 0.2), ("noise", 0.1)]
)
def test_photometry_changes_the_image_and_never_the_targets(setting: str, value: float) -> None:
    rng = torch.Generator().manual_seed(0)
    images, targets = torch.rand(2, 3, 16, 16, generator=rng) * 0.6 + 0.2, torch.randint(0, 2, (2, 2, 16, 16)).to(torch.uint8)
    moved, labels = Augmenter(Augment(flips=False, **{setting: value}))(images, targets, seed=1)
    assert torch.equal(labels, targets)
    assert (moved - images).abs().mean() > 1e-3
    assert 0 <= moved.min() <= moved.max() <= 1
    if setting == "noise":
        assert (moved - images).std() == pytest.approx(value, rel=0.15)


@pytest.mark.parametrize("setting", ["scale", "rotate", "translate"])
def test_geometry_stays_within_its_range(setting: str) -> None:
    """Of a square in the middle: its area scales by at most (1 +- s)^2, its centre moves by at most t of a side."""
    images = torch.zeros(24, 1, 64, 64)
    images[:, :, 24:40, 24:40] = 1
    value = {"scale": 0.25, "rotate": 30.0, "translate": 0.1}[setting]
    moved, _ = Augmenter(Augment(flips=False, **{setting: value}))(
        images, torch.zeros(24, 1, 64, 64, dtype=torch.uint8), seed=3
    )
    area = moved.sum((1, 2, 3)) / 256
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    shift = torch.stack([((moved[:, 0] * axis).sum((1, 2)) / moved.sum((1, 2, 3)) - 31.5).abs() for axis in (y, x)])
    low, high = (0.75**2, 1.25**2) if setting == "scale" else (1, 1)
    assert 0.93 * low < area.min() <= area.max() < 1.07 * high
    assert shift.max() < (6.9 if setting == "translate" else 0.6)
    if setting == "scale":
        assert area.max() - area.min() > 0.4
    if setting == "translate":
        assert shift.max() > 3
    else:
        assert ((moved - images).abs().sum((1, 2, 3)) > 1).all()


# Settings


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("levels.thresholds=[0.0]", "between 0 and 1"),
        ("levels.thresholds=[0.5,1.5]", "between 0 and 1"),
        ("loss.window=0", "odd"),
        ("loss.window=-1", "odd"),
        ("loss.dilation=0", "at least 1"),
        ("optimiser.batch=0", "at least 1"),
        ("loss.weight=-0.5", r"in \[0, 1000\]"),
        ("loss.weight=nan", r"in \[0, 1000\]"),
        ("optimiser.average=-0.1", r"in \[0, 1\)"),
        ("data.sharpen=0.3", "optimiser.average"),
        ("evaluate_every=0", "at least 1"),
        ("checkpoint_every=0", "at least 1"),
        ("optimiser.restarts=[0]", "must rise"),
        ("optimiser.restarts=[2,1]", "must rise"),
        ("data.maps=both", "heatmaps, refined"),
        ("loss.similarity=dice", "cosine, dot"),
        ("optimiser.name=adam", "sgd, adamw"),
        ("data.size=0", "multiple of 16"),
        ("network.norm=layer", "group, batch, instance"),
        ("network.width=0", "multiple of 4"),
        ("data.channels=2", "3 .RGB. or 1"),
        ("data.supervision=lasso", "gaze, full"),
    ],
)
def test_a_value_just_beyond_its_range_is_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_config("levels.shared_start=true", override)


@pytest.mark.parametrize(
    "override",
    [
        "levels.thresholds=[0.001,0.999]",
        "loss.window=1",
        "loss.dilation=1",
        "optimiser.batch=1",
        "optimiser.steps=1",
        "loss.weight=0",
        "optimiser.average=0.0",
        "evaluate_every=1",
        "checkpoint_every=1",
        "data.size=16",
        "network.width=4",
        "loss.dice=0",
        "optimiser.restarts=[1,2]",
    ],
)
def test_a_value_at_the_edge_of_its_range_is_taken(override: str) -> None:
    tiny_config(override)


def test_levels_that_learn_the_same_must_not_start_the_same() -> None:
    with pytest.raises(ConfigError, match="shared_start = false"):
        tiny_config("data.supervision=full", "levels.shared_start=true")
    tiny_config("data.supervision=full", "levels.shared_start=true", "levels.thresholds=[0.5]")
    tiny_config("data.supervision=full", "levels.shared_start=false")


def test_shared_levels_start_alike_and_others_do_not(
    phantoms: Path, phantom_masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[Any] = []
    spied(monkeypatch, "Ensemble", seeds)
    for shared in ("true", "false"):
        train(
            tiny_config(f"levels.shared_start={shared}", "seed=4", "optimiser.steps=1"),
            phantoms,
            phantom_masks,
            tmp_path / shared,
            device="cpu",
        )
    assert [list(arguments[2]) for arguments in seeds] == [[4, 4], [4, 5]]


def test_the_weights_of_the_loss_reach_it() -> None:
    model = small()
    images, targets = torch.rand(2, 3, 32, 32) * 255, torch.randint(0, 2, (2, 2, 32, 32))
    for settings in (Loss(weight=2.0, dice=0.5), Loss(consistency="none", dice=3.0)):
        loss, parts = loop.total_loss(model, images, targets, settings, channels_last=False)
        wanted = parts["segmentation"] + settings.dice * parts["dice_loss"] + settings.weight * parts.get("consistency", 0)
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
        assert parts["loss"] == loss.item()
