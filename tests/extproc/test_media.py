"""Images, audio and batches through the exchange: recorded with what is known, never as free."""

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.budget import Admitted
from extproc.events import BodyMode, Continue, Respond
from extproc.exchange import Exchange, Reserve
from extproc.policy import Policy
from extproc.providers import openai
from extproc.providers.shape import Asked, BadRequest
from ledger.event import MeteredEvent
from tests.extproc.builders import NOW_US, answer, answer_headers, ask, body, budget, policy
from tests.extproc.test_exchange import event, start
from tests.extproc.test_form import FILE, form

DATA = Path(__file__).parents[1] / "data/openai"
IMAGES = "/openai/v1/images/generations"
SPEECH = "/openai/v1/audio/speech"
TRANSCRIPTIONS = "/openai/v1/audio/transcriptions"
DRAW = {"model": "gpt-image-1.5", "prompt": "An otter.", "quality": "low"}
SAY = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Hello."}


def sent(
    path: str, request: bytes, rules: Policy | None = None, kind: str = "application/json"
) -> Exchange:
    """An exchange whose request is on its way upstream."""
    exchange = start(rules)
    exchange.receive(ask(path, content_type=kind), NOW_US)
    reserve = exchange.receive(body(request), NOW_US)
    assert isinstance(reserve, Reserve), reserve
    exchange.receive(Admitted(held=True, granted=reserve.plan.most), NOW_US)
    return exchange


def upload(path: str, model: str, rules: Policy | None = None) -> Exchange:
    """The same for a form with a file."""
    request = form(FILE, ('name="model"', model.encode()))
    kind = "multipart/form-data; boundary=xYzZY"
    return sent(path, request, rules, kind)


def answered(exchange: Exchange, text: bytes | str, kind: str = "application/json") -> MeteredEvent:
    """The event after a whole answer."""
    exchange.receive(answer_headers(kind), NOW_US)
    exchange.receive(answer(text), NOW_US)
    assert exchange.done
    return event(exchange)


def test_an_image_is_priced_by_kind_and_held_before() -> None:
    """Pictures and text cost their own rates; the hold is at least what the picture costs."""
    exchange = sent(IMAGES, json.dumps(DRAW).encode(), policy(budget()))
    made = answered(exchange, (DATA / "images_generation/response.json").read_bytes())
    assert (made.operation, made.model, made.outcome) == ("images", "gpt-image-1.5", "ok")
    assert (made.cost_nanos, made.price_source) == (9_149_000, "genai-prices")
    assert (made.output_tokens, made.image_output_tokens) == (310, 272)
    assert made.hold_nanos >= 9_149_000


def test_an_upload_is_read_for_its_model_and_passes_as_it_came() -> None:
    """The form names the model, its answer the tokens; the body is not touched."""
    exchange = start(policy(budget()))
    kind = "multipart/form-data; boundary=xYzZY"
    exchange.receive(ask(TRANSCRIPTIONS, content_type=kind), NOW_US)
    request = form(FILE, ('name="model"', b"gpt-4o-transcribe"), ('name="stream"', b"false"))
    exchange.receive(body(request), NOW_US)
    reply = exchange.receive(Admitted(held=True), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.body is None
    made = answered(exchange, (DATA / "audio_transcription/response.json").read_bytes())
    assert (made.model, made.model_requested) == ("gpt-4o-transcribe", "gpt-4o-transcribe")
    assert (made.audio_input_tokens, made.cost_nanos, made.streamed) == (100, 1_085_000, False)


def test_a_transcript_is_streamed() -> None:
    """Usage comes with the event that ends it."""
    exchange = upload(TRANSCRIPTIONS, "gpt-4o-mini-transcribe")
    text = (DATA / "audio_transcription_stream/response.sse").read_bytes()
    made = answered(exchange, text, "text/event-stream")
    assert (made.cost_nanos, made.streamed, made.outcome) == (82_000, True, "ok")


@pytest.mark.parametrize(
    ("path", "model", "kind", "text"),
    [
        (IMAGES, "dall-e-3", "application/json", (DATA / "images_dalle/response.json").read_text()),
        (SPEECH, "tts-1", "audio/mpeg", ""),
        (SPEECH, "gpt-4o-mini-tts", "audio/mpeg", ""),
        (TRANSCRIPTIONS, "whisper-1", "application/json", '{"text":"Hi.","usage":{"seconds":9}}'),
        (TRANSCRIPTIONS, "whisper-1", "text/plain", "Hi."),
    ],
)
def test_what_is_not_said_is_unpriced(path: str, model: str, kind: str, text: str) -> None:
    """Pictures, minutes and bare sound: the call, its model and its end are on record, no cost."""
    if path == TRANSCRIPTIONS:
        exchange = upload(path, model)
    else:
        exchange = sent(path, json.dumps(SAY | DRAW | {"model": model}).encode())
    exchange.receive(answer_headers(kind), NOW_US)
    if text:
        exchange.receive(answer(text), NOW_US)
    assert exchange.done
    made = event(exchange)
    assert (made.cost_nanos, made.price_source, made.usage_source) == (None, "unpriced", "none")
    assert (made.model, made.outcome, made.input_tokens) == (model, "ok", 0)


def test_a_cut_picture_is_estimated_from_what_came() -> None:
    """A partial picture is a picture; the provider bills it although the client went away."""
    exchange = sent(IMAGES, json.dumps(DRAW | {"stream": True}).encode())
    exchange.receive(answer_headers("text/event-stream"), NOW_US)
    text = (DATA / "images_stream_cut/response.sse").read_bytes()
    exchange.receive(answer(text, ended=False), NOW_US)
    made = event(exchange)
    assert (made.usage_source, made.outcome) == ("estimated", "client_gone")
    assert made.output_tokens > 0
    assert made.cost_nanos


def test_an_image_call_whose_client_left_early_is_unpriced() -> None:
    """Nothing came, so nothing is known; that is not nothing."""
    made = event(sent(IMAGES, json.dumps(DRAW).encode()))
    assert (made.cost_nanos, made.price_source) == (None, "unpriced")


def test_a_refused_image_costs_nothing() -> None:
    """The provider's error is not billed."""
    exchange = sent(IMAGES, json.dumps(DRAW).encode())
    exchange.receive(answer_headers(status=400), NOW_US)
    exchange.receive(answer('{"error":{"code":"moderation_blocked"}}'), NOW_US)
    made = event(exchange)
    assert (made.cost_nanos, made.outcome) == (0, "provider_error")


@pytest.mark.parametrize("request_", [DRAW | {"model": "dall-e-3"}, {"prompt": "An otter."}])
def test_a_money_budget_refuses_a_picture_without_a_price(request_: dict[str, object]) -> None:
    """As any model; leaving the model out is no way around it."""
    exchange = start(policy(budget()))
    exchange.receive(ask(IMAGES), NOW_US)
    reply = exchange.receive(body(json.dumps(request_)), NOW_US)
    assert isinstance(reply, Respond)
    assert event(exchange).refusal == "model_unpriced"


@pytest.mark.parametrize(
    "path", ["/openai/v1/batches", "/anthropic/v1/messages/batches", "/router/v1/messages/batches"]
)
def test_a_batch_is_recorded_by_its_id(path: str) -> None:
    """Its request is not read, however large; its cost is unknown until the provider's bill."""
    exchange = start(policy(budget()))
    reserve = exchange.receive(ask(path), NOW_US)
    assert isinstance(reserve, Reserve)
    exchange.receive(Admitted(held=True), NOW_US)
    reply = exchange.receive(answer_headers(), NOW_US)
    assert isinstance(reply, Continue)
    assert (reply.request_body, reply.response_body) == (BodyMode.NONE, BodyMode.BUFFERED)
    exchange.receive(answer('{"id":"batch_1","object":"batch","errors":null}'), NOW_US)
    made = event(exchange)
    assert (made.operation, made.provider_response_id) == ("batches", "batch_1")
    assert (made.cost_nanos, made.price_source, made.outcome) == (None, "unpriced", "ok")


def test_looking_at_a_batch_is_free_however_often() -> None:
    """A finished batch tells its usage at every look: to count it there would count it again."""
    exchange = start()
    exchange.receive(ask("/openai/v1/batches/batch_1", "GET", ended=True), NOW_US)
    exchange.receive(answer_headers(), NOW_US)
    made = event(exchange)
    assert (made.operation, made.cost_nanos, made.price_source) == ("other", 0, "free")


@pytest.mark.parametrize(
    "path",
    ["/openai/v1/realtime/client_secrets", "/v1/realtime/calls", "/openai/v1/Realtime/sessions/"],
)
def test_a_realtime_session_is_refused(path: str) -> None:
    """Its credential would lead past the meter."""
    exchange = start()
    reply = exchange.receive(ask(path), NOW_US)
    assert isinstance(reply, Respond)
    assert reply.status == 403
    assert event(exchange).refusal == "unmetered_session"


def test_a_form_that_cannot_be_read_is_400() -> None:
    """What is not understood does not go."""
    exchange = start()
    exchange.receive(ask(TRANSCRIPTIONS, content_type="multipart/form-data"), NOW_US)
    reply = exchange.receive(body(form(FILE)), NOW_US)
    assert isinstance(reply, Respond)
    assert reply.status == 400


def asked(operation: str, request: dict[str, Any], path: str = "") -> Asked | BadRequest:
    """What a request asks for."""
    return openai.read_request(operation, json.dumps(request).encode(), path)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (DRAW | {"n": 2, "stream": True}, "several"),
        (DRAW | {"n": "2", "stream": "True"}, "several"),
        (DRAW | {"n": "two"}, "whole number"),
        (DRAW | {"model": 7}, "printable"),
    ],
)
def test_what_cannot_be_metered_is_a_bad_request(request_: dict[str, Any], says: str) -> None:
    """One sentence says what is wrong."""
    found = asked("images", request_)
    assert isinstance(found, BadRequest)
    assert says in found.says


def test_the_hold_grows_with_what_is_asked_for() -> None:
    """Quality and number of pictures, the length of a text, the size of a file."""
    low, high = asked("images", DRAW), asked("images", {"model": "gpt-image-1"})
    assert isinstance(low, Asked)
    assert isinstance(high, Asked)
    assert low.max_output_tokens == 1024
    assert high.max_output_tokens == 16 * 1024
    several = asked("images", {**DRAW, "n": "3", "files": [5, 5]})
    assert isinstance(several, Asked)
    assert several.choices == 3
    assert several.input_bytes > low.input_bytes + 2 * 16 * 1024
    speech = asked("audio", SAY | {"input": "x" * 4096}, "/v1/audio/speech")
    assert isinstance(speech, Asked)
    assert speech.max_output_tokens is not None
    assert speech.max_output_tokens >= 4 * 4096
    sound = asked("audio", {"model": "whisper-1", "files": [1_000_000]}, "/v1/audio/translations")
    assert isinstance(sound, Asked)
    assert sound.input_bytes >= 20_000
