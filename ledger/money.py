"""Money as integer nanodollars: the one rounding, parsing and printing. Knows no currency but the
dollar.
"""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

NANOS_PER_USD = 1_000_000_000
_MAX_DIGITS = 10  # of whole dollars, more than MAX_NANOS has
_NANO = Decimal(1).scaleb(-9)
MAX_NANOS = 2**63 - 1  # PostgreSQL's bigint and Redis' counters


def round_nanos(amount: Decimal) -> int:
    """Nanodollars, half to even. The only place where money is rounded."""
    return int(amount.to_integral_value(rounding=ROUND_HALF_EVEN))


def nanos_from_usd(text: str) -> int:
    """Nanodollars from a number of dollars such as `0.10`; ValueError says what is wrong."""
    try:
        usd = Decimal(text)
    except InvalidOperation:
        usd = Decimal("nan")
    if not usd.is_finite():
        raise ValueError(f"{text!r} is not an amount of dollars; write a number such as 12.50.")
    if usd.adjusted() > _MAX_DIGITS:
        raise ValueError(f"{text!r} is more than the books can hold (about 9.2 billion dollars).")
    exponent = usd.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -9 and usd != usd.quantize(_NANO):
        raise ValueError(f"{text!r} is finer than a nanodollar; use at most nine decimal places.")
    nanos = int(usd.scaleb(9))
    if abs(nanos) > MAX_NANOS:
        raise ValueError(f"{text!r} is more than the books can hold (about 9.2 billion dollars).")
    return nanos


def usd_from_nanos(nanos: int, places: int = 9) -> str:
    """Dollars with `places` decimals and no unit, rounded half to even: 1_500_000_000 ->
    `1.500000000`.
    """
    step = Decimal(1).scaleb(-places)
    usd = (Decimal(nanos) / NANOS_PER_USD).quantize(step, rounding=ROUND_HALF_EVEN)
    return format(usd, "f")
