"""What a person types: read exactly, or refused with what can be typed instead."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.budgets import UNITS
from ledger.cli import arguments
from ledger.cli.arguments import InputError
from ledger.money import MAX_NANOS, NANOS_PER_USD
from ledger.reports import amount_text, selector_text, usd_text

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
amounts = st.integers(1, MAX_NANOS)
names = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
values = st.text(
    st.characters(exclude_categories=["C", "Z", "M"], exclude_characters="\\"), min_size=1
)


@given(st.sampled_from(UNITS), amounts)
def test_an_amount_reads_back_as_it_is_shown(unit: str, number: int) -> None:
    """No digit is lost on the way to a person and back."""
    assert arguments.amount(amount_text(unit, number)) == (unit, number)


@given(amounts)
def test_dollars_read_back_as_they_are_shown(nanos: int) -> None:
    """A lifetime limit is exact to the nanodollar, and its text never has an exponent."""
    assert arguments.usd(usd_text(nanos)) == nanos


@pytest.mark.parametrize(
    ("text", "unit", "number"),
    [
        ("500usd", "usd", 500 * NANOS_PER_USD),
        ("0.10 USD", "usd", 100_000_000),
        ("2Mtok", "tokens", 2_000_000),
        ("100ktok", "tokens", 100_000),
        ("0.5ktok", "tokens", 500),
        ("1tok", "tokens", 1),
        ("3btok", "tokens", 3_000_000_000),
        ("60calls", "calls", 60),
        ("8 parallel", "parallel", 8),
    ],
)
def test_reads_amounts(text: str, unit: str, number: int) -> None:
    """Dollars become nanodollars; k, M and B are thousands, millions and billions of tokens."""
    assert arguments.amount(text) == (unit, number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "usd",
        "-5usd",
        "1,000usd",
        "5 dollars",
        "0usd",
        "0.4tok",
        "1.5calls",
        "1e3usd",
        "nan usd",
        "9223372037usd",
        "9" * 30 + "usd",
        "0.0000000001usd",
        "٣usd",
        "5usd\n6usd",
        "1_0usd",
    ],
)
def test_refuses_other_amounts(text: str) -> None:
    """Nothing is guessed and nothing is rounded."""
    with pytest.raises(InputError, match=r"\.$"):
        arguments.amount(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text ends in another error than the one that says what is wrong."""
    readers = (arguments.amount, arguments.usd, arguments.duration, arguments.alerts)
    for read in (*readers, arguments.credit):
        with suppress(InputError):
            read(text)
    for at in (arguments.moment, arguments.expiry):
        with suppress(InputError):
            assert at(text, NOW).tzinfo is not None


@given(st.dictionaries(names, values, max_size=4))
def test_a_selector_reads_back_as_it_is_shown(where: dict[str, str]) -> None:
    """Commas inside values survive, and the order does not matter."""
    chosen = arguments.selector([selector_text(where.items())], list(where))
    again = arguments.selector([selector_text(chosen)], list(where))
    assert again == chosen
    assert dict(chosen).keys() == where.keys()


def test_a_selector_may_be_given_in_parts() -> None:
    """`--where a=1,b=2` and `--where a=1 --where b=2` are the same."""
    allowed = ("team", "agent")
    whole = arguments.selector(["team=risk,agent=triage"], allowed)
    assert whole == (("agent", "triage"), ("team", "risk"))
    assert arguments.selector(["agent=triage", "team=risk"], allowed) == whole
    assert arguments.selector(["team=Ops\\, EU"], allowed) == (("team", "Ops, EU"),)
    assert arguments.selector(["all"], allowed) == ()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("taem=risk", "allowed are team, agent"),
        ("team", "name=value"),
        ("team=", "name=value"),
        ("=risk", "name=value"),
        ("team=a,team=b", "twice"),
        ("team=risk,", "name=value"),
        ("team=a\0b", "name=value"),
        ("", "name=value"),
    ],
)
def test_refuses_other_selectors(where: str, says: str) -> None:
    """A budget that would match nothing, or something else, is not set."""
    with pytest.raises(InputError, match=says):
        arguments.selector([where], ("team", "agent"))


@pytest.mark.parametrize("text", ["100usd", "$100", "100", "100.00"])
def test_credit_is_dollars(text: str) -> None:
    """With or without their unit; an amount of tokens is none."""
    assert arguments.credit(text) == 100 * NANOS_PER_USD
    for wrong in ("0", "5tok", "-5", "five"):
        with pytest.raises(InputError, match=r"\.$"):
            arguments.credit(wrong)


@pytest.mark.parametrize(
    ("text", "zone", "end"),
    [
        ("2026-11-30", "UTC", datetime(2026, 11, 30, tzinfo=UTC)),
        ("2026-11-30", "Europe/Berlin", datetime(2026, 11, 29, 23, tzinfo=UTC)),
        ("2026-06-30T18:00", "Europe/Berlin", datetime(2026, 6, 30, 16, tzinfo=UTC)),
        ("2026-11-30T18:00Z", "Europe/Berlin", datetime(2026, 11, 30, 18, tzinfo=UTC)),
        ("7d", "Europe/Berlin", NOW + timedelta(days=7)),
    ],
)
def test_a_raise_ends_by_the_clock_of_its_budget(text: str, zone: str, end: datetime) -> None:
    """A date is its first instant where the budget's days begin."""
    assert arguments.until(text, NOW, zone) == end


@pytest.mark.parametrize("text", ["", "soon", "0d", "2026-03-01", "2026-13-01", "0001-01-01"])
def test_refuses_other_ends(text: str) -> None:
    """What has passed would raise nothing."""
    with pytest.raises(InputError, match=r"\.$"):
        arguments.until(text, NOW, "Asia/Tokyo")


def test_dimensions_are_taken_in_order_and_once() -> None:
    """The columns of a report are those asked for."""
    allowed = ("team", "agent", "day")
    assert arguments.dimensions(["day,team", "day"], allowed) == ("day", "team")
    with pytest.raises(InputError, match="allowed are team, agent, day"):
        arguments.dimensions(["teams"], allowed)
    with pytest.raises(InputError, match="names no dimension"):
        arguments.dimensions([" , "], allowed)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1h", NOW - timedelta(hours=1)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_reads_moments(text: str, moment: datetime) -> None:
    """How long ago, a date, or a time; UTC where nothing else is said."""
    assert arguments.moment(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["yesterday", "", "7", "d", "-1d", "1.5h", "2026-13-01", "9" * 13 + "d"]
)
def test_refuses_other_moments(text: str) -> None:
    """The sentence shows the forms that are read."""
    with pytest.raises(InputError, match="2026-01-31"):
        arguments.moment(text, NOW)


def test_an_expiry_lies_ahead() -> None:
    """A key that is born expired is a mistake."""
    assert arguments.expiry("90d", NOW) == NOW + timedelta(days=90)
    assert arguments.expiry("2027-01-01", NOW) == datetime(2027, 1, 1, tzinfo=UTC)
    for text in ("0d", "2026-03-01", "1999-01-01"):
        with pytest.raises(InputError, match="future"):
            arguments.expiry(text, NOW)


def test_alerts_rise_and_are_percentages() -> None:
    """Given in any order; `none` takes them all away."""
    assert arguments.alerts("100, 50%,80,50") == (50, 80, 100)
    assert arguments.alerts("none") == ()
    for text in ("", "0", "101", "half", "50,", ",".join(map(str, range(1, 12)))):
        with pytest.raises(InputError, match="--alert"):
            arguments.alerts(text)


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "", "localtime", "../../etc/passwd", "europe/berlin"]
)
def test_refuses_unknown_time_zones(name: str) -> None:
    """A zone is one that every machine knows by the same name."""
    assert arguments.time_zone("Europe/Berlin") == "Europe/Berlin"
    with pytest.raises(InputError, match="time zone"):
        arguments.time_zone(name)


@pytest.mark.parametrize(
    ("text", "nanos"), [("0.01usd", 10_000_000), ("$2", 2 * 10**9), ("0", 0), ("1000000", 10**15)]
)
def test_a_price_is_dollars_and_may_be_zero(text: str, nanos: int) -> None:
    """What is free on purpose says so."""
    assert arguments.price(text) == nanos


@pytest.mark.parametrize("text", ["", "free", "-1", "1e3", "0.0000000001", "1000000.01", "5 eur"])
def test_refuses_other_prices(text: str) -> None:
    """With a sentence that says what can be written."""
    with pytest.raises(arguments.InputError, match=r"[.]$"):
        arguments.price(text)
