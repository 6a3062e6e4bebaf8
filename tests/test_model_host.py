"""One served model: its engine's errors, its batches, the answers in their order, and work that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bentoml")
from gated_service import gated, metric, post, started, until
from serving import problem

from gazeseg_serve.predictor import Predictor
from gazeseg_serve.service.app import AdaptiveBatching
from gazeseg_serve.service.cancel import gather_some
from gazeseg_serve.service.model_host import Answer, Job, ModelHost, RunBatch
from gazeseg_serve.service.settings import Settings
from gazeseg_serve.service.telemetry import Telemetry


class ByHand:
    """Batching that runs what it is given when it is told."""

    def __init__(self) -> None:
        self.closed = False

    def __call__(self, run: RunBatch, max_batch: int, max_wait: float, at_once: int) -> ByHand:
        self.run, self.max_batch, self.max_wait, self.at_once = run, max_batch, max_wait, at_once
        return self

    async def submit(self, job: Job) -> Answer | None:
        return (await self.run([job]))[0]

    def close(self) -> None:
        self.closed = True


def loaded(folder: Path, **settings: Any) -> tuple[ModelHost, ByHand, Telemetry]:
    batching, telemetry = ByHand(), Telemetry()
    host = ModelHost("m", folder, Settings(artifact=folder, **settings), telemetry, batching)
    host.load()
    return host, batching, telemetry


def image(brightness: int) -> np.ndarray:
    return np.full((32, 32, 3), brightness, np.uint8)


@pytest.mark.parametrize("batching", [AdaptiveBatching, None], ids=["adaptive", "gate"])
def test_an_engine_that_fails_many_times_is_answered_500_and_then_serves_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batching: Any
) -> None:
    """A thread that is not given back after an error would leave none after as many errors as there are threads."""

    async def ask(client: Any) -> None:
        right = Predictor.run
        with monkeypatch.context() as broken:
            broken.setattr(Predictor, "run", lambda self, images: 1 // 0)
            for _ in range(7):
                async with asyncio.timeout(20):
                    problem(await post(client), 500, "internal-error")
        assert Predictor.run is right
        async with asyncio.timeout(20):
            assert [r.status_code for r in await asyncio.gather(*[post(client) for _ in range(5)])] == [200] * 5

    async def adaptive() -> None:
        async with started(folder, batching, max_batch=4) as (client, runtime, _):
            await ask(client)
            assert runtime.admission.total == 0
            text = (await client.get("/metrics")).text
            assert metric(text, "gazeseg_in_flight") == 0
            assert metric(text, 'gazeseg_queue_depth{model="default"}') == 0

    async def one_by_one() -> None:
        async with gated(folder) as (client, gate, _, _):
            gate.open.set()
            await ask(client)

    asyncio.run(adaptive() if batching else one_by_one())


def test_one_failing_batch_fails_all_its_images_and_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Predictor.run

    def fails_on_black(self: Predictor, images: Sequence[np.ndarray]) -> Any:
        if any(not one.any() for one in images):
            raise RuntimeError("out of memory")
        return right(self, images)

    async def scenario() -> None:
        host, batching, _ = loaded(folder)
        with monkeypatch.context() as patched:
            patched.setattr(Predictor, "run", fails_on_black)
            with pytest.raises(RuntimeError, match="out of memory"):
                await batching.run([Job(image(9), 0.0), Job(image(0), 0.0)])
            answer = await host.infer(image(255))
        assert answer.outputs.probability[answer.index].min() == 1
        host.close()

    asyncio.run(scenario())


def test_every_job_gets_its_own_answer_and_one_that_is_gone_none(folder: Path) -> None:
    async def scenario() -> None:
        host, batching, telemetry = loaded(folder)
        host.warm = True
        jobs = [Job(image(value), entered=0.0) for value in (0, 51, 102, 153)]
        jobs[1].gone = True
        answers = await batching.run(jobs)
        assert answers[1] is None
        shown = [None if a is None else round(float(a.outputs.probability[a.index].mean()), 3) for a in answers]
        assert shown == [0.0, None, 0.4, 0.6]
        assert [a.batch for a in answers if a] == [3, 3, 3]
        assert all(a.wait > 0 and a.engine > 0 for a in answers if a)
        text = telemetry.render().decode()
        assert metric(text, 'gazeseg_batch_size_count{model="m"}') == 1
        assert metric(text, 'gazeseg_batch_size_sum{model="m"}') == 3
        host.close()

    asyncio.run(scenario())


def test_a_batch_of_nobody_does_not_reach_the_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        host, batching, _ = loaded(folder)
        monkeypatch.setattr(Predictor, "run", lambda self, images: pytest.fail("the engine was asked"))
        assert list(await batching.run([Job(image(1), 0.0, gone=True), Job(image(2), 0.0, gone=True)])) == [None, None]
        host.close()

    asyncio.run(scenario())


def test_what_runs_before_the_end_of_the_warm_up_is_not_counted(folder: Path) -> None:
    async def scenario() -> None:
        host, _, telemetry = loaded(folder)
        await host.infer(image(1))
        assert metric(telemetry.render().decode(), 'gazeseg_batch_size_count{model="m"}') == 0
        host.close()

    asyncio.run(scenario())


def test_the_jobs_that_wait_are_counted(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, gate, _, _):
            depth = 'gazeseg_queue_depth{model="default"}'
            waiting = [asyncio.ensure_future(post(client)) for _ in range(2)]
            await until(lambda: len(gate.jobs) == 2)
            assert metric((await client.get("/metrics")).text, depth) == 2
            gate.open.set()
            await asyncio.gather(*waiting)
            assert metric((await client.get("/metrics")).text, depth) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("engine", "max_batch", "wanted"),
    [
        ("onnxruntime-cpu", 0, (4, 2)),
        ("openvino-bf16", 0, (4, 1)),
        ("openvino-f32", 9, (9, 1)),
        ("tensorrt", 0, (32, 1)),
        ("onnxruntime-cuda", 0, (32, 1)),
        ("onnxruntime-cpu", 7, (7, 2)),
    ],
)
def test_only_the_engine_that_may_be_called_from_two_threads_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: str, max_batch: int, wanted: tuple[int, int]
) -> None:
    fake = SimpleNamespace(engine=SimpleNamespace(name=engine))
    monkeypatch.setattr(Predictor, "open", lambda *_: fake)
    batching = ByHand()
    host = ModelHost("m", folder, Settings(artifact=folder, max_batch=max_batch, timeout_seconds=12), Telemetry(), batching)
    host.load()
    assert (batching.max_batch, batching.at_once) == wanted
    assert batching.max_wait == 12
    assert host.max_batch == wanted[0]
    host.close()
    assert batching.closed


def test_two_batches_run_beside_each_other_and_a_third_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, inside, go = Predictor.run, threading.Semaphore(0), threading.Event()
    now, most = 0, 0
    lock = threading.Lock()

    def held(self: Predictor, images: Sequence[np.ndarray]) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        inside.release()
        assert go.wait(20)
        with lock:
            now -= 1
        return right(self, images)

    async def scenario() -> None:
        host, batching, _ = loaded(folder)
        monkeypatch.setattr(Predictor, "run", held)
        runs = [asyncio.ensure_future(batching.run([Job(image(i), 0.0)])) for i in range(3)]
        for _ in range(2):
            assert await asyncio.to_thread(inside.acquire, timeout=20)
        go.set()
        await asyncio.gather(*runs)
        assert most == 2
        host.close()

    asyncio.run(scenario())


def test_a_model_that_is_not_loaded_yet_says_so(folder: Path) -> None:
    async def scenario() -> None:
        host = ModelHost("m", folder, Settings(artifact=folder), Telemetry(), ByHand())
        from gazeseg_serve.service.problems import Problem

        with pytest.raises(Problem) as caught:
            _ = host.artifact
        assert (caught.value.status, caught.value.code) == (503, "starting")
        assert caught.value.headers["Retry-After"] == "2"

    asyncio.run(scenario())


def test_the_warm_up_shows_the_dispatcher_batches_of_every_size(folder: Path) -> None:
    async def scenario() -> None:
        seen: list[int] = []
        host, batching, _ = loaded(folder, max_batch=4)
        waiting: list[tuple[Job, asyncio.Future[Answer | None]]] = []

        async def flush() -> None:
            taken = waiting[:]
            waiting.clear()
            seen.append(len(taken))
            for (_, future), answer in zip(taken, await batching.run([job for job, _ in taken]), strict=True):
                future.set_result(answer)

        async def submit(job: Job) -> Answer | None:
            future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
            waiting.append((job, future))
            if len(waiting) == 1:
                asyncio.get_running_loop().call_soon(lambda: tasks.append(asyncio.ensure_future(flush())))
            return await future

        tasks: list[Any] = []
        batching.submit = submit  # type: ignore[method-assign]
        assert not host.warm
        await host.warm_up()
        assert host.warm
        assert seen[:11] == [1] * 9 + [2, 3], "the eleven batches from which BentoML's dispatcher learns"
        assert set(seen[11:]) == {1, 2, 4}
        host.close()

    asyncio.run(scenario())


def test_many_images_are_answered_in_order_a_few_at_a_time(folder: Path) -> None:
    async def scenario() -> None:
        host, batching, _ = loaded(folder, max_batch=3)
        now, most = 0, 0
        right = batching.submit

        async def counted(job: Job) -> Answer | None:
            nonlocal now, most
            now, most = now + 1, max(most, now + 1)
            try:
                return await right(job)
            finally:
                now -= 1

        batching.submit = counted  # type: ignore[method-assign]
        answers = await host.infer_all([image(value) for value in range(0, 250, 25)])
        shown = [round(255 * float(a.outputs.probability[a.index].mean())) for a in answers]
        assert shown == list(range(0, 250, 25))
        assert most == 3
        host.close()

    asyncio.run(scenario())


def counting(places: int, log: list[int]) -> Callable[[int], Any]:
    now = 0

    async def one(number: int) -> int:
        nonlocal now
        now += 1
        log.append(now)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        now -= 1
        return number

    return one


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_gather_some_runs_so_many_at_once_and_keeps_the_order(at_once: int) -> None:
    async def scenario() -> None:
        log: list[int] = []
        one = counting(at_once, log)
        assert await gather_some([one(i) for i in range(12)], at_once) == list(range(12))
        assert max(log) == at_once

    asyncio.run(scenario())


def test_the_first_error_of_gather_some_cancels_the_rest_before_it_is_raised() -> None:
    """By cancelling: a work that is only closed does not tell its batch that nobody waits any more."""

    async def scenario() -> None:
        ended: list[str] = []

        async def waits(name: str) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append(name)
                raise

        async def fails() -> None:
            await asyncio.sleep(0)
            raise KeyError("first")

        with pytest.raises(KeyError, match="first"):
            await gather_some([waits("a"), fails(), waits("b"), *[waits("late") for _ in range(4)]], 3)
        assert {"a", "b"} <= set(ended) <= {"a", "b", "late"}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_when_one_of_many_images_fails_the_others_leave_the_queue(folder: Path) -> None:
    async def scenario() -> None:
        host, batching, _ = loaded(folder, max_batch=4)
        jobs: list[Job] = []

        async def submit(job: Job) -> Answer | None:
            jobs.append(job)
            if len(jobs) == 2:
                raise RuntimeError("the engine")
            await asyncio.Event().wait()
            raise AssertionError("not reached")

        batching.submit = submit  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="the engine"):
            await host.infer_all([image(i) for i in range(4)])
        assert [job.gone for job in jobs] == [True, False, True, True]
        host.close()

    asyncio.run(scenario())


def test_an_answer_leaves_no_task_behind(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, gate, _, _):
            gate.open.set()
            await post(client)
            before = len(asyncio.all_tasks())
            for _ in range(3):
                assert (await post(client)).status_code == 200
            await until(lambda: len(asyncio.all_tasks()) <= before, 5)

    asyncio.run(scenario())
