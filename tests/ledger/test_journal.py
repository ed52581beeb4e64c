"""Double entry: which accounts an event moves money between."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.event import MeteredEvent
from ledger.journal import entries


def event(**facts: object) -> MeteredEvent:
    return MeteredEvent(event_id="e", producer="p", seq=1, occurred_at_us=0, **facts)  # type: ignore[arg-type]


def test_a_call_is_an_expense_of_its_team_owed_to_its_provider() -> None:
    """The team's expense grows by the cost, and so does what is owed to the provider."""
    assert entries(event(team="risk", provider="openai", cost_nanos=7)) == (
        ("expense:risk", 7),
        ("payable:openai", -7),
    )


def test_an_unpriced_call_has_no_transaction() -> None:
    """An unknown price moves no money; a known price of nothing has its transaction."""
    assert entries(event(cost_nanos=None)) == ()
    assert [entry.amount_nanos for entry in entries(event(cost_nanos=0))] == [0, 0]


@given(st.text(), st.text(), st.integers(-(2**62), 2**62))
def test_every_transaction_sums_to_zero(team: str, provider: str, cost: int) -> None:
    """Whatever a call cost, its entries sum to zero and name an account each."""
    made = entries(event(team=team, provider=provider, cost_nanos=cost))
    assert sum(entry.amount_nanos for entry in made) == 0
    assert all(not entry.account.endswith(":") or team or provider for entry in made)
