"""Chains through the exchange: what goes back, what goes on, what stands on the event, and the
gateway's own API.
"""

import json
from typing import Any

import orjson
import pytest

from extproc.budget import Admitted
from extproc.events import BodyMode, Continue, Respond
from extproc.exchange import Exchange, Reserve
from extproc.policy import Policy
from extproc.providers import compatible
from extproc.providers.routing import APIS, Told
from extproc.providers.shape import Asked
from extproc.refusal import Refusal
from ledger.budgets import to_document
from ledger.chains import MAX_TTL_S, Chain, read
from ledger.event import MeteredEvent
from tests.extproc.builders import (
    KEY,
    NOW_US,
    answer_headers,
    ask,
    body,
    budget,
    chained,
    other_key,
)

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [], "max_tokens": 10}
OWN = Told(provider="tollkeeper", prefix="/tollkeeper")
OTHER = other_key(0)
OTHER_ID = OTHER.split("-")[1]
ROOT_ID = KEY.split("-")[1]


def rules(*budgets: Any) -> Policy:
    policy = chained({"team": "coders", "agent": "coder"})
    for each in budgets:
        assert policy.change(f"budget:{each.budget_id}", to_document(each)) == ""
    return policy


def start(policy: Policy, told: Told | None = None) -> Exchange:
    return Exchange(policy, "01981e8e-0000-7000-8000-000000000001", told or Told())


def through(
    policy: Policy, key: str = KEY, request: dict[str, Any] = CHAT, **headers: Any
) -> tuple[Continue, MeteredEvent]:
    """A chat call to its response headers: the reply to these, and the event."""
    exchange = start(policy)
    exchange.receive(ask(key=key, **headers), NOW_US)
    exchange.receive(body(json.dumps(request)), NOW_US)
    exchange.receive(Admitted(held=True), NOW_US)
    reply = exchange.receive(answer_headers(status=200), NOW_US)
    assert isinstance(reply, Continue)
    settlement = exchange.close(NOW_US)
    assert settlement is not None
    return reply, settlement.event


def token_in(reply: Continue | Respond) -> str:
    headers = reply.headers if isinstance(reply, Respond) else reply.set_headers
    return dict(headers).get("x-agent-chain", b"").decode()


def test_a_run_goes_from_call_to_call() -> None:
    """The token comes back with the answer, and whoever sends it is in that run."""
    policy = rules()
    reply, one = through(policy, x_agent_chain='new; audience="agent=coder"')
    reply, two = through(policy, OTHER, x_agent_chain=token_in(reply))
    assert one.run_id == two.run_id
    assert (two.key_id, two.root_key_id, two.parent_key_id) == (OTHER_ID, ROOT_ID, ROOT_ID)
    assert (two.team, two.root_team, two.depth) == ("coders", "risk", 1)
    assert (two.chain_trust, two.chain_signal, two.chain_fault) == ("verified", "chain_token", "")
    assert two.chain_path == f"{ROOT_ID}/{OTHER_ID}"
    chain = read(token_in(reply), policy.signing_keys, "test", NOW_US)
    assert isinstance(chain, Chain)
    assert chain.path == (ROOT_ID, OTHER_ID)


def test_a_call_without_a_chain_gets_no_token() -> None:
    """Its reply has one header, as ever."""
    reply, event = through(rules())
    assert [name for name, _ in reply.set_headers] == ["x-tollkeeper-event-id"]
    assert event.run_id == event.event_id
    assert (event.chain_trust, event.chain_path, event.depth) == ("", "", 0)


def test_a_fault_is_told_to_the_caller_and_to_the_books() -> None:
    """So that who builds agents sees why a call was not in its run."""
    reply, event = through(rules(), x_agent_chain="junk")
    assert dict(reply.set_headers)["x-tollkeeper-chain-fault"] == b"malformed"
    assert (event.chain_fault, event.run_id) == ("malformed", event.event_id)
    assert token_in(reply) == ""


def test_no_chain_header_reaches_a_provider() -> None:
    """Neither token, run id nor baggage; the caller's own tracing headers stay."""
    headers: dict[str, Any] = {"x_agent_chain": "new", "x_agent_run": "run_1", "baggage": "a=b"}
    reply = start(rules()).receive(ask(traceparent="00-x", session_id="s", **headers), NOW_US)
    assert isinstance(reply, Continue)
    assert set(reply.remove_headers) == {
        *("authorization", "x-agent-chain", "x-agent-run", "baggage")
    }


def test_a_refused_call_gets_no_token() -> None:
    """A run that a call would have started does not begin with a refusal."""
    exchange = start(rules(budget()))
    exchange.receive(ask(x_agent_chain="new"), NOW_US)
    assert isinstance(exchange.receive(body(json.dumps(CHAT)), NOW_US), Reserve)
    refusal = Refusal(status=429, code="budget_held", message="no")
    reply = exchange.receive(refusal, NOW_US)
    assert isinstance(reply, Respond)
    assert token_in(reply) == ""


def test_budgets_of_the_run_and_of_its_root_count_every_hop() -> None:
    """A run's own budget, its root team's and its caller's team's: each is asked for its hold."""
    policy = rules()
    token, run_id = _started(policy)
    for number, (name, value) in enumerate(
        (("run", run_id), ("root_team", "risk"), ("team", "coders"), ("team", "risk"))
    ):
        of = budget(budget_id=f"b{number}", name=f"{name}-{value}", where=((name, value),))
        policy.change(f"budget:b{number}", to_document(of))
    exchange = start(policy)
    exchange.receive(ask(key=OTHER, x_agent_chain=token), NOW_US)
    reserve = exchange.receive(body(json.dumps(CHAT)), NOW_US)
    assert isinstance(reserve, Reserve)
    names = {share.budget.name for share in reserve.plan.shares}
    assert names == {f"run-{run_id}", "root_team-risk", "team-coders"}


def _started(policy: Policy) -> tuple[str, str]:
    reply, event = through(policy, x_agent_chain="new; audience=agent=coder")
    return token_in(reply), event.run_id


def test_a_prompt_cache_key_names_a_run_where_nothing_else_does() -> None:
    """Of this key; a header that names one is not overruled by the body."""
    request = CHAT | {"prompt_cache_key": "conversation-7"}
    _, event = through(rules(), request=request)
    assert event.run_id == f"cache:{ROOT_ID}:conversation-7"
    assert (event.chain_trust, event.chain_signal) == ("inferred", "prompt_cache_key")
    assert (event.root_key_id, event.chain_path) == (ROOT_ID, ROOT_ID)
    _, event = through(rules(), request=request, session_id="0199")
    assert event.run_id == "codex:0199"


def own(
    policy: Policy, text: str | None = None, method: str = "POST", path: str = "/tollkeeper/v1/runs"
) -> tuple[Respond, MeteredEvent]:
    """A call of the gateway's own API."""
    exchange = start(policy, OWN)
    reply = exchange.receive(ask(path, method, ended=text is None), NOW_US)
    if isinstance(reply, Continue):
        assert reply.request_body is BodyMode.BUFFERED
        reply = exchange.receive(body(text or ""), NOW_US)
    if isinstance(reply, Reserve):
        reply = exchange.receive(Admitted(held=True), NOW_US)
    assert isinstance(reply, Respond)
    assert exchange.done
    settlement = exchange.close(NOW_US)
    assert settlement is not None
    return reply, settlement.event


@pytest.mark.parametrize("text", [None, "", "{}", '{"audience": ["agent=coder"], "ttl_s": 60}'])
def test_a_run_is_started_at_the_gateway(text: str | None) -> None:
    """The sidecar answers by itself; the call is on record, and cost nothing."""
    policy = rules()
    reply, event = own(policy, text)
    said = orjson.loads(reply.body)
    assert reply.status == 200
    asked = orjson.loads(text) if text else {}
    assert said["audience"] == asked.get("audience", ["team=risk"])
    chain = read(said["chain_token"], policy.signing_keys, "test", NOW_US)
    assert isinstance(chain, Chain)
    assert chain.expires_at_us == NOW_US + asked.get("ttl_s", 3600) * 1_000_000
    assert said["expires_at"].startswith("2033-05-18T")
    assert said["root"]["key_id"] == ROOT_ID
    assert (event.provider, event.operation, event.outcome) == ("tollkeeper", "other", "ok")
    assert (event.cost_nanos, event.price_source, event.http_status) == (0, "free", 200)
    assert event.run_id == said["run_id"]
    _, two = through(policy, KEY, x_agent_chain=said["chain_token"])
    assert two.run_id == said["run_id"]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "[]"),
        (400, "{"),
        (400, '{"audience": "agent=coder"}'),
        (400, '{"audience": [1]}'),
        (400, '{"audience": ["coder"]}'),
        (400, '{"ttl_s": 0}'),
        (400, '{"ttl_s": true}'),
        (400, f'{{"ttl_s": {MAX_TTL_S + 1}}}'),
        (400, '{"ttl": 60}'),
        (400, json.dumps({"audience": [f"agent={'x' * 190}{n}" for n in range(9)]})),
    ],
)
def test_what_no_run_can_be_started_with_is_refused(status: int, text: str) -> None:
    """With a sentence; the event says so too."""
    reply, event = own(rules(), text)
    assert reply.status == status
    assert orjson.loads(reply.body)["error"]["message"].endswith(".")
    assert (event.outcome, event.refusal) == ("refused", "malformed_request")


def test_the_api_has_one_path_and_one_method() -> None:
    """Everything else is answered, not passed on; too much of a body is not read."""
    assert own(rules(), None, "GET")[0].status == 405
    assert own(rules(), None, path="/tollkeeper/v1/others")[0].status == 404
    large = ask("/tollkeeper/v1/runs", content_length="20000")
    reply = start(rules(), OWN).receive(large, NOW_US)
    assert isinstance(reply, Respond)
    assert reply.status == 413
    keyless = start(rules(), OWN).receive(ask("/tollkeeper/v1/runs", key=None), NOW_US)
    assert isinstance(keyless, Respond)
    assert keyless.status == 401


def test_without_a_signing_key_the_api_says_so() -> None:
    """It cannot be helped by the caller."""
    policy = rules()
    policy.change("chain_key:k1", {"removed": True})
    assert own(policy, "{}")[0].status == 503


def test_a_call_limit_counts_runs_that_are_started() -> None:
    """Money does not: it costs nothing."""
    calls = budget(budget_id="calls", name="rpm", unit="calls", amount=10, per="minute")
    policy = rules(calls, budget())
    exchange = start(policy, OWN)
    reserve = exchange.receive(ask("/tollkeeper/v1/runs", ended=True), NOW_US)
    assert isinstance(reserve, Reserve)
    assert [share.budget.name for share in reserve.plan.shares] == ["rpm"]
    refused = exchange.receive(Refusal(status=429, code="rate", message="no"), NOW_US)
    assert isinstance(refused, Respond)
    assert refused.status == 429


def test_a_call_to_an_agent_takes_the_run_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """The onward request has the next hop's token, as header and in baggage."""

    class Agents:
        """Any API whose calls go to an agent."""

        def __getattr__(self, name: str) -> Any:
            return getattr(compatible, name)

        def operation(self, method: str, path: str) -> str:
            return "agent_call"

        def read_request(self, operation: str, text: bytes, path: str = "") -> Asked:
            return Asked(model="", input_bytes=len(text))

    monkeypatch.setitem(APIS, "agents", Agents())
    policy = rules()
    exchange = start(policy, Told(provider="coder", api="agents", prefix="/coder"))
    head = ask("/coder/v1/chat/completions", baggage="user=ann,x-agent-chain=junk")
    exchange.receive(head, NOW_US)
    exchange.receive(body(json.dumps(CHAT)), NOW_US)
    reply = exchange.receive(Admitted(held=True), NOW_US)
    assert isinstance(reply, Continue)
    onward = dict(reply.set_headers)
    assert onward["baggage"] == b"user=ann,x-agent-chain=" + onward["x-agent-chain"]
    assert reply.body is None
    settled = exchange.close(NOW_US)
    assert settled is not None
    assert settled.event.run_id.startswith("run_")
    _, event = through(policy, OTHER, x_agent_chain=onward["x-agent-chain"].decode())
    assert (event.root_key_id, event.parent_key_id, event.depth) == (ROOT_ID, ROOT_ID, 1)
