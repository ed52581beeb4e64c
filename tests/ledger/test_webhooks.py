"""Webhooks: the standard's signature, both forms, and addresses without their secrets."""

from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.deliveries import MAX_ATTEMPTS, retry_after
from ledger.issue import RefusedError
from ledger.webhooks import (
    Answer,
    Endpoint,
    clean_url,
    new_secret,
    request,
    shown_url,
    signature,
    slack_body,
    standard_body,
)


def alert(**others: Any) -> dict[str, Any]:
    facts = {
        "kind": "threshold",
        "threshold": 80,
        "at": datetime(2026, 10, 19, 7, 30, tzinfo=UTC),
        "budget": "risk-month",
        "message": "80% of it is used.",
    }
    return {**facts, **others}


def test_the_signature_is_the_standards() -> None:
    """The example that its own libraries are tested with."""
    assert (
        signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_a_message_has_the_standards_shape() -> None:
    """Type, the time when it happened, and the facts; the headers carry the time of the attempt."""
    assert standard_body(alert()) == {
        "type": "budget.threshold",
        "timestamp": "2026-10-19T07:30:00.000000Z",
        "data": {
            "kind": "threshold",
            "threshold": 80,
            "budget": "risk-month",
            "message": "80% of it is used.",
        },
    }
    endpoint = Endpoint("https://example.com", new_secret(), "standard")
    headers, body = request(endpoint, "msg_1", alert(), 1_800_000_000)
    assert headers["webhook-id"] == "msg_1"
    assert headers["webhook-timestamp"] == "1800000000"
    assert headers["webhook-signature"] == signature(endpoint.secret, "msg_1", 1_800_000_000, body)


def test_slack_gets_its_own_form() -> None:
    """A fallback text and a block; whatever Slack would read as a command is plain text."""
    body = slack_body(alert(message="80% of 'a & <!channel>' is used."))
    assert body["text"] == ("Budget threshold reached: 80% of 'a &amp; &lt;!channel&gt;' is used.")
    assert body["blocks"][0]["text"]["text"].startswith("*Budget threshold reached*\n80%")
    headers, _ = request(Endpoint("https://hooks.slack.com/s", "", "slack"), "msg_1", alert(), 1)
    assert not any(name.startswith("webhook-") for name in headers)


def test_secrets_are_long_and_different() -> None:
    """Between 24 and 64 bytes, as the standard asks."""
    assert new_secret() != new_secret()
    assert len(new_secret()) == len("whsec_") + 44


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://",
        "https://user:password@example.com/",
        "https://example.com/#there",
        "https://example.com/a b",
        "https://example.com/\r\nX: y",
        "https://ex\u00e4mple.com/",
        "https://example.com:port/",
        "https://[::1/",
        "https://example.com/" + "x" * 2000,
    ],
)
def test_addresses_that_are_refused(text: str) -> None:
    """Anything but http and https, and what would leak or break a request."""
    with pytest.raises(RefusedError):
        clean_url(text)


def test_addresses_are_shown_without_secrets() -> None:
    """A Slack URL is its own password, and so may be a query."""
    assert clean_url(" https://example.com/hooks?x=1 ") == "https://example.com/hooks?x=1"
    assert (
        shown_url("https://example.com/hooks?token=1", "standard")
        == "https://example.com/hooks?..."
    )
    assert shown_url("https://hooks.slack.com/services/T0/B0/xyz", "slack") == (
        "https://hooks.slack.com/..."
    )


def test_retries_take_about_a_day() -> None:
    """Each pause is longer than the one before; a receiver may ask for more, within reason."""
    failed = Answer(500)
    pauses = [retry_after(n, failed, 0.5).total_seconds() for n in range(1, MAX_ATTEMPTS)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 10
    assert 20 * 3600 < sum(pauses) < 26 * 3600
    assert retry_after(1, failed, 0).total_seconds() == 8
    assert retry_after(1, failed, 1).total_seconds() == 12
    assert retry_after(1, Answer(429, "", 600), 0.5).total_seconds() == 600
