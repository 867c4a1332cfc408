"""The default page has the address /; its own name leads there, with what the link asks for, so that file and address agree."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

NAME = "layer_redundancy"


def route() -> Route:
    return Route(f"/{NAME}", _home, methods=["GET", "HEAD"])


async def _home(request: Request) -> RedirectResponse:
    return RedirectResponse("./" + (f"?{request.url.query}" if request.url.query else ""), status_code=307)
