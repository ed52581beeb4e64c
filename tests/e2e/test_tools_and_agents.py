"""Tools (MCP) and agents (A2A) behind the real gateway: what passes, what is metered, who is
refused. The official MCP client and server are the independent voice.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import yaml
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer

from tests.e2e.fake import Fake
from tests.e2e.far_side import Agent, Arrived, ToolServer, serving
from tests.e2e.processes import until
from tests.e2e.stack import COST, EVENT_ID, Stack, running

CENT = 10_000_000
ACCEPT = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}


@dataclass
class Site:
    """A stack with two servers of tools and two agents behind it."""

    stack: Stack
    tools: ToolServer
    agent: Agent

    def post(self, path: str, body: Any, key: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(
            self.stack.gateway + path,
            json=body,
            headers={"authorization": f"Bearer {key}", **ACCEPT, **named},
            timeout=20,
        )

    def call(self, tool: str, key: str, number: int | str = 7, **headers: str) -> httpx.Response:
        """One `tools/call` as a client writes it."""
        params = {"name": tool, "arguments": {"x": 2}}
        body = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        return self.post("/mcp/tools", body, key, **headers)

    def send(self, text: str, key: str, method: str = "message/send") -> httpx.Response:
        """One message to the agent, in the words of A2A 0.3."""
        return self.post("/a2a/coder", message(text, method), key)

    def event(self, answer: httpx.Response) -> dict[str, Any]:
        return self.stack.event(answer.headers[EVENT_ID])


def message(text: str, method: str = "message/send") -> dict[str, Any]:
    """A JSON-RPC request that gives an agent a message."""
    said = {"kind": "message", "messageId": "m-1", "role": "user", "parts": [{"text": text}]}
    return {"jsonrpc": "2.0", "id": "r-1", "method": method, "params": {"message": said}}


def gauges(stack: Stack, *names: str) -> dict[str, int]:
    """Envoy's own numbers, now."""
    config = yaml.safe_load((stack.data_dir / "envoy" / "envoy.yaml").read_text())
    pipe = config["admin"]["address"]["pipe"]["path"]
    with httpx.Client(transport=httpx.HTTPTransport(uds=pipe)) as admin:
        said = admin.get("http://envoy/stats").text
    pairs = (line.split(": ", 1) for line in said.splitlines())
    return {name: int(value) for name, value in pairs if name in names}


def official_server() -> MCPServer:
    """A server of the official SDK with one tool that works and one that breaks."""
    server = MCPServer("official")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def breaks() -> str:
        raise ValueError("this tool is broken")

    return server


@pytest.fixture(scope="module")
def site(fake: Fake, services_directory: Path) -> Iterator[Site]:
    tools, agent = ToolServer(), Agent()
    with (
        serving(tools) as tools_url,
        serving(agent) as agent_url,
        serving(official_server().streamable_http_app()) as official_url,
    ):
        more = ["--mcp", f"tools={tools_url}/rpc", "--mcp", f"official={official_url}/mcp"]
        more += ["--a2a", f"coder={agent_url}"]
        with running(services_directory / "tools", fake, more=more) as stack:
            yield Site(stack, tools, agent)


@pytest.fixture(scope="module")
def key(site: Site) -> str:
    return str(site.stack.issue()["key"])


def test_a_tool_call_is_one_event_with_its_tool(site: Site, key: str) -> None:
    """The server sees the call as it was sent, less our key; the books see who called what."""
    answer = site.call("echo", key, mcp_session_id="s-9", mcp_method="tools/call", mcp_name="echo")
    assert answer.json()["result"]["content"][0]["text"] == "four"
    event = site.event(answer)
    assert (event["operation"], event["tool_name"]) == ("tool_call", "echo")
    assert (event["provider"], event["model"], event["outcome"]) == ("tools", "", "ok")
    assert (event["cost_nanos"], event["price_source"], event["usage_source"]) == (
        0,
        "none",
        "none",
    )
    assert (event["team"], event["agent"], event["input_tokens"]) == ("risk", "scout", 0)
    assert event["latency_ms"] >= 0
    arrived = site.tools.last("tools/call")
    assert arrived.path == "/rpc"
    assert arrived.body["params"] == {"name": "echo", "arguments": {"x": 2}}
    sent = {name: arrived.headers[name] for name in ("mcp-session-id", "mcp-method", "mcp-name")}
    assert sent == {"mcp-session-id": "s-9", "mcp-method": "tools/call", "mcp-name": "echo"}
    assert arrived.headers["mcp-protocol-version"] == "2025-11-25"
    assert "tk-" not in str(arrived.headers)


@pytest.mark.parametrize(
    ("tool", "outcome"),
    [
        ("fails", "provider_error"),
        ("unknown", "provider_error"),
        ("asks", "ok"),
        ("streams", "ok"),
        ("streams_fails", "provider_error"),
        ("cut", "provider_gone"),
    ],
)
def test_how_a_tool_call_ended_is_on_record(site: Site, key: str, tool: str, outcome: str) -> None:
    """JSON-RPC errors and failed results are errors whatever the HTTP status, also in a stream."""
    answer = site.call(tool, key)
    assert answer.status_code == 200
    event = site.event(answer)
    assert (event["outcome"], event["tool_name"], event["http_status"]) == (outcome, tool, 200)
    assert event["streamed"] == (tool in ("streams", "streams_fails", "cut"))
    if tool == "streams":
        assert answer.text.count("notifications/progress") == 2
        assert answer.headers["mcp-session-id"] == "s-1"


def test_a_client_that_goes_away_is_on_record(site: Site, key: str) -> None:
    """Its stream ends at the server too."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "hangs"}}
    headers = {"authorization": f"Bearer {key}", **ACCEPT}
    with httpx.stream("POST", site.stack.gateway + "/mcp/tools", json=body, headers=headers) as got:
        next(got.iter_bytes())
        event_id = got.headers[EVENT_ID]
    assert site.tools.gone.wait(10)
    assert site.stack.event(event_id)["outcome"] == "client_gone"


def test_other_methods_pass_and_cost_nothing(site: Site, key: str) -> None:
    """initialize, a list, a notification, the end of a session: attributed, `other`, free."""
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
    answer = site.post("/mcp/tools", hello, key)
    assert answer.headers["mcp-session-id"] == "s-1"
    listed = site.post("/mcp/tools/", {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, key)
    assert site.tools.arrived[-1].path == "/rpc/"
    noted = site.post("/mcp/tools", {"jsonrpc": "2.0", "method": "notifications/initialized"}, key)
    headers = {"authorization": f"Bearer {key}", "mcp-session-id": "s-1"}
    ended = httpx.delete(site.stack.gateway + "/mcp/tools", headers=headers)
    assert [each.status_code for each in (answer, listed, noted, ended)] == [200, 200, 202, 200]
    for each in (answer, listed, noted, ended):
        event = site.event(each)
        assert (event["operation"], event["outcome"], event["team"]) == ("other", "ok", "risk")
        assert (event["cost_nanos"], event["price_source"]) == (0, "free")


def test_open_streams_of_a_server_hold_nothing(site: Site, key: str) -> None:
    """A stream that stays open has its event at once, takes no slot of its key's parallel calls,
    and none of the sidecar's.
    """
    narrow = site.stack.issue("--max-parallel", "1")
    headers = {"authorization": f"Bearer {narrow['key']}", "accept": "text/event-stream"}
    url = site.stack.gateway + "/mcp/tools"
    with (
        httpx.stream("GET", url, headers=headers) as first,
        httpx.stream("GET", url, headers=headers) as second,
    ):
        pieces = [first.iter_bytes(), second.iter_bytes()]
        assert [next(each)[:6] for each in pieces] == [b": open"] * 2
        assert site.stack.event(first.headers[EVENT_ID])["price_source"] == "free"
        assert site.call("echo", narrow["key"]).status_code == 200
        assert site.tools.open_streams == 2
        active = {
            "cluster.tollkeeper.upstream_rq_active": 0,
            "http.gateway.downstream_rq_active": 2,
        }
        until(lambda: gauges(site.stack, *active) == active, what="no sidecar waits for a stream")
    until(lambda: site.tools.open_streams == 0, what="the server's streams are closed")


def test_a_batch_is_refused_in_its_own_shape(site: Site, key: str) -> None:
    """One HTTP call is one event, so several calls in one body are a bad request."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}
    before = len(site.tools.arrived)
    answer = site.post("/mcp/tools", [call, call], key)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["data"]["code"]) == (-32600, "malformed_request")
    assert len(site.tools.arrived) == before


def test_a_price_per_call_is_held_booked_and_refused(site: Site) -> None:
    """A tool with a price spends a money budget: three cents pay three calls, the fourth is 402 in
    JSON-RPC's shape, and what the server earned is payable.
    """
    stack = site.stack
    stack.json("tools", "price", "tools/*", "--per-call", "0.5usd")
    stack.json("tools", "price", "tools/echo", "--per-call", "0.01usd", "--why", "contract")
    issued = stack.issue("--max-spend", "0.03", team="payers")

    def priced() -> bool:
        return all(site.call("unknown", issued["key"]).status_code == 402 for _ in range(8))

    until(priced, what="every worker knows the price")
    paid = [site.call("echo", issued["key"]) for _ in range(3)]
    assert [answer.headers[COST] for answer in paid] == ["0.010000000"] * 3
    event = site.event(paid[0])
    assert (event["cost_nanos"], event["price_source"]) == (CENT, "per-call")
    assert event["hold_nanos"] == CENT
    refused = site.call("echo", issued["key"], "a-7")
    assert refused.status_code == 402
    body = refused.json()
    assert (body["jsonrpc"], body["id"], body["error"]["code"]) == ("2.0", "a-7", -32000)
    assert body["error"]["data"]["limit_source"] == "key"
    assert body["error"]["data"]["left"] == "0"
    event = site.event(refused)
    assert (event["outcome"], event["tool_name"]) == ("refused", "echo")
    payable = "SELECT sum(amount_nanos)::bigint AS owed FROM journal WHERE account = %s"
    assert stack.rows(payable, "payable:tools")[0]["owed"] == -3 * CENT
    spent = stack.json("spend", "--by", "tool_name", "--where", "team=payers")
    assert {row["tool_name"]: row["cost_nanos"] for row in spent["rows"]}["echo"] == 3 * CENT
    listed = {f"{row['server']}/{row['tool']}": row for row in stack.json("tools", "list")}
    assert listed["tools/echo"]["price_nanos"] == CENT
    assert listed["tools/streams"]["price_nanos"] == 50 * CENT
    table = stack.ledger("events", "--where", "team=payers").stdout
    assert "tools/echo" in table
    stack.json("tools", "price", "tools/*", "--per-call", "none")
    stack.json("tools", "price", "tools/echo", "--per-call", "none")
    assert stack.json("audit")["ok"]


async def _official(site: Site, key: str, tool: str, mode: Any) -> Any:
    url = site.stack.gateway + "/mcp/official"
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=20) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        listed = await client.list_tools()
        assert {each.name for each in listed.tools} == {"add", "breaks"}
        arguments = {"a": 2, "b": 3} if tool == "add" else {}
        return await client.call_tool(tool, arguments)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize(("tool", "outcome"), [("add", "ok"), ("breaks", "provider_error")])
def test_the_official_client_and_server_speak_through_the_gateway(
    site: Site, mode: str, tool: str, outcome: str
) -> None:
    """A whole session of either protocol generation works, and its tool call is metered."""
    issued = site.stack.issue()
    result = asyncio.run(_official(site, issued["key"], tool, mode))
    assert result.is_error == (outcome != "ok")
    [event] = site.stack.events_of(issued["key_id"], 1)
    assert (event["tool_name"], event["outcome"]) == (tool, outcome)
    assert (event["provider"], event["operation"]) == ("official", "tool_call")


def test_the_official_client_reads_a_refusal(site: Site) -> None:
    """What we refuse is an error with our sentence to it."""
    stack = site.stack
    stack.json("tools", "price", "official/add", "--per-call", "5usd")
    issued = stack.issue("--max-spend", "1")
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add"}}

    def priced() -> bool:
        answers = [site.post("/mcp/official", body, issued["key"]) for _ in range(8)]
        return all(answer.status_code == 402 for answer in answers)

    until(priced, what="every worker knows the price")
    with pytest.raises((MCPError, ExceptionGroup)) as caught:
        asyncio.run(_official(site, issued["key"], "add", "auto"))
    assert "more than the whole limit of this key" in str(_innermost(caught.value))


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@pytest.mark.parametrize(
    ("wish", "method", "outcome"),
    [
        ("hello", "message/send", "ok"),
        ("hello", "SendMessage", "ok"),
        ("input-required", "message/send", "ok"),
        ("failed", "message/send", "provider_error"),
        ("failed", "SendMessage", "provider_error"),
        ("rejected", "message/send", "provider_error"),
        ("error", "message/send", "provider_error"),
        ("hello", "message/stream", "ok"),
        ("failed", "message/stream", "provider_error"),
        ("cut", "message/stream", "provider_gone"),
    ],
)
def test_an_agent_call_ends_as_its_task_does(
    site: Site, key: str, wish: str, method: str, outcome: str
) -> None:
    """Both revisions of A2A over JSON-RPC, whole and streamed."""
    answer = site.send(wish, key, method)
    assert answer.status_code == 200
    event = site.event(answer)
    assert (event["operation"], event["target_agent"]) == ("agent_call", "coder")
    assert (event["outcome"], event["cost_nanos"]) == (outcome, 0)
    assert event["streamed"] == (method == "message/stream")
    assert event["provider_response_id"] == ("" if wish == "error" else "t-1")


@pytest.mark.parametrize("path", ["/v1/message:send", "/message:stream"])
def test_the_http_binding_of_an_agent_is_metered(site: Site, key: str, path: str) -> None:
    """Without an envelope, as 0.3 and 1.0 have it."""
    body = {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "completed"}]}}
    event = site.event(site.post("/a2a/coder" + path, body, key))
    assert (event["operation"], event["outcome"]) == ("agent_call", "ok")
    assert site.agent.arrived[-1].path == path


def test_an_agents_card_and_tasks_are_free(site: Site, key: str) -> None:
    """Nothing but a message gives an agent work."""
    headers = {"authorization": f"Bearer {key}"}
    url = site.stack.gateway + "/a2a/coder/.well-known/agent-card.json"
    card = httpx.get(url, headers=headers)
    assert card.json()["name"] == "agent"
    task = site.post("/a2a/coder", {"jsonrpc": "2.0", "id": 1, "method": "tasks/get"}, key)
    for each in (card, task):
        event = site.event(each)
        assert (event["operation"], event["price_source"]) == ("other", "free")


def test_an_agent_that_is_suspended_neither_calls_nor_is_called(site: Site) -> None:
    """Registered, priced, suspended, resumed, retired: each is in force within seconds."""
    stack = site.stack
    words = ("--team", "engineering", "--owner", "eve", "--purpose", "writes code")
    stack.json("agents", "register", "coder", *words, "--price-per-call", "0.02usd")
    stack.json("agents", "register", "scout2", *words)
    issued = stack.json(
        *("keys", "issue", "--owner", "ann", "--team", "risk", "--agent", "scout2"),
        *("--workload", "nightly"),
    )
    stack.until_known(issued["key"])
    answer = site.send("hello", issued["key"])
    assert (site.event(answer)["cost_nanos"], answer.headers[COST]) == (2 * CENT, "0.020000000")
    assert site.event(site.send("rejected", issued["key"]))["cost_nanos"] == 0

    def refused(code: str) -> httpx.Response:
        found: list[httpx.Response] = []

        def look() -> bool:
            found[:] = [site.send("hello", issued["key"]) for _ in range(8)]
            return all(each.status_code == 403 for each in found)

        until(look, what=f"every worker refuses with {code}")
        data = found[0].json()["error"]["data"]
        assert data["code"] == code
        return found[0]

    stack.json("agents", "suspend", "coder", "--why", "it writes nonsense")
    event = site.event(refused("agent_suspended"))
    assert (event["target_agent"], event["refusal"]) == ("coder", "agent_suspended")
    stack.json("agents", "resume", "coder")
    stack.json("agents", "retire", "scout2", "--why", "replaced")
    until(lambda: "scout2" in site.send("x", issued["key"]).text, what="scout2 is retired")
    refused("agent_retired")
    chat = httpx.post(
        stack.gateway + "/openai/v1/chat/completions",
        json={"model": "gpt-4o", "messages": [], "max_tokens": 5},
        headers={"authorization": f"Bearer {issued['key']}"},
    )
    assert (chat.status_code, chat.json()["error"]["code"]) == (403, "agent_retired")
    denied = stack.ledger(
        *("keys", "issue", "--owner", "ann", "--team", "risk", "--agent", "scout2"),
        *("--workload", "nightly"),
    )
    assert denied.returncode == 1
    assert "retired" in denied.stderr
    spent = stack.json("spend", "--by", "target_agent", "--where", "agent=scout2")
    assert {row["target_agent"]: row["cost_nanos"] for row in spent["rows"]}["coder"] == 2 * CENT
    shown = stack.json("agents", "show", "coder")
    assert shown["times_called"] >= 2
    assert [change["what"] for change in shown["changes"]] == [
        "resumed",
        "suspended",
        "registered",
    ]


@pytest.mark.parametrize("method", ["message/send", "message/stream"])
def test_an_agent_that_calls_another_takes_its_run_along(site: Site, method: str) -> None:
    """A calls B through the gateway; B calls a model with the token that came with its message: one
    run, whose root and B's parent are A.
    """
    stack = site.stack

    def key_of(agent: str, team: str) -> dict[str, Any]:
        labels = ("--owner", "ann", "--team", team, "--agent", agent, "--workload", "nightly")
        issued: dict[str, Any] = stack.json("keys", "issue", *labels)
        stack.until_known(issued["key"])
        return issued

    planner, coder = key_of("planner", "planning"), key_of("coder", "coding")
    answers: list[httpx.Response] = []

    def work(arrived: Arrived) -> str:
        token = arrived.headers["x-agent-chain"]
        assert f"x-agent-chain={token}" in arrived.headers["baggage"]
        answers.append(
            httpx.post(
                stack.gateway + "/openai/v1/chat/completions",
                json={"model": "gpt-4o", "messages": [], "max_tokens": 9},
                headers={"authorization": f"Bearer {coder['key']}", "x-agent-chain": token},
            )
        )
        return "done"

    site.agent.work = work
    try:
        forged = {"x_agent_chain": "forged", "baggage": "tenant=blue"}
        call = site.event(site.post("/a2a/coder", message("x", method), planner["key"], **forged))
    finally:
        site.agent.work = lambda arrived: "done"
    [answer] = answers
    assert answer.status_code == 200
    hop = site.event(answer)
    assert (call["operation"], call["target_agent"], call["depth"]) == ("agent_call", "coder", 0)
    assert call["chain_fault"] == "malformed"
    assert call["run_id"] == hop["run_id"]
    assert (hop["depth"], hop["chain_trust"]) == (1, "verified")
    assert (hop["root_key_id"], hop["parent_key_id"]) == (planner["key_id"],) * 2
    assert (hop["root_team"], hop["team"], hop["agent"]) == ("planning", "coding", "coder")
    assert stack.json("runs", "show", call["run_id"])["events"] == 2


def test_only_the_agent_that_is_called_may_continue_the_run(site: Site, key: str) -> None:
    """What the token says is for its audience: another key that steals it charges nobody else."""
    arrived = site.agent.arrived
    assert site.send("hello", key).status_code == 200
    token = arrived[-1].headers["x-agent-chain"]
    thief = site.stack.issue(team="thieves")
    answer = httpx.post(
        site.stack.gateway + "/openai/v1/chat/completions",
        json={"model": "gpt-4o", "messages": [], "max_tokens": 9},
        headers={"authorization": f"Bearer {thief['key']}", "x-agent-chain": token},
    )
    event = site.event(answer)
    assert (event["chain_trust"], event["root_team"], event["depth"]) == ("", "thieves", 0)
    assert event["chain_fault"]
    listing = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"id": "t-1"}}
    site.post("/a2a/coder", listing, key, x_agent_chain="forged", baggage="tenant=blue")
    assert "x-agent-chain" not in arrived[-1].headers
    assert "baggage" not in arrived[-1].headers
