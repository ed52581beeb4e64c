"""Double entry: which accounts an event moves money between."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.event import MeteredEvent
from ledger.journal import REVENUE, credit_account, earned, entries, paid_in


def event(**facts: object) -> MeteredEvent:
    return MeteredEvent(event_id="e", producer="p", seq=1, occurred_at_us=0, **facts)  # type: ignore[arg-type]


def test_a_call_is_an_expense_of_its_team_owed_to_its_provider() -> None:
    """The team's expense grows by the cost, and so does what is owed to the provider."""
    assert entries(event(team="risk", provider="openai", cost_nanos=7)) == (
        ("expense:risk", 7),
        ("payable:openai", -7),
    )


def test_what_exceeds_the_hold_is_an_overrun() -> None:
    """The team's expense is what was held; the rest has an account of its own."""
    assert entries(event(team="risk", provider="openai", cost_nanos=7, hold_nanos=5)) == (
        ("expense:risk", 5),
        ("overrun:risk", 2),
        ("payable:openai", -7),
    )
    for hold in (0, 7, 8):  # nothing held, as much as it cost, more
        made = entries(event(team="risk", cost_nanos=7, hold_nanos=hold))
        assert made[0] == ("expense:risk", 7)
        assert len(made) == 2


def test_an_unpriced_call_has_no_transaction() -> None:
    """An unknown price moves no money; a known price of nothing has its transaction."""
    assert entries(event(cost_nanos=None)) == ()
    assert [entry.amount_nanos for entry in entries(event(cost_nanos=0))] == [0, 0]


@given(st.text(), st.text(), st.integers(-(2**62), 2**62), st.integers(0, 2**62))
def test_every_transaction_sums_to_zero(team: str, provider: str, cost: int, hold: int) -> None:
    """Whatever a call cost and held, its entries sum to zero and name an account each."""
    made = entries(event(team=team, provider=provider, cost_nanos=cost, hold_nanos=hold))
    assert sum(entry.amount_nanos for entry in made) == 0
    assert all(not entry.account.endswith(":") or team or provider for entry in made)


@given(st.text(min_size=1), st.integers(-(2**62), 2**62), st.sampled_from(["cash", "receivable"]))
def test_credit_is_owed_until_it_is_earned(wallet: str, amount: int, against: str) -> None:
    """What is paid in is owed to the wallet's owner; a call earns its cost out of that."""
    for made in (paid_in(wallet, amount, against), earned(wallet, amount)):
        assert sum(entry.amount_nanos for entry in made) == 0
    assert dict(paid_in(wallet, amount, against))[credit_account(wallet)] == -amount
    assert dict(earned(wallet, amount)) == {credit_account(wallet): amount, REVENUE: -amount}
