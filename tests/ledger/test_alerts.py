"""What is said of budgets: each thing once, when it is true, with the right date."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.alerts import (
    Alert,
    Reading,
    Said,
    Slice,
    clears,
    due,
    gone_at,
    holding,
    is_watched,
    slice_windows,
    slices,
    windows_of,
)
from ledger.budgets import Budget, Raise, window_at

USD = 1_000_000_000
DAY_US = 86_400_000_000
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Auckland")


def us(*moment: int, zone: str = "UTC") -> int:
    return round(datetime(*moment, tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000  # type: ignore[misc,arg-type]


def budget(**others: Any) -> Budget:
    facts: dict[str, Any] = {
        "budget_id": "b1",
        "name": "risk-month",
        "where": (("team", "risk"),),
        "unit": "usd",
        "amount": 100 * USD,
        "per": "month",
        "alerts": (50, 80, 100),
    }
    return Budget(**{**facts, **others})


def reading(used: int, at_us: int, budget: Budget, **others: Any) -> Reading:
    window = window_at(budget.per, budget.time_zone, at_us)
    return Reading(budget=budget, window=window, used=used, **others)


def kinds(alerts: Sequence[Alert]) -> list[tuple[str, int]]:
    return [(alert.kind, alert.threshold) for alert in alerts]


def said(alerts: Sequence[Alert]) -> list[Said]:
    return [Said(alert.kind, alert.threshold, alert.amount) for alert in alerts]


FIRST = us(2026, 10, 1, 1)  # too early for any forecast


class Teller:
    """Looks again and again, and records what it says as the books do."""

    def __init__(self) -> None:
        self.record: list[Said] = []

    def look(self, reading: Reading, now_us: int) -> list[tuple[str, int]]:
        self.record = [
            each._replace(cleared=each.cleared or clears(reading, now_us, each))
            for each in self.record
        ]
        alerts = due(reading, now_us, self.record)
        self.record += said(alerts)
        return kinds(alerts)


def test_a_threshold_is_said_when_it_is_reached() -> None:
    """Not a nanodollar earlier, and with what is really used."""
    risk = budget()
    assert due(reading(50 * USD - 1, FIRST, risk), FIRST) == []
    [alert] = due(reading(50 * USD, FIRST, risk), FIRST)
    assert (alert.kind, alert.threshold) == ("threshold", 50)
    assert alert.message == "50% of the budget 'risk-month' is used this month: $50.00 of $100.00."
    jumped = due(reading(93 * USD, FIRST, risk), FIRST)
    assert kinds(jumped) == [("threshold", 50), ("threshold", 80)]


def test_a_spent_budget_says_what_happens_now() -> None:
    """100 % is exhaustion; when it ends is in the budget's own time zone."""
    [*_, alert] = due(reading(100 * USD, FIRST, budget(time_zone="Europe/Berlin")), FIRST)
    assert (alert.kind, alert.threshold) == ("exhausted", 100)
    assert "refused until 2026-11-01 00:00 (Europe/Berlin)" in alert.message
    [alert] = due(reading(2 * USD, FIRST, budget(per="total", amount=USD, alerts=())), FIRST)
    assert alert.message.endswith("refused until it is raised.")


def test_refusals_near_the_end_mean_exhaustion() -> None:
    """A hard budget ends below its amount; a large call refused halfway is no exhaustion."""
    risk = budget(alerts=())
    assert due(reading(95 * USD, FIRST, risk), FIRST) == []
    assert kinds(due(reading(95 * USD, FIRST, risk, refusing=True), FIRST)) == [("exhausted", 100)]
    assert due(reading(60 * USD, FIRST, risk, refusing=True), FIRST) == []


def test_rate_limits_are_not_news() -> None:
    """What turns each minute is meant to be reached; who wants to know asks for 100."""
    rate = budget(unit="tokens", per="minute", amount=1000, alerts=())
    assert due(reading(2000, FIRST, rate), FIRST) == []
    asked = replace(rate, alerts=(100,))
    assert kinds(due(reading(2000, FIRST, asked), FIRST)) == [("exhausted", 100)]
    assert not is_watched(replace(rate, limit_source="rate"))
    assert not is_watched(budget(unit="parallel", per="total", limit_source="key"))


@given(
    alerts=st.lists(st.integers(1, 100), max_size=5, unique=True),
    steps=st.lists(st.integers(0, 40 * USD), max_size=12),
)
def test_each_threshold_once_and_none_forgotten(alerts: list[int], steps: list[int]) -> None:
    """However spending grows and however often one looks, what was reached is said exactly once."""
    risk = budget(alerts=tuple(sorted(alerts)))
    teller, used, told = Teller(), 0, []
    for step in steps:
        used += step
        told += teller.look(reading(used, FIRST, risk), FIRST)
        assert teller.look(reading(used, FIRST, risk), FIRST) == []
    assert len(told) == len(set(told))
    reached = {("threshold", p) for p in alerts if p != 100 and used >= p * USD}
    assert set(told) == reached | ({("exhausted", 100)} if used >= 100 * USD else set())


@given(
    used=st.integers(0, 200 * USD),
    more=st.integers(0, 100 * USD),
    refusing=st.booleans(),
    overrun=st.integers(0, 50 * USD),
)
def test_more_spending_takes_nothing_back(
    used: int, more: int, refusing: bool, overrun: int
) -> None:
    """What holds at some spending holds at any larger one."""
    before, after = (
        holding(reading(n, FIRST, budget(), refusing=refusing, overrun=overrun), FIRST)
        for n in (used, used + more)
    )
    assert set(kinds(before)) <= set(kinds(after))


def test_another_window_is_told_anew() -> None:
    """What was said of one window is not of the next; one that just ended still counts."""
    first, second = us(2026, 10, 31, 23, 59), us(2026, 11, 1, 0, 5)
    assert [w.name for w in windows_of(budget(), first)] == ["2026-10-01"]
    assert [w.name for w in windows_of(budget(), second)] == ["2026-11-01", "2026-10-01"]
    assert [w.name for w in windows_of(budget(), us(2026, 11, 1, 0, 10))] == ["2026-11-01"]
    late = replace(reading(60 * USD, second, budget()), window=windows_of(budget(), second)[1])
    assert ("threshold", 50) in kinds(due(late, second))


def test_a_raise_is_told_only_when_it_is_used_up_too() -> None:
    """Raised below a threshold, nothing repeats until the larger amount reaches it."""
    teller, plain = Teller(), budget(alerts=(80,))
    assert teller.look(reading(85 * USD, FIRST, plain), FIRST) == [("threshold", 80)]
    raised = replace(plain, amount=200 * USD)
    assert teller.look(reading(85 * USD, FIRST, raised), FIRST) == []
    assert teller.look(reading(159 * USD, FIRST, raised), FIRST) == []
    assert teller.look(reading(160 * USD, FIRST, raised), FIRST) == [("threshold", 80)]
    assert teller.look(reading(161 * USD, FIRST, raised), FIRST) == []


def test_a_raise_that_stays_above_the_threshold_repeats_nothing() -> None:
    """It was never untrue that 80 % are used."""
    teller, plain = Teller(), budget(alerts=(80,))
    assert teller.look(reading(95 * USD, FIRST, plain), FIRST) == [("threshold", 80)]
    raised = replace(plain, amount=110 * USD)
    assert teller.look(reading(95 * USD, FIRST, raised), FIRST) == []


def test_the_end_of_a_raise_repeats_nothing() -> None:
    """Back at its old amount the budget has crossed nothing that was not said of that amount."""
    teller, ends = Teller(), FIRST + DAY_US
    plain = budget(alerts=(80,))
    raised = replace(plain, raises=(Raise(100 * USD, FIRST, ends),))
    assert teller.look(reading(85 * USD, FIRST - 1, raised), FIRST - 1) == [("threshold", 80)]
    assert teller.look(reading(90 * USD, FIRST, raised), FIRST) == []
    assert teller.look(reading(95 * USD, ends, raised), ends) == []
    assert teller.look(reading(100 * USD, ends, raised), ends) == [("exhausted", 100)]


@given(
    amounts=st.lists(st.integers(1, 300), min_size=1, max_size=10),
    steps=st.lists(st.integers(0, 40), min_size=10, max_size=10),
)
def test_no_amount_is_told_twice(amounts: list[int], steps: list[int]) -> None:
    """Whatever happens to the amount, a threshold is repeated only of an ever larger one."""
    teller, used = Teller(), 0
    for amount, step in zip(amounts, steps, strict=False):
        used += step * USD
        teller.look(reading(used, FIRST, budget(amount=amount * USD)), FIRST)
    for kind in {(each.kind, each.threshold) for each in teller.record}:
        told = [each.amount for each in teller.record if each[:2] == kind]
        assert told == sorted(set(told))


def test_credit_that_runs_low() -> None:
    """Below the owner's mark once; again after a top-up, however little is ever withdrawn."""
    wallet = budget(limit_source="wallet", per="total", name="acme", alerts=())
    teller = Teller()

    def look(amount: int, used: int) -> list[tuple[str, int]]:
        now = replace(wallet, amount=amount * USD)
        return teller.look(reading(used * USD, FIRST, now, alert_below=5 * USD), FIRST)

    assert look(0, 0) == []  # nothing was paid in yet
    assert look(100, 95) == []
    assert look(100, 96) == [("low_balance", 5 * USD)]
    assert look(100, 97) == []
    assert look(101, 97) == []
    assert look(150, 97) == []
    assert look(101, 97) == [("low_balance", 5 * USD)]
    assert look(101, 101) == [("exhausted", 100)]
    [alert] = due(reading(96 * USD, FIRST, wallet, alert_below=5 * USD), FIRST)
    assert alert.message == "The prepaid credit 'acme' has $4.00 left, less than $5.00; top it up."


def test_overruns_are_told_as_they_grow() -> None:
    """Any at all, then 1 % and 10 % of the budget: a grain of dust must not hide a mountain."""
    teller = Teller()
    for overrun, expected in ((0, []), (1, [0]), (USD - 1, []), (USD, [1]), (11 * USD, [10])):
        now = reading(USD, FIRST, budget(), overrun=overrun)
        assert teller.look(now, FIRST) == [("overrun", step) for step in expected]
    in_tokens = reading(1, FIRST, budget(unit="tokens"), overrun=USD)
    assert due(in_tokens, FIRST) == []


def steady(used: int, at_us: int, budget: Budget) -> Reading:
    """A budget that was used evenly."""
    now = reading(used, at_us, budget)
    parts = slice_windows(now.window, at_us)
    lengths = [min(part.end_us or at_us, at_us) - part.start_us for part in parts]
    amounts = [used * length // sum(lengths) for length in lengths]
    return replace(now, slices=slices(parts, amounts, at_us))


def test_the_forecast_names_the_day() -> None:
    """As an operator would say it, by the calendar of the budget's zone."""
    noon = us(2026, 10, 10, 12, zone="Europe/Berlin")
    month = budget(time_zone="Europe/Berlin", alerts=())
    start = window_at("month", "Europe/Berlin", noon).start_us
    gone = us(2026, 10, 19, 7, zone="Europe/Berlin")
    used = 100 * USD * (noon - start) // (gone - start)
    [alert] = due(steady(used, noon, month), noon)
    assert alert.kind == "forecast"
    assert alert.gone_us == pytest.approx(gone, abs=60_000_000)
    assert alert.message.startswith(
        "At this pace the budget 'risk-month' is gone on the 19th, 12 days before its window turns:"
    )


@pytest.mark.parametrize(
    ("per", "at", "used", "says"),
    [
        ("day", (2026, 10, 10, 12), 80, "is gone at 15:00, 9 hours before"),
        ("week", (2026, 10, 8, 0), 75, "is gone on Friday, 3 days before"),
        ("month", (2028, 2, 11, 0), 50, "is gone on the 21st, 9 days before"),
        ("month", (2027, 2, 11, 0), 50, "is gone on the 21st, 8 days before"),
        ("quarter", (2026, 11, 1, 0), 50, "is gone on 2 December, 30 days before"),
    ],
)
def test_forecasts_of_every_window(per: str, at: tuple[int, ...], used: int, says: str) -> None:
    """Month ends and leap years are in the arithmetic, and the words fit the window."""
    now = us(*at)
    [alert] = due(reading(used * USD, now, budget(per=per, alerts=())), now)
    assert says in alert.message


@given(
    zone=st.sampled_from(ZONES),
    per=st.sampled_from(["day", "week", "month", "quarter"]),
    start=st.datetimes(datetime(2024, 1, 1), datetime(2028, 12, 31)),
    used=st.integers(1, 100 * USD - 1),
)
def test_the_linear_forecast_is_exact(zone: str, per: str, start: datetime, used: int) -> None:
    """Its moment is the first microsecond at which the pace so far has used the whole amount."""
    now = round(start.replace(tzinfo=UTC).timestamp()) * 1_000_000
    plain = reading(used, now, budget(per=per, time_zone=zone))
    gone, window = gone_at(plain, now), plain.window
    elapsed, length = now - window.start_us, (window.end_us or 0) - window.start_us
    if elapsed == 0:
        return
    if gone is None:
        assert used * length <= 100 * USD * elapsed
        return
    assert now < gone < window.start_us + length
    assert (gone - window.start_us) * used >= 100 * USD * elapsed
    assert (gone - 1 - window.start_us) * used < 100 * USD * elapsed


def test_one_early_spike_is_no_habit() -> None:
    """A batch job on the first day is spent, and yet the month will do."""
    now = us(2026, 10, 5)
    month = budget(alerts=())
    spike = reading(50 * USD, now, month)
    assert kinds(due(spike, now)) == [("forecast", 0)]  # what a naive pace would say
    burst, calm = (Slice(8 * 3_600_000_000, used) for used in (47 * USD, USD // 4))
    assert due(replace(spike, slices=(burst, *[calm] * 11)), now) == []


@given(
    used=st.lists(st.integers(0, 20 * USD), min_size=12, max_size=12),
    now=st.integers(us(2026, 10, 4, 3), us(2026, 10, 31, 23)),
)
def test_slices_never_forecast_what_the_whole_pace_does_not(used: list[int], now: int) -> None:
    """So the counters alone tell of which budgets the slices need not be asked."""
    plain = reading(sum(used), now, budget(alerts=()))
    parts = slice_windows(plain.window, now)
    exact = replace(plain, slices=slices(parts, used, now))
    assert set(kinds(due(exact, now))) <= set(kinds(due(plain, now)))


@given(
    zone=st.sampled_from(ZONES),
    per=st.sampled_from(["day", "week", "month", "quarter"]),
    moment=st.datetimes(datetime(2024, 1, 1), datetime(2028, 12, 31)),
)
def test_slices_cover_the_elapsed_window(zone: str, per: str, moment: datetime) -> None:
    """Without gap or overlap, cut at full hours, none empty, at most twelve."""
    now = round(moment.replace(tzinfo=UTC).timestamp()) * 1_000_000
    window = window_at(per, zone, now)
    parts = slice_windows(window, now)
    if not parts:
        assert now - window.start_us < 3 * 3_600_000_000
        return
    assert len(parts) <= 12
    assert parts[0].start_us == window.start_us
    assert all(one.end_us == other.start_us for one, other in pairwise(parts))
    assert all(part.start_us % 3_600_000_000 == 0 for part in parts[1:])
    assert now <= (parts[-1].end_us or 0) <= (window.end_us or 0)
    lengths = [each.length_us for each in slices(parts, [0] * len(parts), now)]
    assert sum(lengths) == now - window.start_us
    assert all(length > 0 for length in lengths)


def test_no_forecast_before_there_is_a_pace() -> None:
    """Not in the first tenth of a window, nor in its first three hours, nor of what never turns."""
    early = us(2026, 10, 4)
    assert due(steady(40 * USD, early, budget(alerts=())), early) == []
    later = us(2026, 10, 4, 3)
    assert kinds(due(steady(40 * USD, later, budget(alerts=())), later)) == [("forecast", 0)]
    assert due(reading(90 * USD, later, budget(per="total", alerts=())), later) == []
    hour = budget(per="hour", alerts=())
    assert due(reading(90 * USD, later + 10**9, hour), later + 10**9) == []


def test_a_budget_that_just_lasts_is_no_news() -> None:
    """Gone within the last twentieth of its window: close enough to right."""
    now = us(2026, 10, 16)
    assert due(steady(50 * USD, now, budget(alerts=())), now) == []
    assert due(steady(60 * USD, now, budget(alerts=())), now) != []


def test_a_raise_that_ends_is_not_counted_on() -> None:
    """The forecast is of the day when the amount of that day is gone."""
    now, ends = us(2026, 10, 11), us(2026, 10, 16)
    raised = budget(alerts=(), raises=(Raise(1000 * USD, us(2026, 10, 2), ends),))
    # $8 a day: $120 on the 16th, when only $100 are left of the budget.
    assert gone_at(reading(80 * USD, now, raised), now) == ends
    # $5 a day: the raise does not matter, and $100 are gone on the 21st.
    assert gone_at(reading(50 * USD, now, raised), now) == us(2026, 10, 21)


def test_a_forecast_is_said_once_and_again_of_a_larger_amount() -> None:
    """A pace that wavers around the limit is one piece of news."""
    teller, month = Teller(), budget(alerts=())
    for day in (11, 12, 13):
        now = us(2026, 10, day)
        told = teller.look(reading((day - 1) * 5 * USD, now, month), now)
        assert told == ([("forecast", 0)] if day == 11 else [])
    raised = replace(month, amount=200 * USD)
    now = us(2026, 10, 14)
    assert teller.look(reading(65 * USD, now, raised), now) == []
    now = us(2026, 10, 15)
    assert teller.look(reading(120 * USD, now, raised), now) == [("forecast", 0)]


@pytest.mark.parametrize(
    ("zone", "now", "gone", "days"),
    [
        ("Europe/Berlin", (2026, 10, 12), (2026, 10, 17, 0, 30), 14),  # one day of 25 hours follows
        ("Pacific/Auckland", (2026, 9, 12), (2026, 9, 17, 23, 30), 13),  # one of 23 hours
    ],
)
def test_days_are_counted_by_the_calendar(
    zone: str, now: tuple[int, ...], gone: tuple[int, ...], days: int
) -> None:
    """A day on which clocks change is a day."""
    now_us, gone_us = us(*now, zone=zone), us(*gone, zone=zone)
    start_us = window_at("month", zone, now_us).start_us
    used = -(-100 * USD * (now_us - start_us) // (gone_us - start_us))
    [alert] = due(reading(used, now_us, budget(time_zone=zone, alerts=())), now_us)
    assert f"on the 17th, {days} days before" in alert.message
