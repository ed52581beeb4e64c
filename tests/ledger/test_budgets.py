"""Windows tile the time line by the calendar of their zone; selectors and documents."""

import json
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.budgets import (
    ON_EXCEED,
    PERIODS,
    TOTAL,
    UNITS,
    Budget,
    Window,
    from_document,
    matches,
    to_document,
    window_at,
)

ZONES: Final = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",  # its clocks changed at midnight
    "America/Havana",
    "Africa/Cairo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Pacific/Apia",  # had no 30 December 2011
    "Pacific/Auckland",
)
TURNING: Final = tuple(period for period in PERIODS if period != TOTAL)
HOUR_US: Final = 3_600_000_000

instants = st.integers(0, 4_102_444_800_000_000 - 1)  # 1970 to 2099
edges = st.sampled_from(
    [
        "2026-03-08T07:00:00",  # New York springs forward
        "2026-11-01T06:00:00",  # and falls back
        "2026-03-29T01:00:00",  # Berlin springs forward
        "2026-10-25T01:00:00",  # and falls back
        "2011-12-30T10:00:00",  # Apia skips a day
        "2018-11-04T03:00:00",  # Sao Paulo springs forward at midnight
        "2018-02-18T02:00:00",  # and falls back at midnight
        "2024-02-29T00:00:00",
        "2025-12-31T23:00:00",
    ]
)


def at(text: str) -> int:
    """Microseconds since the epoch of an ISO instant; UTC where it names no offset."""
    instant = datetime.fromisoformat(text)
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return round(instant.timestamp() * 1_000_000)


near_edges = st.builds(
    lambda text, offset: at(text) + offset, edges, st.integers(-26 * HOUR_US, 26 * HOUR_US)
)


@given(
    st.sampled_from(TURNING),
    st.sampled_from(ZONES),
    st.one_of(instants, near_edges),
    st.floats(0, 1, exclude_max=True),
)
def test_windows_tile_the_time_line(per: str, zone: str, at_us: int, within: float) -> None:
    """Each instant is in one window, on which all of its instants agree; the next follows."""
    window = window_at(per, zone, at_us)
    assert window.end_us is not None
    assert window.start_us <= at_us < window.end_us
    length = window.end_us - window.start_us
    assert window_at(per, zone, window.start_us) == window
    assert window_at(per, zone, window.end_us - 1) == window
    assert window_at(per, zone, window.start_us + int(length * within)) == window
    following = window_at(per, zone, window.end_us)
    assert following.start_us == window.end_us
    assert following.name > window.name


@given(st.sampled_from(ZONES), instants)
def test_total_never_turns(zone: str, at_us: int) -> None:
    """A lifetime budget has one window for all time."""
    assert window_at(TOTAL, zone, at_us) == Window("total", 0, None)


@pytest.mark.parametrize(
    ("per", "zone", "instant", "name", "start", "end"),
    [
        (
            "minute",
            "UTC",
            "2026-11-20T12:34:56.789",
            "2026-11-20T12:34Z",
            "2026-11-20T12:34:00",
            60,
        ),
        ("hour", "UTC", "2026-11-20T12:34:56", "2026-11-20T12:00Z", "2026-11-20T12:00:00", 3600),
        (
            "hour",
            "Asia/Kolkata",
            "2026-11-20T12:34:56",
            "2026-11-20T12:30Z",
            "2026-11-20T12:30:00",
            3600,
        ),
        ("day", "UTC", "2026-11-20T23:59:59", "2026-11-20", "2026-11-20T00:00:00", 86_400),
        (
            "day",
            "America/New_York",
            "2026-11-20T03:00:00",
            "2026-11-19",
            "2026-11-19T05:00:00",
            86_400,
        ),
        ("week", "UTC", "2027-01-03T23:59:59", "2026-12-28", "2026-12-28T00:00:00", 7 * 86_400),
        ("month", "UTC", "2028-02-29T12:00:00", "2028-02-01", "2028-02-01T00:00:00", 29 * 86_400),
        ("month", "UTC", "2027-02-28T12:00:00", "2027-02-01", "2027-02-01T00:00:00", 28 * 86_400),
        ("month", "UTC", "2026-12-31T23:59:59", "2026-12-01", "2026-12-01T00:00:00", 31 * 86_400),
        (
            "month",
            "Europe/Berlin",
            "2026-11-30T23:00:00",
            "2026-12-01",
            "2026-11-30T23:00:00",
            31 * 86_400,
        ),
        ("quarter", "UTC", "2026-12-31T12:00:00", "2026-10-01", "2026-10-01T00:00:00", 92 * 86_400),
        ("quarter", "UTC", "2028-01-01T00:00:00", "2028-01-01", "2028-01-01T00:00:00", 91 * 86_400),
    ],
)
def test_windows_follow_the_calendar(
    per: str, zone: str, instant: str, name: str, start: str, end: int
) -> None:
    """Month ends, leap days, ISO weeks over new year, quarters, zones east and west."""
    assert window_at(per, zone, at(instant)) == Window(name, at(start), at(start) + end * 1_000_000)


@pytest.mark.parametrize(
    ("zone", "instant", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00:00+02:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00:00+01:00", 25),
        ("America/New_York", "2026-03-08T12:00:00-04:00", 23),
        ("America/New_York", "2026-11-01T12:00:00-05:00", 25),
        ("Europe/Berlin", "2026-10-24T12:00:00+02:00", 24),
    ],
)
def test_a_day_has_23_or_25_hours_when_clocks_change(zone: str, instant: str, hours: int) -> None:
    """A daily budget turns at local midnight, before and after the change."""
    window = window_at("day", zone, at(instant))
    assert window.end_us is not None
    assert window.end_us - window.start_us == hours * HOUR_US


def test_a_repeated_hour_is_two_windows() -> None:
    """02:30 happens twice in Berlin when summer ends, and each has its own hour."""
    first = window_at("hour", "Europe/Berlin", at("2026-10-25T02:30:00+02:00"))
    second = window_at("hour", "Europe/Berlin", at("2026-10-25T02:30:00+01:00"))
    assert first.end_us == second.start_us
    assert first.name != second.name


labels = st.dictionaries(st.sampled_from(["team", "agent", "owner", "env"]), st.text(max_size=3))


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    whole = st.integers(0, 2**63 - 1)
    return Budget(
        budget_id=draw(st.text()),
        name=draw(st.text()),
        where=tuple(draw(labels).items()),
        unit=draw(st.sampled_from(UNITS)),
        amount=draw(whole),
        per=draw(st.sampled_from(PERIODS)),
        time_zone=draw(st.sampled_from(ZONES)),
        on_exceed=draw(st.sampled_from(ON_EXCEED)),
        alerts=tuple(draw(st.lists(st.integers(1, 100)))),
        limit_source=draw(st.sampled_from(["budget", "key"])),
        counts_from=draw(whole),
        version=draw(whole),
    )


@given(budgets())
def test_document_round_trip(budget: Budget) -> None:
    """A budget survives being published as JSON, next to fields that a newer ledger may add."""
    document = json.loads(json.dumps(to_document(budget) | {"added_later": [1]}))
    assert from_document(document) == budget


def test_document_needs_only_what_has_no_default() -> None:
    """An older ledger's document, without later fields, is read with their defaults."""
    document = {
        "budget_id": "b",
        "name": "n",
        "where": [["team", "risk"]],
        "unit": "usd",
        "amount": 5,
        "per": "month",
    }
    budget = from_document(document)
    assert budget.where == (("team", "risk"),)
    assert (budget.time_zone, budget.on_exceed, budget.alerts) == ("UTC", "block", ())


@given(budgets(), labels)
def test_matches_when_every_named_label_agrees(budget: Budget, labels: dict[str, str]) -> None:
    """A selector picks calls that carry each of its labels, whatever else they carry."""
    assert matches(budget, labels) == (dict(budget.where).items() <= labels.items())
    assert matches(budget, labels | dict(budget.where))


def test_an_absent_label_is_not_an_empty_one() -> None:
    """A selector for an empty value does not pick calls without that label."""
    budget = from_document(
        {
            "budget_id": "b",
            "name": "n",
            "where": [["customer", ""]],
            "unit": "usd",
            "amount": 5,
            "per": "month",
        }
    )
    assert matches(budget, {"customer": ""})
    assert not matches(budget, {})
