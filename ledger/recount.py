"""Compares every budget's counter with the books and the stream, and sets right what differs.

What a counter has used is corrected by the difference, as an adjustment: exact under traffic, since
calls go on adding to it, and applied once whatever dies. What it holds is summed anew from the open
holds by one script. Neither gives away anything that a call may still cost.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from ledger.booking import sort_out
from ledger.counters import Adjustment, apply_adjustments, taken
from ledger.db import Database, Session
from ledger.event import MeteredEvent
from ledger.issue import RefusedError
from ledger.keyspace import Keyspace
from ledger.restore import rebuild
from ledger.snapshot import (
    COMMIT_DEADLINE_S,
    POLL_S,
    Counter,
    Snapshot,
    booked_holds,
    contiguous,
    expected_used,
    overdue_holds,
    take_snapshot,
    wait_for_commit,
)
from ledger.stream import DEFAULT_KEYSPACE, Entry, Redis, run_script, unread

MAX_COUNTERS: Final = 500  # in one script call, which holds up everyone else
MAX_UNREAD: Final = 200_000
"""Events that are read from the stream where the writer is behind: a few hundred MB."""
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Line:
    """A counter beside what it must be. `reason` says why they differ; empty: they do not."""

    counter: Counter
    must_use: int
    must_hold: int
    reason: str = ""

    @property
    def used_difference(self) -> int:
        """How much more Redis has than it must."""
        return self.counter.used - self.must_use

    @property
    def held_difference(self) -> int:
        return self.counter.held - self.must_hold

    @property
    def differs(self) -> bool:
        return bool(self.used_difference or self.held_difference)


@dataclass(frozen=True, slots=True)
class Recount:
    """Every counter of a current window; `lost` says why none of them can be trusted.

    `stale_holds` are the ids of calls that have ended, or whose hold expired long ago. `missing`:
    calls that are settled and neither in the books nor in the stream.
    """

    snapshot: Snapshot
    lines: tuple[Line, ...] = ()
    stale_holds: tuple[str, ...] = ()
    missing: int = 0
    lost: str = ""

    @property
    def ok(self) -> bool:
        return not (self.lost or self.stale_holds or any(line.differs for line in self.lines))


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Events that are settled and not yet booked, and how many more of them nobody has."""

    events: tuple[MeteredEvent, ...] = ()
    missing: int = 0


def recount(
    db: Database,
    redis: Redis,
    keys: Keyspace = DEFAULT_KEYSPACE,
    *,
    deadline_s: float = COMMIT_DEADLINE_S,
) -> Recount:
    """Compare. A running writer makes it faster; what it has not booked is read from the stream."""
    for attempt in range(_ATTEMPTS):
        booked_before = contiguous(db)
        snapshot = take_snapshot(db, redis, keys)
        entries: list[Entry] = []
        if not wait_for_commit(db, snapshot.settled, deadline_s):
            entries = _still_in_stream(redis, keys)
        # After the stream was read: what had left it by then is in the books.
        with db.transaction(snapshot=True) as session:
            epoch = session.run("books_state")[0]["epoch"]
            if epoch != snapshot.epoch and attempt + 1 < _ATTEMPTS:
                time.sleep(POLL_S)
                continue  # a rebuild came between
            if lost := _lost(snapshot, booked_before, epoch):
                return Recount(snapshot, lost=lost)
            return _compared(session, snapshot, _waiting(session, snapshot, entries))
    raise AssertionError("unreachable: the last attempt returns")


def repair(
    db: Database,
    redis: Redis,
    keys: Keyspace = DEFAULT_KEYSPACE,
    *,
    deadline_s: float = COMMIT_DEADLINE_S,
) -> tuple[Recount, Recount]:
    """Set right what differs; what was found, and what is found afterwards. Safe to repeat.

    Counters that as a whole are not those of the books are rebuilt, as the writer would.
    """
    found = recount(db, redis, keys, deadline_s=deadline_s)
    if found.ok:
        return found, found
    if found.lost:
        rebuild(db, redis, keys)
    with db.transaction() as alone:
        # One repair or rebuild at a time: two that saw one difference would correct it twice.
        alone.run("rebuild_lock")
        wrong = recount(db, redis, keys, deadline_s=deadline_s)
        if not wrong.lost:
            _correct_used(db, redis, keys, wrong)
            _correct_held(redis, keys, wrong)
    return found, recount(db, redis, keys, deadline_s=deadline_s)


def _still_in_stream(redis: Redis, keys: Keyspace) -> list[Entry]:
    entries = list(islice(unread(redis, keys), MAX_UNREAD + 1))
    if len(entries) > MAX_UNREAD:
        raise RefusedError(
            f"The writer is more than {MAX_UNREAD:,} events behind; let it catch up and look again."
        )
    return entries


def _lost(snapshot: Snapshot, booked_before: Mapping[str, int], epoch: str | None) -> str:
    if epoch is None or epoch != snapshot.epoch:
        return "The counters in Redis are not those of these books."
    for producer, seq in booked_before.items():
        if (behind := seq - snapshot.settled.get(producer, 0)) > 0:
            return f"Redis has forgotten {behind} events of {producer} that are booked."
    return ""


def _waiting(session: Session, snapshot: Snapshot, entries: Sequence[Entry]) -> _Waiting:
    """What of the stream the snapshot had counted and the books, as the session sees them, lack."""
    booked = {row["producer"]: row["contiguous"] for row in session.run("producers_all")}
    behind: dict[str, tuple[int, int]] = {
        producer: (booked.get(producer, 0), seq)
        for producer, seq in snapshot.settled.items()
        if seq > booked.get(producer, 0)
    }
    if not behind:
        return _Waiting()

    def wanted(producer: str | None, seq: int | None) -> bool:
        above, upto = behind.get(producer or "", (0, 0))
        return seq is not None and above < seq <= upto

    bookable, letters = sort_out(entries)
    events = {
        (e.producer, e.seq): e for e in (b.event for b in bookable) if wanted(e.producer, e.seq)
    }
    ids = [event.event_id for event in events.values()]
    for row in session.run("audit_settled", event_ids=ids):
        events.pop((row["producer"], row["seq"]), None)
    unreadable = {(lt.producer, lt.seq) for lt in letters if wanted(lt.producer, lt.seq)}
    present = session.run(
        "events_between",
        producers=list(behind),
        above=[above for above, _ in behind.values()],
        upto=[upto for _, upto in behind.values()],
    )
    missing = sum(upto - above for above, upto in behind.values())
    missing -= sum(row["present"] for row in present) + len(events) + len(unreadable)
    return _Waiting(tuple(events.values()), max(missing, 0))


def _compared(session: Session, snapshot: Snapshot, waiting: _Waiting) -> Recount:
    expected = expected_used(session, snapshot)
    budgets = [counter.budget for counter in snapshot.counters]
    windows = {counter.budget.budget_id: counter.window for counter in snapshot.counters}
    for event, budget, window, amount in taken(waiting.events, budgets):
        # The ledger counts the others itself, when it books them.
        is_counted = event.policy_version >= budget.counts_from
        name = budget.budget_id
        if is_counted and name in expected and window == windows[name]:
            expected[name] += amount
    ended = {*booked_holds(session, snapshot), *(event.event_id for event in waiting.events)}
    stale = frozenset((*overdue_holds(snapshot), *(ended & snapshot.holds.keys())))
    letters = session.run("dead_letters_count")[0]["letters"]
    lines = []
    for counter in snapshot.counters:
        if counter.budget.budget_id in expected:
            line = Line(
                counter,
                must_use=expected[counter.budget.budget_id],
                must_hold=counter.holds - _held_by(counter, snapshot, stale),
            )
            reason = _reason(line, stale, waiting.missing, letters)
            lines.append(replace(line, reason=reason))
    return Recount(snapshot, tuple(lines), tuple(sorted(stale)), waiting.missing)


def _held_by(counter: Counter, snapshot: Snapshot, event_ids: Collection[str]) -> int:
    return sum(
        amount
        for event_id in counter.open_holds
        if event_id in event_ids
        for name, amount in snapshot.holds[event_id].shares
        if name == counter.name
    )


def _reason(line: Line, stale: Collection[str], missing: int, letters: int) -> str:
    counter, reasons = line.counter, []
    if line.used_difference and not counter.known:
        reasons.append("Redis has lost what was counted here")
    elif line.used_difference > 0 and missing:
        reasons.append(
            f"{missing} settled calls are neither in the books nor in the stream; see their spool"
        )
    elif line.used_difference > 0 and letters:
        reasons.append(f"{letters} calls could not be booked, see `ledger audit`")
    elif line.used_difference:
        reasons.append("something that is no call has changed it")
    if ended := sum(event_id in stale for event_id in counter.open_holds):
        reasons.append(f"{ended} holds are of calls that have ended")
    if counter.held != counter.holds:
        reasons.append("what it holds is not the sum of its open holds")
    return "; ".join(reasons)


def _correct_used(db: Database, redis: Redis, keys: Keyspace, found: Recount) -> None:
    owed = [
        Adjustment(
            line.counter.budget.budget_id,
            line.counter.window.name,
            line.counter.window.kept_until_ms,
            -line.used_difference,
            None,
            None,
        )
        for line in found.lines
        # What nobody has was spent all the same: while it is missing no counter may forget it.
        if line.used_difference and not (found.missing and line.used_difference > 0)
    ]
    if owed:
        with db.transaction() as session:
            session.run("books_lock")
            session.copy("adjustments_copy", owed)
        apply_adjustments(db, redis, found.snapshot.epoch, keys)


def _correct_held(redis: Redis, keys: Keyspace, found: Recount) -> None:
    wrong = [line.counter for line in found.lines if line.held_difference]
    ended = list(found.stale_holds)
    stores = [keys.epoch, keys.holds, keys.hold_expiry]
    if not wrong and not ended:
        return
    for start in range(0, max(len(wrong), 1), MAX_COUNTERS):
        part = wrong[start : start + MAX_COUNTERS]
        names = [counter.name for counter in part]
        expiries = [counter.window.kept_until_ms for counter in part]
        arguments = [found.snapshot.epoch, len(ended), *ended, *expiries]
        run_script(redis, "release", [*stores, *names], arguments)
