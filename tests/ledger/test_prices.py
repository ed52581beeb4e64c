"""Rates, costs and ceilings: laws of the arithmetic, and agreement with the package we compile."""

import pickle
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import genai_prices
import pytest
from genai_prices import types
from genai_prices.data import providers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ledger import prices
from ledger.event import Usage
from ledger.money import MAX_NANOS, round_nanos
from ledger.price_list import FREE, standard_table
from ledger.prices import (
    PricedModel,
    PriceList,
    Rates,
    RateTable,
    Schedule,
    cache_write_nanos,
    ceiling_nanos,
    cost_nanos,
    list_names,
    price_source,
)

USD_PER_MILLION: Final = 1_000_000_000
KINDS: Final = (
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "audio_input",
    "image_input",
    "dearest_input",
    "image_output",
    "text_output",
    "output",
    "reasoning",
    "audio_output",
)


def at(text: str) -> int:
    """Microseconds since the epoch of an ISO instant, UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000_000)


NOW: Final = at("2026-11-20T12:00:00")


def found(provider: str, model: str, at_us: int = NOW, service_tier: str = "") -> Rates:
    rates = standard_table().lookup(provider, model, at_us, service_tier)
    assert rates is not None, f"{provider} has no price for {model}"
    return rates


def card(
    rates: Mapping[str, int], fee: int = 0, long_context: tuple[tuple[int, Rates], ...] = ()
) -> Rates:
    return Rates(
        **{kind: rates[kind] for kind in KINDS},  # type: ignore[arg-type]
        request_nanos=fee,
        long_context=long_context,
    )


def flat(rate: int, **others: int) -> Rates:
    return card(dict.fromkeys(KINDS, rate) | others)


rate = st.integers(0, 600 * USD_PER_MILLION)
kinds = st.fixed_dictionaries(dict.fromkeys(KINDS, rate))


@st.composite
def rate_cards(draw: st.DrawFn) -> Rates:
    starts = draw(st.lists(st.integers(0, 300_000), max_size=2, unique=True).map(sorted))
    fee = draw(st.sampled_from([0, 14_000_000]))
    return card(draw(kinds), fee, tuple((start, card(draw(kinds), fee)) for start in starts))


@st.composite
def honest_usage(draw: st.DrawFn, most: int = 400_000) -> Usage:
    tokens = st.integers(0, most)
    read, write_5m, write_1h, audio, seen, plain = (draw(tokens) for _ in range(6))
    reasoning, spoken, drawn, text = (draw(tokens) for _ in range(4))
    return Usage(
        input_tokens=read + write_5m + write_1h + audio + seen + plain,
        cache_read_tokens=read,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        output_tokens=reasoning + spoken + drawn + text,
        reasoning_tokens=reasoning,
        audio_input_tokens=audio,
        audio_output_tokens=spoken,
        image_input_tokens=seen,
        image_output_tokens=drawn,
    )


hostile_usage = st.builds(
    Usage,
    **{
        name: st.one_of(st.integers(-10, 500_000), st.integers(-(2**70), 2**70))
        for name in Usage.__dataclass_fields__
    },
)


@given(honest_usage(), rate)
def test_parts_sum_to_the_whole(usage: Usage, rate: int) -> None:
    """With one rate for all kinds only the totals matter: no token is lost or counted twice."""
    expected = round_nanos(Decimal((usage.input_tokens + usage.output_tokens) * rate) / 1_000_000)
    assert cost_nanos(flat(rate), usage) == expected


@given(honest_usage(), rate_cards())
def test_each_kind_at_its_own_rate(usage: Usage, rates: Rates) -> None:
    """Parts that fit in their whole cost their own rates, in the tier that all input reaches."""
    tier = rates
    for start, dearer in rates.long_context:
        tier = dearer if usage.input_tokens > start else tier
    plain = (
        usage.input_tokens
        - usage.cache_read_tokens
        - usage.cache_write_5m_tokens
        - usage.cache_write_1h_tokens
        - usage.audio_input_tokens
        - usage.image_input_tokens
    )
    text = (
        usage.output_tokens
        - usage.reasoning_tokens
        - usage.audio_output_tokens
        - usage.image_output_tokens
    )
    millionths = (
        plain * tier.input
        + usage.cache_read_tokens * tier.cache_read
        + usage.cache_write_5m_tokens * tier.cache_write_5m
        + usage.cache_write_1h_tokens * tier.cache_write_1h
        + usage.audio_input_tokens * tier.audio_input
        + usage.image_input_tokens * tier.image_input
        + text * (tier.text_output if usage.image_output_tokens else tier.output)
        + usage.image_output_tokens * tier.image_output
        + usage.reasoning_tokens * tier.reasoning
        + usage.audio_output_tokens * tier.audio_output
    )
    fee = tier.request_nanos if usage.input_tokens or usage.output_tokens else 0
    assert cost_nanos(rates, usage) == round_nanos(Decimal(millionths) / 1_000_000) + fee


@given(hostile_usage, rate_cards())
def test_hostile_usage_costs_between_nothing_and_what_the_books_hold(
    usage: Usage, rates: Rates
) -> None:
    """Negative counts, counts beyond any column and parts beyond their whole stay in range."""
    assert 0 <= cost_nanos(rates, usage) <= MAX_NANOS


@given(st.one_of(honest_usage(), hostile_usage), rate_cards(), st.integers(0, 9), st.integers(0, 9))
def test_ceiling_bounds_every_cost_within(
    usage: Usage, rates: Rates, more_input: int, more_output: int
) -> None:
    """A hold for as many tokens as were used is never below the cost, hostile usage included."""
    ceiling = ceiling_nanos(
        rates, usage.input_tokens + more_input, usage.output_tokens + more_output
    )
    assert ceiling >= cost_nanos(rates, usage)


@given(
    rate_cards(),
    st.integers(0, 400_000),
    st.integers(0, 400_000),
    st.integers(0, 100_000),
    st.integers(0, 100_000),
)
def test_ceiling_is_monotone(
    rates: Rates, input_tokens: int, output_tokens: int, more_input: int, more_output: int
) -> None:
    """More input or more output never lowers a hold, not even where a tier is cheaper."""
    least = ceiling_nanos(rates, input_tokens, output_tokens)
    assert ceiling_nanos(rates, input_tokens + more_input, output_tokens) >= least
    assert ceiling_nanos(rates, input_tokens, output_tokens + more_output) >= least


def test_tier_rates_the_whole_request_above_its_start() -> None:
    """At the start itself the base rate holds; one token more and all cost the tier's rate."""
    rates = card(dict.fromkeys(KINDS, 1_000_000), 0, ((200, flat(2_000_000)),))
    assert cost_nanos(rates, Usage(input_tokens=200, output_tokens=7)) == 207
    assert cost_nanos(rates, Usage(input_tokens=201, output_tokens=7)) == 2 * 208


def test_tier_is_chosen_by_all_input_cached_included() -> None:
    """A prompt that is mostly cached still crosses into the long-context tier."""
    rates = card(dict.fromkeys(KINDS, 1_000_000), 0, ((200, flat(2_000_000)),))
    assert cost_nanos(rates, Usage(input_tokens=300, cache_read_tokens=290)) == 600


def test_overlap_of_audio_and_cache_is_taken_as_small_as_possible() -> None:
    """Audio and cached tokens are disjoint while they fit; one that must be both is audio."""
    rates = flat(0, audio_input=5_000_000, cache_read=1_000_000, input=2_000_000)
    fits = Usage(input_tokens=10, audio_input_tokens=4, cache_read_tokens=5)
    overlaps = Usage(input_tokens=8, audio_input_tokens=4, cache_read_tokens=5)
    assert cost_nanos(rates, fits) == 4 * 5 + 5 * 1 + 1 * 2
    assert cost_nanos(rates, overlaps) == 4 * 5 + 4 * 1


def test_half_a_nanodollar_is_rounded_once_and_to_even() -> None:
    """The sum is rounded, not its parts, and half a nanodollar goes to the even side."""
    rates = flat(500_000)
    assert cost_nanos(rates, Usage(input_tokens=1)) == 0
    assert cost_nanos(rates, Usage(input_tokens=2, output_tokens=1)) == 2
    assert cost_nanos(rates, Usage(input_tokens=2, output_tokens=3)) == 2


def test_request_fee_is_due_once_a_token_was_used() -> None:
    """Perplexity's fee per request is part of a call's cost and hold, but not of a failed call."""
    rates = found("perplexity", "sonar")
    assert rates.request_nanos == 12_000_000
    assert cost_nanos(rates, Usage()) == 0
    assert cost_nanos(rates, Usage(input_tokens=1000)) == 12_000_000 + 1_000_000
    assert ceiling_nanos(rates, 1000, 0) == 12_000_000 + 1_000_000


PROVIDERS: Final = {provider.id: provider for provider in providers}
PLACES: Final = [(provider.id, i) for provider in providers for i in range(len(provider.models))]
TIERS: Final = ("", "default", "flex", "priority", "fast", "batch")
INSTANTS: Final = st.one_of(
    st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31)),
    st.builds(
        datetime.combine,
        st.sampled_from([datetime(2026, 10, 11), datetime(2026, 10, 12), datetime(2026, 9, 10)]),
        st.sampled_from(
            [
                (datetime(2026, 1, 1) + timedelta(minutes=minutes, microseconds=offset)).time()
                for minutes in (0, 30, 60, 240, 360, 600, 990)
                for offset in (0, -1)
            ]
        ),
    ),
)


def leaf_names(clause: types.MatchLogic) -> list[str]:
    match clause:
        case types.ClauseOr(or_=clauses) | types.ClauseAnd(and_=clauses):
            return [name for inner in clauses for name in leaf_names(inner)]
        case types.ClauseRegex():
            return []
        case _:
            return [str(text) for text in vars(clause).values()]


def names_of(provider: str, position: int) -> list[str]:
    model = PROVIDERS[provider].models[position]
    return [model.id, *leaf_names(model.match)]


def whole_nanos(price: Decimal | types.TieredPrices) -> bool:
    tiers = [price] if isinstance(price, Decimal) else [price.base, *(t.price for t in price.tiers)]
    return all(usd.as_tuple().exponent >= -9 for usd in tiers)  # type: ignore[operator]


def package_usage(usage: Usage) -> genai_prices.Usage:
    return genai_prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        input_audio_tokens=usage.audio_input_tokens,
        cache_audio_read_tokens=0,
        input_image_tokens=usage.image_input_tokens,
        cache_image_read_tokens=0,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        output_audio_tokens=usage.audio_output_tokens,
        output_image_tokens=usage.image_output_tokens,
    )


@settings(max_examples=400, deadline=None)
@given(st.data(), honest_usage(), INSTANTS, st.sampled_from(TIERS))
def test_agrees_with_the_package(
    data: st.DataObject, usage: Usage, instant: datetime, tier: str
) -> None:
    """Any listed model, at any time, in any tier: the package's own total, to the nanodollar.

    Left out is what the price list's module says we do otherwise.
    """
    provider, position = data.draw(st.sampled_from(PLACES), label="model")
    name = data.draw(st.sampled_from(names_of(provider, position)), label="name")
    instant = instant.replace(tzinfo=UTC)
    rates = standard_table().lookup(provider, name, at(instant.isoformat()[:26]), tier)
    assume(rates is not None and (usage.input_tokens or usage.output_tokens))
    assert rates is not None
    calculated = genai_prices.calc_price(
        package_usage(usage),
        name,
        provider_id=provider,
        genai_request_timestamp=instant,
        price_context=dict.fromkeys(("service_tier", "processing", "speed"), tier)
        if tier
        else None,
    )
    listed = {key: usd for key, usd in vars(calculated.model_price).items() if usd is not None}
    told = usage.image_output_tokens > 0
    assume(told or not {"output_image_mtok", "output_video_mtok"} & listed.keys())
    assume(not ("claude" in name.lower() and "cache" in price_source(rates, usage)))
    assume(all(map(whole_nanos, listed.values())))
    assert cost_nanos(rates, usage) == round_nanos(calculated.total_price * 1_000_000_000)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_finds_the_model_that_the_package_finds(data: st.DataObject) -> None:
    """Names as listed, with prefix or suffix, in capitals or with a compact date: same rates."""
    provider, position = data.draw(st.sampled_from(PLACES), label="model")
    name = data.draw(st.sampled_from(names_of(provider, position)), label="name")
    name = data.draw(
        st.sampled_from(
            [name, name.upper(), f"us.{name}", f"{name}-20251211", f"{name}:free", name[:-1]]
        ),
        label="spelled",
    )
    rates = standard_table().lookup(provider, name, NOW)
    theirs = PROVIDERS[provider].find_model(name, all_providers=providers)
    if theirs is None:
        assert rates is None or (provider == "google" and "/" in name) or provider == "aws"
        return
    listed = theirs.get_prices(datetime(2026, 11, 20, 12, tzinfo=UTC))
    text = getattr(listed, "input_mtok", None)
    if isinstance(text, types.TieredPrices):
        text = text.base
    if text is None:
        assert rates is None or rates.source.endswith("listed-free")
    else:
        assert rates is not None
        assert rates.input == round_nanos(text * USD_PER_MILLION)
        assert rates.context_tokens == theirs.context_window


@pytest.mark.parametrize(
    ("provider", "model", "usd_input", "usd_output"),
    [
        ("openai", "gpt-4o-2024-08-06", "2.5", "10"),
        ("azure", "gpt-4o-2024-08-06", "2.5", "10"),
        ("openai", "gpt-4o-mini-2024-07-18", "0.15", "0.6"),
        ("anthropic", "claude-sonnet-4-5-20250929", "3", "15"),
        ("gemini", "gemini-2.5-flash", "0.3", "2.5"),
        ("gemini", "models/gemini-2.5-flash", "0.3", "2.5"),
        ("bedrock", "anthropic.claude-sonnet-4-20250514-v1:0", "3", "15"),
        ("groq", "llama-3.3-70b-versatile", "0.59", "0.79"),
        ("openrouter", "anthropic/claude-sonnet-4.5", "3", "15"),
        ("openai", "text-embedding-3-small", "0.02", "0"),
    ],
)
def test_known_prices(provider: str, model: str, usd_input: str, usd_output: str) -> None:
    """What providers publish, by the names that the gateway and their answers use."""
    rates = found(provider, model)
    assert rates.input == Decimal(usd_input) * USD_PER_MILLION
    assert rates.output == Decimal(usd_output) * USD_PER_MILLION


def test_unknown_is_unpriced_not_free() -> None:
    """Unknown providers and models, and models billed by the hour or character, have no rates."""
    table = standard_table()
    assert table.lookup("openai", "gpt-99-imaginary", NOW) is None
    assert table.lookup("my-own-vllm", "gpt-4o", NOW) is None
    assert table.lookup("openai", "", NOW) is None
    assert table.lookup("openai", "whisper-1", NOW) is None
    assert table.lookup("openai", "tts-1", NOW) is None
    assert table.lookup("openai", "gpt-4o" * 1000, NOW) is None


def test_free_is_zero_and_says_so() -> None:
    """A model that its list calls free costs nothing, and its source says why."""
    rates = found("openrouter", "deepseek/deepseek-r1:free", NOW)
    assert cost_nanos(rates, Usage(input_tokens=10**6, output_tokens=10**6)) == 0
    assert rates.source == "genai-prices, listed-free"


def test_every_listed_model_without_a_price_was_looked_at() -> None:
    """No release of the price list makes a model free before somebody has said so."""
    unpriced = {
        (provider.id, model.id)
        for provider in providers
        for model in provider.models
        if isinstance(model.prices, types.ModelPrice)
        and not any(vars(model.prices).values())
        and not model.id.endswith(":free")
    }
    assert unpriced - FREE == {
        ("cerebras", "qwen-3-coder-480b"),
        ("huggingface_together", "ServiceNow-AI/Apriel-1.6-15b-Thinker"),
        ("huggingface_together", "prism-ml/Ternary-Bonsai-27B-AWQ-4bit"),
        ("huggingface_together", "prism-ml/Ternary-Bonsai-27B-gguf"),
        ("openrouter", "gemini-2.5-pro-exp-03-25"),
        ("openrouter", "google/gemini-flash-1.5-8b-exp"),
        ("openrouter", "google/lyria-3-clip-preview"),
        ("openrouter", "google/lyria-3-pro-preview"),
        ("openrouter", "stealth/crouton-alpha"),
    }
    assert unpriced >= FREE


def test_service_tiers_have_their_own_price() -> None:
    """Priority costs more, flex and batch less, and `auto` or `default` the standard price."""
    standard = found("openai", "gpt-5")
    assert found("openai", "gpt-5", NOW, "default") == standard
    assert found("openai", "gpt-5", NOW, "auto") == standard
    assert found("openai", "gpt-5", NOW, "priority").output == 2 * standard.output
    assert found("openai", "gpt-5", NOW, "flex").output * 2 == standard.output
    assert found("openai", "gpt-5", NOW, "batch").output * 2 == standard.output
    assert found("openai", "gpt-5", NOW, "flex").source == "genai-prices"


@pytest.mark.parametrize(
    ("provider", "model", "instant", "tier"),
    [
        ("openai", "gpt-5", "2026-11-20T12:00:00", "scale"),
        ("openai", "gpt-5", "2026-11-20T12:00:00", "x" * 10_000),
        ("openai", "gpt-5", "2026-01-01T00:00:00", "flex"),
        ("azure", "gpt-5", "2026-11-20T12:00:00", "priority"),
    ],
)
def test_unpriced_service_tier_takes_the_standard_price_and_says_so(
    provider: str, model: str, instant: str, tier: str
) -> None:
    """A tier not priced, not yet, or not for this provider is never silently standard."""
    standard = found(provider, model, at(instant))
    rates = found(provider, model, at(instant), tier)
    assert rates.output == standard.output
    assert rates.source == "genai-prices, standard-tier-assumed"


def test_prices_change_at_midnight_utc_of_their_date() -> None:
    """A dated price holds from its first microsecond; the call's own time decides, not today's."""
    before = found("openai", "gpt-5", at("2026-10-11T23:59:59.999999"), "flex")
    after = found("openai", "gpt-5", at("2026-10-12T00:00:00"), "flex")
    assert before.output == 2 * after.output


def test_prices_change_with_the_time_of_day() -> None:
    """DeepSeek's day price starts at 00:30 UTC and ends at 16:30."""
    seen = [
        found("deepseek", "deepseek-chat", at(f"2025-03-01T{time}")).output
        for time in ("00:29:59.999999", "00:30:00", "16:29:59.999999", "16:30:00")
    ]
    assert seen == [550_000_000, 1_100_000_000, 1_100_000_000, 550_000_000]


def test_claude_cache_writes_without_a_listed_price() -> None:
    """What Anthropic documents is taken; the source says so for calls that wrote to the cache."""
    rates = found("bedrock", "us.anthropic.claude-sonnet-4-20250514-v1:0")
    assert rates.cache_write_1h == 2 * rates.input
    plain = Usage(input_tokens=10)
    written = Usage(input_tokens=10, cache_write_1h_tokens=4)
    assert price_source(rates, plain) == "genai-prices"
    assert price_source(rates, written) == "genai-prices, cache-write-1h-assumed"


def test_assumptions_are_named_where_they_matter() -> None:
    """A cache read without a price costs plain input; audio that may be cached costs audio."""
    rates = found("deepseek", "deepseek-v3.2")
    cached = Usage(input_tokens=10, cache_read_tokens=10)
    assert rates.cache_read == rates.input
    assert price_source(rates, cached) == "genai-prices, cache-read-assumed"
    spoken = Usage(input_tokens=10, audio_input_tokens=5, cache_read_tokens=3)
    assert (
        price_source(found("openai", "gpt-realtime"), spoken)
        == "genai-prices, input-assumed, audio-not-cached-assumed"
    )


def test_output_of_picture_models_costs_pictures() -> None:
    """Usage does not tell pictures from text: their dearer rate is taken; thoughts are text."""
    rates = found("gemini", "gemini-2.5-flash-image")
    assert rates.output == 30 * USD_PER_MILLION
    assert rates.reasoning == Decimal("2.5") * USD_PER_MILLION
    assert price_source(rates, Usage(output_tokens=1)) == "genai-prices, output-assumed"


def test_hold_covers_cache_writes_and_the_long_context_tier() -> None:
    """Anthropic's hold is for the dearest write, beyond 200,000 tokens in the dear tier."""
    rates = found("anthropic", "claude-sonnet-4-5")
    assert ceiling_nanos(rates, 1_000, 0) == 6_000_000
    assert ceiling_nanos(rates, 200_001, 0) == 200_001 * 12_000
    assert ceiling_nanos(rates, 1_000, 1_000) == 6_000_000 + 15_000_000


def test_binary_floats_in_the_list_are_rounded_away() -> None:
    """`0.18000000000000002` dollars in the source is 0.18 dollars here."""
    rates = found("huggingface_together", "Qwen/Qwen3-VL-8B-Instruct")
    assert rates.input == 180_000_000


def test_invented_names_do_not_grow_the_table() -> None:
    """Clients choose the names of models and tiers: what is remembered of them stays bounded."""
    table = pickle.loads(pickle.dumps(standard_table()))
    for number in range(prices.REMEMBERED_NAMES + 100):
        assert table.lookup("openai", f"invented-{number}", NOW, f"tier-{number}") is None
    remembered = table._schedule.cache_info()
    assert remembered.currsize == remembered.maxsize == prices.REMEMBERED_NAMES
    for number in range(100):
        table.lookup("openai", "gpt-5", NOW, f"tier-{number}")
    assert table._schedule.cache_info().misses == remembered.misses + 1


def test_a_pickled_table_prices_alike() -> None:
    """One process may compile the table for others."""
    table = pickle.loads(pickle.dumps(standard_table()))
    assert table.version == standard_table().version == "genai-prices-0.2.3"
    assert table.lookup("deepseek", "deepseek-chat", NOW) == found("deepseek", "deepseek-chat")


def test_the_pure_table_needs_no_price_list() -> None:
    """Importing `ledger.prices` does not load the package, which takes most of a second."""
    code = "import sys, ledger.prices; sys.exit(any('genai' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_first_matching_model_wins() -> None:
    """A name that several models match is the first's; a pattern may precede an exact name."""
    cards = [Schedule((0,), (((0, flat(rate)),),)) for rate in (1, 2, 3)]
    listed = PriceList(
        models=tuple(PricedModel(card, {}) for card in cards),
        names={"a-1": 0, "b-9": 2},
        patterns=((0, (re.compile("x"), re.compile("y"))), (1, (re.compile(r"\Ab-"),))),
    )
    table = RateTable("test", {"p": listed, "q": PriceList((), {}, fallbacks=("p", "gone"))})

    def rate_of(provider: str, name: str) -> int | None:
        rates = table.lookup(provider, name, 0)
        return rates.input if rates else None

    assert rate_of("p", "a-1") == 1
    assert rate_of("p", "b-9") == 2
    assert rate_of("p", "y-x") == 1
    assert rate_of("p", "y") is None
    assert rate_of("q", "B-9") == 2
    assert rate_of("q", "nothing") is None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openrouter", "anthropic/claude-sonnet-4.5"),
        ("groq", "llama-3.3-70b-versatile"),
        ("deepseek", "deepseek-chat"),
        ("mistral", "mistral-large-latest"),
        ("together-ai", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("grok", "grok-4.6"),
    ],
)
def test_a_host_is_priced_by_its_own_list(provider: str, model: str) -> None:
    """Its name, or a common spelling of it, is the list's."""
    assert found(provider, model).input > 0


def test_a_host_by_another_name_is_unpriced_until_it_is_given_a_list() -> None:
    """No list is guessed; the version says which was chosen, and the choice can be pickled."""
    table = standard_table()
    assert table.lookup("router", "openai/gpt-4o-mini", NOW) is None
    named = pickle.loads(pickle.dumps(table.named(list_names("Router=OpenRouter"))))
    assert named.lookup("router", "openai/gpt-4o-mini", NOW) == found(
        "openrouter", "openai/gpt-4o-mini"
    )
    assert named.lookup("x", "openai/gpt-4o-mini", NOW) is None
    assert named.version == table.version + " router=openrouter"
    assert table.named({"router": "no-such-list"}).lookup("router", "gpt-4o", NOW) is None
    assert "openrouter" in table.lists


def test_pictures_cost_their_own_rate_only_where_they_are_told_apart() -> None:
    """Else the whole output costs what pictures do, and the price says that this was assumed."""
    rates = found("openai", "gpt-image-1.5")
    told = Usage(input_tokens=10, output_tokens=100, image_output_tokens=90)
    assert cost_nanos(rates, told) == 10 * 5_000 + 90 * 32_000 + 10 * 10_000
    assert price_source(rates, told) == "genai-prices"
    untold = Usage(input_tokens=10, output_tokens=100)
    assert cost_nanos(rates, untold) == 10 * 5_000 + 100 * 32_000
    assert "output-assumed" in price_source(rates, untold)


@given(honest_usage(), rate_cards(), st.integers(0, MAX_NANOS))
def test_writes_are_a_part_of_the_cost(usage: Usage, rates: Rates, cost: int) -> None:
    """Both kinds together never cost more than the call; without writes they cost nothing."""
    short, long = cache_write_nanos(rates, usage, cost)
    assert short >= 0
    assert long >= 0
    assert short + long <= cost
    plain = replace(usage, cache_write_5m_tokens=0, cache_write_1h_tokens=0)
    assert cache_write_nanos(rates, plain, cost) == (0, 0)


def test_writes_cost_what_their_tokens_do() -> None:
    """Priced by the same rates, to the nanodollar."""
    rates = found("anthropic", "claude-sonnet-4-5")
    usage = Usage(
        input_tokens=3000, cache_write_5m_tokens=1000, cache_write_1h_tokens=500, output_tokens=9
    )
    cost = cost_nanos(rates, usage)
    assert cache_write_nanos(rates, usage, cost) == (1000 * 3_750, 500 * 6_000)
    assert cache_write_nanos(rates, usage, cost // 2)[0] == 1000 * 3_750 // 2


@pytest.mark.parametrize(
    ("name", "usd"),
    [
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "3"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("ca.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("apac.amazon.nova-2-lite-v1:0", "0.33"),
        ("us-gov.amazon.nova-pro-v1:0:300k", "0.8"),
        ("apac.anthropic.claude-opus-5-v1:0", "5.5"),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/"
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "3",
        ),
        ("arn:aws:bedrock:us-east-1::foundation-model/meta.llama3-1-8b-instruct-v1:0", "0.22"),
    ],
)
def test_bedrock_s_names_are_found_with_any_region_and_as_arns(name: str, usd: str) -> None:
    """A profile of a region that the list does not name costs what the others do."""
    assert found("bedrock", name).input == int(Decimal(usd) * 1_000_000_000)


def test_an_arn_that_hides_its_model_has_no_price() -> None:
    """A setting says what is behind it; until then it is unpriced."""
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
    assert standard_table().lookup("bedrock", arn, NOW) is None


@pytest.mark.parametrize(
    ("model", "usage", "nanos"),
    [
        # $0.30 in, $0.03 cached, $1 of sound, $2.50 out, thoughts included, a million tokens.
        ("gemini-2.5-flash", Usage(input_tokens=1000, cache_read_tokens=400), 600 * 300 + 400 * 30),
        ("gemini-2.5-flash", Usage(input_tokens=1000, audio_input_tokens=400), 580_000),
        ("gemini-2.5-flash", Usage(output_tokens=100, reasoning_tokens=90), 100 * 2500),
        # Up to 200,000 tokens of input, and the whole request beyond.
        ("gemini-2.5-pro", Usage(input_tokens=200_000, output_tokens=10), 200_000 * 1250 + 100_000),
        ("gemini-2.5-pro", Usage(input_tokens=200_001, output_tokens=10), 200_001 * 2500 + 150_000),
        (
            "gemini-2.5-pro",
            Usage(input_tokens=300_000, cache_read_tokens=300_000, reasoning_tokens=5),
            300_000 * 250,
        ),
        ("gemini-2.5-flash-preview-tts", Usage(output_tokens=9, audio_output_tokens=9), 90_000),
        ("gemini-embedding-001", Usage(input_tokens=1000), 150_000),
        ("gemini-2.0-flash-001", Usage(input_tokens=1000), 100_000),
        ("models/gemini-3-pro-preview", Usage(input_tokens=200_001), 200_001 * 4000),
        ("publishers/google/models/gemini-2.5-flash", Usage(input_tokens=10), 3000),
    ],
)
def test_gemini_is_priced_by_tier_and_kind(model: str, usage: Usage, nanos: int) -> None:
    """Long prompts, cached input, sound and thoughts, by the names that paths and answers use."""
    assert cost_nanos(found("gemini", model), usage) == nanos


def test_sound_from_the_cache_errs_on_the_dear_side() -> None:
    """Usage does not say what is both, so the price of sound is taken, and the source says so."""
    rates = found("gemini", "gemini-2.5-flash")
    usage = Usage(input_tokens=100, audio_input_tokens=100, cache_read_tokens=100)
    assert cost_nanos(rates, usage) == 100 * 1000
    assert price_source(rates, usage) == "genai-prices, audio-not-cached-assumed"
