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


def payers(billing: str, team: str, root_team: str) -> tuple[str, ...]:
    """The teams that pay for a call; of two the first is the root's. A root without a team pays
    nothing.
    """
    if billing == "split" and root_team and root_team != team:
        return (root_team, team)
    return (root_team if billing == "root" and root_team else team,)


def entries(event: MeteredEvent) -> tuple[Entry, ...]:
    """What an event costs those who pay for it and what is owed to its provider; nothing while
    unpriced.

    What the provider billed beyond the call's hold is an overrun: no budget could have stopped it,
    and nobody planned it. Where two teams pay, each bears half of both, and the root's the odd
    nanodollar. The amounts of one event sum to zero. A call that cost nothing has its transaction
    too, so that every priced event can be found in the journal.
    """
    if event.cost_nanos is None:
        return ()
    cost = event.cost_nanos
    planned = event.hold_nanos if 0 < event.hold_nanos < cost else cost
    teams = payers(event.billing, event.team, event.root_team)
    made = []
    for payer, share, expected in zip(
        teams, _shared(cost, len(teams)), _shared(planned, len(teams)), strict=True
    ):
        made.append(Entry(f"expense:{payer or NOBODY}", expected))
        if share != expected:
            made.append(Entry(f"overrun:{payer or NOBODY}", share - expected))
    return (*made, Entry(f"payable:{event.provider or NOBODY}", -cost))


def _shared(amount_nanos: int, payers: int) -> tuple[int, ...]:
    """The amount as one or two bear it."""
    half = amount_nanos // 2
    return (amount_nanos,) if payers == 1 else (amount_nanos - half, half)


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
