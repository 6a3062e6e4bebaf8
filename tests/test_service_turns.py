"""Who may work next where work takes memory, against a slow model of the same rule."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pydantic_settings")
from gazeseg_serve.service.turns import Turns

PIECES = st.lists(st.tuples(st.integers(1, 120), st.booleans()), min_size=1, max_size=12)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@settings(max_examples=200, deadline=None)
@given(pieces=PIECES, places=st.integers(1, 3), ends=st.randoms(use_true_random=False))
def test_never_more_than_fits_begun_first_and_everybody_comes(pieces: list, places: int, ends: object) -> None:
    async def scenario() -> None:
        turns, running, order = Turns(places, 100), {}, []

        async def one(number: int, memory: int, begun: bool) -> None:
            await turns.enter(memory, begun)
            order.append(number)
            running[number] = memory

        tasks = [asyncio.ensure_future(one(number, *piece)) for number, piece in enumerate(pieces)]
        await settle()
        while len(order) < len(pieces):
            assert len(running) <= places
            assert sum(min(memory, 100) for memory in running.values()) <= 100
            waiting = [number for number in range(len(pieces)) if number not in order]
            first = min(waiting, key=lambda number: (not pieces[number][1], number))
            assert len(running) == places or min(pieces[first][0], 100) + sum(min(m, 100) for m in running.values()) > 100
            ended = ends.choice(sorted(running))  # type: ignore[attr-defined]
            turns.leave(running.pop(ended))
            await settle()
            assert first in order or len(running) == places or running, "the first of those who wait comes next"
        for memory in running.values():
            turns.leave(memory)
        await asyncio.gather(*tasks)
        assert turns.running == 0

    asyncio.run(scenario())


def test_begun_work_goes_before_new_and_nobody_overtakes() -> None:
    async def scenario() -> None:
        turns, order = Turns(2, 100), []

        async def one(name: str, memory: int, begun: bool = False) -> None:
            await turns.enter(memory, begun)
            order.append(name)

        await turns.enter(60, False)
        tasks = [asyncio.ensure_future(one(*piece)) for piece in (("large", 100), ("small", 1), ("begun", 100, True))]
        await settle()
        assert order == []  # the small one would fit, but not before the others
        assert turns.waiting_memory() == 101
        turns.leave(60)
        await settle()
        assert order == ["begun"]
        turns.leave(100)
        await settle()
        assert order == ["begun", "large"]
        turns.leave(100)
        await settle()
        assert order == ["begun", "large", "small"]
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


@pytest.mark.parametrize("moment", ["waiting", "let in"])
def test_who_gives_up_leaves_his_turn_to_the_next(moment: str) -> None:
    async def scenario() -> None:
        turns = Turns(1, 100)
        await turns.enter(50, False)
        first, second = (asyncio.ensure_future(turns.enter(50, False)) for _ in range(2))
        await settle()
        if moment == "let in":
            turns.leave(50)  # and cancelled before it has noticed
        first.cancel()
        if moment == "waiting":
            turns.leave(50)
        await asyncio.wait_for(second, 10)
        assert first.cancelled()
        assert turns.running == 1
        turns.leave(50)
        await asyncio.wait_for(turns.enter(100, False), 10)

    asyncio.run(scenario())
