"""A short run of what `benchmarks/fuzz.py` does at length, and of schemathesis over the OpenAPI document."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("bentoml")
pytest.importorskip("schemathesis")
from fuzzing import attack_document, make_case, seed_corpus, send
from serving import Running, running

from gazeseg_serve.errors import ImageError
from gazeseg_serve.imaging import decode_image
from gazeseg_serve.pixels import Limits


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        folder,
        tmp_path_factory.mktemp("service"),
        GAZESEG_MAX_BYTES="2000000",
        GAZESEG_MAX_PIXELS="4000000",
        GAZESEG_READ_SECONDS="0.2",
        GAZESEG_MAX_IMAGES="20",
    ) as service:
        yield service


def test_the_seed_corpus_is_read_or_refused_by_name() -> None:
    refused = {"gif", "bmp", "dicom-frames", "dicom frames"}
    for name, data in seed_corpus().items():
        if name in refused:
            with pytest.raises(ImageError):
                decode_image(data)
        else:
            assert decode_image(data).shape[2] == 3, name


def test_the_same_seed_makes_the_same_case() -> None:
    corpus = seed_corpus()
    first, again = (make_case(random.Random("7/1"), corpus) for _ in range(2))
    assert first == again
    assert len({make_case(random.Random(f"7/{i}"), corpus).kind for i in range(200)}) > 10


@pytest.mark.parametrize(("door", "seen"), [("v1", {200, 400, 415, 422}), ("v2", {200, 400, 404, 413, 415})])
def test_broken_requests_get_no_5xx_and_none_hangs(service: Running, door: str, seen: set[int]) -> None:
    port, worker, corpus = int(service.url.rsplit(":", 1)[1]), service.worker().pid, seed_corpus()

    async def scenario() -> list[tuple[int, str, int | str]]:
        numbers, found = iter(range(400)), []

        async def client() -> None:
            for number in numbers:
                case = make_case(random.Random(f"test/{number}"), corpus, door)
                async with asyncio.timeout(30):
                    found.append((number, case.kind, await send("127.0.0.1", port, case)))

        await asyncio.gather(*[client() for _ in range(8)])
        return found

    found = asyncio.run(scenario())
    assert not [case for case in found if isinstance(case[2], int) and case[2] >= 500]
    assert seen <= {status for _, _, status in found}
    assert service.worker().pid == worker
    assert '"level": "error"' not in service.log.read_text()


@pytest.mark.filterwarnings("ignore")  # broken files make the decoders warn
def test_mutated_images_raise_image_errors_alone() -> None:
    """What the service answers 4xx to; anything else that decoding raised would be a 500."""
    from fuzzing import mutate_image

    corpus = seed_corpus()
    outcomes = set()
    for number in range(1500):
        rng = random.Random(f"decode/{number}")
        data = mutate_image(corpus[rng.choice(sorted(corpus))], rng)
        try:
            decode_image(data, rng.choice((1, 3)), Limits(2_000_000, 4_000_000))
            outcomes.add("read")
        except ImageError as error:
            outcomes.add(type(error).__name__)
    assert outcomes - {"ImageTooLarge"} == {"read", "MalformedImage", "UnsupportedImage"}


def test_requests_made_from_the_document_get_no_5xx(service: Running) -> None:
    assert len(httpx.get(service.url + "/openapi.json").json()["paths"]) >= 8
    assert {200, 400} <= set(attack_document(service.url, 10))
