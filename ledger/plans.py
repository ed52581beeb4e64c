"""Budgets as code: what must change so that the budgets in force are those of a file. Knows no
file, no store and no clock.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ledger.budgets import Budget
from ledger.reports import amount_text, selector_text

CREATED: Final = "create"
CHANGED: Final = "change"
REPLACED: Final = "replace"
REMOVED: Final = "remove"
UNCHANGED: Final = "unchanged"
WHATS: Final = (CREATED, CHANGED, REPLACED, REMOVED, UNCHANGED)
PLAIN: Final = "budget"
"""The `limit_source` of budgets that people grant; keys and wallets have limits of their own."""
DEFAULTS: Final = {
    "time_zone": "UTC",
    "on_exceed": "block",
    "unstated": "learned",
    "alerts": [],
}
"""What a file need not say."""
FIELDS: Final = ("name", "where", "amount", "per", *DEFAULTS)
"""What a file says of a budget, in its order."""
_COUNTED_BY: Final = ("where", "unit", "per", "time_zone")


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a plan. `old` is what is in force, `new` what the file wants."""

    what: str
    name: str
    old: Budget | None = None
    new: Budget | None = None

    @property
    def fields(self) -> dict[str, tuple[str, str]]:
        """What differs, by name: as it is and as it becomes; empty where there is no such side."""
        old = texts(self.old) if self.old is not None else {}
        new = texts(self.new) if self.new is not None else {}
        names = [name for name in FIELDS[1:] if old.get(name) != new.get(name)]
        return {name: (old.get(name, ""), new.get(name, "")) for name in names}


def counts_alike(one: Budget, other: Budget) -> bool:
    """Whether both count the same calls in the same window, so that a counter may stay."""
    return all(getattr(one, name) == getattr(other, name) for name in _COUNTED_BY)


def changed(old: Budget, wanted: Budget) -> Budget:
    """`old` as `wanted` says, under its own identity and with its raises."""
    return replace(
        old,
        amount=wanted.amount,
        on_exceed=wanted.on_exceed,
        unstated=wanted.unstated,
        alerts=wanted.alerts,
    )


def plan(wanted: Sequence[Budget], in_force: Iterable[Budget], *, prune: bool) -> list[Change]:
    """What is to be done, in the order of the file, removals last. One name, one budget.

    `prune`: remove budgets that the file does not name. Limits of keys and wallets are no part of
    it.
    """
    granted = {budget.name: budget for budget in in_force if budget.limit_source == PLAIN}
    changes = [_step(granted.get(budget.name), budget) for budget in wanted]
    named = {budget.name for budget in wanted}
    if prune:
        changes += [
            Change(REMOVED, name, old=granted[name])
            for name in sorted(granted)
            if name not in named
        ]
    return changes


def counted(changes: Iterable[Change]) -> dict[str, int]:
    """How many steps of each kind."""
    counts = dict.fromkeys(WHATS, 0)
    for change in changes:
        counts[change.what] += 1
    return counts


def entry(budget: Budget) -> dict[str, Any]:
    """The budget as an entry of a file, without what a file need not say."""
    said = {
        "name": budget.name,
        "where": dict(budget.where) or "all",
        "amount": amount_text(budget.unit, budget.amount),
        "per": budget.per,
        "time_zone": budget.time_zone,
        "on_exceed": budget.on_exceed,
        "unstated": budget.unstated,
        "alerts": list(budget.alerts),
    }
    return {
        name: value
        for name, value in said.items()
        if name not in DEFAULTS or value != DEFAULTS[name]
    }


def texts(budget: Budget) -> Mapping[str, str]:
    """The budget's fields as one would type them."""
    return {
        "where": selector_text(budget.where),
        "amount": amount_text(budget.unit, budget.amount),
        "per": budget.per,
        "time_zone": budget.time_zone,
        "on_exceed": budget.on_exceed,
        "unstated": budget.unstated,
        "alerts": ",".join(map(str, budget.alerts)) or "none",
    }


def _step(old: Budget | None, wanted: Budget) -> Change:
    if old is None:
        return Change(CREATED, wanted.name, new=wanted)
    if not counts_alike(old, wanted):
        return Change(REPLACED, wanted.name, old, wanted)
    new = changed(old, wanted)
    return Change(UNCHANGED if new == old else CHANGED, wanted.name, old, new)
