"""A call of Gemini's through the exchange: both forms of a stream, their ends, and their cuts."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.budget import Admitted
from extproc.events import BodyMode, Continue, Respond
from extproc.exchange import Exchange, Reserve
from extproc.policy import Policy
from extproc.refusal import Refusal
from tests.extproc.builders import KEY, NOW_US, answer, answer_headers, ask, body, budget, policy
from tests.extproc.test_exchange import event, start
from tests.extproc.test_sse import cut

MODEL = "/gemini/v1beta/models/gemini-2.5-flash"
FORMS = {
    "sse": (f"{MODEL}:streamGenerateContent?alt=sse", "text/event-stream"),
    "array": (f"{MODEL}:streamGenerateContent", "application/json"),
}
SPENT = Refusal(
    status=429,
    code="budget_spent",
    message="Spent.",
    limit_source="budget",
    limit="risk-month",
    retry_after_s=60,
)
both_forms = pytest.mark.parametrize("form", FORMS)


def chunk(text: str, spoken: int, finish: str | None = None, thought: int = 0) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return {
        "candidates": [candidate | ({"finishReason": finish} if finish else {})],
        "usageMetadata": {
            "promptTokenCount": 8,
            "candidatesTokenCount": spoken,
            "thoughtsTokenCount": thought,
            "totalTokenCount": 8 + spoken + thought,
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r1",
    }


def written(form: str, *chunks: Any) -> bytes:
    """The stream as Google sends it."""
    if form == "sse":
        return b"".join(b"data: %s\r\n\r\n" % json.dumps(each).encode() for each in chunks)
    return b"[" + b"\n,\n".join(json.dumps(each, indent=2).encode() for each in chunks) + b"\n]\n"


def errors_in(form: str, received: bytes) -> list[Any]:
    """The errors that a client's parser finds; it must be able to read all of it."""
    if form == "sse":
        events = received.replace(b"\r\n", b"\n").strip().split(b"\n\n")
        documents = [json.loads(each.removeprefix(b"data: ")) for each in events]
    else:
        documents = json.loads(received)
    return [document["error"] for document in documents if "error" in document]


def streaming(form: str, rules: Policy | None = None, granted: int = 0) -> Exchange:
    """An exchange whose stream has begun."""
    path, content_type = FORMS[form]
    exchange = start(rules)
    exchange.receive(ask(path), NOW_US)
    exchange.receive(body('{"contents": []}'), NOW_US)
    exchange.receive(Admitted(held=bool(granted), granted=granted), NOW_US)
    reply = exchange.receive(answer_headers(f"{content_type}; charset=UTF-8"), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.response_body is BodyMode.STREAMED
    return exchange


@both_forms
@given(cuts=st.lists(st.integers(0, 900), max_size=8))
def test_a_stream_passes_untouched_and_is_booked_at_its_end(form: str, cuts: list[int]) -> None:
    """However it is cut; and it is on record before the client has seen its end."""
    exchange = streaming(form)
    stream = written(form, chunk("Hel", 1), chunk("lo", 2, "STOP", thought=30))
    for piece in cut(stream, cuts):
        reply = exchange.receive(answer(piece, ended=False), NOW_US)
        assert isinstance(reply, Continue)
        assert reply.body is None
    done = [exchange.done]
    exchange.receive(answer(b""), NOW_US)
    assert [*done, exchange.done] == [False, True]
    made = event(exchange)
    assert (made.outcome, made.operation, made.provider) == ("ok", "generate", "gemini")
    assert (made.usage_source, made.streamed) == ("provider", True)
    assert (made.input_tokens, made.output_tokens, made.reasoning_tokens) == (8, 32, 30)
    assert made.cost_nanos == 8 * 300 + 32 * 2500


@both_forms
def test_a_stream_without_a_finish_reason_was_cut(form: str) -> None:
    """The provider went away; what it had counted is charged."""
    exchange = streaming(form)
    stream = written(form, chunk("Hel", 5), chunk("lo", 6))
    exchange.receive(answer(stream[:-20]), NOW_US)
    made = event(exchange)
    assert (made.outcome, made.output_tokens, made.usage_source) == ("provider_gone", 5, "provider")


@both_forms
def test_a_client_that_leaves_before_the_end_is_charged_what_was_said(form: str) -> None:
    """As counted with the text, and by the text that came after that."""
    for finish in ("STOP", None):
        exchange = streaming(form)
        stream = written(form, chunk("word " * 200, 3, finish, thought=2))
        exchange.receive(answer(stream, ended=False), NOW_US)
        made = event(exchange)
        assert (made.outcome, made.usage_source) == ("client_gone", "provider")
        assert made.output_tokens == 5
    exchange = streaming(form)
    uncounted = chunk("word " * 200, 0) | {"usageMetadata": {"promptTokenCount": 8}}
    stream = written(form, chunk("word ", 3), uncounted)
    exchange.receive(answer(stream, ended=False), NOW_US)
    made = event(exchange)
    assert (made.outcome, made.usage_source) == ("client_gone", "estimated")
    assert 3 + 200 < made.output_tokens < 400


@both_forms
def test_an_error_in_the_stream_is_the_provider_s(form: str) -> None:
    """Under a status of 200 too."""
    exchange = streaming(form)
    stream = written(form, chunk("Hel", 1), {"error": {"code": 503, "status": "UNAVAILABLE"}})
    exchange.receive(answer(stream, ended=False), NOW_US)
    assert exchange.done
    assert event(exchange).outcome == "provider_error"


@both_forms
@settings(deadline=None, max_examples=40)
@given(size=st.integers(5, 1500), growth=st.integers(8, 30), end=st.booleans())
def test_a_stream_that_cannot_grow_ends_with_an_error_that_parses(
    form: str, size: int, growth: int, end: bool
) -> None:
    """Wherever the network cut it: an error takes the place of a chunk that had only begun."""
    exchange = streaming(form, policy(budget()), granted=100)
    chunks = [chunk("word " * growth, spoken) for spoken in range(growth, 200, growth)]
    stream = written(form, *chunks) if end else written(form, *chunks)[:-2]
    received = b""
    for at in range(0, len(stream), size):
        piece = stream[at : at + size]
        action = exchange.receive(answer(piece, ended=False), NOW_US)
        if isinstance(action, Reserve):
            assert action.grow
            action = exchange.receive(SPENT, NOW_US)
        assert isinstance(action, Continue)
        received += piece if action.body is None else action.body
        if exchange.done:
            break
    [error] = errors_in(form, received)
    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert "outgrown" in error["message"]
    assert isinstance(exchange.receive(answer(b"x", ended=False), NOW_US), Respond)
    made = event(exchange)
    assert (made.outcome, made.refusal) == ("cut", "budget_spent")
    assert made.output_tokens >= 70


def test_thoughts_that_nobody_sees_let_the_hold_grow() -> None:
    """The counts so far say more than the text does."""
    exchange = streaming("sse", policy(budget()), granted=100)
    action = exchange.receive(answer(written("sse", chunk("", 0, thought=80)), ended=False), NOW_US)
    assert isinstance(action, Reserve)


def test_an_error_status_of_an_array_stream_is_read_whole() -> None:
    """It is one element in an array, and no stream."""
    exchange = start()
    exchange.receive(ask(FORMS["array"][0]), NOW_US)
    exchange.receive(body('{"contents": []}'), NOW_US)
    exchange.receive(Admitted(held=False), NOW_US)
    reply = exchange.receive(answer_headers(status=429), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.response_body is BodyMode.BUFFERED
    exchange.receive(answer('[{"error": {"code": 429}}]'), NOW_US)
    made = event(exchange)
    assert (made.outcome, made.cost_nanos, made.http_status) == ("provider_error", 0, 429)


def test_vectors_without_usage_are_estimated_from_their_text() -> None:
    """The model bills its input, and says nothing of it."""
    exchange = start()
    exchange.receive(ask("/gemini/v1beta/models/gemini-embedding-001:embedContent"), NOW_US)
    text = "word " * 700
    exchange.receive(body(json.dumps({"content": {"parts": [{"text": text}]}})), NOW_US)
    exchange.receive(Admitted(held=False), NOW_US)
    exchange.receive(answer_headers(), NOW_US)
    exchange.receive(answer('{"embedding": {"values": [0.5]}}'), NOW_US)
    made = event(exchange)
    assert (made.outcome, made.usage_source, made.output_tokens) == ("ok", "estimated", 0)
    assert 700 <= made.input_tokens <= 1400
    assert made.cost_nanos == made.input_tokens * 150


def test_counting_tokens_is_free() -> None:
    """It passes a budget that is spent, and costs nothing."""
    exchange = start(policy(budget()))
    reply = exchange.receive(ask(f"{MODEL}:countTokens"), NOW_US)
    assert isinstance(reply, Continue)
    exchange.receive(answer_headers(), NOW_US)
    made = event(exchange)
    assert (made.operation, made.cost_nanos, made.price_source) == ("other", 0, "free")


def test_an_unknown_key_is_refused_as_google_does() -> None:
    """With its error and its word for it."""
    path = f"{MODEL}:generateContent?alt=json"
    reply = start().receive(ask(path, key=None, x_goog_api_key="tk-x"), NOW_US)
    assert isinstance(reply, Respond)
    assert json.loads(reply.body)["error"]["status"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("place", ["header", "query", "bearer"])
def test_a_key_is_taken_off_wherever_google_s_clients_put_it(place: str) -> None:
    """`x-goog-api-key`, `?key=` or Bearer."""
    path = f"{MODEL}:generateContent"
    exchange = start()
    if place == "query":
        reply = exchange.receive(ask(f"{path}?a=1&key={KEY}&alt=json", key=None), NOW_US)
    elif place == "header":
        reply = exchange.receive(ask(path, key=None, x_goog_api_key=KEY), NOW_US)
    else:
        reply = exchange.receive(ask(path), NOW_US)
    assert isinstance(reply, Continue)
    if place == "query":
        assert dict(reply.set_headers)[":path"] == f"{path}?a=1&alt=json".encode()
    else:
        assert reply.remove_headers == ("x-goog-api-key" if place == "header" else "authorization",)
