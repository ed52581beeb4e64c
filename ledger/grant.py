"""Budgets: granted, changed and removed in the books. Knows no terminal and no Redis."""

import secrets
import string
from dataclasses import replace
from typing import Final

from psycopg.types.json import Jsonb

from ledger.budgets import Budget, from_document, to_document
from ledger.db import Row, Session
from ledger.issue import RefusedError, clean_label

BUDGET_ID_CHARS: Final = 12
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits
_KEY_LIMIT: Final = (
    "max_spend of key "  # the books name the mirror of a key's lifetime limit like this
)


def budget_of(row: Row) -> Budget:
    """The budget in a row of the books; its columns overrule its document."""
    columns = ("budget_id", "name", "counts_from", "version")
    return from_document({**row["document"], **{name: row[name] for name in columns}})


def clean_name(name: str) -> str:
    """A budget's name as it is stored; refusals show it to callers. Raises RefusedError."""
    text = clean_label("of the budget", name)
    if text.startswith(_KEY_LIMIT):
        raise RefusedError("That name belongs to a key's own limit; choose another name.")
    return text


def grant(session: Session, wanted: Budget, *, keeps_alerts: bool, who: str) -> tuple[Row, str]:
    """Put `wanted` into force: its row, and `created`, `changed`, `replaced` or `unchanged`.

    A budget that counts the same calls in the same window keeps its identity, hence its counter.
    Any other takes a new one, and what its window has already seen is counted from the books.
    """
    rows = session.run("budgets_by_name", name=wanted.name)
    if not rows:
        return _create(session, wanted, who), "created"
    [row] = rows
    old = budget_of(row)
    if keeps_alerts:
        wanted = replace(wanted, alerts=old.alerts)
    if not _counts_alike(old, wanted):
        _remove(session, old, "replaced", who)
        return _create(session, wanted, who), "replaced"
    new = replace(old, amount=wanted.amount, on_exceed=wanted.on_exceed, alerts=wanted.alerts)
    if new == old:
        return row, "unchanged"
    [changed] = session.run(
        "budgets_change", budget_id=old.budget_id, document=Jsonb(to_document(new))
    )
    _note(session, old.budget_id, "changed", old, who)
    return changed, "changed"


def remove(session: Session, name: str, *, who: str) -> Budget:
    """End the budget of that name; RefusedError where there is none or it is a key's own limit."""
    rows = [] if "\0" in name else session.run("budgets_by_name", name=name.strip())
    if not rows:
        raise RefusedError(f"There is no budget {name!r}; `ledger budgets list` shows them all.")
    budget = budget_of(rows[0])
    if budget.limit_source == "key":
        raise RefusedError(
            f"{name!r} is the lifetime limit of a key and ends with it; revoke or rotate the key."
        )
    _remove(session, budget, "removed", who)
    return budget


def _create(session: Session, wanted: Budget, who: str) -> Row:
    budget_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(BUDGET_ID_CHARS))
    new = replace(wanted, budget_id=budget_id)
    [row] = session.run(
        "budgets_insert", budget_id=budget_id, name=new.name, document=Jsonb(to_document(new))
    )
    _note(session, budget_id, "created", new, who)
    return row


def _remove(session: Session, budget: Budget, what: str, who: str) -> None:
    session.run("budgets_remove", budget_id=budget.budget_id)
    _note(session, budget.budget_id, what, budget, who)


def _counts_alike(one: Budget, other: Budget) -> bool:
    return (one.where, one.unit, one.per, one.time_zone) == (
        other.where,
        other.unit,
        other.per,
        other.time_zone,
    )


def _note(session: Session, budget_id: str, what: str, budget: Budget, who: str) -> None:
    """Write down who did it: with the budget as it was before, or as it was created."""
    detail = Jsonb(to_document(budget))
    session.run("budgets_note", budget_id=budget_id, who=who, what=what, detail=detail)
