"""Concurrent calls, whole and streamed, by clients that note what they were answered in full."""

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from tests.e2e.stack import EVENT_ID, Stack

THREADS: Final = 8
PAUSE_AFTER_FAILURE_S: Final = 0.05
_PATH: Final = "/openai/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Answered:
    """A call whose answer its client saw to the end."""

    event_id: str
    request_id: str
    streamed: bool
    at: float


@dataclass(slots=True)
class Traffic:
    """What the clients have seen so far. `failures` counts other ends by what they were."""

    answered: list[Answered] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def answered_since(self, moment: float) -> int:
        """Calls answered after a moment of the monotonic clock."""
        with self.lock:
            return sum(call.at > moment for call in self.answered)

    def failed(self, what: str) -> None:
        """Note a call that was not answered."""
        with self.lock:
            self.failures[what] = self.failures.get(what, 0) + 1


@contextmanager
def traffic(stack: Stack, key: str, threads: int = THREADS) -> Iterator[Traffic]:
    """Calls for as long as the block lasts."""
    seen = Traffic()
    clients = [
        threading.Thread(target=_client, args=(stack.gateway, key, seen, number))
        for number in range(threads)
    ]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        seen.over.set()
        for client in clients:
            client.join(60)


def _client(gateway: str, key: str, seen: Traffic, number: int) -> None:
    dice = random.Random(number)
    where = urlsplit(gateway)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    while not seen.over.is_set():
        streamed = dice.random() < 0.5
        wishes = {"output_tokens": dice.randint(1, 60), "cached": dice.choice([0, 0, 200])}
        wishes |= {"delay_ms": dice.choice([0, 2, 10])} if streamed else {"first_delay_ms": 20}
        body = {
            "model": "gpt-4o",
            "max_tokens": 80,
            "stream": streamed,
            "messages": [{"role": "user", "content": "word " * dice.randint(1, 200)}],
        }
        headers = {"authorization": f"Bearer {key}", "x-fake": json.dumps(wishes)}
        try:
            _call(connection, body, headers, seen)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            seen.failed(type(error).__name__)
            time.sleep(PAUSE_AFTER_FAILURE_S)
    connection.close()


def _code(body: bytes) -> str:
    """The code in an error of OpenAI's shape: why a call was refused."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return repr(body[:60])


def _call(
    connection: http.client.HTTPConnection, body: Any, headers: dict[str, str], seen: Traffic
) -> None:
    connection.request("POST", _PATH, json.dumps(body), headers)
    answer = connection.getresponse()
    received = answer.read()
    if answer.status != 200:
        seen.failed(f"{answer.status} {_code(received)}")
        time.sleep(PAUSE_AFTER_FAILURE_S)
        return
    if body["stream"] and not received.endswith(b"data: [DONE]\n\n"):
        seen.failed("stream without its end")
        return
    call = Answered(
        answer.headers[EVENT_ID], answer.headers["x-request-id"], body["stream"], time.monotonic()
    )
    with seen.lock:
        seen.answered.append(call)
