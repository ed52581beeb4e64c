"""Chain tokens: what we sign reads back, nothing else does, and others read it as the JWT it is."""

from typing import Any

import jwt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.chains import (
    MAX_AUDIENCE,
    MAX_DEPTH,
    MAX_TOKEN_BYTES,
    Chain,
    Root,
    Run,
    SigningKey,
    admits,
    key_document,
    key_from_document,
    mint,
    new_run_id,
    parse_audience,
    read,
    run_document,
    run_from_document,
    say_audience,
    signing,
)

NOW_US = 2_000_000_000_000_000
KEY = SigningKey(kid="k1", secret=b"\x07" * 64, from_us=0, until_us=NOW_US * 2)
KEYS = {"k1": KEY}
ROOT = Root(key_id="planner", owner="ann", team="red", agent="planner", workload="batch")
CHAIN = Chain(
    run_id=new_run_id(1),
    root=ROOT,
    path=("planner", "researcher"),
    audience=(("agent", "coder"), ("team", "blue")),
    expires_at_us=NOW_US + 3_600_000_000,
)
TOKEN = mint(CHAIN, KEY, "acme")

names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
key_ids = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=12, max_size=12)


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    root = Root(
        key_id=draw(key_ids),
        owner=draw(names),
        team=draw(names),
        agent=draw(names),
        workload=draw(names),
    )
    hops = draw(st.lists(key_ids, max_size=MAX_DEPTH))
    entries = st.tuples(st.sampled_from(("agent", "team", "key")), names)
    return Chain(
        run_id=new_run_id(draw(st.integers(min_value=0))),
        root=root,
        path=(root.key_id, *hops),
        audience=tuple(sorted(draw(st.sets(entries, max_size=4)))),
        expires_at_us=NOW_US + draw(st.integers(1, 86_400)) * 1_000_000,
    )


@given(chains())
def test_what_we_sign_reads_back(chain: Chain) -> None:
    """For every chain that a run can have, and at its full depth it still fits."""
    assert read(mint(chain, KEY, "acme"), KEYS, "acme", NOW_US) == chain


@given(chains())
def test_an_independent_library_reads_the_same(chain: Chain) -> None:
    """PyJWT verifies signature, issuer, audience and expiry, and finds the same claims."""
    token = mint(chain, KEY, "acme")
    said = jwt.decode(
        token,
        KEY.secret,
        algorithms=["HS256"],
        issuer="tollkeeper:acme",
        options={"verify_aud": False},
    )
    assert (said["run"], said["exp"]) == (chain.run_id, chain.expires_at_us // 1_000_000)
    assert said["path"] == list(chain.path)
    assert said["aud"] == say_audience(chain.audience)
    assert Root(**said["root"]) == chain.root
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "kid": "k1", "typ": "JWT"}


def test_a_token_of_another_library_with_our_header_is_ours() -> None:
    """What counts is the secret and the one header, not who wrote the bytes."""
    claims = jwt.decode(TOKEN, options={"verify_signature": False})
    headers = {"alg": "HS256", "kid": "k1", "typ": "JWT"}
    theirs = jwt.encode(claims, KEY.secret, "HS256", headers=headers)
    assert read(theirs, KEYS, "acme", NOW_US) == CHAIN


@given(st.integers(0, len(TOKEN) - 1), st.integers(0, 127))
def test_no_changed_byte_is_believed(at: int, code: int) -> None:
    """Any other character anywhere, also in the spare bits of the signature's last one."""
    tampered = TOKEN[:at] + chr(code) + TOKEN[at + 1 :]
    if tampered != TOKEN:
        assert isinstance(read(tampered, KEYS, "acme", NOW_US), str)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_no_text_is_believed_and_none_raises(text: str) -> None:
    """Garbage, also glued to a good token, is malformed or forged."""
    for token in (text, text + TOKEN, TOKEN + text, f"{TOKEN}.{text}", text + TOKEN[3:]):
        if token != TOKEN:
            assert read(token, KEYS, "acme", NOW_US) in ("malformed", "forged")


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS512"}, {"kid": "k2"}, {"jku": "x"}])
def test_a_token_cannot_choose_how_it_is_checked(header: dict[str, str]) -> None:
    """Another algorithm, another key or anything more in the header is a forgery."""
    claims = jwt.decode(TOKEN, options={"verify_signature": False})
    full = {"alg": "HS256", "kid": "k1", "typ": "JWT"} | header
    algorithm = full["alg"]
    secret: Any = "" if algorithm == "none" else KEY.secret
    token = jwt.encode(claims, secret, algorithm, headers=full)
    assert read(token, KEYS, "acme", NOW_US) in ("forged", "malformed")


def test_a_run_ends_and_belongs_to_one_organisation() -> None:
    """At its expiry to the second, and under another issuer, a good signature is not enough."""
    assert read(TOKEN, KEYS, "acme", CHAIN.expires_at_us - 1) == CHAIN
    assert read(TOKEN, KEYS, "acme", CHAIN.expires_at_us) == "expired"
    assert read(TOKEN, KEYS, "other", NOW_US) == "foreign_issuer"


def test_keys_rotate() -> None:
    """The newest key whose time has come signs; the older one is believed until its end."""
    old = SigningKey(kid="old", secret=b"o" * 32, from_us=0, until_us=NOW_US + 10)
    new = SigningKey(kid="new", secret=b"n" * 32, from_us=NOW_US, until_us=NOW_US * 2)
    both = {"old": old, "new": new}
    assert signing(both.values(), NOW_US - 1) == old
    assert signing(both.values(), NOW_US) == new
    assert signing([], NOW_US) is None
    token = mint(CHAIN, old, "acme")
    assert read(token, both, "acme", NOW_US + 9) == CHAIN
    assert read(token, both, "acme", NOW_US + 10) == "forged"
    assert read(token, {"new": new}, "acme", NOW_US) == "forged"


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": ["someone", "else"]},
        {"path": []},
        {"path": ["planner"] * (MAX_DEPTH + 2)},
        {"run": "claude-code:1"},
        {"root": {"key_id": "planner"}},
        {"aud": ["nobody"]},
        {"exp": "soon"},
    ],
)
def test_good_signatures_over_nonsense_are_malformed(wrong: dict[str, Any]) -> None:
    """A root that is not the path's first, too many hops, a run id that is none of ours."""
    claims = jwt.decode(TOKEN, options={"verify_signature": False}) | wrong
    signed = _signed(claims)
    assert read(signed, KEYS, "acme", NOW_US) == "malformed"


@pytest.mark.parametrize("claims", [[], None, 3, "text", {}])
def test_claims_that_are_no_claims_are_malformed(claims: Any) -> None:
    """Whatever JSON it is."""
    assert read(_signed(claims), KEYS, "acme", NOW_US) == "malformed"


def test_a_token_has_a_limit() -> None:
    """One that would be larger is not written, and none that is larger is looked at."""
    entries = parse_audience(f"agent={'x' * 150}{n}" for n in range(MAX_AUDIENCE))
    wide = Chain(
        run_id=CHAIN.run_id,
        root=ROOT,
        path=CHAIN.path,
        audience=entries,
        expires_at_us=CHAIN.expires_at_us,
    )
    with pytest.raises(ValueError, match="larger"):
        mint(wide, KEY, "acme")
    assert read(TOKEN + "A" * MAX_TOKEN_BYTES, KEYS, "acme", NOW_US) == "malformed"


@given(st.integers(min_value=0))
def test_a_run_id_is_prefix_and_26_characters(bits: int) -> None:
    """Whatever the random bits, and their last 130 all count."""
    run_id = new_run_id(bits)
    assert run_id.startswith("run_")
    assert len(run_id) == 30
    assert new_run_id(bits ^ 1) != run_id != new_run_id(bits ^ (1 << 129))
    assert new_run_id(bits + (1 << 130)) == run_id


def test_an_audience_is_names_and_values() -> None:
    """Sorted and without repetition; a value may hold an equals sign."""
    assert parse_audience(["team=blue", " agent = a=b ", "team=blue"]) == (
        ("agent", "a=b"),
        ("team", "blue"),
    )
    assert admits((("team", "blue"),), {"team": "blue", "key": "x"})
    assert not admits((("agent", "blue"),), {"team": "blue"})
    assert not admits((), {"team": "blue"})


@pytest.mark.parametrize("entry", ["", "team", "team=", "=x", "role=admin", "team=a\nb", "key= "])
def test_what_is_no_audience_is_a_sentence(entry: str) -> None:
    """It says what to write instead."""
    with pytest.raises(ValueError, match=r"[.]$"):
        parse_audience([entry])
    with pytest.raises(ValueError, match="at most 16"):
        parse_audience(f"agent=a{n}" for n in range(MAX_AUDIENCE + 1))


def test_documents_read_back() -> None:
    """Signing keys and runs as the directory carries them, through JSON."""
    assert key_from_document(orjson.loads(orjson.dumps(key_document(KEY)))) == KEY
    newest = key_from_document(key_document(KEY) | {"until_us": None})
    assert newest.until_us > KEY.until_us
    run = Run(run_id="run_1", root=ROOT, audience=CHAIN.audience, expires_at_us=NOW_US, ended=True)
    assert run_from_document(orjson.loads(orjson.dumps(run_document(run)))) == run
    with pytest.raises(ValueError, match="32 bytes"):
        key_from_document(key_document(KEY) | {"secret": "c2hvcnQ"})


def _signed(claims: Any) -> str:
    """A token of ours over any claims."""
    header = TOKEN.split(".")[0]
    payload = jwt.utils.base64url_encode(orjson.dumps(claims)).decode()
    algorithm = jwt.get_algorithm_by_name("HS256")
    signature = algorithm.sign(f"{header}.{payload}".encode(), KEY.secret)
    return f"{header}.{payload}.{jwt.utils.base64url_encode(signature).decode()}"
