"""A provider as lenient as none is: any method and path with a body that could be a call is served,
and billed. Knows no gateway.
"""

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn

from ledger.embedded import free_port
from tests.e2e.processes import until

INPUT_TOKENS, OUTPUT_TOKENS = 1100, 700
_MAX_ARRIVALS: Final = 10_000
_USAGE: Final = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "input_tokens": INPUT_TOKENS,
    "output_tokens": OUTPUT_TOKENS,
}
_GOOGLE_S_USAGE: Final = {
    "promptTokenCount": INPUT_TOKENS,
    "candidatesTokenCount": OUTPUT_TOKENS,
    "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS,
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that got through. `billed`: it had a body, so this provider wants money for it."""

    method: str
    path: str
    headers: dict[str, str]
    billed: bool


@dataclass(slots=True)
class Lenient:
    """The app, and what it saw."""

    url: str = ""
    arrivals: deque[Arrival] = field(default_factory=lambda: deque(maxlen=_MAX_ARRIVALS))

    def of(self, nonce: str) -> list[Arrival]:
        """The arrivals of the requests that carried this nonce."""
        return [each for each in list(self.arrivals) if each.headers.get("x-nonce") == nonce]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["raw_path"].decode("latin-1")
        self.arrivals.append(Arrival(scope["method"], path, headers, bool(body)))
        answer: dict[str, Any] = {
            "id": "r1",
            "model": "gpt-4o-mini",
            "type": "message",
            "usage": _USAGE,
            "usageMetadata": _GOOGLE_S_USAGE,
            "candidates": [{"content": {"parts": [{"text": "yes"}]}, "finishReason": "STOP"}],
        }
        answer |= {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
        sent = json.dumps(answer).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(sent))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": sent})


@contextmanager
def lenient_provider() -> Iterator[Lenient]:
    """One that serves for as long as the block lasts."""
    port = free_port()
    app = Lenient(f"http://127.0.0.1:{port}")
    options: dict[str, Any] = {"log_level": "critical", "lifespan": "off", "access_log": False}
    config = uvicorn.Config(app, host="127.0.0.1", port=port, http="h11", ws="none", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, what="the lenient provider listens")
        yield app
    finally:
        server.should_exit = True
        thread.join(10)
