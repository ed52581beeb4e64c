"""The demo's organisation: who calls which model how often, as threads. Knows only the gateway."""

import http.client
import json
import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.fake_provider.directives import HEADER

TIMEOUT_S: Final = 30.0
PATIENCE_S: Final = 2.0
"""After a refusal, or a failure, a caller waits so long."""
_CHAIN: Final = "x-agent-chain"
_SUBJECT: Final = (
    "Read the following notes of the last meeting and say what we have to do, by when, and who. "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One agent of a team. Tokens and the pause between calls are what is usual for it. One that
    `hands_to` other agents starts a run with each call, which these go on with one by one.
    """

    owner: str
    team: str
    agent: str
    workload: str
    customer: str = ""
    api: str
    model: str
    streamed: bool = False
    input_tokens: int
    output_tokens: int
    pause_s: float
    hands_to: tuple[str, ...] = ()


CALLERS: Final = (
    Caller(
        owner="maria@example.com",
        team="engineering",
        agent="code-review",
        workload="pull-requests",
        api="messages",
        model="claude-sonnet-4-5",
        streamed=True,
        input_tokens=6000,
        output_tokens=300,
        pause_s=0.6,
    ),
    Caller(
        owner="maria@example.com",
        team="engineering",
        agent="test-writer",
        workload="nightly-tests",
        api="responses",
        model="gpt-5-codex",
        streamed=True,
        input_tokens=3500,
        output_tokens=350,
        pause_s=0.8,
    ),
    Caller(
        owner="jonas@example.com",
        team="support",
        agent="triage",
        workload="tickets",
        customer="acme",
        api="chat",
        model="gpt-5-mini",
        input_tokens=900,
        output_tokens=60,
        pause_s=0.3,
    ),
    Caller(
        owner="jonas@example.com",
        team="support",
        agent="reply-writer",
        workload="tickets",
        customer="globex",
        api="messages",
        model="claude-haiku-4-5",
        streamed=True,
        input_tokens=1800,
        output_tokens=180,
        pause_s=0.5,
    ),
    Caller(
        owner="ines@example.com",
        team="research",
        agent="paper-reader",
        workload="literature",
        api="messages",
        model="claude-opus-4-5",
        input_tokens=14000,
        output_tokens=250,
        pause_s=1.5,
    ),
    Caller(
        owner="ines@example.com",
        team="research",
        agent="indexer",
        workload="literature",
        api="embeddings",
        model="text-embedding-3-small",
        input_tokens=4000,
        output_tokens=0,
        pause_s=0.4,
    ),
    Caller(
        owner="tom@example.com",
        team="marketing",
        agent="copywriter",
        workload="campaign",
        api="chat",
        model="gpt-4.1",
        streamed=True,
        input_tokens=2500,
        output_tokens=220,
        pause_s=0.4,
    ),
    Caller(
        owner="lea@example.com",
        team="finance",
        agent="invoice-matcher",
        workload="month-end",
        api="chat",
        model="gpt-5-nano",
        input_tokens=2200,
        output_tokens=40,
        pause_s=0.5,
    ),
    Caller(
        owner="lea@example.com",
        team="finance",
        agent="receipt-reader",
        workload="month-end",
        api="generate",
        model="gemini-2.5-flash",
        streamed=True,
        input_tokens=3000,
        output_tokens=120,
        pause_s=0.5,
    ),
    Caller(
        owner="kim@example.com",
        team="product",
        agent="planner",
        workload="releases",
        api="chat",
        model="gpt-5-mini",
        input_tokens=1500,
        output_tokens=150,
        pause_s=4.0,
        hands_to=("paper-reader", "test-writer"),
    ),
)


@dataclass(slots=True)
class Tally:
    """What the callers saw: calls, refusals by HTTP status, and anything that should not happen."""

    calls: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class Traffic:
    """All callers at work, each in a thread of its own with its own key."""

    def __init__(self, gateway: tuple[str, int], keys: Sequence[tuple[Caller, str]]) -> None:
        self.tally = Tally()
        self._gateway = gateway
        self._keys = {caller.agent: (caller, key) for caller, key in keys}
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(caller, key), daemon=True)
            for caller, key in keys
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Tell every caller that the call under way is its last."""
        self._enough.set()

    def is_running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _work(self, caller: Caller, key: str) -> None:
        chance = random.Random(caller.agent)  # the same demo every time
        session = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        while not self._enough.is_set():
            asked_at = time.monotonic()
            start = _start_of_run(caller.hands_to) if caller.hands_to else {}
            headers = {**start, **_session_of(caller, session)}
            status, token = self._tallied(caller, key, chance, headers)
            for agent in caller.hands_to if token else ():
                _, token = self._tallied(*self._keys[agent], chance, {_CHAIN: token})
            if status != 200:
                self._enough.wait(max(0.0, PATIENCE_S - (time.monotonic() - asked_at)))
            else:
                self._enough.wait(caller.pause_s * chance.uniform(0.5, 1.5))

    def _tallied(
        self, caller: Caller, key: str, chance: random.Random, headers: Mapping[str, str]
    ) -> tuple[int, str]:
        """One call, counted: its status, 0 where there was no answer, and the token for the next
        agent of its run.
        """
        status, token, failure = 0, "", ""
        try:
            status, token = self._call(caller, key, chance, headers)
        except (OSError, http.client.HTTPException) as error:
            failure = f"{type(error).__name__} {error}"
        with self._lock:
            self.tally.calls += status > 0
            if status in (402, 429):
                self.tally.refused[status] = self.tally.refused.get(status, 0) + 1
            elif status != 200:
                self.tally.failures.append(f"{caller.agent}: {failure or f'status {status}'}")
        return status, token

    def _call(
        self, caller: Caller, key: str, chance: random.Random, headers: Mapping[str, str]
    ) -> tuple[int, str]:
        host, port = self._gateway
        output = int(caller.output_tokens * chance.uniform(0.5, 1.5))
        path, body = request(caller, _prompt(caller, chance), most=2 * caller.output_tokens)
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        sent = {
            "content-type": "application/json",
            "authorization": f"Bearer {key}",
            HEADER.decode(): json.dumps({"output_tokens": output, "chunk_tokens": 5}),
            **headers,
        }
        try:
            connection.request("POST", path, json.dumps(body), sent)
            response = connection.getresponse()
            response.read()
            return response.status, response.getheader(_CHAIN, "")
        finally:
            connection.close()


def _start_of_run(agents: Sequence[str]) -> Mapping[str, str]:
    audience = ",".join(f"agent={agent}" for agent in agents)
    return {_CHAIN: f'new; audience="{audience}"'}


def _session_of(caller: Caller, session: str) -> Mapping[str, str]:
    """What a coding agent sends unasked."""
    return {"x-claude-code-session-id": session} if caller.agent == "code-review" else {}


def request(caller: Caller, prompt: str, most: int) -> tuple[str, Mapping[str, Any]]:
    """The path and the body of one call, as the caller's SDK would send them."""
    if caller.api == "generate":
        method = "streamGenerateContent?alt=sse" if caller.streamed else "generateContent"
        config = {"maxOutputTokens": most}
        contents = [{"role": "user", "parts": [{"text": prompt}]}]
        path = f"/gemini/v1beta/models/{caller.model}:{method}"
        return path, {"contents": contents, "generationConfig": config}
    body: dict[str, Any] = {"model": caller.model}
    if caller.streamed:
        body["stream"] = True
    if caller.api == "embeddings":
        return "/v1/embeddings", {**body, "input": prompt}
    if caller.api == "responses":
        return "/v1/responses", {**body, "input": prompt, "max_output_tokens": most}
    body["messages"] = [{"role": "user", "content": prompt}]
    if caller.api == "messages":
        return "/v1/messages", {**body, "max_tokens": most}
    return "/v1/chat/completions", {**body, "max_completion_tokens": most}


def _prompt(caller: Caller, chance: random.Random) -> str:
    wanted = int(caller.input_tokens * chance.uniform(0.6, 1.4)) * 4  # bytes of a usual token
    return (_SUBJECT * (wanted // len(_SUBJECT) + 1))[:wanted]
