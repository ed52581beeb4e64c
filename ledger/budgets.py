"""What a budget is: its selector, its window and the documents that carry it. Knows no store and no
clock.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

PERIODS: Final = ("minute", "hour", "day", "week", "month", "quarter", "total")
UNITS: Final = ("usd", "tokens", "calls", "parallel")
UNSTATED: Final = ("learned", "cap", "ceiling")
LIMIT_SOURCES: Final = ("budget", "key", "rate", "wallet")
ON_EXCEED: Final = ("block", "throttle", "suspend", "shadow")
TOTAL: Final = "total"
KEEP_MS: Final = 7 * 24 * 3600 * 1000
"""How long a counter outlives its window: as long as a spool may keep a late event."""
_MINUTE_US: Final = 60_000_000
_REFERENCE: Final = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Raise:
    """`amount` more, in the budget's own unit, from `from_us` until just before `until_us`."""

    amount: int
    from_us: int
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """An amount over a window for the calls that a selector picks.

    `amount` is nanodollars (unit `usd`), tokens, input and output together (`tokens`), calls that
    were let through (`calls`), or calls under way at one time (`parallel`; nothing stays used).
    `unstated` says what to hold for output where a request states no maximum: see the sidecar's
    `hold`. `raises` are one-off raises, each with its own end. `limit_source` says what kind of
    limit this is to the caller: a `budget`, the `key`'s own, a `rate`, or a `wallet` of prepaid
    credit, which calls that bring their own provider credential do not touch.
    `where` pairs a label name with the value it must have. Calls that the sidecar enforced under a
    directory version below `counts_from` were settled before it knew this budget; the ledger adds
    them to the counter, the sidecar all others.
    """

    budget_id: str
    name: str
    where: tuple[tuple[str, str], ...]
    unit: str
    amount: int
    per: str
    time_zone: str = "UTC"
    on_exceed: str = "block"
    unstated: str = "learned"
    raises: tuple[Raise, ...] = ()
    alerts: tuple[int, ...] = ()
    limit_source: str = "budget"
    counts_from: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """One turn of a period. `name` is its start in its time zone (or `total`); `end_us` is None
    where it never turns.
    """

    name: str
    start_us: int
    end_us: int | None

    @property
    def kept_until_ms(self) -> int:
        """When Redis may forget the window's counter, in Unix ms; 0 where it never turns."""
        return 0 if self.end_us is None else self.end_us // 1000 + KEEP_MS


def to_document(budget: Budget) -> dict[str, Any]:
    """The budget as the JSON object that is stored and published."""
    return asdict(budget)


def from_document(document: Mapping[str, Any]) -> Budget:
    """The budget in a published document; fields that this version does not know are ignored."""
    known = {name: document[name] for name in Budget.__dataclass_fields__ if name in document}
    known["where"] = tuple((str(name), str(value)) for name, value in known["where"])
    known["raises"] = tuple(
        Raise(int(each["amount"]), int(each["from_us"]), int(each["until_us"]))
        for each in known.get("raises", ())
    )
    known["alerts"] = tuple(int(percent) for percent in known.get("alerts", ()))
    return Budget(**known)


def limit_at(budget: Budget, at_us: int) -> int:
    """The budget's amount at an instant, with the raises that are in force."""
    raised = sum(each.amount for each in budget.raises if each.from_us <= at_us < each.until_us)
    return budget.amount + raised


def matches(budget: Budget, labels: Mapping[str, str]) -> bool:
    """Whether a call with these labels counts against the budget. An empty selector matches every
    call.
    """
    return all(labels.get(name) == value for name, value in budget.where)


def window_at(per: str, time_zone: str, at_us: int) -> Window:
    """The window that holds the instant `at_us` (microseconds since the Unix epoch), by the
    calendar of `time_zone`.

    Weeks start on Monday (ISO 8601). A day has 23 or 25 hours when clocks change. Minutes and hours
    are counted by the zone's offset at the start of 2020, so that they neither overlap nor gape
    where clocks change, not even by half an hour.
    """
    return _window_of_minute(per, time_zone, at_us // _MINUTE_US)


@lru_cache(maxsize=4096)
def _window_of_minute(per: str, time_zone: str, minute: int) -> Window:
    """No window turns within a minute, so the request path works each one out once a minute."""
    if per == TOTAL:
        return Window(TOTAL, 0, None)
    at_us = minute * _MINUTE_US
    if per in ("minute", "hour"):
        return _clock_window(60 if per == "minute" else 3600, time_zone, at_us)
    local = datetime.fromtimestamp(at_us / 1_000_000, UTC).astimezone(_zone(time_zone))
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    start, end = _calendar_bounds(per, midnight)
    name = start.strftime("%Y-%m-%d")
    return Window(name, _instant_us(start, time_zone), _instant_us(end, time_zone))


def _clock_window(seconds: int, time_zone: str, at_us: int) -> Window:
    offset = _REFERENCE.astimezone(_zone(time_zone)).utcoffset() or timedelta()
    shift = int(offset.total_seconds())
    start_s = (at_us // 1_000_000 + shift) // seconds * seconds - shift
    name = datetime.fromtimestamp(start_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
    return Window(name, start_s * 1_000_000, (start_s + seconds) * 1_000_000)


def _calendar_bounds(per: str, midnight: datetime) -> tuple[datetime, datetime]:
    if per == "day":
        return midnight, midnight + timedelta(days=1)
    if per == "week":
        monday = midnight - timedelta(days=midnight.weekday())
        return monday, monday + timedelta(days=7)
    months = 1 if per == "month" else 3
    first = (midnight.month - 1) // months * months
    start = midnight.replace(month=first + 1, day=1)
    year, month = divmod(first + months, 12)
    return start, start.replace(year=start.year + year, month=month + 1)


def _instant_us(local: datetime, time_zone: str) -> int:
    return int(local.replace(tzinfo=_zone(time_zone)).timestamp()) * 1_000_000


@lru_cache(maxsize=512)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
