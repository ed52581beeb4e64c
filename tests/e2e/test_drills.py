"""Parts of the system die under traffic: what a client saw answered is in the books, once."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.fake import TOKENS, Fake
from tests.e2e.processes import kill, until
from tests.e2e.stack import Stack, running
from tests.e2e.traffic import Traffic, traffic

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

BEFORE = 60  # calls answered before something is killed
AFTER = 60  # calls answered after it is back
QUIET_S = 60.0


@pytest.fixture(scope="module")
def drilled(fake: Fake, services_directory: Path) -> Iterator[Stack]:
    """A stack of this module alone, for things die in it."""
    with running(services_directory / "drilled", fake) as started:
        yield started


@dataclass(frozen=True, slots=True)
class Team:
    """Who calls in one drill: a key, and a budget too large to matter that counts its calls."""

    key: str
    key_id: str
    budget_id: str


@pytest.fixture
def team(drilled: Stack, request: pytest.FixtureRequest) -> Team:
    """A team of this test alone."""
    return new_team(drilled, request.node.name.replace("_", "-"))


def new_team(stack: Stack, name: str) -> Team:
    """A new key and its budget."""
    options = ("--where", f"team={name}", "--amount", "1000usd", "--per", "total")
    assert stack.ledger("budgets", "set", name, *options).returncode == 0
    issued = stack.issue(team=name)
    [budget] = stack.rows("SELECT budget_id FROM budgets WHERE name = %s", name)
    return Team(issued["key"], issued["key_id"], budget["budget_id"])


def drill(stack: Stack, team: Team, disturb: Callable[[], None]) -> Traffic:
    """Traffic, a disturbance in the middle of it, and traffic until all is well again."""
    with traffic(stack, team.key) as seen:
        until(lambda: len(seen.answered) >= BEFORE, what="calls before", deadline_s=60)
        disturb()
        disturbed = time.monotonic()
        until(
            lambda: seen.answered_since(disturbed) >= AFTER,
            what=f"calls after it (failures: {seen.failures})",
            deadline_s=60,
        )
    assert {call.streamed for call in seen.answered} == {True, False}
    return seen


def the_books_are_right(stack: Stack, team: Team, seen: Traffic) -> None:
    """Every answered call once, tokens as billed, tables agree with each other and with Redis."""
    ids = [call.event_id for call in seen.answered]
    assert len(set(ids)) == len(ids)
    query = "SELECT * FROM events WHERE event_id = ANY(%s)"

    def all_booked() -> bool:
        try:
            return len(stack.rows(query, ids)) >= len(ids)
        except psycopg.OperationalError:  # PostgreSQL is not back yet
            return False

    until(all_booked, what="all events", deadline_s=QUIET_S)
    events = stack.rows(query, ids)
    assert len(events) == len(ids)
    by_id = {event["event_id"]: event for event in events}
    bills = stack.fake.bills()
    for call in seen.answered:
        event, bill = by_id[call.event_id], bills[call.request_id]
        assert {n: event[n] for n in TOKENS} == {n: bill[n] for n in TOKENS}, (event, bill)
        assert (event["outcome"], event["usage_source"]) == ("ok", "provider")
    until(lambda: audited(stack)["ok"], what=f"audit: {audited(stack)}", deadline_s=QUIET_S)
    the_tables_agree(stack, team)


def audited(stack: Stack) -> Any:
    """What `ledger audit` says; its exit code must fit."""
    done = stack.ledger("audit", "--format", "json")
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1), done.stderr
    return found


def the_tables_agree(stack: Stack, team: Team) -> None:
    """Events, rollups, journal and the counter in Redis, added up without the audit's own code."""
    sums = "count(*) AS calls, sum({cost}) AS cost, sum(input_tokens) AS read"
    [events] = stack.rows(
        f"SELECT {sums.format(cost='cost_nanos')} FROM events WHERE key_id = %s", team.key_id
    )
    [rollups] = stack.rows(
        "SELECT sum(calls) AS calls, sum(cost_nanos) AS cost, sum(input_tokens) AS read"
        " FROM rollups WHERE key_id = %s",
        team.key_id,
    )
    assert events == rollups
    [journal] = stack.rows(
        "SELECT sum(amount_nanos) AS cost FROM journal JOIN events"
        " ON transaction_id = event_id WHERE key_id = %s AND account LIKE 'expense:%%'",
        team.key_id,
    )
    assert journal["cost"] == events["cost"]

    def settled() -> bool:
        counter = stack.counter(team.budget_id)
        return counter["used"] == events["cost"] and counter["held"] == 0

    until(
        settled,
        what=f"the counter {stack.counter(team.budget_id)} is {events['cost']}, nothing held",
        deadline_s=QUIET_S,
    )


def killed(stack: Stack, pids: Callable[[], list[int]]) -> None:
    """Kill the first of these processes, and wait until there are as many as before, anew."""
    before = pids()
    assert before
    kill(before[0])
    until(
        lambda: len(pids()) >= len(before) and before[0] not in pids(),
        what="what was killed is started again",
        deadline_s=30,
    )


def test_a_sidecar_worker_is_killed(drilled: Stack, team: Team) -> None:
    """Half of the calls lose their processor in the middle; the other worker serves on."""
    seen = drill(drilled, team, lambda: killed(drilled, drilled.workers))
    the_books_are_right(drilled, team, seen)


def test_calls_that_died_with_a_worker_are_booked_too(drilled: Stack, team: Team) -> None:
    """What was under way in a killed worker becomes an event, and its hold is given back."""
    seen = drill(drilled, team, lambda: killed(drilled, drilled.workers))
    the_books_are_right(drilled, team, seen)
    rows = drilled.rows(
        "SELECT outcome, cost_nanos FROM events WHERE key_id = %s AND outcome = 'gateway_gone'",
        team.key_id,
    )
    # Streams of up to 0.6 s in 8 threads: some of them were under way.
    assert rows
    assert all(row["cost_nanos"] > 0 for row in rows)


def test_a_worker_is_asked_to_stop(drilled: Stack, team: Team) -> None:
    """It finishes what it has begun, and the other takes what is new: no call fails."""

    def ask() -> None:
        stopped = drilled.workers()[0]
        kill(stopped, signal.SIGTERM)
        until(
            lambda: len(drilled.workers()) == 2 and stopped not in drilled.workers(),
            what="a new worker",
            deadline_s=40,
        )

    seen = drill(drilled, team, ask)
    assert seen.failures == {}
    the_books_are_right(drilled, team, seen)


def test_all_workers_and_valkey_are_killed_at_once(drilled: Stack, team: Team) -> None:
    """Nobody is left who remembers: the spools on disk do."""

    def strike() -> None:
        before = [*drilled.workers(), *valkey(drilled)]
        for pid in before:
            kill(pid)
        until(
            lambda: (
                len(drilled.workers()) == 2
                and valkey(drilled)
                and not {*drilled.workers(), *valkey(drilled)} & {*before}
            ),
            what="all are started again",
            deadline_s=40,
        )

    seen = drill(drilled, team, strike)
    the_books_are_right(drilled, team, seen)


def test_the_writer_is_killed(drilled: Stack, team: Team) -> None:
    """Nobody outside notices: no call fails."""

    def writer() -> list[int]:
        return drilled.processes("ledger", "write")

    seen = drill(drilled, team, lambda: killed(drilled, lambda: writer()[-1:]))
    assert seen.failures == {}
    the_books_are_right(drilled, team, seen)


def test_valkey_is_killed(drilled: Stack, team: Team) -> None:
    """While the store is away calls are refused with 503; nothing that passed is lost."""
    seen = drill(drilled, team, lambda: killed(drilled, lambda: valkey(drilled)))
    assert {failure[:3] for failure in seen.failures} <= {"503"}
    the_books_are_right(drilled, team, seen)


def valkey(stack: Stack) -> list[int]:
    """Valkey's process."""
    return stack.processes("valkey-server")


def test_valkey_forgets_everything(drilled: Stack, team: Team) -> None:
    """FLUSHALL under traffic: the counters are rebuilt from the books, the rest from the spools."""

    def wipe() -> None:
        with drilled.store() as store:
            store.flushall()

    seen = drill(drilled, team, wipe)
    assert {failure[:3] for failure in seen.failures} <= {"503"}
    the_books_are_right(drilled, team, seen)


def test_envoy_is_killed(drilled: Stack, team: Team) -> None:
    """The calls under way break; those whose end was seen are booked."""
    seen = drill(
        drilled, team, lambda: killed(drilled, lambda: drilled.processes("envoy", "envoy.yaml"))
    )
    the_books_are_right(drilled, team, seen)


def postmaster(stack: Stack) -> list[int]:
    """PostgreSQL's first process."""
    return stack.processes("bin/postgres", "-D")[:1] or stack.processes("postgres", "unix_socket")


def test_postgresql_is_killed(drilled: Stack, team: Team) -> None:
    """A crash and recovery of the books' server: no call fails and none is booked twice."""
    seen = drill(drilled, team, lambda: killed(drilled, lambda: postmaster(drilled)))
    assert seen.failures == {}
    the_books_are_right(drilled, team, seen)


def test_postgresql_is_stopped_for_25_seconds(drilled: Stack, team: Team) -> None:
    """Calls go on without the books, which catch up afterwards; all tables agree."""

    def away() -> None:
        drilled.process.send_signal(signal.SIGSTOP)  # the supervisor, so that it stays away
        try:
            kill(postmaster(drilled)[0], signal.SIGINT)
            time.sleep(25)
        finally:
            drilled.process.send_signal(signal.SIGCONT)

    with traffic(drilled, team.key, threads=4) as seen:
        until(lambda: len(seen.answered) >= BEFORE, what="calls before", deadline_s=60)
        went = time.monotonic()
        away()
        during = seen.answered_since(went)
        back = time.monotonic()
        until(lambda: seen.answered_since(back) >= AFTER, what="calls after", deadline_s=60)
    assert during > BEFORE
    assert seen.failures == {}
    the_books_are_right(drilled, team, seen)


def test_everything_is_killed_and_started_again(fake: Fake, services_directory: Path) -> None:
    """`ledger up` is killed with all below it; a new one on the same data has lost nothing."""
    directory = services_directory / "killed"
    with contextlib.ExitStack() as first:
        stack = first.enter_context(running(directory, fake))
        crew = new_team(stack, "killed-team")
        with traffic(stack, crew.key) as seen:
            until(lambda: len(seen.answered) >= BEFORE, what="calls before", deadline_s=60)
            kill(stack.process.pid)
            stack.process.wait()
            until(lambda: seen.failures != {}, what="the gateway is gone", deadline_s=30)
    with running(directory, fake) as again:
        the_books_are_right(again, crew, seen)
        again.until_known(crew.key)
