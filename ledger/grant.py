"""Budgets: granted, raised, changed and removed in the books. Knows no terminal and no Redis."""

import secrets
import string
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from psycopg.types.json import Jsonb

from ledger.budgets import Budget, Raise, from_document, to_document
from ledger.db import Row, Session
from ledger.issue import RefusedError, clean_label
from ledger.money import MAX_NANOS
from ledger.plans import PLAIN, changed, counts_alike

BUDGET_ID_CHARS: Final = 12
MAX_RAISES: Final = 20
"""Of one budget, in force or to come: the sidecars add them up for each call."""
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits
_KEY_LIMITS: Final = tuple(  # the books name the mirrors of a key's own limits like this
    f"{limit} of key " for limit in ("max_spend", "rpm", "tpm", "max_parallel")
)


def budget_of(row: Row) -> Budget:
    """The budget in a row of the books; its columns overrule its document."""
    columns = ("budget_id", "name", "counts_from", "version")
    return from_document({**row["document"], **{name: row[name] for name in columns}})


def clean_name(name: str) -> str:
    """A budget's name as it is stored; refusals show it to callers. Raises RefusedError."""
    text = clean_label("of the budget", name)
    if text.startswith(_KEY_LIMITS):
        raise RefusedError("That name belongs to a key's own limit; choose another name.")
    return text


def find(session: Session, name: str) -> tuple[Row, Budget]:
    """The budget of that name, kept from others until the transaction ends; RefusedError where
    there is none or nobody granted it: the limit of a key, or a wallet.
    """
    session.run("directory_lock")
    rows = [] if "\0" in name else session.run("budgets_by_name", name=name.strip())
    if not rows:
        raise RefusedError(f"There is no budget {name!r}; `ledger budgets list` shows them all.")
    [row] = rows
    return row, _granted(row)


def grant(
    session: Session, wanted: Budget, *, keeps: Collection[str] = (), who: str, why: str = ""
) -> tuple[Row, str]:
    """Put `wanted` into force: its row, and `created`, `changed`, `replaced` or `unchanged`.

    A budget that counts the same calls in the same window keeps its identity, hence its counter.
    Any other takes a new one, and what its window has already seen is counted from the books.
    `keeps` names fields that stay as they were.
    """
    session.run("directory_lock")
    rows = session.run("budgets_by_name", name=wanted.name)
    if not rows:
        return _create(session, wanted, who, why), "created"
    [row] = rows
    old = _granted(row)
    wanted = replace(wanted, **{name: getattr(old, name) for name in keeps})
    if not counts_alike(old, wanted):
        _remove(session, old, "replaced", who, why)
        raises = old.raises if old.unit == wanted.unit else ()
        return _create(session, replace(wanted, raises=raises), who, why), "replaced"
    new = changed(old, wanted)
    if new == old:
        return row, "unchanged"
    return _change(session, old, new, "changed", who, why), "changed"


def add_raise(session: Session, name: str, more: Raise, *, unit: str, who: str, why: str) -> Row:
    """Raise the budget of that name for a while; raises that have ended are forgotten."""
    _, old = find(session, name)
    if unit != old.unit:
        raise RefusedError(f"The budget {old.name!r} counts {old.unit}; raise it by as many more.")
    raises = (*(each for each in old.raises if each.until_us > more.from_us), more)
    if len(raises) > MAX_RAISES:
        raise RefusedError(
            f"The budget {old.name!r} has {MAX_RAISES} raises already; change its amount with"
            " `ledger budgets set`."
        )
    if old.amount + sum(each.amount for each in raises) > MAX_NANOS:
        raise RefusedError(f"The budget {old.name!r} would be larger than the counters can count.")
    return _change(session, old, replace(old, raises=raises), "raised", who, why)


def remove(session: Session, name: str, *, who: str, why: str = "") -> Budget:
    """End the budget of that name; RefusedError where there is none or nobody granted it."""
    _, budget = find(session, name)
    _remove(session, budget, "removed", who, why)
    return budget


def note(
    session: Session, budget_id: str, what: str, budget: Budget, who: str, why: str = ""
) -> None:
    """Write down who did it: with the budget as it was before, or as it was created."""
    detail = Jsonb(to_document(budget))
    session.run("budgets_note", budget_id=budget_id, who=who, what=what, why=why, detail=detail)


def _granted(row: Row) -> Budget:
    budget = budget_of(row)
    if budget.limit_source == "wallet":
        raise RefusedError(
            f"{budget.name!r} is a wallet of prepaid credit; see `ledger wallets --help`."
        )
    if budget.limit_source != PLAIN:
        raise RefusedError(
            f"{budget.name!r} is a limit of a key's own and ends with it; change it or revoke the"
            " key with `ledger keys`."
        )
    return budget


def _create(session: Session, wanted: Budget, who: str, why: str) -> Row:
    budget_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(BUDGET_ID_CHARS))
    new = replace(wanted, budget_id=budget_id)
    [row] = session.run(
        "budgets_insert", budget_id=budget_id, name=new.name, document=Jsonb(to_document(new))
    )
    note(session, budget_id, "created", new, who, why)
    return row


def _change(session: Session, old: Budget, new: Budget, what: str, who: str, why: str) -> Row:
    [row] = session.run("budgets_change", budget_id=old.budget_id, document=Jsonb(to_document(new)))
    note(session, old.budget_id, what, old, who, why)
    return row


def _remove(session: Session, budget: Budget, what: str, who: str, why: str) -> None:
    session.run("budgets_remove", budget_id=budget.budget_id)
    note(session, budget.budget_id, what, budget, who, why)
