"""Which run a call belongs to, and who started it: the signals of a request, and how far each is
believed. Knows no store, no clock and no wire format but those of the signals.

The first signal that names a run wins:

chain_token       `x-agent-chain`, or a `baggage` member of that name   verified
run_id            `x-agent-run`: a run that the ledger started          key_bound
claude_code       `x-claude-code-session-id`                            asserted
codex             `session-id`                                          asserted
traceparent       W3C trace context                                     inferred
prompt_cache_key  in the request's body                                 inferred

Only the first two are proved, so only they name another root than the caller and may move the bill.
A proof that is not believed charges nobody else: its fault is on record, and a weaker signal may
still name the run. Names that nobody proved have a prefix of their own, so that they never equal
the id of a run that we started.
"""

import re
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from extproc.events import Headers
from extproc.identity import Attribution, Key, refuse_key
from extproc.policy import Policy
from extproc.signals import (
    BAGGAGE,
    CHAIN_HEADER,
    RUN_HEADER,
    Said,
    clean,
    said,
    token_in_baggage,
)
from ledger import chains
from ledger.chains import Audience, Chain, Root, Run

_MAX_ASKED_BYTES: Final = 2048
_NEW: Final = re.compile(
    rb'new(?:\s*+;\s*+[a-z]++\s*+=\s*+(?:"[^"]*+"|[^\s;"]*+))*+(?:\s*+;)?+\s*+', re.IGNORECASE
)
_OPTION: Final = re.compile(rb';\s*([a-z]+)\s*=\s*(?:"([^"]*)"|([^\s;"]*))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Followed:
    """What a request's signals came to.

    `run_id` is empty where none of them names a run. `hop` is the run as whoever comes next shall
    know it and `token` that, signed; both only in a chain that is proved.
    """

    who: Attribution
    run_id: str = ""
    hop: Chain | None = None
    token: str = ""

    @property
    def fault(self) -> str:
        return str(self.who.columns.get("chain_fault", ""))


def follow(
    headers: Headers, who: Attribution, policy: Policy, event_id: str, now_us: int
) -> Followed:
    """What the headers of a call by this key say."""
    fault = ""
    text = headers.get(CHAIN_HEADER, b"").strip()
    if text[:3].lower() == b"new":
        started = _asked_for(text, who.key, policy, event_id, now_us)
        if isinstance(started, Chain):
            return _proved(started, "chain_token", "verified", who, policy, now_us)
        fault = started
    elif token := text or token_in_baggage(headers.get(BAGGAGE, b"")):
        continued = _continued(token, who.key, policy, now_us)
        if isinstance(continued, Chain):
            return _proved(continued, "chain_token", "verified", who, policy, now_us)
        fault = continued
    if named := headers.get(RUN_HEADER):
        bound = _bound(named.decode("latin-1").strip(), who.key, policy, now_us)
        if isinstance(bound, Chain):
            followed = _proved(bound, "run_id", "key_bound", who, policy, now_us)
            return replace(followed, who=followed.who.proving(chain_fault=fault))
        fault = fault or bound
    if fault:
        who = who.proving(chain_fault=fault)
    stated = said(headers)
    return _unproved(who, stated) if stated is not None else Followed(who)


def follow_body(who: Attribution, prompt_cache_key: str) -> Followed:
    """What a request's `prompt_cache_key` says, where no header names a run.

    Two keys that use the same one share no prompt, hence no run.
    """
    run_id = clean(f"cache:{who.key.key_id}:{prompt_cache_key}")
    return _unproved(who, Said("prompt_cache_key", "inferred", run_id))


def start(
    who: Attribution,
    policy: Policy,
    event_id: str,
    now_us: int,
    audience: Audience = (),
    ttl_s: int = chains.DEFAULT_TTL_S,
) -> Followed | str:
    """A run that this call starts, or the fault that stands against it."""
    chain = _new(who.key, policy, event_id, now_us, audience, ttl_s)
    if isinstance(chain, str):
        return chain
    return _proved(chain, "chain_token", "verified", who, policy, now_us)


def onward(
    followed: Followed, agent: str, policy: Policy, event_id: str, now_us: int
) -> tuple[Followed, str]:
    """A call that goes to another agent, and the token that goes with it: that agent may continue
    the run. A run is started where there is none that is proved. Without a signing key there is no
    token.
    """
    if followed.hop is None:
        started = start(followed.who, policy, event_id, now_us)
        if isinstance(started, str):
            return followed, ""
        followed = started
    assert followed.hop is not None
    wider = tuple(sorted({*followed.hop.audience, ("agent", agent)}))
    if len(wider) > chains.MAX_AUDIENCE:
        return followed, followed.token
    return followed, _token(replace(followed.hop, audience=wider), policy, now_us)


def _asked_for(text: bytes, key: Key, policy: Policy, event_id: str, now_us: int) -> Chain | str:
    """The run that `x-agent-chain: new; audience="agent=coder,team=blue"; ttl=3600` asks for."""
    if len(text) > _MAX_ASKED_BYTES or not _NEW.fullmatch(text):
        return "malformed"
    options = {
        name.lower().decode(): (quoted or plain).decode("utf-8", "replace")
        for name, quoted, plain in _OPTION.findall(text)
    }
    ttl = options.pop("ttl", str(chains.DEFAULT_TTL_S))
    try:
        audience = chains.parse_audience(filter(None, options.pop("audience", "").split(",")))
    except ValueError:
        return "malformed"
    if options or not ttl.isdecimal() or not 0 < int(ttl[:9]) <= chains.MAX_TTL_S:
        return "malformed"
    return _new(key, policy, event_id, now_us, audience, int(ttl))


def _new(
    key: Key, policy: Policy, event_id: str, now_us: int, audience: Audience, ttl_s: int
) -> Chain | str:
    """A run of this key. Its id is drawn from the event's, which is no secret: what counts is the
    signature.
    """
    root = Root(
        key_id=key.key_id,
        owner=key.owner,
        team=key.team,
        agent=key.agent,
        workload=key.workload,
    )
    chain = Chain(
        run_id=chains.new_run_id(int.from_bytes(sha256(event_id.encode()).digest())),
        root=root,
        path=(key.key_id,),
        audience=audience or chains.default_audience(root),
        expires_at_us=(now_us // 1_000_000 + ttl_s) * 1_000_000,
    )
    if chains.signing(policy.signing_keys.values(), now_us) is None:
        return "no_signing_key"
    return chain if _token(chain, policy, now_us) else "too_large"


def _continued(token: bytes, key: Key, policy: Policy, now_us: int) -> Chain | str:
    """The run in a token, as this key continues it, or why it may not."""
    text = token.decode("latin-1")
    chain = chains.read(text, policy.signing_keys, policy.keyspace.org, now_us)
    if isinstance(chain, str):
        return chain
    own_hop = chain.path[-1] == key.key_id
    run = policy.runs.get(chain.run_id)
    ended = run is not None and run.ended
    fault = _doubt(chain.root, chain.audience, key, policy, now_us, ended=ended, own_hop=own_hop)
    if fault or own_hop:
        return fault or chain
    if chain.depth >= chains.MAX_DEPTH:
        return "too_deep"
    return replace(chain, path=(*chain.path, key.key_id))


def _bound(run_id: str, key: Key, policy: Policy, now_us: int) -> Chain | str:
    """The run that the ledger started under this id, as this key takes part in it."""
    run = policy.runs.get(run_id)
    if run is None:
        return "unknown_run"
    if run.root is None:
        return "run_ended" if run.ended else "unknown_run"
    fault = _doubt(run.root, run.audience, key, policy, now_us, ended=run.ended, own_hop=False)
    if not fault and run.expires_at_us <= now_us:
        fault = "expired"
    return fault or _chain_of(run, run.root, key)


def _chain_of(run: Run, root: Root, key: Key) -> Chain:
    path = (root.key_id,) if root.key_id == key.key_id else (root.key_id, key.key_id)
    return Chain(
        run_id=run.run_id,
        root=root,
        path=path,
        audience=run.audience,
        expires_at_us=run.expires_at_us,
    )


def _doubt(
    root: Root,
    audience: Audience,
    key: Key,
    policy: Policy,
    now_us: int,
    *,
    ended: bool,
    own_hop: bool,
) -> str:
    """Why this key may not take part in a run that is genuine, or nothing.

    Who stands in no audience learns no more than that: neither whether the run has ended nor how
    its root's key stands.
    """
    labels = {
        "key": key.key_id,
        "agent": key.agent,
        "team": key.team,
        "workload": key.workload,
        "owner": key.owner,
    }
    if not own_hop and key.key_id != root.key_id and not chains.admits(audience, labels):
        return "foreign"
    if ended:
        return "run_ended"
    if key.key_id == root.key_id:
        return ""
    refusal = refuse_key(policy.key_named(root.key_id), True, now_us)
    return f"root_{refusal.code}" if refusal is not None else ""


def _proved(
    chain: Chain, signal: str, trust: str, who: Attribution, policy: Policy, now_us: int
) -> Followed:
    root, path = chain.root, chain.path
    foreign_root = root.key_id != who.key.key_id
    proved = who.proving(
        root_key_id=root.key_id,
        root_team=root.team,
        root_agent=root.agent,
        root_workload=root.workload,
        parent_key_id=path[-2] if len(path) > 1 else "",
        depth=chain.depth,
        chain_trust=trust,
        chain_signal=signal,
        chain_path="/".join(path),
        billing=policy.billing if foreign_root else "caller",
    )
    return Followed(proved, chain.run_id, chain, _token(chain, policy, now_us))


def _unproved(who: Attribution, stated: Said) -> Followed:
    """A run in which the caller stays its own root. Its path begins with the caller's key."""
    told = who.proving(
        depth=len(stated.below),
        chain_trust=stated.trust,
        chain_signal=stated.signal,
        chain_path="/".join((who.key.key_id, *stated.below)),
    )
    return Followed(told, stated.run_id)


def _token(chain: Chain, policy: Policy, now_us: int) -> str:
    """The chain, signed; empty where there is no key to sign with, or it has grown too large."""
    key = chains.signing(policy.signing_keys.values(), now_us)
    if key is None:
        return ""
    try:
        return chains.mint(chain, key, policy.keyspace.org)
    except ValueError:
        return ""
