"""Calls of tools and agents through the exchange: what is held, what they cost, who is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.budget import Admitted
from extproc.events import CONTINUE, BodyMode, Continue, Respond
from extproc.exchange import Exchange, Reserve
from extproc.policy import Policy
from extproc.providers.a2a import A2a
from extproc.providers.mcp import Mcp
from extproc.providers.routing import Told
from extproc.refusal import Refusal
from ledger.event import MeteredEvent
from tests.extproc.builders import NOW_US, answer, answer_headers, ask, body, budget, policy

CENT = 10_000_000
TOOLS = Told(provider="tools", api="mcp", prefix="/mcp/tools")
CODER = Told(provider="coder", api="a2a", prefix="/a2a/coder")
CALL: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 7,
    "method": "tools/call",
    "params": {"name": "search", "arguments": {"q": "tolls"}},
}
SEND: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": "m",
    "method": "message/send",
    "params": {"message": {"role": "user", "messageId": "1", "parts": []}},
}
RESULT = {"jsonrpc": "2.0", "id": 7, "result": {"content": [], "isError": False}}


def rules(*budgets: Any, **documents: Any) -> Policy:
    """A policy with tools and agents beside its key, named as they are published."""
    made = policy(*budgets)
    for name, document in documents.items():
        kind, _, rest = name.partition("__")
        assert made.change(f"{kind}:{rest.replace('__', '/')}", document) == ""
    return made


def agent(name: str, status: str = "active", price: int | None = None) -> dict[str, Any]:
    """A published agent."""
    return {
        "name": name,
        "team": "engineering",
        "owner": "eve",
        "purpose": "writes code",
        "status": status,
        "price_nanos": price,
        "version": 9,
    }


def price(nanos: int) -> dict[str, Any]:
    return {"price_nanos": nanos, "version": 9}


def asked(what: Any = CALL, told: Told = TOOLS, made: Policy | None = None) -> tuple[Exchange, Any]:
    """An exchange that has read a request, and its answer to the body."""
    exchange = Exchange(made or rules(), "01981e8e-0000-7000-8000-000000000001", told)
    first = exchange.receive(ask(told.prefix), NOW_US)
    assert isinstance(first, Continue)
    assert first.request_body is BodyMode.BUFFERED
    text = what if isinstance(what, str | bytes) else json.dumps(what)
    return exchange, exchange.receive(body(text), NOW_US)


def event_of(exchange: Exchange) -> MeteredEvent:
    settlement = exchange.close(NOW_US + 5_000)
    assert settlement is not None
    return settlement.event


def finished(exchange: Exchange, result: Any = RESULT) -> MeteredEvent:
    """The event after a whole answer."""
    exchange.receive(Admitted(held=True), NOW_US)
    exchange.receive(answer_headers(), NOW_US)
    exchange.receive(answer(json.dumps(result)), NOW_US)
    assert exchange.done
    return event_of(exchange)


def test_a_tool_without_a_price_is_free_and_not_unpriced() -> None:
    """No money is held, and a spent money budget does not refuse it: nobody set a price."""
    exchange, action = asked(made=rules(budget(1)))
    assert isinstance(action, Reserve)
    assert action.plan.shares == ()
    event = finished(exchange)
    assert (event.operation, event.tool_name, event.provider) == ("tool_call", "search", "tools")
    assert (event.cost_nanos, event.price_source, event.usage_source) == (0, "none", "none")
    assert (event.outcome, event.model, event.latency_ms) == ("ok", "", 0)


def test_a_tools_price_is_held_exactly_and_charged() -> None:
    """One cent is held from the money budget and settled; tokens are not touched."""
    tokens = budget(10, budget_id="b2", unit="tokens")
    made = rules(budget(), tokens, tool__tools__search=price(CENT))
    exchange, action = asked(made=made)
    assert isinstance(action, Reserve)
    assert [(share.budget.unit, share.amount(0)) for share in action.plan.shares] == [("usd", CENT)]
    exchange.receive(Admitted(held=True), NOW_US)
    assert exchange.draft() is not None
    exchange.receive(answer_headers(), NOW_US)
    reply = exchange.receive(answer(json.dumps(RESULT)), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.set_headers == (("x-tollkeeper-cost-usd", b"0.010000000"),)
    settlement = exchange.close(NOW_US)
    assert settlement is not None
    assert settlement.counters[1] == CENT
    event = settlement.event
    assert (event.cost_nanos, event.hold_nanos, event.price_source) == (CENT, CENT, "per-call")


def test_a_tools_own_price_comes_before_its_servers() -> None:
    """`SERVER/*` is for what has no price of its own, and a price can be taken away again."""
    made = rules(tool__tools__search=price(CENT))
    assert made.change("tool:tools/*", price(5 * CENT)) == ""
    assert made.price_per_call("tool_call", "tools", "search") == CENT
    assert made.price_per_call("tool_call", "tools", "other") == 5 * CENT
    assert made.price_per_call("tool_call", "elsewhere", "search") is None
    made.change("tool:tools/search", {"price_nanos": None, "removed": True, "version": 10})
    assert made.price_per_call("tool_call", "tools", "search") == 5 * CENT
    made.change("tool:tools/search", price(0))
    assert made.price_per_call("tool_call", "tools", "search") == 0


@pytest.mark.parametrize(
    ("result", "outcome", "cost"),
    [
        ({"result": {"isError": True}}, "provider_error", CENT),
        ({"error": {"code": -32602, "message": "Unknown tool"}}, "provider_error", 0),
        ({"result": {"resultType": "input_required"}}, "ok", 0),
        ({"something": "else"}, "provider_error", CENT),
    ],
)
def test_the_price_is_due_unless_nothing_was_done(result: Any, outcome: str, cost: int) -> None:
    """A tool that ran and failed has run; one that is not there, or asks back, has not."""
    exchange, _ = asked(made=rules(tool__tools__search=price(CENT)))
    event = finished(exchange, {"jsonrpc": "2.0", "id": 7, **result})
    assert (event.outcome, event.cost_nanos) == (outcome, cost)


def test_an_http_error_costs_nothing() -> None:
    """The server did not take the call."""
    exchange, _ = asked(made=rules(tool__tools__search=price(CENT)))
    exchange.receive(Admitted(held=True), NOW_US)
    exchange.receive(answer_headers(status=503), NOW_US)
    exchange.receive(answer("{}"), NOW_US)
    event = event_of(exchange)
    assert (event.outcome, event.cost_nanos) == ("provider_error", 0)


def test_a_stream_whose_client_goes_is_charged() -> None:
    """The tool may have run; nobody has said that it did not."""
    exchange, _ = asked(made=rules(tool__tools__search=price(CENT)))
    exchange.receive(Admitted(held=True), NOW_US)
    exchange.receive(answer_headers("text/event-stream"), NOW_US)
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}
    chunk = answer(f"data: {json.dumps(progress)}\n\n", ended=False)
    assert exchange.receive(chunk, NOW_US) is CONTINUE
    assert not exchange.done
    event = event_of(exchange)
    assert (event.outcome, event.cost_nanos, event.streamed) == ("client_gone", CENT, True)
    assert (event.input_tokens, event.usage_source) == (0, "none")


def test_a_stream_ends_with_the_response_to_its_request() -> None:
    """The event is on record before the client sees the end."""
    exchange, _ = asked()
    exchange.receive(Admitted(held=True), NOW_US)
    exchange.receive(answer_headers("text/event-stream"), NOW_US)
    other = answer('data: {"jsonrpc":"2.0","id":8,"result":{}}\n\n', ended=False)
    own = answer(f"data: {json.dumps(RESULT)}\n\n", ended=False)
    done = []
    for chunk in (other, own):
        exchange.receive(chunk, NOW_US)
        done.append(exchange.done)
    assert done == [False, True]
    assert event_of(exchange).outcome == "ok"


def test_a_refusal_is_an_error_of_json_rpc_with_the_requests_id() -> None:
    """Whoever reads JSON-RPC can read it, and our fields are in `data`."""
    exchange, _ = asked(made=rules(budget(1), tool__tools__search=price(CENT)))
    verdict = Refusal(
        status=402,
        code="budget_spent",
        message="The budget is spent.",
        limit_source="budget",
        limit="risk-month",
        unit="usd",
        left=0,
    )
    reply = exchange.receive(verdict, NOW_US)
    assert isinstance(reply, Respond)
    assert reply.status == 402
    assert json.loads(reply.body) == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {
            "code": -32000,
            "message": "The budget is spent.",
            "data": {
                "code": "budget_spent",
                "limit_source": "budget",
                "limit": "risk-month",
                "unit": "usd",
                "left": "0",
                "resets_at": None,
            },
        },
    }
    event = event_of(exchange)
    assert (event.outcome, event.tool_name, event.cost_nanos) == ("refused", "search", 0)


def test_a_key_that_is_refused_before_its_body_gets_no_id() -> None:
    """The id is the request's where it is known."""
    exchange = Exchange(rules(), "e", TOOLS)
    reply = exchange.receive(ask("/mcp/tools", key=None), NOW_US)
    assert isinstance(reply, Respond)
    assert (reply.status, json.loads(reply.body)["id"]) == (401, None)


@pytest.mark.parametrize(
    "what",
    [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 4, "result": {"roots": []}},
    ],
)
def test_other_messages_pass_free_and_hold_no_money(what: Any) -> None:
    """Only rates count them; without any, the store is not asked."""
    exchange, action = asked(what, made=rules(budget(1), tool__tools__search=price(CENT)))
    assert action is CONTINUE
    exchange.receive(answer_headers(), NOW_US)
    assert exchange.done
    event = event_of(exchange)
    assert (event.operation, event.tool_name, event.outcome) == ("other", "", "ok")
    assert (event.cost_nanos, event.price_source) == (0, "free")
    exchange, action = asked(what, made=rules(budget(60, unit="calls", per="minute")))
    assert isinstance(action, Reserve)
    assert len(action.plan.shares) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (json.dumps([CALL, CALL]), "batch"),
        ("not json", "not valid JSON"),
        ('{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}', "more than once"),
        (
            '{"id":1,"method":"tools/call","params":{"name":"cheap", "name":"search"}}',
            "more than once",
        ),
        ('{"jsonrpc":"2.0","id":1,"method":["tools/call"]}', "must be a string"),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}', "`params.name`"),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\\u0000"}}', "name"),
    ],
)
def test_what_two_servers_could_read_differently_is_refused(text: str, says: str) -> None:
    """A tool that is called must be the tool that is metered."""
    exchange, reply = asked(text)
    assert isinstance(reply, Respond)
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["code"]) == (400, -32600)
    assert says in error["message"]
    assert event_of(exchange).outcome == "refused"


def test_streams_and_sessions_are_free_and_not_read() -> None:
    """GET and DELETE go on as they came, less our key, and their event is done at the headers."""
    for method in ("GET", "DELETE"):
        exchange = Exchange(rules(budget(1)), "e", TOOLS)
        first = exchange.receive(ask("/mcp/tools", method, ended=True), NOW_US)
        assert isinstance(first, Continue)
        assert (first.request_body, first.set_headers) == (None, ())
        exchange.receive(answer_headers("text/event-stream"), NOW_US)
        assert exchange.done
        assert event_of(exchange).price_source == "free"


def test_an_agent_call_costs_what_the_agent_is_registered_with() -> None:
    """Its price is held and charged, and the task's id joins our books with the agent's."""
    made = rules(budget(), agent__coder=agent("coder", price=2 * CENT))
    exchange, action = asked(SEND, CODER, made)
    assert isinstance(action, Reserve)
    assert action.plan.shares[0].amount(0) == 2 * CENT
    task = {"kind": "task", "id": "t-1", "status": {"state": "completed"}}
    event = finished(exchange, {"jsonrpc": "2.0", "id": "m", "result": task})
    assert (event.operation, event.target_agent, event.tool_name) == ("agent_call", "coder", "")
    assert (event.cost_nanos, event.provider_response_id) == (2 * CENT, "t-1")


@pytest.mark.parametrize("status", ["suspended", "retired"])
def test_an_agent_out_of_work_may_neither_call_nor_be_called(status: str) -> None:
    """Its keys are refused at the headers, calls of it when they are read, each in the API's own
    shape.
    """
    made = rules(agent__kyc=agent("kyc", status))
    exchange = Exchange(made, "e")
    reply = exchange.receive(ask(), NOW_US)
    assert isinstance(reply, Respond)
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (403, f"agent_{status}")
    event = event_of(exchange)
    assert (event.refusal, event.agent, event.team) == (f"agent_{status}", "kyc", "risk")
    exchange, reply = asked(SEND, CODER, rules(agent__coder=agent("coder", status)))
    assert isinstance(reply, Respond)
    error = json.loads(reply.body)
    assert (error["id"], error["error"]["data"]["code"]) == ("m", f"agent_{status}")
    assert event_of(exchange).target_agent == "coder"
    listing = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"id": "t-1"}}
    assert asked(listing, CODER, rules(agent__coder=agent("coder", status)))[1] is CONTINUE


def test_the_http_binding_of_an_agent_is_refused_in_its_own_shape() -> None:
    """A `google.rpc.Status`, with our code as its reason; a stream would end with the same."""
    made = rules(agent__coder=agent("coder", "suspended"))
    exchange = Exchange(made, "e", CODER)
    exchange.receive(ask("/a2a/coder/v1/message:send"), NOW_US)
    reply = exchange.receive(body(json.dumps({"message": {"parts": []}})), NOW_US)
    assert isinstance(reply, Respond)
    error = json.loads(reply.body)["error"]
    assert (error["code"], error["status"]) == (403, "PERMISSION_DENIED")
    assert error["details"][0]["reason"] == "AGENT_SUSPENDED"
    refusal = Refusal(status=402, code="budget_spent", message="Spent.")
    for api, shape in ((A2a(rest=True), "status"), (A2a("a"), "data"), (Mcp("a"), "data")):
        event = api.refuse_stream("agent_call", refusal)
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        assert shape in json.loads(event[6:])["error"]


def test_agents_come_and_go_with_the_directory() -> None:
    """A document that is none is a complaint and changes nothing; a snapshot replaces all."""
    made = rules(agent__kyc=agent("kyc", "suspended"))
    assert "ignored" in made.change("agent:kyc", {"name": "kyc"})
    assert "ignored" in made.change("tool:a/b", {"price_nanos": "1", "version": 3})
    assert made.agents["kyc"].status == "suspended"
    made.replace({}, 8)
    assert (made.agents, made.tools) == ({}, {})


@given(st.binary(max_size=300))
def test_any_body_is_answered(text: bytes) -> None:
    """Whatever is posted is let through, held or refused, and leaves one event."""
    for told in (TOOLS, CODER):
        exchange, action = asked(text, told)
        assert isinstance(action, Reserve | Respond | Continue)
        assert event_of(exchange).event_id
