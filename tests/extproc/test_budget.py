"""Plan and judge: what a call takes from which counter, and what a refusal says."""

import pytest

from extproc.budget import (
    Admitted,
    Costs,
    Plan,
    Reserved,
    Share,
    Standing,
    StoreAway,
    judge,
    settled,
    shares,
    throttled,
)
from extproc.refusal import Refusal
from ledger.budgets import Budget, Raise
from ledger.keyspace import Keyspace
from tests.extproc.builders import NOW_US, budget

USD = 1_000_000_000


def taken(*budgets: Budget, nanos: int = 1, tokens: int = 1, **left: int) -> tuple[Share, ...]:
    """What a call of this cost takes from these budgets."""
    return shares(Keyspace(), budgets, NOW_US, NOW_US, Costs(nanos=nanos, tokens=tokens), left)


def refuse(amount: int, standing: Standing, of: Budget) -> Refusal:
    """The refusal of one call by one budget."""
    parts = taken(of, nanos=amount, tokens=amount)
    verdict = judge(Plan("e", parts, 0), Reserved(False, (standing,)), NOW_US, open_when_away=False)
    assert isinstance(verdict, Refusal)
    return verdict


def test_shares_follow_the_unit() -> None:
    """A money budget is charged nanodollars, a token budget tokens."""
    tokens = budget(budget_id="b2", unit="tokens")
    parts = taken(budget(), tokens, nanos=5, tokens=7)
    assert [share.amount(0) for share in parts] == [5, 7]


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
    parts = taken(budget(), small, nanos=USD // 2)
    reply = Reserved(False, (Standing(0, USD), Standing(USD, 0)))
    verdict = judge(Plan("e", parts, 0), reply, NOW_US, open_when_away=False)
    assert isinstance(verdict, Refusal)
    assert verdict.limit == "tiny"


@pytest.mark.parametrize("open_when_away", [True, False])
def test_a_lost_store_closes_the_gate_unless_told(open_when_away: bool) -> None:
    """Without the store: 503 by default, admitted without a hold where the operator chose so."""
    verdict = judge(
        Plan("e", taken(budget()), 0), StoreAway("no"), NOW_US, open_when_away=open_when_away
    )
    if open_when_away:
        assert verdict == Admitted(held=False)
    else:
        assert isinstance(verdict, Refusal)
        assert verdict.status == 503


@pytest.mark.parametrize(
    ("limit", "standing", "status", "code", "retryable"),
    [
        (
            budget(3, unit="calls", per="minute", limit_source="rate"),
            (3, 0),
            429,
            "rate_limited",
            True,
        ),
        (budget(2, unit="parallel", per="total"), (0, 2), 429, "too_many_parallel", True),
        (budget(USD, per="total", limit_source="wallet"), (USD, 0), 402, "credit_spent", False),
        (budget(USD, per="total", limit_source="wallet"), (0, USD), 429, "budget_held", True),
        (budget(0, per="total", limit_source="wallet"), (0, 0), 402, "credit_spent", False),
    ],
)
def test_each_limit_says_what_helps(
    limit: Budget, standing: tuple[int, int], status: int, code: str, retryable: bool
) -> None:
    """Rates and calls in flight are worth a retry; spent credit is not."""
    refusal = refuse(USD // 2, Standing(*standing), limit)
    assert (refusal.status, refusal.code, refusal.retryable) == (status, code, retryable)


def test_a_shadow_budget_reports_and_admits() -> None:
    """What it would have refused is named on the admission, and nothing is refused."""
    shadow = budget(USD, on_exceed="shadow", name="trial")
    parts = taken(shadow, nanos=USD // 2)
    reply = Reserved(True, (Standing(USD, 0),), 7)
    verdict = judge(Plan("e", parts, 0), reply, NOW_US, open_when_away=False)
    assert isinstance(verdict, Admitted)
    assert verdict.granted == 7
    assert verdict.shadow is not None
    assert (verdict.shadow.code, verdict.shadow.limit) == ("budget_spent", "trial")


def test_a_throttle_narrows_as_its_budget_empties() -> None:
    """In a minute a twentieth of what is left may be spent, and always one call."""
    slow = budget(100, on_exceed="throttle")
    full, less, gone = (taken(slow, nanos=3, b1=left)[1] for left in (100, 80, 0))
    assert [share.limit for share in (full, less, gone)] == [5, 4, 3]
    refusal = judge(
        Plan("e", (full,), 0), Reserved(False, (Standing(5, 0),)), NOW_US, open_when_away=False
    )
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.retryable) == ("throttled", True)
    parts = taken(slow)
    left = throttled(Plan("e", parts, 0), Reserved(True, (Standing(30, 20), Standing(0, 0))))
    assert left == [("b1", 50)]


def test_settling_counts_by_unit() -> None:
    """Money, tokens and calls are added; calls in flight leave nothing behind."""
    units = [budget(9, budget_id=u, unit=u) for u in ("usd", "tokens", "calls", "parallel")]
    added = settled(Keyspace(), units, NOW_US, 5, 7)
    assert added[1::3] == (5, 7, 1)


def test_a_raise_counts_while_it_lasts() -> None:
    """A one-off raise widens the limit between its start and its end."""
    raised = budget(100, raises=(Raise(50, NOW_US - 10, NOW_US + 10),))
    assert taken(raised)[0].limit == 150
    later = shares(Keyspace(), (raised,), NOW_US, NOW_US + 10, Costs(), {})
    assert later[0].limit == 100
