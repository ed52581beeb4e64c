"""Proves the books against themselves and against Redis; says what does not fit. Repairs nothing.

The comparison with Redis is that of ledger.snapshot, exact under traffic.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ledger.db import Database, Row, Session
from ledger.journal import NOBODY
from ledger.keyspace import Keyspace
from ledger.money import usd_from_nanos
from ledger.snapshot import (
    COMMIT_DEADLINE_S,
    POLL_S,
    Snapshot,
    booked_holds,
    contiguous,
    expected_used,
    overdue_holds,
    take_snapshot,
    wait_for_commit,
)
from ledger.stream import DEFAULT_KEYSPACE, Redis

MAX_FINDINGS: Final = 20
"""Of one check; the counts say how many more there are."""
MAX_RANGES: Final = 5
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


def audit(
    db: Database,
    redis: Redis,
    keys: Keyspace = DEFAULT_KEYSPACE,
    *,
    deadline_s: float = COMMIT_DEADLINE_S,
) -> Audit:
    """Every check. It only reads; a writer must be running for what is still in the stream."""
    for attempt in range(_ATTEMPTS):
        booked_before = contiguous(db)
        snapshot = take_snapshot(db, redis, keys)
        wait_for_commit(db, snapshot.settled, deadline_s)
        with db.transaction(snapshot=True) as session:
            epoch = session.run("books_state")[0]["epoch"]
            if epoch != snapshot.epoch and attempt + 1 < _ATTEMPTS:
                time.sleep(POLL_S)
                continue  # a rebuild came between
            result = _audit_books(session, snapshot)
            result.findings += _audit_redis(session, snapshot, booked_before, epoch)
            return result
    raise AssertionError("unreachable: the last attempt returns")


def _audit_books(session: Session, snapshot: Snapshot) -> Audit:
    totals = session.run("audit_counts")[0]
    result = Audit(counts={name: int(value) for name, value in totals.items()})
    result.counts["counters"] = len(snapshot.counters)
    result.counts["holds"] = len(snapshot.holds)
    result.findings += _gaps(session, snapshot)
    unfit = list(_journal(session, int(totals["journal_balance"])))
    result.findings += unfit
    if not unfit:  # or it would say the same again
        result.findings += _billed(session)
    result.findings += _hearsay(session)
    result.findings += _wallets(session)
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


def _billed(session: Session) -> Iterator[Finding]:
    for row in session.run("audit_billed", nobody=NOBODY, most=MAX_FINDINGS):
        says = f"The journal charges the team {row['team']} another amount than it has to pay."
        yield Finding("billed", row["team"], row["due"], row["charged"], says)


def _hearsay(session: Session) -> Iterator[Finding]:
    for row in session.run("audit_hearsay", most=MAX_FINDINGS):
        says = "Another team is charged for this call although its chain was not proved."
        trust = row["chain_trust"] or "none"
        yield Finding("hearsay", row["event_id"], "verified or key_bound", trust, says)


def _wallets(session: Session) -> Iterator[Finding]:
    for row in session.run("audit_wallets", most=MAX_FINDINGS):
        paid, booked, enforced = row["paid"], row["booked"], row["enforced"]
        if paid != booked:
            says = "The journal has another amount paid into this wallet than its transactions."
            yield Finding("wallet", row["name"], paid, booked, says)
        if paid != enforced:
            says = "The limit that is enforced for this wallet is not what was paid into it."
            yield Finding("wallet", row["name"], paid, str(enforced), says)


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
    expected = expected_used(session, snapshot)
    for counter in snapshot.counters:
        budget = counter.budget
        if budget.budget_id not in expected:
            continue  # so new that its base was not yet in Redis
        subject = f"{budget.name} ({counter.window.name})"
        must = expected[budget.budget_id]
        if counter.used != must:
            says = f"The counter of budget {subject} is not what its events used, in {budget.unit}."
            yield Finding("counter", subject, str(must), str(counter.used), says)
        if counter.held != counter.holds:
            says = f"What budget {subject} holds is not the sum of its open holds."
            yield Finding("held", subject, str(counter.holds), str(counter.held), says)


def _holds(session: Session, snapshot: Snapshot) -> Iterator[Finding]:
    for event_id in overdue_holds(snapshot):
        seconds = (snapshot.now_ms - snapshot.holds[event_id].expires_at_ms) // 1000
        says = f"This hold expired {seconds} s ago; see that the writer runs and sweeps."
        yield Finding("hold", event_id, "swept", "open", says)
    for event_id in booked_holds(session, snapshot):
        says = "This call is booked and still holds its reservation."
        yield Finding("hold", event_id, "released", "open", says)
