"""Metrics and health of a node over HTTP: /metrics, /livez, /readyz."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..errors import ConfigError
from .spool import Spool
from .status import oldest_seconds


class Monitor:
    """Serves what `alive` and `ready` say, and the counters and gauges of the spool as Prometheus reads them."""

    def __init__(self, spool: Spool, host: str, port: int, alive: Callable[[], bool], ready: Callable[[], bool]) -> None:
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Collector(spool))
        probes = {"/livez": alive, "/readyz": ready}

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, generate_latest(registry), "text/plain; version=0.0.4; charset=utf-8")
                elif self.path in probes:
                    good = probes[self.path]()
                    self._answer(200 if good else 503, b"ok\n" if good else b"not ready\n", "text/plain")
                else:
                    self._answer(404, b"/metrics, /livez or /readyz\n", "text/plain")

            def _answer(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:
                return  # probes would fill the log

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror})") from None
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Collector:
    """Reads the database when it is asked, so that the figures outlive the process."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        counts = CounterMetricFamily("gazeseg_node_objects", "Objects by what became of them", labels=["outcome"])
        for name, value in self._spool.counts().items():
            counts.add_metric([name], value)
        yield counts
        for table, what in (("image", "Images"), ("result", "Results")):
            states = GaugeMetricFamily(f"gazeseg_node_{table}s", f"{what} in the spool's database by state", labels=["state"])
            for row in self._spool.query(f"SELECT state, COUNT(*) AS n FROM {table} GROUP BY state"):
                states.add_metric([row["state"]], row["n"])
            yield states
        yield GaugeMetricFamily(
            "gazeseg_node_oldest_seconds",
            "Age of the oldest image whose result is not stored yet",
            value=oldest_seconds(self._spool),
        )
        yield GaugeMetricFamily(
            "gazeseg_node_spool_bytes", "Bytes of images and results on disk", value=self._spool.used_bytes()
        )
