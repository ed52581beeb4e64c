"""What a person types, turned into values or into one sentence. Knows no database and no clock."""

import re
import unicodedata
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from ledger.money import MAX_NANOS, NANOS_PER_USD, nanos_from_usd, round_nanos

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_UNITS: Final = {
    "usd": ("usd", NANOS_PER_USD),
    **{f"{prefix}tok": ("tokens", 1000**power) for power, prefix in enumerate(("", *"kmb"))},
    "calls": ("calls", 1),
    "parallel": ("parallel", 1),
}
_MAX_SECONDS: Final = 100 * _SECONDS["y"]
_MAX_ALERTS: Final = 10
_MAX_COUNT: Final = 10**12
_MAX_PRICE_USD: Final = 1_000_000
_EVERYTHING: Final = "all"
_AMOUNT: Final = re.compile(r"(\d{1,30}(?:\.\d{1,12})?)\s*([a-z]+)", re.ASCII | re.IGNORECASE)
_USD: Final = re.compile(r"\$?\s*(\d{1,30}(?:\.\d{1,30})?)\s*(?:usd)?", re.ASCII | re.IGNORECASE)


class InputError(ValueError):
    """What was typed cannot be used; the message is one sentence that says what can."""


def duration(text: str) -> timedelta:
    """A length of time such as `90d`: a whole number and one of s, m, h, d, w, y (365 days)."""
    found = re.fullmatch(r"(\d{1,12})([smhdwy])", text.strip(), re.ASCII)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else -1
    if not 0 <= seconds <= _MAX_SECONDS:
        raise InputError(
            f"{text!r} is not a length of time; write a whole number and s, m, h, d, w or y,"
            " such as 90d (at most 100y)."
        )
    return timedelta(seconds=seconds)


def moment(text: str, now: datetime) -> datetime:
    """`7d` is that long before `now`; a date or an ISO-8601 time is itself, in UTC by default."""
    try:
        return now - duration(text)
    except InputError:
        pass
    try:
        parsed = datetime.fromisoformat(text.strip())
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InputError(
            f"{text!r} is not a time; write how long ago (15m, 24h, 7d, 4w), a date (2026-01-31)"
            " or a time (2026-01-31T12:00:00Z)."
        ) from None


def expiry(text: str, now: datetime) -> datetime:
    """`90d` is that long after `now`; a date is its first instant in UTC. It must lie ahead."""
    try:
        ends = now + duration(text)
    except InputError:
        try:
            ends = moment(text, now)
        except InputError:
            raise InputError(
                f"{text!r} is not an expiry; write a length of time (90d, 12h, 1y) or a date"
                " (2027-01-31)."
            ) from None
    if ends <= now:
        raise InputError(f"The expiry {text!r} does not lie in the future; write one that does.")
    return ends


def until(text: str, now: datetime, zone: str) -> datetime:
    """When a raise ends: `7d` is that long after `now`; a date is its first instant in `zone`, and
    so is a time that names no other. It must lie ahead.
    """
    try:
        ends = now + duration(text)
    except InputError:
        try:
            parsed = datetime.fromisoformat(text.strip())
            ends = (parsed if parsed.tzinfo else parsed.replace(tzinfo=ZoneInfo(zone))).astimezone(
                UTC
            )
        except (ValueError, OverflowError):
            raise InputError(
                f"{text!r} is not an end; write a date (2027-01-31), a time (2027-01-31T18:00) or a"
                " length of time (7d)."
            ) from None
    if ends <= now:
        raise InputError(f"The end {text!r} does not lie in the future; write one that does.")
    return ends


def usd(text: str) -> int:
    """Nanodollars above zero from `500`, `$500`, `12.50usd`."""
    found = _USD.fullmatch(text.strip())
    if not found:
        raise InputError(
            f"{text!r} is not an amount of dollars; write a number above zero such as 500 or 12.50."
        )
    try:
        nanos = nanos_from_usd(found[1])
    except ValueError as error:
        raise InputError(str(error)) from None
    if nanos == 0:
        raise InputError(
            "An amount of zero dollars would refuse every call; suspend the key instead."
        )
    return nanos


def price(text: str) -> int:
    """Nanodollars of what one call costs, from `0.01`, `$0.01` or `0.01usd`; zero is a price."""
    found = _USD.fullmatch(text.strip())
    if not found:
        raise InputError(
            f"{text!r} is not a price; write dollars such as 0.01usd, or none for no price."
        )
    try:
        nanos = nanos_from_usd(found[1])
    except ValueError as error:
        raise InputError(str(error)) from None
    if nanos > _MAX_PRICE_USD * NANOS_PER_USD:
        raise InputError(f"A call costs at most {_MAX_PRICE_USD:,} usd, not {text!r}.")
    return nanos


def count(text: str, option: str) -> int:
    """A whole number above zero, such as how many calls or tokens a minute."""
    found = re.fullmatch(r"\d{1,13}", text.strip(), re.ASCII)
    number = int(text) if found else 0
    if not 0 < number <= _MAX_COUNT:
        raise InputError(f"{option} takes a whole number from 1 to {_MAX_COUNT:,}, not {text!r}.")
    return number


def amount(text: str) -> tuple[str, int]:
    """The unit and the number of a budget's amount: `500usd` in nanodollars, `2Mtok` in tokens,
    `60calls`, `8parallel`.
    """
    found = _AMOUNT.fullmatch(text.strip())
    known = _UNITS.get(found[2].lower()) if found else None
    if not found or known is None:
        raise InputError(
            f"{text!r} is not an amount; write a number above zero and its unit:"
            " usd, tok, ktok, Mtok, Btok, calls or parallel, such as 500usd or 2Mtok."
        )
    unit, size = known
    exact = Decimal(found[1]) * size
    whole = round_nanos(exact)
    if whole != exact:
        least = {"usd": "a nanodollar", "tokens": "a token"}.get(unit, "a call")
        raise InputError(f"{text!r} is finer than {least}; write fewer decimals.")
    if not 0 < whole <= MAX_NANOS:
        raise InputError(
            f"{text!r} is out of range; a budget is above zero and at most about 9.2 billion usd"
            " or Btok."
        )
    return unit, whole


def credit(text: str) -> int:
    """Nanodollars above zero from `100usd`, `$100` or `100`, of prepaid credit."""
    found = _USD.fullmatch(text.strip())
    return amount(f"{found[1]}usd")[1] if found else _only_dollars(text)


def rule(unit: str, per: str, on_exceed: str) -> None:
    """Raises InputError where a budget's unit, window and what happens when it is spent do not go
    together.
    """
    if unit == "parallel" and per != "total":
        raise InputError(
            "Calls under way at the same time have no window; write per total for parallel."
        )
    if unit in ("calls", "parallel") and on_exceed == "throttle":
        raise InputError(f"A budget of {unit} is a rate already; only usd and tokens can throttle.")


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """`name=value` pairs of a repeatable option, separated by commas; `\\,` is a comma itself."""
    found: dict[str, str] = {}
    for part in (part for text in texts for part in re.split(r"(?<!\\),", text)):
        name, equals, value = part.replace("\\,", ",").partition("=")
        name, value = name.strip(), unicodedata.normalize("NFC", value).strip()
        if not equals or not name or not value or "\0" in value:
            raise InputError(
                f"{option} takes name=value pairs such as team=risk,agent=triage, not {part!r}"
                " (a comma inside a value is written \\,)."
            )
        if found.setdefault(name, value) != value:
            raise InputError(f"{option} names {name} twice; a call has one value for it.")
    return found


def selector(texts: Iterable[str], allowed: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Which calls a budget or a report is about, sorted by name; `all` alone is every call."""
    given = list(texts)
    if given == [_EVERYTHING]:
        return ()
    chosen = pairs(given, "--where")
    _must_be_known(chosen, allowed, "--where", "label")
    return tuple(sorted(chosen.items()))


def dimensions(texts: Iterable[str], allowed: Collection[str]) -> tuple[str, ...]:
    """The names after --by, in the order given and each once."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    _must_be_known(names, allowed, "--by", "dimension")
    if not names:
        raise InputError(f"--by names no dimension; allowed are {', '.join(allowed)}.")
    return tuple(dict.fromkeys(names))


def alerts(text: str) -> tuple[int, ...]:
    """Percentages such as `50,80,100` at which somebody is told, rising, each once; or `none`."""
    if text.strip() == "none":
        return ()
    parts = [part.strip().removesuffix("%") for part in text.split(",")]
    numbers = all(re.fullmatch(r"\d{1,3}", part, re.ASCII) for part in parts)
    percents = sorted({int(part) for part in parts}) if numbers else [0]
    if len(percents) > _MAX_ALERTS or percents[0] < 1 or percents[-1] > 100:
        raise InputError(
            f"--alert takes at most {_MAX_ALERTS} whole percentages from 1 to 100, such as"
            f" 50,80,100, or none; not {text!r}."
        )
    return tuple(percents)


def time_zone(name: str) -> str:
    """The name of a time zone that this machine knows."""
    if name != "UTC" and (name == "localtime" or name not in available_timezones()):
        raise InputError(f"{name!r} is not a time zone; write a name such as UTC or Europe/Berlin.")
    return name


def _only_dollars(text: str) -> int:
    raise InputError(
        f"{text!r} is not an amount of credit; write dollars above zero, such as 100usd or 12.50."
    )


def _must_be_known(names: Iterable[str], allowed: Collection[str], option: str, what: str) -> None:
    for name in names:
        if name not in allowed:
            raise InputError(
                f"{option} does not know the {what} {name!r}; allowed are {', '.join(allowed)}."
            )
