"""Plan and judge: what a call takes from which counter, and what a refusal says."""

import pytest

from extproc.budget import Admitted, Plan, Reserved, Standing, StoreAway, judge, shares
from extproc.refusal import Refusal
from ledger.budgets import Budget
from ledger.keyspace import Keyspace
from tests.extproc.builders import NOW_US, budget

USD = 1_000_000_000


def refuse(amount: int, standing: Standing, of: Budget) -> Refusal:
    """The refusal of one call by one budget."""
    taken = shares(Keyspace(), (of,), NOW_US, amount, amount)
    verdict = judge(Plan("e", taken, 0), Reserved(False, (standing,)), NOW_US, open_when_away=False)
    assert isinstance(verdict, Refusal)
    return verdict


def test_shares_follow_the_unit() -> None:
    """A money budget is charged nanodollars, a token budget tokens."""
    tokens = budget(budget_id="b2", unit="tokens")
    taken = shares(Keyspace(), (budget(), tokens), NOW_US, 5, 7)
    assert [share.amount for share in taken] == [5, 7]


def test_a_call_larger_than_the_budget_can_never_pass() -> None:
    """402, no Retry-After, no retry."""
    refusal = refuse(2 * USD, Standing(0, 0), budget(USD))
    assert (refusal.status, refusal.code) == (402, "request_over_budget")
    assert refusal.retry_after_s is None
    assert not refusal.retryable


def test_a_spent_window_says_when_it_turns() -> None:
    """429 with the seconds until the month ends, which no SDK should wait for."""
    refusal = refuse(USD // 2, Standing(USD, 0), budget(USD))
    assert (refusal.status, refusal.code) == (429, "budget_spent")
    assert refusal.retry_after_s is not None
    assert refusal.retry_after_s > 60
    assert not refusal.retryable
    assert refusal.left == 0


def test_a_minute_budget_is_worth_a_retry() -> None:
    """A window that turns within the SDKs' patience is retryable."""
    assert refuse(USD // 2, Standing(USD, 0), budget(USD, per="minute")).retryable


def test_holds_in_the_way_are_a_short_wait() -> None:
    """When only unsettled holds stand in the way, 429 with a second's wait."""
    refusal = refuse(USD // 2, Standing(0, USD), budget(USD))
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (429, "budget_held", 1)
    assert refusal.retryable


def test_a_lifetime_limit_is_402() -> None:
    """A key's max_spend does not turn, so it is 402 and says that it is the key's."""
    limit = budget(USD, per="total", limit_source="key")
    refusal = refuse(USD // 2, Standing(USD, 0), limit)
    assert (refusal.status, refusal.code) == (402, "key_limit_spent")
    assert refusal.limit_source == "key"


def test_the_hopeless_limit_is_named_first() -> None:
    """Of several refusing budgets the caller hears of the one that no wait mends."""
    small = budget(USD, budget_id="b2", name="tiny", per="total")
    taken = shares(Keyspace(), (budget(), small), NOW_US, USD // 2, 1)
    reply = Reserved(False, (Standing(0, USD), Standing(USD, 0)))
    verdict = judge(Plan("e", taken, 0), reply, NOW_US, open_when_away=False)
    assert isinstance(verdict, Refusal)
    assert verdict.limit == "tiny"


@pytest.mark.parametrize("open_when_away", [True, False])
def test_a_lost_store_closes_the_gate_unless_told(open_when_away: bool) -> None:
    """Without the store: 503 by default, admitted without a hold where the operator chose so."""
    taken = shares(Keyspace(), (budget(),), NOW_US, 1, 1)
    verdict = judge(
        Plan("e", taken, 0), StoreAway("no answer"), NOW_US, open_when_away=open_when_away
    )
    if open_when_away:
        assert verdict == Admitted(held=False)
    else:
        assert isinstance(verdict, Refusal)
        assert verdict.status == 503
