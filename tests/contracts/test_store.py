"""The Lua scripts and the in-memory budgets agree on any workload, on a real Redis."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.budget import Plan, Reserved, StoreAway, shares
from extproc.resp import StoreError
from extproc.spool import Unsettled
from extproc.store import Store
from ledger.keyspace import Keyspace
from tests.contracts.memory_budgets import MemoryBudgets
from tests.extproc.builders import NOW_US, budget

NAMES = Keyspace("contract")
BUDGETS = (
    budget(100, budget_id="a"),
    budget(250, budget_id="b", per="total"),
    budget(60, budget_id="c", unit="tokens", per="day"),
)
COUNTERS = [share.counter for share in shares(NAMES, BUDGETS, NOW_US, 1, 1)]

reserves = st.tuples(
    st.just("reserve"),
    st.sets(st.sampled_from(BUDGETS), min_size=1),
    st.integers(1, 120),
    st.integers(1, 70),
)
settles = st.tuples(
    st.just("settle"),
    st.integers(0, 30),
    st.lists(st.tuples(st.sampled_from(COUNTERS), st.integers(0, 90)), max_size=3),
    st.integers(0, 2),
)


@dataclass
class World:
    """One Redis and one model, driven by the same steps."""

    client: Any
    store: Store
    model: MemoryBudgets = field(default_factory=MemoryBudgets)
    calls: int = 0
    sent: list[Unsettled] = field(default_factory=list)

    async def reserve(self, chosen: set[object], nanos: int, tokens: int) -> None:
        """Reserve on both; the answers must be the same."""
        self.calls += 1
        picked = tuple(b for b in BUDGETS if b in chosen)
        taken = shares(NAMES, picked, NOW_US, nanos, tokens)
        plan = Plan(f"call-{self.calls}", taken, 10**13)
        assert await self.store.reserve(plan) == self.model.reserve(plan)

    async def settle(self, which: int, real: list[tuple[str, int]], again: int) -> None:
        """Settle one call, and send the last few events again: that must change nothing."""
        call = f"call-{which}"
        seq = len(self.sent) + 1
        flat = [part for counter, amount in real for part in (counter, amount, 0)]
        item = Unsettled(seq, call, f"payload {seq}".encode(), orjson.dumps(flat))
        self.sent.append(item)
        settled = await self.store.settle("p", self.sent[-1 - again :])
        self.model.settle(seq, call, item.payload, real)
        assert settled.last == self.model.last

    def compare(self) -> None:
        """Counters, holds and the stream are those of the model."""
        for counter in COUNTERS:
            used, held = self.client.hmget(counter, "used", "held")
            mine = self.model.counters.get(counter)
            assert (int(used or 0), int(held or 0)) == ((mine.used, mine.held) if mine else (0, 0))
        assert {k.decode() for k in self.client.hkeys(NAMES.holds)} == set(self.model.holds)
        stream = [fields[b"e"] for _, fields in self.client.xrange(NAMES.events)]
        assert stream == self.model.events


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.one_of(reserves, settles), max_size=40))
def test_lua_agrees_with_memory(redis_url: str, steps: list[tuple[object, ...]]) -> None:
    """Reserve, settle and repeat in any order: Redis and the model never differ."""

    async def drive() -> None:
        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()
            client.set(NAMES.epoch, "e1")
            world = World(client, Store(redis_url, NAMES))
            await world.store.learn_epoch()
            for name, *arguments in steps:
                await getattr(world, str(name))(*arguments)
                world.compare()
            await world.store.close()

    asyncio.run(drive())


async def test_no_epoch_means_no_verdict(redis_url: str) -> None:
    """Counters that were lost are not trusted: the store counts as away until the ledger rebuilt
    them.
    """
    store = Store(redis_url, NAMES)
    plan = Plan("e", shares(NAMES, BUDGETS, NOW_US, 1, 1), 10**13)
    assert isinstance(await store.reserve(plan), StoreAway)
    with redis.Redis.from_url(redis_url) as client:
        client.set(NAMES.epoch, "e2")
        assert isinstance(await store.reserve(plan), Reserved)
        client.flushdb()
        assert isinstance(await store.reserve(plan), StoreAway)
    await store.close()


async def test_a_gap_is_told(redis_url: str) -> None:
    """Events after a missing one are not taken, and the answer says where to begin."""
    with redis.Redis.from_url(redis_url) as client:
        client.set(NAMES.epoch, "e1")
        client.hset(NAMES.producers, "p", 4)
    store = Store(redis_url, NAMES)
    await store.learn_epoch()
    settled = await store.settle("p", [Unsettled(7, "e", b"x", b"[]")])
    assert (settled.gap, settled.last) == (True, 4)
    await store.close()


async def test_only_as_many_as_fit_under_concurrency(redis_url: str) -> None:
    """A hundred calls at once of 0.10 against 5.00: exactly fifty are admitted."""
    with redis.Redis.from_url(redis_url) as client:
        client.set(NAMES.epoch, "e1")
    stores = [Store(redis_url, NAMES) for _ in range(4)]
    limit = budget(5_000_000_000)

    async def one(number: int) -> bool:
        taken = shares(NAMES, (limit,), NOW_US, 100_000_000, 1)
        reply = await stores[number % 4].reserve(Plan(f"call-{number}", taken, 10**13))
        assert isinstance(reply, Reserved)
        return reply.admitted

    admitted = await asyncio.gather(*(one(number) for number in range(100)))
    assert sum(admitted) == 50
    for store in stores:
        await store.close()


async def test_an_unreachable_store_is_away_not_an_exception() -> None:
    """Nobody listens: the answer is StoreAway for a reservation, StoreError for a settlement."""
    store = Store("redis://127.0.0.1:1/0", NAMES)
    plan = Plan("e", shares(NAMES, BUDGETS, NOW_US, 1, 1), 10**13)
    assert isinstance(await store.reserve(plan), StoreAway)
    with pytest.raises(StoreError):
        await store.settle("p", [])
