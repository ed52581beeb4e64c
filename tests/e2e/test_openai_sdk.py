"""The official OpenAI SDK through the gateway: it notices nothing, and every call is booked."""

import asyncio
from typing import Any

import openai
import pytest

from ledger.fake_provider.speech import Tokens
from tests.e2e.conftest import wish
from tests.e2e.fake import TOKENS, Bill
from tests.e2e.stack import COST, EVENT_ID, Stack, cost_of

CHAT: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Who was late?"}]}


def tokens_of(bill: Bill) -> Tokens:
    """A bill's counts."""
    return Tokens(**{name: bill[name] for name in TOKENS})


def test_a_chat_is_booked_as_billed(stack: Stack, client: openai.OpenAI) -> None:
    """Tokens and cost of the event are the fake's bill; the cost is in the answer's head."""
    raw = client.chat.completions.with_raw_response.create(
        **CHAT, extra_headers=wish(cached=400, reasoning=3, output_tokens=9)
    )
    assert raw.parse().choices[0].message.content
    event = stack.booked(raw.headers)
    bill = stack.fake.bill(raw.headers["x-request-id"])
    assert event["cost_nanos"] == cost_of(tokens_of(bill), "gpt-4o", "openai")
    assert round(float(raw.headers[COST]) * 1e9) == event["cost_nanos"]
    assert (event["team"], event["agent"], event["owner"]) == ("risk", "scout", "ann")
    assert (event["operation"], event["streamed"], event["outcome"]) == ("chat", False, "ok")
    assert event["route"] == "POST /v1/chat/completions"


def test_a_stream_without_usage_is_booked_and_stays_without(
    stack: Stack, client: openai.OpenAI
) -> None:
    """The usage chunk is asked for upstream and taken out again: `choices[0]` never fails."""
    stream = client.chat.completions.create(**CHAT, stream=True, extra_headers=wish(reasoning=5))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert len(text.split()) == 12
    event = stack.booked(stream.response.headers)
    assert event["streamed"]
    assert COST not in stream.response.headers


def test_a_stream_that_asked_for_usage_gets_it(stack: Stack, client: openai.OpenAI) -> None:
    """A client's own include_usage is left alone."""
    stream = client.chat.completions.create(
        **CHAT, stream=True, stream_options={"include_usage": True}
    )
    usage = [chunk.usage for chunk in stream if not chunk.choices]
    assert len(usage) == 1
    event = stack.booked(stream.response.headers)
    assert usage[0] is not None
    assert event["output_tokens"] == usage[0].completion_tokens


def test_several_choices(stack: Stack, client: openai.OpenAI) -> None:
    """All choices are paid for, whole and streamed."""
    raw = client.chat.completions.with_raw_response.create(**CHAT, n=3)
    assert len(raw.parse().choices) == 3
    assert stack.booked(raw.headers)["output_tokens"] == 36
    stream = client.chat.completions.create(**CHAT, n=2, stream=True)
    assert {chunk.choices[0].index for chunk in stream} == {0, 1}
    assert stack.booked(stream.response.headers)["output_tokens"] == 24


def test_with_streaming_response(stack: Stack, client: openai.OpenAI) -> None:
    """A body that the client reads at its own pace."""
    with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
        assert "chat.completion" in "".join(answer.iter_text())
    stack.booked(answer.headers)


def test_leaving_a_stream_early_is_estimated(stack: Stack, client: openai.OpenAI) -> None:
    """A client that breaks out pays for about what was generated, and the event says so."""
    stream = client.chat.completions.create(
        **CHAT, stream=True, extra_headers=wish(output_tokens=2000, delay_ms=5)
    )
    for number, _ in enumerate(stream):
        if number == 50:
            break
    stream.close()
    event = stack.event(stream.response.headers[EVENT_ID])
    bill = stack.fake.bill(stream.response.headers["x-request-id"])
    assert bill["client_gone"]
    assert (event["outcome"], event["usage_source"]) == ("client_gone", "estimated")
    assert 0.3 * bill["output_tokens"] <= event["output_tokens"] <= 4 * bill["output_tokens"]
    assert event["cost_nanos"] > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_responses(stack: Stack, client: openai.OpenAI, streamed: bool) -> None:
    """The Responses API, whole and streamed."""
    wanted = wish(cached=70, reasoning=4)
    if streamed:
        stream = client.responses.create(
            model="gpt-4o", input="Who was late?", stream=True, extra_headers=wanted
        )
        assert [event.type for event in stream][-1] == "response.completed"
        headers = stream.response.headers
    else:
        raw = client.responses.with_raw_response.create(
            model="gpt-4o", input="Who was late?", extra_headers=wanted
        )
        assert len(raw.parse().output_text.split()) == 12
        headers = raw.headers
    event = stack.booked(headers)
    assert (event["operation"], event["cache_read_tokens"]) == ("responses", 70)


@pytest.mark.parametrize("wishes", [{"stream_error": True}, {}], ids=["failed", "incomplete"])
def test_responses_that_do_not_complete(
    stack: Stack, client: openai.OpenAI, wishes: dict[str, object]
) -> None:
    """`response.failed` and `response.incomplete` carry usage too."""
    stream = client.responses.create(
        model="gpt-4o", input="x", stream=True, max_output_tokens=8, extra_headers=wish(**wishes)
    )
    last = [event.type for event in stream][-1]
    assert last == ("response.failed" if wishes else "response.incomplete")
    event = stack.booked(stream.response.headers)
    assert event["outcome"] == ("provider_error" if wishes else "ok")


def test_legacy_completions_and_embeddings(stack: Stack, client: openai.OpenAI) -> None:
    """The older API streams like the newer; embeddings cost input only."""
    stream = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hi", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream)
    assert stack.booked(stream.response.headers)["operation"] == "completions"
    raw = client.embeddings.with_raw_response.create(
        model="text-embedding-3-small", input=["one", "two"]
    )
    assert len(raw.parse().data) == 2
    event = stack.booked(raw.headers)
    assert (event["operation"], event["output_tokens"]) == ("embeddings", 0)
    assert event["cost_nanos"] is not None


async def test_the_async_client(stack: Stack, key: dict[str, Any]) -> None:
    """Concurrent asynchronous calls, whole and streamed, each booked as billed."""
    url = f"{stack.gateway}/openai/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=key["key"]) as client:

        async def one(number: int) -> Any:
            wanted = wish(output_tokens=number + 1)
            if number % 2:
                stream = await client.chat.completions.create(
                    **CHAT, stream=True, extra_headers=wanted
                )
                async for chunk in stream:
                    assert chunk.choices
                return stream.response.headers
            raw = await client.chat.completions.with_raw_response.create(
                **CHAT, extra_headers=wanted
            )
            return raw.headers

        heads = await asyncio.gather(*(one(number) for number in range(20)))
    assert len({head[EVENT_ID] for head in heads}) == 20
    booked = [await asyncio.to_thread(stack.booked, head) for head in heads]
    assert [event["output_tokens"] for event in booked] == list(range(1, 21))


def test_azure(stack: Stack, key: dict[str, Any]) -> None:
    """A deployment's name is not its model: the answer's model is booked and priced."""
    with openai.AzureOpenAI(
        azure_endpoint=f"{stack.gateway}/azure", api_key=key["key"], api_version="2024-10-21"
    ) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="our-deployment", messages=CHAT["messages"], extra_headers=wish(model="gpt-4o")
        )
        stream = client.chat.completions.create(
            model="our-deployment",
            messages=CHAT["messages"],
            stream=True,
            extra_headers=wish(model="gpt-4o"),
        )
        chunks = list(stream)
    # Azure's own first chunk has no choices either, and must stay.
    assert [len(chunk.choices) for chunk in chunks].count(0) == 1
    for headers in (raw.headers, stream.response.headers):
        event = stack.booked(headers)
        assert (event["provider"], event["model"]) == ("azure", "gpt-4o")
        assert event["cost_nanos"] > 0


def test_bare_paths_are_openai_s(stack: Stack, key: dict[str, Any]) -> None:
    """Without a prefix `/v1/...` goes to OpenAI."""
    with openai.OpenAI(base_url=f"{stack.gateway}/v1", api_key=key["key"]) as client:
        raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert stack.booked(raw.headers)["provider"] == "openai"


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_provider_s_error_reaches_the_sdk(stack: Stack, key: dict[str, Any], status: int) -> None:
    """The SDK raises what it would without us; each try is an event without tokens."""
    url = f"{stack.gateway}/openai/v1"
    with (
        openai.OpenAI(base_url=url, api_key=key["key"], max_retries=0) as client,
        pytest.raises(openai.APIStatusError, match=f"asked for {status}") as caught,
    ):
        client.chat.completions.create(**CHAT, extra_headers=wish(status=status))
    assert caught.value.status_code == status
    event = stack.event(caught.value.response.headers[EVENT_ID])
    assert (event["outcome"], event["http_status"]) == ("provider_error", status)
    assert (event["input_tokens"], event["cost_nanos"]) == (0, 0)


def test_models_are_other(stack: Stack, client: openai.OpenAI) -> None:
    """A path that carries no tokens passes and is recorded as `other`."""
    listed = client.models.with_raw_response.list()
    assert "gpt-4o" in [model.id for model in listed.parse()]
    event = stack.event(listed.headers[EVENT_ID])
    assert (event["operation"], event["cost_nanos"], event["outcome"]) == ("other", 0, "ok")
