"""What passes the gateway unchanged, what never does, and what no client can decide."""

import gzip
import json
import time
import zlib
from typing import Any

import brotli
import httpx
import pytest
import zstandard

from tests.e2e.conftest import wish
from tests.e2e.fake import Fake
from tests.e2e.stack import COST, EVENT_ID, Stack

CHAT = "/openai/v1/chat/completions"
ASK: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Who was late?"}]}


def post(
    stack: Stack, key: dict[str, Any], path: str, body: Any, headers: dict[str, str]
) -> httpx.Response:
    """One call whose answer is not decoded: `content` stays as it was sent."""
    head = {"authorization": f"Bearer {key['key']}", "accept-encoding": "identity", **headers}
    with httpx.stream("POST", stack.gateway + path, json=body, headers=head, timeout=30) as answer:
        raw = b"".join(answer.iter_raw())
        assert answer.status_code == 200, raw
        answer._content = raw
        return answer


def without_usage(sent: bytes, end: bytes = b"\n\n") -> bytes:
    """The fake's stream as it would have been unasked: no usage event, no null usage in others."""
    events = [event for event in sent.split(end) if b'"choices":[],"usage"' not in event]
    return end.join(event.replace(b',"usage":null', b"") for event in events)


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"chunk_bytes": 1},
        {"chunk_bytes": 37},
        {"chunk_tokens": 12, "output_tokens": 500},
        {"crlf": True},
        {"crlf": True, "chunk_bytes": 3},
    ],
    ids=str,
)
def test_a_stream_s_bytes_are_the_provider_s(
    stack: Stack, fake: Fake, key: dict[str, Any], wishes: dict[str, Any]
) -> None:
    """Every byte arrives as it was sent, but for the usage that only the gateway asked for."""
    answer = post(stack, key, CHAT, {**ASK, "stream": True}, wish(**wishes))
    sent = fake.sent(answer.headers["x-request-id"])
    end = b"\r\n\r\n" if wishes.get("crlf") else b"\n\n"
    assert b'"choices":[],"usage"' in sent
    assert answer.content == without_usage(sent, end)
    stack.booked(answer.headers)


@pytest.mark.parametrize("path", ["/openai/v1/responses", "/anthropic/v1/messages"])
def test_other_streams_pass_byte_for_byte(
    stack: Stack, fake: Fake, key: dict[str, Any], path: str
) -> None:
    """Nothing is added to or taken from streams that report usage unasked."""
    body = {"model": "gpt-4o", "input": "x", "stream": True}
    if "anthropic" in path:
        body = {**ASK, "model": "claude-sonnet-4-6", "max_tokens": 50, "stream": True}
    answer = post(stack, key, path, body, wish(chunk_bytes=50))
    assert answer.content == fake.sent(answer.headers["x-request-id"])
    stack.booked(answer.headers)


def unpacked(how: str, data: bytes) -> bytes:
    """Decompressed."""
    if how == "gzip":
        return gzip.decompress(data)
    if how == "br":
        return bytes(brotli.decompress(data))
    if how == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return zlib.decompress(data)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("how", ["gzip", "br", "zstd", "deflate"])
def test_answers_compressed_unasked_are_read(
    stack: Stack, fake: Fake, key: dict[str, Any], how: str, streamed: bool
) -> None:
    """Usage is read in every coding; the client can decode what it gets by its header."""
    answer = post(stack, key, CHAT, {**ASK, "stream": streamed}, wish(compress=how))
    event = stack.booked(answer.headers)
    assert event["output_tokens"] == 12
    coding = answer.headers.get("content-encoding")
    plain = unpacked(coding, answer.content) if coding else answer.content
    sent = unpacked(how, fake.sent(answer.headers["x-request-id"]))
    assert plain == (without_usage(sent) if streamed else sent)


def test_a_json_answer_is_untouched_but_for_two_headers(
    stack: Stack, fake: Fake, key: dict[str, Any]
) -> None:
    """Body as sent, and the event id and the cost beside the provider's own headers."""
    answer = post(stack, key, CHAT, ASK, {})
    assert answer.content == fake.sent(answer.headers["x-request-id"])
    assert answer.headers[EVENT_ID]
    assert answer.headers[COST]
    assert answer.headers["openai-processing-ms"] == "12"


def test_nothing_of_ours_reaches_the_provider(
    stack: Stack, fake: Fake, key: dict[str, Any]
) -> None:
    """No key wherever it stood, no header of ours, no baggage; the caller's own things stay."""
    ours = {
        "baggage": "customer=secret",
        "x-tollkeeper-run": "r1",
        "x-tollkeeper-label-team": "sales",
        "user-agent": "agent/1",
        "x-custom": "kept",
    }
    url = stack.gateway + CHAT
    places: list[dict[str, Any]] = [
        {"headers": {"authorization": f"Bearer {key['key']}"}},
        {"headers": {"authorization": f"bearer  {key['key']}"}},
        {"headers": {"x-api-key": key["key"]}},
        {"headers": {"api-key": key["key"]}},
        {"headers": {"x-goog-api-key": key["key"]}},
        {"headers": {}, "params": {"key": key["key"], "alt": "sse"}},
        {"headers": {"x-tollkeeper-key": key["key"], "authorization": "Bearer sk-own"}},
    ]
    for place in places:
        headers = {**ours, **place["headers"]}
        answer = httpx.post(url, json=ASK, headers=headers, params=place.get("params"))
        assert answer.status_code == 200, (place, answer.text)
        seen = fake.request(answer.headers["x-request-id"])
        assert key["key"].split("-")[-1] not in json.dumps(seen)
        assert not [name for name, _ in seen["headers"] if name.startswith("x-tollkeeper")]
        got = dict(seen["headers"])
        assert (got["user-agent"], got["x-custom"]) == ("agent/1", "kept")
        assert "baggage" not in got
        if "sk-own" in str(place):
            assert got["authorization"] == "Bearer sk-own"
        if "params" in place:
            assert seen["query"] == "alt=sse"
    assert fake.leaks() == []


def test_a_client_cannot_set_a_label(stack: Stack, key: dict[str, Any]) -> None:
    """Whatever a request claims, it is booked on its key's labels."""
    claims = {f"x-tollkeeper-{name}": "boss" for name in ("team", "owner", "agent", "workload")}
    claims |= {f"x-tollkeeper-label-{name}": "boss" for name in ("team", "customer")}
    claims |= {"x-tollkeeper-event-id": "mine", "x-tollkeeper-provider": "azure"}
    answer = post(stack, key, CHAT, ASK, claims)
    assert answer.headers[EVENT_ID] != "mine"
    event = stack.booked(answer.headers)
    labels = [event[name] for name in ("team", "owner", "agent", "workload", "customer")]
    assert "boss" not in labels
    assert event["provider"] == "openai"


def test_every_event_is_found_by_the_public_command(stack: Stack, key: dict[str, Any]) -> None:
    """`ledger events --format json` shows a call within five seconds, with the public names."""
    answer = post(stack, key, CHAT, ASK, {})
    answered = time.monotonic()
    wanted = answer.headers[EVENT_ID]
    while True:
        events = stack.json("events", "--limit", "50", "--where", f"key={key['key_id']}")
        found = [event for event in events if event["event_id"] == wanted]
        if found or time.monotonic() - answered > 5:
            break
    assert len(found) == 1
    names = "producer seq occurred_at key_id owner principal team agent workload customer labels"
    names += " run_id provider model_requested model operation streamed input_tokens cost_nanos"
    names += " output_tokens usage_source http_status outcome latency_ms first_byte_ms route"
    assert set(names.split()) <= set(found[0])
