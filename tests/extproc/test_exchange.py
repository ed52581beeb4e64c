"""The exchange: what it answers to each message, when it is done, and the one event it leaves."""

import gzip
import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.budget import Admitted
from extproc.events import (
    CONTINUE,
    BodyMode,
    Continue,
    RequestTrailers,
    Respond,
    ResponseTrailers,
)
from extproc.exchange import Exchange, Reserve
from extproc.meter import Settlement
from extproc.policy import Policy
from extproc.providers.routing import Told
from extproc.refusal import Refusal
from ledger.event import MeteredEvent
from tests.extproc.builders import (
    KEY,
    NOW_US,
    answer,
    answer_headers,
    ask,
    body,
    budget,
    key_document,
    policy,
)

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
ANSWER = {
    "id": "chatcmpl-1",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500},
}
ANSWER_NANOS = 1000 * 150 + 500 * 600  # $0.15 and $0.60 per million tokens
CHUNKS = (
    b'data: {"id":"c","model":"gpt-4o-mini","choices":[{"delta":{"content":"hello, '
    b'\\"usage\\":null"}}],"usage":null}\n\n',
    b'data: {"id":"c","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":1000,'
    b'"completion_tokens":500}}\n\n',
    b"data: [DONE]\n\n",
)


UNASKED = CHUNKS[0].replace(b'],"usage":null', b"]") + CHUNKS[2]
"""What a client that did not ask for usage would have got."""


def start(rules: Policy | None = None) -> Exchange:
    """A new exchange."""
    return Exchange(rules or policy(), "01981e8e-0000-7000-8000-000000000001")


def admitted(rules: Policy | None = None, request: dict[str, object] = CHAT) -> Exchange:
    """An exchange whose chat request is on its way upstream."""
    exchange = start(rules)
    exchange.receive(ask(), NOW_US)
    exchange.receive(body(json.dumps(request)), NOW_US)
    exchange.receive(Admitted(held=True), NOW_US)
    return exchange


def event(exchange: Exchange, at_us: int = NOW_US + 5_000_000) -> MeteredEvent:
    """The one event of a closed exchange."""
    settlement = exchange.close(at_us)
    assert isinstance(settlement, Settlement)
    assert exchange.close(at_us) is None
    return settlement.event


def test_a_json_call_end_to_end() -> None:
    """Headers, body, reservation, answer: each gets its one reply, and the event has it all."""
    exchange = start(policy(budget()))
    headers = exchange.receive(ask(), NOW_US)
    assert isinstance(headers, Continue)
    assert headers.remove_headers == ("authorization",)
    assert headers.request_body is BodyMode.BUFFERED
    reserve = exchange.receive(body(json.dumps(CHAT)), NOW_US)
    assert isinstance(reserve, Reserve)
    assert reserve.plan.shares[0].amount(reserve.plan.most) >= 100 * 600
    assert exchange.receive(Admitted(held=True), NOW_US) is CONTINUE
    reply = exchange.receive(answer_headers(), NOW_US + 1_000_000)
    assert isinstance(reply, Continue)
    assert (reply.request_body, reply.response_body) == (BodyMode.BUFFERED, BodyMode.BUFFERED)
    reply = exchange.receive(answer(json.dumps(ANSWER)), NOW_US + 2_000_000)
    assert isinstance(reply, Continue)
    assert reply.set_headers == (("x-tollkeeper-cost-usd", b"0.000450000"),)
    assert exchange.done
    settlement = exchange.close(NOW_US + 2_000_000)
    assert settlement is not None
    made = settlement.event
    assert (made.team, made.operation, made.outcome) == ("risk", "chat", "ok")
    assert (made.input_tokens, made.output_tokens, made.cost_nanos) == (1000, 500, ANSWER_NANOS)
    assert (made.usage_source, made.http_status) == ("provider", 200)
    assert (made.first_byte_ms, made.latency_ms) == (1000, 2000)
    assert settlement.counters[1] == ANSWER_NANOS


def test_a_stream_keeps_its_bytes_less_the_usage_we_asked_for() -> None:
    """Usage is asked for when the client did not, and its chunk taken out again."""
    exchange = start()
    exchange.receive(ask(), NOW_US)
    exchange.receive(body(json.dumps(CHAT | {"stream": True})), NOW_US)
    sent = exchange.receive(Admitted(held=False), NOW_US)
    assert isinstance(sent, Continue)
    assert sent.body is not None
    assert json.loads(sent.body)["stream_options"] == {"include_usage": True}
    assert dict(sent.set_headers)["content-length"] == str(len(sent.body)).encode()
    reply = exchange.receive(answer_headers("text/event-stream"), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.response_body is BodyMode.STREAMED
    seen = b""
    for chunk in CHUNKS:
        reply = exchange.receive(answer(chunk, ended=False), NOW_US)
        assert isinstance(reply, Continue)
        seen += chunk if reply.body is None else reply.body
    assert seen == UNASKED
    assert exchange.done
    made = event(exchange)
    assert (made.streamed, made.cost_nanos, made.outcome) == (True, ANSWER_NANOS, "ok")


def test_a_host_that_reports_unasked_is_not_asked() -> None:
    """Mistral refuses a request that asks, so it goes as it came, and no chunk is taken out."""
    told = Exchange(policy(), "e", Told("mistral", "compatible", "/mistral"))
    told.receive(ask("/mistral/v1/chat/completions"), NOW_US)
    told.receive(body(json.dumps(CHAT | {"stream": True})), NOW_US)
    assert told.receive(Admitted(held=False), NOW_US) is CONTINUE
    told.receive(answer_headers("text/event-stream"), NOW_US)
    for chunk in CHUNKS:
        assert told.receive(answer(chunk, ended=False), NOW_US) is CONTINUE
    assert event(told).output_tokens == 500


@given(st.data())
def test_any_chunking_gives_the_same_bytes_and_event(data: st.DataObject) -> None:
    """However a stream is cut, the client's bytes and the event are the same."""
    whole = b"".join(CHUNKS)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    exchange = admitted(request=CHAT | {"stream": True})
    exchange.receive(answer_headers("text/event-stream"), NOW_US)
    seen = b""
    for number, piece in enumerate(pieces, 1):
        reply = exchange.receive(answer(piece, ended=number == len(pieces)), NOW_US)
        assert isinstance(reply, Continue)
        seen += piece if reply.body is None else reply.body
    assert seen == UNASKED
    assert event(exchange).cost_nanos == ANSWER_NANOS


def test_a_cut_stream_is_estimated_from_what_was_seen() -> None:
    """A client that leaves is charged what passed, and the event says that it is an estimate."""
    exchange = admitted(request=CHAT | {"stream": True})
    exchange.receive(answer_headers("text/event-stream"), NOW_US)
    exchange.receive(answer(CHUNKS[0], ended=False), NOW_US)
    assert not exchange.done
    made = event(exchange)
    assert (made.outcome, made.usage_source) == ("client_gone", "estimated")
    assert made.output_tokens > 0
    assert made.cost_nanos


def test_a_stream_that_the_provider_ends_early() -> None:
    """An ended body without the API's last word is the provider's doing."""
    exchange = admitted(request=CHAT | {"stream": True})
    exchange.receive(answer_headers("text/event-stream"), NOW_US)
    exchange.receive(answer(CHUNKS[0], ended=True), NOW_US)
    assert event(exchange).outcome == "provider_gone"


def test_a_compressed_answer_is_read() -> None:
    """Gzip that the provider insists on is decoded for metering and passed on as it is."""
    exchange = admitted()
    exchange.receive(answer_headers(content_encoding="gzip"), NOW_US)
    reply = exchange.receive(answer(gzip.compress(json.dumps(ANSWER).encode())), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.body is None
    assert event(exchange).cost_nanos == ANSWER_NANOS


@pytest.mark.parametrize("text", [b"null", b"<html>busy</html>", b"", b"[]", b"\xff\xfe"])
def test_a_200_that_says_nothing(text: bytes) -> None:
    """A 200 without an answer in it costs nothing and is the provider's error."""
    exchange = admitted()
    exchange.receive(answer_headers(), NOW_US)
    exchange.receive(answer(text), NOW_US)
    made = event(exchange)
    assert (made.outcome, made.usage_source, made.cost_nanos) == ("provider_error", "none", 0)


def test_an_answer_cut_short_is_estimated() -> None:
    """Half a JSON answer was generated and will be billed, so its input is estimated."""
    exchange = admitted()
    exchange.receive(answer_headers(), NOW_US)
    exchange.receive(answer(json.dumps(ANSWER)[:60]), NOW_US)
    made = event(exchange)
    assert (made.outcome, made.usage_source) == ("provider_gone", "estimated")


def test_a_bomb_is_not_inflated() -> None:
    """A compressed answer that swells beyond reason is passed on unread, as one event."""
    exchange = admitted()
    exchange.receive(answer_headers(content_encoding="gzip"), NOW_US)
    exchange.receive(answer(gzip.compress(bytes(64 * 1024 * 1024))), NOW_US)
    assert event(exchange).outcome == "provider_error"


@pytest.mark.parametrize(
    ("changes", "status"), [({"status": "revoked"}, 401), ({"status": "suspended"}, 403)]
)
def test_a_refused_key_is_answered_at_once(changes: dict[str, object], status: int) -> None:
    """A refusal answers in the API's own shape, with the event's id, and is an event itself."""
    exchange = start(policy(**changes))
    reply = exchange.receive(ask(), NOW_US)
    assert isinstance(reply, Respond)
    assert reply.status == status
    assert json.loads(reply.body)["error"]["message"]
    assert dict(reply.headers)["x-should-retry"] == b"false"
    made = event(exchange)
    assert (made.outcome, made.http_status, made.cost_nanos) == ("refused", status, 0)
    assert made.key_id == "abcdefgh1234"


def test_an_unknown_key_leaves_an_event_without_labels() -> None:
    """Nobody is charged for a call that nobody may make, but it is on record."""
    exchange = start()
    exchange.receive(ask(key=KEY + "x"), NOW_US)
    made = event(exchange)
    assert (made.refusal, made.key_id, made.team) == ("key_unknown", "", "")


def test_before_the_directory_is_loaded_nobody_is_unknown() -> None:
    """A sidecar without its keys says 503, not 401."""
    rules = policy()
    rules.ready = False
    reply = start(rules).receive(ask(), NOW_US)
    assert isinstance(reply, Respond)
    assert reply.status == 503


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model": 5}', "\xff"])
def test_a_malformed_request_is_400(text: str) -> None:
    """A body that cannot be metered never goes upstream."""
    exchange = start()
    exchange.receive(ask(), NOW_US)
    reply = exchange.receive(body(text), NOW_US)
    assert isinstance(reply, Respond)
    assert reply.status == 400
    assert event(exchange).refusal == "malformed_request"


def test_a_body_over_the_limit_is_413() -> None:
    """A stated length over the limit is refused before the body comes."""
    reply = start().receive(ask(content_length=str(10**9)), NOW_US)
    assert isinstance(reply, Respond)
    assert reply.status == 413


def test_an_unpriced_model_under_a_money_budget_is_refused() -> None:
    """Without a price a money budget cannot hold, so the call does not go."""
    exchange = start(policy(budget()))
    exchange.receive(ask(), NOW_US)
    reply = exchange.receive(body(json.dumps(CHAT | {"model": "no-such-model"})), NOW_US)
    assert isinstance(reply, Respond)
    assert reply.status == 402
    assert event(exchange).refusal == "model_unpriced"


def test_an_unpriced_model_without_a_budget_is_loudly_unpriced() -> None:
    """Its cost is unknown, which is not zero."""
    exchange = admitted(request=CHAT | {"model": "no-such-model"})
    exchange.receive(answer_headers(), NOW_US)
    exchange.receive(answer(json.dumps(ANSWER | {"model": "no-such-model"})), NOW_US)
    made = event(exchange)
    assert (made.cost_nanos, made.price_source) == (None, "unpriced")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "/v1/responses",
            {"output": [{"type": "web_search_call"}], "usage": {"input_tokens": 9}, "model": "o3"},
        ),
        (
            "/v1/messages",
            {
                "model": "claude-sonnet-4-5",
                "usage": {"input_tokens": 9, "server_tool_use": {"web_search_requests": 2}},
            },
        ),
    ],
)
def test_fees_of_the_provider_s_own_tools_are_said_to_be_missing(
    path: str, said: dict[str, object]
) -> None:
    """The tokens have a price and the search has none that we know: the cost is not the whole."""
    exchange = start()
    exchange.receive(ask(path), NOW_US)
    request = {"model": said["model"], "max_tokens": 9, "max_output_tokens": 9, "messages": []}
    exchange.receive(body(json.dumps(request)), NOW_US)
    exchange.receive(Admitted(held=True), NOW_US)
    exchange.receive(answer_headers(), NOW_US)
    exchange.receive(answer(json.dumps(said)), NOW_US)
    made = event(exchange)
    assert made.cost_nanos
    assert made.price_source.endswith(", tool-fees-unpriced")


def test_a_refused_reservation_is_the_answer() -> None:
    """The verdict's refusal goes to the client; no hold remains on the event."""
    exchange = start(policy(budget()))
    exchange.receive(ask("/anthropic/v1/messages"), NOW_US)
    asked = {"model": "claude-sonnet-4-5", "max_tokens": 10, "messages": []}
    exchange.receive(body(json.dumps(asked)), NOW_US)
    refusal = Refusal(status=429, code="budget_spent", message="Spent.", retry_after_s=9999)
    reply = exchange.receive(refusal, NOW_US)
    assert isinstance(reply, Respond)
    assert json.loads(reply.body)["type"] == "error"
    headers = dict(reply.headers)
    assert (headers["retry-after"], headers["x-should-retry"]) == (b"9999", b"false")
    made = event(exchange)
    assert (made.refusal, made.hold_nanos) == ("budget_spent", 0)


def test_other_paths_are_one_event_each() -> None:
    """A path that is not metered passes with its key taken off, and is recorded."""
    exchange = start()
    reply = exchange.receive(ask("/openai/v1/models", "GET", ended=True), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.remove_headers == ("authorization",)
    exchange.receive(answer_headers(), NOW_US)
    assert exchange.done
    made = event(exchange)
    assert (made.operation, made.route, made.cost_nanos) == ("other", "GET /v1/models", 0)


def test_other_paths_that_may_cost_are_unpriced() -> None:
    """A fine-tune costs money that we do not know: unpriced, not zero, and not past a budget."""
    exchange = start(policy(budget()))
    action = exchange.receive(ask("/openai/v1/fine_tuning/jobs"), NOW_US)
    assert isinstance(action, Reserve)
    exchange.receive(Admitted(held=True), NOW_US)
    exchange.receive(answer_headers(), NOW_US)
    assert event(exchange).price_source == "unpriced"


def test_messages_out_of_order_never_pass_unmetered() -> None:
    """Anything but request headers first is refused; after admission strays are let pass."""
    assert isinstance(start().receive(answer_headers(), NOW_US), Respond)
    assert isinstance(start().receive(answer("x"), NOW_US), Respond)
    exchange = start()
    exchange.receive(ask(), NOW_US)
    assert isinstance(exchange.receive(ask(), NOW_US), Respond)
    passing = admitted()
    assert passing.receive(RequestTrailers(), NOW_US) is CONTINUE
    passing.receive(answer_headers("text/event-stream"), NOW_US)
    passing.receive(ResponseTrailers(), NOW_US)
    assert passing.done


@pytest.mark.parametrize("read_headers", [True, False])
def test_what_envoy_answers_itself_passes(read_headers: bool) -> None:
    """Envoy's own 413 or 400 needs no meter; it passes, and is on record."""
    exchange = start()
    if read_headers:
        exchange.receive(ask(), NOW_US)
    reply = exchange.receive(answer_headers(status=413), NOW_US)
    assert isinstance(reply, Continue)
    made = event(exchange)
    assert (made.outcome, made.http_status, made.cost_nanos) == ("refused", 413, 0)


def test_the_draft_is_what_remains_if_the_process_dies() -> None:
    """On record before the call goes upstream: the estimated input, the gateway gone."""
    exchange = admitted(policy(budget()))
    draft = exchange.draft()
    assert draft is not None
    made = MeteredEvent(**draft.fields, seq=1)
    assert (made.outcome, made.usage_source) == ("gateway_gone", "estimated")
    assert made.input_tokens > 0
    assert made.output_tokens == 0
    assert draft.counters[1] == made.cost_nanos


def test_an_azure_deployment_is_priced_as_its_model() -> None:
    """The path decides which model answers, whatever the body says."""
    rules = policy(budget(), labels={})
    rules.deployments = {"prod-chat": "gpt-4o"}
    holds = []
    for model in ("gpt-4o-mini", "gpt-4o"):
        exchange = start(rules)
        path = "/azure/openai/deployments/Prod-Chat/chat/completions?api-version=2024-10-21"
        exchange.receive(ask(path), NOW_US)
        action = exchange.receive(body(json.dumps(CHAT | {"model": model})), NOW_US)
        assert isinstance(action, Reserve)
        holds.append(action.plan.shares[0].amount(action.plan.most))
    assert holds[0] >= 100 * 10_000


def test_an_exchange_that_never_began_leaves_no_event() -> None:
    """A stream without a message is no call."""
    assert start().close(NOW_US) is None


def test_an_imported_key_calls_unchanged() -> None:
    """A key of any text is taken off the request, and the call is its key's."""
    rules = policy(sha256=sha256(b"sk-old").hexdigest())
    exchange = start(rules)
    reply = exchange.receive(ask(key="sk-old"), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.remove_headers == ("authorization",)
    exchange.receive(body(json.dumps(CHAT)), NOW_US)
    assert event(exchange).team == "risk"
    reply = start(rules).receive(ask("/openai/v1/models?key=sk-old&a=1", key=None), NOW_US)
    assert not isinstance(reply, Respond)


def test_a_relabelled_key_leaves_calls_under_way_as_they_were() -> None:
    """A call that began before counts where its key's labels were, and the next one does not."""
    search = budget(budget_id="b2", name="search", where=(("team", "search"),))
    rules = policy(budget(), search)
    under_way = admitted(rules)
    rules.change("key:abcdefgh1234", key_document(team="search", version=9))
    under_way.receive(answer_headers(), NOW_US)
    under_way.receive(answer(json.dumps(ANSWER)), NOW_US)
    before = under_way.close(NOW_US)
    assert before is not None
    assert before.event.team == "risk"
    assert ":b1:" in str(before.counters[0])
    later = admitted(rules)
    after = later.close(NOW_US)
    assert after is not None
    assert after.event.team == "search"
    assert ":b2:" in str(after.counters[0])
