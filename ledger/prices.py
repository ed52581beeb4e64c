"""What tokens cost: rates, the price of a call and its ceiling. Knows no price source, no clock.

A rate is a whole number of nanodollars per million tokens, and money is rounded once, when the
call's total is known. Only tokens (and a fee per request) are priced. Searches, hours of audio,
characters and pages are not part of `Usage`: a model that is billed by those alone is unpriced,
never free.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from ledger.event import Usage
from ledger.money import MAX_NANOS, round_millionths

TOKENS_PER_RATE: Final = 1_000_000
REMEMBERED_NAMES: Final = (
    4096  # resolved names, found or not; clients choose them, so they are evicted
)
MAX_NAME_CHARACTERS: Final = 256  # a longer model name is no model's, and is not remembered
STANDARD_TIERS: Final = frozenset(
    ("", "auto", "default", "standard", "standard_only", "on_demand", "service_tier_unspecified")
)
OUR_NAMES: Final = {
    "gemini": "google",
    "vertex": "google",
    "bedrock": "aws",
    "xai": "x-ai",
    "moonshot": "moonshotai",
    "kimi": "moonshotai",
    "voyage": "voyageai",
    "grok": "x-ai",
    "mistralai": "mistral",
    "togetherai": "together",
    "together-ai": "together",
    "fireworks-ai": "fireworks",
    "z-ai": "zai",
}
"""A provider's name in the gateway -> its price list's; others have the list of their own name."""
_UNKNOWN_TIER: Final = "?"
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Nanodollars per million tokens by kind, and whence they come.

    `long_context` pairs a number of tokens with the rates for the whole of a request whose input is
    larger, in ascending order. `assumed` names the kinds that the source does not price and for
    which a neighbour's rate was taken; see `price_source`. Usage does not always tell pictures from
    text, and never video: `output` is then the dearest of them, and `dearest_input` what input may
    cost at most. Where it tells, pictures cost `image_input` and `image_output`, and what is left
    of the output `text_output`. `context_tokens` is the model's context window, None where unknown.
    """

    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    audio_input: int
    image_input: int
    dearest_input: int
    output: int
    reasoning: int
    audio_output: int
    image_output: int
    text_output: int
    request_nanos: int = 0
    long_context: tuple[tuple[int, "Rates"], ...] = ()
    context_tokens: int | None = None
    source: str = ""
    assumed: frozenset[str] = frozenset()


def cost_nanos(rates: Rates, usage: Usage) -> int:
    """What the call cost, rounded once (half to even); at most MAX_NANOS, which the books can hold.

    Every token has exactly one rate. The input is dealt out to its parts in the order 1 h cache
    writes, 5 min cache writes, audio, images, cache reads, and the rest is plain; the output
    likewise to audio, images, reasoning and the rest. Usage does not say how many tokens are both
    audio (or image) and cached: they are taken to be as few as the totals allow, which errs on the
    dear side. Parts that claim more than their whole get what is left of it. A request's fee is due
    once it used any token.
    """
    if usage.input_tokens <= 0 and usage.output_tokens <= 0:
        return 0
    return _rounded(_millionths(_rates_for(rates, usage.input_tokens), usage))


def cache_write_nanos(rates: Rates, usage: Usage, cost: int) -> tuple[int, int]:
    """What of a call's booked `cost` its cache writes cost: those for 5 minutes and for an hour.

    Their part in the cost by these rates: so it is right to the nanodollar where the call was
    priced by them, and never more than the cost where it was priced by others.
    """
    if cost <= 0 or usage.cache_write_5m_tokens + usage.cache_write_1h_tokens <= 0:
        return 0, 0
    rates = _rates_for(rates, usage.input_tokens)
    whole = _millionths(rates, usage)
    if whole <= 0:
        return 0, 0
    long = max(0, min(usage.cache_write_1h_tokens, usage.input_tokens))
    short = max(0, min(usage.cache_write_5m_tokens, usage.input_tokens - long))
    long_nanos = cost * long * rates.cache_write_1h // whole
    both = cost * (long * rates.cache_write_1h + short * rates.cache_write_5m) // whole
    return both - long_nanos, long_nanos


def _millionths(rates: Rates, usage: Usage) -> int:
    total = _dealt(
        usage.input_tokens,
        (
            (usage.cache_write_1h_tokens, rates.cache_write_1h),
            (usage.cache_write_5m_tokens, rates.cache_write_5m),
            (usage.audio_input_tokens, rates.audio_input),
            (usage.image_input_tokens, rates.image_input),
            (usage.cache_read_tokens, rates.cache_read),
        ),
        rates.input,
    )
    total += _dealt(
        usage.output_tokens,
        (
            (usage.audio_output_tokens, rates.audio_output),
            (usage.image_output_tokens, rates.image_output),
            (usage.reasoning_tokens, rates.reasoning),
        ),
        rates.text_output if usage.image_output_tokens > 0 else rates.output,
    )
    return total + rates.request_nanos * TOKENS_PER_RATE


def ceiling_nanos(rates: Rates, input_tokens: int, output_tokens: int) -> int:
    """The most that a call with at most so many tokens can cost: never below its `cost_nanos`.

    The whole input at its dearest kind (a 1 h cache write costs more than plain input), the whole
    output at its own, in the dearest context tier that this much input reaches. Never falls when
    either number grows.
    """
    input_tokens, output_tokens = max(0, input_tokens), max(0, output_tokens)
    most = _dearest(rates, input_tokens, output_tokens)
    for start, dearer in rates.long_context:
        if input_tokens > start:
            most = max(most, _dearest(dearer, input_tokens, output_tokens))
    return _rounded(most)


def price_source(rates: Rates, usage: Usage) -> str:
    """Whence this call's price comes and what was assumed: `genai-prices, cache-write-1h-assumed`.

    Names an assumption only where the call used the kind of token that it concerns.
    """
    says = [rates.source]
    told = usage.image_input_tokens > 0 or usage.image_output_tokens > 0
    says += [
        f"{kind.replace('_', '-')}-assumed"
        for kind in sorted(rates.assumed)
        if getattr(usage, f"{kind}_tokens") > 0 and not (told and kind in ("input", "output"))
    ]
    cached = usage.cache_read_tokens + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    if usage.audio_input_tokens > 0 and cached > 0 and rates.audio_input != rates.input:
        says.append("audio-not-cached-assumed")
    return ", ".join(says)


def _rates_for(rates: Rates, input_tokens: int) -> Rates:
    for start, dearer in reversed(rates.long_context):
        if input_tokens > start:
            return dearer
    return rates


def _dealt(whole: int, parts: tuple[tuple[int, int], ...], rest_rate: int) -> int:
    left = max(0, whole)
    total = 0
    for tokens, rate in parts:
        if tokens > 0:
            taken = min(tokens, left)
            total += taken * rate
            left -= taken
    return total + left * rest_rate


def _dearest(rates: Rates, input_tokens: int, output_tokens: int) -> int:
    input_rate = max(
        rates.input,
        rates.cache_read,
        rates.cache_write_5m,
        rates.cache_write_1h,
        rates.audio_input,
        rates.image_input,
        rates.dearest_input,
    )
    output_rate = max(
        rates.output, rates.text_output, rates.reasoning, rates.audio_output, rates.image_output
    )
    fee = rates.request_nanos * TOKENS_PER_RATE
    return input_tokens * input_rate + output_tokens * output_rate + fee


def _rounded(millionths: int) -> int:
    return min(round_millionths(millionths), MAX_NANOS)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rates of one model in one service tier over time; None while it has no price.

    `days[i]` holds from `since_us[i]` on, the first also for all time before: pairs of a time of
    day (microseconds, UTC) and the rates from then on, the first pair at midnight.
    """

    since_us: tuple[int, ...]
    days: tuple[tuple[tuple[int, Rates | None], ...], ...]

    def at(self, at_us: int) -> Rates | None:
        days = self.days
        day = days[0] if len(days) == 1 else days[max(0, bisect_right(self.since_us, at_us) - 1)]
        if len(day) == 1:
            return day[0][1]
        time_us = at_us % _DAY_US
        return next(rates for start_us, rates in reversed(day) if time_us >= start_us)

    def in_unpriced_tier(self) -> "Schedule":
        """The same rates for a call in a service tier without its own; their source says so."""
        return Schedule(
            self.since_us,
            tuple(
                tuple((time_us, rates and standard_tier_assumed(rates)) for time_us, rates in day)
                for day in self.days
            ),
        )


def standard_tier_assumed(rates: Rates) -> Rates:
    """The standard rates, marked as a stand-in for those of an unpriced service tier."""
    return replace(
        rates,
        source=f"{rates.source}, standard-tier-assumed",
        long_context=tuple(
            (start, standard_tier_assumed(dearer)) for start, dearer in rates.long_context
        ),
    )


@dataclass(frozen=True, slots=True)
class PricedModel:
    """One model of a provider: its standard rates, and those of service tiers with their own."""

    standard: Schedule
    tiers: Mapping[str, Schedule]

    def schedule(self, service_tier: str) -> Schedule:
        if tier := self.tiers.get(service_tier):
            return tier
        return self.standard if service_tier in STANDARD_TIERS else self.standard.in_unpriced_tier()


@dataclass(frozen=True, slots=True)
class PriceList:
    """One provider's models and the names they go by; the first model that matches a name is meant.

    `names` maps a lower-case name to a model's position. `patterns` are further names of the model
    at a position, in ascending order: every expression of a pattern must be found in the name.
    `fallbacks` are providers whose models this one also serves, at their standard prices.
    """

    models: tuple[PricedModel, ...]
    names: Mapping[str, int]
    patterns: tuple[tuple[int, tuple[re.Pattern[str], ...]], ...] = ()
    fallbacks: tuple[str, ...] = ()

    def find(self, name: str) -> PricedModel | None:
        found = self.names.get(name, len(self.models))
        for position, expressions in self.patterns:
            if position >= found:
                break
            if all(expression.search(name) for expression in expressions):
                found = position
                break
        return self.models[found] if found < len(self.models) else None


def list_names(text: str) -> dict[str, str]:
    """Which provider has which price list, from `NAME=LIST,NAME=LIST`; ValueError says what is
    wrong with it.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    names = {name.strip().lower(): listed.strip().lower() for name, _, listed in pairs}
    if "" in names or not all(names.values()):
        raise ValueError("must be NAME=LIST,NAME=LIST: a provider's name and that of a price list.")
    return names


class RateTable:
    """The rates of every model in one price version. Remembers a bounded number of names.

    `names`: which provider has which price list, where its own name does not say so. A provider
    whose list is not known is unpriced: no other list is guessed.
    """

    def __init__(
        self, version: str, lists: Mapping[str, PriceList], names: Mapping[str, str] | None = None
    ) -> None:
        self.version: Final = version
        self._lists = dict(lists)
        self._own_names = dict(names or {})
        self._names = OUR_NAMES | self._own_names
        self._tiers = STANDARD_TIERS.union(
            *(model.tiers for prices in lists.values() for model in prices.models)
        )
        self._schedule = lru_cache(maxsize=REMEMBERED_NAMES)(self._find_schedule)

    def __reduce__(self) -> tuple[Any, ...]:
        return RateTable, (self.version, self._lists, self._own_names)

    @property
    def lists(self) -> frozenset[str]:
        """The names of the price lists."""
        return frozenset(self._lists)

    def named(self, names: Mapping[str, str]) -> "RateTable":
        """The same rates for further names; the version says so, as it decides on the cost."""
        if not names:
            return self
        said = ",".join(f"{name}={listed}" for name, listed in sorted(names.items()))
        return RateTable(f"{self.version} {said}", self._lists, self._own_names | dict(names))

    def lookup(self, provider: str, model: str, at_us: int, service_tier: str = "") -> Rates | None:
        """The rates of a call that started at `at_us`; None where they are not known.

        `provider` is the gateway's name for it. A service tier without a price of its own gets the
        standard one, and the source of the rates says so.
        """
        if len(model) > MAX_NAME_CHARACTERS or len(provider) > MAX_NAME_CHARACTERS:
            return None
        tier = service_tier if service_tier in self._tiers else self._known_tier(service_tier)
        schedule = self._schedule(provider, model, tier)
        return schedule.at(at_us) if schedule else None

    def _known_tier(self, service_tier: str) -> str:
        # Clients choose the tier's name too: all unknown ones are remembered as one.
        lowered = service_tier.lower()
        return lowered if lowered in self._tiers else _UNKNOWN_TIER

    def _find_schedule(self, provider: str, model: str, tier: str) -> Schedule | None:
        provider = provider.strip().lower()
        provider = self._names.get(provider, provider)
        prices = self._lists.get(provider)
        if prices is None:
            return None
        for name in _spellings(provider, model.strip().lower()):
            if found := prices.find(name):
                return found.schedule(tier)
            for fallback in prices.fallbacks:
                if fallback in self._lists and (found := self._lists[fallback].find(name)):
                    # Another provider's service tiers need not exist here.
                    standard = found.standard
                    return standard if tier in STANDARD_TIERS else standard.in_unpriced_tier()
        return None


_COMPACT_DATE: Final = re.compile(
    r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)", re.ASCII
)

_REGION: Final = re.compile(r"\A(?:global|apac|us-gov|[a-z]{2})\.")


def _spellings(provider: str, name: str) -> Iterator[str]:
    """The name, then as lists may write it: `-2025-12-11` for `-20251211`, no resource path."""
    yield name
    dated = _COMPACT_DATE.sub(r"-\1-\2-\3", name)
    if dated != name:
        yield dated
    if provider == "google" and "/" in name:
        yield name.rpartition("/")[2]
    if provider == "aws":
        # Not every list names each region's profile of a model, nor the plain id beside them.
        short = name.rpartition("/")[2]
        plain = _REGION.sub("", short)
        yield from (short, plain, f"us.{plain}")
