"""Budgets in memory: what the Lua scripts must do, said in the plainest Python."""

from dataclasses import dataclass, field

from extproc.budget import Plan, Reserved, Standing


@dataclass
class Counter:
    """Settled and reserved amounts of one budget and window."""

    used: int = 0
    held: int = 0


@dataclass
class MemoryBudgets:
    """Counters, open holds and the events taken, for one producer."""

    counters: dict[str, Counter] = field(default_factory=dict)
    holds: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    last: int = 0
    events: list[bytes] = field(default_factory=list)

    def reserve(self, plan: Plan) -> Reserved:
        """Add to every counter or to none."""
        seen = [self.counters.get(s.counter, Counter()) for s in plan.shares]
        standings = tuple(Standing(c.used, c.held) for c in seen)
        fits = all(
            c.used + c.held + s.amount <= s.budget.amount
            for c, s in zip(seen, plan.shares, strict=True)
        )
        if fits and plan.event_id not in self.holds:
            self.holds[plan.event_id] = [(s.counter, s.amount) for s in plan.shares]
            for share in plan.shares:
                self.counters.setdefault(share.counter, Counter()).held += share.amount
        return Reserved(fits, standings)

    def settle(self, seq: int, event_id: str, payload: bytes, real: list[tuple[str, int]]) -> None:
        """Swap a hold for real amounts, once per seq."""
        if seq <= self.last:
            return
        for counter, amount in self.holds.pop(event_id, []):
            self.counters[counter].held -= amount
        for counter, amount in real:
            self.counters.setdefault(counter, Counter()).used += amount
        self.events.append(payload)
        self.last = seq
