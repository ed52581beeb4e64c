"""Agent chains on the real stack: one tree, the right root, the right trust, the whole cost."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from opentelemetry import baggage, context
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from ledger.chains import new_run_id
from ledger.money import usd_from_nanos
from tests.e2e.budgeted import LEAST_TEN_CENTS, TEN_CENTS, TEN_CENTS_WISH
from tests.e2e.chained import (
    FAULT,
    RUNS,
    TOKEN,
    Agent,
    always,
    crew,
    signing_key,
    token,
    tree,
    until_signed,
)
from tests.e2e.conftest import wish
from tests.e2e.fake import Fake
from tests.e2e.processes import until
from tests.e2e.stack import COST, EVENT_ID, Event, Stack

pytestmark = [pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def three(stack: Stack) -> tuple[Agent, Agent, Agent]:
    """Planner, researcher and coder of three teams, at a gateway that signs chains."""
    agents = crew(stack, "three")
    until_signed(agents[0])
    return agents


@pytest.fixture
def root_pays(stack: Stack, three: tuple[Agent, Agent, Agent]) -> Iterator[None]:
    """An organisation where whoever started a run pays for all of it."""
    planner, researcher, _ = three
    stack.json("chains", "billing", "root")
    started = planner.start(audience=[f"agent={researcher.name}"])

    def known() -> bool:
        answer = researcher.chat(x_agent_chain=started["chain_token"])
        return bool(stack.event(answer.headers[EVENT_ID])["billing"] == "root")

    always(known, "the root pays")
    yield
    stack.json("chains", "billing", "caller")


def costs(answers: list[httpx.Response]) -> list[str]:
    return [answer.headers[COST] for answer in answers]


def billed(events: list[Event]) -> list[str]:
    return [usd_from_nanos(event["cost_nanos"]) for event in events]


def test_three_agents_are_one_tree(stack: Stack, three: tuple[Agent, Agent, Agent]) -> None:
    """Plain httpx: each agent sends what the call before it got back. One root, one total."""
    planner, researcher, coder = crew(stack, "tree")
    one = planner.chat(x_agent_chain='new; audience="agent=tree-researcher,agent=tree-coder"')
    two = researcher.chat(x_agent_chain=one.headers[TOKEN])
    three_ = coder.chat(x_agent_chain=two.headers[TOKEN])
    four = coder.chat(x_agent_chain=two.headers[TOKEN])
    run_id = stack.event(one.headers[EVENT_ID])["run_id"]
    assert run_id.startswith("run_")
    found = tree(stack, run_id, 4)
    a, b, c = planner.key_id, researcher.key_id, coder.key_id
    assert {path: len(events) for path, events in found.items()} == {
        a: 1,
        f"{a}/{b}": 1,
        f"{a}/{b}/{c}": 2,
    }
    events = [event for each in found.values() for event in each]
    assert [event["depth"] for event in events] == [0, 1, 2, 2]
    assert [event["parent_key_id"] for event in events] == ["", a, b, b]
    assert {event["chain_trust"] for event in events} == {"verified"}
    assert {event["root_key_id"] for event in events} == {a}
    assert {event["root_team"] for event in events} == {planner.team}
    assert [event["team"] for event in events] == [
        planner.team,
        researcher.team,
        coder.team,
        coder.team,
    ]
    assert billed(events) == costs([one, two, three_, four])
    [row] = stack.rows("SELECT sum(cost_nanos) AS total FROM rollups WHERE root_key_id = %s", a)
    assert row["total"] == sum(event["cost_nanos"] for event in events)
    spent = stack.json("spend", "--by", "team", "--where", f"root_team={planner.team}")
    assert spent["total"]["cost_nanos"] == row["total"]
    assert len(spent["rows"]) == 3
    drawn = stack.json("runs", "show", run_id)
    assert (drawn["events"], drawn["tree"]["total_cost_nanos"]) == (4, row["total"])


def test_opentelemetry_carries_a_run_on(stack: Stack, three: tuple[Agent, Agent, Agent]) -> None:
    """Agents that are instrumented need nothing but a member in their baggage."""
    planner, researcher, coder = three
    started = planner.start(audience=[f"agent={researcher.name}", f"agent={coder.name}"])
    client = httpx.Client()
    HTTPXClientInstrumentor.instrument_client(client, tracer_provider=TracerProvider())
    chain, events = started["chain_token"], []
    for agent in three:
        attached = context.attach(baggage.set_baggage(TOKEN, chain))
        try:
            answer = agent.chat(client)
        finally:
            context.detach(attached)
        chain = answer.headers[TOKEN]
        events.append(stack.event(answer.headers[EVENT_ID]))
    assert {event["run_id"] for event in events} == {started["run_id"]}
    assert {event["chain_trust"] for event in events} == {"verified"}
    path = [planner.key_id, researcher.key_id, coder.key_id]
    assert [event["chain_path"].split("/") for event in events] == [path[:1], path[:2], path]
    traced = stack.event(planner.chat(client).headers[EVENT_ID])
    assert traced["run_id"].startswith("trace:")
    assert (traced["chain_trust"], traced["chain_signal"]) == ("inferred", "traceparent")
    client.close()


def test_claude_code_says_its_session_and_agents(
    stack: Stack, three: tuple[Agent, Agent, Agent]
) -> None:
    """A conversation, its subagent, and the subagent's own: asserted, and paid by the caller."""
    planner = three[0]
    session = f"6f1c0d9e-{time.time_ns()}"
    agents: list[dict[str, str]] = [
        {},
        {"x-claude-code-agent-id": "a1"},
        {"x-claude-code-agent-id": "a2", "x-claude-code-parent-agent-id": "a1"},
    ]
    body = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "x"}],
    }
    for more in agents:
        headers = {"x-api-key": planner.key, "x-claude-code-session-id": session, **more}
        answer = httpx.post(f"{stack.gateway}/anthropic/v1/messages", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert TOKEN not in answer.headers
    found = tree(stack, f"claude-code:{session}", 3)
    a = planner.key_id
    assert list(found) == [a, f"{a}/a1", f"{a}/a1/a2"]
    for events in found.values():
        _own_root(events[0], planner, "asserted", "claude_code")


def test_codex_says_its_session_and_threads(
    stack: Stack, three: tuple[Agent, Agent, Agent]
) -> None:
    """A root thread, one that it spawned, and a review in the root thread."""
    planner = three[0]
    session = f"0199-{time.time_ns()}"
    spawned = {"x-openai-subagent": "collab_spawn", "x-codex-parent-thread-id": session}
    threads: list[dict[str, str]] = [
        {"thread-id": session},
        {"thread-id": "019a", **spawned},
        {"thread-id": session, "x-openai-subagent": "review"},
    ]
    body = {"model": "gpt-4o", "input": "x", "prompt_cache_key": session}
    for more in threads:
        headers = planner.headers(**{"session-id": session, **more})
        answer = httpx.post(f"{stack.gateway}/openai/v1/responses", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
    found = tree(stack, f"codex:{session}", 3)
    a = planner.key_id
    assert list(found) == [a, f"{a}/019a", f"{a}/review"]
    for events in found.values():
        _own_root(events[0], planner, "asserted", "codex")


def test_a_prompt_cache_key_is_the_last_resort(
    stack: Stack, three: tuple[Agent, Agent, Agent]
) -> None:
    """Two keys that use the same one are two runs."""
    for agent in three[:2]:
        body = {"model": "gpt-4o", "input": "x", "prompt_cache_key": "talk-1"}
        url = f"{stack.gateway}/openai/v1/responses"
        answer = httpx.post(url, json=body, headers=agent.headers())
        event = stack.event(answer.headers[EVENT_ID])
        assert event["run_id"] == f"cache:{agent.key_id}:talk-1"
        _own_root(event, agent, "inferred", "prompt_cache_key")


def _own_root(event: Event, agent: Agent, trust: str, signal: str) -> None:
    said = (event["root_key_id"], event["root_team"], event["billing"])
    assert said == (agent.key_id, agent.team, "caller")
    assert (event["chain_trust"], event["chain_signal"]) == (trust, signal)


def test_a_token_that_is_not_believed_is_charged_to_its_sender(
    stack: Stack, three: tuple[Agent, Agent, Agent]
) -> None:
    """Forged, expired, foreign, garbage, tampered: served, and on record with the fault."""
    planner, researcher, coder = three
    run_id = new_run_id(time.time_ns())
    audience = f"agent={researcher.name}"
    good = token(planner, run_id, audience)
    thief = replace(signing_key(stack), secret=b"x" * 32)
    cases = [
        ("forged", researcher, token(planner, run_id, audience, key=thief)),
        ("forged", researcher, good[:-5] + good[-4:] + "A"),
        ("expired", researcher, token(planner, run_id, audience, expires_at_us=1_000_000)),
        ("foreign", coder, good),
        ("malformed", researcher, "not a token"),
        ("malformed", researcher, f"{good},{good}"),
    ]
    for fault, agent, sent in cases:
        answer = agent.chat(x_agent_chain=sent)
        assert answer.status_code == 200
        assert (answer.headers[FAULT], TOKEN in answer.headers) == (fault, False)
        event = stack.event(answer.headers[EVENT_ID])
        assert event["chain_fault"] == fault
        assert (event["run_id"], event["depth"]) == (event["event_id"], 0)
        _own_root(event, agent, "", "")
    doubled = httpx.Headers([*researcher.headers().items(), (TOKEN, good), (TOKEN, good)])
    url = f"{stack.gateway}/openai/v1/models"
    assert httpx.get(url, headers=doubled).headers[FAULT] == "malformed"
    assert stack.rows("SELECT 1 FROM events WHERE run_id = %s", run_id) == []
    believed = researcher.chat(x_agent_chain=good)
    assert stack.event(believed.headers[EVENT_ID])["run_id"] == run_id


def test_a_run_that_was_ended_takes_no_more_calls(
    stack: Stack, three: tuple[Agent, Agent, Agent]
) -> None:
    """Once every worker knows it, its token charges only who sends it."""
    planner, researcher, _ = three
    started = planner.start(audience=[f"agent={researcher.name}"])
    stack.json("runs", "end", started["run_id"])
    sent = {TOKEN: started["chain_token"]}

    def ended() -> bool:
        return bool(researcher.chat(**sent).headers.get(FAULT) == "run_ended")

    always(ended, "the run has ended")
    event = stack.event(researcher.chat(**sent).headers[EVENT_ID])
    assert event["chain_fault"] == "run_ended"
    _own_root(event, researcher, "", "")


def test_a_revoked_root_pays_for_nobody(stack: Stack) -> None:
    """Its runs end with it."""
    planner, researcher, _ = crew(stack, "revoked")
    started = planner.start(audience=[f"agent={researcher.name}"])
    assert researcher.chat(x_agent_chain=started["chain_token"]).headers[TOKEN]
    stack.json("keys", "revoke", planner.key_id)

    def refused() -> bool:
        answer = researcher.chat(x_agent_chain=started["chain_token"])
        return bool(answer.headers.get(FAULT) == "root_key_revoked")

    always(refused, "the root's key is revoked")


def test_a_run_of_the_ledgers_is_named_by_its_id(
    stack: Stack, three: tuple[Agent, Agent, Agent]
) -> None:
    """By the keys that it is bound to; the token that comes back continues it."""
    planner, researcher, coder = three
    bound = ("--audience", f"team={researcher.team}", "--audience", f"agent={coder.name}")
    run_id = stack.json("runs", "start", "--key", planner.key_id, *bound)["run_id"]

    def known() -> bool:
        return (
            TOKEN
            in httpx.get(
                f"{stack.gateway}/openai/v1/models",
                headers=researcher.headers(**{"x-agent-run": run_id}),
            ).headers
        )

    always(known, "the run is known")
    two = researcher.chat(x_agent_run=run_id)
    three_ = coder.chat(x_agent_chain=two.headers[TOKEN])
    events = [stack.event(each.headers[EVENT_ID]) for each in (two, three_)]
    assert [event["chain_trust"] for event in events] == ["key_bound", "verified"]
    assert [event["depth"] for event in events] == [1, 2]
    assert {event["root_key_id"] for event in events} == {planner.key_id}
    assert {event["run_id"] for event in events} == {run_id}


def test_a_runs_budget_binds_all_its_agents(
    stack: Stack, three: tuple[Agent, Agent, Agent]
) -> None:
    """Three calls of ten cents, by three agents, do not fit into a quarter: the third is refused,
    and the counter is the sum of the events.
    """
    planner, researcher, coder = three
    started = planner.start(audience=[f"agent={researcher.name}", f"agent={coder.name}"])
    run_id = started["run_id"]
    name = f"run-{run_id}"
    where = ("--where", f"run={run_id}", "--amount", "0.25usd", "--per", "total")
    done = stack.ledger("budgets", "set", name, *where)
    assert done.returncode == 0, done.stderr
    stack.issue()  # workers that know this later key know the budget
    sent = {TOKEN: started["chain_token"], **wish(**TEN_CENTS_WISH)}
    answers = [agent.chat(body=TEN_CENTS, **sent) for agent in three]
    assert [answer.status_code for answer in answers][:2] == [200, 200]
    assert answers[2].status_code in (402, 429)
    assert answers[2].json()["error"]["limit"] == name
    assert TOKEN not in answers[2].headers
    outside = coder.chat(body=TEN_CENTS, **wish(**TEN_CENTS_WISH))
    assert outside.status_code == 200
    [budget] = stack.rows("SELECT budget_id FROM budgets WHERE name = %s", name)
    events = [event for each in tree(stack, run_id, 4).values() for event in each]
    spent = sum(event["cost_nanos"] for event in events)
    assert 2 * LEAST_TEN_CENTS <= spent <= 250_000_000
    until(
        lambda: stack.counter(budget["budget_id"]).get("used") == spent,
        what=f"the counter says {spent}",
    )
    refused = [event for event in events if event["outcome"] == "refused"]
    assert [event["team"] for event in refused] == [coder.team]


def test_the_root_may_pay(stack: Stack, three: tuple[Agent, Agent, Agent], root_pays: None) -> None:
    """Who called and who started it are both on record, and which of them pays."""
    planner, researcher, _ = three
    one = planner.chat(x_agent_chain="new; audience=agent=three-researcher")
    two = researcher.chat(x_agent_chain=one.headers[TOKEN])
    three_ = researcher.chat(x_claude_code_session_id="s")
    events = [stack.event(each.headers[EVENT_ID]) for each in (one, two, three_)]
    assert [event["billing"] for event in events] == ["caller", "root", "caller"]
    assert (events[1]["team"], events[1]["root_team"]) == (researcher.team, planner.team)


def test_the_gateways_own_api_ends_here(
    stack: Stack, fake: Fake, three: tuple[Agent, Agent, Agent]
) -> None:
    """Answered by the sidecar, on record, free; nothing reaches a provider."""
    planner = three[0]
    before = len(fake.requests())
    url = stack.gateway + RUNS
    answer = httpx.post(url, json={"ttl_s": 60}, headers=planner.headers())
    assert answer.status_code == 200
    event = stack.event(answer.headers[EVENT_ID])
    said: dict[str, Any] = answer.json()
    assert event["run_id"] == said["run_id"]
    assert said["root"]["key_id"] == planner.key_id
    assert (event["provider"], event["operation"], event["cost_nanos"]) == (
        *("tollkeeper", "other"),
        0,
    )
    empty = httpx.post(url, headers=planner.headers())
    assert empty.status_code == 200
    assert httpx.post(url, content=b"{", headers=planner.headers()).status_code == 400
    assert httpx.get(url, headers=planner.headers()).status_code == 405
    assert httpx.post(url).status_code == 401
    assert httpx.post(f"{url}/more", headers=planner.headers()).status_code == 404
    assert httpx.post(url, content=b"x" * 20_000, headers=planner.headers()).status_code == 413
    assert len(fake.requests()) == before


def test_a_signing_key_can_be_replaced(stack: Stack, three: tuple[Agent, Agent, Agent]) -> None:
    """With time, what the old one signed is believed on; at once, it is a forgery."""
    planner, researcher, _ = three
    started = planner.start(audience=[f"agent={researcher.name}"])
    sent = {TOKEN: started["chain_token"]}
    stack.json("chains", "rotate-key")
    stack.issue()  # workers that know this later key know the new signing key
    assert researcher.chat(**sent).headers[TOKEN]
    stack.json("chains", "rotate-key", "--grace", "0s")

    def forged() -> bool:
        return bool(researcher.chat(**sent).headers.get(FAULT) == "forged")

    always(forged, "the old signing keys are forgotten")
    until_signed(planner)
    again = planner.start(audience=[f"agent={researcher.name}"])
    assert researcher.chat(x_agent_chain=again["chain_token"]).headers[TOKEN]


def test_no_token_reaches_a_provider(
    stack: Stack, fake: Fake, three: tuple[Agent, Agent, Agent]
) -> None:
    """Neither the header nor the baggage nor a run's id; tracing of the caller's own goes on."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {TOKEN: "new", "baggage": "x-agent-chain=a.b.c", "x-agent-run": "run_1"}
    answer = three[0].chat(traceparent=trace, **headers)
    seen = dict(fake.request(answer.headers["x-request-id"])["headers"])
    assert not headers.keys() & seen.keys()
    assert seen["traceparent"] == trace
