"""The whole system on loopback, as `ledger up` starts it, and the ways to look into it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psycopg
import redis
from psycopg.rows import dict_row

from ledger.embedded import free_port
from ledger.fake_provider.speech import Tokens
from ledger.keyspace import Keyspace
from ledger.settings import POSTGRES_DSN, REDIS_URL, parse_env
from tests.e2e.fake import TOKENS, Fake
from tests.e2e.processes import ROOT, command_line, descendants, stop, until

Event = dict[str, Any]
PROVIDERS = ("openai", "anthropic", "azure", "bedrock", "gemini")
DEAD = "dead"  # a provider where nobody listens
EVENT_ID = "x-tollkeeper-event-id"
COST = "x-tollkeeper-cost-usd"


@dataclass(frozen=True, slots=True)
class Stack:
    """A running `ledger up` and the fake provider behind it."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    gateway: str
    fake: Fake

    def ledger(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `ledger` command on this stack."""
        command = [sys.executable, "-m", "ledger", "--data-dir", str(self.data_dir), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def json(self, *arguments: str) -> Any:
        """The JSON that a `ledger` command prints; it must succeed."""
        done = self.ledger(*arguments, "--format", "json")
        assert done.returncode == 0, f"{arguments}: {done.stderr or done.stdout}"
        return json.loads(done.stdout)

    def issue(self, *options: str, team: str = "risk") -> dict[str, Any]:
        """A new key: `{"key", "key_id", ...}`."""
        labels = ("--owner", "ann", "--team", team, "--agent", "scout", "--workload", "nightly")
        issued: dict[str, Any] = self.json("keys", "issue", *labels, *options)
        self.until_known(issued["key"])
        return issued

    def until_known(self, key: str, workers: int = 2) -> None:
        """Wait until every worker knows a key: so many answers in a row on fresh connections."""
        headers = {"authorization": f"Bearer {key}"}
        wanted = workers * 4

        def known() -> bool:
            for _ in range(wanted):
                answer = httpx.get(f"{self.gateway}/openai/v1/models", headers=headers, timeout=10)
                if answer.status_code in (401, 503):
                    return False
            return True

        until(known, what="every worker knows the new key")

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """What a query says of the books."""
        with psycopg.connect(self._env(POSTGRES_DSN), row_factory=dict_row) as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def event(self, event_id: str, deadline_s: float = 10.0) -> Event:
        """The one event of a call, once it is in the books."""

        def look() -> list[Event]:
            return self.rows("SELECT * FROM events WHERE event_id = %s", event_id)

        found = until(lambda: look() or None, what=f"event {event_id}", deadline_s=deadline_s)
        assert len(found) == 1
        return found[0]

    def events_of(self, key_id: str, number: int, deadline_s: float = 10.0) -> list[Event]:
        """All events of a key (metered operations only), once there are `number` of them."""
        query = "SELECT * FROM events WHERE key_id = %s AND operation <> 'other' ORDER BY seq"
        until(
            lambda: len(self.rows(query, key_id)) >= number,
            what=f"{number} events of {key_id}",
            deadline_s=deadline_s,
        )
        time.sleep(0.3)  # a further one would come right behind
        return self.rows(query, key_id)

    def booked(self, headers: Any) -> Event:
        """The event of a call by its response's headers; its tokens are what the fake billed."""
        event = self.event(headers[EVENT_ID])
        bill = self.fake.bill(headers["x-request-id"])
        assert {name: event[name] for name in TOKENS} == {name: bill[name] for name in TOKENS}
        assert (event["model"], event["usage_source"]) == (bill["model"], "provider")
        return event

    def processes(self, *words: str) -> list[int]:
        """Processes of this stack whose command line has all these words."""
        return [
            pid
            for pid in descendants(self.process.pid)
            if all(any(word in part for part in command_line(pid)) for word in words)
        ]

    def workers(self) -> list[int]:
        """The sidecar's worker processes."""
        return self.processes("extproc", "--worker", "--spool-dir") and [
            pid for pid in self.processes("extproc") if "--worker" in command_line(pid)
        ]

    def store(self) -> redis.Redis:
        """A client of the counters; the caller closes it."""
        return redis.Redis.from_url(self._env(REDIS_URL))

    def counter(self, budget_id: str, window: str = "total") -> dict[str, int]:
        """What a budget's counter holds now."""
        with self.store() as store:
            found: Any = store.hgetall(Keyspace().counter(budget_id, window))
        return {name.decode(): int(value) for name, value in found.items()}

    def _env(self, name: str) -> str:
        return parse_env((self.data_dir / "env").read_text())[name]


def cost_of(tokens: Tokens, model: str, provider: str) -> int:
    """Nanodollars by the price list itself, without any code of ours in between."""
    from genai_prices import Usage, calc_price

    usage = Usage(
        input_tokens=tokens.input_tokens,
        cache_read_tokens=tokens.cache_read_tokens,
        cache_write_tokens=tokens.cache_write_5m_tokens,
        output_tokens=tokens.output_tokens,
    )
    price = calc_price(usage, model, provider_id=provider)
    return round(price.total_price * 1_000_000_000)


@contextmanager
def running(
    data_dir: Path,
    fake: Fake,
    *,
    workers: int = 2,
    more: Sequence[str] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Stack]:
    """`ledger up` in a process of its own, ready to take calls. `more`: further options of it, and
    `variables` of its environment.
    """
    gateway = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "ledger", "up", "--data-dir", str(data_dir)]
    command += ["--gateway", gateway, "--workers", str(workers)]
    for name in PROVIDERS:
        command += ["--provider", f"{name}={fake.url}"]
    command += ["--provider", f"{DEAD}=http://127.0.0.1:9", *more]
    data_dir.mkdir(parents=True, exist_ok=True)
    log = (data_dir / "up.log").open("wb")
    environment = {name: v for name, v in os.environ.items() if not name.startswith("TOLLKEEPER_")}
    environment |= variables
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
    stack = Stack(process, data_dir, f"http://{gateway}", fake)
    try:
        until(lambda: _serves(stack), what=_tail(data_dir / "up.log"), deadline_s=90)
        yield stack
    finally:
        stop(process, timeout_s=60)
        log.close()


def _serves(stack: Stack) -> bool:
    """Whether the sidecar answers: it has its directory, so it refuses a call without a key."""
    assert stack.process.poll() is None, f"ledger up ended:\n{_tail(stack.data_dir / 'up.log')}"
    try:
        answer = httpx.get(f"{stack.gateway}/openai/v1/models", timeout=5)
    except httpx.HTTPError:
        return False
    return answer.status_code == 401 and EVENT_ID in answer.headers


def _tail(log: Path) -> str:
    return f"ledger up serves; its log {log}: {log.read_text(errors='replace')[-3000:]}"
