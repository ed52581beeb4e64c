"""An endpoint for webhooks: keeps what arrives, checks signatures, fails as told. Uses nothing of
ours.
"""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DRIP = -1
"""In place of a status: answer a byte at a time, without end."""


@dataclass(frozen=True)
class Message:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """`statuses`: how to answer the next messages; when they are used up, 204."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def kinds(self) -> list[tuple[str, int]]:
        return [
            (message.json["type"], message.json["data"]["threshold"]) for message in self.messages
        ]


def is_signed(message: Message, secret: str, tolerance_s: float = 300) -> bool:
    """Whether the holder of the secret sent it, lately; written from the standard's text."""
    prefix, _, encoded = secret.partition("_")
    assert prefix == "whsec"
    sent_at = message.headers["webhook-timestamp"]
    signed = f"{message.headers['webhook-id']}.{sent_at}.".encode() + message.body
    wanted = hmac.digest(base64.b64decode(encoded, validate=True), signed, hashlib.sha256)
    given = [
        base64.b64decode(each.removeprefix("v1,"))
        for each in message.headers["webhook-signature"].split(" ")
        if each.startswith("v1,")
    ]
    return wanted in given and abs(time.time() - int(sent_at)) < tolerance_s


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.messages.append(Message(self.path, headers, body))
            status = receiver.statuses.pop(0) if receiver.statuses else 204
            if status == DRIP:
                self._drip()
                return
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if status >= 300:
                self.wfile.write(b"no\n" * 100_000)

        def _drip(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            try:
                while not receiver.stop.wait(0.02):
                    self.wfile.write(b"z")
            except OSError:
                pass  # the sender has had enough

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                pass  # senders may leave before they have read everything

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
