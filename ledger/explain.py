"""Which budgets bind a call and in which order they would refuse. Knows no store and no clock."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger.budgets import Budget
from ledger.reports import Row, Standing, budget_status

USUAL_TOKENS: Final = 2_000
"""Of a call of which nothing is known: 1,500 in and 500 out."""
USUAL_NANOS: Final = 10_000_000
"""A cent, where no price is known either."""


@dataclass(frozen=True, slots=True)
class Typical:
    """What one more call is taken to use; `says` tells from where that is known."""

    nanos: int
    tokens: int
    says: str


def binding(
    budgets: Iterable[Budget], labels: Mapping[str, str], unknown: Iterable[str]
) -> list[tuple[Budget, tuple[tuple[str, str], ...]]]:
    """Budgets that count a call with these labels, each with what it asks for of labels that are
    not known yet.
    """
    open_names = frozenset(unknown)
    found = []
    for budget in budgets:
        asked = tuple(pair for pair in budget.where if pair[0] in open_names)
        rest = (pair for pair in budget.where if pair[0] not in open_names)
        if all(labels.get(name) == value for name, value in rest):
            found.append((budget, asked))
    return found


def explained(
    bound: Sequence[tuple[Budget, tuple[tuple[str, str], ...]]],
    standings: Sequence[Standing],
    typical: Typical,
    now: datetime,
) -> list[Row]:
    """A row for each budget, the one that would refuse first on top.

    Amounts of different units compare by how many more typical calls fit at this moment.
    """
    rows: list[Row] = []
    for (budget, asked), standing in zip(bound, standings, strict=True):
        row = budget_status(budget, standing, now)
        takes = {"usd": typical.nanos, "tokens": typical.tokens}.get(budget.unit, 1)
        row["calls_left"] = max(row["left"], 0) // max(takes, 1)
        row["only_if"] = dict(asked)
        row["shadow"] = budget.on_exceed == "shadow"
        row["refuses_first"] = False
        rows.append(row)
    rows.sort(key=lambda row: (row["calls_left"], -row["percent"], row["name"]))
    first = next((row for row in rows if not row["shadow"] and not row["only_if"]), None)
    if first is not None:
        first["refuses_first"] = True
    return rows
