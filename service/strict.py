"""Routes that refuse a query parameter they do not have: a misspelt `treshold=0.9` must not be answered without it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Header, Query
from fastapi.routing import APIRoute

from .problems import Problem


class StrictRoute(APIRoute):
    """A route of FastAPI's; 422 for an unknown name in the query, and for a name that is given twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        params = get_flat_params(self.dependant)
        known = {param.alias for param in params if isinstance(param.field_info, Query)}
        headers = {param.alias for param in params if isinstance(param.field_info, Header)}
        optional = _takes_a_request_alone(self.endpoint)

        async def checked(request: Request) -> Response:
            if request.scope["query_string"]:
                for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
                    if name not in known:
                        known_here = f"known here: {', '.join(sorted(known))}" if known else "none is known here"
                        raise Problem(422, "unknown-parameter", f"unknown query parameter {name[:64]!r}; {known_here}")
                    if count > 1:
                        raise Problem(422, "bad-parameter", f"{name} is given {count} times; give it once")
            elif optional and headers.isdisjoint(request.headers.keys()):
                # Nothing is given, so nothing need be read: FastAPI takes a third of the event loop's time to find that out.
                return await self.endpoint(request)
            return await handle(request)

        return checked


def _takes_a_request_alone(endpoint: Callable[..., Any]) -> bool:
    """Whether it can be called with a request and nothing else, and answers with a response."""
    parameters = list(inspect.signature(endpoint).parameters.values())
    hints = get_type_hints(endpoint)
    return (
        len(parameters) > 0
        and hints.get(parameters[0].name) is Request
        and hints.get("return") is Response
        and all(other.default is not other.empty for other in parameters[1:])
    )
