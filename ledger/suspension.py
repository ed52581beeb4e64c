"""Suspends the keys whose calls spent a budget that suspends. Knows no stream and no Redis.

An event may come again, long after somebody resumed its key: a key that was changed since the event
is left alone.
"""

from collections.abc import Iterable
from typing import Final

from psycopg.types.json import Jsonb

from ledger.booking import occurred_at
from ledger.budgets import Budget, from_document, matches
from ledger.counters import labels_of
from ledger.db import Database, Session
from ledger.event import MeteredEvent
from ledger.issue import set_status

_SPENT: Final = ("budget_spent", "request_over_budget", "key_limit_spent")
"""Refusals that say that a budget is gone; the others say only that a call must wait."""
_WIDE: Final = ("key", "agent")
"""A selector that names one of these says whose keys they are: all that it picks are suspended."""
_OF_ONE_CHAIN: Final = ("run", "root_key", "root_team", "root_agent", "root_workload")
"""What a chain of calls has spent says nothing of other keys."""
_COLUMNS: Final = {
    **{name: name for name in ("owner", "team", "agent", "workload", "customer")},
    "key": "key_id",
    "principal": "owner",
}


def suspend_spenders(db: Database, events: Iterable[MeteredEvent]) -> list[str]:
    """Suspend the keys whose refused calls ask for it; their ids. Safe to repeat."""
    refused = [e for e in events if e.refusal in _SPENT and e.refused_by and e.key_id]
    if not refused:
        return []
    with db.transaction() as session:
        names = list({event.refused_by for event in refused})
        budgets = {
            row["name"]: from_document(row["document"])
            for row in session.run("budgets_suspending", names=names)
        }
        # Of many refused calls the newest decides, for it is the least likely to be out of date.
        newest: dict[tuple[str, str], MeteredEvent] = {}
        for event in sorted(refused, key=lambda event: event.occurred_at_us):
            budget = budgets.get(event.refused_by)
            if budget is not None and matches(budget, labels_of(event)):
                newest[budget.name, "" if _is_wide(budget) else event.key_id] = event
        # All are locked before the first is changed: who changes a key locks in this order too.
        chosen = {
            key_id: (budgets[name], event)
            for (name, _), event in newest.items()
            for key_id in _chosen(session, budgets[name], event)
        }
        for key_id, (budget, event) in chosen.items():
            _suspend(session, key_id, budget, event)
    return list(chosen)


def _chosen(session: Session, budget: Budget, event: MeteredEvent) -> list[str]:
    columns, labels = _selected(budget) if _is_wide(budget) else ({"key_id": event.key_id}, {})
    wanted = {
        "key_id": event.key_id,
        "columns": Jsonb(columns),
        "labels": Jsonb(labels),
        "since": occurred_at(event),
    }
    rows = session.run("keys_to_suspend", **wanted)
    rows += session.run("quarantined_to_suspend", **wanted)
    return [row["key_id"] for row in rows]


def _suspend(session: Session, key_id: str, budget: Budget, event: MeteredEvent) -> None:
    detail = {
        "budget_id": budget.budget_id,
        "event_id": event.event_id,
        "key_id": event.key_id,
        "refusal": event.refusal,
    }
    why = f"The budget is spent: call {event.event_id} was refused."
    set_status(session, key_id, "suspended", who=f"budget:{budget.name}", why=why, detail=detail)


def _is_wide(budget: Budget) -> bool:
    """Whether all keys that the selector picks are suspended, not the calling key alone."""
    names = {name for name, _ in budget.where}
    return not names.isdisjoint(_WIDE) and names.isdisjoint(_OF_ONE_CHAIN)


def _selected(budget: Budget) -> tuple[dict[str, str], dict[str, str]]:
    """What a selector says of keys: of their columns, and of their optional labels.

    A key is suspended for every provider, whichever of them the budget is for.
    """
    columns, labels = {}, {}
    for name, value in budget.where:
        if name in _COLUMNS:
            columns[_COLUMNS[name]] = value
        elif name != "provider":
            labels[name] = value
    return columns, labels
