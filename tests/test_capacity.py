"""The queueing model of the capacity page against what theory says of queues that can be computed by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import capacity
import capacity_model
from capacity_model import Service, arrivals, closed_loop, highest_rate, open_loop


def engine_only(*batch_seconds: float, cores: int = 1, at_once: int = 1, lanes: bool = False, **changes: Any) -> Service:
    """A service without HTTP work, decoding and encoding, whose engine uses no core (as a GPU's does not)."""
    return Service(
        cores,
        0.0,
        0.0,
        0.0,
        batch_seconds,
        [0.0] * len(batch_seconds),
        lanes=lanes,
        at_once=at_once,
        max_queue=10**9,
        **changes,
    )


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_mean_wait_is_that_of_pollaczek_and_khinchine(load: float) -> None:
    # M/D/1: requests by chance, one server, always s seconds: the mean wait is s load / (2 (1 - load)).
    outcome = open_loop(engine_only(0.01), arrivals(load / 0.01, 30000 * 0.01 / load, 1))
    assert outcome.arrived > 29000
    assert np.mean(outcome.waits) == pytest.approx(0.01 * load / (2 * (1 - load)), rel=0.06)
    assert sum(outcome.batches) * 0.01 / outcome.end == pytest.approx(load, rel=0.02)  # the server is busy `load` of the time


def test_one_client_meets_nobody() -> None:
    service = Service(2, 0.002, 0.003, 0.001, [0.010], [1.0])
    outcome = closed_loop(service, 1, 50)
    assert list(outcome.latencies.values()) == pytest.approx([0.016] * 50)
    assert outcome.core_seconds == pytest.approx(50 * (0.006 + 2 * 0.010))  # the engine holds both cores


def test_jitter_is_drawn_for_every_batch() -> None:
    # M/G/1 of two equally likely service times: Pollaczek and Khinchine with their second moment.
    outcome = open_loop(engine_only(0.010, jitter=(0.5, 1.5)), arrivals(60, 500, 2))
    second = (0.005**2 + 0.015**2) / 2
    assert np.mean(outcome.waits) == pytest.approx(60 * second / (2 * (1 - 0.6)), rel=0.06)


def test_full_batches_are_what_the_table_says() -> None:
    # Four clients and nothing but the engine: every batch but the first holds what waits, which is three of them.
    outcome = closed_loop(engine_only(0.010, 0.012, 0.015, 0.020), 4, 4000)
    assert set(outcome.batches[1:-1]) == {3, 1}
    assert outcome.summary()["images_per_second"] == pytest.approx(4 / 0.025, rel=0.01)


def test_lanes_compute_an_image_on_each_core() -> None:
    service = Service(2, 0.0, 0.0, 0.0, [0.009, 0.010, 0.020, 0.020], [1.0] * 4, lanes=True, at_once=2)
    outcome = closed_loop(service, 16, 1000)
    assert max(outcome.batches) == 4
    assert outcome.summary()["images_per_second"] == pytest.approx(2 / 0.010, rel=0.02)


def test_two_threads_share_one_core_in_turns() -> None:
    env = capacity_model.simpy.Environment()
    house = capacity_model._House(env, Service(1, 0.0, 0.0, 0.0, [1.0], [1.0]))
    ends = []

    def thread(seconds: float):
        yield from house.work(seconds)
        ends.append(env.now)

    for seconds in (0.010, 0.030):
        env.process(thread(seconds))
    env.run()
    assert ends == pytest.approx([0.020, 0.040], abs=1.5 * capacity_model.SLICE)


@pytest.mark.parametrize(("rate", "refuses"), [(50, False), (400, True)])
def test_nobody_is_lost(rate: float, refuses: bool) -> None:
    service = Service(2, 0.001, 0.003, 0.001, [0.013, 0.022, 0.033, 0.044], [0.9] * 4)
    outcome = open_loop(service, arrivals(rate, 10, 0))
    answered, refused = set(outcome.latencies), set(outcome.refused)
    assert answered | refused == set(range(outcome.arrived))
    assert not answered & refused
    assert bool(refused) == refuses
    assert sum(outcome.batches) == len(answered)
    assert outcome.core_seconds <= service.cores * outcome.end * (1 + 1e-9)


def test_every_wait_is_that_of_lindleys_recursion() -> None:
    moments = arrivals(60, 50, 1)
    outcome = open_loop(engine_only(0.010), moments)
    waits = [0.0]
    for gap in np.diff(moments):
        waits.append(max(0.0, waits[-1] + 0.010 - gap))
    assert outcome.waits == pytest.approx(waits, abs=1e-9)


def test_contention_is_fitted_to_the_limit_and_to_nothing_else() -> None:
    parts = {
        "cores": 2,
        "http": 0.001,
        "decode": 0.003,
        "encode": 0.001,
        "batch_seconds": [0.013, 0.022, 0.033, 0.044],
        "busy": [0.9] * 4,
        "generator": 0.001,
    }
    measured = {"images_per_second": 50.0, "p50_ms": 100.0, "p99_ms": 100.0}
    offered = [{"rate": 20.0, "seconds": 5.0, "seed": 1, "share": 0.4, "measured": dict(measured)}]
    report = {"parts": parts, "alone": {"measured": dict(measured)}, "limit": {"measured": dict(measured)}, "offered": offered}
    capacity.check(report)
    assert report["contention"] > 1.1
    assert report["limit"]["predicted"]["images_per_second"] == pytest.approx(50, rel=0.03)
    assert report["limit_without_contention"] == pytest.approx(50 * report["contention"], rel=0.01)
    assert report["offered"][0]["error_percent"]["images_per_second"] == pytest.approx(-60, abs=10)


def test_the_highest_rate_holds_and_a_little_more_does_not() -> None:
    service = engine_only(0.010)
    rate = highest_rate(service, 0.040, requests=5000)
    assert capacity_model.holds(service, rate, 0.040, 5000, 1)
    assert not capacity_model.holds(service, 1.05 * rate, 0.040, 5000, 1)
    assert rate == pytest.approx(46.3, rel=0.1)  # where one wait of a hundred is over three service times (Erlang 1909)
    assert highest_rate(service, 0.009, requests=5000) == 0.0  # faster than the engine is: no rate at all


def test_a_plan_has_room_for_the_rate_and_prices_the_cores() -> None:
    parts = {
        "cores": 2,
        "http": 0.001,
        "decode": 0.003,
        "encode": 0.001,
        "batch_seconds": [0.013, 0.022, 0.033, 0.044],
        "busy": [0.9] * 4,
        "generator": 0.001,
    }
    rows = capacity.plan(parts, 1.0, [1, 100], [200], 0.8, price=0.5, requests=2000)
    assert rows[0]["services"] == 1
    for row in rows:
        assert row["services"] * 0.8 * row["highest_rate"] >= row["rate"] - 0.1 * row["services"]  # rounded for print
        assert row["cost_a_day"] == row["cores"] * 24 * 0.5
    assert capacity.plan(parts, 1.0, [1], [5], 0.8, price=None, requests=2000) == []


def test_the_straight_way_is_one_thread_an_image() -> None:
    # Decoding, engine and encoding in one go: two threads on two cores make 2 images in 3 + 10 + 1 ms.
    service = Service(2, 0.0, 0.003, 0.001, [0.006], [1.0], engine_one=0.010)
    outcome = closed_loop(service, 16, 2000)
    assert set(outcome.batches) == {1}
    assert outcome.summary()["images_per_second"] == pytest.approx(2 / 0.014, rel=0.01)
    assert outcome.core_seconds == pytest.approx(2000 * 0.014, rel=0.01)
    alone = closed_loop(service, 1, 50)
    assert list(alone.latencies.values()) == pytest.approx([0.003 + 0.006 + 0.001] * 50)  # the engine on both cores


def test_the_straight_way_is_first_come_first_served() -> None:
    # Kiefer and Wolfowitz's recursion for two servers: who comes takes the one that is free first.
    service, moments = Service(2, 0.0, 0.0, 0.0, [0.010], [0.0], engine_one=0.010, max_queue=10**9), arrivals(160, 40, 3)
    outcome, free, waits = open_loop(service, moments), [0.0, 0.0], []
    for moment in moments:
        begins = max(moment, min(free))
        free[free.index(min(free))] = begins + 0.010
        waits.append(begins - moment)
    assert outcome.waits == pytest.approx(waits, abs=1e-9)


def test_the_table_of_workers_sets_one_beside_two() -> None:
    def row(size: tuple[int, int], workers: int, clients: int, speed: float) -> dict[str, Any]:
        numbers = {"images_per_second": speed, "p50_ms": 1.0, "p99_ms": 2.0}
        return {"size": list(size), "workers": workers, "clients": clients, **numbers}

    rows = [
        row((640, 480), 1, 4, 10.0),
        row((640, 480), 1, 16, 20.0),
        row((640, 480), 2, 4, 11.0),
        row((640, 480), 2, 16, 22.0),
    ]
    assert capacity.worker_lines(rows)[2:] == [
        "| 640 x 480 | 4 | 10.0, 11.0 | 1.0, 1.0 | 2.0, 2.0 |",
        "| 640 x 480 | 16 | 20.0, 22.0 | 1.0, 1.0 | 2.0, 2.0 |",
    ]
