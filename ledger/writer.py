"""The writer: events from the stream into the books, each exactly once, and the ledger's chores.

    read -> one transaction (events, rollups, journal, producers, adjustments)
         -> suspend keys whose budget is spent -> acknowledge

What was committed and not acknowledged is read again and found to be there already. What PostgreSQL
refuses for what it says, and not for how the server is, is halved until the poison is alone: that
one becomes a dead letter and the rest is booked.
"""

import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import psycopg
import redis.exceptions
from psycopg import errors

from ledger import restore
from ledger.alerting import alerting
from ledger.booking import Bookable, Letter, occurred_at, row, sort_out, undeliverable
from ledger.counters import LEDGER, counted_budgets, late_adjustments
from ledger.credit import pay
from ledger.db import BooksUnavailableError, Database, Session
from ledger.journal import entries
from ledger.keyspace import Keyspace
from ledger.publish import publish
from ledger.runs import keep_chains
from ledger.stream import DEFAULT_KEYSPACE, Entry, EventStream, Redis, command, run_script
from ledger.suspension import suspend_spenders

log = logging.getLogger(__name__)

PUBLISH_EVERY_S: Final = 0.25
SWEEP_EVERY_S: Final = 1.0
TAKE_OVER_EVERY_S: Final = 10.0
UPKEEP_EVERY_S: Final = 3600.0
MAX_SWEPT: Final = 200  # in one script call, which holds up everyone else
MONTHS_AHEAD: Final = 3
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

_POISON: Final = (psycopg.DataError, psycopg.IntegrityError, errors.ProgramLimitExceeded)
_AWAY: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    BooksUnavailableError,
    redis.exceptions.RedisError,
)


def run_writer(
    db: Database,
    redis_client: Redis,
    stop: threading.Event,
    keys: Keyspace = DEFAULT_KEYSPACE,
    *,
    consumer: str = "",
) -> None:
    """Book events until `stop` is set. A PostgreSQL or Redis that is away is waited for."""
    writer = Writer(db, redis_client, keys, consumer or socket.gethostname())
    with alerting(db, redis_client, keys):
        _keep_turning(writer, stop)


def _keep_turning(writer: "Writer", stop: threading.Event) -> None:
    pause_s = 0.0
    while not stop.is_set():
        try:
            writer.turn()
        except _AWAY as error:
            if not pause_s:
                log.warning("The writer waits for its store: %s", error)
            writer.start_over()
            pause_s = min(max(pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            stop.wait(pause_s * random.uniform(0.5, 1.0))  # two writers must not knock in step
            continue
        if pause_s:
            log.warning("The writer goes on.")
            pause_s = 0.0


class Writer:
    """One consumer of the stream, and when its chores are due."""

    def __init__(self, db: Database, client: Redis, keys: Keyspace, consumer: str) -> None:
        self._db, self._redis, self._keys = db, client, keys
        self._stream = EventStream(client, keys, consumer)
        self._fresh = True
        self._chores: tuple[tuple[float, Callable[[], None]], ...] = (
            (SWEEP_EVERY_S, self._sweep),  # first, for it needs no PostgreSQL
            (UPKEEP_EVERY_S, self._upkeep),
            (PUBLISH_EVERY_S, self._keep_sound),
            (TAKE_OVER_EVERY_S, self._stream.take_over),
        )
        self._due = [0.0] * len(self._chores)

    def turn(self) -> int:
        """The chores that are due, then one batch; how many entries it had."""
        now = time.monotonic()
        for number, (every_s, chore) in enumerate(self._chores):
            if now >= self._due[number]:
                chore()
                self._due[number] = now + every_s
        batch = self._stream.read()
        if batch:
            self.take(batch)
        return len(batch)

    def take(self, batch: Sequence[Entry]) -> None:
        """Bring a batch into PostgreSQL, then out of the stream."""
        bookable, letters = sort_out(batch)
        committed = _book_or_halve(self._db, bookable, letters)
        # Before the batch is acknowledged, so that a writer that dies here does it again.
        if suspended := suspend_spenders(self._db, [item.event for item in bookable]):
            log.warning("Suspended by a budget that is spent: %s.", ", ".join(suspended))
            publish(self._db, self._redis, self._keys)
        if not self._stream.acknowledge(batch, committed):
            self._rebuild("Redis knows less of a producer than the books do")

    def start_over(self) -> None:
        """After a failure: nothing that was read is certain, and Redis may be another one."""
        self._fresh = True
        self._stream.start_over()

    def _sweep(self) -> None:
        names = [self._keys.holds, self._keys.hold_expiry]
        if swept := run_script(self._redis, "sweep", names, [MAX_SWEPT]):
            log.info("Released %d holds that nobody settled.", len(swept))

    def _keep_sound(self) -> None:
        if not restore.is_sound(self._db, self._redis, self._keys):
            self._rebuild("Redis holds no counters of these books")
        elif self._fresh and restore.has_lost_writes(self._db, self._redis, self._keys):
            self._rebuild("Redis came back without its last writes")
        self._fresh = False
        publish(self._db, self._redis, self._keys)

    def _rebuild(self, why: str) -> None:
        epoch = restore.rebuild(self._db, self._redis, self._keys)
        log.warning("%s; they were rebuilt (epoch %s).", why, epoch)

    def _upkeep(self) -> None:
        self._db.run("partitions_ensure", months_ahead=MONTHS_AHEAD)
        applied = int(command(self._redis, "HGET", self._keys.producers, LEDGER) or 0)
        self._db.run("adjustments_prune", adjustment_id=applied)
        keep_chains(self._db)


def book(db: Database, batch: Sequence[Entry]) -> dict[str, int]:
    """Bring every entry into the books or the dead letters; their producers' `contiguous`.

    A transaction per batch, and more only where there is poison in it. Safe to repeat.
    """
    bookable, letters = sort_out(batch)
    return _book_or_halve(db, bookable, letters)


def _book_or_halve(
    db: Database, bookable: Sequence[Bookable], letters: Sequence[Letter]
) -> dict[str, int]:
    try:
        with db.transaction() as session:
            return _book(session, bookable, letters)
    except _POISON as error:
        if not bookable:
            raise  # not the events' fault
        log.warning("A batch of %d has poison in it: %s", len(bookable), error)
        if len(bookable) == 1:
            letter = undeliverable(bookable[0], str(error))
            return _book_or_halve(db, (), [*letters, letter])
    middle = len(bookable) // 2
    first = _book_or_halve(db, bookable[:middle], letters)
    return first | _book_or_halve(db, bookable[middle:], ())


def _book(
    session: Session, bookable: Sequence[Bookable], letters: Sequence[Letter]
) -> dict[str, int]:
    # One batch at a time, whoever writes: what follows may then look before it leaps.
    session.run("books_lock")
    session.run("staged_table")
    session.copy("staged_copy", [row(item.event) for item in bookable])
    # By identity, because a batch may hold an event twice: PostgreSQL keeps the first.
    events = {(e.event_id, occurred_at(e)): e for e in reversed([b.event for b in bookable])}
    new = [(found["event_id"], found["occurred_at"]) for found in session.run("events_book")]
    booked = [events[identity] for identity in new]
    letters = [*letters, *_refused(session, bookable, len(new))]
    session.copy(
        "journal_copy",
        [(*identity, *entry) for identity in new for entry in entries(events[identity])],
    )
    pay(session, booked)
    if booked:
        oldest = min(event.policy_version for event in booked)
        budgets = counted_budgets(session, counts_from_above=oldest)
        session.copy("adjustments_copy", late_adjustments(booked, budgets))
    if letters:
        _keep(session, letters)
    seqs = [(item.event.producer, item.event.seq) for item in bookable]
    seqs += [(lt.producer, lt.seq) for lt in letters if lt.producer is not None and lt.seq]
    advanced = session.run(
        "producers_advance", producers=[p for p, _ in seqs], seqs=[seq for _, seq in seqs]
    )
    return {found["producer"]: found["contiguous"] for found in advanced}


def _refused(session: Session, bookable: Sequence[Bookable], booked: int) -> list[Letter]:
    """Letters for events that are new and yet not booked, because another one has their seq."""
    if booked == len(bookable):
        return []
    refused = {found["event_id"] for found in session.run("staged_refused")}
    return [
        undeliverable(item, "Its producer has booked another event under the same seq.")
        for item in bookable
        if item.event.event_id in refused
    ]


def _keep(session: Session, letters: Sequence[Letter]) -> None:
    session.run(
        "dead_letters_insert",
        stream_ids=[letter.entry.stream_id for letter in letters],
        payloads=[letter.entry.payload for letter in letters],
        reasons=[letter.reason for letter in letters],
        producers=[letter.producer for letter in letters],
        seqs=[letter.seq for letter in letters],
    )
