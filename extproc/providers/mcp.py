"""MCP over streamable HTTP: which POST calls a tool, and how the call ended. Knows no gateway and
no server.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from extproc.providers import jsonrpc
from extproc.providers.fields import label
from extproc.providers.jsonrpc import Id
from extproc.providers.shape import Answer, Asked, BadRequest, Stream
from extproc.refusal import Refusal

_ONCE: Final = frozenset(("name",))


@dataclass(frozen=True, slots=True)
class Mcp:
    """The API; `number` is the id of the request that was read, None before that."""

    number: Id = None

    def operation(self, method: str, path: str) -> str:
        """Any POST may call a tool, whatever its path: its body says so."""
        return "tool_call" if method == "POST" else "other"

    def read_request(self, operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
        """`tools/call` and its tool; every other message is `other`."""
        request = jsonrpc.read(body, _ONCE)
        if isinstance(request, BadRequest):
            return replace(request, api=self)
        api = Mcp(request.id)
        if request.method != "tools/call":
            return Asked(model="", operation="other", api=api)
        name = label(request.params.get("name"))
        if not name:
            says = "`params.name` must be a string of 1 to 256 printable characters."
            return BadRequest(says, api)
        return Asked(model="", operation="tool_call", tool_name=name, api=api)

    def ask_for_usage(self, body: bytes) -> bytes:
        return body

    def state_maximum(self, operation: str, body: bytes, model: str, tokens: int) -> bytes:
        return body

    def read_answer(self, operation: str, body: bytes) -> Answer:
        return jsonrpc.read_answer(body, self.number, _take)

    def stream(self, operation: str) -> Stream:
        return jsonrpc.AnswerStream(self.number, _take)

    def refuse(self, refusal: Refusal) -> bytes:
        return jsonrpc.error(refusal, self.number)

    def refuse_stream(self, operation: str, refusal: Refusal, content_type: str = "") -> bytes:
        return b"data: %s\n\n" % self.refuse(refusal)


def _take(answer: Answer, result: dict[str, Any]) -> None:
    """A tool that asks back has not done its work: its client calls again, and that call counts."""
    answer.complete = True
    answer.failed = result.get("isError") is True
    answer.performed = result.get("resultType") != "input_required"
