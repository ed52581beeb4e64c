"""Events reach the stream exactly once and in order, through lost connections, lost counters and
dead processes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from extproc import outbox as outbox_module
from extproc.meter import Draft, Settlement
from extproc.outbox import Outbox, adopt
from extproc.spool import Spool
from extproc.store import Store
from ledger.event import from_bytes
from ledger.keyspace import Keyspace

NAMES = Keyspace("outbox")


def settlement(number: int, counter: str = "") -> Settlement:
    """One finished call that cost 5."""
    fields = draft(number).fields | {"cost_nanos": 5}
    return Settlement(fields, (counter, 5, 0) if counter else ())


def draft(number: int) -> Draft:
    """A call under way."""
    fields = {"event_id": f"event-{number:05d}", "producer": "p", "occurred_at_us": 1}
    return Draft(f"event-{number:05d}", fields, ())


def streamed(client: Any) -> list[tuple[int, str]]:
    """Seq and id of every event in the stream."""
    entries = [from_bytes(fields[b"e"]) for _, fields in client.xrange(NAMES.events)]
    return [(event.seq, event.event_id) for event in entries]


async def until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of a Redis that the ledger has prepared."""
    client: redis.Redis = redis.Redis.from_url(redis_url)
    client.set(NAMES.epoch, "e1")
    yield client
    client.close()


@pytest.fixture
async def store(redis_url: str, client: redis.Redis) -> AsyncIterator[Store]:
    """The sidecar's store."""
    store = Store(redis_url, NAMES)
    yield store
    await store.close()


async def test_ships_in_order_and_settles(
    tmp_path: Path, store: Store, client: redis.Redis
) -> None:
    """A thousand events arrive once each, in order, and their counter adds up."""
    counter = NAMES.counter("b", "total")
    outbox = Outbox(Spool(tmp_path, "p"), store)
    task = asyncio.create_task(outbox.run())
    for number in range(1, 1001):
        outbox.put(settlement(number, counter))
    await until(lambda: outbox.unsettled == 0)
    task.cancel()
    assert streamed(client) == [(n, f"event-{n:05d}") for n in range(1, 1001)]
    assert client.hget(counter, "used") == b"5000"
    outbox.forget()


async def test_memory_is_bounded_while_the_store_is_away(
    tmp_path: Path, store: Store, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events beyond what memory may hold are read back from the spool."""
    monkeypatch.setattr(outbox_module, "MAX_PENDING", 10)
    outbox = Outbox(Spool(tmp_path, "p"), store)
    for number in range(1, 301):
        outbox.put(settlement(number))
    task = asyncio.create_task(outbox.run())
    await until(lambda: len(streamed(client)) == 300)
    task.cancel()
    assert [seq for seq, _ in streamed(client)] == list(range(1, 301))
    outbox.forget()


async def test_lost_counters_are_refilled_from_the_spool(
    tmp_path: Path, store: Store, client: redis.Redis
) -> None:
    """After FLUSHALL and a rebuild, exactly what the books lack is sent again."""
    outbox = Outbox(Spool(tmp_path, "p"), store)
    task = asyncio.create_task(outbox.run())
    for number in range(1, 51):
        outbox.put(settlement(number))
    await until(lambda: outbox.unsettled == 0)
    client.flushdb()
    for number in range(51, 61):
        outbox.put(settlement(number))
    client.hset(NAMES.producers, "p", 20)
    client.hset(NAMES.committed, "p", 20)
    client.set(NAMES.epoch, "e2")
    await until(lambda: len(streamed(client)) == 40)
    task.cancel()
    assert [seq for seq, _ in streamed(client)] == list(range(21, 61))
    outbox.forget()


async def test_what_a_dead_process_left_is_shipped(
    tmp_path: Path, store: Store, client: redis.Redis
) -> None:
    """Unsent events and calls that never ended are sent under the dead producer's name, then
    forgotten.
    """
    dead = Spool(tmp_path, "p")
    outbox = Outbox(dead, store)
    outbox.open(draft(2))
    outbox.put(settlement(1))
    dead.close()
    task = asyncio.create_task(adopt(tmp_path, store))
    await until(lambda: len(streamed(client)) == 2)
    assert streamed(client) == [(1, "event-00001"), (2, "event-00002")]
    client.hset(NAMES.committed, "p", 2)
    await until(lambda: not list(tmp_path.iterdir()))
    task.cancel()


async def test_a_long_call_keeps_its_hold(
    tmp_path: Path, store: Store, client: redis.Redis
) -> None:
    """The hold of a call under way is extended; that of an ended one is not brought back."""
    client.zadd(NAMES.hold_expiry, {"event-00001": 1000})
    outbox = Outbox(Spool(tmp_path, "p"), store)
    outbox.open(draft(1))
    task = asyncio.create_task(outbox.keep_holds(30, lambda: 5_000_000))
    await until(lambda: client.zscore(NAMES.hold_expiry, "event-00001") == 5030)
    client.delete(NAMES.hold_expiry)
    outbox.put(settlement(1))
    await asyncio.sleep(0.03)
    assert client.zcard(NAMES.hold_expiry) == 0
    task.cancel()
    outbox.forget()


async def test_drain_says_whether_the_books_have_everything(
    tmp_path: Path, store: Store, client: redis.Redis
) -> None:
    """Without a ledger, draining ends at its deadline and keeps the spool."""
    outbox = Outbox(Spool(tmp_path, "p"), store)
    outbox.put(settlement(1))
    assert not await outbox.drain(0.3)
    client.hset(NAMES.committed, "p", 1)
    assert await outbox.drain(5.0)
    outbox.forget()
