"""What the stages agree on: InputSpec, the run folder and the artifact folder, as JSON with schema and hashes.

training --(run.json, level_<i>.safetensors)--> export --(manifest.json, model.onnx)--> service
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .clinical import ClassCodes, IntendedUse
from .errors import ContractError
from .familiar import Familiar
from .files import read_json, sha256, sha256_file, write_json
from .folders import Kind, json_of
from .onnx_file import check_self_contained
from .presence import Presence
from .records import from_dict

RUN_SCHEMA = "gazeseg-run/1"
ARTIFACT_SCHEMA = "gazeseg-artifact/1"
RUN_FILE = "run.json"
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
PLAN_FILE = "model.plan"

# Statistics of ImageNet on [0, 1], the ones every pretrained vision model uses; nobody else types them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
COLOURS = ((255, 214, 10), (0, 180, 216), (239, 71, 111), (6, 214, 160), (155, 93, 229), (251, 133, 0))

T = TypeVar("T")


@dataclass(frozen=True)
class InputSpec:
    """What a network takes. Written once by training, copied by export, obeyed by serving.

    size            side of the square input, pixels
    channels        3 (RGB) or 1 (grey)
    resize          "stretch": to size x size, area average where the image shrinks, else bilinear
    normalisation   "imagenet": (x / 255 - mean) / std; "zscore": (x - mean(x)) / std(x) per image and channel.
                    It lives inside the exported graph.
    classes         names of the foreground classes, in label order
    dtype           of the pixels that the graph takes: "uint8", or "float32", in which zscore keeps the depth of 16-bit and
                    DICOM images. Left empty, it follows the normalisation. A folder that names none was written when
                    every input was uint8, and is used so.
    window          the least and the greatest Hounsfield unit (any unit that a DICOM rescale leads to), black and white for
                    every image alike, in place of the file's own window or its least and greatest value; None for no CT
    """

    size: int
    channels: int = 3
    resize: str = "stretch"
    normalisation: str = "imagenet"
    classes: tuple[str, ...] = ("lesion",)
    dtype: str = ""
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.dtype:
            object.__setattr__(self, "dtype", "float32" if self.normalisation == "zscore" else "uint8")
        if self.size < 16 or self.size % 16:
            raise ContractError(f"input size {self.size} is not a multiple of 16, which the four poolings need")
        if self.channels not in (1, 3):
            raise ContractError(f"{self.channels} channels; use 3 (RGB) or 1 (grey)")
        if self.resize != "stretch":
            raise ContractError(f"unknown resize rule {self.resize!r}; known: stretch")
        if self.normalisation not in ("imagenet", "zscore"):
            raise ContractError(f"unknown normalisation {self.normalisation!r}; known: imagenet, zscore")
        if self.normalisation == "imagenet" and self.channels != 3:
            raise ContractError("imagenet normalisation wants 3 channels; use zscore for grey images")
        if self.dtype not in ("uint8", "float32") or (self.dtype == "float32" and self.normalisation == "imagenet"):
            raise ContractError(
                f"pixels of {self.dtype!r} with {self.normalisation} normalisation; use uint8, or with zscore float32"
            )
        if self.window is not None and not -math.inf < self.window[0] < self.window[1] < math.inf:
            raise ContractError(
                f"window {list(self.window)} is no range of Hounsfield units; give [-1000.0, 400.0], for instance"
            )
        if not self.classes:
            raise ContractError("classes is empty; name at least one foreground class")

    @property
    def outputs(self) -> int:
        """K: 1 (sigmoid) for one class, else the classes and background (softmax, background first)."""
        return 1 if len(self.classes) == 1 else len(self.classes) + 1


@dataclass(frozen=True)
class Level:
    """One peer network: its pseudo-mask threshold in (0, 1), weights file, and validation metrics by name."""

    threshold: float
    weights: str
    sha256: str
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """`run.json`: everything needed to rebuild the networks and to say where they came from."""

    input: InputSpec
    architecture: dict[str, Any]
    levels: tuple[Level, ...]
    config: dict[str, Any]
    seed: int
    splits: dict[str, tuple[str, ...]]
    fingerprints: dict[str, str]
    versions: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    schema: str = RUN_SCHEMA

    def save(self, folder: Path) -> None:
        """Write `run.json` into `folder`, beside the weights that it names."""
        write_json(folder / RUN_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: Path | str) -> Run:
        """Raises ContractError for a missing file, an unknown schema, a wrong field or a weights file that changed."""
        folder = Path(folder)
        run = _load(cls, folder / RUN_FILE, RUN_SCHEMA)
        if not run.levels:
            raise ContractError(f"{folder / RUN_FILE} names no level; train it again")
        for level in run.levels:
            _check_file(folder, level.weights, level.sha256)
        return run


@dataclass(frozen=True)
class Tensor:
    """One input or output of the graph: dtype, and the axes' names or sizes in order."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]


@dataclass(frozen=True)
class Machine:
    """What a TensorRT plan is tied to: the GPU's name, its compute capability ("9.0") and TensorRT's version."""

    gpu: str
    capability: str
    tensorrt: str


PLAN_PRECISIONS = ("fp32", "fp16")  # TensorRT's int8 has no zero points here


@dataclass(frozen=True)
class Plan:
    """A TensorRT plan beside the graph: its file, and the machine it was built and proven on."""

    file: str
    machine: Machine


@dataclass(frozen=True)
class Artifact:
    """`manifest.json`: what the graph is, what it takes and gives, how good it is and where it came from.

    id is the sha256 of the model file. `files` holds the sha256 of every other file of the folder, too. plan: of an
    export for TensorRT; elsewhere the graph is built anew. presence: from where on an image is taken to show anything; None
    where there were no images without a target to choose that on. familiar: what the learning images looked like, None where
    they were not at hand. intended_use, codes (one a class): what
    DICOM needs to know; manifests from before them have neither, and are used for any image.
    """

    id: str
    strategy: str
    precision: str
    input: InputSpec
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    colours: tuple[tuple[int, int, int], ...]
    threshold: float
    files: dict[str, str]
    parity: dict[str, Any]
    provenance: dict[str, Any]
    model: str = MODEL_FILE
    plan: Plan | None = None
    presence: Presence | None = None
    familiar: Familiar | None = None
    intended_use: IntendedUse | None = None
    codes: tuple[ClassCodes, ...] = ()
    schema: str = ARTIFACT_SCHEMA

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`, beside the files that it names."""
        write_json(folder / MANIFEST_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: Path | str) -> Artifact:
        """Raises ContractError for a missing file, an unknown schema, a wrong field or a file that changed."""
        folder = Path(folder)
        artifact = _load(cls, folder / MANIFEST_FILE, ARTIFACT_SCHEMA)
        if artifact.inputs != graph_inputs(artifact.input):
            raise ContractError(
                f"{folder}: the graph's input is declared as {artifact.inputs}, its InputSpec asks for "
                f"{graph_inputs(artifact.input)}; export the run again"
            )
        if artifact.outputs != graph_outputs(artifact.input, artifact.has_disagreement):
            raise ContractError(
                f"{folder}: the graph's outputs are declared as {artifact.outputs}, its InputSpec asks for "
                f"{graph_outputs(artifact.input, artifact.has_disagreement)}; export the run again"
            )
        if not 0 <= artifact.threshold <= 1:  # False for NaN, too
            raise ContractError(f"{folder}: the threshold is {artifact.threshold}; write one from 0 to 1")
        if len(artifact.colours) != len(artifact.input.classes) or not all(
            0 <= value <= 255 for colour in artifact.colours for value in colour
        ):
            raise ContractError(f"{folder}: the colours are {artifact.colours}; write three numbers from 0 to 255 a class")
        if artifact.files.get(artifact.model) != artifact.id:
            raise ContractError(f"{folder}: the id is {artifact.id}, the model's hash {artifact.files.get(artifact.model)}")
        if artifact.codes and len(artifact.codes) != len(artifact.input.classes):
            raise ContractError(
                f"{folder}: {len(artifact.codes)} codes for {len(artifact.input.classes)} classes; write one a class, or none"
            )
        for name, digest in artifact.files.items():
            _check_file(folder, name, digest)
        check_self_contained(folder / artifact.model)
        return artifact

    @property
    def has_disagreement(self) -> bool:
        return any(output.name == "disagreement" for output in self.outputs)


def _made(folder: Path) -> set[str] | None:
    """The files that an artifact folder names as its own."""
    manifest = json_of(folder / MANIFEST_FILE)
    files = manifest.get("files")
    return {MANIFEST_FILE, *files} if manifest.get("schema") == ARTIFACT_SCHEMA and isinstance(files, dict) else None


ARTIFACT_FOLDER = Kind(f"an artifact folder ({MANIFEST_FILE})", _made)


def graph_inputs(spec: InputSpec) -> tuple[Tensor, ...]:
    return (Tensor("image", spec.dtype, ("batch", spec.size, spec.size, spec.channels)),)


def graph_outputs(spec: InputSpec, disagreement: bool) -> tuple[Tensor, ...]:
    """`probability`, and with `disagreement` the standard deviation of the levels' probabilities.

    With several classes the disagreement is the mean over the classes of that deviation.
    """
    probability = Tensor("probability", "float32", ("batch", spec.outputs, spec.size, spec.size))
    deviation = Tensor("disagreement", "float32", ("batch", spec.size, spec.size))
    return (probability, deviation) if disagreement else (probability,)


def split_fingerprints(splits: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """What an artifact tells of the splits: their sizes and hashes. Image names may name patients, so they stay home."""
    return {name: {"images": len(stems), "sha256": sha256("\n".join(sorted(stems)).encode())} for name, stems in splits.items()}


def is_run(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file()


def is_artifact(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).is_file()


def _check_file(folder: Path, name: str, expected: str) -> None:
    # By its name alone: the file itself may be a link, as in the caches of model hubs and in Kubernetes' volumes.
    path = folder / name
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ContractError(f"{folder}: {name!r} is not the name of a file in the folder")
    if not path.is_file():
        raise ContractError(f"{path} is missing; copy the whole folder")
    found = sha256_file(path)
    if found != expected:
        raise ContractError(f"{path} has sha256 {found}, but {expected} is recorded; it changed after it was written")


def _load(cls: type[T], path: Path, schema: str) -> T:
    data = read_json(path)
    found = data.get("schema") if isinstance(data, dict) else None
    if found != schema:
        raise ContractError(f"{path} has schema {found!r}, this version reads {schema!r}; write the folder again")
    if isinstance(data.get("input"), dict):
        data["input"].setdefault("dtype", "uint8")  # before inputs had a dtype, all were of bytes
    return from_dict(cls, data, str(path))
