"""Images, audio and batches through the real Envoy, with the official SDK and byte by byte."""

from typing import Any

import httpx
import openai
import pytest

from tests.e2e import raw_http
from tests.e2e.conftest import openai_client, wish
from tests.e2e.fake import Fake
from tests.e2e.stack import EVENT_ID, Stack

SOUND = b"ID3\x04" + bytes(range(256)) * 4096  # a megabyte, with every byte in it


def test_a_picture_is_billed_by_its_tokens(stack: Stack, client: openai.OpenAI) -> None:
    """Text in, pictures out, each at its own rate."""
    answer = client.images.with_raw_response.generate(
        model="gpt-image-1.5", prompt="An otter.", extra_headers=wish(output_tokens=272)
    )
    event = stack.booked(answer.headers)
    assert (event["operation"], event["outcome"]) == ("images", "ok")
    assert event["cost_nanos"] == event["input_tokens"] * 5_000 + 272 * 32_000
    assert answer.headers["x-tollkeeper-cost-usd"]


def test_a_streamed_picture(stack: Stack, key: dict[str, Any]) -> None:
    """Partial pictures pass, and the last event has the usage."""
    body = {"model": "gpt-image-1", "prompt": "An otter.", "stream": True, "partial_images": 1}
    with httpx.stream(
        "POST",
        f"{stack.gateway}/openai/v1/images/generations",
        json=body,
        headers={"authorization": f"Bearer {key['key']}"},
    ) as answer:
        text = answer.read()
    assert text.count(b"b64_json") == 2
    event = stack.booked(answer.headers)
    assert (event["streamed"], event["cost_nanos"]) == (
        True,
        event["input_tokens"] * 5_000 + 12 * 40_000,
    )


def test_an_upload_names_its_model_and_arrives_whole(
    stack: Stack, fake: Fake, client: openai.OpenAI
) -> None:
    """The SDK's own form: read for the model, and the provider gets every byte of it."""
    answer = client.audio.transcriptions.with_raw_response.create(
        model="gpt-4o-transcribe", file=("a.mp3", SOUND)
    )
    event = stack.booked(answer.headers)
    assert (event["operation"], event["model"]) == ("audio", "gpt-4o-transcribe")
    assert event["audio_input_tokens"] == event["input_tokens"]
    assert event["cost_nanos"] == event["input_tokens"] * 6_000 + 12 * 10_000
    assert fake.request(answer.headers["x-request-id"])["body_bytes"] > len(SOUND)
    assert answer.parse().text.startswith("the report")


def test_an_edit_takes_pictures(stack: Stack, client: openai.OpenAI) -> None:
    """Several files under one name."""
    answer = client.images.with_raw_response.edit(
        model="gpt-image-1", image=[("a.png", SOUND), ("b.png", SOUND)], prompt="Both in one."
    )
    assert stack.booked(answer.headers)["operation"] == "images"


def test_bare_sound_is_unpriced(stack: Stack, client: openai.OpenAI) -> None:
    """It passes, is on record with its model, and its cost is not known."""
    answer = client.audio.speech.with_raw_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input="Hello."
    )
    assert answer.content.startswith(b"ID3")
    event = stack.event(answer.headers[EVENT_ID])
    assert (event["operation"], event["model"]) == ("audio", "gpt-4o-mini-tts")
    assert (event["cost_nanos"], event["price_source"]) == (None, "unpriced")


def test_a_money_budget_refuses_what_has_no_price(stack: Stack) -> None:
    """Dall-e is billed by the picture: 402, and the provider never hears of it."""
    limited = stack.issue("--max-spend", "5", team="media")
    with (
        openai_client(stack, limited["key"]) as client,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        client.images.generate(model="dall-e-3", prompt="An otter.")
    assert refused.value.status_code == 402
    assert "no known price" in refused.value.message


def test_a_batch_is_recorded_by_its_id(stack: Stack, client: openai.OpenAI) -> None:
    """Taken in now, billed later."""
    answer = client.batches.with_raw_response.create(
        input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"
    )
    event = stack.event(answer.headers[EVENT_ID])
    assert event["operation"] == "batches"
    assert event["provider_response_id"] == answer.parse().id
    assert (event["cost_nanos"], event["price_source"]) == (None, "unpriced")


def test_no_session_leads_past_the_meter(stack: Stack, key: dict[str, Any]) -> None:
    """Neither a realtime credential nor a WebSocket: the first we refuse, the second Envoy does."""
    headers = {"authorization": f"Bearer {key['key']}"}
    for path in ("client_secrets", "calls", "sessions"):
        answer = httpx.post(f"{stack.gateway}/openai/v1/realtime/{path}", json={}, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "unmetered_session"
    upgrade = (
        b"GET /openai/v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: gateway\r\n"
        b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"authorization: Bearer %s\r\n\r\n" % key["key"].encode()
    )
    assert raw_http.status_of(raw_http.exchange(stack.gateway, upgrade, timeout_s=3)) == 403
