"""Gemini on the real stack: every form with plain HTTP, Google's own SDK, budgets that hold."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import errors, types

from tests.e2e.budgeted import billed, refusals, settled, team
from tests.e2e.conftest import wish
from tests.e2e.fake import Fake
from tests.e2e.stack import COST, EVENT_ID, Stack, cost_of
from tests.e2e.test_openai_sdk import tokens_of

MODEL = "gemini-2.5-flash"
PATH = f"/gemini/v1beta/models/{MODEL}"
ASK: Any = {"contents": [{"role": "user", "parts": [{"text": "Who was late?"}]}]}
FORMS = {
    "whole": "generateContent",
    "sse": "streamGenerateContent?alt=sse",
    "array": "streamGenerateContent",
}
every_form = pytest.mark.parametrize("form", FORMS)
streams = pytest.mark.parametrize("form", ["sse", "array"])


def post(
    stack: Stack,
    key: str,
    path: str,
    body: Any = None,
    place: str = "x-goog-api-key",
    **wishes: Any,
) -> httpx.Response:
    """One call, with the key as Google's clients send it; not decoded, whatever its status."""
    headers = {**wish(**wishes), "accept-encoding": "identity"}
    if place != "query":
        headers[place] = f"Bearer {key}" if place == "authorization" else key
    else:
        path += f"{'&' if '?' in path else '?'}key={key}"
    return httpx.post(stack.gateway + path, json=body or ASK, headers=headers, timeout=60)


@every_form
@pytest.mark.parametrize(
    "wishes",
    [
        {"output_tokens": 25},
        {"cached": 4000, "reasoning": 30, "output_tokens": 50, "chunk_tokens": 7},
        {"tool_input": 300, "audio_input": 64, "chunk_bytes": 11},
        {"blocked": True},
    ],
    ids=str,
)
def test_a_call_is_booked_as_billed(
    stack: Stack, fake: Fake, key: dict[str, Any], form: str, wishes: dict[str, Any]
) -> None:
    """Whole, as events and as an array; and the client has the provider's bytes."""
    answer = post(stack, key["key"], f"{PATH}:{FORMS[form]}", **wishes)
    assert answer.status_code == 200, answer.text
    assert answer.content == fake.sent(answer.headers["x-request-id"])
    event = stack.booked(answer.headers)
    assert (event["provider"], event["operation"]) == ("gemini", "generate")
    assert (event["streamed"], event["outcome"]) == (form != "whole", "ok")
    assert event["model_requested"] == MODEL
    bill = fake.bill(answer.headers["x-request-id"])
    assert event["provider_response_id"] == bill["response_id"]
    read, cached, audio = (
        bill[name] for name in ("input_tokens", "cache_read_tokens", "audio_input_tokens")
    )
    expected = (read - cached - audio) * 300 + cached * 30 + audio * 1000
    assert event["cost_nanos"] == expected + bill["output_tokens"] * 2500
    if form == "whole":
        assert round(float(answer.headers[COST]) * 1e9) == event["cost_nanos"]
    else:
        assert COST not in answer.headers


def test_a_long_prompt_is_billed_at_the_long_rates(stack: Stack, key: dict[str, Any]) -> None:
    """Beyond 200,000 tokens the whole request is dearer, its thoughts included."""
    path = "/gemini/v1beta/models/gemini-2.5-pro:generateContent"
    wishes: Any = {"extra_input": 210_000, "cached": 5_000, "reasoning": 40, "output_tokens": 60}
    answer = post(stack, key["key"], path, **wishes)
    event = stack.booked(answer.headers)
    tokens = tokens_of(stack.fake.bill(answer.headers["x-request-id"]))
    assert event["cost_nanos"] == cost_of(tokens, "gemini-2.5-pro", "google")
    assert event["cost_nanos"] > 210_000 * 2500


@streams
def test_a_stream_that_the_provider_breaks(stack: Stack, key: dict[str, Any], form: str) -> None:
    """An error in its middle, or no end: what was made by then is charged."""
    answer = post(
        stack, key["key"], f"{PATH}:{FORMS[form]}", stream_error=True, output_tokens=40, delay_ms=1
    )
    assert answer.status_code == 200
    event = stack.event(answer.headers[EVENT_ID])
    assert (event["outcome"], event["output_tokens"]) == ("provider_error", 20)
    assert event["input_tokens"] > 0


@streams
def test_leaving_a_stream_early_charges_what_was_said(
    stack: Stack, key: dict[str, Any], form: str
) -> None:
    """By the last counts that came, or by the text where it says more."""
    url = f"{stack.gateway}{PATH}:{FORMS[form]}"
    headers = {"x-goog-api-key": key["key"], **wish(output_tokens=2000, delay_ms=5)}
    with httpx.stream("POST", url, json=ASK, headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()
        for _ in range(300):
            next(lines)
    event = stack.event(answer.headers[EVENT_ID])
    bill = stack.fake.bill(answer.headers["x-request-id"])
    assert bill["client_gone"]
    assert event["outcome"] == "client_gone"
    assert 0 < event["output_tokens"] < 2000
    assert event["input_tokens"] == bill["input_tokens"]
    assert abs(event["output_tokens"] - bill["output_tokens"]) <= bill["output_tokens"] // 2


@every_form
def test_an_error_of_the_provider_passes(stack: Stack, key: dict[str, Any], form: str) -> None:
    """In its own words, also where it is the one element of an array; it costs nothing."""
    answer = post(stack, key["key"], f"{PATH}:{FORMS[form]}", status=503)
    assert answer.status_code == 503
    found = answer.json()
    [found] = found if form == "array" else [found]
    assert found["error"]["status"] == "UNAVAILABLE"
    event = stack.event(answer.headers[EVENT_ID])
    assert (event["outcome"], event["cost_nanos"]) == ("provider_error", 0)


@pytest.mark.parametrize(
    "path",
    [
        f"/gemini/v1/models/{MODEL}:generateContent",
        f"/gemini/v1beta/models/{MODEL}%3AgenerateContent",
        f"/gemini//v1beta/./models/{MODEL}:generateContent",
        f"/gemini/v1beta/x/../models/{MODEL}:generateContent?alt=json",
        f"/gemini/v1/projects/p/locations/l/publishers/google/models/{MODEL}:generateContent",
    ],
)
def test_every_spelling_of_the_path_is_metered(
    stack: Stack, key: dict[str, Any], path: str
) -> None:
    """Whatever the provider makes of it, the call is on record as what it is."""
    answer = post(stack, key["key"], path)
    event = stack.event(answer.headers[EVENT_ID])
    assert (event["operation"], event["model_requested"]) == ("generate", MODEL)
    assert event["cost_nanos"] > 0


@pytest.mark.parametrize("place", ["x-goog-api-key", "query", "authorization", "x-tollkeeper-key"])
def test_the_key_never_reaches_the_provider(
    stack: Stack, fake: Fake, key: dict[str, Any], place: str
) -> None:
    """Wherever Google's clients put it; the rest of the query stays as it was."""
    answer = post(stack, key["key"], f"{PATH}:streamGenerateContent?alt=sse&%24x=1", None, place)
    assert answer.status_code == 200
    stack.booked(answer.headers)
    request = fake.request(answer.headers["x-request-id"])
    assert request["query"] == "alt=sse&%24x=1"
    assert key["key"] not in json.dumps(request)


def test_headers_that_would_hide_what_was_used_are_taken_off(
    stack: Stack, fake: Fake, key: dict[str, Any]
) -> None:
    """A field mask leaves out the usage, and a method override makes another call of it."""
    masks = {"x-goog-fieldmask": "candidates", "x-http-method-override": "GET"}
    headers = {"x-goog-api-key": key["key"], **masks}
    answer = httpx.post(f"{stack.gateway}{PATH}:generateContent", json=ASK, headers=headers)
    sent = dict(fake.request(answer.headers["x-request-id"])["headers"])
    assert not masks.keys() & sent.keys()
    refused = post(stack, key["key"], f"{PATH}:generateContent?fields=candidates")
    assert (refused.status_code, refused.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_counting_is_free_and_vectors_are_not(stack: Stack, key: dict[str, Any]) -> None:
    """Where a model does not say what vectors used, their input is estimated."""
    counted = post(stack, key["key"], f"{PATH}:countTokens")
    assert counted.json()["totalTokens"] > 0
    event = stack.event(counted.headers[EVENT_ID])
    assert (event["operation"], event["cost_nanos"]) == ("other", 0)
    content = {"parts": [{"text": "Which suppliers were late? " * 50}]}
    said = post(
        stack,
        key["key"],
        "/gemini/v1beta/models/gemini-embedding-2:embedContent",
        {"content": content},
    )
    bill = stack.fake.bill(said.headers["x-request-id"])
    event = stack.event(said.headers[EVENT_ID])
    assert (event["operation"], event["usage_source"]) == ("embeddings", "provider")
    assert event["cost_nanos"] == bill["input_tokens"] * 200
    requests = [{"model": "models/gemini-embedding-001", "content": content}] * 3
    path = "/gemini/v1beta/models/gemini-embedding-001:batchEmbedContents"
    silent = post(stack, key["key"], path, {"requests": requests})
    assert len(silent.json()["embeddings"]) == 3
    bill = stack.fake.bill(silent.headers["x-request-id"])
    event = stack.event(silent.headers[EVENT_ID])
    assert (event["outcome"], event["usage_source"]) == ("ok", "estimated")
    assert bill["input_tokens"] <= event["input_tokens"] <= 2 * bill["input_tokens"]
    assert event["cost_nanos"] == event["input_tokens"] * 150


def test_google_s_openai_shape(stack: Stack, key: dict[str, Any]) -> None:
    """Chat completions under Google's own path, metered as they are everywhere."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}
    path = "/gemini/v1beta/openai/chat/completions"
    answer = post(stack, key["key"], path, body, "authorization", output_tokens=9)
    assert b'"usage"' not in answer.content
    event = stack.booked(answer.headers)
    assert (event["provider"], event["operation"]) == ("gemini", "chat")
    assert event["cost_nanos"] == event["input_tokens"] * 300 + 9 * 2500


def google(stack: Stack, key: str) -> genai.Client:
    """Google's SDK, pointed at the gateway, with its retries switched on."""
    retries = types.HttpRetryOptions(attempts=3, initial_delay=0.1)
    options = types.HttpOptions(base_url=f"{stack.gateway}/gemini", retry_options=retries)
    return genai.Client(api_key=key, http_options=options)


@pytest.fixture
def client(stack: Stack, key: dict[str, Any]) -> Iterator[genai.Client]:
    made = google(stack, key["key"])
    yield made
    made.close()


def config(most: int | None = None, **wishes: Any) -> types.GenerateContentConfig:
    """What one call of the SDK asks for, the fake provider's directives among it."""
    options = types.HttpOptions(headers=wish(**wishes))
    return types.GenerateContentConfig(max_output_tokens=most, http_options=options)


def headers_of(answer: Any) -> dict[str, str]:
    """The headers of an answer of the SDK."""
    return {name.lower(): value for name, value in answer.sdk_http_response.headers.items()}


def test_the_sdk_generates(stack: Stack, client: genai.Client) -> None:
    """Whole and streamed, text and counts as without a gateway."""
    asked = config(200, output_tokens=20, reasoning=8, cached=50)
    answer = client.models.generate_content(model=MODEL, contents="Who was late?", config=asked)
    assert len((answer.text or "").split()) == 12
    assert answer.usage_metadata
    assert answer.usage_metadata.thoughts_token_count == 8
    stack.booked(headers_of(answer))
    chunks = list(client.models.generate_content_stream(model=MODEL, contents="Who?", config=asked))
    assert len("".join(chunk.text or "" for chunk in chunks).split()) == 12
    event = stack.booked(headers_of(chunks[0]))
    assert (event["streamed"], event["reasoning_tokens"]) == (True, 8)


def test_the_sdk_embeds_and_counts(stack: Stack, client: genai.Client) -> None:
    """Embeddings and token counts through the SDK's own methods."""
    found = client.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
    assert found.embeddings
    assert len(found.embeddings) == 2
    assert client.models.count_tokens(model=MODEL, contents="Who was late?").total_tokens


def test_the_sdk_leaves_a_stream_early(stack: Stack, client: genai.Client) -> None:
    """Breaking off is noticed, and what was said is charged."""
    chunks = client.models.generate_content_stream(
        model=MODEL, contents="x", config=config(3000, output_tokens=2000, delay_ms=5)
    )
    for number, chunk in enumerate(chunks):
        headers = headers_of(chunk)
        if number == 40:
            break
    chunks.close()  # type: ignore[attr-defined]
    client.close()
    event = stack.event(headers[EVENT_ID])
    assert event["outcome"] == "client_gone"
    assert 40 <= event["output_tokens"] < 2000


async def test_the_async_sdk(stack: Stack, key: dict[str, Any]) -> None:
    """Concurrent calls, whole and streamed, each booked as billed."""
    client = google(stack, key["key"]).aio

    async def one(number: int) -> Any:
        asked = config(200, output_tokens=number + 2)
        if number % 2:
            return headers_of(
                await client.models.generate_content(model=MODEL, contents="x", config=asked)
            )
        stream = await client.models.generate_content_stream(
            model=MODEL, contents="x", config=asked
        )
        return [headers_of(chunk) async for chunk in stream][-1]

    heads = await asyncio.gather(*(one(number) for number in range(10)))
    await client.aclose()
    for number, head in enumerate(heads):
        event = await asyncio.to_thread(stack.booked, head)
        assert event["output_tokens"] == number + 2


def test_the_sdk_raises_its_own_error_and_does_not_retry(four: Stack) -> None:
    """A request larger than its budget: our sentence, Google's word for it, one attempt."""
    crew = team(four, "gemini-too-large", "0.001usd")
    client = google(four, crew.key)
    generate: tuple[Any, ...] = (
        client.models.generate_content,
        lambda **asked: list(client.models.generate_content_stream(**asked)),
    )
    for call in generate:
        with pytest.raises(errors.ClientError) as caught:
            call(model=MODEL, contents="x", config=config(5000))
        assert (caught.value.code, caught.value.status) == (402, "FAILED_PRECONDITION")
        assert "gemini-too-large" in str(caught.value.message)
    client.close()
    settled(crew, 2)
    events = crew.events()
    assert [event["refusal"] for event in events] == ["request_over_budget"] * 2


@pytest.mark.slow
@every_form
def test_a_hundred_calls_at_once_never_pass_the_budget(four: Stack, form: str) -> None:
    """Each can cost $0.0006 (its input may be sound, which is dear), and there is $0.01."""
    crew = team(four, f"gemini-storm-{form}", "0.01usd")
    body = {**ASK, "generationConfig": {"maxOutputTokens": 200}}

    def one(_: int) -> httpx.Response:
        path = f"{PATH}:{FORMS[form]}"
        return post(four, crew.key, path, body, output_tokens=200, first_delay_ms=300, delay_ms=1)

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(one, range(100)))
    statuses = [answer.status_code for answer in answers]
    assert {200} < set(statuses) <= {200, 402, 429}
    spent = settled(crew, 100)
    assert spent == billed(crew, "google") <= 10_000_000
    assert 14 <= statuses.count(200) <= 19
    assert refusals(crew.events()) <= {"budget_held", "budget_spent"}


@pytest.mark.slow
@streams
def test_a_stream_that_outgrows_its_budget_ends_with_google_s_error(four: Stack, form: str) -> None:
    """A client's parser reads all of it, the error last, and the provider is told to stop."""
    crew = team(four, f"gemini-outgrown-{form}", "0.02usd")
    wishes = {"output_tokens": 50_000, "chunk_tokens": 10, "delay_ms": 4}
    headers = {"x-goog-api-key": crew.key, **wish(**wishes)}
    pieces: list[bytes] = []
    url = f"{four.gateway}{PATH}:{FORMS[form]}"
    streamed = httpx.stream("POST", url, json=ASK, headers=headers, timeout=60)
    with streamed as answer, pytest.raises(httpx.RemoteProtocolError):
        pieces.extend(answer.iter_raw())
    received = b"".join(pieces)
    if form == "array":
        last = json.loads(received)[-1]
    else:
        last = json.loads(received.replace(b"\r\n", b"\n").strip().split(b"\n\n")[-1][6:])
    assert last["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert "outgrown" in last["error"]["message"]
    spent = settled(crew, 1)
    [event] = crew.events()
    assert event["outcome"] == "cut"
    assert 0 < spent <= event["hold_nanos"] <= 20_000_000
    bill = four.fake.bill(answer.headers["x-request-id"])
    assert bill["client_gone"]
    assert billed(crew, "google") <= 20_000_000


@pytest.mark.slow
def test_the_sdk_raises_where_a_stream_outgrows_its_budget(four: Stack) -> None:
    """The chunks that came, and then the SDK's own error with our sentence."""
    crew = team(four, "gemini-outgrown-sdk", "0.02usd")
    client = google(four, crew.key)
    asked = config(output_tokens=50_000, chunk_tokens=10, delay_ms=4)
    chunks: list[Any] = []
    stream = client.models.generate_content_stream(model=MODEL, contents="x", config=asked)
    with pytest.raises(errors.ClientError, match="outgrown") as caught:
        chunks.extend(stream)
    client.close()
    assert caught.value.status in ("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION")
    assert len("".join(chunk.text or "" for chunk in chunks)) > 2000
    settled(crew, 1)


@pytest.mark.slow
def test_a_whole_answer_is_given_a_maximum_that_is_held(four: Stack) -> None:
    """It stands in the request that goes upstream, however much is wished for."""
    crew = team(four, "gemini-unstated", "0.05usd")
    body = {**ASK, "generation_config": {"top_k": 3}}
    answers = [
        post(four, crew.key, f"{PATH}:generateContent", body, output_tokens=60_000, reasoning=500)
        for _ in range(4)
    ]
    assert answers[0].json()["candidates"][0]["finishReason"] == "MAX_TOKENS"
    spent = settled(crew, 4)
    assert spent == billed(crew, "google") <= 50_000_000
    for event in crew.events("ok"):
        assert 0 < event["output_tokens"] < 60_000
        assert event["cost_nanos"] <= event["hold_nanos"]
