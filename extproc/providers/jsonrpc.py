"""JSON-RPC 2.0 over HTTP as MCP and A2A speak it: requests, answers, refusals. Knows neither of
them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from extproc.providers.body import Written, members, read_object
from extproc.providers.fields import mapping, parse, text
from extproc.providers.limits import limit_fields
from extproc.providers.shape import Answer, BadRequest
from extproc.refusal import Refusal

_NAMES: Final = frozenset(("jsonrpc", "id", "method", "params"))
_INVALID_REQUEST: Final = -32600
_SERVER_ERROR: Final = -32000
"""The first of the codes that JSON-RPC leaves to servers; `data.code` says which refusal it is."""
_MOST_ID_CHARACTERS: Final = 256
_BATCH: Final = (
    "A JSON-RPC batch cannot be metered, and MCP has none since 2025-06-18; send each request in a "
    "call of its own."
)

Id = str | int | float | None
Take = Callable[[Answer, dict[str, Any]], None]
"""Takes a `result` into an answer: whether it is the last one, and whether the work was done."""


@dataclass(frozen=True, slots=True)
class Request:
    """One message from the client. An answer to the server's own request has no `method`."""

    id: Id
    method: str
    params: dict[str, Any]


def read(body: bytes, once: frozenset[str]) -> Request | BadRequest:
    """The one request in a body; the members `once` stand in its `params` once at most, lest the
    server reads another one than was metered.
    """
    if body.lstrip()[:1] == b"[":
        return BadRequest(_BATCH)
    read = read_object(body, _NAMES)
    if isinstance(read, BadRequest):
        return read
    fields = read.fields
    if type(fields.get("method")) not in (str, type(None)):
        return BadRequest("`method` must be a string.")
    if not read.compact and (wrong := _repeated(body, once)):
        return wrong
    number = fields.get("id")
    known = type(number) in (int, float) or (
        type(number) is str and len(number) <= _MOST_ID_CHARACTERS
    )
    return Request(
        number if known else None, text(fields.get("method")), mapping(fields.get("params"))
    )


def _repeated(body: bytes, once: frozenset[str]) -> BadRequest | None:
    """What is wrong with the names in `params`, if anything."""
    for member in members(body):
        if member.name == "params" and body[member.start : member.start + 1] == b"{":
            params: Written | BadRequest = read_object(body[member.start : member.end], once)
            return params if isinstance(params, BadRequest) else None
    return None


def error(refusal: Refusal, number: Id) -> bytes:
    """A refusal as JSON-RPC's error; `data` is ours."""
    said = {
        "code": _INVALID_REQUEST if refusal.status in (400, 413) else _SERVER_ERROR,
        "message": refusal.message,
        "data": {"code": refusal.code} | limit_fields(refusal),
    }
    return orjson.dumps({"jsonrpc": "2.0", "id": number, "error": said})


def read_answer(body: bytes, number: Id, take: Take) -> Answer:
    """A whole answer of any status."""
    message, answer = parse(body), Answer()
    _take_message(answer, message, number, take)
    answer.complete = message is not None or not body.lstrip().startswith(b"{")
    return answer


class AnswerStream:
    """A stream that ends with the response to one request; whatever else comes on it passes."""

    __slots__ = ("_number", "_take", "answer")

    def __init__(self, number: Id, take: Take) -> None:
        self.answer = Answer()
        self._number = number
        self._take = take

    def feed(self, event: bytes, data: bytes) -> bool:
        """Never true: nothing was asked for that the client did not."""
        if not self.answer.complete:
            _take_message(self.answer, parse(data), self._number, self._take)
        return False


def _take_message(answer: Answer, message: object, number: Id, take: Take) -> None:
    """Progress and the server's own requests have a `method`, and responses to others another id.
    An error whose request the server could not read has no id, and is ours: nobody else asked.
    """
    if type(message) is not dict or "method" in message:
        return
    its = message.get("id")
    if "error" in message and its in (number, None):
        answer.complete = answer.failed = True
        answer.performed = answer.performed or False
    elif "result" in message and its == number:
        take(answer, mapping(message["result"]))
