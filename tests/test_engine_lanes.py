"""On a CPU a batch is spread over threads, an image each: the same bits as the batch run whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from artifacts import write_artifact

from gazeseg_serve.contract import Artifact
from gazeseg_serve.default_model import default_artifact
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.open import open_engine


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_lanes_change_no_bit(threads: int, batch: int) -> None:
    folder = default_artifact()
    spec = Artifact.load(folder).input
    images = np.random.default_rng(batch).integers(0, 256, (batch, spec.size, spec.size, 3), dtype=np.uint8)
    whole = OnnxRuntimeEngine(folder / "model.onnx", "cpu", 1).run(images)
    spread = OnnxRuntimeEngine(folder / "model.onnx", "cpu", threads, lanes=True).run(images)
    np.testing.assert_array_equal(spread.probability, whole.probability)
    assert spread.probability.shape == (batch, 1, spec.size, spec.size)
    assert spread.disagreement is not None
    assert whole.disagreement is not None
    np.testing.assert_array_equal(spread.disagreement, whole.disagreement)


def test_a_graph_of_one_level_has_no_disagreement_in_any_lane(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path, disagreement=False)
    outputs = open_engine(tmp_path, artifact, "cpu").run(np.zeros((4, 32, 32, 3), np.uint8))
    assert outputs.disagreement is None
    assert outputs.probability.shape == (4, 1, 32, 32)
