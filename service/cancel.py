"""Work that ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its answer was there."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, and cancel it when the client goes away (ClientGone) or when this is cancelled.

    To be called once the body has been read: from there on the connection tells only of its end.
    """
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    gone = False

    async def watch() -> None:
        nonlocal gone
        await _until_gone(request)
        gone = True
        task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not task.uncancel():  # else somebody cancels it from outside, too
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()


async def gather_some(works: Sequence[Coroutine[Any, Any, T]], at_once: int) -> list[T]:
    """Await all `works`, `at_once` at a time, in their order; the first error cancels the rest and is raised."""
    places = asyncio.Semaphore(at_once)

    async def one(work: Coroutine[Any, Any, T]) -> T:
        async with places:
            return await work

    tasks = [asyncio.ensure_future(one(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # a work that is closed before would not see its cancellation
        for work in works:
            work.close()  # one that was never begun would complain of it


async def in_order(works: Sequence[Coroutine[Any, Any, T]], at_once: int) -> AsyncGenerator[T, None]:
    """The results of all `works` in their order, `at_once` begun and not yet taken at most. Closing it cancels the rest."""
    waiting = deque(works)
    begun: deque[asyncio.Future[T]] = deque()
    try:
        while waiting or begun:
            while waiting and len(begun) < at_once:
                begun.append(asyncio.ensure_future(waiting.popleft()))
            yield await begun[0]
            begun.popleft()
    finally:
        for work in waiting:
            work.close()  # one that was never begun would complain of it
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)  # comes last: it may be cancelled itself


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
