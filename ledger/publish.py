"""Sends keys, budgets, runs, signing keys and settings from the books to the directory in Redis.
Knows not what they mean.
"""

import json
import time
from typing import Final

from ledger.counters import apply_adjustments, count_new_budgets
from ledger.db import Database
from ledger.keyspace import Keyspace
from ledger.stream import DEFAULT_KEYSPACE, Redis, command, run_script

MAX_DOCUMENTS: Final = 500  # in one script call, which holds up everyone else
MAX_CHANGES: Final = 10_000
"""Changes that a sidecar may miss before it has to read the whole directory again."""
FOR_EVER_US: Final = 253_402_300_799_000_000  # the end of the year 9999


def publish(db: Database, redis: Redis, keys: Keyspace = DEFAULT_KEYSPACE) -> int:
    """Send every document that changed since the last time; how many. Safe to repeat.

    A new budget goes out after its counter has been given what was spent before it.
    """
    state = db.run("books_state")[0]
    if state["has_new_budgets"]:
        count_new_budgets(db, time.time_ns() // 1000)
    if state["epoch"] is not None:
        apply_adjustments(db, redis, state["epoch"], keys)
    # An empty directory is one too: without a version the sidecars would wait for it.
    command(redis, "SET", keys.directory_version, 0, "NX")
    published = int(command(redis, "GET", keys.directory_version) or 0)
    return _send(db, redis, keys, published) if published < state["version"] else 0


def _send(db: Database, redis: Redis, keys: Keyspace, published: int) -> int:
    sent = 0
    names = [keys.directory, keys.directory_version, keys.directory_changes]
    asked = {"most": MAX_DOCUMENTS, "for_ever": FOR_EVER_US, "anew": published == 0}
    while changes := db.run("directory_after", version=published, **asked):
        arguments: list[str | int] = [MAX_CHANGES, published]
        for change in changes:
            document = json.dumps(change["document"], separators=(",", ":"))
            arguments += [change["name"], change["version"], document]
        published = int(run_script(redis, "publish", names, arguments))
        sent += len(changes)
    return sent
