"""Prometheus metrics and structured logs. Neither ever holds an image, a file name or a patient's data."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from .log_writer import LogWriter

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Values that are added up at once: of many, only the first waits until their code is in the CPU's caches.
_TOGETHER = 256
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
_DISTANCES = (0.01, 0.1, 0.25, 0.5, 1, 2, 5)
_FIELDS = ("request_id", "method", "route", "status", "seconds", "bytes_in", "bytes_out", "client", "model", "steps", "frames")


class Telemetry:
    """The metrics of one service. With several workers their values are added up (Prometheus' multi-process mode)."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._counted: deque[tuple[Counter | Histogram, tuple[str, ...], float]] = deque()
        self._together = 1 if "PROMETHEUS_MULTIPROC_DIR" in os.environ else _TOGETHER  # others read this one's files
        self.requests = Counter("gazeseg_requests", "Requests answered", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "gazeseg_request_seconds",
            "Time from the request's head to the answer's last byte",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.steps = Histogram(
            "gazeseg_step_seconds",
            "Time of one step: read, decode, wait, engine, encode",
            ["step"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "gazeseg_batch_size", "Images in one run of the engine", ["model"], buckets=_BATCHES, registry=registry
        )
        self.distance = Histogram(
            "gazeseg_input_distance",
            "How far an image lies outside the range of the learning images, in ranges; over 0.25 it is called unusual",
            ["model"],
            buckets=_DISTANCES,
            registry=registry,
        )
        self.shed = Counter("gazeseg_shed", "Requests refused or given up", ["reason"], registry=registry)
        self.streams = Gauge("gazeseg_streams", "Streams open", registry=registry, multiprocess_mode="livesum")
        self.stream_frames = Counter("gazeseg_stream_frames", "Frames of streams by their end", ["outcome"], registry=registry)
        self.stream_seconds = Histogram(
            "gazeseg_stream_frame_seconds",
            "Time from a frame's last byte to its mask's",
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("gazeseg_in_flight", "Requests under way", registry=registry, multiprocess_mode="livesum")
        self.queue_depth = Gauge(
            "gazeseg_queue_depth", "Images waiting for the engine", ["model"], registry=registry, multiprocess_mode="livesum"
        )

    def count(self, route: str, status: int, seconds: float) -> None:
        """One request answered."""
        self._add(self.requests, (route, str(status)), 1)
        self._add(self.seconds, (route,), seconds)

    def took(self, steps: Mapping[str, float]) -> None:
        """One image segmented, and the seconds of each step."""
        for name, seconds in steps.items():
            self._add(self.steps, (name,), seconds)

    def ran(self, model: str, images: int) -> None:
        """One run of the engine."""
        self._add(self.batch_size, (model,), images)

    def _add(self, metric: Counter | Histogram, labels: tuple[str, ...], value: float) -> None:
        self._counted.append((metric, labels, value))
        if len(self._counted) >= self._together:
            self._add_up()

    def _add_up(self) -> None:
        """Give what was counted to Prometheus' client."""
        while self._counted:
            try:
                metric, labels, value = self._counted.popleft()
            except IndexError:  # another thread took the last one
                return
            found = metric.labels(*labels)
            (found.inc if isinstance(found, Counter) else found.observe)(value)

    def render(self) -> bytes:
        """Everything in the Prometheus text format."""
        self._add_up()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: getattr(record, name) for name in _FIELDS if hasattr(record, name)})
        if record.exc_info or record.exc_text:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        return json.dumps(line, ensure_ascii=False)


def configure_logging(style: str) -> None:
    """Send every log line of the process to stderr, as JSON or as plain text."""
    handler = LogWriter(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonFormatter() if style == "json" else plain)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    # Decoders quote the file they complain of, and a DICOM file holds a patient's name.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom|highdicom|PIL")
    for name, level in (
        ("gazeseg_serve", logging.INFO),
        ("bentoml", logging.WARNING),
        ("circus", logging.WARNING),
        ("uvicorn.error", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(level)
