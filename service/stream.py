"""`WS /v1/stream`: frames in, masks out, over one connection. Every frame is answered once: a mask, a problem, or dropped.

Nothing piles up: a connection has one frame in work and one that waits. With order=newest a newer frame takes the place of the
one that waits; with order=every no more is read, so that TCP makes the sender wait. Who does not read the answers is cut off.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect

from gazeseg_serve import outputs
from gazeseg_serve.errors import ConfigError, ImageError, MissingExtraError
from gazeseg_serve.predictor import check_presence
from gazeseg_serve.video.steady import FrameSegmenter

from .answering import Reply, item_of
from .archive import content
from .cancel import ClientGone
from .codec_tasks import OutputOptions, Size
from .model_host import Answer, ModelHost
from .problems import Problem, of_image
from .runtime import Runtime
from .steps import Steps
from .stream_wire import FrameHead, StreamQuery, pack, unpack

# Close codes (RFC 6455, 7.4.1); 1009, too big, is the server's own.
UNSUPPORTED, INVALID, POLICY, RESTART = 1003, 1007, 1008, 1012
_GONE = (WebSocketDisconnect, RuntimeError, ConnectionError)  # what a send raises when the other side has left


class Close(Exception):
    """End the stream with this code; the text is the reason, which the client gets (123 bytes at the most)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Received:
    """A frame that came: its number in the stream, head, image file, and when."""

    number: int
    head: FrameHead
    data: bytes
    at: float


class Steadied:
    """What the stream remembers of its frames, put between the engine and the encoding."""

    def __init__(self, host: ModelHost, query: StreamQuery) -> None:
        self._segment = FrameSegmenter(host.predictor, query.steadiness, query.presence)
        self._rule = host.artifact.presence
        self.at = 0.0
        self.presence: float | None = None
        self.size: Size = (0, 0)

    def __call__(self, answer: Answer, size: Size, options: OutputOptions) -> tuple[Answer, OutputOptions]:
        found = self._segment.steadied(item_of(answer), self.at, size)
        self.presence, self.size = found.presence, size
        if self._rule is not None and options.presence is None:
            options = dataclasses.replace(options, presence=found.presence_threshold)
        steadied = dataclasses.replace(item_of(answer), probability=found.probability[None])
        return dataclasses.replace(answer, outputs=steadied, index=0), options


class Stream:
    """One open connection."""

    def __init__(self, runtime: Runtime, host: ModelHost, socket: WebSocket, query: StreamQuery, client: str) -> None:
        """Raises Problem 422 where the model cannot give what the query asks for."""
        self._runtime, self._host, self._socket, self._client = runtime, host, socket, client
        self._query, self._options = query, options_of(host, query)
        self._steadied = Steadied(host, query)
        self._slot: asyncio.Queue[Received] = asyncio.Queue(1)
        self._frames = runtime.telemetry.stream_frames
        self.answered = self.dropped = self.refused = 0

    async def run(self) -> None:
        """Until the client leaves. Raises Close."""
        reading, working = asyncio.ensure_future(self._read()), asyncio.ensure_future(self._work())
        try:
            done, _ = await asyncio.wait({reading, working}, return_when=asyncio.FIRST_COMPLETED)
            for error in [task.exception() for task in done]:
                if error is not None and not isinstance(error, ClientGone):
                    raise error
        finally:
            for task in (reading, working):
                task.cancel()
                task.add_done_callback(_retrieve)
            await asyncio.wait({reading, working})
            while not self._slot.empty():
                self._forget(self._slot.get_nowait())

    async def _read(self) -> None:
        """Take what comes, as long as there is room for it. Ends when the client leaves."""
        number = 0
        while True:
            try:
                async with asyncio.timeout(self._runtime.settings.idle_seconds):
                    message = await self._socket.receive()
            except TimeoutError:
                raise Close(POLICY, "idle: no frame came") from None
            if message["type"] == "websocket.disconnect":
                return
            if message.get("bytes") is None:
                raise Close(UNSUPPORTED, "send binary messages: a head and an image file")
            try:
                head, data = unpack(message["bytes"])
            except ValueError as error:
                raise Close(INVALID, f"frame {number}: {error}") from None
            frame = Received(number, head, data, time.perf_counter())
            number += 1
            try:
                self._runtime.held.add(len(data))
            except Problem as problem:
                await self._refuse(frame, problem)
                continue
            if self._query.order == "newest" and self._slot.full():
                old = self._slot.get_nowait()
                self._slot.put_nowait(frame)
                await self._drop(old)
                continue
            try:
                await self._slot.put(frame)
            except asyncio.CancelledError:
                self._forget(frame)
                raise

    async def _work(self) -> None:
        while True:
            frame = await self._slot.get()
            try:
                await self._answer(frame)
            finally:
                self._forget(frame)

    async def _answer(self, frame: Received) -> None:
        head = frame.head
        options = dataclasses.replace(
            self._options,
            threshold=self._options.threshold if head.threshold is None else head.threshold,
            presence=self._options.presence if head.presence is None else head.presence,
        )
        self._steadied.at = head.stamp
        try:
            check_presence(self._host.artifact.presence, head.presence)
            with self._runtime.admission.enter(self._client):
                async with self._runtime.within(self._runtime.settings.timeout_seconds):
                    work = self._runtime.pipeline.segment(self._host, frame.data, options, steadied=self._steadied)
                    reply, steps = await work
        except Problem as problem:
            if problem.code == "draining":
                raise Close(RESTART, "draining: connect again") from None
            await self._refuse(frame, problem)
        except (ImageError, MissingExtraError) as error:
            await self._refuse(frame, of_image(error))
        except ConfigError as error:
            await self._refuse(frame, Problem(422, "bad-parameter", str(error)))
        else:
            await self._send_mask(frame, reply, steps)

    async def _send_mask(self, frame: Received, reply: Reply, steps: Steps) -> None:
        steadied = self._steadied
        head = {
            "stamp": frame.head.stamp,
            "frame": frame.number,
            "dropped": False,
            "media_type": reply.media_type,
            "model": self._host.artifact.id,
            "size": list(steadied.size),
            "presence": None if steadied.presence is None else round(steadied.presence, 6),
            "batch": steps.batch,
            "seconds": {name: round(value, 6) for name, value in steps.seconds.items()},
        }
        with self._runtime.held.take(reply.size or len(reply.content)):
            await self._send(pack(head, b"".join([chunk async for chunk in content(reply)])))
        self.answered += 1
        self._frames.labels("answered").inc()
        self._runtime.telemetry.stream_seconds.observe(time.perf_counter() - frame.at)

    async def _drop(self, frame: Received) -> None:
        self.dropped += 1
        self._frames.labels("dropped").inc()
        self._forget(frame)
        await self._send(pack({"stamp": frame.head.stamp, "frame": frame.number, "dropped": True}))

    async def _refuse(self, frame: Received, problem: Problem) -> None:
        self.refused += 1
        self._frames.labels("refused").inc()
        head = {"stamp": frame.head.stamp, "frame": frame.number, "dropped": False, "problem": problem.document()}
        await self._send(pack(head))

    async def _send(self, message: bytes) -> None:
        """Raises ClientGone, or Close where the client takes nothing."""
        try:
            async with asyncio.timeout(self._runtime.settings.write_seconds):
                await self._socket.send_bytes(message)
        except _GONE:
            raise ClientGone from None
        except TimeoutError:
            self._runtime.telemetry.shed.labels("slow-reader").inc()
            raise Close(POLICY, "slow reader: the answers were not taken") from None

    def _forget(self, frame: Received) -> None:
        self._runtime.held.force(-len(frame.data))


def _retrieve(task: asyncio.Future[None]) -> None:
    """Look at the exception of a task that has been given up, so that asyncio does not complain of it."""
    if not task.cancelled():
        task.exception()


def options_of(host: ModelHost, query: StreamQuery) -> OutputOptions:
    """Raises Problem 422 where the model cannot give that."""
    artifact = host.artifact
    try:
        outputs.check(query.output, artifact, query.disagreement)
        check_presence(artifact.presence, query.presence)
    except ConfigError as error:
        raise Problem(422, "bad-parameter", str(error)) from error
    cut = artifact.threshold if query.threshold is None else query.threshold
    return OutputOptions(query.output, cut, query.disagreement, None, force=query.force)
