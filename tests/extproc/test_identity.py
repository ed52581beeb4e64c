"""Where a key is read, what is taken off the request, and who is turned away."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.identity import (
    MAX_KEY_BYTES,
    Presented,
    key_from_document,
    present,
    recognise,
    refuse_key,
)
from ledger import key_files
from tests.extproc.builders import KEY, NOW_US, key_document

DIGEST = sha256(KEY.encode()).digest()
OLD = "sk-proj-of-an-older-gateway"
OLD_DIGEST = sha256(OLD.encode()).digest()


def known(headers: dict[str, str], path: str = "/v1/models", *texts: str) -> Presented:
    """What a request brings, where OLD and `texts` are imported keys."""
    digests = {sha256(text.encode()).digest() for text in (OLD, *texts)}
    values = {name: value.encode() for name, value in headers.items()}
    return recognise(present(values, path), path, digests)


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", f"Bearer {OLD}"),
        ("authorization", f"bearer  {OLD} "),
        ("authorization", OLD),
        ("x-api-key", OLD),
        ("api-key", OLD),
        ("x-goog-api-key", OLD),
        ("x-tollkeeper-key", OLD),
    ],
)
def test_an_imported_key_is_found_and_removed(name: str, value: str) -> None:
    """Any text may be a key: where it is one of ours it stands where any key stands, and no
    further.
    """
    presented = known({name: value})
    assert presented.digest == OLD_DIGEST
    assert presented.remove == (name,)
    assert presented.byok is False


def test_an_imported_key_in_the_query_is_cut_out() -> None:
    """`?key=` of any text, percent-encoded or not; what is not ours stays."""
    presented = known({}, f"/v1/models?alt=sse&key={OLD.replace('-', '%2D')}&key=AIza-own&x=1")
    assert presented.digest == OLD_DIGEST
    assert presented.path == "/v1/models?alt=sse&key=AIza-own&x=1"
    assert presented.byok is True
    assert known({}, f"/v1/models?key={OLD}").path == "/v1/models"


def test_what_is_not_ours_is_no_key() -> None:
    """A credential that nobody imported is refused as one without a key."""
    presented = known({"authorization": "Bearer sk-somebody-else"})
    assert presented.digest is None
    assert presented.remove == ()


def test_our_header_names_the_key_whatever_else_stands_there() -> None:
    """Unknown text in x-tollkeeper-key is an unknown key, not a reason to look elsewhere; an
    imported key beside it still never leaves.
    """
    presented = known({"x-tollkeeper-key": "nonsense", "authorization": f"Bearer {OLD}"})
    assert presented.digest == sha256(b"nonsense").digest()
    assert set(presented.remove) == {"x-tollkeeper-key", "authorization"}
    assert presented.byok is False


def test_an_imported_key_beside_ones_own_credential() -> None:
    """The first of ours is the caller's; the others of ours are removed, the own one goes on."""
    presented = known(
        {"authorization": f"Bearer {OLD}", "x-api-key": "other-old", "api-key": "own"},
        "/v1/models",
        "other-old",
    )
    assert presented.digest == OLD_DIGEST
    assert set(presented.remove) == {"authorization", "x-api-key"}
    assert presented.byok is True


def test_a_key_of_ours_by_its_looks_costs_no_other_look() -> None:
    """Beside a `tk-` key alone there is nothing to look up."""
    presented = present({"authorization": f"Bearer {KEY}".encode()}, "/v1/models?key=")
    assert presented.candidates == ()
    assert presented.digest == DIGEST


def test_what_is_too_long_is_no_key() -> None:
    """Neither is it hashed; files of keys have the same limit."""
    longest, longer = "k" * MAX_KEY_BYTES, "k" * (MAX_KEY_BYTES + 1)
    assert known({"authorization": longest}, "/", longest).digest is not None
    assert known({"authorization": longer}, "/", longer).digest is None
    assert known({"x-tollkeeper-key": longer}, "/", longer).digest is None
    assert key_files.MAX_KEY_BYTES == MAX_KEY_BYTES


@given(st.binary(max_size=60), st.text(max_size=60), st.booleans())
def test_recognising_never_adds_what_was_taken_away(value: bytes, path: str, ours: bool) -> None:
    """Whatever comes: removed headers stay removed, and a known credential is never byok."""
    headers = {"authorization": value, "x-api-key": value}
    where = "/?key=" + path
    presented = present(headers, where)
    digests = {c.digest for c in presented.candidates} if ours else set()
    again = recognise(presented, where, digests)
    assert set(presented.remove) <= set(again.remove)
    assert (again.byok and ours) is False
    if ours and presented.candidates:
        assert again.digest is not None


@pytest.mark.parametrize(("grace", "code"), [(NOW_US, "key_quarantined"), (NOW_US + 1, None)])
def test_a_key_without_labels_calls_until_its_grace_date(grace: int, code: str | None) -> None:
    """To the microsecond; then 403 with what to do. What is known of it is in its events."""
    labels = {"owner": "", "team": "risk", "agent": "", "workload": ""}
    key = key_from_document(key_document(**labels, grace_until_us=grace))
    refusal = refuse_key(key, True, NOW_US)
    assert (refusal.code if refusal else None) == code
    if refusal:
        assert (refusal.status, refusal.retryable) == (403, False)
        assert f"ledger keys relabel {key.key_id}" in refusal.message
    assert (key.columns["team"], key.columns["owner"], key.columns["principal"]) == ("risk", "", "")


def test_a_key_is_found_however_its_name_is_written() -> None:
    """`%6bey` is `key` to a server, so our key does not pass by it."""
    presented = present({}, f"/v1/models?a=1&%6bey={KEY}")
    assert presented.digest == sha256(KEY.encode()).digest()
    assert presented.path == "/v1/models?a=1"
