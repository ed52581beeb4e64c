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

    def reserve(self, plan: Plan, *, grow: bool = False) -> Reserved:
        """Grant as much as fits everywhere, from the plan's least to its most, or nothing."""
        seen = [self.counters.get(s.counter, Counter()) for s in plan.shares]
        standings = tuple(Standing(c.used, c.held) for c in seen)
        if grow != (plan.event_id in self.holds):
            return Reserved(not grow, standings, 0 if grow else plan.most)
        for tokens in range(plan.most, plan.least - 1, -1):
            amounts = [share.amount(tokens) for share in plan.shares]
            if all(
                c.used + c.held + amount <= s.limit
                for c, s, amount in zip(seen, plan.shares, amounts, strict=True)
            ):
                hold = self.holds.setdefault(plan.event_id, [])
                for share, amount in zip(plan.shares, amounts, strict=True):
                    if amount > 0:
                        hold.append((share.counter, amount))
                        self.counters.setdefault(share.counter, Counter()).held += amount
                return Reserved(True, standings, tokens)
        return Reserved(False, standings, 0)

    def expire(self, event_id: str) -> None:
        """Give back a hold that nobody settled."""
        for counter, amount in self.holds.pop(event_id, []):
            self.counters[counter].held -= amount

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
