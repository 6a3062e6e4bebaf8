"""The straight way of a small plain image where the engine runs on the CPU: decoded, computed and encoded by one thread.

On a CPU a batch is no faster than its images one by one, so images that wait for company only wait, and every change of
thread costs caches and a turn of the interpreter. As many go the straight way at once as there are CPUs, in their order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gazeseg_serve.pixels import Limits

from .codec_tasks import Content, OutputOptions, Purpose, compare, encode, prepare
from .model_host import ModelHost
from .negotiate import hashed_tag


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of each part; distance: as `Steps` has it; tag: the answer's ETag."""

    decode: float
    engine: float
    encode: float
    distance: float | None
    tag: str


def go_straight(
    host: ModelHost, data: bytes, options: OutputOptions, limits: Limits, alone: Callable[[], bool]
) -> tuple[Content, Parts]:
    """The answer to the image file `data`. alone: whether nobody else is under way, asked when the engine's turn comes: the
    engine then takes all CPUs for this image, else one. Raises ImageError, ConfigError or EngineError.
    """
    began = time.perf_counter()
    tag = hashed_tag(host.artifact.id, repr(options), data)  # of what was asked for
    purpose = Purpose(host.artifact.intended_use, options.force)
    prepared, size = prepare(host.predictor.spec, data, limits, purpose)
    options, distance = compare(host.artifact, prepared, options)
    decoded = time.perf_counter()
    outputs = host.run_straight(prepared, alone())
    ran = time.perf_counter()
    content = encode(host.artifact, outputs, 0, size, options, data, limits)
    return content, Parts(decoded - began, ran - decoded, time.perf_counter() - ran, distance, tag)
