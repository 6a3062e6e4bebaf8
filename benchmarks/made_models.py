"""Artifacts with random weights: as fast as trained ones, for benchmarks that ask nothing of the masks."""

from __future__ import annotations

from pathlib import Path

from gazeseg_serve.contract import COLOURS, MODEL_FILE, Artifact, InputSpec, graph_inputs, graph_outputs
from gazeseg_serve.export.fuse import FusedEnsemble
from gazeseg_serve.export.onnx_graph import write_onnx
from gazeseg_serve.files import sha256_file
from gazeseg_serve.training.ensemble import Ensemble
from gazeseg_serve.training.unet import Architecture

SMALL = (Architecture(width=16, norm="batch"), InputSpec(size=128, classes=("polyp",)))  # configs/kvasir_small.toml
PAPER = (Architecture(width=64, norm="group"), InputSpec(size=224, classes=("polyp",)))  # configs/kvasir_paper.toml
LEVELS = (0, 1)


def write_small(folder: Path) -> Artifact:
    """The fused ensemble of the small preset."""
    architecture, spec = SMALL
    folder.mkdir(parents=True)
    write_onnx(FusedEnsemble(Ensemble(architecture, spec, LEVELS).eval()), spec, True, folder / MODEL_FILE)
    digest = sha256_file(folder / MODEL_FILE)
    artifact = Artifact(id=digest, strategy="fuse", precision="fp32", input=spec, inputs=graph_inputs(spec),
                        outputs=graph_outputs(spec, True), colours=COLOURS[:1], threshold=0.5,
                        files={MODEL_FILE: digest}, parity={}, provenance={"weights": "random, for benchmarks"})
    artifact.save(folder)
    return artifact
