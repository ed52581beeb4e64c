"""A crew of agents on the real stack, whose calls are one run: planner, researcher, coder."""

import time
from dataclasses import dataclass
from typing import Any

import httpx

from ledger.chains import Chain, Root, SigningKey, mint
from tests.e2e.conftest import wish
from tests.e2e.processes import until
from tests.e2e.stack import Event, Stack

RUNS = "/tollkeeper/v1/runs"
TOKEN = "x-agent-chain"
FAULT = "x-tollkeeper-chain-fault"
CHAT: Any = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "x"}],
    "max_tokens": 50,
}
_IN_A_ROW = 12  # answers on fresh connections: every worker was among those that gave them


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent with a key of its own, in a team of its own."""

    stack: Stack
    name: str
    team: str
    key: str
    key_id: str

    def headers(self, **more: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}", **wish(output_tokens=20), **more}

    def chat(self, client: Any = httpx, body: Any = CHAT, **headers: str) -> httpx.Response:
        """One call of OpenAI's API, served."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.stack.gateway}/openai/v1/chat/completions"
        answer: httpx.Response = client.post(
            url, json=body, headers=self.headers(**named), timeout=30
        )
        return answer

    def start(self, **asked: Any) -> dict[str, Any]:
        """A run, started at the gateway's own API."""
        answer = httpx.post(self.stack.gateway + RUNS, json=asked, headers=self.headers())
        assert answer.status_code == 200, answer.text
        started: dict[str, Any] = answer.json()
        return started

    @property
    def root(self) -> Root:
        return Root(
            key_id=self.key_id, owner="ann", team=self.team, agent=self.name, workload="nightly"
        )


def crew(stack: Stack, name: str) -> tuple[Agent, Agent, Agent]:
    """Planner, researcher and coder, of three teams."""
    planner, researcher, coder = (
        _agent(stack, f"{name}-{role}") for role in ("planner", "researcher", "coder")
    )
    return planner, researcher, coder


def _agent(stack: Stack, name: str) -> Agent:
    team = f"{name}-team"
    labels = ("--owner", "ann", "--team", team, "--agent", name, "--workload", "nightly")
    issued = stack.json("keys", "issue", *labels)
    stack.until_known(issued["key"])
    return Agent(stack, name, team, issued["key"], issued["key_id"])


def until_signed(agent: Agent) -> None:
    """Wait until every worker signs chains: the writer sees to it that there is a key."""
    url = agent.stack.gateway + RUNS
    always(lambda: httpx.post(url, headers=agent.headers()).status_code == 200, "chains are signed")


def signing_key(stack: Stack) -> SigningKey:
    """The key that the stack signs with: who has it can sign what the gateway never would."""
    query = "SELECT kid, secret FROM chain_keys WHERE NOT removed ORDER BY from_us DESC LIMIT 1"
    [row] = stack.rows(query)
    return SigningKey(kid=row["kid"], secret=row["secret"], from_us=0, until_us=2**62)


def token(agent: Agent, run_id: str, audience: str, **changes: Any) -> str:
    """A token that the gateway might have signed for a run of this agent."""
    name, _, value = audience.partition("=")
    chain = Chain(
        run_id=run_id,
        root=agent.root,
        path=(agent.key_id,),
        audience=((name, value),),
        expires_at_us=changes.get("expires_at_us", time.time_ns() // 1000 + 600_000_000),
    )
    return mint(chain, changes.get("key") or signing_key(agent.stack), "default")


def always(holds: Any, what: str) -> None:
    """Wait until it holds so many times in a row that it holds for every worker."""
    until(lambda: all(holds() for _ in range(_IN_A_ROW)), what=what)


def tree(stack: Stack, run_id: str, calls: int) -> dict[str, list[Event]]:
    """The events of a run by their path, once there are so many."""
    query = "SELECT * FROM events WHERE run_id = %s ORDER BY occurred_at"
    until(lambda: len(stack.rows(query, run_id)) >= calls, what=f"{calls} calls of {run_id}")
    events = stack.rows(query, run_id)
    assert len(events) == calls
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event["chain_path"], []).append(event)
    return found
