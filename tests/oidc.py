"""A small identity provider on the loopback interface, for tests/test_login.py: who asks is sent to a page of people to choose from."""

import base64
import json
import secrets
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlparse

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PEOPLE = ("ada", "bob")
KEY = "test-key"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def provider():
    """Yields its address; OpenID Connect's code flow with RS256 tokens, nothing more."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    asked: dict[str, dict] = {}  # code -> what was asked, and by whom

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, body, kind="application/json", status=200, **headers):
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            url = urlparse(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            if url.path == "/.well-known/openid-configuration":
                self.answer({"issuer": base, "authorization_endpoint": f"{base}/authorize", "token_endpoint": f"{base}/token", "jwks_uri": f"{base}/jwks",
                             "response_types_supported": ["code"], "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"]})
            elif url.path == "/jwks":
                numbers = private.public_key().public_numbers()
                number = lambda n: encoded(n.to_bytes((n.bit_length() + 7) // 8, "big"))
                self.answer({"keys": [{"kty": "RSA", "kid": KEY, "use": "sig", "alg": "RS256", "n": number(numbers.n), "e": number(numbers.e)}]})
            elif url.path == "/authorize":
                links = "".join(f"<p><a href='/choose?{urlencode({**query, 'who': who})}'>{who}</a></p>" for who in PEOPLE)
                self.answer(f"<h1>Who are you?</h1>{links}", "text/html")
            elif url.path == "/choose":
                code = secrets.token_hex(8)
                asked[code] = query
                self.answer("", status=302, Location=f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}")
            else:
                self.answer({}, status=404)

        def do_POST(self):
            form = {name: values[0] for name, values in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()}
            given = asked.pop(form["code"])
            now = int(time.time())
            claims = {"iss": base, "sub": f"id-of-{given['who']}", "aud": given["client_id"], "iat": now, "exp": now + 600, "nonce": given.get("nonce"),
                      "email": f"{given['who']}@example.org", "name": given["who"]}
            signed = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT", "kid": KEY}, claims))
            signature = private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            self.answer({"access_token": secrets.token_hex(8), "token_type": "Bearer", "expires_in": 600, "id_token": f"{signed}.{encoded(signature)}"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    base = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield base
    finally:
        server.shutdown()


def secrets_file(folder, provider_address: str, app_port: int):
    """The operator's secrets.toml for that provider."""
    path = folder / "secrets.toml"
    path.write_text(f'[auth]\nredirect_uri = "http://127.0.0.1:{app_port}/oauth2callback"\ncookie_secret = "{secrets.token_hex(24)}"\nclient_id = "microtome"\n'
                    f'client_secret = "{secrets.token_hex(16)}"\nserver_metadata_url = "{provider_address}/.well-known/openid-configuration"\n')
    return path
