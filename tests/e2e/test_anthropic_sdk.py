"""The official Anthropic SDK through the gateway: it notices nothing, and every call is booked."""

import asyncio
from typing import Any

import anthropic
import pytest

from tests.e2e.conftest import wish
from tests.e2e.stack import COST, EVENT_ID, Stack, cost_of
from tests.e2e.test_openai_sdk import tokens_of

ASK: Any = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 200,
    "messages": [{"role": "user", "content": "Who was late?"}],
}


def test_a_message_with_cache_is_booked_as_billed(
    stack: Stack, claude: anthropic.Anthropic
) -> None:
    """Cache tokens, which Anthropic reports beside its input, are contained in ours once."""
    raw = claude.messages.with_raw_response.create(
        **ASK, extra_headers=wish(cached=5000, cache_write=700)
    )
    assert raw.parse().content
    event = stack.booked(raw.headers)
    bill = stack.fake.bill(raw.headers["x-request-id"])
    assert event["cost_nanos"] == cost_of(tokens_of(bill), "claude-sonnet-4-6", "anthropic")
    assert round(float(raw.headers[COST]) * 1e9) == event["cost_nanos"]
    assert (event["operation"], event["provider"]) == ("messages", "anthropic")


def test_both_kinds_of_cache_writes(stack: Stack, claude: anthropic.Anthropic) -> None:
    """Five minutes and one hour are counted apart, for they cost differently."""
    raw = claude.messages.with_raw_response.create(
        **ASK, extra_headers=wish(cache_write=1000, cache_write_1h=1000)
    )
    event = stack.booked(raw.headers)
    assert (event["cache_write_5m_tokens"], event["cache_write_1h_tokens"]) == (1000, 1000)


def test_a_stream_is_booked_as_billed(stack: Stack, claude: anthropic.Anthropic) -> None:
    """message_delta's usage is the total, not one more."""
    with claude.messages.stream(**ASK, extra_headers=wish(cached=90, output_tokens=40)) as stream:
        text = "".join(stream.text_stream)
        headers = stream.response.headers
    assert len(text.split()) == 40
    event = stack.booked(headers)
    assert (event["streamed"], event["output_tokens"]) == (True, 40)


def test_leaving_a_stream_early_is_estimated(stack: Stack, claude: anthropic.Anthropic) -> None:
    """The input is known from message_start, the output is estimated from the text."""
    stream = claude.messages.create(
        **{**ASK, "max_tokens": 3000},
        stream=True,
        extra_headers=wish(output_tokens=2000, delay_ms=5),
    )
    for number, _ in enumerate(stream):
        if number == 60:
            break
    stream.close()
    event = stack.event(stream.response.headers[EVENT_ID])
    bill = stack.fake.bill(stream.response.headers["x-request-id"])
    assert (event["outcome"], event["usage_source"]) == ("client_gone", "estimated")
    assert event["input_tokens"] == bill["input_tokens"]
    assert 0.3 * bill["output_tokens"] <= event["output_tokens"] <= 4 * bill["output_tokens"]


def test_an_error_in_the_middle_of_a_stream(stack: Stack, claude: anthropic.Anthropic) -> None:
    """The SDK raises the provider's error; the event keeps what was used until then."""
    stream = claude.messages.create(**ASK, stream=True, extra_headers=wish(stream_error=True))
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        list(stream)
    event = stack.event(stream.response.headers[EVENT_ID])
    assert event["outcome"] == "provider_error"
    assert event["input_tokens"] > 0


def test_counting_tokens_is_free(stack: Stack, claude: anthropic.Anthropic) -> None:
    """count_tokens passes and costs nothing."""
    raw = claude.messages.with_raw_response.count_tokens(
        model=ASK["model"], messages=ASK["messages"]
    )
    assert raw.parse().input_tokens > 0
    event = stack.event(raw.headers[EVENT_ID])
    assert (event["operation"], event["cost_nanos"]) == ("other", 0)


def test_bare_messages_are_anthropic_s(stack: Stack, key: dict[str, Any]) -> None:
    """`/v1/messages` without a prefix goes to Anthropic."""
    with anthropic.Anthropic(base_url=stack.gateway, api_key=key["key"]) as client:
        raw = client.messages.with_raw_response.create(**ASK)
    assert stack.booked(raw.headers)["provider"] == "anthropic"


async def test_the_async_client(stack: Stack, key: dict[str, Any]) -> None:
    """Concurrent asynchronous streams, each booked as billed."""
    url = f"{stack.gateway}/anthropic"
    async with anthropic.AsyncAnthropic(base_url=url, auth_token=key["key"]) as client:

        async def one(number: int) -> Any:
            async with client.messages.stream(
                **ASK, extra_headers=wish(output_tokens=number + 2)
            ) as stream:
                await stream.get_final_message()
                return stream.response.headers

        heads = await asyncio.gather(*(one(number) for number in range(10)))
    for number, head in enumerate(heads):
        event = await asyncio.to_thread(stack.booked, head)
        assert event["output_tokens"] == number + 2
