"""Local Pixel Propagation in a training step: the sum over shifts against the unfold version, the definition.

    python benchmarks/lpp.py [--rounds 5] [--cases paper,small,step] [--out benchmarks/results/lpp.json]

Forward and backward from a level's features to the gradients of features, classifier and loss. Every version runs in its
own process: time is the median of the rounds; memory is the peak of the process above that of one that does everything
but the propagation. `paper`: 128 channels at 224 px; `small`: configs/first_prop.toml, 32 channels at 128 px, batch 8;
`step`: a whole training step of two of the small preset's networks, with each version and without LPP. The versions'
numbers are compared too. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gazeseg_serve.training.learning import loop
from gazeseg_serve.training.learning.config import load_config
from gazeseg_serve.training.networks.ensemble import Ensemble
from gazeseg_serve.training.networks.lpp import propagated_logits

SIZES = {"paper": (1, 128, 224), "small": (8, 32, 128)}  # batch, channels, side
VERSIONS = ("without", "unfold", "shifts")
SMALL = Path(__file__).parents[1] / "configs" / "first_prop.toml"


def unfold_logits(
    features: Tensor, logits: Tensor, classifier: nn.Conv2d, similarity: str, window: int, dilation: int
) -> Tensor:
    """classifier(LPP(features)) as the equation says it, all 25 neighbours' features side by side."""
    features = features.contiguous()  # channels-last is slower for it
    B, C, H, W = features.shape
    f = F.normalize(features, dim=1) if similarity == "cosine" else features
    reach, count = window // 2 * dilation, window**2
    near = F.unfold(f, window, dilation=dilation, padding=reach).view(B, C, count, H, W)
    weights = (near * f.unsqueeze(2)).sum(1).clamp_min(0).softmax(dim=1)
    if similarity == "cosine":
        near = F.unfold(features, window, dilation=dilation, padding=reach).view(B, C, count, H, W)
    return classifier((near * weights.unsqueeze(1)).sum(2))


def shift_logits(
    features: Tensor, logits: Tensor, classifier: nn.Conv2d, similarity: str, window: int, dilation: int
) -> Tensor:
    assert classifier.bias is not None
    return propagated_logits(features, logits, classifier.bias, similarity, window, dilation)


def propagation(version: str, batch: int, channels: int, side: int, rounds: int, similarity: str) -> dict[str, object]:
    """Forward and backward of one level's propagation; `without` stops at the logits."""
    torch.manual_seed(0)
    features = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    classifier, weight = nn.Conv2d(channels, 1, 1), torch.rand(batch, 1, side, side)
    work = {"unfold": unfold_logits, "shifts": shift_logits}
    times = []
    for _ in range(rounds + 1):
        features.grad = None
        classifier.zero_grad()
        start = time.perf_counter()
        logits = classifier(features)
        pupil = work[version](features, logits, classifier, similarity, 5, 2) if version in work else logits
        (pupil.sigmoid() * weight).mean().backward()
        times.append(time.perf_counter() - start)
    assert features.grad is not None
    assert classifier.weight.grad is not None
    numbers = {"pupil": pupil.detach(), "gradient": features.grad * features.numel(), "classifier": classifier.weight.grad}
    return {"seconds": sorted(times[1:])[rounds // 2], "peak": peak(), "numbers": numbers}


def step(version: str, rounds: int) -> dict[str, object]:
    """A whole training step of the small preset on noise: forward, loss, backward, optimiser."""
    config = load_config(SMALL, ["loss.consistency=pure"] if version == "without" else [])
    if version == "unfold":
        loop.propagated_logits = lambda f, r, bias, *settings: unfold_logits(f, r, classifier_of[id(bias)], *settings)
    torch.manual_seed(0)
    model = Ensemble(config.architecture, config.input_spec, [0, 1]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier_of = {id(level.classifier.bias): level.classifier for level in model.networks}
    optimiser = loop.make_optimiser(config.optimiser, model)
    size = (config.optimiser.batch, 3, config.data.size, config.data.size)
    images, targets = torch.rand(size) * 255, torch.randint(0, 2, (2, size[0], *size[2:]), dtype=torch.uint8)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = loop.total_loss(model, images, targets, config.loss, True)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    return {"seconds": sorted(times[1:])[rounds // 2], "peak": peak(), "numbers": {}}


def peak() -> float:
    """Peak resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def in_own_process(case: str, version: str, rounds: int, similarity: str, numbers: Path) -> dict[str, float]:
    command = [
        sys.executable,
        __file__,
        "--rounds",
        str(rounds),
        "--similarity",
        similarity,
        "--one",
        case,
        version,
        str(numbers),
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def compare(case: str, rounds: int, similarity: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        files = {version: Path(folder) / f"{version}.safetensors" for version in VERSIONS}
        found = {version: in_own_process(case, version, rounds, similarity, files[version]) for version in VERSIONS}
        difference = largest_difference(files["unfold"], files["shifts"]) if case in SIZES else None
    base = found["without"]
    extra = {version: found[version]["peak"] - base["peak"] for version in VERSIONS[1:]}
    seconds = {version: found[version]["seconds"] for version in VERSIONS}
    row: dict[str, object] = {
        "case": case,
        "seconds": seconds,
        "extra_peak_mb": extra,
        "peak_mb_without": base["peak"],
        "memory_ratio": extra["shifts"] / extra["unfold"],
        "time_ratio": seconds["shifts"] / seconds["unfold"],
        "largest_difference": difference,
    }
    print(
        f"{case}: unfold {1e3 * seconds['unfold']:.0f} ms, {extra['unfold']:.0f} MB; shifts "
        f"{1e3 * seconds['shifts']:.0f} ms, {extra['shifts']:.0f} MB; without {1e3 * seconds['without']:.0f} ms; time "
        f"{row['time_ratio']:.2f}, memory {row['memory_ratio']:.3f}, largest difference {difference}",
        flush=True,
    )
    return row


def largest_difference(first: Path, second: Path) -> float:
    """Over pupil logits and gradients (of features: times their number, so that they are of the size of one)."""
    a, b = load_file(first), load_file(second)
    return max((a[name] - b[name]).abs().max().item() for name in a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default="paper,small,step")
    parser.add_argument("--similarity", default="cosine")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case, version, numbers = options.one
        result = (
            propagation(version, *SIZES[case], options.rounds, options.similarity)
            if case in SIZES
            else step(version, options.rounds)
        )
        save_file({k: v.contiguous() for k, v in result.pop("numbers").items()}, numbers)
        print(json.dumps(result))
        return
    rows = [compare(case, options.rounds, options.similarity) for case in options.cases.split(",")]
    record = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "similarity": options.similarity,
        "cases": rows,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
