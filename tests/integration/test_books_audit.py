"""The audit: silent on sound books under traffic, and exact about each thing that is not."""

import json
import threading
import time
from collections.abc import Callable

import pytest

from ledger.audit import audit
from ledger.publish import publish
from ledger.stream import command
from tests.integration.books import DEADLINE_S, NOW_US, Books, facts, until
from tests.integration.producer import Sidecar

RISK = [["team", "risk"]]


@pytest.fixture
def busy(books: Books) -> Sidecar:
    """A sidecar with ten booked calls under one budget."""
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    sidecar = books.sidecar()
    for number in range(10):
        sidecar.call(NOW_US, **facts(number))
    sidecar.settle_all()
    books.book_all()
    return sidecar


def checks(books: Books) -> list[str]:
    return [finding.check for finding in audit(books.db, books.redis, deadline_s=0).findings]


def test_sound_books_have_no_findings(books: Books, busy: Sidecar) -> None:
    """Nothing is reported where everything fits, and the counts say how much was looked at."""
    result = audit(books.db, books.redis)
    assert result.ok
    assert result.counts["events"] == 10
    assert result.counts["journal_entries"] == 20
    assert result.counts["counters"] == 1
    assert json.loads(json.dumps(result.to_document()))["findings"] == []


def test_unpriced_calls_are_a_note(books: Books, busy: Sidecar) -> None:
    """A call without a price is worth knowing and no fault of the books."""
    busy.call(NOW_US, **facts(cost_nanos=None, model="new-model"))
    busy.settle_all()
    books.book_all()
    result = audit(books.db, books.redis)
    assert result.ok
    [note] = result.notes
    assert (note.note, note.subject, note.count) == ("unpriced", "openai/new-model", 1)


def tamper(statement: str) -> Callable[[Books], object]:
    return lambda books: books.rows(statement)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (tamper("DELETE FROM events WHERE seq = 4"), {"gap", "journal", "rollups"}),
        (
            tamper("UPDATE events SET cost_nanos = cost_nanos + 1 WHERE seq = 4"),
            {"journal", "rollups"},
        ),
        (tamper("UPDATE rollups SET calls = calls + 1"), {"rollups"}),
        (tamper("UPDATE rollups SET cost_nanos = cost_nanos - 5"), {"rollups", "counter"}),
        (
            tamper("ALTER TABLE journal DISABLE TRIGGER USER; DELETE FROM journal"),
            {"journal"},
        ),
        (
            tamper(
                "ALTER TABLE journal DISABLE TRIGGER USER;"
                " UPDATE journal SET amount_nanos = 1 WHERE account LIKE 'payable:%'"
            ),
            {"journal", "journal_total"},
        ),
        (
            tamper("INSERT INTO journal VALUES ('x', now(), 'expense:a', 0)"),
            {"journal"},
        ),
        (
            lambda b: command(b.redis, "HINCRBY", b.keys.counter("b1", "total"), "used", 1),
            {"counter"},
        ),
        (
            lambda b: command(b.redis, "HINCRBY", b.keys.counter("b1", "total"), "held", 1),
            {"held"},
        ),
        (lambda b: command(b.redis, "HINCRBY", b.keys.producers, "p1", 1), {"unbooked"}),
        (lambda b: command(b.redis, "DEL", b.keys.epoch), {"epoch"}),
    ],
)
def test_damage_is_found(
    books: Books, busy: Sidecar, damage: Callable[[Books], object], found: set[str]
) -> None:
    """Each kind of damage is reported under its own check, and no other check cries."""
    damage(books)
    assert set(checks(books)) == found


def test_a_hold_of_a_booked_call_is_found(books: Books, busy: Sidecar) -> None:
    """A reservation that outlived its call is reported: it would refuse calls for ever."""
    event, _ = busy.spool[0]
    busy.hold(event.event_id, books.keys.counter("b1", "total"), 5, 2**43)
    assert checks(books) == ["hold"]


def test_an_overdue_hold_is_found(books: Books, busy: Sidecar) -> None:
    """A hold that expired long ago says that nobody sweeps."""
    busy.hold("call", books.keys.counter("b1", "total"), 5, 1)
    assert checks(books) == ["hold"]


def test_a_dead_letter_is_found(books: Books, busy: Sidecar) -> None:
    """What could not be booked is a finding with its reason, and no gap."""
    command(books.redis, "XADD", books.keys.events, "*", "e", b"nonsense\xff")
    books.book_all()
    [finding] = audit(books.db, books.redis).findings
    assert finding.check == "dead_letter"
    assert "not a serialised MeteredEvent" in finding.says


def test_the_audit_is_exact_under_traffic(books: Books) -> None:
    """While calls settle, budgets appear and events are booked, no audit finds a difference."""
    stop = threading.Event()
    sidecars = [books.sidecar(f"p{n}") for n in range(2)]

    def produce(sidecar: Sidecar) -> None:
        while not stop.wait(0.002):
            for _ in range(3):
                sidecar.call(time.time_ns() // 1000, **facts(len(sidecar.spool)))
            sidecar.settle()
            if len(sidecar.spool) % 90 == 0:
                sidecar.read_directory()

    threads = [threading.Thread(target=produce, args=[sidecar]) for sidecar in sidecars]
    with books.running_writer():
        for thread in threads:
            thread.start()
        try:
            for number in range(6):
                per = ("total", "month", "minute")[number % 3]
                books.add_budget(f"b{number}", RISK if number % 2 else [], per=per)
                publish(books.db, books.redis)
                assert audit(books.db, books.redis, deadline_s=DEADLINE_S).findings == []
        finally:
            stop.set()
            for thread in threads:
                thread.join(DEADLINE_S)
        for sidecar in sidecars:
            sidecar.settle_all()
        until(lambda: books.committed() == {s.name: len(s.spool) for s in sidecars})
    assert audit(books.db, books.redis).findings == []
