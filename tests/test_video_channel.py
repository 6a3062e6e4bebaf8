"""The line between two threads: it pushes back, or the newest wins; its ends and errors arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gazeseg_serve.video.channel import Channel


def beside(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_every_item_passes_in_order_and_no_more_wait_than_fit() -> None:
    channel, put = Channel[int](3), []

    def fill() -> None:
        for item in range(50):
            channel.put(item)
            put.append(item)
        channel.finish()

    thread = beside(fill)
    taken = []
    for item in channel:
        taken.append(item)
        assert len(put) <= len(taken) + 4, "three wait, and one is being put"
    thread.join(10)
    assert taken == list(range(50))
    assert channel.dropped == 0


def test_the_newest_wins_and_the_others_are_counted() -> None:
    channel = Channel[int](1, newest=True)
    assert all(channel.put(item) for item in range(10))
    channel.finish()
    assert list(channel) == [9]
    assert channel.dropped == 9


def test_an_error_arrives_after_what_was_there() -> None:
    channel = Channel[int](2)
    channel.put(1)
    channel.fail(ZeroDivisionError("gone"))
    items = iter(channel)
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError, match="gone"):
        next(items)


def test_who_waits_to_put_is_let_go_when_nobody_takes_any_more() -> None:
    channel, told = Channel[int](1), []
    channel.put(1)
    thread = beside(lambda: told.append(channel.put(2)))
    channel.close()
    thread.join(10)
    assert not thread.is_alive()
    assert told == [False]
    assert channel.put(3) is False
    assert list(channel) == []
