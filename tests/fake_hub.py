"""A small hub on the loopback interface, for tests/test_hub.py: repositories of commits of files, and who asked for what."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


@dataclass
class Hub:
    """`repositories` maps owner/name to {revision: files}; a branch maps to the commit's name instead of files."""

    repositories: dict[str, dict[str, dict[str, bytes] | str]]
    private: set[str] = field(default_factory=set)  # open to the token "own" only
    asked: list[tuple[str, str]] = field(default_factory=list)  # (path, authorization)
    address: str = ""


@contextmanager
def running(hub: Hub):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status: int, body: bytes = b"", **headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            path = unquote(urlparse(self.path).path)
            hub.asked.append((path, self.headers.get("Authorization", "")))
            api = path.startswith("/api/models/")
            parts = path.removeprefix("/api/models").strip("/").split("/")
            name = "/".join(parts[:2])
            commits = hub.repositories.get(name)
            if commits is None or name in hub.private and self.headers.get("Authorization") != "Bearer own":
                return self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            revision = (parts[3] if len(parts) > 3 else "main") if api or parts[2] == "resolve" else "main"
            found = commits.get(revision)
            sha = found if isinstance(found, str) else revision
            files = commits.get(sha)
            if files is None:
                return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            if api and parts[2:3] == ["tree"]:
                tree = [{"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} for file, data in files.items()]
                return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            if api:
                siblings = [{"rfilename": file, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()} for file, data in files.items()]
                return self.answer(200, json.dumps({"id": name, "modelId": name, "sha": sha, "private": name in hub.private, "siblings": siblings, "tags": []}).encode(), Content_Type="application/json")
            data = files.get("/".join(parts[4:]))
            if data is None:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
            self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=sha, Content_Type="application/octet-stream")

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
