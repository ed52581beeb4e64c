"""Labels as they are stored, and what a rotation passes on."""

import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.issue import (
    KeyRequest,
    RefusedError,
    checked,
    clean_label,
    clean_labels,
    key_id_of,
    may_rotate,
    successor,
)
from ledger.label_text import MAX_LABEL_CHARS

OLD: dict[str, Any] = {
    "key_id": "abc123def456",
    "owner": "ada",
    "team": "risk",
    "agent": "triage",
    "workload": "nightly",
    "customer": "acme",
    "labels": {"environment": "prod"},
    "status": "active",
    "expires_at": None,
    "max_spend_nanos": 10_000,
    "rpm": 60,
    "tpm": None,
    "max_parallel": 4,
    "service_account": False,
    "customer_header": False,
}


@given(st.text())
def test_a_label_is_visible_text_or_refused(text: str) -> None:
    """Whatever is stored has no edges of blanks, no invisible character, and one form."""
    try:
        stored = clean_label("team", text)
    except RefusedError:
        return
    assert 0 < len(stored) <= MAX_LABEL_CHARS
    assert stored == stored.strip() == unicodedata.normalize("NFC", stored)
    assert not any(unicodedata.category(c).startswith("C") for c in stored)
    assert clean_label("team", stored) == stored


def test_the_same_letters_are_the_same_label() -> None:
    """An accent typed as a character of its own does not make another team."""
    assert clean_label("team", "Cafe\u0301") == clean_label("team", " Café\t") == "Café"


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_optional_labels_are_stored_or_refused(labels: dict[str, str]) -> None:
    """Any name and value: a plain label, or a sentence."""
    try:
        stored = clean_labels(labels, frozenset({"team"}))
    except RefusedError:
        return
    assert list(stored) == sorted(labels)
    assert "team" not in stored


def test_a_key_has_a_bounded_number_of_labels() -> None:
    """Labels are copied into every event."""
    with pytest.raises(RefusedError, match="at most 32"):
        clean_labels({f"l{number}": "x" for number in range(33)}, frozenset())


def test_checked_requests_keep_everything() -> None:
    """What was asked for is what is issued."""
    ends = datetime(2027, 1, 1, tzinfo=UTC)
    request = KeyRequest(
        owner=" ada ",
        team="risk",
        agent="triage",
        workload="nightly",
        customer="acme",
        labels={"environment": "prod"},
        expires_at=ends,
        max_spend_nanos=5,
    )
    done = checked(request, frozenset())
    assert (done.owner, done.customer, done.labels) == ("ada", "acme", {"environment": "prod"})
    assert (done.expires_at, done.max_spend_nanos) == (ends, 5)


def test_a_pasted_key_names_its_id() -> None:
    """Whoever found a leaked key can revoke it with what they found."""
    assert key_id_of("tk-abc123def456-S3cr3t\n") == "abc123def456"
    assert key_id_of("tk-abc123def456") == key_id_of(" abc123def456 ") == "abc123def456"


def test_a_rotation_does_not_refill_a_lifetime_limit() -> None:
    """The next key may spend what the old one has left, and no more."""
    new = successor(OLD, 4_000, expires_at=None, max_spend_nanos=None, has_grace=False)
    assert new.max_spend_nanos == 6_000
    assert (new.owner, new.team, new.agent, new.workload) == ("ada", "risk", "triage", "nightly")
    assert (new.customer, new.labels) == ("acme", {"environment": "prod"})
    with pytest.raises(RefusedError, match="has spent"):
        successor(OLD, 10_000, expires_at=None, max_spend_nanos=None, has_grace=False)


def test_a_rotation_keeps_the_rates() -> None:
    """The next key has the old one's rates, except those that it is given."""
    given = {"rpm": 5, "tpm": 1000}
    kept = successor(OLD, 0, expires_at=None, max_spend_nanos=None, has_grace=False)
    assert (kept.rpm, kept.tpm, kept.max_parallel) == (60, None, 4)
    new = successor(OLD, 0, expires_at=None, max_spend_nanos=None, has_grace=False, rates=given)
    assert (new.rpm, new.tpm, new.max_parallel) == (5, 1000, 4)


def test_two_keys_do_not_share_a_lifetime_limit() -> None:
    """During a grace both could spend what is left, so the new limit has to be said."""
    with pytest.raises(RefusedError, match="--max-spend"):
        successor(OLD, 0, expires_at=None, max_spend_nanos=None, has_grace=True)
    new = successor(OLD, 0, expires_at=None, max_spend_nanos=7, has_grace=True)
    assert new.max_spend_nanos == 7


@pytest.mark.parametrize("status", ["revoked", "suspended"])
def test_a_rotation_does_not_undo_a_decision(status: str) -> None:
    """A key that somebody stopped does not come back under another name."""
    with pytest.raises(RefusedError, match=status):
        may_rotate({**OLD, "status": status})
