"""Rows of the books and counters, shaped for people and scripts. Knows no SQL and no terminal."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from ledger.budgets import Budget, limit_at, window_at
from ledger.event import FIELDS
from ledger.money import NANOS_PER_USD

Row = dict[str, Any]

BILLED_TEAM: Final = "billed_team"
"""Who pays: a column of neither table, for a call may have two of them."""
# What spending can be asked by, and the column that answers: first those that the rollups hold.
ROLLUP_DIMENSIONS: Final = {
    "owner": "owner",
    "principal": "principal",
    "team": "team",
    "agent": "agent",
    "workload": "workload",
    "customer": "customer",
    "key": "key_id",
    "provider": "provider",
    "model": "model",
    "operation": "operation",
    "root_team": "root_team",
    "root_agent": "root_agent",
    "root_workload": "root_workload",
    "root_key": "root_key_id",
    "key_id": "key_id",
    "chain_trust": "chain_trust",
    "byok": "byok",
    "billing": "billing",
    BILLED_TEAM: BILLED_TEAM,
}
EVENT_DIMENSIONS: Final = {
    "run_id": "run_id",
    "model_requested": "model_requested",
    "outcome": "outcome",
    "refusal": "refusal",
    "refused_by": "refused_by",
    "shadow_refusal": "shadow_refusal",
    "http_status": "http_status",
    "streamed": "streamed",
    "route": "route",
    "usage_source": "usage_source",
    "price_source": "price_source",
    "service_tier": "service_tier",
    "producer": "producer",
    "chain_signal": "chain_signal",
    "chain_fault": "chain_fault",
    "tool_name": "tool_name",
    "target_agent": "target_agent",
}
TIME_DIMENSIONS: Final = {"hour": "%Y-%m-%dT%H:%MZ", "day": "%Y-%m-%d", "month": "%Y-%m"}  # in UTC
WELL_KNOWN_LABELS: Final = ("environment", "project", "cost_center")
SELECTOR_LABELS: Final = (
    "owner", "principal", "team", "agent", "workload", "customer", "key", "provider",
    "root_team", "root_agent", "root_key", "run",
)  # fmt: skip
FILTERS: Final = ("event_id",)  # what a filter may name beside the dimensions
KEY_LABELS: Final = ("key", "owner", "team", "agent", "workload", "customer")
SPEND_SUMS: Final = (
    "calls",
    "refused_calls",
    "failed_calls",
    "unpriced_calls",
    "estimated_calls",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nanos",
)

EVENT_NAMES: Final = tuple("occurred_at" if name == "occurred_at_us" else name for name in FIELDS)
RESERVED_NAMES: Final = frozenset(
    {*EVENT_NAMES, *ROLLUP_DIMENSIONS, *EVENT_DIMENSIONS, *TIME_DIMENSIONS, *SELECTOR_LABELS}
)
"""Names that mean something in an event or a report, so that no optional label may have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Sums per `by`, of the calls that `where` picks, from `since` to before `until`."""

    by: tuple[str, ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Spend:
    """The answer: rows in order, their total, and whether there were more rows than asked for."""

    rows: list[Row]
    total: Row
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What a budget's counter says."""

    used: int = 0
    held: int = 0


def rollups_answer(question: Question) -> bool:
    """Whether the hourly sums know everything that the question names; events know the rest."""
    named = {*question.by, *(name for name, _ in question.where)}
    return named.isdisjoint(EVENT_DIMENSIONS) and named.isdisjoint(FILTERS)


def whole_hours(question: Question) -> tuple[datetime | None, datetime | None]:
    """The first and the last edge of whole hours in the question; None where that side is open."""
    first, last = question.since, question.until
    if first is not None and first != _hour(first):
        first = _hour(first) + timedelta(hours=1)
    return first, None if last is None else _hour(last)


def spend(question: Question, found: Iterable[Mapping[str, Any]], limit: int) -> Spend:
    """Shape grouped sums, whose total is marked by `is_total` and whose groups are g0, g1 ..."""
    rows, total = [], _sums({})
    for row in found:
        if row["is_total"]:
            total = _sums(row)
        else:
            rows.append({**group_texts(question.by, row), **_sums(row)})
    return Spend(rows[:limit], total, len(rows) > limit)


def event(row: Mapping[str, Any]) -> Row:
    """An event under its public names, in their order; `occurred_at` is a time."""
    return {name: row[name] for name in EVENT_NAMES}


def result(row: Mapping[str, Any]) -> str:
    """How a call ended, in one word or two: why it was refused, else its outcome."""
    return str(row["refusal"] or row["outcome"])


def key(row: Mapping[str, Any], now: datetime) -> Row:
    """A key without anything secret. `status` says what a call with it meets now; that of a key
    whose labels are missing is `quarantined`, whether its grace is over or not.
    """
    quarantined = row.get("grace_until") is not None and row["status"] == "active"
    expired = row["status"] != "revoked" and row["expires_at"] and row["expires_at"] <= now
    limit = row["max_spend_nanos"]
    return {
        **{name: row[name] for name in ("key_id", "owner", "team", "agent", "workload")},
        "customer": row["customer"],
        "labels": row["labels"],
        "status": "expired" if expired else "quarantined" if quarantined else row["status"],
        "expires_at": row["expires_at"],
        "max_spend_nanos": limit,
        "max_spend_usd": None if limit is None else usd_text(limit),
        **{name: row[name] for name in ("rpm", "tpm", "max_parallel")},
        **{name: row[name] for name in ("service_account", "customer_header")},
        "created_at": row["created_at"],
        **{name: row[name] for name in _OF_IMPORTED_KEYS if row.get(name)},
    }


def called(row: Mapping[str, Any]) -> str:
    """What an event's call was for: a model, a tool as it is priced, or an agent."""
    if row["tool_name"]:
        return f"{row['provider']}/{row['tool_name']}"
    return str(row["model"] or (f"agent {row['target_agent']}" if row["target_agent"] else ""))


def agent(row: Mapping[str, Any]) -> Row:
    """A registered agent."""
    return {
        **{name: row[name] for name in ("name", "team", "owner", "purpose", "status")},
        **_price(row["price_nanos"]),
        "registered_at": row["registered_at"],
    }


def agent_usage(row: Mapping[str, Any]) -> Row:
    """What an agent's keys called and spent, and how often it was called itself."""
    spent = int(row["spent_nanos"])
    counts = {name: int(row[name]) for name in ("keys", "calls", "times_called")}
    return {**counts, "spent_nanos": spent, "spent_usd": usd_text(spent)}


def tool_price(row: Mapping[str, Any]) -> Row:
    """What a call of a tool costs; `*` is every tool of its server."""
    return {"server": row["server"], "tool": row["tool"], **_price(row["price_nanos"])}


def tool(row: Mapping[str, Any]) -> Row:
    """A tool that has a price or was called."""
    cost = int(row["cost_nanos"])
    return {
        **tool_price(row),
        **{name: int(row[name]) for name in ("calls", "refused_calls", "failed_calls")},
        "mean_ms": row["mean_ms"],
        "cost_nanos": cost,
        "cost_usd": usd_text(cost),
        "last_called_at": row["last_called_at"],
    }


def _price(nanos: int | None) -> Row:
    return {"price_nanos": nanos, "price_usd": None if nanos is None else usd_text(nanos)}


def change(row: Mapping[str, Any]) -> Row:
    """A change on record; `changed` says it in words: `team: risk -> search`."""
    detail = row["detail"]
    before, after = detail.get("from"), detail.get("to")
    parts = [f"{name}: {detail[name]}" for name in _SAID_OF_CHANGES if detail.get(name)]
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = [name for name in after if after[name] != before.get(name)]
        parts += [f"{name}: {before.get(name) or '-'} -> {after[name] or '-'}" for name in names]
    return {**row, "changed": ", ".join(parts)}


def budget(granted: Budget) -> Row:
    """A budget as it was asked for; `amount` is nanodollars where `unit` is usd, else a number of
    tokens or calls.
    """
    return {
        "budget_id": granted.budget_id,
        "name": granted.name,
        "where": dict(granted.where),
        "unit": granted.unit,
        "amount": granted.amount,
        **_in_usd(granted.unit, amount=granted.amount),
        "per": granted.per,
        "time_zone": granted.time_zone,
        "on_exceed": granted.on_exceed,
        "unstated": granted.unstated,
        "raises": [
            {
                "amount": each.amount,
                **_in_usd(granted.unit, amount=each.amount),
                "from": _moment(each.from_us),
                "until": _moment(each.until_us),
            }
            for each in granted.raises
        ],
        "alerts": list(granted.alerts),
        "limit_source": granted.limit_source,
    }


def budget_status(granted: Budget, standing: Standing, now: datetime) -> Row:
    """A budget beside its counter: what is used, held by calls in flight, and left.

    `limit` is its amount with the raises that are in force.
    """
    window = window_at(granted.per, granted.time_zone, micros(now))
    limit = limit_at(granted, micros(now))
    left = limit - standing.used - standing.held
    taken = standing.used + standing.held
    return {
        **budget(granted),
        "limit": limit,
        "window": window.name,
        "window_starts": None if window.end_us is None else _moment(window.start_us),
        "turns_at": None if window.end_us is None else _moment(window.end_us),
        "used": standing.used,
        "held": standing.held,
        "left": left,
        "percent": min(taken * 100 // limit, 999_999) if limit else 100,
        **_in_usd(granted.unit, limit=limit, used=standing.used, held=standing.held, left=left),
        "alert": max((p for p in granted.alerts if standing.used * 100 >= p * limit), default=None),
    }


def allowed(*groups: Iterable[str]) -> list[str]:
    """The names of every group, each once, in order."""
    return list(dict.fromkeys(name for group in groups for name in group))


def amount_text(unit: str, number: int) -> str:
    """An amount as it would be typed after --amount, to its last digit: `12.5usd`, `1.5Mtok`,
    `60calls`.
    """
    sizes = {"usd": ((NANOS_PER_USD, "usd"),), "tokens": _TOKEN_UNITS}.get(unit, ((1, unit),))
    size, name = next((pair for pair in sizes if abs(number) >= pair[0]), sizes[-1])
    return f"{Decimal(number) / size:f}{name}"


def usd_text(nanos: int) -> str:
    """Dollars for scripts: all nine decimals, never an exponent, no unit."""
    whole, fraction = divmod(abs(nanos), NANOS_PER_USD)
    return f"{'-' if nanos < 0 else ''}{whole}.{fraction:09}"


def selector_text(where: Iterable[tuple[str, str]]) -> str:
    """A selector as it would be typed after --where."""
    return ",".join(f"{name}={value}".replace(",", "\\,") for name, value in where) or "all"


def _in_usd(unit: str, **amounts: int) -> Row:
    return {f"{name}_usd": usd_text(n) for name, n in amounts.items()} if unit == "usd" else {}


def group_texts(by: Sequence[str], row: Mapping[str, Any]) -> Row:
    """The groups g0, g1 ... of a row under their names, as text."""
    return {name: _group_text(name, row[f"g{place}"]) for place, name in enumerate(by)}


def _group_text(name: str, value: Any) -> str:
    if name in TIME_DIMENSIONS:
        moment: datetime = value
        return moment.astimezone(UTC).strftime(TIME_DIMENSIONS[name])
    return str(value)


def _sums(row: Mapping[str, Any]) -> Row:
    sums = {name: int(row.get(name) or 0) for name in SPEND_SUMS}
    return {**sums, "cost_usd": usd_text(sums["cost_nanos"])}


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def micros(moment: datetime) -> int:
    """Microseconds since the Unix epoch."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


_SAID_OF_CHANGES: Final = ("name", "note", "replaced_by")
_OF_IMPORTED_KEYS: Final = ("grace_until", "replaced_by", "name", "note")
_TOKEN_UNITS: Final = ((10**9, "Btok"), (10**6, "Mtok"), (10**3, "ktok"), (1, "tok"))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
