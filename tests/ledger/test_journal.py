"""Double entry: which accounts an event moves money between."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.event import BILLINGS, MeteredEvent
from ledger.journal import NOBODY, REVENUE, credit_account, earned, entries, paid_in


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


texts = st.text(max_size=3)


@given(
    *(texts, texts, texts),
    *(st.sampled_from(BILLINGS), st.integers(-(2**62), 2**62), st.integers(0, 2**62)),
)
def test_every_transaction_sums_to_zero(
    team: str, root_team: str, provider: str, billing: str, cost: int, hold: int
) -> None:
    """Whatever a call cost and held and whoever pays, its entries sum to zero and name an account
    each, of which none comes twice.
    """
    said = {"team": team, "root_team": root_team, "provider": provider, "billing": billing}
    made = entries(event(**said, cost_nanos=cost, hold_nanos=hold))
    assert sum(entry.amount_nanos for entry in made) == 0
    assert made[-1] == (f"payable:{provider or NOBODY}", -cost)
    assert len({entry.account for entry in made}) == len(made)
    assert all(entry.account.partition(":")[2] for entry in made)


def test_the_root_of_a_chain_pays_where_it_is_billed() -> None:
    """The whole call is the expense of the team that started the work, and nobody else's."""
    call = {"team": "blue", "root_team": "red", "provider": "openai", "cost_nanos": 7}
    assert entries(event(**call, billing="root"))[0] == ("expense:red", 7)
    assert entries(event(**call, billing="caller"))[0] == ("expense:blue", 7)
    assert entries(event(**call, billing=""))[0] == ("expense:blue", 7)
    overrun = entries(event(**call, billing="root", hold_nanos=5))
    assert overrun[:2] == (("expense:red", 5), ("overrun:red", 2))


def test_a_split_call_is_shared_in_halves() -> None:
    """The root's team bears the odd nanodollar; planned and unplanned are shared alike."""
    call = {"team": "blue", "root_team": "red", "provider": "openai", "billing": "split"}
    assert entries(event(**call, cost_nanos=7)) == (
        ("expense:red", 4),
        ("expense:blue", 3),
        ("payable:openai", -7),
    )
    assert entries(event(**call, cost_nanos=6, hold_nanos=5)) == (
        ("expense:red", 3),
        ("expense:blue", 2),
        ("overrun:blue", 1),
        ("payable:openai", -6),
    )
    alone = entries(event(**call | {"root_team": "blue"}, cost_nanos=7))
    assert alone == (("expense:blue", 7), ("payable:openai", -7))


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_who_pays_changes_nothing_but_who_pays(cost: int, hold: int) -> None:
    """What all teams bear together, planned and unplanned, is the same under every billing."""
    call = {"team": "a", "root_team": "b", "cost_nanos": cost, "hold_nanos": hold}
    for kind in ("expense", "overrun", "payable"):
        sums = set()
        for billing in BILLINGS:
            made = entries(event(**call, billing=billing))
            sums.add(sum(e.amount_nanos for e in made if e.account.startswith(kind)))
        assert len(sums) == 1


@given(st.text(min_size=1), st.integers(-(2**62), 2**62), st.sampled_from(["cash", "receivable"]))
def test_credit_is_owed_until_it_is_earned(wallet: str, amount: int, against: str) -> None:
    """What is paid in is owed to the wallet's owner; a call earns its cost out of that."""
    for made in (paid_in(wallet, amount, against), earned(wallet, amount)):
        assert sum(entry.amount_nanos for entry in made) == 0
    assert dict(paid_in(wallet, amount, against))[credit_account(wallet)] == -amount
    assert dict(earned(wallet, amount)) == {credit_account(wallet): amount, REVENUE: -amount}
