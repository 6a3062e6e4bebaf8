"""The parts of benchmarks/gpu.py that put a load on the machine: servers, decoding, training. See gpu_parts.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_parts import Bench, median_seconds, memory_mib

from gazeseg_serve.contract import COLOURS, MODEL_FILE, Artifact, graph_inputs, graph_outputs
from gazeseg_serve.files import sha256_file


def artifact_of(bench: Bench) -> Path:
    """The fused graph as an artifact folder, for the servers."""
    folder = bench.folder / "artifact"
    folder.mkdir(exist_ok=True)
    (folder / MODEL_FILE).write_bytes((bench.folder / "fp32.onnx").read_bytes())
    digest, spec = sha256_file(folder / MODEL_FILE), bench.spec
    Artifact(
        id=digest, strategy="fuse", precision="fp32", input=spec, inputs=graph_inputs(spec), outputs=graph_outputs(spec, True),
        colours=COLOURS[:1], threshold=0.5, files={MODEL_FILE: digest}, parity={}, provenance={"made by": "benchmarks/gpu.py"},
    ).save(folder)  # fmt: skip
    return folder


def served(bench: Bench, name: str) -> dict[str, Any]:
    """A server on the device at each number of clients, by the load generator of benchmarks/load.py."""
    import asyncio

    from http_service import PORT, photographs, started
    from load import closed_loop, request_of

    requests, found = [request_of(file) for file in photographs()], {}
    settings = {"GAZESEG_DEVICE": bench.device, "DEVICE": bench.device, "SIZE": str(bench.size), "WIDTH": str(bench.width)}
    settings |= {"GAZESEG_CLIENT_SHARE": "1", "GAZESEG_MAX_QUEUE": str(2 * max(bench.clients))}
    before = memory_mib(bench)
    with started(name, artifact_of(bench), bench.folder / f"{name}.log", **settings):
        asyncio.run(closed_loop(PORT, requests, 4, bench.load_seconds / 2))
        for clients in bench.clients:
            found[str(clients)] = asyncio.run(closed_loop(PORT, requests, clients, bench.load_seconds)).summary()
        used = memory_mib(bench) - before
    return {"clients": found, "memory_mib": used}


def decoding(bench: Bench) -> dict[str, Any]:
    """What the CPU can decode and shrink: the next limit once the GPU is fast enough."""
    from http_service import photographs

    from gazeseg_serve import cpus
    from gazeseg_serve.imaging import decode_image
    from gazeseg_serve.pixels import resize_image

    file = photographs(1)[0]
    seconds = median_seconds(lambda: resize_image(decode_image(file), (bench.size, bench.size)), bench)
    return {"ms_an_image": round(1000 * seconds, 3), "images_per_second_all_cpus": round(cpus.available() / seconds, 1)}


def training(bench: Bench, version: str) -> dict[str, Any]:
    """Steps of the paper's preset with LPP, as the sum over shifts or as the unfold version; on noise."""
    import torch
    from lpp import unfold_logits

    from gazeseg_serve.training.learning import loop
    from gazeseg_serve.training.learning.config import load_config
    from gazeseg_serve.training.networks.ensemble import Ensemble

    path = Path(__file__).parents[1] / "configs" / "kvasir_paper.toml"
    config = load_config(path, [f"data.size={bench.size}", f"network.width={bench.width}"])
    model = Ensemble(config.architecture, config.input_spec, [0, 1]).to(bench.device)
    if version == "unfold":
        of = {id(level.classifier.bias): level.classifier for level in model.networks}
        loop.propagated_logits = lambda f, r, bias, *settings: unfold_logits(f, r, of[id(bias)], *settings)
    optimiser = loop.make_optimiser(config.optimiser, model)
    batch, side = (config.optimiser.batch if bench.device == "cuda" else 1), bench.size
    images = torch.rand((batch, 3, side, side), device=bench.device) * 255
    targets = torch.randint(0, 2, (2, batch, side, side), dtype=torch.uint8, device=bench.device)

    def one() -> None:
        loss, _ = loop.total_loss(model, images, targets, config.loss, False)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    before, times = memory_mib(bench), []
    for _ in _within(bench.steps, 60 * bench.load_seconds / 4):
        began = time.perf_counter()
        one()
        if bench.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() >> 20 if bench.device == "cuda" else memory_mib(bench) - before
    return {"steps": len(times), "batch": batch, "ms_a_step": round(1000 * statistics.median(times), 2), "peak_mib": peak}


def _within(count: int, seconds: float) -> Iterable[int]:
    """0, 1, ... up to `count` of them, as long as `seconds` are not over; at least three."""
    end = time.perf_counter() + seconds
    for number in range(count):
        if number > 2 and time.perf_counter() > end:
            return
        yield number
