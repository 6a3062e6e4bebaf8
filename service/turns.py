"""Who may work next, where work takes memory: as many at once as fit, begun work before new, else in order of coming."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field


@dataclass(order=True)
class _Waiter:
    rank: int
    number: int
    memory: int = field(compare=False)
    patient: bool = field(compare=False)
    let_in: asyncio.Future[None] = field(compare=False)


class Turns:
    """`places` pieces of work at once that together need at most `memory` bytes; what needs more alone counts as `memory`.

    Nobody overtakes: small work does not starve large work that waits before it. `enter` begins a piece, `leave` ends
    it. Belongs to one event loop.
    """

    def __init__(self, places: int, memory: int) -> None:
        self._places, self._memory = places, memory
        self._free_places, self._free_memory = places, memory
        self._waiting: list[_Waiter] = []
        self._numbers = itertools.count()

    @property
    def running(self) -> int:
        return self._places - self._free_places

    def waiting_memory(self) -> int:
        """Bytes that new work is waiting for, neither begun nor patient."""
        new = (waiter for waiter in self._waiting if waiter.rank and not waiter.patient and not waiter.let_in.cancelled())
        return sum(waiter.memory for waiter in new)

    def clip(self, memory: int) -> int:
        return min(memory, self._memory)

    async def enter(self, memory: int, begun: bool, patient: bool = False) -> None:
        """Wait for a place and `memory` bytes. Cancelling it gives the turn up."""
        rank, let_in = 0 if begun else 1, asyncio.get_running_loop().create_future()
        waiter = _Waiter(rank, next(self._numbers), self.clip(memory), patient, let_in)
        heapq.heappush(self._waiting, waiter)
        self._let_in()
        try:
            await waiter.let_in
        except asyncio.CancelledError:
            if waiter.let_in.done() and not waiter.let_in.cancelled():  # it was let in at this very moment
                self.leave(memory)
            raise
        finally:
            if waiter.let_in.cancelled():
                self._let_in()

    def leave(self, memory: int) -> None:
        """Give back what `enter` with the same `memory` took."""
        self._free_places += 1
        self._free_memory += self.clip(memory)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if first.let_in.cancelled():
                heapq.heappop(self._waiting)
                continue
            if not self._free_places or first.memory > self._free_memory:
                return
            heapq.heappop(self._waiting)
            self._free_places -= 1
            self._free_memory -= first.memory
            first.let_in.set_result(None)
