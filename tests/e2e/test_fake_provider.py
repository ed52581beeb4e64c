"""The fake provider speaks the real formats: the official SDKs read them, without any gateway."""

import json
from collections.abc import Iterator

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import types

from tests.e2e.fake import Fake
from tests.e2e.processes import fake_provider

PROMPT = "Which suppliers were late?"


@pytest.fixture(scope="module")
def lone() -> Iterator[Fake]:
    """A fake provider of this module alone."""
    with fake_provider() as url:
        yield Fake(url)


@pytest.fixture
def client(lone: Fake) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{lone.url}/v1", api_key="sk-provider", max_retries=0) as made:
        yield made


@pytest.fixture
def claude(lone: Fake) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=lone.url, api_key="sk-ant-x", max_retries=0) as made:
        yield made


def wish(**directives: object) -> dict[str, str]:
    """The header that carries directives."""
    return {"x-fake": json.dumps(directives)}


def test_chat_tokens_are_counted_from_the_text(client: openai.OpenAI) -> None:
    """One input token for each four bytes of text, one output token for each word asked for."""
    answer = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": PROMPT}],
        extra_headers=wish(output_tokens=5, cached=100, reasoning=2),
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == -(-len(PROMPT) // 4) + 100
    assert answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 100
    assert len((answer.choices[0].message.content or "").split()) == 5


def test_chat_stream_has_usage_only_if_asked(client: openai.OpenAI) -> None:
    """The chunk with `choices: []` comes exactly when include_usage was set."""
    for asked in (True, False):
        stream = client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": PROMPT}],
            stream=True,
            stream_options={"include_usage": asked},
        )
        last = [chunk for chunk in stream if not chunk.choices]
        assert len(last) == int(asked)
        assert not asked or (last[0].usage and last[0].usage.completion_tokens == 12)


def test_responses_stream_is_numbered(client: openai.OpenAI) -> None:
    """Events are numbered from zero and end with the response's usage."""
    stream = client.responses.create(model="gpt-4o", input=PROMPT, stream=True)
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 12


def test_responses_cut_by_the_maximum_are_incomplete(client: openai.OpenAI) -> None:
    """A maximum below what was asked for ends the answer as the real API does."""
    answer = client.responses.create(model="gpt-4o", input=PROMPT, max_output_tokens=4)
    assert answer.status == "incomplete"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 4


def test_embeddings_and_models(client: openai.OpenAI) -> None:
    """Vectors decode from the SDK's base64; models can be listed."""
    answer = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert [len(item.embedding) for item in answer.data] == [8, 8]
    assert answer.usage.total_tokens == 1
    assert "gpt-4o" in [model.id for model in client.models.list()]


def test_messages_input_excludes_the_cache(claude: anthropic.Anthropic) -> None:
    """Anthropic's input_tokens does not contain what was read from or written to the cache."""
    answer = claude.messages.create(
        model="claude-sonnet-4-6",
        max_tokens=50,
        messages=[{"role": "user", "content": PROMPT}],
        extra_headers=wish(cached=1000, cache_write=200, cache_write_1h=30),
    )
    assert answer.usage.input_tokens == -(-len(PROMPT) // 4)
    assert answer.usage.cache_read_input_tokens == 1000
    assert answer.usage.cache_creation_input_tokens == 230


def test_messages_stream_and_count_tokens(claude: anthropic.Anthropic) -> None:
    """The SDK's stream helper accumulates a whole message; counting tokens is free."""
    with claude.messages.stream(
        model="claude-sonnet-4-6", max_tokens=50, messages=[{"role": "user", "content": PROMPT}]
    ) as stream:
        text = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    assert len(text.split()) == usage.output_tokens == 12
    counted = claude.messages.count_tokens(
        model="claude-sonnet-4-6", messages=[{"role": "user", "content": PROMPT}]
    )
    assert counted.input_tokens == usage.input_tokens


def test_errors_have_each_api_s_shape(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    """The SDKs raise their own exceptions with the fake's sentence in them."""
    with pytest.raises(openai.RateLimitError, match="asked for 429"):
        client.responses.create(model="gpt-4o", input="x", extra_headers=wish(status=429))
    with pytest.raises(anthropic.InternalServerError, match="asked for 500"):
        claude.messages.create(
            model="claude-sonnet-4-6",
            max_tokens=5,
            messages=[{"role": "user", "content": 'x-fake: {"status": 500}'}],
        )


def test_a_leaked_key_is_refused_and_remembered(lone: Fake) -> None:
    """A credential that looks like ours, a header of ours and baggage are all caught."""
    before = len(lone.leaks())
    for headers in (
        {"authorization": "Bearer tk-1-x"},
        {"x-tollkeeper-run": "r"},
        {"baggage": "a=b"},
    ):
        assert httpx.get(f"{lone.url}/v1/models", headers=headers).status_code == 401
    assert httpx.get(f"{lone.url}/v1/models?key=tk-1-x").status_code == 401
    assert len(lone.leaks()) == before + 4


@pytest.mark.parametrize("how", ["gzip", "br", "zstd", "deflate"])
def test_compressed_answers_unpack_to_the_same(lone: Fake, how: str) -> None:
    """Every compression yields the same document, however its bytes are cut."""
    body = {"model": "m", "input": PROMPT, "stream": True}
    answer = httpx.post(
        f"{lone.url}/v1/responses", json=body, headers=wish(compress=how, chunk_bytes=7)
    )
    assert answer.headers["content-encoding"] == how
    if how in ("gzip", "deflate"):
        assert "response.completed" in answer.text


def test_a_client_that_leaves_is_billed_for_what_was_said(lone: Fake) -> None:
    """The bill of a stream cut short has the tokens sent until then, and says why."""
    body = {"model": "m", "input": PROMPT, "stream": True}
    directives = wish(output_tokens=500, delay_ms=5)
    with httpx.stream("POST", f"{lone.url}/v1/responses", json=body, headers=directives) as answer:
        request_id = answer.headers["x-request-id"]
        lines = answer.iter_lines()
        for _ in range(40):
            next(lines)
    bill = lone.bill(request_id)
    assert bill["client_gone"]
    assert 0 < bill["output_tokens"] < 500


def test_a_connection_closed_half_way_is_an_error_of_the_transport(lone: Fake) -> None:
    """`close_after` ends the connection without an end of the body."""
    body = {"model": "m", "input": PROMPT, "stream": True}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{lone.url}/v1/responses", json=body, headers=wish(close_after=3))


def test_an_unknown_directive_is_an_error(lone: Fake) -> None:
    """A misspelt directive fails loudly instead of testing nothing."""
    answer = httpx.post(
        f"{lone.url}/v1/responses", json={"model": "m", "input": "x"}, headers=wish(ouput=1)
    )
    assert answer.status_code == 400
    assert "ouput" in answer.text


@pytest.fixture
def google(lone: Fake) -> Iterator[genai.Client]:
    made = genai.Client(api_key="AIza-x", http_options=types.HttpOptions(base_url=lone.url))
    yield made
    made.close()


def generation(**directives: object) -> types.GenerateContentConfig:
    """What Google's SDK takes for one call."""
    return types.GenerateContentConfig(http_options=types.HttpOptions(headers=wish(**directives)))


def test_gemini_counts_thoughts_beside_its_output(google: genai.Client) -> None:
    """And cached, sound and what tools gave back within or beside the prompt, as Google does."""
    answer = google.models.generate_content(
        model="gemini-2.5-flash",
        contents=PROMPT,
        config=generation(output_tokens=9, reasoning=4, cached=100, audio_input=8, tool_input=50),
    )
    usage = answer.usage_metadata
    assert usage
    assert usage.prompt_token_count == -(-len(PROMPT) // 4) + 108
    assert usage.tool_use_prompt_token_count == 50
    assert (usage.candidates_token_count, usage.thoughts_token_count) == (5, 4)
    assert usage.total_token_count == -(-len(PROMPT) // 4) + 108 + 50 + 9
    assert len((answer.text or "").split()) == 5


def test_gemini_streams_in_two_forms(lone: Fake, google: genai.Client) -> None:
    """Events as the SDK reads them, and one JSON array without `alt=sse`."""
    asked = generation(output_tokens=7, reasoning=2)
    model = "gemini-2.5-flash"
    chunks = list(google.models.generate_content_stream(model=model, contents=PROMPT, config=asked))
    assert len("".join(chunk.text or "" for chunk in chunks).split()) == 5
    assert chunks[-1].usage_metadata
    assert chunks[-1].usage_metadata.total_token_count == -(-len(PROMPT) // 4) + 7
    body = {"contents": [{"parts": [{"text": PROMPT}]}]}
    url = f"{lone.url}/v1beta/models/{model}:streamGenerateContent"
    answer = httpx.post(url, json=body, headers=wish(output_tokens=7, chunk_bytes=5))
    assert [set(element) >= {"candidates"} for element in answer.json()] == [True] * 8
    failed = httpx.post(url, json=body, headers=wish(status=429))
    assert [element["error"]["status"] for element in failed.json()] == ["RESOURCE_EXHAUSTED"]


def test_gemini_lists_models_and_counts_tokens(google: genai.Client) -> None:
    """Both are free, so neither leaves a bill."""
    assert "models/gemini-2.5-flash" in [model.name for model in google.models.list()]
    counted = google.models.count_tokens(model="gemini-2.5-flash", contents=PROMPT)
    assert counted.total_tokens == -(-len(PROMPT) // 4)
