"""Checkpoints from the browser straight to disk: `/upload/…`, beside Streamlit, never through its memory.

    POST   /upload                       {"files": {name: bytes}}          → {"id", "files", "received"}
    GET    /upload/{id}                                                    → the same: where to resume
    PUT    /upload/{id}/{name}?offset=N  the bytes from N on               → {"received", "sha256"}
    POST   /upload/{id}/finish           {"answers", "base", "tokenizer"}  → {"source" | "questions", …}
    DELETE /upload/{id}

Each request must come from a page of this app: the ticket that the page was given (header X-Microtome-Ticket), the Host
this app is served under, and an Origin or Sec-Fetch-Site that is the same site. Errors are {"error": sentence}.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from models import shelf, uploads
from models.refusal import Refused

TICKET = "x-microtome-ticket"
BUFFER = 1 << 20  # bytes gathered before a write
MAX_JSON = 1 << 16
AT_ONCE = 4  # requests with a body per owner
LOCAL = ("127.0.0.1", "localhost", "[::1]")


class Denied(Refused):
    """Not from a page of this app: 403."""


def routes(home: Callable[[], Path]) -> list[Route]:
    """The routes for st.App; `home` is asked at each request."""
    busy: Counter[str] = Counter()

    def answer(work):
        async def endpoint(request: Request) -> JSONResponse:
            try:
                owner = sender(request, home())
                if busy[owner] >= AT_ONCE:
                    return _error("Four transfers of yours are running; wait for one to end.", 429)
                busy[owner] += 1
                try:
                    return JSONResponse(await work(request, owner))
                finally:
                    busy[owner] -= 1
                    if not busy[owner]:
                        del busy[owner]
            except Denied as refusal:
                return _error(str(refusal), 403)
            except Refused as refusal:
                return JSONResponse({"error": str(refusal), "details": list(refusal.details[:200])}, 400)
            except ClientDisconnect:
                return _error("The transfer was interrupted; it can go on where it stopped.", 400)

        return endpoint

    async def begin(request: Request, owner: str) -> dict:
        body = await _json(request)
        return _seen(await run_in_threadpool(uploads.begin, home(), owner, body.get("files")))

    async def status(request: Request, owner: str) -> dict:
        return _seen(uploads.status(home(), owner, request.path_params["id"]))

    async def put(request: Request, owner: str) -> dict:
        offset = request.query_params.get("offset", "0")
        if not offset.isascii() or not offset.isdigit() or len(offset) > 15:
            raise Refused("offset is not a whole number; expected the byte to go on from.")
        opened = await run_in_threadpool(uploads.receive, home(), owner, request.path_params["id"], request.path_params["name"], int(offset))
        with opened as receiver:
            gathered = bytearray()
            async for chunk in request.stream():
                gathered += chunk
                if len(gathered) >= BUFFER:
                    await run_in_threadpool(receiver.write, bytes(gathered))
                    gathered.clear()
            await run_in_threadpool(receiver.write, bytes(gathered))
            return {"received": receiver.received, "sha256": receiver.sha256}

    async def finish(request: Request, owner: str) -> dict:
        body = await _json(request)
        answers = body.get("answers")
        if answers is not None and not (isinstance(answers, dict) and all(isinstance(v, (str, int, float, bool)) for v in answers.values())):
            raise Refused("answers is not a table of plain values; answer the questions on the page.")
        named = [_named(body.get(field), owner, home()) for field in ("base", "tokenizer")]
        entry, outcome = await run_in_threadpool(uploads.finish, home(), owner, request.path_params["id"], answers, *named, str(body.get("title", ""))[:80])
        return {
            "source": entry.source if entry else None, "runnable": outcome.runnable, "why": outcome.why, "details": list(outcome.details[:200]), "form": outcome.form,
            "fields": outcome.fields, "notes": list(outcome.notes), "checks": list(outcome.checks), "problem": outcome.problem,
            "questions": [{"field": q.field, "text": q.text, "default": q.default, "options": list(q.options)} for q in outcome.questions],
        }

    async def discard(request: Request, owner: str) -> dict:
        await run_in_threadpool(uploads.discard, home(), owner, request.path_params["id"])
        return {"discarded": True}

    return [
        Route("/upload", answer(begin), methods=["POST"]),
        Route("/upload/{id}", answer(status), methods=["GET"]),
        Route("/upload/{id}", answer(discard), methods=["DELETE"]),
        Route("/upload/{id}/finish", answer(finish), methods=["POST"]),
        Route("/upload/{id}/{name}", answer(put), methods=["PUT"]),
    ]


def sender(request: Request, home: Path) -> str:
    """The owner behind a request; Denied unless a page of this app sent it."""
    host = request.headers.get("host", "")
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    allowed = [h.strip() for h in os.environ.get("MICROTOME_HOSTS", "").split(",") if h.strip()]
    if name not in (*LOCAL, *allowed):  # another name pointing here is how a foreign page reaches a local server
        raise Denied("This app does not answer to that host name. Open it at its own address, or name the host in MICROTOME_HOSTS.")
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site not in (None, "same-origin") or (origin is not None and urlsplit(origin).netloc != host) or (site is None and origin is None):
        raise Denied("Uploads are taken from a page of this app only. Use the checkpoints page.")
    try:
        return uploads.owner_of(home, request.headers.get(TICKET, ""))
    except Refused as refusal:
        raise Denied(str(refusal)) from refusal


def _named(source: object, user: str, home: Path) -> Path | None:
    """The folder of a shelf or demo model that the sender may use."""
    if source is None:
        return None
    entry = next((e for e in shelf.shelf(home, user) if e.source == source), None)
    if entry is None:
        raise Refused("The chosen model is not on your shelf. Choose one of the list.")
    return Path(entry.path)


async def _json(request: Request) -> dict:
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_JSON:
            raise Refused(f"The request has more than {MAX_JSON:,} bytes; expected a short table. Use the checkpoints page.")
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused("The request is not JSON. Use the checkpoints page.") from error
    if not isinstance(body, dict):
        raise Refused("The request is not a table. Use the checkpoints page.")
    return body


def _seen(upload: uploads.Upload) -> dict:
    return {"id": upload.id, "files": upload.files, "received": upload.received}


def _error(sentence: str, status: int) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)
