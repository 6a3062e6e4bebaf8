"""Everything that has a GPU side, in one run of at most ten minutes, into one JSON and one page.

    make gpu                          or, where packages come from a folder without a network: make gpu WHEELS=wheels
    python -W ignore benchmarks/gpu.py --out benchmarks/results/gpu.json --page docs/performance/gpu-measured.md
    python -W ignore benchmarks/gpu.py --device cpu --tiny --out /tmp/gpu.json        the rehearsal, in a minute

Every part runs in a process of its own within what is left of the time; what it cannot do stands in the JSON in its own
words. Run again with the same --out it keeps what is done and does the rest. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import gpu_loads as loads  # noqa: E402
import gpu_parts as parts  # noqa: E402
from gpu_parts import Bench  # noqa: E402

from gazeseg_serve.files import write_text  # noqa: E402

_LEAST_SECONDS = 5  # what is left for a part that is still begun


def all_parts(device: str) -> dict[str, Callable[[Bench], dict[str, Any]]]:
    """By name, in the order that they are done: what the others need first, then what is asked for most."""
    found: dict[str, Callable[[Bench], dict[str, Any]]] = {"machine": parts.machine, "graphs": parts.graphs}
    found["eager fp32"] = lambda bench: parts.eager(bench, "fp32", False)
    found["sessions in turn fp32"] = parts.sessions
    for precision in ("fp32", "fp16"):
        found[f"onnxruntime-{device} {precision}"] = lambda b, p=precision: parts.provider(b, device, p)
    for server in ("service", "onnxruntime", "torch"):
        found[f"served by {server}"] = lambda bench, server=server: loads.served(bench, server)
    found["decoding"] = loads.decoding
    for version in ("shifts", "unfold"):
        found[f"training, LPP by {version}"] = lambda bench, version=version: loads.training(bench, version)
    for precision in ("fp32", "fp16"):
        if device == "cuda":
            found[f"onnxruntime-tensorrt {precision}"] = lambda b, p=precision: parts.provider(b, "tensorrt", p)
        found[f"TensorRT plan {precision}"] = lambda bench, p=precision: parts.plan(bench, p)
    found["eager fp16"] = lambda bench: parts.eager(bench, "fp16", False)
    found["torch.compile fp32"] = lambda bench: parts.eager(bench, "fp32", True)
    return found


def bench_of(device: str, tiny: bool, folder: Path) -> Bench:
    bench = Bench(device, folder)
    if not tiny:
        return bench
    return replace(bench, size=32, width=4, batches=(1, 2), clients=(1, 2), seconds=0.01, load_seconds=0.3, steps=3)


def run_all(out: Path, device: str, tiny: bool, seconds: float, only: list[str] | None = None) -> dict[str, Any]:
    """Do every part that `out` does not hold yet, and write it anew after each."""
    setting = {"device": device, "tiny": tiny}
    report: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else setting | {"parts": {}, "could_not": {}}
    if {key: report[key] for key in setting} != setting:
        raise SystemExit(f"{out} was measured with {[report[key] for key in setting]}, not {[*setting.values()]}; name another")
    end = time.monotonic() + seconds
    for name in all_parts(device):
        if name in report["parts"] or (only is not None and name not in only):
            continue
        left = end - time.monotonic()
        done, why = (None, "the time was over; run it again") if left < _LEAST_SECONDS else one(name, out, device, tiny, left)
        report["could_not"].pop(name, None)
        report["parts" if done is not None else "could_not"][name] = done if done is not None else why
        report["ratios"] = ratios(report["parts"])
        write_text(out, json.dumps(report, indent=2) + "\n")
        print(f"{name}: {'done' if done is not None else why}", flush=True)
    return report


def one(name: str, out: Path, device: str, tiny: bool, seconds: float) -> tuple[dict[str, Any] | None, str]:
    """A part in a process of its own: what it gives, or why it gives nothing."""
    command = [sys.executable, "-W", "ignore", str(HERE / "gpu.py"), "--part", name, "--device", device, "--out", str(out)]
    try:
        done = subprocess.run(
            [*command, *(["--tiny"] if tiny else [])], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"it was not done within the {seconds:.0f} s that were left"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1][:500]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, ""


def ratios(done: dict[str, Any]) -> dict[str, float]:
    """What is held to a limit: fused against sessions in turn at batch 1, the service against the unbatched peer, shares."""
    found: dict[str, float] = {}
    turn, flops = done.get("sessions in turn fp32"), done.get("graphs", {}).get("flops_an_image")
    for name, part in done.items():
        if "batches" not in part:
            continue
        if turn is not None and part is not turn:
            found[f"{name}: times sessions in turn at batch 1"] = turn["batches"]["1"]["ms"] / part["batches"]["1"]["ms"]
        limit = done.get("machine", {}).get(f"flops_{name.rpartition(' ')[2]}")
        if flops and limit:
            best = max(row["images_per_second"] for row in part["batches"].values())
            found[f"{name}: share of the matrix product"] = best * flops / limit
    service = done.get("served by service")
    for peer in ("onnxruntime", "torch"):
        other = done.get(f"served by {peer}")
        if service and other:
            for clients, row in service["clients"].items():
                speed = other["clients"][clients]["images_per_second"]
                if speed:
                    found[f"service to {peer} at {clients} clients"] = row["images_per_second"] / speed
    a, b = done.get("training, LPP by unfold"), done.get("training, LPP by shifts")
    if a and b:
        found["LPP step, unfold to shifts"] = a["ms_a_step"] / b["ms_a_step"]
    return {name: round(value, 3) for name, value in found.items()}


def page(report: dict[str, Any]) -> str:
    """The report in Markdown: what was measured, what it comes to, and what could not be run."""
    text = ["# Measured on a GPU" if report["device"] == "cuda" else "# A rehearsal on a CPU: no figure here is a GPU's", ""]
    text += ["| engine | batch | ms | images/s |", "|---|---|---|---|"]
    for name, part in report["parts"].items():
        for size, row in part.get("batches", {}).items():
            text.append(f"| {name} | {size} | {row['ms']} | {row['images_per_second']} |")
    text += ["", "| server | clients | images/s | p50 ms | p99 ms |", "|---|---|---|---|---|"]
    for name, part in report["parts"].items():
        for clients, row in part.get("clients", {}).items():
            text.append(f"| {name} | {clients} | {row['images_per_second']} | {row['p50_ms']} | {row['p99_ms']} |")
    text += ["", "## Ratios", "", *(f"- {name}: {value}" for name, value in report.get("ratios", {}).items())]
    for name, part in report["parts"].items():
        flat = {key: value for key, value in part.items() if not isinstance(value, dict)}
        text += ["", f"**{name}**: " + ", ".join(f"{key} {value}" for key, value in flat.items())] if flat else []
    text += ["", "## What could not be run", ""]
    text += [f"- {name}: {why}" for name, why in report["could_not"].items()] or ["Nothing: everything was run."]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file; what it holds already is kept")
    parser.add_argument("--page", type=Path, help="a Markdown file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a rehearsal")
    parser.add_argument("--minutes", type=float, default=9.5, help="of the whole; what does not fit is left for the next run")
    parser.add_argument("--only", nargs="+", help="names of parts")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.part:
        bench = bench_of(options.device, options.tiny, options.out.with_suffix(".graphs"))
        print(json.dumps(all_parts(options.device)[options.part](bench)))
        return
    report = run_all(options.out, options.device, options.tiny, 60 * options.minutes, options.only)
    if options.page:
        write_text(options.page, page(report))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
