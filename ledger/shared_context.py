"""What each group's calls cost once cache writes are split over those who used them: booked calls
in, report rows out. Knows no store; the rule itself is in ledger/sharing.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from ledger.event import TOKEN_FIELDS, Usage
from ledger.prices import RateTable, cache_write_nanos
from ledger.reports import Row, group_texts, usd_text
from ledger.sharing import CachedCall, Group, Moved, Tally, split

MAX_GROUPS: Final = 10_000
SUMS: Final = (
    "calls",
    "cache_read_tokens",
    "cache_write_nanos",
    "cost_nanos",
    "moved_out_nanos",
    "moved_in_nanos",
    "shared_cost_nanos",
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class TooManyGroupsError(ValueError):
    """The report would have more rows than it may hold."""


def tally(by: Sequence[str], rows: Iterable[Mapping[str, Any]], rates: RateTable) -> Tally:
    """Every cache write in `rows`, split. They come as `events_cached.sql` orders them; only those
    of the group in hand are held.
    """
    found = Tally()
    for _, calls in groupby(rows, itemgetter("provider", "account", "model")):
        for one in split(_call(by, row, rates) for row in calls):
            found.add(one)
            if len(found.groups) > MAX_GROUPS:
                raise TooManyGroupsError(
                    f"The caches were used by more than {MAX_GROUPS:,} groups; ask --by something"
                    " coarser, or for a shorter time."
                )
    return found


def rows(by: Sequence[str], spent: Iterable[Row], found: Tally) -> Iterator[Row]:
    """The groups of a spending report with what sharing moves in and out."""
    for row in spent:
        group = tuple(str(row[name]) for name in by)
        yield {**{name: row[name] for name in by}, **_sums(row, found.groups.get(group, Moved()))}


def total(found: Iterable[Row]) -> Row:
    """The sum of the rows. Where the report is of everybody, nothing is gained or lost."""
    kept = list(found)
    sums = {name: sum(row[name] for row in kept) for name in SUMS}
    return _with_dollars(sums)


def _sums(spent: Row, moved: Moved) -> Row:
    shared = spent["cost_nanos"] - moved.out_nanos + moved.in_nanos
    return _with_dollars(
        {
            "calls": spent["calls"],
            "cache_read_tokens": spent["cache_read_tokens"],
            "cache_write_nanos": moved.written_nanos,
            "cost_nanos": spent["cost_nanos"],
            "moved_out_nanos": moved.out_nanos,
            "moved_in_nanos": moved.in_nanos,
            "shared_cost_nanos": shared,
        }
    )


def _with_dollars(sums: Row) -> Row:
    return sums | {"shared_cost_usd": usd_text(sums["shared_cost_nanos"])}


def _call(by: Sequence[str], row: Mapping[str, Any], table: RateTable) -> CachedCall:
    at_us = (row["occurred_at"] - _EPOCH) // _MICROSECOND
    usage = Usage(**{name: row[name] for name in TOKEN_FIELDS})
    rates = table.lookup(row["provider"], row["model"], at_us, row["service_tier"])
    short_nanos, long_nanos = (
        (0, 0) if rates is None else cache_write_nanos(rates, usage, row["cost_nanos"] or 0)
    )
    group: Group | None = tuple(group_texts(by, row).values()) if row["chosen"] else None
    return CachedCall(
        event_id=row["event_id"],
        at_us=at_us,
        end_us=at_us + row["latency_ms"] * 1000,
        group=group,
        run=row["run_id"],
        agent=f"{row['team']}\0{row['agent']}",
        read=usage.cache_read_tokens,
        short=usage.cache_write_5m_tokens,
        long=usage.cache_write_1h_tokens,
        short_nanos=short_nanos,
        long_nanos=long_nanos,
    )
