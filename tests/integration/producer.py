"""A sidecar as the books see it: numbers events, keeps them until committed, settles with the real
script. Knows no Envoy.
"""

import json
import uuid
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from extproc.budget import settled
from ledger.budgets import Budget, from_document, matches
from ledger.counters import labels_of
from ledger.event import MeteredEvent, to_bytes
from ledger.keyspace import Keyspace
from ledger.stream import Redis, command, integers

_SETTLE = (files("extproc") / "lua" / "settle.lua").read_text()
MAX_STREAM = 1_000_000


@dataclass
class Sidecar:
    """One producer. `spool` holds everything it ever made; a real one forgets in the end."""

    redis: Redis
    name: str
    keys: Keyspace = field(default_factory=Keyspace)
    budgets: list[Budget] = field(default_factory=list)
    version: int = 0
    spool: list[tuple[MeteredEvent, list[Any]]] = field(default_factory=list)

    def read_directory(self) -> None:
        """Take the directory as it is published now."""
        documents = [json.loads(d) for d in command(self.redis, "HVALS", self.keys.directory)]
        self.version = max((d["version"] for d in documents), default=0)
        self.budgets = [
            from_document(d) for d in documents if "where" in d and not d.get("removed")
        ]

    def call(self, at_us: int, **facts: Any) -> MeteredEvent:
        """Meter one call, under the directory that this sidecar has."""
        event = MeteredEvent(
            event_id=str(uuid.uuid4()),
            producer=self.name,
            seq=len(self.spool) + 1,
            occurred_at_us=at_us,
            policy_version=self.version,
            **facts,
        )
        self.spool.append((event, self._counters(event)))
        return event

    def _counters(self, event: MeteredEvent) -> list[Any]:
        if event.outcome == "refused":
            return []
        binding = [
            budget
            for budget in self.budgets
            if matches(budget, labels_of(event))
            and not (event.byok and budget.limit_source == "wallet")
        ]
        tokens = event.input_tokens + event.output_tokens
        return [*settled(self.keys, binding, event.occurred_at_us, event.cost_nanos or 0, tokens)]

    def settle(self) -> int:
        """Hand over what Redis lacks; the last seq it has then, or -1 while it takes nothing."""
        done = integers(self.redis, self.keys.producers).get(self.name, 0)
        epoch = command(self.redis, "GET", self.keys.epoch)
        if epoch is None:
            return -1
        names = self.keys
        hashes = [names.epoch, names.holds, names.hold_expiry, names.producers, names.committed]
        arguments: list[Any] = [epoch, self.name, MAX_STREAM]
        for event, counters in self.spool[done : done + 500]:
            arguments += [event.seq, event.event_id, to_bytes(event), json.dumps(counters)]
        reply = command(self.redis, "EVAL", _SETTLE, 6, *hashes, names.events, *arguments)
        return int(reply[1]) if reply[0] == 1 else -1

    def settle_all(self) -> None:
        while (last := self.settle()) != -1 and last < len(self.spool):
            pass

    def hold(self, event_id: str, counter: str, amount: int, expires_at_ms: int) -> None:
        """Reserve, as a call under way has: all at one moment."""
        with self.redis.pipeline(transaction=True) as moment:
            moment.hset(self.keys.holds, event_id, json.dumps([counter, amount]))
            moment.zadd(self.keys.hold_expiry, {event_id: expires_at_ms})
            moment.hincrby(counter, "held", amount)
            moment.execute()
