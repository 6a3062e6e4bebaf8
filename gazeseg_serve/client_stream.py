"""Frames to a service and masks back over one WebSocket: what the streams of both clients share, and each of them.

Needs the `client` extra. The messages are those of `WS /v1/stream`: four bytes that say how long the head is, the head in JSON,
the content.
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np

from .client_answers import ServiceError, as_labels
from .client_calls import Source, as_file
from .errors import ConfigError, require

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection as AsyncConnection
    from websockets.sync.client import ClientConnection

WINDOW = 3  # frames sent and not answered yet: one is on its way, one in work, one waits
_LENGTH = struct.Struct(">I")
_LONGEST_ANSWER = 64 * 2**20  # bytes


@dataclass(frozen=True)
class StreamMask:
    """What became of one frame.

    stamp    its time in seconds, as it was given
    labels   uint8 `(H, W)` in the frame's size, 0 background; None where there is no mask
    dropped  a newer frame took its place
    error    why there is no mask, where the service refused the frame
    presence how likely it shows anything, in [0, 1], or None; model: the id of what made it; seconds: per step
    """

    stamp: float
    labels: np.ndarray | None = None
    dropped: bool = False
    error: ServiceError | None = None
    presence: float | None = None
    model: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamOptions:
    """order: "newest" drops a frame that waits when a newer one comes; "every" drops none. smooth: seconds over which masks
    are steadied, by the frames' stamps; release: part of the presence threshold under which what was shown goes. The rest as
    for `Client.segment`.
    """

    order: str = "newest"
    threshold: float | None = None
    presence: float | None = None
    smooth: float = 0.0
    release: float = 1.0

    def query(self) -> str:
        """Raises ConfigError for an order that there is not; the service refuses what else it cannot use."""
        if self.order not in ("newest", "every"):
            raise ConfigError(f"order {self.order!r}; give newest or every")
        values = {"order": self.order, "threshold": self.threshold, "presence": self.presence}
        values |= {"smooth": self.smooth or None, "release": None if self.release == 1 else self.release}
        return urlencode({name: value for name, value in values.items() if value is not None})


@dataclass(frozen=True)
class Address:
    """Where and how a stream is opened. url: ws:// or wss://, without the query."""

    url: str
    headers: dict[str, bytes]
    timeout: float


def pack(stamp: float, source: Source) -> bytes:
    """The message of one frame. Raises ImageError for a source that cannot be sent."""
    head = json.dumps({"stamp": float(stamp)}, allow_nan=False).encode()
    return _LENGTH.pack(len(head)) + head + as_file(source)


def read(message: bytes | str) -> StreamMask:
    """One answer. Raises ServiceError for what is none."""
    try:
        if isinstance(message, str):
            raise TypeError("text")
        (length,) = _LENGTH.unpack_from(message)
        head = json.loads(message[_LENGTH.size : _LENGTH.size + length])
        stamp, problem = float(head["stamp"]), head.get("problem")
        if head["dropped"]:
            return StreamMask(stamp, dropped=True)
        if problem is not None:
            text = f"the service answered {problem['status']}: {problem['detail']}"
            return StreamMask(stamp, error=ServiceError(text, int(problem["status"]), str(problem["code"])))
        labels = as_labels(message[_LENGTH.size + length :])
        return StreamMask(stamp, labels, False, None, head["presence"], head["model"], head["seconds"])
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise ServiceError(f"the stream's answer is none ({error}); is this the service?", code="bad-answer") from error


class _Count:
    """Frames sent and not answered yet, and whether there are more to send. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._ended = False

    def send(self) -> None:
        with self._lock:
            self._open += 1

    def answer(self) -> bool:
        """Whether that was the last."""
        with self._lock:
            self._open -= 1
            return self._ended and not self._open

    def end(self) -> bool:
        """No more will be sent. Whether all are answered."""
        with self._lock:
            self._ended = True
            return not self._open


def stream(address: Address, frames: Iterable[tuple[float, Source]], options: StreamOptions) -> Iterator[StreamMask]:
    """As `Client.stream`."""
    connect, errors = require("websockets.sync.client", "client").connect, require("websockets.exceptions", "client")
    count, window, failures = _Count(), threading.Semaphore(WINDOW), list[BaseException]()
    stopped = threading.Event()

    def send_all(socket: ClientConnection) -> None:
        """In a thread of its own: a camera's next frame and the next answer are waited for at once."""
        try:
            for stamp, source in frames:
                window.acquire()
                if stopped.is_set():
                    return
                message = pack(stamp, source)
                count.send()
                socket.send(message)
        except errors.ConnectionClosed:
            return  # the thread that reads says so
        except BaseException as error:  # noqa: BLE001  (it is raised in the thread that reads)
            failures.append(error)
            socket.close()
        else:
            if count.end():
                socket.close()

    try:
        socket = connect(**_arguments(address, options))
    except _refusals(errors) as error:
        raise _not_opened(address, error) from error
    with socket:
        threading.Thread(target=send_all, args=(socket,), daemon=True).start()
        try:
            while True:
                answer = read(socket.recv())
                last = count.answer()
                window.release()
                yield answer
                if last:
                    return
        except errors.ConnectionClosed as error:
            if failures:
                raise failures[0] from None
            _check_whole(address, count, error)
        finally:
            stopped.set()
            window.release()


async def stream_async(
    address: Address, frames: Iterable[tuple[float, Source]] | AsyncIterable[tuple[float, Source]], options: StreamOptions
) -> AsyncGenerator[StreamMask, None]:
    """As `AsyncClient.stream`."""
    connect, errors = require("websockets.asyncio.client", "client").connect, require("websockets.exceptions", "client")
    count, window = _Count(), asyncio.Semaphore(WINDOW)

    async def send_all(socket: AsyncConnection) -> None:
        async for stamp, source in _each(frames):
            await window.acquire()
            message = pack(stamp, source)
            count.send()
            await socket.send(message)
        if count.end():
            await socket.close()

    try:
        socket = await connect(**_arguments(address, options))
    except _refusals(errors) as error:
        raise _not_opened(address, error) from error
    async with socket:
        sending = asyncio.ensure_future(send_all(socket))
        sending.add_done_callback(lambda done: socket.transport.close() if _failed(done) else None)
        try:
            while True:
                answer = read(await socket.recv())
                last = count.answer()
                window.release()
                yield answer
                if last:
                    return
        except errors.ConnectionClosed as error:
            if sending.done() and (failure := _failed(sending)) and not isinstance(failure, errors.ConnectionClosed):
                raise failure from None
            _check_whole(address, count, error)
        finally:
            sending.cancel()
            await asyncio.wait({sending})


async def _each(
    frames: Iterable[tuple[float, Source]] | AsyncIterable[tuple[float, Source]],
) -> AsyncIterator[tuple[float, Source]]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
    else:
        for frame in frames:
            yield frame


def _failed(task: asyncio.Future[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _arguments(address: Address, options: StreamOptions) -> dict[str, Any]:
    return {
        "uri": f"{address.url}?{options.query()}",
        "additional_headers": {name: value.decode("latin-1") for name, value in address.headers.items()},
        "open_timeout": address.timeout,
        "compression": None,
        "max_size": _LONGEST_ANSWER,
    }


def _refusals(errors: Any) -> tuple[type[Exception], ...]:
    """What opening a connection raises."""
    return (errors.InvalidHandshake, errors.InvalidURI, errors.ConnectionClosed, OSError, TimeoutError)


def _not_opened(address: Address, error: Exception) -> ServiceError:
    response = getattr(error, "response", None)
    if response is None:
        code = "timeout" if isinstance(error, TimeoutError) else "unreachable"
        return ServiceError(f"{address.url} cannot be reached ({error or type(error).__name__}); is it running?", code=code)
    try:
        problem = json.loads(response.body)
        return ServiceError(
            f"the service answered {response.status_code}: {problem['detail']}", response.status_code, str(problem["code"])
        )
    except (ValueError, KeyError, TypeError):
        return ServiceError(
            f"{address.url} answered {response.status_code}, which is no stream; is this the address of the service?",
            response.status_code,
            "bad-answer",
        )


def _check_whole(address: Address, count: _Count, error: Any) -> None:
    """A connection that was closed is the end of the stream where all was answered; else raises what `_closed` makes."""
    if not count.end() or error.rcvd is None or error.rcvd.code != 1000:
        raise _closed(address, error) from error


def _closed(address: Address, error: Any) -> ServiceError:
    told = error.rcvd or error.sent
    why = f"{told.code} {told.reason}".strip() if told is not None else "the connection was lost"
    return ServiceError(f"{address.url} ended the stream ({why}); open another", code="stream-ended")
