"""A service of made-up answers, for the client."""

from __future__ import annotations

import httpx
import numpy as np

from gazeseg_serve.png import encode_png


def misbehaving(answers: list[httpx.Response | Exception]) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A transport that gives these answers in turn, and the requests it has seen."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = answers[len(seen) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.MockTransport(handle), seen


def good() -> httpx.Response:
    return httpx.Response(200, content=encode_png(np.eye(4, dtype=np.uint8), bilevel=True), headers={"X-Model-Id": "m"})
