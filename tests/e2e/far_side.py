"""What is behind `/mcp/...` and `/a2a/...` in the tests: a server of tools and an agent that speak
the real formats and remember what reached them. Knows nothing of the gateway.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from ledger.embedded import free_port
from tests.e2e.processes import until

Json = dict[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass
class Arrived:
    """One request as it reached the far side."""

    method: str
    path: str
    headers: dict[str, str]
    body: Json


@dataclass
class Conversation:
    """One request, and the ways to answer it."""

    arrived: Arrived
    receive: Receive
    send: Send

    async def start(self, content_type: str, status: int = 200, **headers: str) -> None:
        named = {
            "content-type": content_type,
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in named.items()],
            }
        )

    async def write(self, data: bytes = b"", *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def event(self, message: Json) -> None:
        await self.write(b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n")

    async def json(self, message: Json, status: int = 200, **headers: str) -> None:
        await self.start(JSON, status, **headers)
        await self.write(json.dumps(message).encode(), more=False)

    async def client_gone(self) -> None:
        """Wait until whoever asked has gone."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def result(self, value: Json) -> Json:
        """A JSON-RPC response to this request."""
        return {"jsonrpc": "2.0", "id": self.arrived.body.get("id"), "result": value}

    def error(self, code: int, message: str) -> Json:
        said = {"code": code, "message": message}
        return {"jsonrpc": "2.0", "id": self.arrived.body.get("id"), "error": said}


@dataclass
class FarSide:
    """An ASGI app that answers by `answer` and remembers every request."""

    answer: Callable[[Conversation], Awaitable[None]]
    arrived: list[Arrived] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    open_streams: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        path = scope["raw_path"].decode()
        document = json.loads(body) if body else {}
        arrived = Arrived(scope["method"], path, headers, document)
        self.arrived.append(arrived)
        await self.answer(Conversation(arrived, receive, send))

    def last(self, method: str) -> Arrived:
        """The last request with this JSON-RPC method."""
        return next(r for r in reversed(self.arrived) if r.body.get("method") == method)


class ToolServer(FarSide):
    """An MCP server over streamable HTTP. Its tools are named after what they do."""

    def __init__(self) -> None:
        super().__init__(self._answer)

    async def _answer(self, talk: Conversation) -> None:
        request = talk.arrived
        if request.method == "GET":
            await self._own_messages(talk)
        elif request.method == "DELETE":
            await talk.json({})
        elif request.body.get("method") == "initialize":
            await talk.json(talk.result(_HELLO), mcp_session_id="s-1")
        elif request.body.get("method") == "tools/call":
            await self._call(talk, request.body["params"]["name"])
        elif "id" not in request.body:
            await talk.start(JSON, 202)
            await talk.write(more=False)
        else:
            await talk.json(talk.result({"tools": []}))

    async def _call(self, talk: Conversation, tool: str) -> None:
        said = {"content": [{"type": "text", "text": "four"}], "isError": tool == "fails"}
        if tool == "unknown":
            await talk.json(talk.error(-32602, "Unknown tool: unknown"))
        elif tool == "asks":
            await talk.json(talk.result({"resultType": "input_required", "inputRequests": {}}))
        elif tool in ("streams", "streams_fails", "cut", "hangs"):
            await self._stream(talk, tool, {**said, "isError": tool == "streams_fails"})
        else:
            await talk.json(talk.result(said))

    async def _stream(self, talk: Conversation, tool: str, said: Json) -> None:
        await talk.start(EVENTS, mcp_session_id="s-1")
        for step in (1, 2):
            params = {"progressToken": "p", "progress": step, "total": 2}
            await talk.event(
                {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
            )
            await asyncio.sleep(0.01)
        if tool == "hangs":
            await talk.client_gone()
            self.gone.set()
            return
        if tool != "cut":
            await talk.event({"jsonrpc": "2.0", "id": "of-the-server", "method": "ping"})
            await talk.event(talk.result(said))
        await talk.write(more=False)

    async def _own_messages(self, talk: Conversation) -> None:
        """A stream of the server's own messages, open until the client goes."""
        self.open_streams += 1
        await talk.start(EVENTS)
        await talk.write(b": open\n\n")
        await talk.client_gone()
        self.open_streams -= 1


class Agent(FarSide):
    """An A2A agent. `work` is done for each message, in a thread, and its text is the answer."""

    def __init__(self, work: Callable[[Arrived], str] = lambda arrived: "done") -> None:
        super().__init__(self._answer)
        self.work = work

    async def _answer(self, talk: Conversation) -> None:
        request = talk.arrived
        method = request.body.get("method", "")
        wish = _text_of(request.body)
        if request.method == "GET":
            await talk.json({"name": "agent", "protocolVersion": "0.3.0", "skills": []})
        elif request.path.endswith("message:send"):
            await talk.json({"task": _task_1(f"TASK_STATE_{wish.upper()}")})
        elif request.path.endswith("message:stream"):
            await talk.start(EVENTS)
            for state in ("TASK_STATE_WORKING", "TASK_STATE_COMPLETED"):
                await talk.event({"statusUpdate": {"taskId": "t-1", "status": {"state": state}}})
            await talk.write(more=False)
        elif method in ("message/send", "SendMessage"):
            await self._send(talk, method, wish)
        elif method == "message/stream":
            await self._stream(talk, wish)
        else:
            await talk.json(talk.result(_task("completed", "")))

    async def _send(self, talk: Conversation, method: str, wish: str) -> None:
        if wish == "error":
            await talk.json(talk.error(-32005, "Incompatible content types"))
            return
        done = await asyncio.to_thread(self.work, talk.arrived)
        state = wish if wish in ("failed", "rejected", "input-required") else "completed"
        if method == "SendMessage":
            await talk.json(talk.result({"task": _task_1("TASK_STATE_" + state.upper())}))
        else:
            await talk.json(talk.result(_task(state, done)))

    async def _stream(self, talk: Conversation, wish: str) -> None:
        await talk.start(EVENTS)
        await talk.event(talk.result(_task("submitted", "")))
        done = await asyncio.to_thread(self.work, talk.arrived)
        update = {"kind": "status-update", "taskId": "t-1", "contextId": "c-1"}
        working = {**update, "status": {"state": "working"}, "final": False}
        await talk.event(talk.result(working))
        artifact = {"artifactId": "a-1", "parts": [{"kind": "text", "text": done}]}
        event = {"kind": "artifact-update", "taskId": "t-1", "artifact": artifact}
        await talk.event(talk.result(event))
        if wish != "cut":
            state = "failed" if wish == "failed" else "completed"
            await talk.event(talk.result({**update, "status": {"state": state}, "final": True}))
        await talk.write(more=False)


_HELLO: Json = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "tools", "version": "1"},
}


def _task(state: str, text: str) -> Json:
    """A task as A2A 0.3 writes it."""
    artifact = {"artifactId": "a-1", "parts": [{"kind": "text", "text": text}]}
    status = {"state": state, "timestamp": "2026-11-24T07:00:00Z"}
    return {
        "kind": "task",
        "id": "t-1",
        "contextId": "c-1",
        "status": status,
        "artifacts": [artifact],
    }


def _task_1(state: str) -> Json:
    """A task as A2A 1.0 writes it."""
    return {"id": "t-1", "contextId": "c-1", "status": {"state": state}}


def _text_of(body: Json) -> str:
    message = body.get("params", body).get("message", {})
    return str(next((part.get("text", "") for part in message.get("parts", [])), ""))


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The base URL at which an ASGI app is served from a thread of this process."""
    port = free_port()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, what="the far side serves")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
