"""A2A over JSON-RPC and over HTTP with JSON, 0.3 and 1.0: which POST gives an agent work, and what
became of it. Knows no gateway and no agent.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from extproc.providers import jsonrpc
from extproc.providers.fields import label, mapping, parse, text
from extproc.providers.jsonrpc import Id
from extproc.providers.limits import limit_fields
from extproc.providers.paths import segments
from extproc.providers.shape import Answer, Asked, BadRequest, Stream
from extproc.refusal import Refusal

_SEND: Final = frozenset(("message/send", "SendMessage", "tasks/send"))
_STREAM: Final = frozenset(("message/stream", "SendStreamingMessage", "tasks/sendSubscribe"))
_REST: Final = {"message:send": False, "message:stream": True}
_NOTHING_ONCE: Final[frozenset[str]] = frozenset()
_OVER: Final = frozenset(
    ("completed", "failed", "canceled", "rejected", "input-required", "auth-required")
)
"""States in which the agent does no more for this message: the last ones, and those that wait for
its client.
"""
_FAILED: Final = frozenset(("failed", "rejected"))
_STATUSES: Final = {
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
_STATE_PREFIX: Final = "task-state-"


@dataclass(frozen=True, slots=True)
class A2a:
    """The API; `number` is the id of the request that was read, None before that. `rest`: the call
    came by the HTTP+JSON binding, whose answers have no envelope.
    """

    number: Id = None
    rest: bool = False

    def operation(self, method: str, path: str) -> str:
        """Any POST may give the agent work: an agent may answer JSON-RPC on every path."""
        return "agent_call" if method == "POST" else "other"

    def read_request(self, operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
        """Sending a message is the call; every other method is `other`."""
        request = jsonrpc.read(body, _NOTHING_ONCE)
        if isinstance(request, BadRequest):
            return replace(request, api=self)
        api = A2a(request.id)
        if request.method:
            streamed = request.method in _STREAM
            sends = streamed or request.method in _SEND
        else:
            end = "".join(segments(path)[-1:])
            sends, streamed = end in _REST, _REST.get(end, False)
            api = A2a(rest=True)
        operation = "agent_call" if sends else "other"
        return Asked(model="", streamed=streamed, operation=operation, api=api)

    def ask_for_usage(self, body: bytes) -> bytes:
        return body

    def state_maximum(self, operation: str, body: bytes, model: str, tokens: int) -> bytes:
        return body

    def read_answer(self, operation: str, body: bytes) -> Answer:
        """A whole answer ends the call in whatever state its task is: it may go on unwatched."""
        if not self.rest:
            return jsonrpc.read_answer(body, self.number, _take)
        value, answer = parse(body), Answer()
        _take(answer, mapping(value))
        answer.complete = value is not None
        return answer

    def stream(self, operation: str) -> Stream:
        return _RestStream() if self.rest else jsonrpc.AnswerStream(self.number, _take)

    def refuse(self, refusal: Refusal) -> bytes:
        return _status(refusal) if self.rest else jsonrpc.error(refusal, self.number)

    def refuse_stream(self, operation: str, refusal: Refusal, content_type: str = "") -> bytes:
        return b"data: %s\n\n" % self.refuse(refusal)


class _RestStream:
    """Events without an envelope."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer = Answer()

    def feed(self, event: bytes, data: bytes) -> bool:
        """Never true: nothing was asked for that the client did not."""
        if not self.answer.complete:
            _take(self.answer, mapping(parse(data)))
        return False


def _take(answer: Answer, result: dict[str, Any]) -> None:
    """A message is the whole answer; a task or a change of its status says how far the work is.

    0.3 names the kind of a result in `kind`, 1.0 by the one member that it has. An agent that
    rejects a task has not worked on it.
    """
    kind = text(result.get("kind"))
    if kind == "message" or "message" in result or "msg" in result:
        answer.complete = answer.performed = True
        return
    update = mapping(result.get("statusUpdate"))
    task = result if kind or "status" in result else mapping(result.get("task")) or update
    task_id = label(task.get("taskId")) or ("" if kind == "artifact-update" else task.get("id"))
    answer.response_id = label(task_id) or answer.response_id
    state = _state(mapping(task.get("status")).get("state"))
    if not state:
        return
    answer.performed = state != "rejected"
    answer.failed = state in _FAILED
    answer.complete = state in _OVER or task.get("final") is True


def _status(refusal: Refusal) -> bytes:
    """The error of the HTTP+JSON binding, a `google.rpc.Status`; our fields are its `metadata`."""
    limits = {
        name: str(value) for name, value in limit_fields(refusal).items() if value is not None
    }
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": refusal.code.upper(),
        "domain": "tollkeeper",
        "metadata": {"code": refusal.code, **limits},
    }
    error = {
        "code": refusal.status,
        "status": _STATUSES.get(refusal.status, "INVALID_ARGUMENT"),
        "message": refusal.message,
        "details": [info],
    }
    return orjson.dumps({"error": error})


def _state(value: object) -> str:
    """`TASK_STATE_INPUT_REQUIRED` of 1.0 and `input-required` of 0.3 are one state."""
    return text(value).lower().replace("_", "-").removeprefix(_STATE_PREFIX)
