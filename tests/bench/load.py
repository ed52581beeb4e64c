"""A cheap load: raw keep-alive connections that each send one request after the other."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Final

_TIMEOUT_S: Final = 30.0
_PROMPT: Final = "The quarterly report names three suppliers that were late. " * 35


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of call. `loaded` are made by `clients` at once, `alone` by a single client."""

    name: str
    method: str
    path: str
    body: bytes
    clients: int
    loaded: int
    alone: int

    def request(self, key: str) -> bytes:
        """The bytes of one request."""
        head = [
            f"{self.method} {self.path} HTTP/1.1",
            "host: gateway",
            f"authorization: Bearer {key}",
            "user-agent: bench",
        ]
        if self.body:
            head += ["content-type: application/json", f"content-length: {len(self.body)}"]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + self.body


def _chat(stream: bool) -> bytes:
    ask = {
        "model": "gpt-4o",
        "max_tokens": 300,
        "stream": stream,
        "messages": [
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": _PROMPT},
        ],
    }
    return json.dumps(ask, separators=(",", ":")).encode()


CHAT: Final = "/openai/v1/chat/completions"
SHAPES: Final = (
    Shape("headers only", "GET", "/openai/v1/models", b"", 16, 640, 100),
    Shape("JSON, both bodies", "POST", CHAT, _chat(False), 16, 480, 100),
    Shape("SSE, 200 chunks", "POST", CHAT, _chat(True), 20, 20, 0),
)


class Connection:
    """One keep-alive connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def call(self, request: bytes) -> float:
        """Seconds from the request's first byte to the answer's last one; raises unless 200."""
        began = time.perf_counter()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the gateway answered {head[:200]!r}")
        lower = head.lower()
        at = lower.find(b"content-length: ")
        if at >= 0:
            length = int(lower[at + 16 : lower.index(b"\r\n", at)])
            await self._reader.readexactly(length)
        else:
            while await self._reader.readuntil(b"\r\n") != b"0\r\n":
                pass
            await self._reader.readexactly(2)
        return time.perf_counter() - began

    def close(self) -> None:
        """Give the connection up."""
        self._writer.close()


async def connect(port: int) -> Connection:
    """A new connection."""
    return Connection(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))


async def in_turns(ports: list[int], request: bytes, calls: int) -> list[list[float]]:
    """Seconds of `calls` calls to each port, one at a time, the ports taking turns call by call."""
    connections = [await connect(port) for port in ports]
    took: list[list[float]] = [[] for _ in ports]
    try:
        for _ in range(calls):
            for connection, times in zip(connections, took, strict=True):
                times.append(await asyncio.wait_for(connection.call(request), _TIMEOUT_S))
    finally:
        for connection in connections:
            connection.close()
    return took


async def run(port: int, request: bytes, calls: int, clients: int) -> list[float]:
    """Seconds of each of `calls` calls, shared by `clients` that do not pause."""
    connections = await asyncio.gather(*(connect(port) for _ in range(clients)))
    left = calls
    took: list[float] = []

    async def client(connection: Connection) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            took.append(await asyncio.wait_for(connection.call(request), _TIMEOUT_S))

    try:
        await asyncio.gather(*(client(connection) for connection in connections))
    finally:
        for connection in connections:
            connection.close()
    return took
