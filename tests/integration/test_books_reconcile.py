"""`ledger reconcile counters`: exact under traffic, and what it repairs stays right."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ledger.audit import audit
from ledger.publish import publish
from ledger.recount import Recount, recount, repair
from ledger.stream import command, integers
from tests.integration.books import DEADLINE_S, NOW_US, Books, facts, until
from tests.integration.cli_run import Cli
from tests.integration.producer import Sidecar

RISK = [["team", "risk"]]
LATER_MS = 2**43
SPENT = sum(1000 + number for number in range(10))


@pytest.fixture
def busy(books: Books) -> Sidecar:
    """A sidecar with ten booked calls under one budget, and a call under way."""
    books.add_budget("b1", RISK)
    publish(books.db, books.redis)
    sidecar = books.sidecar()
    for number in range(10):
        sidecar.call(NOW_US, **facts(number))
    sidecar.settle_all()
    books.book_all()
    sidecar.hold("under way", counter(books), 40, LATER_MS)
    return sidecar


def counter(books: Books) -> str:
    return books.keys.counter("b1", "total")


def standing(books: Books) -> dict[str, int]:
    return integers(books.redis, counter(books))


def look(books: Books) -> Recount:
    return recount(books.db, books.redis, deadline_s=0)


def mend(books: Books) -> tuple[Recount, Recount]:
    return repair(books.db, books.redis, deadline_s=0)


def test_sound_counters_do_not_differ(books: Books, busy: Sidecar) -> None:
    """Each counter is shown with what it must be."""
    found = look(books)
    assert found.ok
    [line] = found.lines
    assert (line.counter.used, line.must_use, line.reason) == (SPENT, SPENT, "")
    assert (line.counter.held, line.must_hold, line.counter.open_holds) == (40, 40, ("under way",))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda b: command(b.redis, "HINCRBY", counter(b), "used", 7), "no call has changed it"),
        (lambda b: command(b.redis, "HINCRBY", counter(b), "used", -7), "no call has changed it"),
        (lambda b: command(b.redis, "HINCRBY", counter(b), "held", 7), "not the sum"),
        (lambda b: command(b.redis, "HINCRBY", counter(b), "held", -90), "not the sum"),
        (lambda b: command(b.redis, "DEL", counter(b)), "lost what was counted"),
        (lambda b: command(b.redis, "HDEL", b.keys.holds, "under way"), "not the sum"),
        (
            lambda b: command(b.redis, "ZADD", b.keys.hold_expiry, 1, "under way"),
            "1 holds are of calls that have ended",
        ),
        (
            lambda b: command(b.redis, "ZREM", b.keys.hold_expiry, "under way"),
            "1 holds are of calls that have ended",
        ),
    ],
)
def test_damage_is_found_and_repaired(
    books: Books, busy: Sidecar, damage: Callable[[Books], object], reason: str
) -> None:
    """Each difference has a reason; a repair sets it right, and another changes nothing."""
    damage(books)
    found, left = mend(books)
    [line] = found.lines
    assert reason in line.reason
    assert not found.ok
    assert left.ok
    assert standing(books)["used"] == SPENT
    assert standing(books)["held"] == sum(
        json.loads(hold)[1] for hold in command(books.redis, "HVALS", books.keys.holds)
    )
    before = standing(books)
    assert mend(books)[0].ok
    publish(books.db, books.redis)
    assert standing(books) == before
    assert audit(books.db, books.redis).findings == []


def test_a_hold_of_a_call_that_is_settled_is_dropped(books: Books, busy: Sidecar) -> None:
    """Whether it is booked or still in the stream."""
    booked, _ = busy.spool[0]
    waiting = busy.call(NOW_US, **facts())
    busy.settle_all()
    for event in (booked, waiting):
        busy.hold(event.event_id, counter(books), 5, LATER_MS)
    found, left = mend(books)
    assert set(found.stale_holds) == {booked.event_id, waiting.event_id}
    assert left.ok
    assert standing(books) == {"used": SPENT + 1001, "held": 40}


def test_what_is_in_the_stream_counts(books: Books, busy: Sidecar) -> None:
    """Without a writer nothing differs: settled calls are in the stream or in the books."""
    for number in range(2500):
        busy.call(NOW_US, **facts(number))
    busy.settle_all()
    assert look(books).ok
    command(books.redis, "HINCRBY", counter(books), "used", 3)
    found, left = mend(books)
    assert [line.used_difference for line in found.lines] == [3]
    assert left.ok
    books.book_all()
    assert audit(books.db, books.redis).findings == []


def test_late_calls_in_the_stream_are_the_ledgers_to_count(books: Books, busy: Sidecar) -> None:
    """A call that was settled under an older directory is not yet in the new budget's counter."""
    old = books.sidecar("p2")
    books.add_budget("b2", [], unit="calls")
    publish(books.db, books.redis)
    old.call(NOW_US, **facts())
    old.settle_all()
    assert look(books).ok
    books.book_all()
    assert look(books).ok
    publish(books.db, books.redis)
    assert look(books).ok
    assert books.used("b2") == 11


def test_what_nobody_has_is_not_forgotten(books: Books, busy: Sidecar) -> None:
    """A settled call that has left the stream unbooked was spent; its counter keeps it."""
    busy.call(NOW_US, **facts())
    busy.settle_all()
    command(books.redis, "XTRIM", books.keys.events, "MAXLEN", 0)
    found, left = mend(books)
    assert found.missing == left.missing == 1
    assert "neither in the books nor in the stream" in left.lines[0].reason
    assert standing(books)["used"] == SPENT + 1001


def test_a_wiped_redis_is_rebuilt(books: Books, busy: Sidecar) -> None:
    """A repair does what the writer would do."""
    command(books.redis, "FLUSHALL")
    assert look(books).lost
    found, left = mend(books)
    assert found.lost
    assert left.ok
    assert standing(books)["used"] == SPENT
    assert audit(books.db, books.redis).findings == []


def test_repairs_at_once_repair_once(books: Books, busy: Sidecar) -> None:
    """Several that see the same difference do not each correct it."""
    command(books.redis, "HINCRBY", counter(books), "used", 1000)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: mend(books), range(3)))
    assert standing(books)["used"] == SPENT


def test_a_repair_that_died_before_redis_knew_is_finished(
    books: Books, busy: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the books owe to a counter is applied by whoever publishes next, once."""
    command(books.redis, "HINCRBY", counter(books), "used", 1000)
    monkeypatch.setattr("ledger.recount.apply_adjustments", lambda *_: None)
    mend(books)
    monkeypatch.undo()
    for _ in range(2):
        publish(books.db, books.redis)
    assert standing(books)["used"] == SPENT


def test_it_is_exact_under_traffic(books: Books) -> None:
    """While calls hold, settle and are booked nothing differs, and a repair loses no call."""
    books.add_budget("b1", RISK)
    books.add_budget("b2", [], unit="calls", per="minute")
    publish(books.db, books.redis)
    sidecar = books.sidecar()
    stop = threading.Event()

    def produce() -> None:
        while not stop.wait(0.002):
            event = sidecar.call(time.time_ns() // 1000, **facts(len(sidecar.spool)))
            sidecar.hold(event.event_id, counter(books), 900, LATER_MS)
            sidecar.settle()

    thread = threading.Thread(target=produce)
    with books.running_writer():
        thread.start()
        try:
            for amount in (500, -500, 70):
                assert recount(books.db, books.redis, deadline_s=DEADLINE_S).ok
                command(books.redis, "HINCRBY", counter(books), "used", amount)
                command(books.redis, "HINCRBY", counter(books), "held", amount)
                found, left = repair(books.db, books.redis, deadline_s=DEADLINE_S)
                differing = [line for line in found.lines if line.differs]
                assert [(d.used_difference, d.held_difference) for d in differing] == [
                    (amount, amount)
                ]
                assert left.ok
        finally:
            stop.set()
            thread.join(DEADLINE_S)
        sidecar.settle_all()
        until(lambda: books.committed() == {"p1": len(sidecar.spool)})
    spent = sum(event.cost_nanos or 0 for event, _ in sidecar.spool)
    assert standing(books) == {"used": spent, "held": 0}
    assert audit(books.db, books.redis).findings == []


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def test_the_command_says_what_differs_and_repairs_it(
    books: Books, busy: Sidecar, cli: Cli
) -> None:
    """Exit code 1 while there is a difference; 0 once a repair leaves none."""
    document = cli.json("reconcile", "counters")
    assert document["ok"]
    [row] = document["counters"]
    assert (row["budget"], row["used"], row["held"], row["open_holds"]) == (
        *("budget b1", SPENT, 40, 1),
    )
    command(books.redis, "HINCRBY", counter(books), "used", 2_000_000_000)
    found = cli("reconcile", "counters")
    assert found.exit_code == 1
    assert "$2.00" in found.stdout
    assert "--repair" in found.stderr
    csv = cli("reconcile", "counters", "--format", "csv")
    assert csv.exit_code == 1
    assert "used_difference" in csv.stdout.splitlines()[0]
    repaired = cli("reconcile", "counters", "--repair", "--format", "json")
    assert repaired.exit_code == 0
    document = json.loads(repaired.stdout)
    assert document["ok"]
    assert [row["used_difference"] for row in document["repaired"]] == [2_000_000_000]
    assert cli("reconcile", "counters").exit_code == 0


def test_the_command_repairs_a_wiped_redis(books: Books, busy: Sidecar, cli: Cli) -> None:
    """One sentence says that nothing can be compared, and --repair rebuilds."""
    command(books.redis, "FLUSHALL")
    found = cli("reconcile", "counters")
    assert found.exit_code == 1
    assert "not those of these books" in found.stderr
    assert cli("reconcile", "counters", "--repair").exit_code == 0
    assert standing(books)["used"] == SPENT
