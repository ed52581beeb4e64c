"""Which run a call belongs to, how far that is believed, and that nobody is charged for another."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.chain import Followed, follow, follow_body, onward, start
from extproc.events import Headers
from extproc.policy import MAX_RUNS, MAX_SIGNING_KEYS, Policy
from ledger import chains
from ledger.chains import MAX_DEPTH, Chain, Root, Run, mint, read, run_document
from ledger.event import BILLINGS
from tests.extproc.builders import KEY, NOW_US, SIGNING, chained, other_key

PLANNER, RESEARCHER, CODER, STRANGER = (other_key(n) for n in range(4))
IDS = {text: text.split("-")[1] for text in (PLANNER, RESEARCHER, CODER, STRANGER)}
EVENT = "01981e8e-0000-7000-8000-000000000001"
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def rules(**changes: Any) -> Policy:
    """Four keys of four teams, and a key to sign with."""
    agents = ("planner", "researcher", "coder", "stranger")
    return chained(*({"agent": a, "team": f"{a}s", "owner": a, **changes} for a in agents))


def came(text: str, policy: Policy, **headers: bytes) -> Followed:
    """What these headers say of a call by that key."""
    key = policy.key(sha256(text.encode()).digest())
    assert key is not None
    named: Headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return follow(named, policy.attribution(key), policy, EVENT, NOW_US)


def started(policy: Policy, audience: str = "agent=researcher,agent=coder") -> Followed:
    """A run of the planner's."""
    asked = f'new; audience="{audience}"; ttl=60'.encode()
    return came(PLANNER, policy, x_agent_chain=asked)


def columns(followed: Followed) -> tuple[Any, ...]:
    said = followed.who.columns
    names = ("root_key_id", "parent_key_id", "depth", "chain_trust", "chain_signal", "chain_path")
    return tuple(said.get(name) for name in names)


def own_root(text: str) -> dict[str, str]:
    """The root of a call that is its own."""
    who = text.split("-")[1]
    return {"root_key_id": who, "billing": "caller"}


def test_a_call_starts_a_run_and_others_continue_it() -> None:
    """Planner, researcher, coder: one run, one root, a path that grows by one hop each."""
    policy = rules()
    one = started(policy)
    two = came(RESEARCHER, policy, x_agent_chain=one.token.encode())
    three = came(CODER, policy, x_agent_chain=two.token.encode())
    planner, researcher, coder = IDS[PLANNER], IDS[RESEARCHER], IDS[CODER]
    assert one.run_id.startswith("run_")
    assert {one.run_id, two.run_id, three.run_id} == {one.run_id}
    signed = ("verified", "chain_token")
    assert columns(one) == (planner, "", 0, *signed, planner)
    assert columns(two) == (planner, planner, 1, *signed, f"{planner}/{researcher}")
    path = f"{planner}/{researcher}/{coder}"
    assert columns(three) == (planner, researcher, 2, *signed, path)
    assert three.who.columns["team"] == "coders"
    assert three.who.columns["root_team"] == "planners"
    assert three.hop is not None
    assert three.hop.expires_at_us == NOW_US + 60_000_000


def test_a_token_that_was_given_to_a_key_continues_its_own_hop() -> None:
    """No hop is added, and no audience is needed to hold on to what one was given."""
    policy = rules()
    one = started(policy)
    again = came(PLANNER, policy, x_agent_chain=one.token.encode())
    assert columns(again) == columns(one)
    two = came(RESEARCHER, policy, x_agent_chain=one.token.encode())
    assert columns(came(RESEARCHER, policy, x_agent_chain=two.token.encode())) == columns(two)


def test_without_being_asked_nothing_is_minted() -> None:
    """Signals that are only asserted give no token to anybody."""
    policy = rules()
    for headers in ({}, {"traceparent": TRACE}, {"x_claude_code_session_id": b"s"}):
        followed = came(PLANNER, policy, **headers)
        assert (followed.token, followed.hop) == ("", None)


def test_the_default_audience_is_the_roots_team() -> None:
    """And no hop can widen an audience: a token that a hop is given has the root's."""
    policy = rules(team="one")
    one = came(PLANNER, policy, x_agent_chain=b"new")
    assert one.hop is not None
    assert one.hop.audience == (("team", "one"),)
    two = came(RESEARCHER, policy, x_agent_chain=one.token.encode())
    assert two.hop is not None
    assert two.hop.audience == one.hop.audience


def test_two_keys_without_a_team_have_none_in_common() -> None:
    """Of an imported key the team may not be known: nobody continues its run unasked."""
    policy = rules(team="")
    one = came(PLANNER, policy, x_agent_chain=b"new")
    assert one.hop is not None
    assert one.hop.audience == (("key", IDS[PLANNER]),)
    two = came(RESEARCHER, policy, x_agent_chain=one.token.encode())
    assert two.who.columns["root_key_id"] == IDS[RESEARCHER]


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("malformed", {"token": "not.a"}),
    ("malformed", {"token": "x" * 3000}),
    ("forged", {"secret": b"z" * 32}),
    ("forged", {"kid": "unknown"}),
    ("expired", {"expires_at_us": NOW_US}),
    ("foreign_issuer", {"org": "another"}),
    ("foreign", {"audience": (("agent", "coder"),)}),
    ("foreign", {"audience": ()}),
    ("too_deep", {"path": ("planner",) * (MAX_DEPTH + 1)}),
    ("root_key_unknown", {"root": "nobodyknows1"}),
    ("root_key_revoked", {"status": "revoked"}),
    ("root_key_suspended", {"status": "suspended"}),
    ("root_key_expired", {"ends": NOW_US - 1}),
    ("run_ended", {"ended": True}),
]


@pytest.mark.parametrize(("fault", "wrong"), FAULTS)
def test_a_token_that_is_not_believed_charges_nobody_else(
    fault: str, wrong: dict[str, Any]
) -> None:
    """The call goes on as its own root with the fault on record, and gets no token."""
    policy = rules()
    token = wrong.get("token") or _made(policy, wrong)
    followed = came(RESEARCHER, policy, x_agent_chain=token.encode())
    said = followed.who.columns
    assert said["chain_fault"] == fault
    assert {name: said[name] for name in own_root(RESEARCHER)} == own_root(RESEARCHER)
    assert said["root_team"] == "researchers"
    assert (followed.run_id, followed.token) == ("", "")
    assert followed.who.proved == ()
    weaker = came(RESEARCHER, policy, x_agent_chain=token.encode(), traceparent=TRACE)
    assert weaker.run_id.startswith("trace:")
    assert weaker.who.columns["chain_fault"] == fault
    assert weaker.who.columns["root_team"] == "researchers"


def _made(policy: Policy, wrong: dict[str, Any]) -> str:
    """A token for the researcher with one thing wrong with it, or with the world around it."""
    if "status" in wrong or "ends" in wrong:
        [key] = [k for k in policy.keys.values() if k.key_id == IDS[PLANNER]]
        policy.keys[key.digest] = replace(
            key, status=wrong.get("status", "active"), expires_at_us=wrong.get("ends")
        )
    root_id = wrong.get("root", IDS[PLANNER])
    names = ("owner", "team", "agent", "workload")
    root = Root(key_id=root_id, **dict.fromkeys(names, "planner"))
    chain = Chain(
        run_id=chains.new_run_id(5),
        root=root,
        path=(root_id, *wrong.get("path", ())[1:]),
        audience=wrong.get("audience", (("agent", "researcher"),)),
        expires_at_us=wrong.get("expires_at_us", NOW_US + 60_000_000),
    )
    if wrong.get("ended"):
        end = Run(run_id=chain.run_id, root=None, audience=(), expires_at_us=0, ended=True)
        policy.change(f"run:{chain.run_id}", run_document(end))
    own = {"secret": SIGNING.secret, "kid": SIGNING.kid}
    signing = replace(SIGNING, **{name: wrong.get(name, value) for name, value in own.items()})
    return mint(chain, signing, wrong.get("org", "test"))


def test_one_that_stands_in_no_audience_learns_nothing_of_the_run() -> None:
    """Neither that it has ended nor how its root's key stands."""
    policy = rules()
    for wrong in ({"ended": True}, {"status": "revoked"}):
        token = _made(policy, wrong | {"audience": (("agent", "coder"),)})
        followed = came(STRANGER, policy, x_agent_chain=token.encode())
        assert followed.fault == "foreign"


@given(st.data())
def test_no_tampering_yields_another_root(data: st.DataObject) -> None:
    """Whatever bytes of a token are changed, cut, repeated or added."""
    policy = rules()
    token = started(policy).token.encode()
    start_at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(token))] * 2)))
    tampered = token[:start_at] + data.draw(st.binary(max_size=8)) + token[end:]
    followed = came(RESEARCHER, policy, x_agent_chain=tampered)
    if tampered.strip() != token:
        assert followed.who.columns["root_key_id"] == IDS[RESEARCHER]
        assert followed.who.columns["billing"] == "caller"


SIGNALS: list[tuple[str, str, bytes]] = [
    ("chain_token", "x_agent_chain", b""),
    ("chain_token", "baggage", b""),
    ("run_id", "x_agent_run", b""),
    ("claude_code", "x_claude_code_session_id", b"run_pretended"),
    ("codex", "session_id", b"run_pretended"),
    ("traceparent", "traceparent", TRACE),
]


def test_precedence() -> None:
    """Each signal names the run until it is taken away; then the next one does."""
    policy = rules()
    other = started(policy)
    policy.change("run:run_bound", run_document(_bound("run_bound")))
    token = other.token.encode()
    given_values = {"x_agent_chain": token, "baggage": b"a=b,x-agent-chain=" + token}
    headers = {name: given_values.get(name, value) for _, name, value in SIGNALS}
    headers["x_agent_run"] = b"run_bound"
    seen = []
    for _, name, _ in SIGNALS:
        followed = came(RESEARCHER, policy, **headers)
        seen.append(followed.who.columns["chain_signal"])
        assert followed.fault == ""
        del headers[name]
    assert seen == [signal for signal, _, _ in SIGNALS]
    nothing = came(RESEARCHER, policy, **headers)
    assert (nothing.run_id, nothing.who.columns.get("chain_signal")) == ("", None)
    last = follow_body(nothing.who, "conversation-7")
    assert last.run_id == f"cache:{IDS[RESEARCHER]}:conversation-7"
    assert last.who.columns["chain_trust"] == "inferred"


def test_the_header_wins_over_baggage() -> None:
    """Also where only the baggage's token is good: it is the header that was meant."""
    policy = rules()
    member = b"x-agent-chain=" + started(policy).token.encode()
    followed = came(RESEARCHER, policy, x_agent_chain=b"nonsense", baggage=member)
    assert followed.fault == "malformed"
    assert came(RESEARCHER, policy, baggage=member).fault == ""


def _bound(run_id: str, **changes: Any) -> Run:
    root = Root(key_id=IDS[PLANNER], owner="o", team="planners", agent="planner", workload="w")
    made = Run(
        run_id=run_id,
        root=root,
        audience=(("team", "researchers"),),
        expires_at_us=NOW_US + 60_000_000,
    )
    return replace(made, **changes)


def test_a_run_of_the_ledgers_is_bound_to_keys() -> None:
    """Its root and its audience take part in it by its id alone; the path has no middle."""
    policy = rules()
    policy.change("run:run_1", run_document(_bound("run_1")))
    root = came(PLANNER, policy, x_agent_run=b"run_1")
    hop = came(RESEARCHER, policy, x_agent_run=b"run_1")
    planner, researcher = IDS[PLANNER], IDS[RESEARCHER]
    bound = ("key_bound", "run_id")
    assert columns(root) == (planner, "", 0, *bound, planner)
    assert columns(hop) == (planner, planner, 1, *bound, f"{planner}/{researcher}")
    chain = read(hop.token, policy.signing_keys, "test", NOW_US)
    assert isinstance(chain, Chain)
    assert (chain.run_id, chain.path) == ("run_1", (planner, researcher))


@pytest.mark.parametrize(
    ("fault", "changes"),
    [
        ("foreign", {"audience": (("team", "others"),)}),
        ("run_ended", {"ended": True}),
        ("expired", {"expires_at_us": NOW_US}),
        ("unknown_run", {"root": None}),
    ],
)
def test_a_run_that_a_key_may_not_name(fault: str, changes: dict[str, Any]) -> None:
    """The call is its own root, with the fault on record."""
    policy = rules()
    policy.change("run:run_1", run_document(_bound("run_1", **changes)))
    followed = came(RESEARCHER, policy, x_agent_run=b"run_1")
    assert (followed.fault, followed.run_id) == (fault, "")
    assert came(RESEARCHER, policy, x_agent_run=b"run_2").fault == "unknown_run"
    assert came(RESEARCHER, policy, x_agent_run=b"run_1,run_1").fault == "unknown_run"


@pytest.mark.parametrize("billing", BILLINGS)
def test_the_bill_moves_only_where_the_root_is_another(billing: str) -> None:
    """As the organisation has set it, and never for a run that nobody proved."""
    policy = rules()
    assert policy.change("setting:chain", {"billing": billing, "version": 9}) == ""
    one = started(policy)
    two = came(RESEARCHER, policy, x_agent_chain=one.token.encode())
    assert one.who.columns["billing"] == "caller"
    assert two.who.columns["billing"] == billing
    session = came(RESEARCHER, policy, x_claude_code_session_id=b"s")
    assert session.who.columns["billing"] == "caller"


@pytest.mark.parametrize(
    "asked",
    [
        b"new; ttl=0",
        b"new; ttl=86401",
        b"new; ttl=soon",
        b"new; ttl=-1",
        b"new; audience=coder",
        b'new; audience="team=blue',
        b"new; root=cfo",
        b"new,new",
        b"newer",
        b"new" + b";a=" * 2000,
        b"new;a=" + b" " * 60_000 + b'"',
    ],
)
def test_what_no_run_can_be_started_with_is_malformed(asked: bytes) -> None:
    """The call goes on as its own root; nothing is minted."""
    followed = came(PLANNER, rules(), x_agent_chain=asked)
    assert (followed.fault, followed.token, followed.run_id) == ("malformed", "", "")


def test_a_run_needs_a_key_to_sign_with_and_a_token_that_fits() -> None:
    """Without one nothing is minted, and a token is a forger's."""
    policy = rules()
    token = started(policy).token.encode()
    wide = ",".join(f"agent={'x' * 110}{n}" for n in range(14))
    assert started(policy, wide).fault == "too_large"
    policy.change("chain_key:k1", {"removed": True, "version": 9})
    assert started(policy).fault == "no_signing_key"
    assert came(RESEARCHER, policy, x_agent_chain=token).fault == "forged"


def test_an_agent_call_takes_its_run_along() -> None:
    """The called agent may continue it; the caller's own token is not widened by that."""
    policy = rules()
    one = started(policy, "agent=researcher")
    followed, token = onward(one, "coder", policy, EVENT, NOW_US)
    assert followed == one
    chain = read(token, policy.signing_keys, "test", NOW_US)
    assert isinstance(chain, Chain)
    assert chain.audience == (("agent", "coder"), ("agent", "researcher"))
    assert came(CODER, policy, x_agent_chain=token.encode()).fault == ""
    assert came(CODER, policy, x_agent_chain=one.token.encode()).fault == "foreign"


def test_an_agent_call_without_a_run_starts_one() -> None:
    """Also where a token was not believed, which stays on record; not without a signing key."""
    policy = rules()
    alone = came(PLANNER, policy, x_agent_chain=b"junk")
    followed, token = onward(alone, "coder", policy, EVENT, NOW_US)
    assert followed.run_id.startswith("run_")
    assert followed.fault == "malformed"
    two = came(CODER, policy, x_agent_chain=token.encode())
    assert columns(two)[:3] == (IDS[PLANNER], IDS[PLANNER], 1)
    policy.change("chain_key:k1", {"removed": True})
    assert onward(alone, "coder", policy, EVENT, NOW_US) == (alone, "")


def test_runs_of_two_calls_are_two() -> None:
    """A run's id is drawn from the call's own."""
    policy = rules()
    who = came(PLANNER, policy).who
    made = [start(who, policy, event_id, NOW_US) for event_id in (EVENT, EVENT, "another")]
    ids = [each.run_id for each in made if isinstance(each, Followed)]
    assert ids[0] == ids[1] != ids[2]


def test_the_directory_is_bounded_and_says_what_it_cannot_use() -> None:
    """More runs or chain keys than a sidecar holds are ignored loudly, as is nonsense."""
    policy = rules()
    for number in range(1, MAX_SIGNING_KEYS):
        document = {**chains.key_document(SIGNING), "kid": f"n{number}"}
        assert policy.change(f"chain_key:n{number}", document) == ""
    assert "chain keys" in policy.change("chain_key:more", chains.key_document(SIGNING))
    policy.runs.update(dict.fromkeys(map(str, range(MAX_RUNS)), _bound("run_x")))
    assert "runs" in policy.change("run:run_1", run_document(_bound("run_1")))
    assert policy.change("run:7", {"removed": True}) == ""
    assert policy.change("run:run_1", run_document(_bound("run_1"))) == ""
    assert policy.change("setting:chain", {"billing": "nobody"}) != ""
    assert policy.change("chain_key:k1", {"kid": "k1", "secret": "short"}) != ""
    assert policy.billing == "caller"


def test_the_builders_key_is_no_part_of_it() -> None:
    """A key of another team finds a run foreign, whatever agent it claims to be."""
    policy = rules()
    assert came(KEY, policy, x_agent_chain=started(policy).token.encode()).fault == "foreign"
