"""Hard budgets while parts of the system die: the sum stays within, and nobody is shut out."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.budgeted import (
    LEAST_TEN_CENTS,
    TEN_CENTS,
    TEN_CENTS_WISH,
    Team,
    billed,
    member,
    refusals,
    settled,
    team,
)
from tests.e2e.processes import kill, until
from tests.e2e.stack import EVENT_ID, Stack

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

USD = 10**9
STREAM: Any = {**TEN_CENTS, "stream": True}


@contextmanager
def under_way(crew: Team, number: int, delay_ms: int) -> Iterator[None]:
    """So many streams of ten cents that hold their money; read to their ends on leaving."""

    def call(_: int) -> None:
        try:
            crew.post(STREAM, **TEN_CENTS_WISH, delay_ms=delay_ms)
        except httpx.HTTPError:
            return

    with ThreadPoolExecutor(number) as pool:
        calls = [pool.submit(call, n) for n in range(number)]
        wanted = number * LEAST_TEN_CENTS
        until(lambda: crew.counter()[1] >= wanted, what=f"{number} holds")
        yield
        for each in calls:
            each.result()


def test_workers_are_killed_in_the_middle(four: Stack) -> None:
    """Their holds return, the budget is usable to its end, and no refusal was for a dead call."""
    crew = team(four, "killed-worker", "1usd")
    with under_way(crew, 8, delay_ms=200):
        before = four.workers()
        for worker in before[:3]:  # of four: one alone may have had none of the calls
            kill(worker)
    until(lambda: crew.counter()[1] == 0, what="all holds are back", deadline_s=30)
    until(lambda: len(four.workers()) == len(before), what="a new worker", deadline_s=30)
    four.until_known(crew.key, 4)
    for _ in range(40):  # ten calls fill the budget; others may wait for a hold
        answer = crew.post(TEN_CENTS, **TEN_CENTS_WISH)
        if answer.status_code == 402:
            break
        assert answer.status_code == 200 or answer.json()["error"]["code"] == "budget_held"
    assert answer.status_code == 402
    spent = settled(crew, 8)
    assert spent <= USD
    lost = crew.events("gateway_gone")
    assert lost
    assert all(0 < event["cost_nanos"] < event["hold_nanos"] for event in lost)
    assert refusals(crew.events()) <= {"budget_held", "budget_spent"}


def flushed_under_calls(crew: Team, seconds: float) -> float:
    """FLUSHALL, then six callers for so long; how many seconds later the last got a 503."""
    over = threading.Event()
    last: dict[int, float] = {}

    def client(_: int) -> None:
        while not over.is_set():
            status = crew.post(TEN_CENTS, **TEN_CENTS_WISH, first_delay_ms=100).status_code
            last[status] = time.monotonic()
            over.wait(0.1 if status != 200 else 0)

    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(client, n) for n in range(6)]
        until(lambda: last.keys() & {200, 402, 429}, what="calls before")
        with crew.stack.store() as store:
            store.flushall()
        flushed = time.monotonic()
        until(
            lambda: any(last.get(status, 0) > flushed + 0.5 for status in (200, 402, 429)),
            what=f"enforcement again, after {last}",
            deadline_s=10,
        )
        over.wait(seconds)
        over.set()
        for call in calls:
            call.result()
    return last.get(503, flushed) - flushed


def test_flushall_in_the_middle(four: Stack) -> None:
    """Calls go on within seconds, what was spent before is not forgotten, nothing is overspent."""
    crew = team(four, "flushed", "5usd")
    assert flushed_under_calls(crew, seconds=6) < 5
    settled(crew, 12)
    assert 4 * USD < billed(crew) <= 5 * USD


def test_flushall_while_the_budget_is_held(four: Stack) -> None:
    """Streams under way hold more than half the budget as the store forgets all: it stays held."""
    crew = team(four, "flushed-held", "2usd")
    with under_way(crew, 12, delay_ms=400):
        assert flushed_under_calls(crew, seconds=3) < 5
    settled(crew, 12)
    assert billed(crew) <= 2 * USD


def test_the_store_is_away(four: Stack) -> None:
    """Calls that a budget counts get 503 and may retry; it heals by itself."""
    crew = team(four, "away", "1usd")
    free = member(four, "no-budget")
    [pid] = four.processes("valkey-server")
    kill(pid, signal.SIGSTOP)
    try:
        answer = crew.post(TEN_CENTS, output_tokens=1)
        without = free.post(TEN_CENTS, output_tokens=1)
    finally:
        kill(pid, signal.SIGCONT)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "budget_store_away"
    assert answer.headers["x-should-retry"] == "true"
    assert without.status_code == 200
    until(lambda: crew.post(TEN_CENTS, output_tokens=1).status_code == 200, what="it heals")
    assert four.event(answer.headers[EVENT_ID], 30)["refusal"] == "budget_store_away"
    settled(crew, 2)
