"""Reads values of parsed JSON that may hold anything. Never raises; knows no API."""

from decimal import Decimal
from typing import Any, Final

import orjson

from ledger.money import MAX_NANOS, NANOS_PER_USD, round_nanos

MOST_TOKENS: Final = (
    2**40
)  # a hundred thousand full contexts; the cost of more could overflow the books
MAX_LABEL_CHARACTERS: Final = 256


def parse(data: bytes) -> Any:
    """The JSON value in `data`, None where it is not JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def mapping(value: object) -> dict[str, Any]:
    """`value` where it is a JSON object, else an empty one."""
    return value if type(value) is dict else {}


def sequence(value: object) -> list[Any]:
    """`value` where it is a JSON array, else an empty one."""
    return value if type(value) is list else []


def text(value: object) -> str:
    """`value` where it is a string, else an empty one."""
    return value if type(value) is str else ""


def label(value: object) -> str:
    """A name to keep: printable (the books take no NUL) and bounded, else empty."""
    if type(value) is str and len(value) <= MAX_LABEL_CHARACTERS and value.isprintable():
        return value
    return ""


def count(value: object) -> int | None:
    """A number of tokens; None for what is none: negative, fractional, absurd, a boolean."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int and 0 <= value <= MOST_TOKENS:
        return value
    return None


def utf8(value: str) -> int:
    """The size of a string in UTF-8."""
    return len(value) if value.isascii() else len(value.encode())


def usd_nanos(value: object) -> int | None:
    """Nanodollars of an amount that a provider states in dollars; None for what is none."""
    if type(value) not in (int, float, str) or len(str(value)) > 40:
        return None
    try:
        nanos = Decimal(str(value)) * NANOS_PER_USD
    except ArithmeticError:
        return None
    return round_nanos(nanos) if nanos.is_finite() and 0 <= nanos <= MAX_NANOS else None
