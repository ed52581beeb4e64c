"""The one way to Redis: connection, scripts by name, the event stream. Knows no table."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

import redis
from redis.exceptions import NoScriptError, ResponseError

from ledger.keyspace import Keyspace

Redis = redis.Redis

DEFAULT_KEYSPACE: Final = Keyspace()
GROUP: Final = "ledger"
MAX_BATCH: Final = 1000
BLOCK_MS: Final = 100
ABANDONED_MS: Final = 30_000
"""An entry that a consumer has kept so long is taken over: its consumer is dead."""
FORGOTTEN_MS: Final = 3_600_000
"""A consumer that keeps nothing and has been idle so long is removed from the group."""
_CONNECT_TIMEOUT_S: Final = 2.0
_ANSWER_TIMEOUT_S: Final = 10.0
_NEW: Final = ">"
_OWN_PENDING: Final = "0"


class Entry(NamedTuple):
    """One entry of the event stream; `payload` is what the producer wrote, whatever it is."""

    stream_id: str
    payload: bytes


def connect(url: str) -> Redis:
    """A client that answers or fails within seconds, and in bytes."""
    return redis.Redis.from_url(
        url,
        protocol=2,
        decode_responses=False,
        socket_connect_timeout=_CONNECT_TIMEOUT_S,
        socket_timeout=_ANSWER_TIMEOUT_S,
    )


def command(client: Redis, *arguments: Any) -> Any:
    """One command; redis-py does not type what it returns."""
    return client.execute_command(*arguments)  # type: ignore[no-untyped-call]


def run_script(client: Redis, name: str, keys: Sequence[str], arguments: Iterable[Any] = ()) -> Any:
    """What `ledger/lua/<name>.lua` returns."""
    text, digest = _script(name)
    try:
        return command(client, "EVALSHA", digest, len(keys), *keys, *arguments)
    except NoScriptError:
        return command(client, "EVAL", text, len(keys), *keys, *arguments)


def integers(client: Redis, key: str) -> dict[str, int]:
    """A hash whose values are integers, such as `producers`."""
    fields: Mapping[bytes, bytes] = command(client, "HGETALL", key)
    return {name.decode("utf-8", "replace"): int(value) for name, value in fields.items()}


def unread(client: Redis, keys: Keyspace) -> Iterator[Entry]:
    """What is in the stream now, oldest first; reading it takes it from nobody."""
    last = command(client, "XREVRANGE", keys.events, "+", "-", "COUNT", 1)
    if not last:
        return
    until, after = last[0][0].decode(), "-"
    while page := command(client, "XRANGE", keys.events, after, until, "COUNT", MAX_BATCH):
        for stream_id, fields in page:
            yield Entry(stream_id.decode(), fields.get(b"e", b""))
        after = f"({page[-1][0].decode()}"


class EventStream:
    """The stream as one consumer of the ledger's group sees it."""

    def __init__(self, client: Redis, keys: Keyspace, consumer: str) -> None:
        self._client = client
        self._keys = keys
        self._consumer = consumer
        self._position = _OWN_PENDING

    def start_over(self) -> None:
        """Read again what was read and not acknowledged, before anything new."""
        self._position = _OWN_PENDING

    def read(self) -> list[Entry]:
        """The next entries, oldest first; none after a short wait when there are none."""
        try:
            entries = self._read()
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self._create_group()
            entries = self._read()
        if not entries and self._position == _OWN_PENDING:
            self._position = _NEW
            entries = self._read()
        return entries

    def acknowledge(self, entries: Sequence[Entry], committed: Mapping[str, int]) -> bool:
        """Drop entries that are booked and tell their producers; False: Redis has lost writes."""
        producers = [part for pair in committed.items() for part in pair]
        arguments = [GROUP, len(committed), *producers, *(entry.stream_id for entry in entries)]
        keys = [self._keys.events, self._keys.committed, self._keys.producers]
        return bool(run_script(self._client, "acknowledge", keys, arguments))

    def take_over(self) -> None:
        """Make this consumer's what a dead one left, and forget consumers that are long gone."""
        client, events = self._client, self._keys.events
        try:
            reply = command(
                client,
                "XAUTOCLAIM",
                events,
                GROUP,
                self._consumer,
                ABANDONED_MS,
                "0",
                "COUNT",
                MAX_BATCH,
            )
            consumers = command(client, "XINFO CONSUMERS", events, GROUP)
        except ResponseError as error:
            if not any(says in str(error) for says in ("NOGROUP", "no such key")):
                raise
            return  # nothing has been written yet
        if reply[1]:
            self.start_over()
        for consumer in consumers:
            if consumer["pending"] == 0 and consumer["idle"] > FORGOTTEN_MS:
                command(client, "XGROUP DELCONSUMER", events, GROUP, consumer["name"])

    def _read(self) -> list[Entry]:
        # BLOCK has no effect on pending entries, which are there or not.
        reply = command(
            self._client,
            *("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", MAX_BATCH),
            *("BLOCK", BLOCK_MS, "STREAMS", self._keys.events, self._position),
        )
        return _entries(reply)

    def _create_group(self) -> None:
        try:
            command(self._client, "XGROUP CREATE", self._keys.events, GROUP, "0", "MKSTREAM")
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another writer was faster
                raise


def _entries(reply: Any) -> list[Entry]:
    """The entries in redis-py's form of the reply, which differs between RESP2 and RESP3."""
    if not reply:
        return []
    found = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
    return [
        Entry(stream_id.decode(), fields.get(b"e", b"") if fields else b"")
        for stream_id, fields in found
    ]


@cache  # bounded by the files in the package
def _script(name: str) -> tuple[bytes, str]:
    text = (files("ledger") / "lua" / f"{name}.lua").read_bytes()
    return text, hashlib.sha1(text, usedforsecurity=False).hexdigest()
