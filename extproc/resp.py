"""One pipelined connection to Redis or Valkey. Knows commands as bytes, and neither budgets nor
events.

The request path asks the store once per call, so the price of asking matters: calls of one turn of
the event loop share a write, and hiredis does the parsing. Measured at about a quarter of the CPU
of a general client.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import hiredis

MAX_WAITING: Final = 10_000
"""Unanswered commands on one connection; more fail at once rather than queue."""
_CONNECT_TIMEOUT_S: Final = 2.0
_WATCH_S: Final = 0.1
"""How often waiting commands are compared with their deadlines."""


class StoreError(Exception):
    """The store cannot be reached, did not answer in time, or answered with an error."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a `redis://`, `rediss://` or `unix://` URL points."""

    host: str
    port: int
    path: str
    tls: bool
    username: str
    password: str
    database: int


def address(url: str) -> Address:
    """The parts of a Redis URL; ValueError says what is wrong with it."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"{url!r} is not a Redis URL; write redis://HOST:PORT/0.")
    database = parts.path.lstrip("/") if parts.scheme != "unix" else ""
    if database and not database.isdigit():
        raise ValueError(
            f"{url!r} names a database that is not a number; write redis://HOST:PORT/0."
        )
    return Address(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 6379,
        path=unquote(parts.path) if parts.scheme == "unix" else "",
        tls=parts.scheme == "rediss",
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=int(database or 0),
    )


class Connection(asyncio.Protocol):
    """A connection that opens itself again. `on_open` runs after each opening."""

    def __init__(self, url: str, on_open: Callable[[], None] | None = None) -> None:
        self._address = address(url)
        self._on_open = on_open
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, unless connected; raises StoreError."""
        if self._transport is not None:
            return
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        loop, to = asyncio.get_running_loop(), self._address
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                if to.path:
                    await loop.create_unix_connection(lambda: self, to.path)
                else:
                    tls = ssl.create_default_context() if to.tls else None
                    await loop.create_connection(lambda: self, to.host, to.port, ssl=tls)
                if to.password:
                    user = (to.username,) if to.username else ()
                    await self._command("AUTH", *user, to.password)
                if to.database:
                    await self._command("SELECT", to.database)
        except (OSError, TimeoutError, StoreError) as error:
            self._drop()
            raise StoreError(f"cannot connect to {to.path or f'{to.host}:{to.port}'}") from error
        if self._on_open is not None:
            self._on_open()

    async def close(self) -> None:
        """Drop the connection; whoever waits for a reply gets StoreError."""
        self._drop()
        await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn

    def _drop(self, error: StoreError | None = None) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._transport is not None:
            self._transport.abort()
        self._lost(error or StoreError("the connection was closed"))

    async def call(self, *command: str | bytes | int, timeout_s: float = 1.0) -> Any:
        """The reply; raises StoreError, after about `timeout_s` at the latest. A command that got
        no answer may have been carried out or not.
        """
        if self._transport is None:
            await self.open()
        return await self._command(*command, timeout_s=timeout_s)

    def _command(self, *command: str | bytes | int, timeout_s: float = 1.0) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self._transport is None or len(self._waiting) >= MAX_WAITING:
            future.set_exception(StoreError("the connection is lost or overloaded"))
            return future
        if not self._unsent:
            loop.call_soon(self._send)
        self._unsent.append(hiredis.pack_command(command))  # type: ignore[arg-type]
        self._waiting.append((future, loop.time() + timeout_s))
        if self._watch is None:
            self._watch = loop.call_later(_WATCH_S, self._look_at_the_clock)
        return future

    def _look_at_the_clock(self) -> None:
        """One timer for all commands, because a timer for each would cost more than the parsing."""
        self._watch = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        if any(deadline < loop.time() for _, deadline in self._waiting):
            # The replies behind a late one could no longer be told apart from it.
            self._drop(StoreError("no answer in time"))
        else:
            self._watch = loop.call_later(_WATCH_S, self._look_at_the_clock)

    def _send(self) -> None:
        if self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if not self._waiting:
                break
            future, _ = self._waiting.popleft()
            if future.done():
                continue
            if isinstance(reply, hiredis.ReplyError):
                future.set_exception(StoreError(str(reply)))
            else:
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(StoreError("the connection was lost"))

    def _lost(self, error: StoreError) -> None:
        self._transport = None
        self._unsent.clear()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(error)
