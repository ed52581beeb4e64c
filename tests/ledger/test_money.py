"""The one rounding, and dollars in and out of text."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.money import MAX_NANOS, NANOS_PER_USD, nanos_from_usd, round_nanos, usd_from_nanos

books = st.integers(-MAX_NANOS, MAX_NANOS)


@pytest.mark.parametrize(
    ("amount", "rounded"),
    [("0.5", 0), ("1.5", 2), ("2.5", 2), ("2.500001", 3), ("-0.5", 0), ("-1.5", -2), ("7", 7)],
)
def test_rounds_half_to_even(amount: str, rounded: int) -> None:
    """A tie goes to the even neighbour, so that sums of many ties do not drift."""
    assert round_nanos(Decimal(amount)) == rounded


@given(st.integers(-(10**40), 10**40), st.integers(0, 9))
def test_rounding_is_exact_for_any_size(whole: int, tenths: int) -> None:
    """No size of amount loses a digit, and the result is never more than a half away."""
    amount = Decimal(f"{whole}.{tenths}")
    rounded = Decimal(round_nanos(amount))
    assert abs(int(rounded) - whole) <= 1
    assert rounded == whole or tenths >= 5


@given(books)
def test_text_round_trip(nanos: int) -> None:
    """What is printed with all nine places reads back as the same number."""
    assert nanos_from_usd(usd_from_nanos(nanos)) == nanos


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0.10", 100_000_000),
        ("12.50", 12_500_000_000),
        ("1e3", 1000 * NANOS_PER_USD),
        ("0.000000001", 1),
        ("-3", -3 * NANOS_PER_USD),
        ("9223372036.854775807", MAX_NANOS),
    ],
)
def test_reads_decimal_dollars(text: str, nanos: int) -> None:
    """Decimal text is read exactly; a dime is a dime."""
    assert nanos_from_usd(text) == nanos


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not an amount"),
        ("ten", "not an amount"),
        ("5 usd", "not an amount"),
        ("nan", "not an amount"),
        ("sNaN", "not an amount"),
        ("-inf", "not an amount"),
        ("0.0000000001", "finer than a nanodollar"),
        ("9223372036.854775808", "more than the books can hold"),
        ("1e30", "more than the books can hold"),
    ],
)
def test_refuses_what_is_not_money(text: str, says: str) -> None:
    """A sentence that quotes the text says what is wrong with it."""
    with pytest.raises(ValueError, match=says) as refused:
        nanos_from_usd(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", ["1e999999", "1e99999999999", "1." + "0" * 40 + "1"])
def test_refuses_amounts_beyond_the_default_precision(text: str) -> None:
    """A huge exponent is a ValueError too, and a 40th decimal place is not dropped silently."""
    with pytest.raises(ValueError, match=r"finer|more than"):
        nanos_from_usd(text)


@pytest.mark.parametrize(
    ("nanos", "places", "text"),
    [
        (1_500_000_000, 9, "1.500000000"),
        (5_000_000, 2, "0.00"),
        (15_000_000, 2, "0.02"),
        (-2_005_000_001, 2, "-2.01"),
        (MAX_NANOS, 9, "9223372036.854775807"),
        (0, 2, "0.00"),
    ],
)
def test_prints_dollars(nanos: int, places: int, text: str) -> None:
    """A fixed number of places, half to even, no unit."""
    assert usd_from_nanos(nanos, places) == text


@given(books)
def test_prints_plain_digits(nanos: int) -> None:
    """Never in scientific notation, however small the amount: other programs read these columns."""
    assert "E" not in usd_from_nanos(nanos)
