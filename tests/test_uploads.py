"""The way from a browser to the shelf: limits, resume, owners, and who may not knock."""

import contextlib
import hashlib
import os
import shutil
import time

import numpy as np
import pytest
from hostile import small
from starlette.applications import Starlette
from starlette.testclient import TestClient

from models import checkpoints, intake, shelf, uploads
from models.intake.infer import Question
from models.refusal import Refused
from pages.routes import upload as route


@pytest.fixture
def client(home):
    return TestClient(Starlette(routes=route.routes(lambda: home)), base_url="http://127.0.0.1:8501")


def headers(home, owner="ann", **more):
    return {"x-microtome-ticket": uploads.ticket(home, owner), "origin": "http://127.0.0.1:8501", **more}


@pytest.fixture
def taken(monkeypatch, tmp_path):
    """The intake replaced by one that moves the files over, so that the store is tested without its processes."""
    calls = []

    def take(incoming, folder, answers=None, *rest):
        calls.append((answers, rest))
        shutil.rmtree(folder / "model", ignore_errors=True)
        shutil.copytree(incoming, folder / "model")
        questions = (Question("n_head", "How many?", 2, (1, 2)),) if answers is None else ()
        return intake.Outcome(folder / "model", "safetensors", {"model_type": "gpt2"}, questions, True, "", (), (), ())

    monkeypatch.setattr(intake, "take", take)
    return calls


def send(home, owner, folder, **arguments):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    upload = uploads.begin(home, owner, {name: len(data) for name, data in files.items()})
    for name, data in files.items():
        with uploads.receive(home, owner, upload.id, name) as receiver:
            receiver.write(data)
    return upload.id, lambda answers=None: uploads.finish(home, owner, upload.id, answers, **arguments)


def test_an_upload_becomes_a_model_under_a_random_alias(home, tmp_path, taken):
    folder = small.gpt2(tmp_path / "gpt2")
    _, finish = send(home, "ann", folder)
    assert finish()[0] is None, "questions first"
    entry, _ = finish({})
    assert entry.source.startswith("shelf/u-") and len(entry.alias) == 26 and entry.owner == "ann"
    assert checkpoints.resolve(entry.source, home).fingerprint == entry.fingerprint
    again, _ = send(home, "ann", folder)[1]({})
    assert again.fingerprint == entry.fingerprint and again.alias != entry.alias, "the name must not tell the content"


def test_two_users_see_their_own_until_shared(home, tmp_path, taken):
    entry, _ = send(home, "ann", small.gpt2(tmp_path / "g"))[1]({})
    seen = lambda user: [e.source for e in shelf.shelf(home, user, demo=tmp_path / "none")]
    assert seen("ann") == [entry.source] and seen("bob") == []
    with pytest.raises(Refused, match="not yours or not there"):
        shelf.share(entry.alias, "bob", home)
    shelf.share(entry.alias, "ann", home)
    assert seen("bob") == [entry.source]
    with pytest.raises(Refused, match="not yours or not there"):
        shelf.delete(entry.alias, "bob", home)
    shelf.delete(entry.alias, "ann", home)
    assert seen("ann") == seen("bob") == [] and not os.path.exists(entry.path)


def test_deleting_a_registered_folder_leaves_its_files(home, tmp_path):
    folder = small.gpt2(tmp_path / "g")
    alias = shelf.register(folder, home)
    shelf.delete(alias, "", home)
    assert (folder / "model.safetensors").is_file()
    with pytest.raises(Refused, match="deleted, expired or never there"):
        checkpoints.resolve(f"shelf/{alias}", home)


def test_uploads_of_others_expire_and_are_swept(home, tmp_path, taken, monkeypatch):
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    entry, _ = send(home, "ann", small.gpt2(tmp_path / "g"))[1]({})
    assert entry.expires == pytest.approx(time.time() + 7 * uploads.DAY, abs=60)
    abandoned = uploads.begin(home, "bob", {"a.safetensors": 10})
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 8 * uploads.DAY)
    with pytest.raises(Refused, match="expired"):
        checkpoints.resolve(entry.source, home)
    assert uploads.sweep(home) == 2 and not os.path.exists(entry.path)
    with pytest.raises(Refused, match="This upload is not there"):
        uploads.status(home, "bob", abandoned.id)


def test_limits_have_numbers(home, monkeypatch):
    monkeypatch.setenv("MICROTOME_UPLOAD_GB", "0.001")
    monkeypatch.setenv("MICROTOME_QUOTA_GB", "0.0015")
    with pytest.raises(Refused, match=r"has 2 MB; at most 1 MB come"):
        uploads.begin(home, "ann", {"a.safetensors": 2_000_000})
    uploads.begin(home, "ann", {"a.safetensors": 900_000})
    with pytest.raises(Refused, match="take 900 KB of 2 MB; 900 KB more do not fit. Delete one"):
        uploads.begin(home, "ann", {"a.safetensors": 900_000})
    uploads.begin(home, "bob", {"a.safetensors": 900_000})
    monkeypatch.setattr(uploads, "KEEP_FREE", 1 << 60)
    with pytest.raises(Refused, match="stay in reserve"):
        uploads.begin(home, "cid", {"a.safetensors": 10})


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", "", ".hidden", "a\x00b", "a b", "<script>", "a" * 200, "x..y"])
def test_file_names_are_plain(home, name):
    with pytest.raises(Refused, match="has signs that are not kept"):
        uploads.begin(home, "ann", {name: 5})


@pytest.mark.parametrize("id", ["", "..", "../../x", "0" * 31, "g" * 32, "0" * 32])
def test_an_id_that_is_not_there_says_nothing_more(home, id):
    with pytest.raises(Refused, match="This upload is not there"):
        uploads.status(home, "ann", id)


def test_route_streams_resumes_and_hashes(client, home):
    data = os.urandom(3_000_000)
    begun = client.post("/upload", json={"files": {"model.safetensors": len(data)}}, headers=headers(home)).json()
    url = f"/upload/{begun['id']}"
    half = client.put(f"{url}/model.safetensors", content=(data[i : i + 70_000] for i in range(0, 1_400_000, 70_000)), headers=headers(home)).json()
    assert half == {"received": 1_400_000, "sha256": None}
    assert client.put(f"{url}/model.safetensors?offset=7", content=b"x", headers=headers(home)).status_code == 400
    assert client.get(url, headers=headers(home)).json()["received"] == {"model.safetensors": 1_400_000}
    whole = client.put(f"{url}/model.safetensors?offset=1400000", content=data[1_400_000:], headers=headers(home)).json()
    assert whole == {"received": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert (home / "uploads" / begun["id"] / "incoming" / "model.safetensors").read_bytes() == data
    more = client.put(f"{url}/model.safetensors?offset={len(data)}", content=b"x", headers=headers(home))
    assert more.status_code == 400 and "announced with 3,000,000 bytes" in more.json()["error"]


def test_route_finishes_through_questions(client, home, tmp_path, taken):
    folder = small.gpt2(tmp_path / "g")
    begun = client.post("/upload", json={"files": {p.name: p.stat().st_size for p in folder.iterdir()}}, headers=headers(home)).json()
    for path in folder.iterdir():
        early = client.post(f"/upload/{begun['id']}/finish", json={}, headers=headers(home))
        assert early.status_code == 400 and "Let the upload finish" in early.json()["error"]
        client.put(f"/upload/{begun['id']}/{path.name}", content=path.read_bytes(), headers=headers(home))
    asked = client.post(f"/upload/{begun['id']}/finish", json={}, headers=headers(home)).json()
    assert asked["source"] is None and asked["questions"][0]["options"] == [1, 2]
    done = client.post(f"/upload/{begun['id']}/finish", json={"answers": {"n_head": 2}}, headers=headers(home)).json()
    assert done["source"].startswith("shelf/u-") and taken[-1][0] == {"n_head": 2}
    assert client.get(f"/upload/{begun['id']}", headers=headers(home)).status_code == 400
    assert client.post(f"/upload/{begun['id']}/finish", json={"base": "shelf/other"}, headers=headers(home)).status_code == 400


FOREIGN = {
    "another origin": {"origin": "http://evil.example"},
    "no origin at all": {"origin": None},
    "another port of this machine": {"origin": "http://127.0.0.1:9999"},
    "a cross-site fetch": {"sec-fetch-site": "cross-site"},
    "a same-site but other origin": {"sec-fetch-site": "same-site"},
    "a name rebound to this address": {"host": "evil.example:8501", "origin": "http://evil.example:8501"},
    "no ticket": {"x-microtome-ticket": None},
    "a forged ticket": {"x-microtome-ticket": "5b22616e6e225d." + "0" * 64},
    "a ticket that is no text": {"x-microtome-ticket": "zz." + "1" * 64},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_who_does_not_come_from_our_page_is_denied_on_every_route(client, home, case):
    mine = uploads.begin(home, "ann", {"a.safetensors": 10})
    sent = {k: v for k, v in {**headers(home), **FOREIGN[case]}.items() if v is not None}
    for method, path in (("POST", "/upload"), ("GET", f"/upload/{mine.id}"), ("PUT", f"/upload/{mine.id}/a.safetensors"), ("POST", f"/upload/{mine.id}/finish"), ("DELETE", f"/upload/{mine.id}")):
        answer = client.request(method, path, content=b"0123456789" if method == "PUT" else b"{}", headers=sent) if method not in ("GET", "DELETE") else client.request(method, path, headers=sent)
        assert answer.status_code == 403 and answer.json()["error"].endswith(".")
    assert uploads.status(home, "ann", mine.id).received == {"a.safetensors": 0}


def test_another_users_upload_is_not_there(client, home):
    mine = uploads.begin(home, "ann", {"a.safetensors": 10})
    for method, path in (("GET", f"/upload/{mine.id}"), ("PUT", f"/upload/{mine.id}/a.safetensors"), ("POST", f"/upload/{mine.id}/finish"), ("DELETE", f"/upload/{mine.id}")):
        answer = client.request(method, path, content=b"{}" if method in ("PUT", "POST") else None, headers=headers(home, "bob"))
        assert answer.status_code == 400 and "This upload is not there" in answer.json()["error"]
    assert uploads.status(home, "ann", mine.id).files == {"a.safetensors": 10}


def test_an_old_ticket_says_reload(home):
    with pytest.raises(Refused, match="Reload it"):
        uploads.owner_of(home, uploads.ticket(home, "ann", seconds=-1))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"files": []}', b'{"files": {"a": "5"}}', b'{"files": {"a.bin": true}}', b"[" * 60_000, b'{"x": "' + b"a" * 70_000 + b'"}', b"\xff\xfe"])
def test_odd_bodies_get_a_sentence(client, home, body):
    answer = client.post("/upload", content=body, headers=headers(home))
    assert answer.status_code == 400 and answer.json()["error"].endswith(".")


def test_two_tabs_cannot_write_one_file(home):
    upload = uploads.begin(home, "ann", {"a.safetensors": 10})
    with uploads.receive(home, "ann", upload.id, "a.safetensors"), pytest.raises(Refused, match="another tab"):
        uploads.receive(home, "ann", upload.id, "a.safetensors")
    with contextlib.closing(uploads.receive(home, "ann", upload.id, "a.safetensors").file):
        pass


def test_a_link_planted_in_the_upload_folder_is_not_followed(home, tmp_path):
    upload = uploads.begin(home, "ann", {"a.safetensors": 10})
    (tmp_path / "secret").write_text("untouched")
    (home / "uploads" / upload.id / "incoming" / "a.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        uploads.receive(home, "ann", upload.id, "a.safetensors")
    assert (tmp_path / "secret").read_text() == "untouched"


def test_what_cannot_run_is_kept_to_be_inspected_and_says_why(home, tmp_path, monkeypatch):
    from models import inspect

    def take(incoming, folder, *rest):
        shutil.copytree(incoming, folder / "model")
        return intake.Outcome(folder / "model", "safetensors", {}, (), False, "No such architecture.", (), (), ())

    monkeypatch.setattr(intake, "take", take)
    folder = tmp_path / "g"
    folder.mkdir()
    small.rewrite(folder, {"x": np.ones((2, 3), np.float32)})
    entry, _ = send(home, "ann", folder)[1]({})
    seen = lambda **more: [e.source for e in shelf.shelf(home, "ann", demo=tmp_path / "none", **more)]
    assert seen() == [] and seen(inspectable=True) == [entry.source]
    with pytest.raises(Refused, match="can be inspected but not run. No such architecture"):
        checkpoints.resolve(entry.source, home)
    assert inspect.parameters(shelf.find(entry.alias, home).folder)["name"].to_pylist() == ["x"]


def test_a_link_left_by_the_reading_process_is_not_followed(home, tmp_path, monkeypatch):
    from models.intake import isolate

    def run(task, arguments, folder, *rest):
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").symlink_to("/etc/passwd")
        return {"form": "safetensors", "fields": {}, "questions": [], "runnable": True, "why": "", "notes": [], "lines": []}

    monkeypatch.setattr(isolate, "run", run)
    with pytest.raises(Refused, match="no plain file"):
        intake.take(tmp_path / "in", tmp_path / "u")


def test_a_guest_gets_a_name_with_the_page_and_keeps_it(home, monkeypatch):
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from pages.routes.guests import COOKIE, Guests

    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("page"))], middleware=[Middleware(Guests)])
    browser = TestClient(app, headers={"accept": "text/html,*/*"})
    assert not browser.get("/").cookies, "nobody needs a name while the app serves its own user"
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    first = browser.get("/")
    given = first.headers["set-cookie"]
    assert len(first.cookies[COOKIE]) == 32 and "HttpOnly" in given and "SameSite=Lax" in given and "Secure" not in given and "Max-Age" not in given
    assert "set-cookie" not in browser.get("/").headers, "the second page finds it"
    assert "set-cookie" not in TestClient(app, headers={"accept": "application/json"}).get("/").headers
    assert "Secure" in TestClient(app, headers={"accept": "text/html", "x-forwarded-proto": "https"}).get("/").headers["set-cookie"]


def test_what_belongs_to_a_guest_is_kept_under_a_hash(monkeypatch):
    import streamlit as st

    from pages.shared import visitor

    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    cookies = {"microtome_guest": "ab" * 16}
    monkeypatch.setattr(type(st.context), "cookies", property(lambda self: cookies))
    name = visitor.owner()
    assert name == visitor.owner() and visitor.is_guest() and "ab" * 16 not in name
    cookies["microtome_guest"] = "cd" * 16
    assert visitor.owner() != name
    for odd in ("", "x", "AB" * 16, "ab" * 17):
        cookies["microtome_guest"] = odd
        assert visitor.owner().startswith("guest ") and visitor.owner() != name
