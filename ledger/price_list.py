"""Compiles the pinned `genai-prices` into our own rate table. Knows nothing of calls.

Importing this module takes most of a second and about 40 MB, nearly all of it the package: only
processes that price calls may do so, once, at their start. A RateTable can be pickled, so one
process may compile it for others.

Where ours differs from the package's own `calc_price`, and why:
- A kind without a price costs what the next coarser kind costs, as there (a cache read costs plain
  input), but for cache writes of Claude models: what Anthropic documents, 1.25 times the input for
  five minutes and twice for an hour. `price_source` says so.
- Output of a model that prices pictures or video apart costs the dearest of them where usage does
  not tell them apart: pictures cost ten times as much as text. Reasoning is known to be text.
- A listed model without any price is free only if its name or `FREE` says so, else unpriced. So is
  a model that is billed by something other than tokens.
- Tokens that are both audio and cached, and parts larger than their whole, have a price where the
  package raises.
- A fee per request is not due for a call that used no token.
- Rates are rounded to a nanodollar per million tokens, which removes the traces of binary floats.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from itertools import product
from typing import Final

import genai_prices
from genai_prices import types
from genai_prices.data import providers

from ledger.money import NANOS_PER_USD, round_nanos
from ledger.prices import (
    PricedModel,
    PriceList,
    Rates,
    RateTable,
    Schedule,
    standard_tier_assumed,
)

SOURCE: Final = "genai-prices"
FREE: Final = frozenset(
    (
        ("github-copilot", "gpt-3.5-turbo"),
        ("github-copilot", "gpt-4.1"),
        ("github-copilot", "gpt-4o"),
        ("github-copilot", "gpt-4o-mini"),
        ("google", "gemma-3"),
        ("google", "gemma-3n"),
        ("google", "gemma-4-26b-a4b-it"),
        ("google", "gemma-4-31b-it"),
        ("openai", "moderation"),
    )
)
"""Models that are listed without a price because they are free, besides those called `...:free`."""

_TIER_KEYS: Final = ("service_tier", "processing", "speed")  # the package's names for it
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_Prices = Mapping[str, Decimal]
_NOTHING: Final[_Prices] = {"input_mtok": Decimal(0), "output_mtok": Decimal(0)}


@cache
def standard_table() -> RateTable:
    """The rates of the installed, pinned `genai-prices`; compiled once per process."""
    lists = {provider.id: _price_list(provider) for provider in providers}
    return RateTable(f"{SOURCE}-{genai_prices.__version__}", lists)


def _price_list(provider: types.Provider) -> PriceList:
    names: dict[str, int] = {}
    patterns: list[tuple[int, tuple[re.Pattern[str], ...]]] = []
    for position, model in enumerate(provider.models):
        for alternative in _alternatives(model.match):
            match alternative:
                case (types.ClauseEquals(equals=name),):
                    names.setdefault(name.lower(), position)
                case leaves:
                    patterns.append((position, tuple(_expression(leaf) for leaf in leaves)))
    return PriceList(
        models=tuple(_priced_model(provider.id, model) for model in provider.models),
        names=names,
        patterns=tuple(patterns),
        fallbacks=tuple(provider.fallback_model_providers or ()),
    )


def _alternatives(clause: types.MatchLogic) -> list[tuple[types.MatchLogic, ...]]:
    """The clause as alternatives of simple clauses that must all match."""
    match clause:
        case types.ClauseOr(or_=clauses):
            return [leaves for inner in clauses for leaves in _alternatives(inner)]
        case types.ClauseAnd(and_=clauses):
            chosen = product(*(_alternatives(inner) for inner in clauses))
            return [tuple(leaf for leaves in choice for leaf in leaves) for choice in chosen]
        case _:
            return [(clause,)]


def _expression(leaf: types.MatchLogic) -> re.Pattern[str]:
    match leaf:
        case types.ClauseEquals(equals=text):
            return re.compile(rf"\A{re.escape(text.lower())}\Z")
        case types.ClauseStartsWith(starts_with=text):
            return re.compile(rf"\A{re.escape(text.lower())}")
        case types.ClauseEndsWith(ends_with=text):
            return re.compile(rf"{re.escape(text.lower())}\Z")
        case types.ClauseContains(contains=text):
            return re.compile(re.escape(text.lower()))
        case types.ClauseRegex(regex=regex):
            return re.compile(regex)
        case _:
            raise TypeError(f"The price list has a match clause that is not known here: {leaf!r}")


def _priced_model(provider_id: str, model: types.ModelInfo) -> PricedModel:
    tiers = {
        value
        for variant in model.price_variants or ()
        for key, value in variant.when.items()
        if key in _TIER_KEYS and len(variant.when) == 1
    }
    return PricedModel(
        standard=_schedule(provider_id, model, None),
        tiers={tier: _schedule(provider_id, model, tier) for tier in sorted(tiers)},
    )


def _schedule(provider_id: str, model: types.ModelInfo, tier: str | None) -> Schedule:
    """Asks the package for its price at each instant when the price may change."""
    dates, times = _changes(model)
    starts = [_EPOCH] + [datetime.combine(day, time(), UTC) for day in sorted(dates)]
    clocks = [timedelta(), *sorted(times - {timedelta()})]
    days: list[tuple[tuple[int, Rates | None], ...]] = []
    since: list[int] = []
    for start in starts:
        day: list[tuple[int, Rates | None]] = []
        for clock in clocks:
            rates = _rates_at(provider_id, model, tier, start + clock)
            if not day or day[-1][1] != rates:
                day.append((clock // _MICROSECOND, rates))
        if not days or days[-1] != tuple(day):
            days.append(tuple(day))
            since.append((start - _EPOCH) // _MICROSECOND)
    return Schedule(tuple(since), tuple(days))


def _changes(model: types.ModelInfo) -> tuple[set[date], set[timedelta]]:
    """The dates and the times of day (UTC) at which the model's prices may change."""
    constraints = [variant.constraint for variant in model.price_variants or ()]
    if not isinstance(model.prices, types.ModelPrice):
        constraints += [price.constraint for price in model.prices]
    dates: set[date] = set()
    times: set[timedelta] = set()
    for constraint in constraints:
        if isinstance(constraint, types.StartDateConstraint):
            dates.add(constraint.start_date)
        elif isinstance(constraint, types.TimeOfDateConstraint):
            times |= {_utc_clock(constraint.start_time), _utc_clock(constraint.end_time)}
    return dates, times


def _utc_clock(clock: time) -> timedelta:
    """A time of day as the time since midnight UTC; without a zone it is UTC."""
    instant = datetime.combine(_EPOCH.date(), clock, clock.tzinfo or UTC)
    return (instant - _EPOCH) % timedelta(days=1)


def _rates_at(
    provider_id: str, model: types.ModelInfo, tier: str | None, at: datetime
) -> Rates | None:
    context = dict.fromkeys(_TIER_KEYS, tier) if tier is not None else None
    prices = {
        key: price
        for key, price in model.get_prices(at, context).__dict__.items()
        if price is not None
    }
    rates = _rates(provider_id, model, prices)
    if rates and tier is not None and not _tier_is_priced(model, tier, at):
        return standard_tier_assumed(rates)
    return rates


def _tier_is_priced(model: types.ModelInfo, tier: str, at: datetime) -> bool:
    return any(
        variant.constraint is None or variant.constraint.active(at)
        for variant in model.price_variants or ()
        if len(variant.when) == 1 and tier in variant.when.values()
    )


def _rates(
    provider_id: str, model: types.ModelInfo, prices: Mapping[str, Decimal | types.TieredPrices]
) -> Rates | None:
    if not prices:
        if model.id.endswith(":free") or (provider_id, model.id) in FREE:
            return _flat_rates(model, _NOTHING, f"{SOURCE}, listed-free")
        return None
    if "input_mtok" not in prices:
        return None
    starts = {
        tier.start
        for price in prices.values()
        if isinstance(price, types.TieredPrices)
        for tier in price.tiers
    }
    dearer = tuple(
        (start, _flat_rates(model, _prices_above(prices, start))) for start in sorted(starts)
    )
    return replace(_flat_rates(model, _prices_above(prices, -1)), long_context=dearer)


def _prices_above(prices: Mapping[str, Decimal | types.TieredPrices], start: int) -> _Prices:
    """The prices of a request with more input than `start` tokens, but no later tier's."""
    flat: dict[str, Decimal] = {}
    for key, price in prices.items():
        if isinstance(price, Decimal):
            flat[key] = price
        else:
            reached = [tier.price for tier in price.tiers if tier.start <= start]
            flat[key] = reached[-1] if reached else price.base
    return flat


def _flat_rates(model: types.ModelInfo, prices: _Prices, source: str = SOURCE) -> Rates:
    assumed: set[str] = set()

    def price(kind: str, keys: tuple[str, ...], otherwise: Decimal) -> Decimal:
        for key in keys:
            if key in prices:
                return prices[key]
        assumed.add(kind)
        return otherwise

    text = prices["input_mtok"]
    claude = "claude" in model.id
    write_5m = price(
        "cache_write_5m",
        ("cache_write_5m_mtok", "cache_write_mtok"),
        text * 5 / 4 if claude else text,
    )
    write_1h = price(
        "cache_write_1h",
        ("cache_write_1h_mtok",),
        max(write_5m, 2 * text) if claude else write_5m,
    )
    output = price("output", ("output_mtok",), Decimal(0))
    seen = max(prices.get(key, text) for key in ("input_image_mtok", "input_video_mtok"))
    shown = max(prices.get(key, output) for key in ("output_image_mtok", "output_video_mtok"))
    assumed |= {
        kind for kind, dearer in (("input", seen > text), ("output", shown > output)) if dearer
    }
    return Rates(
        input=_rate(text),
        cache_read=_rate(price("cache_read", ("cache_read_mtok",), text)),
        cache_write_5m=_rate(write_5m),
        cache_write_1h=_rate(write_1h),
        audio_input=_rate(price("audio_input", ("input_audio_mtok",), text)),
        image_input=_rate(prices.get("input_image_mtok", text)),
        dearest_input=_rate(max(text, seen)),
        output=_rate(max(output, shown)),
        reasoning=_rate(prices.get("output_reasoning_mtok", output)),
        audio_output=_rate(price("audio_output", ("output_audio_mtok",), output)),
        image_output=_rate(prices.get("output_image_mtok", output)),
        text_output=_rate(output),
        request_nanos=_rate(prices.get("requests_kcount", Decimal(0)) / 1000),
        context_tokens=model.context_window,
        source=source,
        assumed=frozenset(assumed),
    )


def _rate(usd: Decimal) -> int:
    return round_nanos(usd * NANOS_PER_USD)
