"""A sidecar process and another implementation of Envoy's API, in order and out of it."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from ledger.embedded import socket_directory
from ledger.event import MeteredEvent, from_bytes
from ledger.keyspace import Keyspace
from tests.e2e import envoy_voice as say
from tests.e2e import seeded
from tests.e2e.envoy_voice import Call, Voice, voice
from tests.e2e.processes import until
from tests.e2e.seeded import KEY

OURS = ("GET /probe", "GET /fence")  # calls that the tests make beside those they are about
CHAT = "/openai/v1/chat/completions"
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
ASK = {"model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}],
    "usage": USAGE,
}


def chunk(**fields: Any) -> bytes:
    """One SSE event of a chat stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o"}
    return b"data: " + json.dumps({**head, **fields}).encode() + b"\n\n"


HELLO = chunk(choices=[{"index": 0, "delta": {"content": "hello"}}])
LAST_USAGE = chunk(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"


@dataclass
class Watched:
    """A sidecar, and the stream that it writes to."""

    process: seeded.Sidecar
    store: redis.Redis
    seen: str = "-"
    events: list[MeteredEvent] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.process.socket

    @property
    def worker(self) -> int:
        return self.process.worker

    def new_events(self) -> list[MeteredEvent]:
        """Events that reached the stream since `forget` was last called."""
        start = self.seen if self.seen == "-" else "(" + self.seen
        entries: Any = self.store.xrange(Keyspace().events, min=start)
        for entry, fields in entries:
            self.seen = entry.decode()
            self.events.append(from_bytes(fields[b"e"]))
        return self.events

    def forget(self) -> None:
        """Start counting anew."""
        self.new_events()
        self.events = []


@pytest.fixture(scope="module")
def sidecar(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One worker, with a directory of one key and no budget; no ledger reads what it writes."""
    folder = tmp_path_factory.mktemp("extproc")
    sockets = socket_directory(folder, "e2e")
    with redis.Redis.from_url(redis_server) as store:
        store.flushdb()
        seeded.publish(store)
        with seeded.sidecar(redis_server, sockets, folder / "spool") as process:
            running = Watched(process, store)
            until(lambda: asyncio.run(_ready(running)), what="the sidecar has its directory")
            running.forget()
            yield running


async def _ready(sidecar: Watched) -> bool:
    if not sidecar.socket.exists():
        return False
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        reply = await call.say(say.request_headers("/probe", method="GET", ended=True, key=KEY))
        return reply.immediate_response is None


@pytest.fixture(autouse=True)
async def never_crashes(sidecar: Watched) -> AsyncIterator[None]:
    """The worker that served a test is the one that was there before it."""
    before = sidecar.worker
    sidecar.forget()
    yield
    assert sidecar.worker == before
    assert await _ready(sidecar)


async def eventually(look: Callable[[], bool], what: str) -> None:
    """Wait until it is so, without holding the loop up."""
    await asyncio.to_thread(until, look, what=what, deadline_s=15)


async def exactly(sidecar: Watched, number: int) -> list[MeteredEvent]:
    """The events since the test began: `number`, and no more once a later call has come."""

    def fenced() -> bool:
        return any(event.route == "GET /fence" for event in sidecar.new_events())

    await eventually(lambda: len(theirs(sidecar)) >= number, f"{number} events")
    async with voice(sidecar.socket) as envoy, envoy.call() as fence:
        reply = await fence.say(say.request_headers("/fence", method="GET", ended=True))
    assert reply.immediate_response is not None
    await eventually(fenced, "the event of the later call")
    found = theirs(sidecar)
    assert len(found) == number
    return found


def theirs(sidecar: Watched) -> list[MeteredEvent]:
    """The events of the calls that a test is about."""
    return [event for event in sidecar.new_events() if event.route not in OURS]


def headers_set(mutation: Any) -> dict[str, str]:
    """The headers that a reply sets."""
    return {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}


async def admit(call: Call, ask: Any = ASK, path: str = CHAT) -> Any:
    """Bring a call past its request; the reply to its body."""
    await call.say(say.request_headers(path, key=KEY))
    return await call.say(say.request_body(ask))


async def test_a_whole_answer(sidecar: Watched) -> None:
    """Headers, body, headers, body: our key is removed, usage is read, the cost is told."""
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        head = await call.say(say.request_headers(CHAT, key=KEY, baggage="a=b"))
        assert head.request_headers is not None
        removed = head.request_headers.response.header_mutation.remove_headers
        assert {"authorization", "baggage"} <= set(removed)
        assert head.mode_override is not None
        assert head.mode_override.request_body_mode.name == "BUFFERED"
        await call.say(say.request_body(ASK))
        answered = await call.say(say.response_headers())
        assert answered.response_headers is not None
        assert answered.mode_override.response_body_mode.name == "BUFFERED"
        stamped = headers_set(answered.response_headers.response.header_mutation)
        body = await call.say(say.response_body(ANSWER))
        assert body.response_body is not None
        told = headers_set(body.response_body.response.header_mutation)
    [event] = await exactly(sidecar, 1)
    assert event.event_id == stamped["x-tollkeeper-event-id"]
    assert (event.input_tokens, event.output_tokens) == (100, 20)
    assert event.cost_nanos == 100 * 2_500 + 20 * 10_000
    assert float(told["x-tollkeeper-cost-usd"]) * 1e9 == pytest.approx(event.cost_nanos)
    assert (event.outcome, event.usage_source, event.team) == ("ok", "provider", "risk")


@pytest.mark.parametrize("cut", [1, 7, 10_000])
async def test_a_stream_in_any_pieces(sidecar: Watched, cut: int) -> None:
    """Usage that we asked for is read and removed; every other byte passes, however it is cut."""
    everything = HELLO * 3 + LAST_USAGE + DONE
    passed = b""
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        reply = await admit(call, {**ASK, "stream": True})
        sent = json.loads(reply.request_body.response.body_mutation.body)
        assert sent["stream_options"]["include_usage"] is True
        await call.say(say.response_headers(content_type="text/event-stream"))
        for start in range(0, len(everything), cut):
            piece = everything[start : start + cut]
            ended = start + cut >= len(everything)
            body = (await call.say(say.response_body(piece, ended=ended))).response_body
            passed += _after(body, piece)
    assert passed == HELLO * 3 + DONE
    [event] = await exactly(sidecar, 1)
    assert (event.input_tokens, event.output_tokens, event.outcome) == (100, 20, "ok")


def _after(body: Any, sent: bytes) -> bytes:
    mutation = body.response.body_mutation if body.response is not None else None
    if mutation is None:
        return sent
    return b"" if mutation.clear_body else bytes(mutation.body or b"")


async def test_no_key_is_refused_in_the_api_s_shape(sidecar: Watched) -> None:
    """401 before anything goes upstream, an event for it, and the same id in both."""
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        reply = await call.say(say.request_headers(CHAT))
    answer = reply.immediate_response
    assert answer is not None
    assert answer.status is not None
    assert int(answer.status.code) == 401
    assert "Tollkeeper key" in json.loads(answer.body)["error"]["message"]
    [event] = await exactly(sidecar, 1)
    assert (event.outcome, event.refusal, event.http_status) == ("refused", "key_missing", 401)
    assert headers_set(answer.headers)["x-tollkeeper-event-id"] == event.event_id


async def test_an_end_without_a_body(sidecar: Watched) -> None:
    """A POST whose headers end it is refused; a GET passes; a 204 ends at its headers."""
    async with voice(sidecar.socket) as envoy:
        async with envoy.call() as call:
            reply = await call.say(say.request_headers(CHAT, key=KEY, ended=True))
            assert reply.immediate_response is not None
        async with envoy.call() as call:
            path = "/openai/v1/models"
            await call.say(say.request_headers(path, method="GET", key=KEY, ended=True))
            await call.say(say.response_headers(204, ended=True))
            await call.hang_up()
    first, second = sorted(await exactly(sidecar, 2), key=lambda event: event.outcome)
    assert (first.outcome, first.operation, first.http_status) == ("ok", "other", 204)
    assert (second.outcome, second.http_status) == ("refused", 400)


async def test_trailers_end_a_stream(sidecar: Watched) -> None:
    """With trailers the last chunk does not say that it is the last."""
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        await admit(call, {**ASK, "stream": True})
        await call.say(say.response_headers(content_type="text/event-stream"))
        await call.say(say.response_body(HELLO + LAST_USAGE + DONE, ended=False))
        reply = await call.say(say.response_trailers())
        assert reply.response_trailers is not None
        await call.hang_up()
    [event] = await exactly(sidecar, 1)
    assert (event.outcome, event.output_tokens) == ("ok", 20)


WRONG_ORDERS = {
    "body first": [say.request_body(ASK)],
    "answer first": [say.response_headers()],
    "answer's body first": [say.response_body(ANSWER)],
    "trailers first": [say.request_trailers()],
    "headers twice": [say.request_headers(CHAT, key=KEY), say.request_headers(CHAT, key=KEY)],
    "answer before the body": [say.request_headers(CHAT, key=KEY), say.response_headers()],
    "trailers before the body": [say.request_headers(CHAT, key=KEY), say.request_trailers()],
}


@pytest.mark.parametrize("name", WRONG_ORDERS)
async def test_a_wrong_order_before_admission_is_refused(sidecar: Watched, name: str) -> None:
    """Nothing goes upstream unmetered: the first message out of order gets an immediate answer."""
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        replies = [await call.say(message) for message in WRONG_ORDERS[name]]
    assert replies[-1].immediate_response is not None
    [event] = await exactly(sidecar, 1)
    assert event.outcome == "refused"


async def test_spare_messages_after_the_end_get_one_reply_each(sidecar: Watched) -> None:
    """Whatever follows a settled call is answered and changes nothing."""
    spare = [
        say.response_body(ANSWER),
        say.response_headers(),
        say.request_body(ASK),
        say.response_trailers(),
        say.request_trailers(),
        say.request_headers(CHAT, key=KEY),
    ]
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        await admit(call)
        await call.say(say.response_headers())
        await call.say(say.response_body(ANSWER))
        for message in spare:
            reply = await call.say(message)
            assert reply.immediate_response is None
    [event] = await exactly(sidecar, 1)
    assert event.output_tokens == 20


async def test_unknown_fields_are_ignored(sidecar: Watched) -> None:
    """A newer Envoy may say more than we know, at the top and inside."""
    unknown = b"\xa2\x1f\x03abc"  # field 500, three bytes
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        for message in (say.request_headers(CHAT, key=KEY), say.request_body(ASK)):
            reply = await call.say(message + unknown)
            assert reply.immediate_response is None
        await call.say(say.response_headers() + unknown)
        await call.say(unknown + say.response_body(ANSWER))
    [event] = await exactly(sidecar, 1)
    assert event.output_tokens == 20


async def test_a_message_of_no_known_kind_ends_its_own_stream_only(sidecar: Watched) -> None:
    """An empty message and garbage fail the stream that carried them; the call has its event."""
    for broken in (b"", b"\xff\xff\xff\xff"):
        async with voice(sidecar.socket) as envoy, envoy.call() as call:
            await admit(call)
            await call.send(broken)
            assert (await call.hang_up()).name != "OK"
    events = await exactly(sidecar, 2)
    assert {event.outcome for event in events} <= {"client_gone", "provider_gone", "gateway_gone"}


STAGES = {
    "after the headers": [say.request_headers(CHAT, key=KEY)],
    "after the body": [say.request_headers(CHAT, key=KEY), say.request_body(ASK)],
    "after the answer's headers": [
        say.request_headers(CHAT, key=KEY),
        say.request_body(ASK),
        say.response_headers(),
    ],
    "in the middle of a stream": [
        say.request_headers(CHAT, key=KEY),
        say.request_body({**ASK, "stream": True}),
        say.response_headers(content_type="text/event-stream"),
        say.response_body(HELLO, ended=False),
    ],
}


@pytest.mark.parametrize("how", ["reset", "half-close"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_call_that_ends_early_has_its_event(sidecar: Watched, stage: str, how: str) -> None:
    """Wherever the stream ends and however, there is one event, estimated where text had come."""
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        for message in STAGES[stage]:
            await call.say(message)
        if how == "reset":
            call.reset()
        else:
            await call.hang_up()
    [event] = await exactly(sidecar, 1)
    assert event.outcome in ("client_gone", "provider_gone")
    if stage == "in the middle of a stream":
        assert event.usage_source == "estimated"
        assert event.output_tokens > 0


async def test_a_reset_before_any_reply_was_read(sidecar: Watched) -> None:
    """Messages sent and the stream reset at once: one event at most for each call, and no crash."""
    async with voice(sidecar.socket) as envoy:
        for _ in range(20):
            async with envoy.call() as call:
                await call.send(say.request_headers(CHAT, key=KEY))
                await call.send(say.request_body(ASK))
    async with voice(sidecar.socket) as envoy, envoy.call() as call:
        await admit(call)
        await call.say(say.response_headers())
        await call.say(say.response_body(ANSWER))
    events = await exactly_between(sidecar, 1, 21)
    assert sum(event.outcome == "ok" for event in events) == 1


async def exactly_between(sidecar: Watched, low: int, high: int) -> list[MeteredEvent]:
    """Between `low` and `high` events, all of them of different calls."""
    await asyncio.sleep(0.5)
    found = theirs(sidecar)
    assert low <= len(found) <= high
    assert len({event.event_id for event in found}) == len(found)
    return found


async def test_many_streams_at_once_of_which_half_are_reset(sidecar: Watched) -> None:
    """200 interleaved calls, every second one reset at a random place: 200 events."""
    dice = random.Random(11)
    whole = [*STAGES["after the answer's headers"], say.response_body(ANSWER)]

    async def one(envoy: Voice, number: int) -> None:
        async with envoy.call() as call:
            for message in whole[: dice.randint(1, 3)] if number % 2 else whole:
                await call.say(message)

    async with voice(sidecar.socket) as envoy:
        await asyncio.gather(*(one(envoy, number) for number in range(200)))
    events = await exactly(sidecar, 200)
    assert len({event.event_id for event in events}) == 200
    numbers = [event.seq for event in sidecar.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert sum(event.output_tokens for event in events if event.outcome == "ok") == 100 * 20


async def test_random_conversations(sidecar: Watched) -> None:
    """60 conversations of random messages: a reply to each, one event for each, none crashes."""
    seed = 20_26
    dice = random.Random(seed)
    words = [
        say.request_headers(CHAT, key=KEY),
        say.request_headers(CHAT),
        say.request_headers("/anthropic/v1/messages", key=KEY),
        say.request_headers("\\weird //\u00e9?key=%zz", key=KEY, x_header=b"\xff\xfe"),
        say.request_body(ASK),
        say.request_body(b"not json"),
        say.request_body(b"null"),
        say.request_body({**ASK, "stream": True}),
        say.response_headers(),
        say.response_headers(content_type="text/event-stream"),
        say.response_headers(content_type="text/html"),
        say.response_headers(500, content_encoding="gzip"),
        say.response_body(ANSWER),
        say.response_body(b"\x00\xff", ended=False),
        say.response_body(b"", ended=True),
        say.response_body(HELLO + LAST_USAGE, ended=False),
        say.request_trailers(),
        say.response_trailers(),
    ]
    for _ in range(60):
        messages = dice.choices(words, k=dice.randint(1, 8))
        async with voice(sidecar.socket) as envoy, envoy.call() as call:
            for message in messages:
                await call.say(message)
    events = await exactly(sidecar, 60)
    assert len({event.event_id for event in events}) == 60


async def test_the_route_s_metadata_names_the_provider(sidecar: Watched) -> None:
    """A route may say provider, API and prefix; the path is then read without its prefix."""
    told = (
        ("x-tollkeeper-provider", "mistral"),
        ("x-tollkeeper-api", "openai"),
        ("x-tollkeeper-prefix", "/mistral"),
    )
    async with voice(sidecar.socket) as envoy, envoy.call(*told) as call:
        await admit(call, path="/mistral/v1/chat/completions?a=1")
        await call.say(say.response_headers())
        await call.say(say.response_body({**ANSWER, "model": "mistral-large-latest"}))
    [event] = await exactly(sidecar, 1)
    assert (event.provider, event.operation) == ("mistral", "chat")
    assert event.route == "POST /v1/chat/completions"
