"""One look at the counters in Redis, and what the books say they must hold. Judges nothing.

The comparison is exact under traffic: one script takes a snapshot of producers, counters and holds;
the books are given time to commit what the snapshot had settled; then the events up to each
producer's seq in the snapshot are what its counters must have held.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ledger.budgets import Budget, Window, window_at
from ledger.counters import LEDGER, counted_budgets, used_in_windows
from ledger.db import Database, Row, Session
from ledger.keyspace import Keyspace
from ledger.stream import Redis, run_script

COMMIT_DEADLINE_S: Final = 10.0
POLL_S: Final = 0.05
OVERDUE_MS: Final = 60_000
"""A hold that expired so long ago should have been swept."""


class Hold(NamedTuple):
    """An open reservation: when it expires (Unix ms), and what it takes from which counters."""

    expires_at_ms: int
    shares: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Counter:
    """A budget's counter of the current window as Redis had it.

    `known`: it had been counted into. `open_holds` are the event ids of the holds on it, `holds`
    is their sum.
    """

    budget: Budget
    window: Window
    name: str
    used: int
    held: int
    known: bool
    open_holds: tuple[str, ...]
    holds: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Redis at one moment. `holds` are by event id, `settled` is producer -> its last seq."""

    epoch: str
    now_ms: int
    now_us: int
    settled: Mapping[str, int]
    last_adjustment: int
    counters: tuple[Counter, ...]
    holds: Mapping[str, Hold]


def take_snapshot(db: Database, redis: Redis, keys: Keyspace) -> Snapshot:
    """Producers, holds and the counters of every budget's current window, all at one moment."""
    now_us = time.time_ns() // 1000
    with db.transaction() as session:
        budgets = counted_budgets(session)
    windows = [window_at(b.per, b.time_zone, now_us) for b in budgets]
    names = [keys.counter(b.budget_id, w.name) for b, w in zip(budgets, windows, strict=True)]
    stores = [keys.epoch, keys.producers, keys.holds, keys.hold_expiry]
    epoch, producers, amounts, open_holds, now_ms = run_script(redis, "snapshot", [*stores, *names])
    settled = {p.decode(): int(seq) for p, seq in zip(producers[::2], producers[1::2], strict=True)}
    holds = dict(_holds(open_holds))
    on_counter: dict[str, list[tuple[str, int]]] = {name: [] for name in names}
    for event_id, hold in holds.items():
        for name, amount in hold.shares:
            if name in on_counter:
                on_counter[name].append((event_id, amount))
    counters = tuple(
        Counter(
            budget=budget,
            window=window,
            name=name,
            used=int(used or 0),
            held=int(held or 0),
            known=used != b"",
            open_holds=tuple(dict.fromkeys(event_id for event_id, _ in on_counter[name])),
            holds=sum(amount for _, amount in on_counter[name]),
        )
        for budget, window, name, used, held in zip(
            budgets, windows, names, amounts[::2], amounts[1::2], strict=True
        )
    )
    return Snapshot(
        epoch=epoch.decode(),
        now_ms=int(now_ms),
        now_us=now_us,
        last_adjustment=settled.pop(LEDGER, 0),
        settled=settled,
        counters=counters,
        holds=holds,
    )


def wait_for_commit(db: Database, settled: Mapping[str, int], deadline_s: float) -> bool:
    """Wait until the books have what was settled; whether they have."""
    deadline = time.monotonic() + deadline_s
    while True:
        booked = contiguous(db)
        if all(booked.get(producer, 0) >= seq for producer, seq in settled.items()):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)


def contiguous(db: Database) -> dict[str, int]:
    """Producer -> the seq up to which the books have every event of it."""
    return {row["producer"]: row["contiguous"] for row in db.run("producers_all")}


def expected_used(session: Session, snapshot: Snapshot) -> dict[str, int]:
    """What the books say each counter of the snapshot must have used, by budget id.

    A budget that is so new that its base was not yet in Redis has no entry.
    """
    pending = session.run("adjustments_unapplied", adjustment_id=snapshot.last_adjustment)
    # Every producer of the books, so that one which Redis does not know is left out as a whole.
    producers = [row["producer"] for row in session.run("producers_all")]
    beyond = {**dict.fromkeys(producers, 0), **snapshot.settled}
    budgets = [counter.budget for counter in snapshot.counters]
    used = used_in_windows(session, budgets, snapshot.now_us, beyond)
    expected = {u.budget.budget_id: u.amount for u in used}
    windows = {counter.budget.budget_id: counter.window.name for counter in snapshot.counters}
    for row in pending:
        if row["producer"] is None:
            expected.pop(row["budget_id"], None)
        elif _was_due(row, beyond, windows):
            expected[row["budget_id"]] -= row["amount"]
    return expected


def overdue_holds(snapshot: Snapshot) -> list[str]:
    """Holds that should have been swept."""
    latest = snapshot.now_ms - OVERDUE_MS
    return [e for e, hold in snapshot.holds.items() if hold.expires_at_ms < latest]


def booked_holds(session: Session, snapshot: Snapshot) -> list[str]:
    """Holds of calls that are booked: they should have been released when these were settled."""
    return [
        row["event_id"]
        for row in session.run("audit_settled", event_ids=list(snapshot.holds))
        if row["seq"] <= snapshot.settled.get(row["producer"], 0)
    ]


def _was_due(row: Row, beyond: Mapping[str, int], windows: Mapping[str, str]) -> bool:
    """Whether a pending adjustment is for an event that was settled, in a window we look at."""
    if windows.get(row["budget_id"]) != row["window_name"]:
        return False
    seq: int = row["seq"]
    return seq <= beyond[row["producer"]]


def _holds(flat: Sequence[bytes]) -> Iterator[tuple[str, Hold]]:
    for event_id, expiry, text in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        parts = json.loads(text)
        shares = tuple(zip(parts[::2], map(int, parts[1::2]), strict=True))
        yield event_id.decode(), Hold(int(float(expiry)), shares)
