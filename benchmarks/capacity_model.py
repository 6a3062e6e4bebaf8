"""A model of the service as a queue, in simpy: how fast it answers so many requests a second on so many cores.

A request's way on a CPU, the straight one: HTTP work on the one event loop, then decoding, the engine and encoding by one
thread of a pool, HTTP work again; the engine takes all cores for who is alone, else one. The way through batches: HTTP work,
decoding in the pool, the adaptive batching queue, the engine, encoding in the pool, HTTP work again.

Every piece of work needs a core, and the cores are shared in slices of three milliseconds, as an operating system shares
them among threads. Where the engine has lanes (a batch on a CPU), each image of a batch is one thread's work; else a batch
keeps all cores busy for a measured share of its time. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

SLICE = 0.003  # about what Linux gives a thread while others wait
Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Service:
    """What is known of a service before it is loaded.

    http, decode, encode    CPU a request, of one thread
    batch_seconds           by batch size 1, 2, ... : how long the engine takes for a batch with nothing beside it
    busy                    by batch size: the share of all cores that the engine uses meanwhile; 0 for a GPU
    engine_one              CPU of one image by one thread, all cores doing the same; 0: images go through batches
    jitter                  what a batch may take, over what it takes usually: one of these by chance; empty: always 1
    lanes                   a batch of several images goes to one thread an image
    at_once                 batches under way at once
    contention              how much longer work takes in the service than by itself: caches, locks, changes of thread
    generator               CPU a request of a load generator on the same cores; 0 where it has a machine of its own
    max_queue               requests under way at once; one more is refused
    """

    cores: int
    http: float
    decode: float
    encode: float
    batch_seconds: Sequence[float]
    busy: Sequence[float]
    jitter: Sequence[float] = ()
    lanes: bool = True
    at_once: int = 2
    contention: float = 1.0
    generator: float = 0.0
    max_queue: int = 64
    engine_one: float = 0.0

    @property
    def max_batch(self) -> int:
        return len(self.batch_seconds)


@dataclass
class Outcome:
    """What became of the requests: seconds of every answer by the number of its request, who was refused, batch sizes."""

    arrived: int = 0
    latencies: dict[int, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    end: float = 0.0
    core_seconds: float = 0.0

    def summary(self, skip: float = 0.05) -> dict[str, float]:
        """Percentiles in milliseconds, without the first `skip` of the requests."""
        kept = [seconds for number, seconds in self.latencies.items() if number >= skip * self.arrived]
        p50, p99 = np.percentile(np.array(kept or [np.nan]) * 1000, [50, 99])
        return {
            "images_per_second": round(len(self.latencies) / self.end, 1),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "refused": len(self.refused),
            "images_a_batch": round(float(np.mean(self.batches)), 2),
        }


class _House:
    def __init__(self, env: simpy.Environment, service: Service) -> None:
        self.env, self.service, self.outcome = env, service, Outcome()
        self.chance = np.random.default_rng(0)
        self.cores = simpy.Resource(env, service.cores)
        self.loop = simpy.Resource(env, 1)
        self.codec = simpy.Resource(env, service.cores)
        self.lanes = simpy.Resource(env, service.cores)
        self.waiting: simpy.Store = simpy.Store(env)
        self.slots = simpy.Resource(env, service.at_once)
        self.inside = 0
        env.process(self._dispatch())

    def work(self, seconds: float, rest: float = 0.0) -> Process:
        """Use a core for `seconds`, a slice at a time, and rest for `rest` times as long after each slice."""
        seconds *= self.service.contention
        while seconds > 1e-12:
            part = min(SLICE, seconds)
            with self.cores.request() as core:
                yield core
                yield self.env.timeout(part)
            self.outcome.core_seconds += part
            seconds -= part
            if rest:
                yield self.env.timeout(part * rest)

    def on(self, pool: simpy.Resource, seconds: float) -> Process:
        with pool.request() as thread:
            yield thread
            yield from self.work(seconds)

    def request(self, number: int) -> Process:
        """One request from its arrival to its answer, or to its refusal."""
        service, outcome, arrived = self.service, self.outcome, self.env.now
        outcome.arrived += 1
        yield from self.work(service.generator / 2)
        if self.inside >= service.max_queue:
            outcome.refused.append(number)
            return
        self.inside += 1
        yield from self.on(self.loop, service.http / 2)
        yield from self._straight() if service.engine_one else self._through_batches()
        yield from self.on(self.loop, service.http / 2)
        self.inside -= 1
        yield from self.work(service.generator / 2)
        outcome.latencies[number] = self.env.now - arrived
        outcome.end = self.env.now

    def _straight(self) -> Process:
        service, came = self.service, self.env.now
        with self.codec.request() as thread:
            yield thread
            self.outcome.waits.append(self.env.now - came)
            yield from self.work(service.decode)
            self.outcome.batches.append(1)
            jitter = self.chance.choice(service.jitter) if service.jitter else 1.0
            if self.inside == 1:
                yield from self._on_all_cores(service.batch_seconds[0] * jitter, service.busy[0])
            else:
                yield from self.work(service.engine_one * jitter)
            yield from self.work(service.encode)

    def _through_batches(self) -> Process:
        yield from self.on(self.codec, self.service.decode)
        done = self.env.event()
        yield self.waiting.put((done, self.env.now))
        yield done
        yield from self.on(self.codec, self.service.encode)

    def _on_all_cores(self, seconds: float, busy: float) -> Process:
        """A share `busy` of every core for `seconds`."""
        parts = (
            [self.work(seconds * busy, 1 / busy - 1) for _ in range(self.service.cores)] if busy else [self._elsewhere(seconds)]
        )
        yield self.env.all_of([self.env.process(part) for part in parts])

    def _dispatch(self) -> Process:
        """Adaptive batching: whenever a slot is free, what waits becomes a batch at once."""
        while True:
            first = yield self.waiting.get()
            slot = self.slots.request()
            yield slot
            batch = [first]
            while self.waiting.items and len(batch) < self.service.max_batch:
                batch.append((yield self.waiting.get()))
            self.env.process(self._run(slot, batch))

    def _run(self, slot: simpy.resources.resource.Request, batch: list[tuple[simpy.Event, float]]) -> Process:
        service, size = self.service, len(batch)
        self.outcome.batches.append(size)
        self.outcome.waits += [self.env.now - entered for _, entered in batch]
        seconds, busy = service.batch_seconds[size - 1], service.busy[size - 1]
        if service.jitter:
            seconds *= self.chance.choice(service.jitter)
        if service.lanes and size > 1:
            an_image = seconds / -(-size // service.cores)
            parts = [self.on(self.lanes, an_image) for _ in batch]
        else:
            parts = [self._on_all_cores(seconds, busy)]
        yield self.env.all_of([self.env.process(part) for part in parts])
        self.slots.release(slot)
        for done, _ in batch:
            done.succeed()

    def _elsewhere(self, seconds: float) -> Process:
        yield self.env.timeout(seconds)


def arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """The moments (seconds from the start) at which requests come: a Poisson process of `rate` a second."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 2) + 50)
    moments = np.cumsum(gaps)
    return moments[moments < seconds]


def open_loop(service: Service, moments: Sequence[float] | np.ndarray) -> Outcome:
    """Requests that come at these moments, whether or not those before are answered."""
    env = simpy.Environment()
    house = _House(env, service)

    def source() -> Process:
        for number, moment in enumerate(moments):
            yield env.timeout(max(0.0, moment - env.now))
            env.process(house.request(number))

    env.process(source())
    env.run()
    return house.outcome


def closed_loop(service: Service, clients: int, requests: int) -> Outcome:
    """`clients` clients that each send the next request when they have the answer to the one before."""
    env = simpy.Environment()
    house = _House(env, service)
    numbers = iter(range(requests))

    def client() -> Process:
        for number in numbers:
            yield from house.request(number)

    for _ in range(clients):
        env.process(client())
    env.run()
    return house.outcome


def highest_rate(service: Service, p99_seconds: float, requests: int = 20000, seed: int = 1) -> float:
    """Requests a second, to 1 %, at which 99 of 100 answers come within `p99_seconds` and nobody is refused; 0 if none."""
    low, high = 0.0, closed_loop(service, 4 * service.max_batch, 2000).summary()["images_per_second"]
    if not holds(service, high / 100, p99_seconds, requests // 10, seed):
        return 0.0
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(service, middle, p99_seconds, requests, seed) else (low, middle)
    return low


def holds(service: Service, rate: float, p99_seconds: float, requests: int, seed: int) -> bool:
    outcome = open_loop(service, arrivals(rate, requests / rate, seed))
    return not outcome.refused and outcome.summary()["p99_ms"] <= 1000 * p99_seconds
