"""The table of annotation schemes: every subset of levels, figures by another way, minutes, pictures."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.imaging import read_image
from gazeseg_serve.pixels import resize_image, resize_labels
from gazeseg_serve.training.networks.ensemble import load_ensemble


def test_the_table_of_schemes(
    lively_run: Path, phantoms: Path, phantom_masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    schemes = importlib.import_module("annotation_schemes")
    out = tmp_path / "out"
    arguments = [str(phantoms), "--run", f"gaze={lively_run}", "--run", f"box={lively_run}", "--gaze", str(phantom_masks)]
    monkeypatch.setattr(sys, "argv", ["annotation_schemes.py", *arguments, "--out", str(out)])
    schemes.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["scheme"] for row in rows] == [f"{s}: {t}" for s in ("gaze", "box") for t in ("0.5", "0.3", "0.5 + 0.3")]

    run, ensemble = load_ensemble(lively_run)
    data, each, marked, true, both = Dataset.open(phantoms), [], 0, 0, 0
    for stem in run.splits["val"]:
        image = resize_image(data.image(stem), (32, 32))
        truth = resize_labels(data.mask(stem), (32, 32)) == 1
        with torch.no_grad():
            logits = ensemble(ensemble.normalise(torch.from_numpy(image).permute(2, 0, 1)[None].float()))
        found = (logits.mean(0)[0, 0] >= 0).numpy()
        each.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
        marked, true, both = marked + found.sum(), true + truth.sum(), both + (found & truth).sum()
    whole = rows[2]
    assert whole["dice"] == pytest.approx(np.mean(each), abs=1e-6)
    assert whole["low"] <= whole["dice"] <= whole["high"]
    assert (whole["precision"], whole["recall"]) == (pytest.approx(both / marked), pytest.approx(both / true))
    assert whole["area"] == pytest.approx(marked / true)

    with (phantom_masks / "quality.csv").open() as file:
        seconds = {row["image"]: float(row["viewing_seconds"] or 0) for row in csv.DictReader(file)}
    assert whole["minutes"] == pytest.approx(sum(seconds[stem] for stem in run.splits["train"]) / 60)
    assert rows[5]["minutes"] == pytest.approx(len(run.splits["train"]) * 7 / 60)
    assert (out / "schemes.md").read_text().count("\n") == 2 + len(rows)
    shown = read_image(out / "predictions.png")
    assert shown.shape[1] == 32 * (1 + len(rows))
    assert read_image(out / "curve.png").std() > 5  # something is drawn
