"""Batches answered as they are worked on: whole archives, in order, whatever becomes of one image or of the client."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from artifacts import write_artifact
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("bentoml")
from serving import encoded, images, problem
from test_service_limits import served, until

from gazeseg_serve.service.answering import Reply
from gazeseg_serve.service.archive import Item, json_lines, zipped
from gazeseg_serve.service.cancel import in_order
from gazeseg_serve.service.problems import Problem

CONTENT = st.one_of(st.none(), st.binary(max_size=100), st.integers(1, 3).map(lambda size: bytes(range(256)) * 1024 * size))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    return folder


def reply(content: bytes, in_file: bool) -> Reply:
    if not in_file:
        return Reply("image/png", content, None, len(content))
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who sends it
    file.write(content)
    file.seek(0)
    return Reply("image/png", b"", file, len(content))


async def given_items(found: list[Item]) -> AsyncIterator[Item]:
    for item in found:
        yield item


async def collected(chunks: AsyncIterator[bytes]) -> list[bytes]:
    return [chunk async for chunk in chunks]


@settings(max_examples=50, deadline=None)
@given(contents=st.lists(st.tuples(CONTENT, st.booleans()), max_size=5))
def test_any_answers_make_a_whole_archive(contents: list) -> None:
    names = [f"image {number}.png" for number in range(len(contents))]
    items = [
        Item(
            name, None if content is None else reply(content, in_file), Problem(400, "bad", "bad") if content is None else None
        )
        for name, (content, in_file) in zip(names, contents, strict=True)
    ]
    entries = {name: f"ä{name}" for name in names}
    chunks = asyncio.run(collected(zipped(given_items(items), entries, {"model": "m"})))
    assert all(len(chunk) <= 256 * 1024 or chunk in [content for content, _ in contents] for chunk in chunks[:-1])
    with zipfile.ZipFile(io.BytesIO(b"".join(chunks))) as archive:
        assert archive.testzip() is None
        index = json.loads(archive.read("index.json"))
        assert [image["name"] for image in index["images"]] == names
        for name, image, (content, _) in zip(names, index["images"], contents, strict=True):
            assert (image["file"] is None) == (content is None) == (image["error"] is not None)
            if content is not None:
                assert archive.read(entries[name]) == content
        for entry in archive.infolist():
            assert not entry.flag_bits & 0x08, "the size must stand before the content"


def test_json_lines_are_the_answers_with_their_names() -> None:
    found = [Item('a "quoted" ü', reply(b'{"x": [1, 2]}', True), None), Item("b", reply(b'{"y": {}}', False), None)]
    found.append(Item("c", None, Problem(413, "image-too-large", "too large")))
    lines = b"".join(asyncio.run(collected(json_lines(given_items(found))))).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"name": 'a "quoted" ü', "x": [1, 2]},
        {"name": "b", "y": {}},
        {"name": "c", "error": {"status": 413, "code": "image-too-large", "detail": "too large"}},
    ]


def test_results_come_in_order_and_no_more_is_begun_than_is_taken() -> None:
    async def scenario() -> None:
        begun: list[int] = []
        gates = [asyncio.Event() for _ in range(6)]

        async def one(number: int) -> int:
            begun.append(number)
            await gates[number].wait()
            return number

        results = in_order([one(number) for number in range(6)], 2)
        first = asyncio.ensure_future(anext(results))
        await until(lambda: begun == [0, 1])
        gates[1].set()
        await asyncio.sleep(0)
        assert not first.done()
        gates[0].set()
        assert await first == 0
        assert begun == [0, 1], "the next is begun when the first is taken"
        assert await anext(results) == 1
        await results.aclose()
        assert begun in ([0, 1], [0, 1, 2])

    asyncio.run(scenario())


def form(number: int) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (f"{i}.png", encoded(pixels=picture))) for i, picture in enumerate(images(number))]


def test_a_client_that_leaves_ends_its_batch_and_gives_its_place_back(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder, max_images=20) as (client, gate, runtime, _):
            work = asyncio.ensure_future(client.post("/v1/segment/batch", files=form(10)))
            await until(lambda: len(gate.jobs) == 1)
            assert runtime.admission.total == 1
            work.cancel()
            await until(lambda: runtime.admission.total == 0)
            await until(lambda: all(job.gone for job in gate.jobs))
            assert len(gate.jobs) < 10
            assert runtime.held.total == 0

    asyncio.run(scenario())


def test_what_is_not_done_in_time_is_told_image_by_image(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder, batch_seconds=0.3) as (client, gate, _, _):
            answer = await client.post("/v1/segment/batch?output=json", files=form(3))
            assert answer.status_code == 200
            found = [json.loads(line) for line in answer.text.splitlines()]
            assert [line["name"] for line in found] == ["0.png", "1.png", "2.png"]
            assert {line["error"]["code"] for line in found} == {"timeout"}
            gate.open.set()
            answer = await client.post("/v1/segment/batch?output=json", files=form(3))
            assert all("classes" in json.loads(line) for line in answer.text.splitlines())

    asyncio.run(scenario())


def test_work_that_must_end_now_is_told_so(folder: Path) -> None:
    """Shortly before the grace time after SIGTERM is over."""

    async def scenario() -> None:
        async with served(folder) as (client, gate, runtime, _):
            one = asyncio.ensure_future(client.post("/v1/segment", files={"image": encoded()}))
            many = asyncio.ensure_future(client.post("/v1/segment/batch", files=form(3)))
            await until(lambda: len(gate.jobs) == 2)
            runtime.give_up()
            problem(await one, 503, "draining")
            with zipfile.ZipFile(io.BytesIO((await many).content)) as archive:
                assert {image["error"]["code"] for image in json.loads(archive.read("index.json"))["images"]} == {"draining"}
            assert runtime.admission.total == 0

    asyncio.run(scenario())


def test_every_step_of_a_series_is_measured(folder: Path) -> None:
    pytest.importorskip("highdicom")
    import numpy as np
    from dicoms import dicom_file

    def counts(text: str) -> dict[str, float]:
        found = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("gazeseg_step_seconds_count"))
        return {name.split('"')[1]: float(value) for name, value in found}

    async def scenario() -> None:
        async with served(folder) as (client, gate, _, _):
            gate.open.set()
            before = counts((await client.get("/metrics")).text)
            files = [("image", (f"{i}", dicom_file(i, np.full((8, 9), 100 * i, np.uint16)))) for i in (1, 2)]
            answer: httpx.Response = await client.post("/v1/segment/batch?output=dicom-seg", files=files)
            assert answer.status_code == 200, answer.text
            after = counts((await client.get("/metrics")).text)
            assert {step: after[step] - before.get(step, 0) for step in after} == dict.fromkeys(after, 1.0)
            assert {"decode", "wait", "engine", "encode", "total"} <= set(after)

    asyncio.run(scenario())
