"""The BentoML service. This is the only file that imports bentoml.

BentoML gives the workers and their supervisor, the probes and the adaptive batching. Its dispatcher is used where
the requests arrive, in one process with the engine: between two BentoML services every image and every answer would be
pickled and sent through a socket, which costs more than decoding the image (docs/performance/service.md has the figures).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # read when bentoml is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Five spans a request that nobody collects cost a third of the HTTP layer's time; who wants traces sets it to false.
os.environ.setdefault("OTEL_SDK_DISABLED", "true")

# numpy's linear algebra, which nothing here calls, would start a thread for each of the machine's CPUs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import bentoml
from _bentoml_impl.server import serve_http
from bentoml._internal import server as bentoml_server
from bentoml._internal.marshal.dispatcher import CorkDispatcher, NonBlockSema, Optimizer
from starlette.types import Receive, Scope, Send

from .connection import guard_connections
from .drain import drain_on_sigterm
from .edge import Edge
from .model_host import Answer, Job, RunBatch
from .plain_errors import ProblemsOnly
from .plain_request import PlainRequests
from .prefix import without_prefix
from .problems import busy
from .routes import create_api
from .runtime import Runtime
from .settings import Settings
from .telemetry import configure_logging

_LOOK_SECONDS = 0.003
_KEEP_ALIVE_SECONDS = 75  # longer than the usual minute of a load balancer, which must be the one to close
SERVICE = "gazeseg_serve.service.main:service"
SWAGGER_UI = Path(bentoml_server.__file__).parent / "static_content"


class NeverIdle(Optimizer):
    """Learns the engine's speed as BentoML's does, but never holds a job back while the engine is free.

    BentoML's own waits as long as the last fifty batches waited on average: after a rush, which fills the queue, every
    lone request still waited for company, as long as the engine then took for it. Batches form all the same: they are
    what comes in while the engine is busy.
    """

    def log_outbound(self, n: int, wait: float, duration: float) -> None:
        super().log_outbound(n, 0.0, duration)


class AdaptiveBatching:
    """BentoML's dispatcher: `at_once` batches at a time, of what waits when the engine is free, up to `max_batch`."""

    def __init__(self, run: RunBatch, max_batch: int, max_wait: float, at_once: int) -> None:
        # The latency is a deadline: jobs that cannot make it are dropped. The service's own timeout strikes first.
        self._cork: CorkDispatcher[Job, Answer | None] = CorkDispatcher(
            max_latency_in_ms=int(max_wait * 2000),
            max_batch_size=max_batch,
            fallback=_give_up,
            shared_sema=NonBlockSema(at_once),
            get_batch_size=lambda job: 0 if job.gone else 1,
        )
        self._cork.optimizer = NeverIdle(self._cork.max_latency)
        if at_once > 1:
            # It polls while the engine is busy, a thousand times a second, five times a request. Where a batch
            # waits beside the one that runs, the engine does not stand still for a look that comes later.
            self._cork.TICKET_INTERVAL = _LOOK_SECONDS
        self._submit = self._cork(run)

    def submit(self, job: Job) -> Awaitable[Answer | None]:
        return self._submit(job)

    def close(self) -> None:
        self._cork.shutdown()


class Service(bentoml.Service[Any]):
    """BentoML's service around one app that is not BentoML's: knows its routes, and the short way to it."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """BentoML's app; where nobody traces, requests for `/v1/` and `/v2/` go past its layers, a fifth of the HTTP work.
        WebSockets always do.

        Time limit, errors, log and metrics are the edge's own; probes and start and end stay BentoML's.
        """
        whole, edge = super().to_asgi(is_main), self.mount_apps[0][0]
        others, traced = ProblemsOnly(whole), os.environ["OTEL_SDK_DISABLED"].lower() != "true"

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            plain = scope["type"] == "http" and scope["path"].startswith(("/v1/", "/v2/")) and not traced
            short = scope["type"] == "websocket" or plain
            await (edge if short else others)(scope, receive, send)

        return without_prefix(app, edge.root_path)

    def schema(self) -> dict[str, Any]:
        """What BentoML's own clients ask for at /schema.json."""
        image = {"type": "object", "properties": {"image": {"type": "file"}}, "required": ["image"]}
        routes = [
            {
                "name": "segment",
                "route": "/v1/segment",
                "batchable": False,
                "input": image,
                "output": {"type": "string", "format": "binary"},
            },
            {
                "name": "describe",
                "route": "/v1/segment?output=json",
                "batchable": False,
                "input": image,
                "output": {"type": "object"},
            },
        ]
        return {"name": self.name, "type": "service", "routes": routes}


def _give_up() -> NoReturn:
    raise busy("overloaded", "the image waited too long for the engine; try again")


def build(settings: Settings) -> bentoml.Service[Any]:
    """The service for these settings; nothing is loaded before it starts. Raises ConfigError for an empty key file."""
    runtime = Runtime(settings, AdaptiveBatching)
    edge = Edge(PlainRequests(create_api(runtime, SWAGGER_UI), runtime), runtime)

    class Gazeseg:
        @bentoml.on_startup
        async def start(self) -> None:
            runtime.start()
            guard_connections(runtime)
            drain_on_sigterm(runtime)

        @bentoml.on_shutdown
        async def stop(self) -> None:
            await runtime.stop()

        async def __is_ready__(self) -> bool:
            return runtime.is_ready()

        async def __is_alive__(self) -> bool:
            return runtime.is_alive()

    return bentoml.service(
        name="gazeseg",
        service_class=Service,
        workers=settings.workers,
        # The service has its own time limit, metrics and access log; BentoML's would label them by raw path.
        traffic={"timeout": settings.read_seconds + settings.timeout_seconds + 30},
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
    )(bentoml.asgi_app(edge, path="/")(Gazeseg))


def serve_forever(service: bentoml.Service[Any], log_format: str, host: str, port: int, folder: Path) -> None:
    """Run BentoML's supervisor and its workers until SIGTERM or SIGINT; they import `service` from main.py.

    `folder` is an empty one: it becomes the first place the workers import from, so the user's own must not be it.
    """
    service.inject_config()
    configure_logging(log_format)
    serve_http(SERVICE, working_dir=str(folder), host=host, port=port, timeout_keep_alive=_KEEP_ALIVE_SECONDS)
