"""Counters in Redis are what the books say: new budgets, late events, a Redis that forgets."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from ledger.audit import audit
from ledger.budgets import window_at
from ledger.counters import LEDGER
from ledger.publish import publish
from ledger.restore import rebuild
from ledger.stream import command, integers, run_script
from tests.integration.books import NOW_US, Books, facts, until
from tests.integration.producer import Sidecar

RISK = [["team", "risk"]]
HOUR_US = 3_600_000_000


def settle_and_book(books: Books, sidecar: Sidecar) -> None:
    sidecar.settle_all()
    books.book_all()


def no_findings(books: Books) -> bool:
    return audit(books.db, books.redis, deadline_s=1.0).findings == []


def test_a_new_budget_starts_with_what_was_spent(books: Books) -> None:
    """A budget over calls that are already booked counts them before any sidecar enforces it."""
    sidecar = books.sidecar()
    for number in range(5):
        sidecar.call(NOW_US, **facts(number))
    sidecar.call(NOW_US, **facts(team="ops"))
    settle_and_book(books, sidecar)
    books.add_budget("b1", RISK)
    assert publish(books.db, books.redis) == 1
    assert books.used("b1") == 5010
    assert no_findings(books)


def test_a_late_event_is_counted_once(books: Books) -> None:
    """A call that ended under an older directory is counted by the ledger, a newer one is not."""
    old = books.sidecar()
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    new = books.sidecar("p2")
    old.call(NOW_US, **facts(1))
    new.call(NOW_US, **facts(2))
    settle_and_book(books, old)
    settle_and_book(books, new)
    publish(books.db, books.redis)
    publish(books.db, books.redis)
    assert books.used("b1") == 1001 + 1002
    assert no_findings(books)


def test_late_events_around_the_base(books: Books) -> None:
    """Late calls in the stream while a budget is made count once, whichever side books them."""
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts(1))
    settle_and_book(books, sidecar)
    sidecar.call(NOW_US, **facts(2))
    sidecar.settle_all()  # in the stream, not booked
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    sidecar.call(NOW_US, **facts(3))
    sidecar.read_directory()
    sidecar.call(NOW_US, **facts(4))
    settle_and_book(books, sidecar)
    publish(books.db, books.redis)
    assert books.used("b1") == 4010
    assert no_findings(books)


@pytest.mark.parametrize(
    ("per", "time_zone"),
    [
        *[("minute", "UTC"), ("hour", "Asia/Kolkata"), ("day", "Asia/Kathmandu")],
        *[("week", "UTC"), ("month", "America/New_York"), ("quarter", "UTC"), ("total", "UTC")],
    ],
)
def test_windows_are_counted_to_the_microsecond(books: Books, per: str, time_zone: str) -> None:
    """The base of a budget holds its window's calls and no other, in any time zone."""
    now_us = time.time_ns() // 1000
    window = window_at(per, time_zone, now_us)
    sidecar = books.sidecar()
    inside = [now_us, window.start_us if per != "total" else 10 * HOUR_US]
    outside = [] if window.end_us is None else [window.start_us - 1, window.end_us]
    for at_us in inside + outside:
        sidecar.call(at_us, **facts(team="risk", input_tokens=7, output_tokens=1))
    settle_and_book(books, sidecar)
    books.add_budget("b1", RISK, per=per, time_zone=time_zone, unit="tokens")
    publish(books.db, books.redis)
    if window_at(per, time_zone, time.time_ns() // 1000) == window:
        assert books.used("b1", window.name) == 8 * len(inside)


def test_a_base_is_applied_once(books: Books) -> None:
    """Publishing again, or by two at once, adds nothing."""
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts())
    settle_and_book(books, sidecar)
    books.add_budget("b1", RISK)
    for _ in range(3):
        publish(books.db, books.redis)
    assert books.used("b1") == 1001


def test_a_budget_is_published_after_its_base(books: Books) -> None:
    """No sidecar can learn of a budget whose counter lacks what was spent before."""
    books.add_budget("b1", RISK)
    with books.db.transaction() as session:
        found = session.run("directory_after", version=0, most=10, for_ever=1, anew=False)
    assert "budget:b1" not in [row["name"] for row in found]
    publish(books.db, books.redis)
    assert [budget.budget_id for budget in books.sidecar().budgets] == ["b1"]


def test_keys_are_published_as_the_contract_says(books: Books) -> None:
    """A key's document has every field that a sidecar reads, and its times in microseconds."""
    expires_at = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    books.rows(
        "INSERT INTO keys (key_id, sha256, owner, team, agent, workload, labels, expires_at,"
        " max_spend_nanos) VALUES ('k1', repeat('ab', 32), 'ann', 'risk', 'scout', 'nightly',"
        ' \'{"project": "x"}\', %s, 9007199254740993)',
        expires_at,
    )
    before = int(command(books.redis, "GET", books.keys.directory_version))
    assert publish(books.db, books.redis) == 2
    directory = command(books.redis, "HGETALL", books.keys.directory)
    assert json.loads(directory[b"key:k1"]) == {
        "key_id": "k1",
        "sha256": "ab" * 32,
        "owner": "ann",
        "team": "risk",
        "agent": "scout",
        "workload": "nightly",
        "customer": "",
        "labels": {"project": "x"},
        "status": "active",
        "expires_at_us": 1_893_553_445_678_901,
        "max_spend_nanos": 9007199254740993,
        "rpm": None,
        "tpm": None,
        "max_parallel": None,
        "service_account": False,
        "customer_header": False,
        "version": before + 2,
    }
    assert json.loads(directory[b"budget:key-k1"])["amount"] == 9007199254740993
    assert int(command(books.redis, "GET", books.keys.directory_version)) == before + 2
    changes = command(books.redis, "XRANGE", books.keys.directory_changes, "-", "+")
    assert [fields[b"name"] for _, fields in changes][-2:] == [b"budget:key-k1", b"key:k1"]


def test_a_removed_budget_is_published_as_removed(books: Books) -> None:
    """Removal reaches the sidecars like any other change."""
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    books.rows("UPDATE budgets SET removed = true")
    publish(books.db, books.redis)
    assert books.sidecar().budgets == []


def test_a_wiped_redis_is_rebuilt_and_the_spool_replays(books: Books) -> None:
    """After FLUSHALL counters equal the books and what the sidecars send again."""
    books.add_budget("b1", RISK)
    books.add_budget("b2", [], unit="tokens", per="month")
    publish(books.db, books.redis)
    sidecar = books.sidecar()
    for number in range(30):
        sidecar.call(NOW_US, **facts(number))
    settle_and_book(books, sidecar)
    for number in range(10):
        sidecar.call(NOW_US, **facts(number))
    sidecar.settle_all()  # ten in the stream are lost with it
    command(books.redis, "FLUSHALL")
    assert sidecar.settle() == -1
    with books.running_writer():
        until(lambda: sidecar.settle() == 40)
        until(lambda: books.committed().get("p1") == 40)
        assert books.used("b1") == sum(event.cost_nanos or 0 for event, _ in sidecar.spool)
        assert no_findings(books)
    assert {budget.budget_id for budget in books.sidecar().budgets} == {"b1", "b2"}


def test_a_rebuild_keeps_the_holds_of_calls_under_way(books: Books) -> None:
    """A generation declared void is rebuilt without giving away what running calls reserved."""
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    counter = books.keys.counter("b1", "total")
    books.sidecar().hold("call-1", counter, 500, 2**43)
    command(books.redis, "DEL", books.keys.epoch)
    books.book_all()
    assert integers(books.redis, counter) == {"used": 0, "held": 500}
    assert no_findings(books)


def test_a_gap_in_the_books_is_asked_for_again(books: Books) -> None:
    """After a loss, events beyond a gap are not counted twice when the sidecar sends them again."""
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    sidecar = books.sidecar()
    for number in range(6):
        sidecar.call(NOW_US, **facts(number))
    sidecar.settle_all()
    middle = command(books.redis, "XRANGE", books.keys.events, "-", "+")[2][0]
    command(books.redis, "XDEL", books.keys.events, middle)
    books.book_all()
    assert books.committed() == {"p1": 2}
    assert {f.check for f in audit(books.db, books.redis, deadline_s=0).findings} == {
        *("gap", "unbooked", "counter"),
    }
    command(books.redis, "FLUSHALL")
    books.book_all()
    settle_and_book(books, sidecar)
    assert books.used("b1") == 6015
    assert no_findings(books)


def test_a_redis_that_lost_its_last_writes_is_rebuilt(books: Books) -> None:
    """Counters, producers and stream from a moment ago, under the same epoch, are noticed."""
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts(1))
    settle_and_book(books, sidecar)
    command(books.redis, "HSET", books.keys.producers, "p1", 0)
    command(books.redis, "HSET", books.keys.counter("b1", "total"), "used", 0)
    [finding] = audit(books.db, books.redis, deadline_s=0).findings
    assert finding.check == "lost_writes"
    books.book_all()
    assert books.used("b1") == 1001
    assert no_findings(books)


def test_other_books_replace_what_redis_holds(books: Books) -> None:
    """A Redis that served other books is rebuilt from these, and forgets the others' keys."""
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    books.rows("UPDATE settings SET value = 'another' WHERE name = 'epoch'")
    command(books.redis, "HSET", books.keys.directory, "budget:stray", '{"version": 1}')
    books.book_all()
    names = command(books.redis, "HKEYS", books.keys.directory)
    assert [name for name in names if name.startswith(b"budget:")] == [b"budget:b1"]
    assert no_findings(books)


def test_books_from_a_backup_replace_what_redis_holds(books: Books) -> None:
    """A directory that is newer than the books is not theirs any more."""
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    version = command(books.redis, "GET", books.keys.directory_version)
    command(books.redis, "SET", books.keys.directory_version, 1000)
    books.book_all()
    assert command(books.redis, "GET", books.keys.directory_version) == version


def test_a_publisher_overtaken_by_a_rebuild_begins_anew(books: Books) -> None:
    """What it was about to add would have followed documents that are forgotten now."""
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    names = (books.keys.directory, books.keys.directory_version, books.keys.directory_changes)
    command(books.redis, "DEL", *names[:2])
    late = [10_000, 5, "budget:b2", 6, '{"version": 6}']
    assert int(run_script(books.redis, "publish", list(names), late)) == 0
    assert not command(books.redis, "EXISTS", books.keys.directory)
    publish(books.db, books.redis)
    assert [budget.budget_id for budget in books.sidecar().budgets] == ["b1"]


def test_a_late_publisher_brings_nothing_back(books: Books) -> None:
    """A removed document leaves the directory; who still has the older one cannot revive it."""
    books.add_budget("b1", RISK)
    before = int(command(books.redis, "GET", books.keys.directory_version))
    publish(books.db, books.redis)
    name, text = "budget:b1", command(books.redis, "HGET", books.keys.directory, "budget:b1")
    books.rows("UPDATE budgets SET removed = true")
    publish(books.db, books.redis)
    names = [books.keys.directory, books.keys.directory_version, books.keys.directory_changes]
    run_script(books.redis, "publish", names, [10_000, before, name, before + 1, text])
    assert not command(books.redis, "HEXISTS", books.keys.directory, name)


def test_writers_that_rebuild_at_once_rebuild_once(books: Books) -> None:
    """Of several writers that miss the epoch one rebuilds, and the others take what it made."""
    command(books.redis, "FLUSHALL")
    with ThreadPoolExecutor(3) as pool:
        epochs = set(pool.map(lambda _: rebuild(books.db, books.redis), range(3)))
    assert command(books.redis, "GET", books.keys.epoch).decode() in epochs
    assert no_findings(books)


def test_expired_holds_are_swept(books: Books) -> None:
    """A hold that nobody settled goes back to its counter when it expires, and not before."""
    counter = books.keys.counter("b1", "total")
    sidecar = books.sidecar()
    sidecar.hold("gone", counter, 700, 1)
    sidecar.hold("running", counter, 40, 2**43)
    books.book_all()
    assert integers(books.redis, counter) == {"held": 40}
    assert command(books.redis, "HKEYS", books.keys.holds) == [b"running"]
    assert command(books.redis, "ZRANGE", books.keys.hold_expiry, 0, -1) == [b"running"]


def test_applied_adjustments_are_numbered(books: Books) -> None:
    """The ledger is a producer of its own: what it added survives a repeated application."""
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts())
    settle_and_book(books, sidecar)
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    last = books.one("SELECT max(adjustment_id) FROM adjustments")
    assert integers(books.redis, books.keys.producers)[LEDGER] == last
