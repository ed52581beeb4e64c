"""Where a key is read, what is taken off the request, and who is turned away."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.identity import key_from_document, present, refuse_key
from tests.extproc.builders import KEY, NOW_US, key_document

DIGEST = sha256(KEY.encode()).digest()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", f"Bearer {KEY}"),
        ("authorization", f"bearer  {KEY} "),
        ("x-api-key", KEY),
        ("api-key", KEY),
        ("x-goog-api-key", KEY),
        ("x-tollkeeper-key", KEY),
    ],
)
def test_key_is_found_and_removed(name: str, value: str) -> None:
    """Every place where an SDK puts its credential is read, and our key goes no further."""
    presented = present({name: value.encode(), "accept": b"*/*"}, "/v1/models")
    assert presented.digest == DIGEST
    assert presented.remove == (name,)


def test_key_in_the_query_is_cut_out() -> None:
    """`?key=` is read and the rest of the query stays as it was."""
    presented = present({}, f"/gemini/v1/models?alt=sse&key={KEY}&x=%20y")
    assert presented.digest == DIGEST
    assert presented.path == "/gemini/v1/models?alt=sse&x=%20y"


def test_own_credential_stays_beside_our_header() -> None:
    """With x-tollkeeper-key the caller's own credential goes on to the provider."""
    headers = {"x-tollkeeper-key": KEY.encode(), "authorization": b"Bearer sk-own"}
    presented = present(headers, "/v1/models")
    assert presented.digest == DIGEST
    assert presented.remove == ("x-tollkeeper-key",)


def test_a_second_key_of_ours_never_leaves() -> None:
    """A key of ours in a provider's header is removed even when another header identified the
    caller.
    """
    headers = {"x-tollkeeper-key": KEY.encode(), "x-api-key": b"tk-other-secret"}
    assert set(present(headers, "/").remove) == {"x-tollkeeper-key", "x-api-key"}


def test_labels_in_headers_are_dropped() -> None:
    """Whatever a client sends under our prefix, and baggage, is taken off."""
    headers = {"x-tollkeeper-team": b"other", "baggage": b"a=b", "authorization": b"Bearer x"}
    assert set(present(headers, "/").remove) == {"x-tollkeeper-team", "baggage"}


@given(st.binary(max_size=400), st.text(max_size=200))
def test_no_input_breaks_it(value: bytes, path: str) -> None:
    """Any bytes in a header and any path give an answer."""
    headers = {"authorization": b"Bearer " + value, "x-api-key": value}
    present(headers, "/?key=" + path)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"status": "revoked"}, "key_revoked"),
        ({"status": "suspended"}, "key_suspended"),
        ({"expires_at_us": NOW_US}, "key_expired"),
        ({}, None),
        ({"expires_at_us": NOW_US + 1}, None),
    ],
)
def test_standing_of_a_key(changes: dict[str, object], code: str | None) -> None:
    """A key works until it is revoked, suspended or expired, to the microsecond."""
    refusal = refuse_key(key_from_document(key_document(**changes)), True, NOW_US)
    assert (refusal.code if refusal else None) == code


def test_unknown_and_missing_are_told_apart() -> None:
    """A caller without a key is told where to put one; both get 401."""
    missing, unknown = refuse_key(None, False, NOW_US), refuse_key(None, True, NOW_US)
    assert missing is not None
    assert unknown is not None
    assert (missing.status, missing.code) == (401, "key_missing")
    assert (unknown.status, unknown.code) == (401, "key_unknown")
