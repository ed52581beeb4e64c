"""Double entry: which accounts a metered event moves money between. Knows no store."""

from typing import Final, NamedTuple

from ledger.event import MeteredEvent

NOBODY: Final = "unattributed"
"""Stands for an empty team or provider, so that no account is called `expense:`."""
REVENUE: Final = "revenue:usage"


class Entry(NamedTuple):
    """One side of a transaction; positive is a debit."""

    account: str
    amount_nanos: int


def entries(event: MeteredEvent) -> tuple[Entry, ...]:
    """What an event costs its team and what is owed to its provider; nothing while unpriced.

    What the provider billed beyond the call's hold is an overrun of its team: no budget could have
    stopped it, and nobody planned it. The amounts of one event sum to zero. A call that cost
    nothing has its transaction too, so that every priced event can be found in the journal.
    """
    if event.cost_nanos is None:
        return ()
    team, cost = event.team or NOBODY, event.cost_nanos
    payable = Entry(f"payable:{event.provider or NOBODY}", -cost)
    if 0 < event.hold_nanos < cost:
        overrun = Entry(f"overrun:{team}", cost - event.hold_nanos)
        return (Entry(f"expense:{team}", event.hold_nanos), overrun, payable)
    return (Entry(f"expense:{team}", cost), payable)


def credit_account(wallet: str) -> str:
    """Where a wallet's credit stands: a liability, so what is left of it is below zero."""
    return f"credit:{wallet}"


def earned(wallet: str, cost_nanos: int) -> tuple[Entry, ...]:
    """A call that a wallet paid for, beside what it cost its team."""
    return (Entry(credit_account(wallet), cost_nanos), Entry(REVENUE, -cost_nanos))


def paid_in(wallet: str, amount_nanos: int, against: str) -> tuple[Entry, ...]:
    """A top-up, or a withdrawal where the amount is below zero. `against`: `cash` or
    `receivable`.
    """
    return (Entry(against, amount_nanos), Entry(credit_account(wallet), -amount_nanos))
