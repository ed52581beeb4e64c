"""`ledger runs` and `chains` on the real stack: what the ledger says is what the gateway does."""

from collections.abc import Iterator

import pytest

from tests.e2e.chained import FAULT, TOKEN, Agent, always, crew, tree
from tests.e2e.stack import EVENT_ID, Stack

pytestmark = [pytest.mark.timeout(180)]


@pytest.fixture
def root_pays(stack: Stack) -> Iterator[None]:
    """An organisation where whoever started a run pays for all of it."""
    stack.json("chains", "billing", "root", "--why", "a test")
    yield
    stack.json("chains", "billing", "caller")


def believed(agent: Agent, chain: str) -> bool:
    return FAULT not in agent.chat(x_agent_chain=chain).headers


def test_a_run_of_three_agents_that_one_pays_for(stack: Stack, root_pays: None) -> None:
    """Started, called in, drawn, charged and ended: one run, one tree, one bill."""
    planner, researcher, coder = crew(stack, "ledger-runs")
    started = stack.json(
        *("runs", "start", "--key", planner.key_id, "--budget", "5usd"),
        *("--audience", f"agent={researcher.name}", "--audience", f"agent={coder.name}"),
    )
    run_id, chain = started["run_id"], started["chain_token"]
    warm: list[bool] = []

    def known() -> bool:
        warm.append(believed(researcher, chain))
        return warm[-1]

    always(known, "every worker has the key that signed")
    one = researcher.chat(x_agent_chain=chain)
    two = coder.chat(x_agent_chain=one.headers[TOKEN])
    three = coder.chat(x_agent_run=run_id)
    for answer in (one, two, three):
        assert stack.event(answer.headers[EVENT_ID])["run_id"] == run_id
    found = tree(stack, run_id, sum(warm) + 3)
    events = [event for each in found.values() for event in each]
    shown = stack.json("runs", "show", run_id)
    assert shown["cost_nanos"] == sum(event["cost_nanos"] for event in events) > 0
    top = shown["tree"]
    assert (top["agent"], top["calls"], top["total_calls"]) == (planner.name, 0, len(events))
    below = {hop["agent"]: hop for hop in top["children"]}
    assert below[coder.name]["trust"] == "key_bound"
    assert [hop["agent"] for hop in below[researcher.name]["children"]] == [coder.name]
    assert [each["team"] for each in shown["billed"]] == [planner.team]
    spent = stack.json("spend", "--by", "billed_team", "--where", f"billed_team={planner.team}")
    assert spent["total"]["cost_nanos"] == shown["cost_nanos"]
    status = stack.json("budgets", "status", started["budget"])
    [used] = [each["used"] for each in status]
    assert used == shown["cost_nanos"]
    stack.json("runs", "end", run_id)
    always(lambda: not believed(researcher, chain), "the run has ended")


def test_a_leaked_secret_is_worthless_within_a_second(stack: Stack) -> None:
    """With no grace the old signing keys are forgotten everywhere, and new runs go on."""
    planner, researcher, _ = crew(stack, "leaked")
    asked = ("runs", "start", "--key", planner.key_id, "--audience", f"agent={researcher.name}")
    old = stack.json(*asked)["chain_token"]
    always(lambda: believed(researcher, old), "the run is known")
    stack.json("chains", "rotate-key", "--grace", "0s")
    answers = [researcher.chat(x_agent_chain=old) for _ in range(2)]
    always(
        lambda: researcher.chat(x_agent_chain=old).headers.get(FAULT) == "forged",
        "the old key is forgotten",
    )
    assert all(answer.status_code == 200 for answer in answers)
    new = stack.json(*asked)["chain_token"]
    always(lambda: believed(researcher, new), "the new key is known")
