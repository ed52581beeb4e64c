"""The Lua scripts and the in-memory budgets agree on any workload, on a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from extproc.budget import Costs, Plan, Reserved, StoreAway, shares
from extproc.resp import StoreError
from extproc.spool import Unsettled
from extproc.store import Store
from ledger.budgets import Budget, Raise
from ledger.keyspace import Keyspace
from tests.contracts.memory_budgets import MemoryBudgets
from tests.extproc.builders import NOW_US, budget

NAMES = Keyspace("contract")
MONTH_US = 32 * 24 * 3600 * 1_000_000
BUDGETS = (
    budget(1000, budget_id="a", raises=(Raise(500, NOW_US + MONTH_US, NOW_US + 2 * MONTH_US),)),
    budget(2500, budget_id="b", per="total"),
    budget(600, budget_id="c", unit="tokens", per="day"),
    budget(5, budget_id="d", unit="calls", per="minute"),
    budget(3, budget_id="e", unit="parallel", per="total"),
    budget(10, budget_id="f", on_exceed="shadow"),
    budget(900, budget_id="g", on_exceed="throttle"),
)


def plan(
    event_id: str,
    chosen: tuple[Budget, ...],
    costs: Costs,
    least: int = 0,
    most: int = 0,
    at_us: int = NOW_US,
) -> Plan:
    """A plan against some budgets."""
    taken = shares(NAMES, chosen, at_us, at_us, costs, {})
    return Plan(event_id, taken, 10**13, least, most)


class Agreement(RuleBasedStateMachine):
    """One Redis and one model, driven by the same steps: reserve, grow, settle, expire, restart."""

    calls = Bundle("calls")
    url = ""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.client: Any = redis.Redis.from_url(self.url)
        self.client.flushdb()
        self.client.set(NAMES.epoch, "e1")
        self.model = MemoryBudgets()
        self.sent: list[Unsettled] = []
        self.plans: dict[str, Plan] = {}
        self.counters: set[str] = set()
        self.store = Store(self.url, NAMES)
        self.do(self.store.learn_epoch())

    def do(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(step)

    @rule(
        target=calls,
        chosen=st.sets(st.sampled_from(BUDGETS), min_size=1),
        nanos=st.integers(0, 300),
        per=st.integers(0, 9),
        tokens=st.integers(0, 90),
        least=st.integers(0, 30),
        more=st.integers(0, 200),
        months=st.integers(0, 2),
    )
    def reserve(
        self,
        chosen: set[Budget],
        nanos: int,
        per: int,
        tokens: int,
        least: int,
        more: int,
        months: int,
    ) -> Any:
        """A call, this month or after the windows turned and a raise began."""
        costs = Costs(nanos=nanos, nanos_per_token=per, tokens=tokens, tokens_per_token=1)
        event_id = f"call-{len(self.plans)}"
        picked = tuple(b for b in BUDGETS if b in chosen)
        made = plan(event_id, picked, costs, least, least + more, NOW_US + months * MONTH_US)
        self.plans[event_id] = made
        self.counters |= {share.counter for share in made.shares}
        assert self.do(self.store.reserve(made)) == self.model.reserve(made)
        return multiple(event_id)

    @rule(call=calls, more=st.integers(1, 50))
    def grow(self, call: str, more: int) -> None:
        """More for a call under way; nothing for one that has ended."""
        grown = tuple(s for s in self.plans[call].shares if s.per_token)
        step = Plan(call, grown, 10**13, 1, more)
        assert self.do(self.store.reserve(step, grow=True)) == self.model.reserve(step, grow=True)

    @rule(call=calls, share=st.floats(0, 1.5), again=st.integers(0, 2))
    def settle(self, call: str, share: float, again: int) -> None:
        """The real cost in place of the hold; events sent again change nothing."""
        made = self.plans[call]
        real = [(s.counter, int(s.amount(made.most) * share)) for s in made.shares]
        flat = [part for counter, amount in real for part in (counter, amount, 0)]
        seq = len(self.sent) + 1
        self.sent.append(Unsettled(seq, call, f"payload {seq}".encode(), orjson.dumps(flat)))
        settled = self.do(self.store.settle("p", self.sent[-1 - again :]))
        self.model.settle(seq, call, self.sent[-1].payload, real)
        assert settled.last == self.model.last

    @rule()
    def restart(self) -> None:
        """Another worker, or the same after a crash: it knows nothing, the store everything."""
        self.do(self.store.close())
        self.store = Store(self.url, NAMES)
        self.do(self.store.learn_epoch())

    @invariant()
    def same(self) -> None:
        """Counters, holds and the stream are those of the model."""
        for counter in self.counters:
            used, held = self.client.hmget(counter, "used", "held")
            mine = self.model.counters.get(counter)
            expected = (mine.used, mine.held) if mine else (0, 0)
            assert (int(used or 0), int(held or 0)) == expected
        holds = {
            name.decode(): sum(orjson.loads(text)[1::2])
            for name, text in self.client.hgetall(NAMES.holds).items()
        }
        assert holds == {
            name: sum(amount for _, amount in parts) for name, parts in self.model.holds.items()
        }
        stream = [fields[b"e"] for _, fields in self.client.xrange(NAMES.events)]
        assert stream == self.model.events

    def teardown(self) -> None:
        self.do(self.store.close())
        self.client.close()
        self.loop.close()


@pytest.mark.timeout(300)
def test_lua_agrees_with_memory(redis_url: str) -> None:
    """Any workload: Redis and the model never differ."""
    machine = type("AgreementHere", (Agreement,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """A store that is closed again."""
    store = Store(url, NAMES)
    try:
        yield store
    finally:
        await store.close()


async def test_no_epoch_means_no_verdict(redis_url: str) -> None:
    """Lost counters are not trusted: the store is away until the ledger has rebuilt them."""
    wanted = plan("e", BUDGETS, Costs(nanos=1))
    async with opened(redis_url) as store:
        assert isinstance(await store.reserve(wanted), StoreAway)
        with redis.Redis.from_url(redis_url) as client:
            client.set(NAMES.epoch, "e2")
            assert isinstance(await store.reserve(wanted), Reserved)
            client.flushdb()
            assert isinstance(await store.reserve(wanted), StoreAway)


async def test_a_gap_is_told(redis_url: str) -> None:
    """Events after a missing one are not taken, and the answer says where to begin."""
    with redis.Redis.from_url(redis_url) as client:
        client.set(NAMES.epoch, "e1")
        client.hset(NAMES.producers, "p", "4")
    async with opened(redis_url) as store:
        await store.learn_epoch()
        settled = await store.settle("p", [Unsettled(7, "e", b"x", b"[]")])
        assert (settled.gap, settled.last) == (True, 4)


async def test_only_as_many_as_fit_under_concurrency(redis_url: str) -> None:
    """A hundred calls at once of 0.10 against 5.00: exactly fifty are admitted."""
    with redis.Redis.from_url(redis_url) as client:
        client.set(NAMES.epoch, "e1")
    stores = [Store(redis_url, NAMES) for _ in range(4)]
    limit = (budget(5_000_000_000),)

    async def one(number: int) -> bool:
        wanted = plan(f"call-{number}", limit, Costs(nanos=100_000_000))
        reply = await stores[number % 4].reserve(wanted)
        assert isinstance(reply, Reserved)
        return reply.admitted

    admitted = await asyncio.gather(*(one(number) for number in range(100)))
    assert sum(admitted) == 50
    for store in stores:
        await store.close()


async def test_an_unreachable_store_is_away_not_an_exception() -> None:
    """Nobody listens: a reservation gets StoreAway, a settlement StoreError."""
    async with opened("redis://127.0.0.1:1/0") as store:
        assert isinstance(await store.reserve(plan("e", BUDGETS, Costs())), StoreAway)
        with pytest.raises(StoreError):
            await store.settle("p", [])
