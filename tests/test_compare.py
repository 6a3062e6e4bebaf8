"""The comparison: every way is measured, the front and the recommendation follow from the figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from damage import made_before

from gazeseg_serve.errors import ConfigError
from gazeseg_serve.export.bench import Timing
from gazeseg_serve.export.candidate import Candidate, pareto, recommend
from gazeseg_serve.export.compare import compare
from gazeseg_serve.export.fidelity import Fidelity, Truth
from gazeseg_serve.export.flops import count_flops
from gazeseg_serve.export.tools import Tools


def candidate(name: str, seconds: float, dice: float, held: bool = True) -> Candidate:
    truth = Truth(10, 0.8, dice, 0.8 - dice, 0.7 - dice, 0.9 - dice, 0.1, 0.1)
    fidelity = Fidelity(10, 0.9, 0.8, 0.01, 0.0, 0.2, 0.01, None, None, truth, (0.9,))
    timings = {1: Timing(1, 1, 10, seconds, seconds)}
    return Candidate(name, "onnxruntime-cpu", "fp32", 10**6, 10**9, timings, None, fidelity, held)


EAGER = candidate("eager", 1.0, 0.80)


def test_the_fastest_that_holds_is_recommended() -> None:
    name, reason = recommend(
        [EAGER, candidate("slow", 0.5, 0.80), candidate("quick", 0.1, 0.797), candidate("quicker", 0.05, 0.7, held=False)]
    )
    assert name == "quick"
    assert "10.0 times" in reason
    assert "+0.0030" in reason


def test_near_ties_go_to_the_better_dice() -> None:
    assert recommend([EAGER, candidate("a", 0.100, 0.796), candidate("b", 0.104, 0.799)])[0] == "b"


def test_where_nothing_holds_the_ensemble_stays() -> None:
    name, reason = recommend([EAGER, candidate("quick", 0.1, 0.5, held=False)])
    assert name == "eager"
    assert "no export holds" in reason


def test_the_front_holds_what_no_other_beats() -> None:
    a, b, c, d = candidate("a", 0.1, 0.7), candidate("b", 0.2, 0.69), candidate("c", 0.3, 0.75), candidate("d", 0.1, 0.6)
    assert [x.name for x in pareto([c, d, b, a])] == ["a", "c"]


def test_compare_measures_every_way_and_writes_one_page(
    tiny_run: Path, tiny_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    tools = Tools(trace=made_before(tiny_artifact))
    result = compare(tiny_run, phantoms, tmp_path / "out", strategies=("fuse",), seconds=0.02, threads=1, tools=tools)
    names = [c.name for c in result.candidates]
    assert names[:4] == ["ensemble in PyTorch", "fuse, fp32", "fuse, int8", "fuse, fp16"]
    eager, fused = result.candidates[:2]
    assert eager.flops == pytest.approx(count_flops(tiny_artifact / "model.onnx"), rel=0.2)  # the tail is folded away
    assert fused.held
    assert fused.fidelity is not None
    assert fused.fidelity.max_difference < 1e-4
    for c in result.candidates:
        assert set(c.timings) == {1, 8}
        assert c.peak_memory is None or 20e6 < c.peak_memory < 2e9
    assert eager.peak_memory is None or eager.peak_memory > fused.peak_memory  # type: ignore[operator]
    facts = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [c["name"] for c in facts["candidates"]] == names
    page = (tmp_path / "out" / "compare.html").read_text()
    assert result.recommended in page
    assert "<img" in page
    assert "http" not in page


def test_a_strategy_that_cannot_be_made_is_left_out(
    tiny_run: Path, tiny_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    for level in facts["levels"]:
        level["metrics"] = {}
    (run / "run.json").write_text(json.dumps(facts))
    result = compare(run, phantoms, tmp_path / "out", strategies=("best-level",), seconds=0.02, threads=1)
    assert [c.name for c in result.candidates] == ["ensemble in PyTorch"]
    assert result.recommended == "ensemble in PyTorch"
    with pytest.raises(ConfigError, match="unknown strategy 'magic'"):
        compare(run, phantoms, tmp_path / "out", strategies=("magic",))
