"""A bounded line between two threads: either it pushes back, or the newest wins and the rest are counted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Holds `capacity` items at most. newest: an item that finds it full takes the place of the oldest, which is `dropped`;
    else `put` waits. One thread puts and ends with `finish` or `fail`; another iterates, and `close`s when it wants no more.
    """

    def __init__(self, capacity: int, newest: bool = False) -> None:
        self._items: deque[T] = deque()
        self._capacity, self._newest = capacity, newest
        self._changed = threading.Condition()
        self._finished = self._closed = False
        self._error: BaseException | None = None
        self.dropped = 0

    def put(self, item: T) -> bool:
        """False where nobody takes any more."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._closed:
                if self._newest:
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def finish(self) -> None:
        """No more will come; what is there can still be taken."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """No more will come; `error` is raised in the thread that takes, after what is there."""
        self._error = error
        self.finish()

    def close(self) -> None:
        """Nobody takes any more: who waits to put is let go."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._items and not self._finished and not self._closed:
                    self._changed.wait()
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
