"""Which budgets bind, and which of them would refuse first."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger.budgets import Budget, Raise
from ledger.explain import Typical, binding, explained
from ledger.reports import Standing

NOW = datetime(2026, 3, 29, 12, 30, tzinfo=UTC)
CALL = Typical(nanos=10, tokens=100, says="")


def budget(name: str, unit: str, amount: int, **facts: Any) -> Budget:
    given: dict[str, Any] = {"where": (), "per": "total", **facts}
    return Budget(budget_id=name, name=name, unit=unit, amount=amount, **given)


def order(*budgets: Budget, used: int = 0) -> list[tuple[str, int]]:
    rows = explained([(b, ()) for b in budgets], [Standing(used)] * len(budgets), CALL, NOW)
    return [(row["name"], row["calls_left"]) for row in rows]


def test_amounts_of_all_units_compare_by_the_calls_that_fit() -> None:
    """50 nanodollars are five calls of ten, 300 tokens are three of a hundred."""
    money, tokens = budget("money", "usd", 50), budget("tokens", "tokens", 300)
    calls, parallel = budget("calls", "calls", 4), budget("parallel", "parallel", 2)
    assert order(money, tokens, calls, parallel) == [
        ("parallel", 2),
        ("tokens", 3),
        ("calls", 4),
        ("money", 5),
    ]


def test_raises_and_holds_are_counted() -> None:
    """What is left is left of the limit in force, after what calls in flight hold."""
    raised = budget("raised", "usd", 50, raises=(Raise(30, 0, 2**52), Raise(900, 0, 1)))
    [row] = explained([(raised, ())], [Standing(20, 40)], CALL, NOW)
    assert (row["limit"], row["left"], row["percent"], row["calls_left"]) == (80, 20, 75, 2)


def test_what_only_reports_or_may_not_bind_does_not_refuse_first() -> None:
    """They stand in their order, and the first that surely refuses is named."""
    bound = [
        (budget("shadow", "usd", 10, on_exceed="shadow"), ()),
        (budget("maybe", "usd", 20), (("provider", "openai"),)),
        (budget("sure", "usd", 30), ()),
    ]
    rows = explained(bound, [Standing()] * 3, CALL, NOW)
    assert [row["name"] for row in rows] == ["shadow", "maybe", "sure"]
    assert [row["refuses_first"] for row in rows] == [False, False, True]
    assert rows[1]["only_if"] == {"provider": "openai"}


def test_a_label_that_is_not_known_yet_leaves_it_open() -> None:
    """A key has no provider; a budget for one may bind its calls, one for another team never."""
    where = (("provider", "openai"), ("team", "risk"))
    candidates = [
        budget("open", "usd", 1, where=where),
        budget("other", "usd", 1, where=(("team", "hr"),)),
    ]
    found = binding(candidates, {"team": "risk"}, ["provider"])
    assert [(b.name, asked) for b, asked in found] == [("open", where[:1])]
    assert binding(candidates, {"team": "risk", "provider": "azure"}, []) == []


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=9),
    st.integers(0, 100),
)
def test_the_order_is_that_of_refusing(limits: list[tuple[int, int]], nanos: int) -> None:
    """Sending typical calls one by one, none refuses before the first row does."""
    bound = [(budget(f"b{n}", "usd", limit), ()) for n, (limit, _) in enumerate(limits)]
    standings = [Standing(used) for _, used in limits]
    rows = explained(bound, standings, Typical(nanos, 1, ""), NOW)
    lefts = [max(row["left"], 0) // max(nanos, 1) for row in rows]
    assert lefts == sorted(lefts)
    assert [row["refuses_first"] for row in rows] == [True] + [False] * (len(rows) - 1)
