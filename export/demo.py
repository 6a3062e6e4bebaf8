"""The whole path on synthetic images: phantoms with simulated gaze to a proven graph, with pictures at every step."""

from __future__ import annotations

import dataclasses
import html
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gazeseg_serve.contract import Artifact, Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import require
from gazeseg_serve.files import write_bytes, write_json, write_text
from gazeseg_serve.folders import Kind, json_of, staged_folder
from gazeseg_serve.metrics import dice
from gazeseg_serve.pictures import BLUE, draw_fixations, figure, heat, outline, page, table, tint
from gazeseg_serve.png import encode_png
from gazeseg_serve.predictor import Prediction, Predictor
from gazeseg_serve.progress import log, track
from gazeseg_serve.training.gaze.fixations import read_fixations
from gazeseg_serve.training.gaze.simulate import write_phantoms
from gazeseg_serve.training.learning.config import Augment, Data, Levels, Loss, Network, Optimiser, TrainConfig
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.masks.folder import load_map
from gazeseg_serve.training.masks.make import make_masks
from gazeseg_serve.training.masks.settings import MaskSettings
from gazeseg_serve.training.scoring.evaluate import run_members

from .demo_clip import ClipScore, make_clip
from .pipeline import export_run

_SIDE = 96  # pixels, of the phantoms and the networks
_SHOWN = 6  # test images on the page, worst first and best last
_MARKER = ".gazeseg-demo"  # lists what a demo made, so that nothing else is ever replaced
STRIP = "strip.png"  # the picture of the whole way
_SCHEMA = "gazeseg-demo/1"
TRUTH = BLUE


@dataclass(frozen=True)
class DemoResult:
    """Mean Dice over the held-out phantoms, of the ensemble through the exported graph, and where everything lies."""

    dice: float
    test_images: int
    seconds: float
    page: str
    artifact: str
    sample: str
    clip: ClipScore | None = None

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Scored:
    """One held-out phantom: members' predictions (levels, ensemble), the graph's, and their Dice against the truth."""

    stem: str
    members: dict[str, Prediction]
    graph: Prediction
    dice: dict[str, float]


def demo_config(quick: bool = False) -> TrainConfig:
    """Two 8-wide UNets with propagated consistency, at a size that trains in a minute on 2 cores."""
    steps = 60 if quick else 400
    return TrainConfig(
        data=Data(size=_SIDE),
        levels=Levels((0.5, 0.3), shared_start=False),
        network=Network(8, "batch"),
        loss=Loss(),
        augment=Augment(flips=True, rotate=45.0, scale=0.2, translate=0.1, brightness=0.1, contrast=0.1, noise=0.02),
        optimiser=Optimiser("adamw", rate=4e-3, final_rate=1e-6, weight_decay=1e-2, warmup=0.1, steps=steps, batch=8),
        precision="bf16-mixed",
        evaluate_every=steps,
        checkpoint_every=steps,
    )


def run_demo(out: Path, quick: bool = False, clip: bool = False) -> DemoResult:
    """Make phantoms, masks, a run, an artifact, masks of held-out phantoms and `index.html` in the folder `out`.

    An earlier demo in `out` is replaced; ContractError where `out` holds anything else. quick: fewer phantoms and steps,
    to see that it runs. clip: a video of a phantom, too, with its true masks, in `clip/` (extra `video`).
    """
    if clip:
        require("av", "video")
    with staged_folder(out, DEMO_FOLDER) as folder:
        result = _make(folder, out, quick, clip)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        write_json(folder / _MARKER, {"schema": _SCHEMA, "files": files})
    return result


def _make(out: Path, later: Path, quick: bool, with_clip: bool) -> DemoResult:
    """Make the demo in the folder `out`, which will be called `later`."""
    start = time.monotonic()
    data, masks, run, artifact = out / "dataset", out / "masks", out / "run", out / "artifact"
    log.info("1 of 5: phantoms with simulated gaze")
    train_count, test_count = (36, 8) if quick else (117, 24)
    write_phantoms(data, train_count + test_count, _SIDE, seed=0)
    test = tuple(Dataset.open(data).images)[train_count:]
    write_text(data / "splits" / "test.txt", "\n".join(test) + "\n")
    log.info("2 of 5: gaze to pseudo-masks")
    make_masks(data, masks, MaskSettings())
    log.info("3 of 5: two networks that learn from one another")
    trained = train(demo_config(quick), data, masks, run, device="cpu")
    log.info("4 of 5: one graph, through the gate")
    exported = export_run(run, artifact, data)
    log.info("5 of 5: masks of phantoms no network saw")
    scored = _score(data, run, artifact, out / "predictions", test)
    clip = make_clip(out / "clip", artifact) if with_clip else None
    mean = float(np.mean([item.dice["graph"] for item in scored]))
    seconds = time.monotonic() - start
    write_text(out / "index.html", _page(data, masks, trained, exported, scored, seconds))
    write_bytes(out / STRIP, encode_png(_strip(data, masks, scored[len(scored) // 2])))
    sample = later / Dataset.open(data).images[test[0]].relative_to(out)
    return DemoResult(mean, len(test), seconds, str(later / "index.html"), str(later / "artifact"), str(sample), clip)


def _made(folder: Path) -> set[str] | None:
    """The files that a demo lists as its own."""
    listed = json_of(folder / _MARKER)
    files = listed.get("files")
    return {_MARKER, *files} if listed.get("schema") == _SCHEMA and isinstance(files, list) else None


DEMO_FOLDER = Kind("an earlier demo", _made)


def _score(data: Path, run: Path, artifact: Path, out: Path, stems: tuple[str, ...]) -> list[_Scored]:
    dataset, members, predictor = Dataset.open(data), run_members(run), Predictor.open(artifact, device="cpu")
    scored = []
    for stem in track(stems, "segmenting", len(stems)):
        image, truth = dataset.image(stem), dataset.mask(stem)
        each, graph = members(image), predictor.predict(image)
        write_bytes(out / f"{stem}.png", encode_png(graph.mask(), bilevel=True))
        values = {name: dice(p.mask(), truth) for name, p in (each | {"graph": graph}).items()}
        scored.append(_Scored(stem, each, graph, values))
    return sorted(scored, key=lambda item: item.dice["graph"])


def _page(data: Path, masks: Path, run: Run, artifact: Artifact, scored: list[_Scored], seconds: float) -> str:
    names = list(scored[0].dice)
    rows = [(name, float(np.mean([s.dice[name] for s in scored])), min(s.dice[name] for s in scored)) for name in names]
    picked = [scored[i] for i in np.linspace(0, len(scored) - 1, min(_SHOWN, len(scored))).round().astype(int)]
    levels = ", ".join(f"{level.threshold:g}" for level in run.levels)
    body = f"""
<p>Synthetic images, simulated gaze, {len(run.splits["train"])} images to learn from without a single mask,
{len(scored)} held out. The networks saw fixations only. True masks, in blue, serve to score. Made in {seconds:.0f} s.</p>
{table(("on the held-out phantoms", "mean Dice", "worst"), rows)}
<p>The exported graph against the PyTorch ensemble, on {artifact.parity["images"]} {html.escape(artifact.parity["source"])}:
largest difference of a probability {artifact.parity["max_difference"]:.1e}, flipped mask pixels
{100 * artifact.parity["flipped"]:.4f} %. See <code>artifact/report.html</code>.</p>
<h2>From gaze to pseudo-masks (training images)</h2>
{_gaze_rows(data, masks, run)}
<h2>From image to mask (held-out images, worst to best)</h2>
<p>Levels have thresholds {levels}. Yellow is predicted, blue is the truth.</p>
{"".join(_result_row(data, item) for item in picked)}
"""
    return page("gazeseg-serve demo", body)


def _strip(data: Path, masks: Path, item: _Scored) -> np.ndarray:
    """The whole way of one held-out phantom in a row, RGB uint8 `(H, W, 3)`: image, gaze, heatmap, pseudo-mask, mask."""
    dataset = Dataset.open(data)
    image, path = dataset.image(item.stem), read_fixations(dataset.fixations, dataset.images).paths[item.stem]
    enlarged = image.repeat(4, 0).repeat(4, 1)
    cells = {
        "image": enlarged,
        "gaze": draw_fixations(enlarged, path.x, path.y, path.duration),
        "heatmap": heat(load_map(masks, item.stem, refined=False)),
        "pseudo-mask": tint(enlarged, (load_map(masks, item.stem, refined=True) >= 0.5).repeat(4, 0).repeat(4, 1)),
        "mask of one graph": tint(enlarged, item.graph.mask().repeat(4, 0).repeat(4, 1)),
    }
    side, gap, caption = 232, 12, 26
    strip = np.full((side + caption, len(cells) * (side + gap) - gap, 3), 255, np.uint8)
    for i, (name, picture) in enumerate(cells.items()):
        left = i * (side + gap)
        strip[:side, left : left + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        place = (left, side + 18)
        cv2.putText(strip, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (60, 60, 60), 1, cv2.LINE_AA)
    return strip


def _gaze_rows(data: Path, masks: Path, run: Run) -> str:
    dataset, rows = Dataset.open(data), []
    paths = read_fixations(dataset.fixations, dataset.images).paths
    for stem in run.splits["train"][:4]:
        image, truth, path = dataset.image(stem), dataset.mask(stem), paths[stem]
        heatmap, refined = load_map(masks, stem, refined=False), load_map(masks, stem, refined=True)
        drawn = draw_fixations(image.repeat(4, 0).repeat(4, 1), path.x, path.y, path.duration)
        cells = [
            figure(image, "image"),
            figure(drawn, f"{len(path)} fixations"),
            figure(heat(heatmap), "heatmap"),
            figure(heat(refined), "refined by the CRF"),
        ]
        for i, level in enumerate(run.levels):
            cut = refined >= level.threshold
            cells.append(figure(outline(tint(image, cut), truth, TRUTH), f"pseudo-mask {i + 1}, Dice {dice(cut, truth):.2f}"))
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    return "".join(rows)


def _result_row(data: Path, item: _Scored) -> str:
    dataset = Dataset.open(data)
    image, truth = dataset.image(item.stem), dataset.mask(item.stem)
    cells = [figure(image, item.stem)]
    cells += [figure(heat(p.full_probability()[0]), f"{name}, Dice {item.dice[name]:.2f}") for name, p in item.members.items()]
    spread = item.graph.full_disagreement()
    assert spread is not None, "two levels disagree by some measure"
    cells.append(figure(heat(spread, 0.5), "disagreement, 0 to 0.5"))
    cells.append(figure(outline(tint(image, item.graph.mask()), truth, TRUTH), f"mask, Dice {item.dice['graph']:.2f}"))
    return f'<div class="row">{"".join(cells)}</div>'
