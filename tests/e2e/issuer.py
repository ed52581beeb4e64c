"""An identity provider: its keys, its key set, and the tokens that it and others make."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER: Final = "https://login.example.com"
AUDIENCE: Final = "gateway"
RS256: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ES256: Final = ec.generate_private_key(ec.SECP256R1())
STRANGER: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
"""A key that the issuer never had."""


def key_set() -> dict[str, Any]:
    """The public keys."""
    return {
        "keys": [
            {**RSAAlgorithm.to_jwk(RS256.public_key(), as_dict=True), "kid": "r", "alg": "RS256"},
            {**ECAlgorithm.to_jwk(ES256.public_key(), as_dict=True), "kid": "e", "alg": "ES256"},
        ]
    }


def token(*, key: Any = RS256, algorithm: str = "RS256", kid: str = "r", **claims: Any) -> str:
    """A token that says this of somebody, good for ten minutes; None leaves a claim out."""
    now = int(time.time())
    says = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600, **claims}
    kept = {name: value for name, value in says.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers={"kid": kid})


def es256(**claims: Any) -> str:
    """One signed by the issuer's other key."""
    return token(key=ES256, algorithm="ES256", kid="e", **claims)


def public_key_as_secret(**claims: Any) -> str:
    """One whose secret is the public key, which everybody has."""
    pem = RS256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, payload, _ = token(**claims).split(".")
    head = _base64({"alg": "HS256", "typ": "JWT", "kid": "r"})
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        f"{head}.{payload}".encode(), pem
    )
    return f"{head}.{payload}.{jwt.utils.base64url_encode(signature).decode()}"


def with_another_payload(**claims: Any) -> str:
    """A good token whose claims were exchanged for these afterwards."""
    head, _, signature = token(email="bob@example.com").split(".")
    return f"{head}.{token(**claims).split('.')[1]}.{signature}"


def unsigned(**claims: Any) -> str:
    """One that says that it needs no signature."""
    payload = token(**claims).split(".")[1]
    return f"{_base64({'alg': 'none', 'typ': 'JWT'})}.{payload}."


def _base64(document: Any) -> str:
    return jwt.utils.base64url_encode(json.dumps(document).encode()).decode()


@contextmanager
def published(port: int = 0) -> Iterator[str]:
    """The URL of the key set; `port`: where it is known to be."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(key_set()).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/keys?v=1"
        finally:
            server.shutdown()
            thread.join()
