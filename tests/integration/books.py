"""What the tests of the books share: a set of books, a running writer, waiting."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ledger.db import Database
from ledger.keyspace import Keyspace
from ledger.stream import Redis, command, integers
from ledger.writer import Writer, run_writer
from tests.integration.producer import Sidecar

DEADLINE_S = 20.0
NOW_US = time.time_ns() // 1000


@dataclass
class Books:
    """A PostgreSQL and a Redis of one test, and short ways to look into both."""

    db: Database
    redis: Redis
    redis_url: str = ""
    keys: Keyspace = field(default_factory=Keyspace)

    def writer(self, consumer: str = "test") -> Writer:
        return Writer(self.db, self.redis, self.keys, consumer)

    def sidecar(self, name: str = "p1") -> Sidecar:
        """A producer that knows the directory as it is published now."""
        sidecar = Sidecar(self.redis, name, self.keys)
        sidecar.read_directory()
        return sidecar

    def book_all(self, consumer: str = "test") -> None:
        """Let one writer book whatever is in the stream."""
        writer = self.writer(consumer)
        while writer.turn():
            pass

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        with self.db.transaction() as session:
            cursor = session.connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def one(self, query: str, *parameters: Any) -> Any:
        [row] = self.rows(query, *parameters)
        return next(iter(row.values()))

    def add_budget(self, budget_id: str, where: list[list[str]], **facts: Any) -> None:
        document = {
            "where": where,
            "unit": "usd",
            "amount": 10**12,
            "per": "total",
            "time_zone": "UTC",
            "on_exceed": "block",
            "alerts": [],
            **facts,
        }
        self.rows(
            "INSERT INTO budgets (budget_id, name, document) VALUES (%s, %s, %s::jsonb)",
            *(budget_id, f"budget {budget_id}", json.dumps(document)),
        )

    def used(self, budget_id: str, window: str = "total") -> int:
        return int(command(self.redis, "HGET", self.keys.counter(budget_id, window), "used") or 0)

    def committed(self) -> dict[str, int]:
        return integers(self.redis, self.keys.committed)

    @contextmanager
    def running_writer(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(
            target=run_writer, args=(self.db, self.redis, stop, self.keys), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "The writer did not stop."


def until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition; fails when its time is up."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "The condition did not come true in time."
        time.sleep(0.01)


def facts(number: int = 1, **others: Any) -> dict[str, Any]:
    """A plausible priced call."""
    return {
        "key_id": "k1",
        "owner": "ann",
        "principal": "ann",
        "team": "risk",
        "agent": "scout",
        "workload": "nightly",
        "provider": "openai",
        "model": "gpt-5",
        "operation": "chat",
        "input_tokens": 10 + number,
        "output_tokens": 5,
        "cost_nanos": 1000 + number,
        "usage_source": "provider",
        "http_status": 200,
        "outcome": "ok",
        **others,
    }
