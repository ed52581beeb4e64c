"""Whatever clients and providers do wrong: one event for each call, and the worker lives on."""

import gzip
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e import raw_http
from tests.e2e.conftest import wish
from tests.e2e.fake import Fake
from tests.e2e.processes import resident_bytes, until
from tests.e2e.stack import DEAD, EVENT_ID, Event, Stack

CHAT = "/openai/v1/chat/completions"
ASK: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def workers_live_on(stack: Stack) -> Iterator[None]:
    """The workers that were there before a test are there after it."""
    before = stack.workers()
    yield
    assert stack.workers() == before


@pytest.fixture
def own_key(stack: Stack) -> dict[str, Any]:
    """A key of this test alone, so that its events can be counted."""
    return stack.issue()


def the_one_event(stack: Stack, key: dict[str, Any]) -> Event:
    """The only event of a key."""
    events = stack.events_of(key["key_id"], 1)
    assert len(events) == 1
    return events[0]


def send(stack: Stack, key: dict[str, Any], body: Any, **wishes: Any) -> httpx.Response:
    """One call; `body` is sent as it is where it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {
        "authorization": f"Bearer {key['key']}",
        "content-type": "application/json",
        **(wish(**wishes) if wishes else {}),
    }
    return httpx.post(stack.gateway + CHAT, content=content, headers=headers, timeout=40)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"42", b'{"model": 7}', b"\xff\xfe\x00", b'{"a":' * 5000, b"NaN"],
    ids=lambda body: repr(body[:12]),
)
def test_a_malformed_request(stack: Stack, own_key: dict[str, Any], body: bytes) -> None:
    """Refused with 400 in the API's shape, before the provider hears of it."""
    answer = send(stack, own_key, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    event = the_one_event(stack, own_key)
    assert (event["outcome"], event["refusal"]) == ("refused", "malformed_request")
    assert event["event_id"] == answer.headers[EVENT_ID]


def test_a_request_over_the_limit(stack: Stack, own_key: dict[str, Any]) -> None:
    """413 with the limit in the sentence, from the declared length alone."""
    head = raw_http.post(CHAT, own_key["key"], b"", b"content-length: 100000000")
    head = head.replace(b"content-length: 0\r\n", b"")
    answer = raw_http.exchange(stack.gateway, head + b'{"model":')
    assert raw_http.status_of(answer) == 413
    assert b"larger than" in answer
    assert the_one_event(stack, own_key)["refusal"] == "request_too_large"


def test_a_request_over_the_limit_in_chunks(stack: Stack, own_key: dict[str, Any]) -> None:
    """Without a declared length Envoy's own buffer limit answers 413; the call is on record."""

    def blocks() -> Iterator[bytes]:
        yield b'{"model": "gpt-4o", "pad": "'
        for _ in range(80):
            yield b"x" * MIB

    headers = {"authorization": f"Bearer {own_key['key']}"}
    try:
        answer = httpx.post(stack.gateway + CHAT, content=blocks(), headers=headers, timeout=60)
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # Envoy may close while the client still writes
    event = the_one_event(stack, own_key)
    assert event["outcome"] in ("refused", "client_gone", "provider_gone")


def test_a_request_in_chunks(stack: Stack, own_key: dict[str, Any]) -> None:
    """A body without a declared length is read like any other."""

    def blocks() -> Iterator[bytes]:
        whole = json.dumps({**ASK, "stream": True}).encode()
        yield whole[:20]
        yield whole[20:]

    headers = {"authorization": f"Bearer {own_key['key']}"}
    answer = httpx.post(stack.gateway + CHAT, content=blocks(), headers=headers)
    assert answer.status_code == 200
    assert '"choices":[]' not in answer.text
    stack.booked(answer.headers)


def test_a_compressed_request(stack: Stack, own_key: dict[str, Any]) -> None:
    """A gzipped body is read; where it has to be changed it goes on plain."""
    content = gzip.compress(json.dumps({**ASK, "stream": True}).encode())
    headers = {"authorization": f"Bearer {own_key['key']}", "content-encoding": "gzip"}
    answer = httpx.post(stack.gateway + CHAT, content=content, headers=headers)
    assert answer.status_code == 200
    stack.booked(answer.headers)
    bomb = gzip.compress(b" " * (200 * MIB))
    answer = httpx.post(stack.gateway + CHAT, content=bomb, headers=headers)
    assert answer.status_code in (400, 413)


def test_a_large_request_and_answer_pass(stack: Stack, own_key: dict[str, Any]) -> None:
    """Five MiB in and one MiB out are ordinary."""
    body = {**ASK, "messages": [{"role": "user", "content": "x" * (5 * MIB)}]}
    answer = send(stack, own_key, body, output_tokens=100_000)
    assert answer.status_code == 200
    event = stack.booked(answer.headers)
    assert event["input_tokens"] >= 5 * MIB // 4
    assert event["output_tokens"] == 100_000


@pytest.mark.parametrize("streamed", [False, True])
def test_a_decompression_bomb(stack: Stack, own_key: dict[str, Any], streamed: bool) -> None:
    """A gigabyte in a megabyte is not unpacked: memory stays and the answer passes."""
    before = max(resident_bytes(pid) for pid in stack.workers())
    answer = httpx.stream(
        "POST",
        stack.gateway + CHAT,
        json={**ASK, "stream": streamed},
        headers={"authorization": f"Bearer {own_key['key']}", **wish(bomb=1 << 30)},
        timeout=60,
    )
    with answer as got:
        size = sum(len(block) for block in got.iter_raw())
    assert got.status_code in (200, 502)
    assert size < 40 * MIB
    event = the_one_event(stack, own_key)
    assert event["usage_source"] in ("estimated", "none")
    assert max(resident_bytes(pid) for pid in stack.workers()) < before + 150 * MIB


def test_an_sse_line_without_end(stack: Stack, own_key: dict[str, Any]) -> None:
    """A hundred megabytes in one line do not stay in the worker's memory."""
    before = max(resident_bytes(pid) for pid in stack.workers())
    peak = 0
    headers = {
        "authorization": f"Bearer {own_key['key']}",
        **wish(endless_line=100 * MIB, output_tokens=3),
    }
    body = {**ASK, "stream": True}
    size = 0
    with httpx.stream("POST", stack.gateway + CHAT, json=body, headers=headers, timeout=60) as got:
        for number, block in enumerate(got.iter_raw()):
            size += len(block)
            if number % 500 == 0:
                peak = max(peak, *(resident_bytes(pid) for pid in stack.workers()))
    assert size > 50 * MIB
    assert peak < before + 100 * MIB
    event = the_one_event(stack, own_key)
    assert event["output_tokens"] >= 3


def test_headers_that_are_not_utf_8(stack: Stack, own_key: dict[str, Any]) -> None:
    """Bytes above 127 in a header value and in the path harm nobody."""
    body = json.dumps(ASK).encode()
    odd = (b"x-odd: \xff\xfe\x80", b"user-agent: caf\xe9", b"x-empty:")
    answer = raw_http.exchange(
        stack.gateway, raw_http.post(CHAT + "?q=%FF", own_key["key"], body, *odd)
    )
    assert raw_http.status_of(answer) == 200
    event = the_one_event(stack, own_key)
    assert (event["event_id"], event["outcome"]) == (raw_http.header_of(answer, EVENT_ID), "ok")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("wishes", [{"html": True}, {"null": True}], ids=["html", "null"])
def test_a_200_that_is_no_answer(
    stack: Stack, own_key: dict[str, Any], wishes: dict[str, Any], streamed: bool
) -> None:
    """A sign-in page or a bare null passes, costs nothing known, and is the provider's error."""
    answer = send(stack, own_key, {**ASK, "stream": streamed}, **wishes)
    assert answer.status_code == 200
    assert answer.content in (b"null", answer.content)
    event = the_one_event(stack, own_key)
    assert event["outcome"] == "provider_error"
    assert event["output_tokens"] == 0


def test_usage_missing_is_estimated(stack: Stack, own_key: dict[str, Any]) -> None:
    """A provider that does not say is not free: tokens are estimated from the text."""
    for streamed in (False, True):
        answer = send(stack, own_key, {**ASK, "stream": streamed}, no_usage=True, output_tokens=300)
        assert answer.status_code == 200
    for event in stack.events_of(own_key["key_id"], 2):
        assert event["usage_source"] == "estimated"
        assert 75 <= event["output_tokens"] <= 1200
        assert event["cost_nanos"] > 0


def test_an_error_in_the_middle_of_a_chat(stack: Stack, own_key: dict[str, Any]) -> None:
    """An error event instead of an end: the provider's fault, and what was said is paid for."""
    answer = send(stack, own_key, {**ASK, "stream": True}, stream_error=True, output_tokens=40)
    assert '"error"' in answer.text
    event = the_one_event(stack, own_key)
    assert event["outcome"] == "provider_error"
    assert event["output_tokens"] > 0


def test_a_provider_that_is_not_there(stack: Stack, own_key: dict[str, Any]) -> None:
    """Envoy answers 503 itself; the event says so, and costs nothing."""
    headers = {"authorization": f"Bearer {own_key['key']}"}
    url = f"{stack.gateway}/{DEAD}/v1/chat/completions"
    answer = httpx.post(url, json=ASK, headers=headers, timeout=30)
    assert answer.status_code in (502, 503, 504)
    event = the_one_event(stack, own_key)
    assert event["provider"] == DEAD
    assert event["outcome"] in ("provider_gone", "provider_error")
    assert event["cost_nanos"] == 0
    assert event["usage_source"] == "none"


@pytest.mark.parametrize("where", ["start", "middle"])
def test_a_provider_that_hangs(stack: Stack, own_key: dict[str, Any], where: str) -> None:
    """The client gives up; the event is there, and nothing is held for ever."""
    headers = {
        "authorization": f"Bearer {own_key['key']}",
        **wish(hang=where, hang_s=30.0, output_tokens=20),
    }
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.stream(
            "POST",
            stack.gateway + CHAT,
            json={**ASK, "stream": True},
            headers=headers,
            timeout=httpx.Timeout(2.0),
        ) as answer,
    ):
        for _ in answer.iter_raw():
            pass
    event = the_one_event(stack, own_key)
    assert event["outcome"] in ("client_gone", "provider_gone")
    if where == "middle":
        assert event["usage_source"] == "estimated"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_provider_that_closes_half_way(
    stack: Stack, own_key: dict[str, Any], streamed: bool
) -> None:
    """The client sees a broken answer, the books an estimated or unknown one, once."""
    wishes = {"close_after": 5, "chunk_bytes": 60, "output_tokens": 50}
    with pytest.raises((httpx.RemoteProtocolError, httpx.HTTPStatusError)):
        send(stack, own_key, {**ASK, "stream": streamed}, **wishes).raise_for_status()
    event = the_one_event(stack, own_key)
    assert event["outcome"] in ("provider_gone", "provider_error", "client_gone")


def test_a_client_that_disconnects_in_a_stream(
    stack: Stack, fake: Fake, own_key: dict[str, Any]
) -> None:
    """The provider hears of it, and the event is estimated near what it billed."""
    headers = {
        "authorization": f"Bearer {own_key['key']}",
        **wish(output_tokens=3000, delay_ms=5),
    }
    body = {**ASK, "stream": True}
    with httpx.stream("POST", stack.gateway + CHAT, json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        for _ in range(200):
            next(lines)
        request_id = answer.headers["x-request-id"]
    bill = fake.bill(request_id)
    assert bill["client_gone"]
    event = the_one_event(stack, own_key)
    assert (event["outcome"], event["usage_source"]) == ("client_gone", "estimated")
    assert bill["output_tokens"] / 4 <= event["output_tokens"] <= bill["output_tokens"] * 4


def test_a_client_that_leaves_before_the_answer(
    stack: Stack, fake: Fake, own_key: dict[str, Any]
) -> None:
    """The provider may bill a call whose client left before its headers: it is not free."""
    headers = {"authorization": f"Bearer {own_key['key']}", **wish(hang="start", hang_s=10.0)}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(stack.gateway + CHAT, json=ASK, headers=headers, timeout=1.0)
    event = the_one_event(stack, own_key)
    assert event["outcome"] == "client_gone"
    assert event["usage_source"] == "estimated"


def _name_models(stack: Stack, key: str, start: int, number: int, failed: list[int]) -> None:
    where = urlsplit(stack.gateway)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    headers = {"authorization": f"Bearer {key}", **wish(output_tokens=1)}
    for count in range(start, start + number):
        body = json.dumps({**ASK, "model": f"made-up-{count}-" + "m" * 60})
        connection.request("POST", CHAT, body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            failed.append(answer.status)
    connection.close()


def _name_many_models(stack: Stack, key: str, start: int, number: int) -> None:
    failed: list[int] = []
    share = number // 8
    threads = [
        threading.Thread(target=_name_models, args=(stack, key, start + share * i, share, failed))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.timeout(300)
def test_ten_thousand_model_names(stack: Stack, own_key: dict[str, Any]) -> None:
    """Names that clients invent are not collected: the workers' memory stays where it was."""
    _name_many_models(stack, own_key["key"], 0, 2_000)
    before = sum(resident_bytes(pid) for pid in stack.workers())
    _name_many_models(stack, own_key["key"], 2_000, 10_000)
    after = sum(resident_bytes(pid) for pid in stack.workers())
    assert after < before + 24 * MIB
    query = "SELECT count(*) AS n, count(cost_nanos) AS priced FROM events WHERE key_id = %s"
    until(
        lambda: stack.rows(query, own_key["key_id"])[0]["n"] >= 12_000,
        what="12,000 events",
        deadline_s=30,
    )
    [row] = stack.rows(query + " AND operation = 'chat'", own_key["key_id"])
    assert (row["n"], row["priced"]) == (12_000, 0)
