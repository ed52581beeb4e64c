"""A sidecar on its own: the directory that the ledger would have published, and the process."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
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


def publish(store: redis.Redis, budgets: Iterable[Budget] = ()) -> None:
    """One key, these budgets, and counters declared good."""
    names = Keyspace()
    document: dict[str, Any] = {
        "key_id": "k1",
        "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
        "owner": "ann",
        "team": "risk",
        "agent": "scout",
        "workload": "nightly",
        "customer": "",
        "labels": {},
        "status": "active",
        "version": 1,
    }
    document |= dict.fromkeys(("expires_at_us", "max_spend_nanos", "rpm", "tpm", "max_parallel"))
    store.hset(names.directory, "key:k1", json.dumps(document))
    for budget in budgets:
        text = json.dumps(to_document(budget))
        store.hset(names.directory, f"budget:{budget.budget_id}", text)
    store.set(names.directory_version, 1)
    store.set(names.epoch, "epoch-1")


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
