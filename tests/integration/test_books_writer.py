"""Events from the stream into the books, each exactly once, whatever breaks."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.audit import audit
from ledger.db import Database, migrate
from ledger.embedded import Postgres
from ledger.event import to_bytes
from ledger.stream import Entry, EventStream, command, connect, integers
from ledger.writer import book
from tests.integration.books import DEADLINE_S, NOW_US, Books, facts, until
from tests.integration.producer import Sidecar

WRITER = """
import sys, threading
from ledger.db import Database
from ledger.stream import connect
from ledger.writer import run_writer
run_writer(Database(sys.argv[1]), connect(sys.argv[2]), threading.Event())
"""


def totals(books: Books) -> tuple[int, int]:
    """Events in the books and their cost; the rollups and the journal must agree with them."""
    [row] = books.rows(
        "SELECT (SELECT count(*) FROM events)::bigint AS events,"
        " (SELECT coalesce(sum(calls), 0) FROM rollups)::bigint AS calls,"
        " (SELECT coalesce(sum(cost_nanos), 0) FROM events)::bigint AS cost,"
        " (SELECT coalesce(sum(cost_nanos), 0) FROM rollups)::bigint AS rollups,"
        " (SELECT coalesce(sum(amount_nanos), 0) FROM journal"
        "   WHERE account ~ '^(expense|overrun):')::bigint AS expense"
    )
    assert row["calls"] == row["events"]
    assert row["rollups"] == row["expense"] == row["cost"]
    return row["events"], row["cost"]


def test_an_event_is_booked_with_every_field(books: Books) -> None:
    """What the sidecar metered is what the books say, to the microsecond."""
    sidecar = books.sidecar()
    event = sidecar.call(
        1_790_000_000_123_457,
        **facts(labels={"project": "x"}, first_byte_ms=12, streamed=True, hold_nanos=9),
        byok=True,
        refused_by="a budget",
        shadow_refusal="budget_spent another",
    )
    sidecar.settle_all()
    books.book_all()
    [row] = books.rows("SELECT * FROM events")
    assert row.pop("occurred_at").timestamp() == pytest.approx(1_790_000_000.123457, abs=1e-6)
    assert row == {name: getattr(event, name) for name in row}
    assert books.committed() == {"p1": 1}
    assert command(books.redis, "XLEN", books.keys.events) == 0


def test_an_event_is_in_every_report_within_a_second(books: Books) -> None:
    """A running writer books an event at once, not at the end of a long batch."""
    with books.running_writer():
        sidecar = books.sidecar()
        started = time.monotonic()
        sidecar.call(NOW_US, **facts())
        sidecar.settle_all()
        until(lambda: totals(books)[0] == 1)
        assert time.monotonic() - started < 1.0


def test_duplicate_deliveries_are_booked_once(books: Books) -> None:
    """The same event in one batch, in two batches and under another stream id counts once."""
    sidecar = books.sidecar()
    payloads = [to_bytes(sidecar.call(NOW_US, **facts(n))) for n in range(10)]
    once = [Entry(f"1-{n}", payload) for n, payload in enumerate(payloads)]
    again = [Entry(f"2-{n}", payload) for n, payload in enumerate(payloads)]
    book(books.db, [*once[:5], *again[:5]])
    assert book(books.db, [*once, *again]) == {"p1": 10}
    assert book(books.db, again) == {"p1": 10}
    assert totals(books) == (10, 10 * 1000 + 45)


def test_a_writer_that_dies_before_it_acknowledges(books: Books) -> None:
    """What was committed and never acknowledged is read again, found booked, and acknowledged."""
    sidecar = books.sidecar()
    for number in range(20):
        sidecar.call(NOW_US, **facts(number))
    sidecar.settle_all()
    dead = EventStream(books.redis, books.keys, "test")
    book(books.db, dead.read())
    assert totals(books)[0] == 20
    assert books.committed() == {}
    books.book_all()
    assert books.committed() == {"p1": 20}
    assert command(books.redis, "XLEN", books.keys.events) == 0
    assert totals(books)[0] == 20


def test_what_a_dead_consumer_kept_is_taken_over(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that another consumer read and will never finish are booked by this one."""
    monkeypatch.setattr("ledger.stream.ABANDONED_MS", 0)
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts())
    sidecar.settle_all()
    dead = EventStream(books.redis, books.keys, "dead")
    assert len(dead.read()) == 1
    books.book_all()
    assert totals(books)[0] == 1


def test_two_writers_share_the_stream(books: Books) -> None:
    """A second writer changes nothing about exactly-once."""
    sidecars = [books.sidecar(f"p{n}") for n in range(3)]
    for sidecar in sidecars:
        for number in range(1500):
            sidecar.call(NOW_US, **facts(number))
    with books.running_writer(), books.running_writer():
        for sidecar in sidecars:
            sidecar.settle_all()
        until(lambda: books.committed() == {"p0": 1500, "p1": 1500, "p2": 1500})
    assert totals(books)[0] == 4500


def test_poison_is_put_aside_and_the_batch_goes_on(books: Books) -> None:
    """Bytes that are no event, and numbers no column holds, are kept with their reason."""
    sidecar = books.sidecar()
    for number in range(100):
        sidecar.call(NOW_US, **facts(number, input_tokens=2**64 - 1 if number == 50 else 1))
    sidecar.settle_all()
    command(books.redis, "XADD", books.keys.events, "*", "e", b"\xff no event")
    books.book_all()
    letters = books.rows("SELECT producer, seq, reason FROM dead_letters ORDER BY letter_id")
    assert [(row["producer"], row["seq"]) for row in letters] == [("p1", 51), (None, None)]
    assert "input_tokens is larger than a bigint" in letters[0]["reason"]
    assert totals(books)[0] == 99
    assert books.committed() == {"p1": 100}


def test_what_postgresql_alone_can_refuse_is_found_by_halving(books: Books) -> None:
    """A sum that overflows poisons the batch; only the event that does it is put aside."""
    sidecar = books.sidecar()
    for number in range(64):
        sidecar.call(NOW_US, **facts(number, cost_nanos=2**63 - 1 if number in (20, 40) else 7))
    sidecar.settle_all()
    books.book_all()
    letters = books.rows("SELECT seq, reason FROM dead_letters")
    assert len(letters) > 0
    assert all("out of range" in row["reason"] for row in letters)
    assert books.committed() == {"p1": 64}
    assert totals(books)[0] + len(letters) == 64


def test_two_events_under_one_seq_are_not_lost_silently(books: Books) -> None:
    """The second of two events under one number is put aside, where the audit shows it."""
    first, second = books.sidecar(), books.sidecar()
    events = [first.call(NOW_US, **facts(1)), second.call(NOW_US, **facts(2))]
    book(books.db, [Entry(f"1-{n}", to_bytes(event)) for n, event in enumerate(events)])
    [letter] = books.rows("SELECT * FROM dead_letters")
    assert (letter["producer"], letter["seq"]) == ("p1", 1)
    assert "under the same seq" in letter["reason"]


def test_hostile_text_loses_no_money(books: Books) -> None:
    """NUL characters and endless names are cleaned; the event and its cost are booked."""
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts(model="gpt\x00-5", route="x" * 100_000, labels={"a\x00b": "\x00"}))
    sidecar.call(NOW_US, **facts(key_id="\U0001f600" * 5000, team="\x00" * 5000))
    sidecar.settle_all()
    books.book_all()
    assert books.one("SELECT count(*) FROM dead_letters") == 0
    assert totals(books) == (2, 2002)
    models = {row["model"] for row in books.rows("SELECT model FROM events")}
    assert models == {"gpt\ufffd-5", "gpt-5"}


def test_committed_stops_below_a_gap_and_goes_on_when_it_closes(books: Books) -> None:
    """A spool may forget only what is complete: a missing event keeps all later ones."""
    sidecar = books.sidecar()
    entries = [Entry(f"1-{n}", to_bytes(sidecar.call(NOW_US, **facts(n)))) for n in range(1, 11)]
    assert book(books.db, entries[:3]) == {"p1": 3}
    assert book(books.db, entries[5:]) == {"p1": 3}
    assert book(books.db, entries[4:5]) == {"p1": 3}
    assert book(books.db, entries[3:4]) == {"p1": 10}


def test_an_event_of_an_odd_time_is_booked_and_reported(books: Books) -> None:
    """A clock that is years off costs no money; its rows in the default partition are a finding."""
    sidecar = books.sidecar()
    sidecar.call(1, **facts())
    sidecar.settle_all()
    books.book_all()
    assert totals(books)[0] == 1
    assert {f.check for f in audit(books.db, books.redis).findings} == {"default_partition"}


event_facts = st.fixed_dictionaries(
    {
        "team": st.sampled_from(["risk", "ops", "", "a:b", "\x00"]),
        "model": st.text(max_size=8),
        "labels": st.dictionaries(st.sampled_from(["project", "env"]), st.text(max_size=4)),
        "cost_nanos": st.none() | st.integers(0, 10**15),
        "input_tokens": st.integers(0, 10**9),
        "output_tokens": st.integers(0, 10**9),
        "outcome": st.sampled_from(["ok", "refused", "provider_error", "client_gone"]),
        "byok": st.booleans(),
        "hold_nanos": st.just(0) | st.integers(0, 10**15),
        "usage_source": st.sampled_from(["provider", "estimated", "none"]),
    }
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    batch=st.lists(event_facts, max_size=30),
    hours=st.lists(st.integers(-40 * 24, 0), min_size=1, max_size=5),
    cut=st.integers(0, 30),
)
def test_rollups_and_journal_follow_from_the_events(
    books: Books, batch: list[dict[str, Any]], hours: list[int], cut: int
) -> None:
    """Any events, in any batches, delivered twice: rollups are their sums, the journal is zero."""
    sidecar = Sidecar(books.redis, f"p{time.monotonic_ns()}")
    entries = [
        Entry(
            f"1-{n}",
            to_bytes(sidecar.call(NOW_US + hours[n % len(hours)] * 3_600_000_000, **one)),
        )
        for n, one in enumerate(batch)
    ]
    book(books.db, entries[:cut])
    book(books.db, [*entries[cut:], *entries])
    with books.db.transaction(snapshot=True) as session:
        assert session.run("audit_rollups", most=10) == []
        assert session.run("audit_journal", most=10) == []
        assert session.run("audit_counts")[0]["journal_balance"] == "0"
    assert books.one("SELECT count(*) FROM dead_letters") == 0


@contextmanager
def own_postgres(directory: Path) -> Iterator[Postgres]:
    """A server that a test may stop and kill."""
    directory.chmod(0o711)
    server = Postgres(
        directory / "postgres",
        log=directory / "postgres.log",
        pid_file=directory / "postgres.pid",
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def load(sidecar: Sidecar, rate_pause_s: float = 0.002) -> Iterator[None]:
    """A producer that meters and settles in the background until the block ends."""
    stop = threading.Event()

    def produce() -> None:
        while not stop.wait(rate_pause_s):
            for _ in range(5):
                sidecar.call(time.time_ns() // 1000, **facts(len(sidecar.spool)))
            sidecar.settle()

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE_S)
        sidecar.settle_all()


def test_postgresql_restarts_under_load(services_directory: Path, redis_url: str) -> None:
    """A PostgreSQL that goes away and comes back costs neither an event nor a second booking."""
    directory = services_directory / "restarts"
    directory.mkdir()
    client = connect(redis_url)
    with own_postgres(directory) as server:
        migrate(server.dsn())
        with Database(server.dsn()) as db:
            books = Books(db, client)
            with books.running_writer():
                until(lambda: command(client, "GET", books.keys.epoch) is not None)
                sidecar = books.sidecar()
                with load(sidecar):
                    for _ in range(2):
                        booked = books.committed().get("p1", 0)
                        until(lambda at=booked: books.committed().get("p1", 0) > at)  # type: ignore[misc]
                        server.stop()
                        settled = integers(client, books.keys.producers)["p1"]
                        until(lambda at=settled: integers(client, books.keys.producers)["p1"] > at)  # type: ignore[misc]
                        server.start()
                until(lambda: books.committed()["p1"] == len(sidecar.spool))
                assert totals(books)[0] == len(sidecar.spool)
                assert audit(db, client).findings == []
    client.close()


def test_writers_killed_under_load(books: Books) -> None:
    """Writers killed with SIGKILL again and again book every event, each once."""
    sidecar = books.sidecar()
    with load(sidecar):
        for _ in range(3):
            before = books.committed().get("p1", 0)
            child = subprocess.Popen([sys.executable, "-c", WRITER, books.db.dsn, books.redis_url])
            try:
                until(lambda at=before: books.committed().get("p1", 0) > at + 50)  # type: ignore[misc]
            finally:
                os.kill(child.pid, signal.SIGKILL)
                child.wait()

    def all_booked() -> bool:
        # Redis may hand entries to a connection whose process is dead; its successor, which has
        # the host's name too, reads them again.
        books.book_all(socket.gethostname())
        return totals(books)[0] == len(sidecar.spool)

    until(all_booked)
    assert audit(books.db, books.redis).findings == []


def test_throughput(books: Books, capsys: pytest.CaptureFixture[str]) -> None:
    """A sanity figure for the log; a slow machine is not a failure."""
    sidecar = books.sidecar()
    for number in range(5000):
        sidecar.call(NOW_US, **facts(number, key_id=f"k{number % 50}"))
    sidecar.settle_all()
    started = time.monotonic()
    books.book_all()
    seconds = time.monotonic() - started
    assert totals(books)[0] == 5000
    with capsys.disabled():
        print(f" [{5000 / seconds:,.0f} events/s]", end="")
