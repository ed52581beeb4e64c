"""Double entry: which accounts a metered event moves money between. Knows no store."""

from typing import Final, NamedTuple

from ledger.event import MeteredEvent

NOBODY: Final = "unattributed"
"""Stands for an empty team or provider, so that no account is called `expense:`."""


class Entry(NamedTuple):
    """One side of a transaction; positive is a debit."""

    account: str
    amount_nanos: int


def entries(event: MeteredEvent) -> tuple[Entry, ...]:
    """What an event costs its team and what is owed to its provider; nothing while unpriced.

    The amounts of one event sum to zero. A call that cost nothing has its transaction too, so that
    every priced event can be found in the journal.
    """
    if event.cost_nanos is None:
        return ()
    return (
        Entry(f"expense:{event.team or NOBODY}", event.cost_nanos),
        Entry(f"payable:{event.provider or NOBODY}", -event.cost_nanos),
    )
