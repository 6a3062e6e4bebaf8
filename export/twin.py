"""A finished artifact in int8, for CPUs, beside the one it is made of: calibrated and held by the gate like an export's int8.

    python -m gazeseg_serve.export.twin ARTIFACT --data DATASET --out FOLDER

For artifacts whose run is no longer at hand. In place of the ensemble the gate asks the artifact itself, and the true masks.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from gazeseg_serve.contract import ARTIFACT_FOLDER, MODEL_FILE, Artifact, split_fingerprints
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.files import sha256_file, write_bytes, write_json
from gazeseg_serve.folders import refuse_overlap, staged_folder

from .fidelity import Fidelity, hold_fidelity, measure_fidelity, run_all
from .gate_images import GateImages, stack
from .quantize import CALIBRATION_IMAGES, to_int8
from .settings import LOSSY, AllowedLoss

_PARITY_FILE = "parity.json"


def int8_twin(folder: Path, data: Path, out: Path, allowed: AllowedLoss = LOSSY, split: str = "val") -> Artifact:
    """Publish the artifact in `folder` at int8 as the artifact folder `out`, if the gate holds.

    data: the dataset folder of its run, whose split must have the fingerprint that the manifest has. Raises ConfigError,
    ContractError, DatasetError or GateError.
    """
    refuse_overlap(out, folder, data)
    whole, dataset = Artifact.load(folder), Dataset.open(data)
    splits = dataset.splits(int(whole.provenance.get("seed", 0)))
    named, found = whole.provenance.get("splits", {}).get(split), split_fingerprints(splits).get(split)
    if found is None or named != found:
        raise ConfigError(f"{data} has another split {split} than the run of {folder}; pass the dataset that it was trained on")
    learned = [dataset.images[stem] for stem in splits["train"] if stem not in dataset.negatives][:CALIBRATION_IMAGES]
    spec = whole.input
    gate = GateImages(
        splits[split],
        stack([dataset.images[stem] for stem in splits[split]], spec),
        tuple(
            dataset.mask_of(stem, dataset.image(stem), len(spec.classes)) if stem in dataset.masks else None
            for stem in splits[split]
        ),
        f"images of split {split}",
    )
    with staged_folder(out, ARTIFACT_FOLDER) as made:
        write_bytes(made / MODEL_FILE, (folder / whole.model).read_bytes())
        to_int8(made / MODEL_FILE, stack(learned, spec))
        small, own = (
            run_all(OnnxRuntimeEngine(model, "cpu").run, gate.images) for model in (made / MODEL_FILE, folder / whole.model)
        )
        fidelity = measure_fidelity(small, own, gate.truths, len(spec.classes))
        hold_fidelity(fidelity, allowed)
        facts = _facts(fidelity, gate, whole)
        write_json(made / _PARITY_FILE, facts | vars(allowed))
        digests = {name: sha256_file(made / name) for name in (MODEL_FILE, _PARITY_FILE)}
        told = {key: value for key, value in facts.items() if not key.endswith("_by_image") and value is not None}
        provenance = whole.provenance | {"twin_of": whole.id}
        replace(
            whole,
            id=digests[MODEL_FILE],
            precision="int8",
            files=digests,
            parity=told,
            provenance={key: value for key, value in provenance.items() if key != "weights"},
            plan=None,
        ).save(made)
    return Artifact.load(out)


def _facts(fidelity: Fidelity, gate: GateImages, whole: Artifact) -> dict[str, object]:
    """The gate's figures. What they call the ensemble is the artifact that the twin was made of."""
    return fidelity.as_dict() | {"source": gate.source, "against": whole.id}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    made = int8_twin(options.artifact, options.data, options.out)
    print(f"{options.out}: {made.id}, {made.parity}")


if __name__ == "__main__":
    main()
