"""A sidecar on its own: the directory that the ledger would have published, and the process."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from ledger.budgets import Budget, to_document
from ledger.keyspace import Keyspace
from tests.e2e.processes import ROOT, children, stop

KEY = "tk-k1-secret"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A running `extproc` with one worker."""

    parent: subprocess.Popen[bytes]
    socket: Path

    @property
    def worker(self) -> int:
        """The process that serves the socket."""
        return children(self.parent.pid)[0]


def key(number: int) -> str:
    """The text of a published key; `KEY` is the first."""
    return f"tk-k{number}-secret"


def publish(
    store: redis.Redis, budgets: Iterable[Budget] = (), teams: Sequence[str] = ("risk",)
) -> None:
    """One key for each team, these budgets, and counters declared good."""
    names = Keyspace()
    documents = {f"key:k{n}": _key_document(n, team) for n, team in enumerate(teams, 1)}
    documents |= {f"budget:{budget.budget_id}": to_document(budget) for budget in budgets}
    for name, document in documents.items():
        store.hset(names.directory, name, json.dumps(document))
    store.set(names.directory_version, 1)
    store.set(names.epoch, "epoch-1")


def _key_document(number: int, team: str) -> dict[str, Any]:
    document: dict[str, Any] = {
        "key_id": f"k{number}",
        "sha256": hashlib.sha256(key(number).encode()).hexdigest(),
        "owner": "ann",
        "team": team,
        "agent": "scout",
        "workload": "nightly",
        "customer": "",
        "labels": {},
        "status": "active",
        "version": 1,
    }
    return document | dict.fromkeys(
        ("expires_at_us", "max_spend_nanos", "rpm", "tpm", "max_parallel")
    )


@contextmanager
def sidecar(redis_url: str, sockets: Path, spool: Path) -> Iterator[Sidecar]:
    """`extproc` with one worker, which may not be ready yet."""
    command = [sys.executable, "-m", "extproc", "--workers", "1", "--redis-url", redis_url]
    command += ["--socket-dir", str(sockets), "--spool-dir", str(spool)]
    parent = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TOLLKEEPER_HOST": "test"})
    try:
        yield Sidecar(parent, sockets / "extproc-0.sock")
    finally:
        stop(parent)
