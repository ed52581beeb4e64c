"""Anthropic's messages: its counts in our convention, streams that set and never add, refusals."""

from typing import Any

import anthropic as sdk
import httpx2
import orjson
import pytest

from extproc.providers import anthropic
from extproc.providers.shape import Answer, Asked, BadRequest
from extproc.refusal import Refusal
from ledger.event import Usage


def usage_of(**counts: Any) -> Usage | None:
    return anthropic.read_answer("messages", orjson.dumps({"usage": counts})).usage


def feed(*events: dict[str, Any]) -> Answer:
    stream = anthropic.stream("messages")
    for event in events:
        assert not stream.feed(event["type"].encode(), orjson.dumps(event))
    return stream.answer


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v1/messages", "messages"),
        ("/messages/", "messages"),
        ("/anthropic/v1/Messages", "messages"),
        ("/v1/chat/completions", "chat"),
        ("/v1/messages/count_tokens", "other"),
        ("/v1/messages/batches", "batches"),
        ("/v1/responses", "other"),
        ("/v1/complete", "other"),
        ("/v1/models", "other"),
        ("", "other"),
    ],
)
def test_the_end_of_the_path_is_the_operation(path: str, operation: str) -> None:
    """Counting is free; batches are billed later, so only messages themselves are metered."""
    assert anthropic.operation("POST", path) == operation
    assert anthropic.operation("GET", path) == "other"


def test_a_request_is_read() -> None:
    """The stated maximum includes thinking; zero warms the cache and makes no output."""
    body = {"model": "claude-x", "max_tokens": 0, "stream": True, "service_tier": "auto"}
    found = anthropic.read_request("messages", orjson.dumps(body))
    assert isinstance(found, Asked)
    assert (found.model, found.max_output_tokens, found.streamed) == ("claude-x", 0, True)
    assert not found.usage_on_request
    assert found.service_tier == "auto"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        b'{"model":["a"]}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","stream":"yes"}',
        b'{"model":"a","max_tokens":"10"}',
        b'{"model":"a","max_tokens":-1}',
    ],
)
def test_what_cannot_be_metered_is_refused(body: bytes) -> None:
    """With one sentence, before it costs anything."""
    found = anthropic.read_request("messages", body)
    assert isinstance(found, BadRequest)
    assert found.says.endswith(".")


def test_input_is_all_input() -> None:
    """Cached tokens are added to Anthropic's input, and a cache write without a split is short."""
    found = usage_of(
        input_tokens=10,
        cache_read_input_tokens=200,
        cache_creation_input_tokens=30,
        output_tokens=4,
    )
    assert found == Usage(
        input_tokens=240, cache_read_tokens=200, cache_write_5m_tokens=30, output_tokens=4
    )


def test_a_split_that_does_not_add_up_errs_on_the_dear_side() -> None:
    """The rest of the total is short-lived; more than the total counts as stated."""
    split = {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 20}
    more = usage_of(input_tokens=0, cache_creation_input_tokens=30, cache_creation=split)
    assert more == Usage(input_tokens=30, cache_write_5m_tokens=10, cache_write_1h_tokens=20)
    less = usage_of(input_tokens=0, cache_creation_input_tokens=3, cache_creation=split)
    assert less == Usage(input_tokens=25, cache_write_5m_tokens=5, cache_write_1h_tokens=20)


def test_work_outside_the_message_is_added() -> None:
    """Compaction is billed, but stands only in the list of iterations."""
    found = usage_of(
        input_tokens=10,
        output_tokens=2,
        iterations=[
            {"type": "message", "input_tokens": 10, "output_tokens": 2},
            {"type": "compaction", "input_tokens": 500, "output_tokens": 60},
            "?",
        ],
    )
    assert found == Usage(input_tokens=510, output_tokens=62)


@pytest.mark.parametrize("bad", [-1, 1.5, "9", True, None, [], 2**60])
def test_strange_counts_are_ignored(bad: object) -> None:
    """They neither raise nor bill."""
    assert usage_of(input_tokens=7, cache_read_input_tokens=bad, output_tokens=bad) == Usage(
        input_tokens=7
    )
    assert usage_of(input_tokens=bad, output_tokens=bad) is None


def test_counts_of_a_stream_are_set_not_added() -> None:
    """The last output counts; a zero in either place does not undo the input."""
    start = {"input_tokens": 25, "cache_read_input_tokens": 100, "output_tokens": 1}
    answer = feed(
        {"type": "message_start", "message": {"id": "m1", "model": "c", "usage": start}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}},
        {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 0, "output_tokens": 30}},
    )
    assert answer.usage == Usage(input_tokens=125, cache_read_tokens=100, output_tokens=30)
    assert (answer.model, answer.response_id, answer.complete) == ("c", "m1", False)


STOPPED = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}


@pytest.mark.parametrize(
    ("event", "complete", "failed"),
    [
        ({"type": "message_stop"}, True, False),
        (STOPPED | {"usage": {"output_tokens": 1}}, True, False),
        (STOPPED, False, False),
        ({"type": "error", "error": {"type": "overloaded_error"}}, True, True),
        ({"type": "ping"}, False, False),
    ],
)
def test_the_last_word_of_a_stream(event: dict[str, Any], complete: bool, failed: bool) -> None:
    """The stop, the delta that has both reason and usage, or an error."""
    answer = feed(event)
    assert (answer.complete, answer.failed) == (complete, failed)


REFUSAL = Refusal(
    status=429,
    code="tokens_per_minute",
    message="Too fast.",
    limit_source="rate",
    limit="tpm",
    unit="tokens",
    left=12,
    retry_after_s=3,
)


def test_a_refusal_says_which_limit_and_what_is_left() -> None:
    """Tokens stay a number."""
    assert orjson.loads(anthropic.refuse(REFUSAL)) == {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "Too fast.",
            "details": {"error_code": "tokens_per_minute"},
            "code": "tokens_per_minute",
            "limit_source": "rate",
            "limit": "tpm",
            "unit": "tokens",
            "left": 12,
            "resets_at": None,
        },
    }


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, sdk.BadRequestError, "invalid_request_error"),
        (401, sdk.AuthenticationError, "authentication_error"),
        (402, sdk.APIStatusError, "billing_error"),
        (403, sdk.PermissionDeniedError, "permission_error"),
        (413, sdk.APIStatusError, "request_too_large"),
        (429, sdk.RateLimitError, "rate_limit_error"),
        (503, sdk.APIStatusError, "api_error"),
    ],
)
def test_the_official_sdk_understands_a_refusal(
    status: int, error: type[sdk.APIStatusError], kind: str
) -> None:
    """It raises the error class of the status and shows our code and type."""
    refusal = Refusal(status=status, code="a_code", message="Says.")

    def answer(_: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "application/json", "x-should-retry": "false"}
        return httpx2.Response(status, content=anthropic.refuse(refusal), headers=headers)

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        client = sdk.Anthropic(api_key="k", base_url="http://gateway", http_client=http)
        with pytest.raises(error) as caught:
            client.messages.create(model="m", max_tokens=1, messages=[])
    assert caught.value.type == kind
    assert caught.value.error_code == "a_code"
    assert "Says." in str(caught.value)
