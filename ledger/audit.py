"""Proves the books against themselves and against Redis; says what does not fit. Repairs nothing.

The comparison with Redis is exact under traffic: one script takes a snapshot of producers, counters
and holds; the books are given time to commit what the snapshot had settled; then the events up to
each producer's seq in the snapshot are what its counters must have held.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ledger.budgets import Budget, window_at
from ledger.counters import LEDGER, counted_budgets, used_in_windows
from ledger.db import Database, Row, Session
from ledger.keyspace import Keyspace
from ledger.money import usd_from_nanos
from ledger.stream import DEFAULT_KEYSPACE, Redis, run_script

MAX_FINDINGS: Final = 20
"""Of one check; the counts say how many more there are."""
MAX_RANGES: Final = 5
COMMIT_DEADLINE_S: Final = 10.0
POLL_S: Final = 0.05
OVERDUE_MS: Final = 60_000
"""A hold that expired so long ago should have been swept."""
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit. `says` is a sentence: what is wrong, and what to do."""

    check: str
    subject: str
    expected: str
    found: str
    says: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth knowing that is no fault of the books."""

    note: str
    subject: str
    count: int
    says: str


@dataclass(slots=True)
class Audit:
    """What the audit found. `counts` says how much was looked at."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.findings

    def to_document(self) -> dict[str, Any]:
        """The audit as the JSON object of the public contract."""
        return {"ok": self.ok, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Counter:
    """A budget's counter as Redis had it; `holds` is the sum of the open holds on it."""

    budget: Budget
    window_name: str
    used: int
    held: int
    holds: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Redis at one moment. `holds` is event id -> expiry in Unix ms."""

    epoch: str
    now_ms: int
    now_us: int
    settled: Mapping[str, int]
    last_adjustment: int
    counters: tuple[Counter, ...]
    holds: Mapping[str, int]


def audit(
    db: Database,
    redis: Redis,
    keys: Keyspace = DEFAULT_KEYSPACE,
    *,
    deadline_s: float = COMMIT_DEADLINE_S,
) -> Audit:
    """Every check. It only reads; a writer must be running for what is still in the stream."""
    for attempt in range(_ATTEMPTS):
        booked_before = _contiguous(db)
        snapshot = take_snapshot(db, redis, keys)
        _wait_for_commit(db, snapshot.settled, deadline_s)
        with db.transaction(snapshot=True) as session:
            epoch = session.run("books_state")[0]["epoch"]
            if epoch != snapshot.epoch and attempt + 1 < _ATTEMPTS:
                time.sleep(POLL_S)
                continue  # a rebuild came between
            result = _audit_books(session, snapshot)
            result.findings += _audit_redis(session, snapshot, booked_before, epoch)
            return result
    raise AssertionError("unreachable: the last attempt returns")


def take_snapshot(db: Database, redis: Redis, keys: Keyspace) -> Snapshot:
    """Producers, holds and the counters of every budget's current window, all at one moment."""
    now_us = time.time_ns() // 1000
    with db.transaction() as session:
        budgets = counted_budgets(session)
    windows = [window_at(b.per, b.time_zone, now_us).name for b in budgets]
    names = [keys.counter(b.budget_id, w) for b, w in zip(budgets, windows, strict=True)]
    stores = [keys.epoch, keys.producers, keys.holds, keys.hold_expiry]
    epoch, producers, amounts, holds, now_ms = run_script(redis, "snapshot", [*stores, *names])
    settled = {p.decode(): int(seq) for p, seq in _pairs(producers)}
    counters = [
        Counter(budget, window, *(int(amount) for amount in amounts[at * 3 : at * 3 + 3]))
        for at, (budget, window) in enumerate(zip(budgets, windows, strict=True))
    ]
    return Snapshot(
        epoch=epoch.decode(),
        now_ms=int(now_ms),
        now_us=now_us,
        last_adjustment=settled.pop(LEDGER, 0),
        settled=settled,
        counters=tuple(counters),
        holds={event_id.decode(): int(float(expiry)) for event_id, expiry in _pairs(holds)},
    )


def _audit_books(session: Session, snapshot: Snapshot) -> Audit:
    totals = session.run("audit_counts")[0]
    result = Audit(counts={name: int(value) for name, value in totals.items()})
    result.counts["counters"] = len(snapshot.counters)
    result.counts["holds"] = len(snapshot.holds)
    result.findings += _gaps(session, snapshot)
    result.findings += _journal(session, int(totals["journal_balance"]))
    result.findings += _rollups(session)
    result.findings += _letters(session)
    result.findings += _default_partitions(totals)
    for row in session.run("audit_unpriced", most=MAX_FINDINGS):
        subject = f"{row['provider']}/{row['model']}"
        says = f"{row['calls']} calls to {subject} have no price: their cost is unknown, not zero."
        result.notes.append(Note("unpriced", subject, row["calls"], says))
    return result


def _audit_redis(
    session: Session, snapshot: Snapshot, booked_before: Mapping[str, int], epoch: str | None
) -> Iterator[Finding]:
    if epoch is None or epoch != snapshot.epoch:
        yield Finding(
            "epoch",
            "redis",
            str(epoch),
            snapshot.epoch or "none",
            "The counters in Redis are not rebuilt from these books; see that the writer runs.",
        )
        return
    yield from _lost_writes(snapshot, booked_before)
    yield from _counters(session, snapshot)
    yield from _holds(session, snapshot)


def _gaps(session: Session, snapshot: Snapshot) -> Iterator[Finding]:
    rows = session.run(
        "audit_gaps", producers=list(snapshot.settled), seqs=list(snapshot.settled.values())
    )
    booked = {row["producer"]: row for row in rows}
    for producer, seq in snapshot.settled.items():
        if (booked[producer]["contiguous"] if producer in booked else 0) < seq:
            found = booked[producer]["contiguous"] if producer in booked else 0
            says = f"{seq - found} events of {producer} were settled and are not booked in order."
            yield Finding("unbooked", producer, str(seq), str(found), says)
    for producer, row in booked.items():
        if row["present"] != row["highest"]:
            ranges = session.run("audit_missing", producer=producer, most=MAX_RANGES)
            missing = ", ".join(f"{r['first']}-{r['last']}" for r in ranges)
            count = row["highest"] - row["present"]
            says = f"{count} events of {producer} are missing, first {missing}; see its spool."
            yield Finding("gap", producer, str(row["highest"]), str(row["present"]), says)
        elif producer not in snapshot.settled and row["contiguous"] != row["highest"]:
            says = f"The books' own note of how far {producer} is complete is wrong."
            yield Finding("producers", producer, str(row["highest"]), str(row["contiguous"]), says)


def _journal(session: Session, balance: int) -> Iterator[Finding]:
    if balance:
        says = "The journal does not sum to zero."
        yield Finding("journal_total", "journal", "0", str(balance), says)
    for row in session.run("audit_journal", most=MAX_FINDINGS):
        subject, cost, expense = row["event_id"], row["cost_nanos"], row["expense"]
        if expense is None:
            says = "This event has a price and no transaction in the journal."
        elif cost is None:
            says = "This transaction of the journal has no priced event."
        elif row["balance"] != "0":
            says = f"This transaction of the journal does not sum to zero but to {row['balance']}."
        else:
            says = "The journal charges another amount than the event cost."
        yield Finding("journal", subject, str(cost), str(expense), says)


def _rollups(session: Session) -> Iterator[Finding]:
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for row in session.run("audit_rollups", most=2 * MAX_FINDINGS):
        sums = row["sums"]
        labels = ", ".join(str(sums[name]) for name in ("team", "agent", "key_id", "model"))
        amounts = f"{sums['calls']} calls, {usd_from_nanos(sums['cost_nanos'])} USD"
        sides[f"{row['hour']:%Y-%m-%dT%HZ} {labels}"][row["side"]] = amounts
    for subject, found in list(sides.items())[:MAX_FINDINGS]:
        says = "This rollup is not the sum of its events."
        yield Finding("rollups", subject, found.get("expected", ""), found.get("found", ""), says)


def _letters(session: Session) -> Iterator[Finding]:
    for row in session.run("audit_letters", most=MAX_FINDINGS):
        whose = f"{row['producer']}/{row['seq']}" if row["producer"] else row["stream_id"]
        says = f"This event could not be booked: {row['reason']}"
        yield Finding("dead_letter", whose, "booked", "dead letter", says)


def _default_partitions(totals: Row) -> Iterator[Finding]:
    for table in ("events", "journal"):
        if count := totals[f"default_{table}"]:
            says = (
                f"{count} rows of {table} lie outside every month; correct their producer's clock."
            )
            yield Finding("default_partition", f"{table}_default", "0", str(count), says)


def _lost_writes(snapshot: Snapshot, booked_before: Mapping[str, int]) -> Iterator[Finding]:
    for producer, seq in booked_before.items():
        settled = snapshot.settled.get(producer, 0)
        if settled < seq:
            says = f"Redis has forgotten {seq - settled} events of {producer} that are booked."
            yield Finding("lost_writes", producer, str(seq), str(settled), says)


def _counters(session: Session, snapshot: Snapshot) -> Iterator[Finding]:
    pending = session.run("adjustments_unapplied", adjustment_id=snapshot.last_adjustment)
    # Every producer of the books, so that one which Redis does not know is left out as a whole.
    beyond = {**dict.fromkeys(_producers(session), 0), **snapshot.settled}
    budgets = [counter.budget for counter in snapshot.counters]
    used = used_in_windows(session, budgets, snapshot.now_us, beyond)
    expected = {u.budget.budget_id: u.amount for u in used}
    baseless = set()
    for row in pending:
        if row["producer"] is None:
            baseless.add(row["budget_id"])
        elif row["seq"] <= beyond[row["producer"]] and _is_current(row, snapshot):
            expected[row["budget_id"]] -= row["amount"]
    for counter in snapshot.counters:
        budget = counter.budget
        if budget.budget_id in baseless:
            continue  # so new that its base was not yet in Redis
        subject = f"{budget.name} ({counter.window_name})"
        if counter.used != expected[budget.budget_id]:
            says = f"The counter of budget {subject} is not what its events used, in {budget.unit}."
            yield Finding(
                "counter", subject, str(expected[budget.budget_id]), str(counter.used), says
            )
        if counter.held != counter.holds:
            says = f"What budget {subject} holds is not the sum of its open holds."
            yield Finding("held", subject, str(counter.holds), str(counter.held), says)


def _holds(session: Session, snapshot: Snapshot) -> Iterator[Finding]:
    for event_id, expiry_ms in list(snapshot.holds.items()):
        if expiry_ms < snapshot.now_ms - OVERDUE_MS:
            seconds = (snapshot.now_ms - expiry_ms) // 1000
            says = f"This hold expired {seconds} s ago; see that the writer runs and sweeps."
            yield Finding("hold", event_id, "swept", "open", says)
    for row in session.run("audit_settled", event_ids=list(snapshot.holds)):
        if row["seq"] <= snapshot.settled.get(row["producer"], 0):
            says = "This call is booked and still holds its reservation."
            yield Finding("hold", row["event_id"], "released", "open", says)


def _is_current(row: Row, snapshot: Snapshot) -> bool:
    return any(
        c.budget.budget_id == row["budget_id"] and c.window_name == row["window_name"]
        for c in snapshot.counters
    )


def _wait_for_commit(db: Database, settled: Mapping[str, int], deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        booked = _contiguous(db)
        if all(booked.get(producer, 0) >= seq for producer, seq in settled.items()):
            return
        time.sleep(POLL_S)


def _contiguous(db: Database) -> dict[str, int]:
    return {row["producer"]: row["contiguous"] for row in db.run("producers_all")}


def _producers(session: Session) -> list[str]:
    return [row["producer"] for row in session.run("producers_all")]


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
