"""Routes that refuse a query parameter they do not have: a misspelt `treshold=0.9` must not be answered without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from .problems import Problem


class StrictRoute(APIRoute):
    """A route of FastAPI's; 422 for an unknown name in the query, and for a name that is given twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = {param.alias for param in get_flat_params(self.dependant) if isinstance(param.field_info, Query)}

        async def checked(request: Request) -> Response:
            if request.scope["query_string"]:
                for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
                    if name not in known:
                        known_here = f"known here: {', '.join(sorted(known))}" if known else "none is known here"
                        raise Problem(422, "unknown-parameter", f"unknown query parameter {name[:64]!r}; {known_here}")
                    if count > 1:
                        raise Problem(422, "bad-parameter", f"{name} is given {count} times; give it once")
            return await handle(request)

        return checked
