"""Which alerts a budget calls for, and what each says. Knows no clock, no store and no endpoint.

The kinds, and when each holds of a budget in one window:

- `threshold`: the percentage was used. 100 % is `exhausted` instead.
- `exhausted`: all of it was used, or nine tenths of it and calls are refused since: a hard budget
  ends just below its amount, and a large call that does not fit into the half that is left has not
  exhausted it. Windows of a minute or an hour are rate limits, which are meant to be reached: these
  say so only where 100 is among the budget's alerts.
- `forecast`: at its pace it is gone before its window turns, by more than a twentieth of it. Not
  said of a minute or an hour, nor before a tenth of the window and three hours have passed. The
  pace is linear over the part of the window that has passed, of which the busiest of up to twelve
  slices is left out: what was spent in one spike is gone, but it is no habit.
- `overrun`: a provider billed above what was held, at all, and above 1 % and 10 % of the budget.
- `low_balance`: of prepaid credit, less is left than its `alert_below`.

Each is said once per budget, window, kind and threshold. It is said again only where it was untrue
meanwhile because the budget had been raised (or the credit topped up), and it holds again of a
larger amount than before. The end of a one-off raise therefore repeats nothing. What a change of
the budget makes true at once, such as a lower amount, is said like anything else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from ledger.budgets import Budget, Window, limit_at, window_at
from ledger.money import usd_from_nanos

KINDS: Final = ("threshold", "exhausted", "forecast", "overrun", "low_balance")
SPENT_REFUSALS: Final = ("budget_spent", "key_limit_spent", "credit_spent", "rate_limited")
"""Codes of refusals that say that the limit is used up."""
NEAR_END: Final = Fraction(9, 10)
OVERRUN_STEPS: Final = (0, 1, 10)
MAX_SLICES: Final = 12
MIN_SLICES: Final = 3  # of an hour or more
MARGIN: Final = 20
"""A forecast is news where the budget is gone by more than this part of its window too early."""
_SHORT: Final = ("minute", "hour")
_HOUR_US: Final = 3_600_000_000
_LATE_US: Final = {"minute": 60_000_000, "hour": 60_000_000}
_MOST_LATE_US: Final = 600_000_000
_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Slice(NamedTuple):
    """A part of the elapsed window: how long it was, and what was used in it."""

    length_us: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A budget in one window, as its counter or the books say.

    `refusing`: calls were refused because it is spent, at its present amount. `slices` are those of
    `slice_windows`; without them the pace is that of the whole elapsed window, and a forecast that
    does not hold of it holds of no slices either.
    """

    budget: Budget
    window: Window
    used: int
    refusing: bool = False
    overrun: int = 0
    slices: tuple[Slice, ...] = ()
    alert_below: int | None = None


class Said(NamedTuple):
    """An alert on record. `cleared`: a raise had made it untrue again."""

    kind: str
    threshold: int
    amount: int
    cleared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What is to be said. `threshold` is a percentage, and nanodollars in `low_balance`."""

    kind: str
    threshold: int
    amount: int
    used: int
    message: str
    gone_us: int | None = None
    overrun: int = 0


def due(reading: Reading, now_us: int, said: Iterable[Said] = ()) -> list[Alert]:
    """The alerts that hold and were not said yet."""
    before: dict[tuple[str, int], list[Said]] = {}
    for each in said:
        before.setdefault((each.kind, each.threshold), []).append(each)
    return [
        alert
        for alert in holding(reading, now_us)
        if all(
            _is_news(reading, alert, old) for old in before.get((alert.kind, alert.threshold), ())
        )
    ]


def holding(reading: Reading, now_us: int) -> list[Alert]:
    """Every alert that is true of the budget, said or not."""
    at_us = _within(reading.window, now_us)
    amount = limit_at(reading.budget, at_us)
    if amount <= 0:
        return []
    found = [*_by_use(reading, amount), *_forecast(reading, amount, at_us)]
    return [*found, *_overruns(reading, amount), *_low_balance(reading, amount)]


def clears(reading: Reading, now_us: int, said: Said) -> bool:
    """Whether a raise has made untrue what was said, so that it may be said again."""
    at_us = _within(reading.window, now_us)
    amount, used = limit_at(reading.budget, at_us), reading.used
    if said.cleared or amount <= said.amount:
        return False
    if said.kind == "threshold":
        return used * 100 < said.threshold * amount
    if said.kind == "exhausted":
        return used < NEAR_END * amount
    if said.kind == "forecast":
        return gone_at(reading, at_us) is None and used < amount
    return said.kind == "low_balance" and amount - used >= said.threshold


def is_watched(budget: Budget) -> bool:
    """Whether anything may ever be said of the budget: not of a key's rates."""
    return budget.unit != "parallel" and budget.limit_source != "rate"


def windows_of(budget: Budget, now_us: int) -> tuple[Window, ...]:
    """The window that is open, and the one before while its last calls may still arrive."""
    present = window_at(budget.per, budget.time_zone, now_us)
    late_us = now_us - _LATE_US.get(budget.per, _MOST_LATE_US)
    before = window_at(budget.per, budget.time_zone, late_us)
    return (present,) if before == present else (present, before)


def slice_windows(window: Window, now_us: int) -> list[Window]:
    """The elapsed part of a window cut at full hours into up to twelve; none where it is too short.

    The last one goes on to the end of the hour: nothing is used in the future, and whole hours are
    what the books add up fast.
    """
    elapsed_us = now_us - window.start_us
    number = min(MAX_SLICES, elapsed_us // _HOUR_US)
    if window.end_us is None or number < MIN_SLICES:
        return []
    edges = [window.start_us + elapsed_us * each // number for each in range(number)]
    edges = [edges[0], *(edge // _HOUR_US * _HOUR_US for edge in edges[1:])]
    last = min(window.end_us, -(-(now_us + 1) // _HOUR_US) * _HOUR_US)
    ends = [*edges[1:], last]
    return [Window("slice", *ends) for ends in zip(edges, ends, strict=True)]


def slices(windows: Sequence[Window], used: Sequence[int], now_us: int) -> tuple[Slice, ...]:
    """The slices of these windows; the last one is as long as it has lasted."""
    return tuple(
        Slice(min(window.end_us or now_us, now_us) - window.start_us, amount)
        for window, amount in zip(windows, used, strict=True)
    )


def gone_at(reading: Reading, now_us: int) -> int | None:
    """When nothing will be left, at the pace so far; None: not before the window turns, or already.

    A raise that ends before then is not counted on any longer.
    """
    budget, window = reading.budget, reading.window
    if window.end_us is None or reading.used >= limit_at(budget, now_us):
        return None
    pace = _pace(reading, now_us)
    if pace <= 0:
        return None
    turns = {moment for each in budget.raises for moment in (each.from_us, each.until_us)}
    edges = [
        now_us,
        *sorted(turn for turn in turns if now_us < turn < window.end_us),
        window.end_us,
    ]
    for start_us, end_us in pairwise(edges):
        left = limit_at(budget, start_us) - reading.used
        gone_us = max(start_us, now_us - (-left // pace))
        if gone_us < end_us:
            return gone_us
    return None


def _is_news(reading: Reading, alert: Alert, said: Said) -> bool:
    topped_up = reading.budget.limit_source == "wallet"
    return said.cleared and (topped_up or alert.amount > said.amount)


def _within(window: Window, now_us: int) -> int:
    """A window that has turned is judged as it was at its end."""
    return now_us if window.end_us is None else min(now_us, window.end_us - 1)


def _by_use(reading: Reading, amount: int) -> list[Alert]:
    budget, used = reading.budget, reading.used
    reached = [p for p in budget.alerts if p != 100 and used * 100 >= p * amount]
    found = [
        _alert(reading, "threshold", p, amount, _says_used(budget, used, amount)) for p in reached
    ]
    told = budget.per not in _SHORT or 100 in budget.alerts
    spent = used >= amount or (reading.refusing and used >= NEAR_END * amount)
    if told and spent:
        found.append(_alert(reading, "exhausted", 100, amount, _says_spent(reading, amount)))
    return found


def _forecast(reading: Reading, amount: int, at_us: int) -> list[Alert]:
    window = reading.window
    if window.end_us is None or reading.budget.per in _SHORT:
        return []
    length_us, elapsed_us = window.end_us - window.start_us, at_us - window.start_us
    if elapsed_us * 10 < length_us or elapsed_us < MIN_SLICES * _HOUR_US:
        return []
    gone_us = gone_at(reading, at_us)
    if gone_us is None or (window.end_us - gone_us) * MARGIN <= length_us:
        return []
    says = _says_gone(reading, amount, gone_us)
    return [_alert(reading, "forecast", 0, amount, says, gone_us)]


def _overruns(reading: Reading, amount: int) -> list[Alert]:
    budget, overrun = reading.budget, reading.overrun
    if budget.unit != "usd" or overrun <= 0:
        return []
    says = (
        f"Providers billed {shown('usd', overrun)} more than was held for their calls on the "
        f"{_name(budget)} ({shown('usd', amount)})."
    )
    steps = [step for step in OVERRUN_STEPS if overrun * 100 >= step * amount]
    return [_alert(reading, "overrun", step, amount, says) for step in steps]


def _low_balance(reading: Reading, amount: int) -> list[Alert]:
    budget, least = reading.budget, reading.alert_below
    left = amount - reading.used
    if budget.limit_source != "wallet" or least is None or left >= least:
        return []
    says = (
        f"The {_name(budget)} has {shown(budget.unit, max(left, 0))} left, less than "
        f"{shown(budget.unit, least)}; top it up."
    )
    return [_alert(reading, "low_balance", least, amount, says)]


def _pace(reading: Reading, now_us: int) -> Fraction:
    """What is used in a microsecond, without the busiest slice."""
    if not reading.slices:
        return Fraction(reading.used, max(1, now_us - reading.window.start_us))
    known = [each for each in reading.slices if each.length_us > 0]
    busiest = max(known, key=lambda each: Fraction(each.used, each.length_us))
    lasted = sum(each.length_us for each in known) - busiest.length_us
    return Fraction(sum(each.used for each in known) - busiest.used, max(1, lasted))


def _alert(
    reading: Reading,
    kind: str,
    threshold: int,
    amount: int,
    message: str,
    gone_us: int | None = None,
) -> Alert:
    overrun = reading.overrun if kind == "overrun" else 0
    return Alert(
        kind=kind,
        threshold=threshold,
        amount=amount,
        used=reading.used,
        message=message,
        gone_us=gone_us,
        overrun=overrun,
    )


def shown(unit: str, amount: int) -> str:
    """An amount of a budget as a person reads it."""
    if unit == "usd":
        places = 2 if abs(amount) >= 10_000_000 or not amount else 6
        whole, _, decimals = usd_from_nanos(abs(amount), places).partition(".")
        return f"{'-' if amount < 0 else ''}${int(whole):,}.{decimals}"
    return f"{amount:,} {unit}"


def _name(budget: Budget) -> str:
    return f"{'prepaid credit' if budget.limit_source == 'wallet' else 'budget'} '{budget.name}'"


def _says_used(budget: Budget, used: int, amount: int) -> str:
    """A sentence with the percentage that is really used, which may be far above the threshold."""
    when = "" if budget.per == "total" else f" this {budget.per}"
    return (
        f"{used * 100 // amount}% of the {_name(budget)} is used{when}: "
        f"{shown(budget.unit, used)} of {shown(budget.unit, amount)}."
    )


_CONSEQUENCES: Final = {
    "shadow": "It only reports: calls go on",
    "suspend": "Keys that still call are suspended",
}


def _says_spent(reading: Reading, amount: int) -> str:
    budget, window = reading.budget, reading.window
    what = _CONSEQUENCES.get(budget.on_exceed, "Calls that do not fit are refused")
    until = "until it is topped up" if budget.limit_source == "wallet" else "until it is raised"
    if window.end_us is not None:
        until = f"until {_local(window.end_us, budget):%Y-%m-%d %H:%M} ({budget.time_zone})"
    if budget.on_exceed == "suspend":
        until = "until somebody resumes them"
    return (
        f"The {_name(budget)} is spent: {shown(budget.unit, reading.used)} of "
        f"{shown(budget.unit, amount)}. {what} {until}."
    )


def _says_gone(reading: Reading, amount: int, gone_us: int) -> str:
    budget = reading.budget
    gone, end = _local(gone_us, budget), _local(reading.window.end_us or 0, budget)
    when = {
        "day": f"at {gone:%H:%M}",
        "week": f"on {gone:%A}",
        "month": f"on the {_ordinal(gone.day)}",
    }.get(budget.per, f"on {gone.day} {gone:%B}")
    # By the calendar of its zone: a day on which clocks change is a day.
    early = end.replace(tzinfo=None) - gone.replace(tzinfo=None)
    number, unit = (early.days, "day") if early.days else (early // timedelta(hours=1), "hour")
    return (
        f"At this pace the {_name(budget)} is gone {when}, {number} {unit}{'s' * (number != 1)} "
        f"before its window turns: {shown(budget.unit, reading.used)} of "
        f"{shown(budget.unit, amount)} are used."
    )


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 <= number % 100 <= 20 else endings.get(number % 10, 'th')}"


def _local(at_us: int, budget: Budget) -> datetime:
    moment = _UNIX_EPOCH + timedelta(microseconds=at_us)
    return moment.astimezone(ZoneInfo(budget.time_zone))
