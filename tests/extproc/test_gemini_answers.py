"""Gemini's answers: its counts in our convention, streams without a last word, what was made."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.providers import gemini
from extproc.providers.shape import Answer
from ledger.event import Usage
from tests.extproc.test_gemini import ANYTHING


def usage_of(**counts: Any) -> Usage | None:
    return gemini.read_answer("generate", orjson.dumps({"usageMetadata": counts})).usage


def feed(*chunks: Any) -> Answer:
    stream = gemini.stream("generate")
    for chunk in chunks:
        assert not stream.feed(b"", orjson.dumps(chunk))
    return stream.answer


def said(text: str, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"content": {"parts": [{"text": text}]}, "finishReason": finish, "index": index}


def test_output_is_all_output_and_input_all_input() -> None:
    """Thoughts are added to what was spoken, what tools gave back to the prompt."""
    assert usage_of(
        promptTokenCount=100,
        cachedContentTokenCount=60,
        toolUsePromptTokenCount=20,
        candidatesTokenCount=7,
        thoughtsTokenCount=5,
        totalTokenCount=132,
    ) == Usage(input_tokens=120, cache_read_tokens=60, output_tokens=12, reasoning_tokens=5)


def test_a_total_tells_where_thoughts_are_counted() -> None:
    """Within what was spoken, where the sum says so; left out of all parts, where it says more."""
    within = usage_of(
        promptTokenCount=10, candidatesTokenCount=9, thoughtsTokenCount=4, totalTokenCount=19
    )
    assert within == Usage(input_tokens=10, output_tokens=9, reasoning_tokens=4)
    beyond = usage_of(promptTokenCount=10, candidatesTokenCount=9, totalTokenCount=30)
    assert beyond == Usage(input_tokens=10, output_tokens=20, reasoning_tokens=11)
    alone = usage_of(totalTokenCount=30, candidatesTokenCount=9)
    assert alone == Usage(input_tokens=21, output_tokens=9)


def test_sound_is_counted_apart() -> None:
    """By the details of prompt, tools and candidates; modalities may come as numbers."""
    found = usage_of(
        promptTokenCount=50,
        toolUsePromptTokenCount=10,
        candidatesTokenCount=8,
        promptTokensDetails=[{"modality": "AUDIO", "tokenCount": 30}, {"modality": "TEXT"}, None],
        toolUsePromptTokensDetails=[{"modality": 4, "tokenCount": 2}],
        candidatesTokensDetails=[{"modality": "AUDIO", "tokenCount": 99}],
    )
    assert found == Usage(
        input_tokens=60, audio_input_tokens=32, output_tokens=8, audio_output_tokens=8
    )


@pytest.mark.parametrize("bad", [-1, 1.5, "9", True, None, [], 2**60])
def test_strange_counts_are_ignored(bad: object) -> None:
    """They neither raise nor bill."""
    assert usage_of(promptTokenCount=7, cachedContentTokenCount=bad, thoughtsTokenCount=bad) == (
        Usage(input_tokens=7)
    )
    assert usage_of(promptTokenCount=bad, candidatesTokenCount=bad) is None


def test_the_last_counts_of_a_stream_win() -> None:
    """What a later chunk leaves out stays, and a zero undoes no input."""
    answer = feed(
        {"usageMetadata": {"promptTokenCount": 25, "thoughtsTokenCount": 40}, "responseId": "r"},
        {"usageMetadata": {"promptTokenCount": 25, "candidatesTokenCount": 9}},
        {"usageMetadata": {"promptTokenCount": 0, "candidatesTokenCount": 12}},
        {"usageMetadata": {"trafficType": "ON_DEMAND_FLEX"}, "modelVersion": "m"},
    )
    assert answer.usage == Usage(input_tokens=25, output_tokens=52, reasoning_tokens=40)
    assert (answer.model, answer.response_id, answer.service_tier) == ("m", "r", "flex")


def test_a_stream_is_finished_when_every_candidate_is() -> None:
    """But complete only when it ends: a reason may stand on every chunk, and usage follow it."""
    assert not feed({"candidates": [said("a")]}).finished
    both = [said("a", "STOP"), said("b", None, 1)]
    assert not feed({"candidates": both}).finished
    answer = feed({"candidates": both}, {"candidates": [said("", "SAFETY", 1)]}, {})
    assert (answer.finished, answer.complete, answer.failed) == (True, False, False)
    assert feed({"promptFeedback": {"blockReason": "SAFETY"}}).finished
    assert not feed({"promptFeedback": {}}).finished


def test_an_error_ends_a_stream() -> None:
    """Whatever came before it."""
    answer = feed({"candidates": [said("a")]}, {"error": {"code": 503}})
    assert (answer.complete, answer.failed) == (True, True)


def test_what_was_made_is_weighed_for_estimates() -> None:
    """Text, thoughts, calls and code; not signatures, nor what tools gave back."""
    parts = [
        {"text": "Grüße", "thoughtSignature": "x" * 400},
        {"text": "hm", "thought": True},
        {"functionCall": {"name": "go", "args": {"a": 1}, "id": "17"}},
        {"executableCode": {"code": "1+1"}},
        {"codeExecutionResult": {"output": "2" * 99}},
    ]
    answer = feed({"candidates": [{"content": {"parts": parts}}]})
    assert answer.output_bytes == 7 + 2 + 2 + 7 + 3
    sound = {"inlineData": {"mimeType": "audio/L16", "data": "A" * 6400}}
    picture = {"inlineData": {"mimeType": "image/png", "data": "A" * 2_000_000}}
    assert feed({"candidates": [{"content": {"parts": [sound]}}]}).output_bytes == 10
    assert feed({"candidates": [{"content": {"parts": [picture]}}]}).output_bytes == 5160


def test_arguments_nested_without_end_are_no_error() -> None:
    """orjson reads deeper than it writes."""
    deep = b'{"candidates":[{"content":{"parts":[{"functionCall":{"args":'
    deep += b'{"a":' * 500 + b"1" + b"}" * 500 + b"}}]}}]}"
    assert gemini.read_answer("generate", deep).complete


def test_vectors_without_usage_are_paid_for_all_the_same() -> None:
    """The answer says so; an error does not. Counts are taken where there are some."""
    one = gemini.read_answer("embeddings", b'{"embedding":{"values":[1]}}')
    assert (one.uncounted, one.usage, one.complete, one.failed) == (True, None, True, False)
    assert gemini.read_answer("embeddings", b'{"embeddings":[{"values":[1]}]}').uncounted
    for other in (b"{}", b"null", b"<html>", b'{"embeddings":[]}'):
        assert not gemini.read_answer("embeddings", other).uncounted
    error = gemini.read_answer("embeddings", b'{"error":{"code":400}}')
    assert (error.uncounted, error.failed) == (False, True)
    openai = b'{"object":"list","data":[],"model":"e","usage":{"prompt_tokens":5}}'
    assert gemini.read_answer("embeddings", openai).usage == Usage(input_tokens=5)


@given(ANYTHING, st.sampled_from(["candidates", "usageMetadata", "promptFeedback", "embeddings"]))
def test_any_json_is_an_answer(value: Any, name: str) -> None:
    """Never an exception, whole or streamed, and never more parts than the whole."""
    for document in (value, {name: value}, [{name: [value]}], {name: [{"content": value}]}):
        try:
            text = orjson.dumps(document)
        except TypeError:  # an integer beyond 64 bits
            continue
        for operation in ("generate", "embeddings", "chat", "other"):
            gemini.read_answer(operation, text)
        stream = gemini.stream("generate")
        stream.feed(b"", text)
        if usage := stream.answer.usage:
            assert usage.reasoning_tokens <= usage.output_tokens
            assert usage.cache_read_tokens <= usage.input_tokens
