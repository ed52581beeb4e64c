"""OpenAI answers of many hosts: usage in every shape, endings, and values that mean nothing."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.providers import anthropic, compatible, openai
from extproc.providers.openai_answer import ChatStream, read_usage
from extproc.providers.shape import Answer
from ledger.event import Usage
from tests.extproc.test_openai_requests import JSON, OPERATIONS

STRANGE: st.SearchStrategy[Any] = JSON | st.sampled_from(
    [-1, 1.5, 2**53, 2**63, 1e300, True, "7", None, [], {}]
)
NAMES = [
    "type",
    "choices",
    "usage",
    "delta",
    "message",
    "content",
    "error",
    "model",
    "id",
    "service_tier",
    "response",
    "output",
    "status",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "cost",
    "x_groq",
    "prompt_tokens_details",
    "input_tokens_details",
    "cached_tokens",
    "reasoning_tokens",
    "tool_calls",
    "audio",
    "cache_creation_input_tokens",
    "cache_creation",
    "iterations",
    "content_block",
    "finish_reason",
    "data",
    "text",
]
KINDS = st.sampled_from(
    [
        "message_start",
        "message_delta",
        "content_block_delta",
        "content_block_start",
        "message_stop",
        "error",
        "response.completed",
        "response.output_text.delta",
        "response.created",
    ]
)
ANSWERS = st.recursive(
    STRANGE | KINDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=25,
)


def feed(*chunks: Any) -> tuple[Answer, list[bool]]:
    stream = ChatStream()
    data = [chunk if isinstance(chunk, bytes) else orjson.dumps(chunk) for chunk in chunks]
    return stream.answer, [stream.feed(b"", part) for part in data]


def content(text: str, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": text}}]} | more


@pytest.mark.parametrize(
    ("block", "usage"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 3}, Usage(input_tokens=5, output_tokens=3)),
        ({"prompt_tokens": 5.0, "completion_tokens": 3}, Usage(input_tokens=5, output_tokens=3)),
        ({"prompt_tokens": 5, "completion_tokens": None}, Usage(input_tokens=5)),
        ({"total_tokens": 8}, Usage(input_tokens=8)),
        ({"completion_tokens": 3, "total_tokens": 8}, Usage(input_tokens=5, output_tokens=3)),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 28},
            Usage(input_tokens=5, output_tokens=23, reasoning_tokens=20),
        ),
        (
            {"prompt_tokens": 50, "completion_tokens": 3, "prompt_cache_hit_tokens": 40},
            Usage(input_tokens=50, cache_read_tokens=40, output_tokens=3),
        ),
        (
            {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 99, "audio_tokens": 99}},
            Usage(input_tokens=5, cache_read_tokens=5, audio_input_tokens=5),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "completion_tokens_details": "none"},
            Usage(input_tokens=5, output_tokens=3),
        ),
        ({"prompt_tokens": -5, "completion_tokens": 3}, None),
        ({"prompt_tokens": 5, "completion_tokens": "3"}, None),
        ({"prompt_tokens": True, "completion_tokens": 3}, None),
        ({"prompt_tokens": 2**53 + 1, "completion_tokens": 3}, None),
        ({}, None),
        (None, None),
        ([1], None),
    ],
)
def test_usage_of_any_host_is_read_or_left(block: object, usage: Usage | None) -> None:
    """Parts stay within their whole; counts that cannot be counts make the block unusable."""
    assert read_usage(block) == usage


def test_only_a_chunk_without_choices_is_usage_alone() -> None:
    """Hosts that put usage beside content, or in every chunk, lose nothing; the last usage wins.
    Some write no list of no choices, but null or nothing: a client that asked for no usage would
    fail on it.
    """
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    answer, alone = feed(
        {"choices": [], "prompt_filter_results": [], "usage": None},
        content("a", usage=usage),
        content("b", usage=usage | {"completion_tokens": 2}),
        {"choices": [], "usage": usage | {"completion_tokens": 3}},
        {"usage": usage},
        {"choices": None, "usage": usage},
        {"choices": [], "usage": usage, "error": {"message": "no"}},
        {"choices": [], "usage": usage | {"completion_tokens": 7}},
    )
    assert alone == [False, False, False, True, True, True, False, True]
    assert answer.usage == Usage(input_tokens=9, output_tokens=7)
    assert answer.output_bytes == 2


def test_a_bad_usage_does_not_undo_a_good_one() -> None:
    """What cannot be read leaves what is known."""
    good = {"prompt_tokens": 9, "completion_tokens": 1}
    answer, _ = feed(content("a", usage=good), content("b", usage={"prompt_tokens": "many"}))
    assert answer.usage == Usage(input_tokens=9, output_tokens=1)


def test_a_stream_is_complete_at_done_or_at_the_usage_after_its_finish() -> None:
    """Some hosts send no `[DONE]`; usage before a finish is not the last word."""
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    finish = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    assert not feed(content("a"), usage)[0].complete
    assert not feed(content("a"), finish)[0].complete
    assert feed(content("a"), finish, usage)[0].complete
    assert feed(content("a"), b" [DONE] ")[0].complete


def test_generated_text_counts_once_whatever_its_kind() -> None:
    """Content, thinking (some hosts send it under two names), tool calls, refusals, speech."""
    deltas = [
        {"content": "äö"},
        {"reasoning": "abc", "reasoning_content": "abc"},
        {"reasoning": "abc"},
        {"content": [{"type": "text", "text": "abcd"}]},
        {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, "?"]},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"refusal": "no"},
        {"audio": {"transcript": "hi", "data": "A" * 1600}},
        {"role": "assistant"},
    ]
    answer, _ = feed(*({"choices": [{"delta": delta}]} for delta in deltas))
    assert answer.output_bytes == 4 + 3 + 3 + 4 + 3 + 3 + 2 + (2 + 2) + 0


@pytest.mark.parametrize(
    ("cost", "nanos"),
    [
        (0.00014, 140_000),
        ("0.1", 100_000_000),
        (0, 0),
        ({"total_cost": 0.5}, 500_000_000),
        (-1, None),
        (True, None),
        (1e300, None),
        ("nan", None),
        ("much", None),
        (None, None),
    ],
)
def test_a_stated_cost_is_kept_where_it_is_one(cost: object, nanos: int | None) -> None:
    """Dollars of any notation become whole nanodollars."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cost": cost}
    answer, _ = feed(content("a", usage=usage))
    assert answer.provider_cost_nanos == nanos


def test_names_that_the_books_cannot_hold_are_left_out() -> None:
    """No NUL, nothing without bounds."""
    answer, _ = feed({"model": "a\x00", "id": "i" * 300, "service_tier": 5, "choices": []})
    assert (answer.model, answer.response_id, answer.service_tier) == ("", "", "")


def test_a_stored_answer_repeats_usage_that_was_metered_before() -> None:
    """On other paths usage is not read: it belongs to the call that made the answer."""
    body = orjson.dumps({"id": "resp_1", "model": "m", "usage": {"input_tokens": 5}})
    answer = openai.read_answer("other", body)
    assert (answer.model, answer.response_id, answer.usage) == ("m", "resp_1", None)
    stream = openai.stream("other")
    assert not stream.feed(b"", b'{"type":"response.completed","response":{}}')
    assert stream.answer == Answer()


def test_an_html_page_is_an_answer_without_usage() -> None:
    """A proxy's error page is no crash, and no complete answer of the API."""
    assert openai.read_answer("chat", b"<html>502</html>") == Answer()
    assert openai.read_answer("chat", b"") == Answer()


@pytest.mark.parametrize("model_last", [True, False])
def test_a_large_embeddings_answer_is_read_by_its_ends(model_last: bool) -> None:
    """Its numbers are not parsed, its model and usage are found wherever they stand."""
    data = [{"object": "embedding", "index": i, "embedding": [0.25] * 1536} for i in range(9)]
    model, usage = {"model": "e"}, {"usage": {"prompt_tokens": 8, "total_tokens": 8}}
    ordered = {"data": data} | model | usage if model_last else model | {"data": data} | usage
    answer = openai.read_answer("embeddings", orjson.dumps({"object": "list"} | ordered))
    assert answer == Answer(model="e", usage=Usage(input_tokens=8), complete=True)
    strange = openai.read_answer("embeddings", orjson.dumps(usage | model | {"data": data}))
    assert strange == answer


@pytest.mark.parametrize("operation", OPERATIONS)
@given(value=ANSWERS, noise=st.binary(max_size=40))
def test_any_answer_is_read(operation: str, value: Any, noise: bytes) -> None:
    """Nothing that a provider sends raises, and counts stay within their wholes and the books."""
    for body in (json.dumps(value).encode(), noise):
        check(compatible.read_answer(operation, body))


@pytest.mark.parametrize("operation", OPERATIONS)
@given(values=st.lists(ANSWERS | st.binary(max_size=30), max_size=5))
def test_any_stream_is_read(operation: str, values: list[Any]) -> None:
    """The same for streams of all APIs."""
    for api in (compatible, anthropic):
        stream = api.stream(operation)
        for value in values:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            assert stream.feed(b"", data) in (True, False)
        check(stream.answer)


def check(answer: Answer) -> None:
    usage = answer.usage or Usage()
    cached = usage.cache_read_tokens + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    assert 0 <= cached <= usage.input_tokens < 2**50
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens < 2**50
    assert 0 <= usage.audio_input_tokens <= usage.input_tokens
    assert 0 <= usage.audio_output_tokens <= usage.output_tokens
    assert answer.output_bytes >= 0
