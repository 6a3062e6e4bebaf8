"""Errors as RFC 9457 problem+json. Every answer that is not a success goes through here."""

from __future__ import annotations

import logging
import re
import uuid
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from gazeseg_serve.errors import (
    ImageError,
    ImageTooLarge,
    MalformedImage,
    MissingExtraError,
    OutsideIntendedUse,
    UnsupportedImage,
)

from .cancel import ClientGone

log = logging.getLogger("gazeseg_serve.service")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_STATUS_OF = {MalformedImage: 400, ImageTooLarge: 413, UnsupportedImage: 415, MissingExtraError: 415, ImageError: 422}


_DOCUMENT = {
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "code", "detail"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                    "request_id": {"type": "string"},
                },
            }
        }
    }
}
# What the OpenAPI document says of every route that takes an image.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, **_DOCUMENT}
    for status, description in {
        400: "malformed image or body",
        401: "no key, or a wrong one",
        404: "no such model",
        406: "nothing that Accept takes",
        408: "the body came too slowly",
        412: "the answer would be the one with that ETag",
        413: "too many bytes or pixels",
        415: "not a format or a charset that is accepted",
        422: "a parameter or an image that cannot be used",
        429: "over this client's share; see Retry-After",
        503: "full, starting or shutting down; see Retry-After",
        504: "not answered in time",
        507: "no room for temporary files",
    }.items()
}


class Problem(Exception):
    """An answer that is an error. `code` is a stable word for programs, `detail` one line that says the fix."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers = status, code, detail, headers or {}

    def document(self) -> dict[str, Any]:
        """What RFC 9457 calls a problem details object."""
        return {
            "type": "about:blank",
            "title": _phrase(self.status),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # 499, which nobody reads but the log
        return "Client Closed Request"


def busy(code: str, detail: str, retry_after: int = 1, status: int = 503) -> Problem:
    """503 (or 429) that says when to come back, in seconds."""
    return Problem(status, code, detail, {"Retry-After": str(retry_after)})


def storage_full() -> Problem:
    """For an OSError where a body or an answer should be kept in the folder for temporary files."""
    detail = "the service has no room for temporary files; make room in its TMPDIR, or send a smaller file"
    return Problem(507, "storage-full", detail, {"Retry-After": "30"})


def internal_error() -> Problem:
    return Problem(500, "internal-error", "an unexpected error; the log has it under the request id")


def of_status(status: int, detail: str, headers: dict[str, str]) -> Problem:
    """The problem that another layer's bare status says; its code is the status's own words."""
    return Problem(status, _phrase(status).lower().replace(" ", "-"), detail or _phrase(status), headers)


def of_image(error: ImageError | MissingExtraError) -> Problem:
    """400, 413, 415 or 422, as the kind of image error says."""
    status = next(status for kind, status in _STATUS_OF.items() if isinstance(error, kind))
    code = {400: "malformed-image", 413: "image-too-large", 415: "unsupported-image", 422: "unsuitable-image"}[status]
    return Problem(status, "outside-intended-use" if isinstance(error, OutsideIntendedUse) else code, str(error))


def response(problem: Problem, scope: Scope, **members: Any) -> Response:
    """The problem as an `application/problem+json` response to the request of `scope`; `members` are added to the document."""
    known = scope.get("gazeseg.request_id")
    body = {**problem.document(), **({"request_id": known} if known else {}), **members}
    if scope["path"].startswith("/v2"):
        body["error"] = problem.detail  # where clients of the Open Inference Protocol look
    return JSONResponse(body, problem.status, problem.headers, media_type="application/problem+json")


def request_id(headers: Headers) -> str:
    """The client's own, where it is one that can be logged, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


# What a route may raise that is not a bug; ClientGone's answer is read by nobody but the log and the metrics.
EXPECTED = (Problem, ImageError, MissingExtraError, HTTPException, FormParserError, ClientGone, ClientDisconnect)


def of_error(error: Exception, scope: Scope) -> Response:
    """The answer to one of EXPECTED."""
    if isinstance(error, Problem):
        return response(error, scope)
    if isinstance(error, ImageError | MissingExtraError):
        return response(of_image(error), scope)
    if isinstance(error, HTTPException):
        return response(of_status(error.status_code, str(error.detail), dict(error.headers or {})), scope)
    if isinstance(error, FormParserError):  # Starlette before 1.0 lets the form parser's own error through
        return response(Problem(400, "bad-request", f"the form is malformed: {error}"), scope)
    return Response(status_code=499)


def install(api: FastAPI) -> None:
    """Answer every exception a route may raise with a problem document."""

    async def on_expected(request: Request, error: Exception) -> Response:
        return of_error(error, request.scope)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        wrong = [{"parameter": str(e["loc"][-1]), "message": e["msg"]} for e in error.errors()]
        detail = "; ".join(f"{w['parameter']}: {w['message']}" for w in wrong)
        return response(Problem(422, "bad-parameter", detail), request.scope, errors=wrong)

    async def on_bug(request: Request, error: Exception) -> Response:
        return response(internal_error(), request.scope)  # it is raised again, and logged at the edge

    for kind in EXPECTED:
        api.add_exception_handler(kind, on_expected)
    api.add_exception_handler(Exception, on_bug)
    api.add_exception_handler(RequestValidationError, on_invalid)
