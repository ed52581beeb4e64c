"""Brings Redis back from the books after it lost what it held. Knows no event's bytes.

While `epoch` is absent no sidecar reserves or settles. A rebuild takes it away first and sets a new
one last; then each sidecar sends again what is above its seq in `producers`.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from ledger.counters import LEDGER, Used, counted_budgets, new_budgets, used_in_windows
from ledger.db import Database
from ledger.keyspace import Keyspace
from ledger.publish import publish
from ledger.stream import DEFAULT_KEYSPACE, Redis, command, integers, run_script

MAX_COUNTERS: Final = 500  # in one script call
MAX_FIELDS: Final = 1000  # in one HSET
EPOCH: Final = "epoch"
HOLDS_WITHIN_S: Final = 0.5
"""How long the gate stays closed for the sidecars to put back what calls under way hold."""


def is_sound(db: Database, redis: Redis, keys: Keyspace = DEFAULT_KEYSPACE) -> bool:
    """Whether the counters in Redis are those that were last rebuilt from these books.

    A directory newer than the books says that the books came back from a backup.
    """
    epoch, published = command(redis, "MGET", keys.epoch, keys.directory_version)
    state = db.run("books_state")[0]
    return (
        epoch is not None
        and epoch.decode() == state[EPOCH]
        and int(published or 0) <= state["version"]
    )


def has_lost_writes(db: Database, redis: Redis, keys: Keyspace = DEFAULT_KEYSPACE) -> bool:
    """Whether the books know more of a producer than Redis: it lost its last writes."""
    settled = integers(redis, keys.producers)
    return any(
        row["contiguous"] > settled.get(row["producer"], 0) for row in db.run("producers_all")
    )


def rebuild(db: Database, redis: Redis, keys: Keyspace = DEFAULT_KEYSPACE) -> str:
    """Rebuild counters, producers and directory from the books; the epoch in force then.

    Of a producer with a gap only what lies below it is counted: its sidecar sends the rest again.
    """
    before = db.run("books_state")[0][EPOCH]
    epoch = str(uuid.uuid4())
    with db.transaction() as alone:
        alone.run("rebuild_lock")
        now = db.run("books_state")[0][EPOCH]
        if now != before and is_sound(db, redis, keys):
            return str(now)  # another writer was faster
        closed = [
            keys.epoch,
            keys.producers,
            keys.committed,
            keys.directory,
            keys.directory_version,
        ]
        run_script(redis, "forget", closed)
        if db.run("producers_all"):
            time.sleep(HOLDS_WITHIN_S)
        now_us = time.time_ns() // 1000  # nothing that is counted from here on is in the books
        with db.transaction() as session:
            session.run("books_lock")
            fresh = new_budgets(session)
            budgets = [*fresh, *counted_budgets(session)]
            rows = session.run("producers_all")
            beyond = {
                r["producer"]: r["contiguous"] for r in rows if r["highest"] > r["contiguous"]
            }
            used = used_in_windows(session, budgets, now_us, beyond)
            last_adjustment = session.run("books_state")[0]["last_adjustment"]
            session.run("budgets_mark_counted", budget_ids=[budget.budget_id for budget in fresh])
            session.run("settings_set", name=EPOCH, value=epoch)
        committed = {row["producer"]: row["contiguous"] for row in rows}
        _fill_counters(redis, keys, used)
        _fill_hash(redis, keys.committed, committed)
        _fill_hash(redis, keys.producers, {**committed, LEDGER: last_adjustment})
        publish(db, redis, keys)
        command(redis, "SET", keys.epoch, epoch)
    return epoch


def _fill_counters(redis: Redis, keys: Keyspace, used: Sequence[Used]) -> None:
    for start in range(0, len(used), MAX_COUNTERS):
        part = used[start : start + MAX_COUNTERS]
        names = [keys.counter(u.budget.budget_id, u.window.name) for u in part]
        values = [value for u in part for value in (u.amount, u.window.kept_until_ms)]
        run_script(redis, "fill", [keys.holds, *names], values)


def _fill_hash(redis: Redis, key: str, fields: Mapping[str, int]) -> None:
    items = list(fields.items())
    for start in range(0, len(items), MAX_FIELDS):
        parts = [part for pair in items[start : start + MAX_FIELDS] for part in pair]
        command(redis, "HSET", key, *parts)
