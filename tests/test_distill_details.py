"""Distillation, step by step: views, rates, checkpoints, starts and the settings' ranges."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from test_distill import IMAGES, TINY, ensemble_of

from gazeseg_serve.errors import ConfigError
from gazeseg_serve.training.learning import distill as room
from gazeseg_serve.training.learning.augment import Augmenter
from gazeseg_serve.training.learning.distill import Teacher, augmented, distill, make_student, soft_targets
from gazeseg_serve.training.learning.optimise import rate_at
from gazeseg_serve.training.learning.student import Student


def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    right, seen = getattr(room, name), []

    def spy(*arguments: Any) -> Any:
        seen.append(arguments)
        return right(*arguments)

    monkeypatch.setattr(room, name, spy)
    return seen


def test_each_step_sees_views_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied(monkeypatch, "augmented")
    distill(ensemble_of(), IMAGES, dataclasses.replace(TINY, steps=5))
    seeds = [seed for _, _, seed in seen]
    assert len(set(seeds)) == 5
    other = spied(monkeypatch, "augmented")
    distill(ensemble_of(), IMAGES, dataclasses.replace(TINY, steps=5, seed=1))
    assert not set(seeds) & {seed for _, _, seed in other}


def test_two_seeds_are_two_views_of_the_same_images_in_the_same_type() -> None:
    augment = Augmenter(TINY.augment)
    first, again, other = (augmented(augment, IMAGES, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.dtype, first.shape) == (torch.uint8, (6, 3, 32, 32))
    assert first.max() > 200
    assert augmented(augment, IMAGES.astype(np.float32) / 255, 1).dtype == torch.float32


def test_views_that_are_known_are_of_every_image_and_all_different() -> None:
    teacher = Teacher(ensemble_of(), Fabric(accelerator="cpu", devices=1, precision="32-true"))
    images, answers = teacher.views(IMAGES, Augmenter(TINY.augment), dataclasses.replace(TINY, views=3, batch=4))
    assert images.shape == (18, 3, 32, 32)
    assert answers.shape == (18, 2, 32, 32)
    assert answers.dtype == torch.float16
    assert len({view.numpy().tobytes() for view in images}) == 18
    torch.testing.assert_close(teacher.answer(images[13:14]).half(), answers[13:14], atol=2e-3, rtol=0)


def test_the_rate_of_each_step_is_the_schedule_s(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    right = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *rest: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        assert self.param_groups[0]["weight_decay"] == 1e-2
        return right(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    settings = dataclasses.replace(TINY, steps=20)
    distill(ensemble_of(), IMAGES, settings)
    assert rates == [rate_at(step, settings.schedule) for step in range(20)]
    assert max(rates) == pytest.approx(settings.rate, rel=0.05)
    assert rates[0] < 0.5 * settings.rate
    assert rates[-1] < 0.05 * settings.rate


def test_the_state_is_kept_on_the_way_and_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "_CHECKPOINT_EVERY", 3)
    seen = spied(monkeypatch, "save_checkpoint")
    distill(ensemble_of(), IMAGES, dataclasses.replace(TINY, steps=8), out=tmp_path / "k")
    assert [step for _, step, *_ in seen] == [3, 6, 8]
    seen.clear()
    asked = spied(monkeypatch, "augmented")
    distill(ensemble_of(), IMAGES, dataclasses.replace(TINY, steps=8), out=tmp_path / "k")
    assert (seen, asked) == ([], []), "a finished one is taken as it is"


def test_the_ensemble_s_answer_is_its_probability_and_twice_the_levels_deviation() -> None:
    logits = torch.randn(3, 2, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    found = soft_targets(logits).numpy()
    each = 1 / (1 + np.exp(-logits.numpy()))
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp(-logits.numpy().mean(0)[:, 0])), atol=1e-6)
    np.testing.assert_allclose(found[:, 1], 2 * each.std(0)[:, 0], atol=1e-6)
    assert soft_targets(logits[:1]).shape == (2, 1, 4, 5)


@pytest.mark.parametrize(
    ("change", "warm"),
    [
        ({}, True),
        ({"warm_start": False}, False),
        ({"width": 8}, False),
        ({"norm": "group"}, False),
        ({"depth": 4}, False),
        ({"stride": 2}, False),
    ],
)
def test_a_level_is_the_start_only_where_everything_fits(change: dict[str, Any], warm: bool) -> None:
    ensemble = ensemble_of()
    student = make_student(ensemble, dataclasses.replace(TINY, **change), ensemble.networks[1])
    mine, its = (dict(network.backbone.named_parameters()) for network in (student, ensemble.networks[1]))
    same = mine.keys() == its.keys() and all(mine[k].shape == its[k].shape and torch.equal(mine[k], its[k]) for k in its)
    assert same == warm


@pytest.mark.parametrize(
    "change",
    [
        {"views": -1},
        {"steps": 0},
        {"batch": 0},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"precision": "fp8"},
        {"norm": "layer"},
        {"encoder": "vgg"},
        {"depth": 6},
    ],
)
def test_a_student_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_student(ensemble_of(), dataclasses.replace(TINY, **change), None)


def test_a_student_at_the_edge_of_its_settings_is_taken() -> None:
    Student(views=0, steps=1, batch=1, rate=1e-9)
    schedule = Student(rate=0.01, steps=50, batch=4).schedule
    assert (schedule.name, schedule.rate, schedule.final_rate, schedule.warmup, schedule.steps, schedule.batch) == (
        "adamw",
        0.01,
        1e-5,
        0.1,
        50,
        4,
    )


def test_a_student_learns_in_training_mode_and_comes_back_in_eval_mode_and_the_ensemble_is_left_as_it_was() -> None:
    ensemble = ensemble_of()
    before = [p.clone() for p in ensemble.parameters()]
    student = distill(ensemble, IMAGES, TINY)
    assert not student.training
    assert all(torch.equal(a, b) for a, b in zip(before, ensemble.parameters(), strict=True))
    assert all(not p.isnan().any() for p in student.parameters())
    with pytest.raises(ConfigError, match="learns from images"):
        distill(ensemble, IMAGES[:0], TINY)
