"""Distillation: its loss against a slow oracle, that a student learns, goes on where it stopped, and sees no held-out image."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import nn

from gazeseg_serve.contract import InputSpec, Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError, TrainingError
from gazeseg_serve.export.gate_images import learning_images, learning_negatives
from gazeseg_serve.export.parity import eager_ensemble
from gazeseg_serve.export.student_graph import StudentGraph, eager_student
from gazeseg_serve.training.learning import distill
from gazeseg_serve.training.learning.augment import Augmenter
from gazeseg_serve.training.learning.distill import distillation_loss, make_student, soft_targets
from gazeseg_serve.training.learning.run_folder import write_level
from gazeseg_serve.training.learning.student import Student, load_student
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble, load_ensemble

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
TINY = Student(width=4, steps=4, batch=2, precision="32-true")


def ensemble_of(classes: int = 1, levels: int = 2) -> Ensemble:
    spec = InputSpec(32, classes=tuple(f"class {i}" for i in range(classes)))
    ensemble = Ensemble(Architecture(4, "batch", 3, spec.outputs), spec, range(levels)).eval()
    with torch.no_grad():  # untrained nets answer 0.5 everywhere; make them say something
        for level in ensemble.levels:
            level.classifier.weight.mul_(20)
    return ensemble


def test_the_loss_of_one_class_is_the_sum_over_pixels_of_two_cross_entropies() -> None:
    logits, teacher = torch.randn(2, 2, 4, 4), 3 * torch.randn(3, 2, 1, 4, 4)
    wanted = 0.0
    for b in range(2):
        for y in range(4):
            for x in range(4):
                z = [float(teacher[m, b, 0, y, x]) for m in range(3)]
                each = [1 / (1 + np.exp(-v)) for v in z]
                for target, logit in (
                    (1 / (1 + np.exp(-np.mean(z))), logits[b, 0, y, x]),
                    (2 * float(np.std(each)), logits[b, 1, y, x]),
                ):
                    p = 1 / (1 + np.exp(-float(logit)))
                    wanted -= target * np.log(p) + (1 - target) * np.log(1 - p)
    assert float(distillation_loss(logits, soft_targets(teacher), 1)) == pytest.approx(wanted / 32, rel=1e-5)


def test_the_loss_of_several_classes_is_least_at_the_ensemble() -> None:
    teacher = torch.randn(1, 2, 3, 4, 4)
    target = soft_targets(teacher)
    best = distillation_loss(teacher[0], target, 3)
    p = teacher[0].softmax(dim=1)
    assert float(best) == pytest.approx(float(-(p * p.log()).sum(dim=1).mean()), rel=1e-5)
    for _ in range(5):
        assert distillation_loss(teacher[0] + 0.3 * torch.randn_like(teacher[0]), target, 3) > best


@pytest.mark.parametrize(("classes", "levels", "heads"), [(1, 2, 2), (1, 1, 1), (3, 2, 5)])
def test_a_student_has_a_head_for_each_output_of_the_contract(classes: int, levels: int, heads: int) -> None:
    ensemble = ensemble_of(classes, levels)
    student = make_student(ensemble, TINY, None).eval()
    assert student.classifier.out_channels == heads
    graph = StudentGraph(student, ensemble.spec).eval()
    with torch.no_grad():
        outputs = graph(torch.from_numpy(IMAGES[:2]))
    wanted = eager_student(student, graph)(IMAGES[:2])
    np.testing.assert_allclose(outputs[0], wanted.probability, atol=1e-5)
    assert outputs[0].shape == (2, ensemble.spec.outputs, 32, 32)
    assert len(outputs) == 1 + (levels > 1)
    if levels > 1:
        np.testing.assert_allclose(outputs[1], wanted.disagreement, atol=1e-5)
        assert 0 <= float(outputs[1].min()) <= float(outputs[1].max()) <= 0.5


def test_a_warm_start_answers_as_the_level_it_began_with() -> None:
    ensemble = ensemble_of()
    x = torch.randn(1, 3, 32, 32)
    student = make_student(ensemble, TINY, ensemble.levels[1]).eval()
    with torch.no_grad():
        torch.testing.assert_close(student(x)[:, :1], ensemble.levels[1](x))
    cold = make_student(ensemble, dataclasses.replace(TINY, norm="group"), ensemble.levels[1])
    assert any(isinstance(module, nn.GroupNorm) for module in cold.modules())


@pytest.mark.parametrize(("stride", "depth", "norm"), [(2, 5, "batch"), (1, 3, "group"), (2, 4, "instance")])
def test_a_student_may_be_of_another_build(stride: int, depth: int, norm: str) -> None:
    ensemble = ensemble_of()
    settings = Student(width=8, steps=2, batch=2, precision="32-true", stride=stride, depth=depth, norm=norm)
    student = distill.distill(ensemble, IMAGES, settings, ensemble.networks[0])  # a start that does not fit is not taken
    graph = StudentGraph(student, ensemble.spec).eval()
    with torch.no_grad():
        probability, disagreement = graph(torch.from_numpy(IMAGES))
    wanted = eager_student(student, graph)(IMAGES)
    np.testing.assert_allclose(probability, wanted.probability, atol=1e-5)
    np.testing.assert_allclose(disagreement, wanted.disagreement, atol=1e-5)
    whole = sum(p.numel() for p in make_student(ensemble, dataclasses.replace(settings, depth=5), None).parameters())
    assert (sum(p.numel() for p in student.parameters()) < whole / 2) == (depth < 5)


@pytest.mark.parametrize("views", [0, 3])
def test_a_student_comes_nearer_to_its_teacher(views: int) -> None:
    ensemble = ensemble_of()
    settings = Student(width=4, steps=40, batch=4, rate=1e-2, precision="32-true", views=views)

    def gap(student: nn.Module) -> float:
        x = ensemble.normalise(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float())
        with torch.no_grad():
            return float((student(x)[:, :1].sigmoid() - ensemble(x).mean(0).sigmoid()).abs().mean())

    assert gap(distill.distill(ensemble, IMAGES, settings)) < 0.7 * gap(make_student(ensemble, settings, None).eval())


def test_the_ensemble_is_asked_once_for_each_view(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, asked, learned = ensemble_of(), [], []
    answer = Ensemble.forward

    def forward(self: Ensemble, x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return answer(self, x)

    def loss(logits: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
        learned.append(target)
        return distillation_loss(logits, target, classes)

    monkeypatch.setattr(Ensemble, "forward", forward)
    monkeypatch.setattr(distill, "distillation_loss", loss)
    distill.distill(ensemble, IMAGES, dataclasses.replace(TINY, steps=20, views=2))
    assert sum(asked) == 2 * len(IMAGES)
    targets = torch.cat(learned)
    assert len(targets) == 40
    assert len(targets.flatten(1).unique(dim=0)) == 12  # six images, two views each, every one learned from


def test_what_is_cached_is_what_the_ensemble_says_of_that_view() -> None:
    ensemble = ensemble_of()
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    seen, said = distill.Teacher(ensemble, fabric).views(IMAGES, Augmenter(TINY.augment), dataclasses.replace(TINY, views=2))
    assert seen.shape == (12, 3, 32, 32)
    assert seen.dtype == torch.uint8
    wanted = eager_ensemble(ensemble)(seen.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(said[:, :1], wanted.probability, atol=1e-3)
    assert wanted.disagreement is not None
    np.testing.assert_allclose(said[:, 1] / 2, wanted.disagreement, atol=1e-3)
    assert not torch.equal(seen[:6], seen[6:])


def test_an_interrupted_student_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = ensemble_of()
    whole = distill.distill(ensemble, IMAGES, TINY)
    monkeypatch.setattr(distill, "_CHECKPOINT_EVERY", 1)
    calls = iter(range(10))

    def stop(*arguments: object) -> torch.Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return distillation_loss(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(distill, "distillation_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            distill.distill(ensemble, IMAGES, TINY, out=tmp_path)
    resumed = distill.distill(ensemble, IMAGES, TINY, out=tmp_path)
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=0, atol=0)
    with pytest.raises(TrainingError, match="another config"):
        distill.distill(ensemble, IMAGES, dataclasses.replace(TINY, rate=1e-4), out=tmp_path)


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    ensemble = ensemble_of()
    with torch.no_grad():
        ensemble.levels[0].classifier.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="at step 0"):
        distill.distill(ensemble, IMAGES, TINY)


def test_impossible_students_are_refused() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        Student(steps=0)
    with pytest.raises(ConfigError, match="views"):
        Student(views=-1)
    with pytest.raises(ConfigError, match="depth 6"):
        distill.distill(ensemble_of(), IMAGES, dataclasses.replace(TINY, depth=6))
    with pytest.raises(ConfigError, match="unknown precision"):
        Student(precision="int3")
    with pytest.raises(ConfigError, match="learns from images"):
        distill.distill(ensemble_of(), IMAGES[:0], TINY)


def test_a_student_never_learns_from_what_the_gate_looks_at(
    tiny_run: Path, phantoms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, _ = load_ensemble(tiny_run)
    dataset = Dataset.open(phantoms)
    held_out = run.splits["val"][0]
    with Image.open(dataset.images[held_out]) as image:
        image.save(tmp_path / "renamed.tiff")  # other bytes, the same pixels
    shutil.copy(dataset.images[run.splits["train"][0]], tmp_path / "other.png")
    caplog.set_level(logging.WARNING, "gazeseg_serve")
    images = learning_images(run, phantoms, [tmp_path])
    assert len(images) == len(run.splits["train"]) + 1
    assert "1 of 2 images" in caplog.text
    with pytest.raises(DatasetError, match="holds no image"):
        learning_images(run, phantoms, [tmp_path / "nowhere"])
    with pytest.raises(DatasetError, match="no image to learn from"):
        learning_images(run, None)


def test_a_student_is_a_run_folder_like_any_other(tmp_path: Path) -> None:
    ensemble = ensemble_of()
    teachers = run_of(ensemble, tmp_path / "teachers")
    network, made = distill.distill_run(teachers, ensemble, IMAGES, TINY, ensemble.networks[0], tmp_path / "student")
    assert made.config["origin"] == {"distilled_from": [level.sha256 for level in teachers.levels]}
    run, student = load_ensemble(tmp_path / "student")
    assert run == made
    assert run.splits == teachers.splits
    assert student.is_student
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(student(x), network(x)[None, :, :1])
    rows = (tmp_path / "student" / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,rate,loss"
    assert rows[-1].startswith("4,")


def test_a_finished_student_is_taken_as_it_is_and_no_other_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = ensemble_of()
    teachers = run_of(ensemble, tmp_path / "teachers")
    first, _ = distill.distill_run(teachers, ensemble, IMAGES, TINY, ensemble.networks[0], tmp_path / "student")

    def trained_again(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(distill, "distill", trained_again)
    again, _ = distill.distill_run(teachers, ensemble, IMAGES, TINY, ensemble.networks[0], tmp_path / "student")
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, first.state_dict()[name], rtol=0, atol=0)
    for other in (
        (teachers, IMAGES, dataclasses.replace(TINY, rate=1e-4)),
        (teachers, IMAGES[:4], TINY),
        (dataclasses.replace(teachers, levels=teachers.levels[:1]), IMAGES, TINY),
    ):
        with pytest.raises(TrainingError, match="another finished run"):
            distill.distill_run(other[0], ensemble, other[1], other[2], ensemble.networks[0], tmp_path / "student")


def test_a_student_s_file_is_checked(tmp_path: Path) -> None:
    (tmp_path / "student.toml").write_text('width = 8\nnorm = "group"\n')
    assert load_student(tmp_path / "student.toml", ["steps=7"]) == Student(width=8, norm="group", steps=7)
    assert load_student() == Student()
    with pytest.raises(ConfigError, match="unknown field 'wide'"):
        load_student(None, ["wide=8"])
    with pytest.raises(ConfigError, match="width 7"):
        load_student(None, ["width=7"])


def run_of(ensemble: Ensemble, folder: Path) -> Run:
    """The run folder of an ensemble."""
    levels = tuple(
        write_level(folder, i, network, threshold, {})
        for i, network, threshold in zip((1, 2), ensemble.networks, (0.5, 0.3), strict=True)
    )
    run = Run(ensemble.spec, dataclasses.asdict(ensemble.architecture), levels, {}, 0, {"train": ("a",), "val": ("b",)}, {}, {})
    run.save(folder)
    return run


@pytest.mark.parametrize("classes", [1, 2])
def test_what_shows_nothing_is_background_whatever_the_ensemble_says(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = ensemble_of(classes)
    white = np.full((3, 32, 32, 3), 255, np.uint8)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = distill.distillation_loss

    def watched(logits: torch.Tensor, target: torch.Tensor, count: int) -> torch.Tensor:
        seen.append((logits, target))
        return real(logits, target, count)

    monkeypatch.setattr(distill, "distillation_loss", watched)
    settings = dataclasses.replace(TINY, batch=4, negatives=0.5, zoom=(0.5, 2.0))
    distill.distill(ensemble, IMAGES, settings, empty=white)
    assert len(seen) == settings.steps
    for logits, target in seen:
        assert len(logits) == len(target) == 4
        foreground = target[2:, 1:] if classes > 1 else target[2:]
        assert not foreground.any()  # neither a class nor a disagreement
        if classes > 1:
            assert (target[2:, 0] == 1).all()
        assert target[:2].amin() > 0  # asked of the ensemble, which is never that sure


def test_negatives_are_of_the_batch_s_share_and_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, sizes = ensemble_of(), []
    answer = distill.Teacher.answer
    monkeypatch.setattr(distill.Teacher, "answer", lambda self, x: sizes.append(len(x)) or answer(self, x))
    for share, asked in ((0.0, 4), (0.25, 3), (0.99, 1)):
        sizes.clear()
        distill.distill(ensemble, IMAGES, dataclasses.replace(TINY, batch=4, negatives=share), empty=IMAGES[:2])
        assert set(sizes) == {asked}
    for wrong in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="less than 1"):
            dataclasses.replace(TINY, negatives=wrong)
    with pytest.raises(ConfigError, match=r"augment\.zoom"):
        dataclasses.replace(TINY, zoom=(2.0, 1.0))


def test_listed_negatives_are_not_asked_of_the_ensemble(lively_run: Path, phantoms: Path, tmp_path: Path) -> None:
    run = Run.load(lively_run)
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    (data / "negatives.txt").write_text("\n".join((*run.splits["train"][:2], run.splits["val"][0])))
    assert len(learning_images(run, data)) == len(run.splits["train"]) - 2
    assert len(learning_negatives(run, data)) == 2  # those of the other splits teach nothing
    with pytest.raises(DatasetError, match=r"negatives = 0\.0"):
        learning_negatives(run, phantoms)
