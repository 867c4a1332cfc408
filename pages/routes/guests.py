"""A guest's name: a random cookie of the browser's session, so that a reload or a second tab finds the same uploads and runs.

Set on the page itself while the app serves others; no script can read it, and it names nobody. What belongs to a guest is kept
under its hash (pages/shared/visitor.py), so that the shelf's file does not open it to whoever reads the file.
"""

from __future__ import annotations

import secrets
from http.cookies import SimpleCookie

from models import shelf

COOKIE = "microtome_guest"


class Guests:
    """ASGI middleware: a browser that asks for a page without the cookie gets one."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "GET" or not shelf.public() or not _new(scope):
            return await self.app(scope, receive, send)
        secure = scope.get("scheme") == "https" or (b"x-forwarded-proto", b"https") in scope["headers"]
        cookie = f"{COOKIE}={secrets.token_hex(16)}; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")

        async def with_cookie(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie.encode())]}
            await send(message)

        await self.app(scope, receive, with_cookie)


def _new(scope) -> bool:
    """A browser that opens a page and brings no name yet."""
    headers = dict(scope["headers"])
    return b"text/html" in headers.get(b"accept", b"") and COOKIE not in SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
