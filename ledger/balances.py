"""Wallets of prepaid credit and what moved them, shaped for people and scripts. Knows no store and
no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ledger.budgets import Budget
from ledger.journal import credit_account
from ledger.reports import Row, Standing, usd_text


@dataclass(frozen=True, slots=True)
class Wallet:
    """A wallet, and its budget: its amount is all that was paid in less what was paid out."""

    wallet_id: str
    name: str
    budget: Budget
    alert_below_nanos: int | None
    created_at: datetime


def wallet(of: Wallet) -> Row:
    """A wallet as it was opened, and the credit that was paid into it, less what was paid out."""
    least = of.alert_below_nanos
    return {
        "wallet_id": of.wallet_id,
        "name": of.name,
        "where": dict(of.budget.where),
        **_amounts(credited=of.budget.amount),
        "alert_below_nanos": least,
        "alert_below_usd": None if least is None else usd_text(least),
        "created_at": of.created_at,
    }


def status(of: Wallet, standing: Standing) -> Row:
    """A wallet beside its counter: calls in flight hold a part of the balance."""
    balance = of.budget.amount - standing.used
    return {
        **wallet(of),
        **_amounts(
            spent=standing.used,
            balance=balance,
            held=standing.held,
            available=balance - standing.held,
        ),
        "low": of.alert_below_nanos is not None and balance < of.alert_below_nanos,
    }


def move(name: str, row: Mapping[str, Any]) -> Row:
    """What moved a wallet's credit: the account that was debited, and the one that was credited."""
    amount = int(row["amount_nanos"])
    sides = (credit_account(name), row["against"])
    debit, credit = sides if amount < 0 else sides[::-1]
    return {
        "at": row["at"],
        "kind": row["kind"],
        **_amounts(amount=amount),
        "debit": debit,
        "credit": credit,
        "reference": row["reference"],
        "calls": row["calls"],
        **_amounts(balance=int(row["balance_nanos"])),
        "who": row["who"],
        "why": row["why"],
    }


def payment(name: str, row: Mapping[str, Any], *, is_new: bool) -> Row:
    """One top-up or withdrawal. `is_new` is False where its reference was booked before."""
    shaped = move(name, {**row, "calls": 0, "balance_nanos": 0})
    kept = (
        "at",
        "kind",
        "amount_nanos",
        "amount_usd",
        "debit",
        "credit",
        "reference",
        "who",
        "why",
    )
    return {
        "wallet": name,
        "transaction_id": row["transaction_id"],
        **{field: shaped[field] for field in kept},
        "change": "booked" if is_new else "unchanged",
    }


def _amounts(**nanos: int) -> Row:
    return {
        field: value
        for name, amount in nanos.items()
        for field, value in ((f"{name}_nanos", amount), (f"{name}_usd", usd_text(amount)))
    }
