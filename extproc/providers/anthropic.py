"""Anthropic's messages API, and the OpenAI shape it also speaks. Knows no gateway.

Anthropic's `input_tokens` leave out what the cache gave or took; ours hold all input.
"""

from typing import Any, Final

import orjson

from extproc.providers import openai, unmetered
from extproc.providers.body import ask_for_usage, read_object
from extproc.providers.fields import MOST_TOKENS, count, label, mapping, parse, sequence, text, utf8
from extproc.providers.limits import limit_fields
from extproc.providers.paths import segments
from extproc.providers.shape import Answer, Asked, BadRequest, Stream
from extproc.providers.weight import input_bytes
from extproc.refusal import Refusal
from ledger.event import Usage

__all__ = [
    "ask_for_usage",
    "operation",
    "read_answer",
    "read_request",
    "refuse",
    "refuse_stream",
    "state_maximum",
    "stream",
]

_NAMES: Final = frozenset(
    ("model", "messages", "system", "tools", "stream", "max_tokens", "service_tier", "mcp_servers")
)
_ERROR_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_INPUTS: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_WRITTEN: Final = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_IN_TOTAL: Final = ("message", "fallback_message")


def operation(method: str, path: str) -> str:
    """Only `.../messages` itself; counting tokens is free, and batches are billed when they end."""
    end = segments(path)[-3:]
    if method == "POST" and end[-1:] == ["messages"] and end[0] != "threads":
        return "messages"
    if method == "POST" and end[-2:] == ["messages", "batches"]:
        return "batches"
    found = openai.operation(method, path)
    return found if found == "chat" else "other"


def read_request(operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
    """What the request asks for, or one sentence on why it cannot be metered."""
    if operation != "messages":
        return openai.read_request(operation, body)
    read = read_object(body, _NAMES)
    if isinstance(read, BadRequest):
        return read
    request = read.fields
    model = label(request.get("model"))
    if not model:
        return BadRequest("`model` must be a string of 1 to 256 printable characters.")
    if type(request.get("stream")) not in (bool, type(None)):
        return BadRequest("`stream` must be true or false.")
    most = request.get("max_tokens")
    stated = count(most)
    if most is not None and stated is None:
        return BadRequest("`max_tokens` must be a whole number.")
    return Asked(
        model=model,
        streamed=bool(request.get("stream")),
        max_output_tokens=stated,
        input_bytes=input_bytes(request, read.size_bytes),
        service_tier=label(request.get("service_tier")),
    )


def read_answer(operation: str, body: bytes) -> Answer:
    """A whole answer of any status."""
    if operation != "messages":
        return openai.read_answer(operation, body)
    value = parse(body)
    answer = Answer(complete=value is not None or body.strip() == b"null")
    message = mapping(value)
    answer.failed = message.get("type") == "error" or bool(message.get("error"))
    counts = _Counts()
    counts.take(message.get("usage"))
    _take_head(answer, message)
    answer.usage = counts.usage()
    for block in sequence(message.get("content")):
        block = mapping(block)
        answer.output_bytes += _text_bytes(block)
        if block.get("type") in ("tool_use", "server_tool_use"):
            answer.output_bytes += len(orjson.dumps(block.get("input"), default=str))
    return answer


def stream(operation: str) -> Stream:
    """A reader for a streamed answer."""
    if operation == "messages":
        return MessagesStream()
    return openai.stream(operation) if operation == "chat" else unmetered.UnreadStream()


def state_maximum(operation: str, body: bytes, model: str, tokens: int) -> bytes:
    """As it is: this API answers no request without a maximum."""
    return body


def refuse_stream(operation: str, refusal: Refusal, content_type: str = "") -> bytes:
    """The `error` event that Anthropic sends when a stream breaks."""
    return b"event: error\ndata: %s\n\n" % refuse(refusal)


def refuse(refusal: Refusal) -> bytes:
    """Anthropic's error body; the SDK shows `details.error_code`, the other fields are ours."""
    kind = _ERROR_TYPES.get(refusal.status)
    if kind is None:
        kind = "api_error" if refusal.status >= 500 else "invalid_request_error"
    error: dict[str, Any] = {
        "type": kind,
        "message": refusal.message,
        "details": {"error_code": refusal.code},
        "code": refusal.code,
    }
    return orjson.dumps({"type": "error", "error": error | limit_fields(refusal)})


class MessagesStream:
    """Input counts come first, output at the end; each count replaces the one before."""

    __slots__ = ("_counts", "answer")

    def __init__(self) -> None:
        self.answer = Answer()
        self._counts = _Counts()

    def feed(self, event: bytes, data: bytes) -> bool:
        """Never true: this API reports usage unasked."""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return False
        if type(chunk) is not dict:
            return False
        answer = self.answer
        kind = chunk.get("type")
        if kind == "content_block_delta":
            answer.output_bytes += _text_bytes(mapping(chunk.get("delta")))
        elif kind == "content_block_start":
            answer.output_bytes += _text_bytes(mapping(chunk.get("content_block")))
        elif kind == "message_start":
            message = mapping(chunk.get("message"))
            self._take(message.get("usage"))
            _take_head(answer, message)
        elif kind == "message_delta":
            self._take(chunk.get("usage"))
            stopped = mapping(chunk.get("delta")).get("stop_reason") is not None
            answer.complete = answer.complete or (stopped and self._counts.output is not None)
        elif kind == "message_stop":
            answer.complete = True
        elif kind == "error":
            answer.complete = answer.failed = True
        return False

    def _take(self, block: object) -> None:
        self._counts.take(block)
        self.answer.usage = self._counts.usage()
        _take_tools(self.answer, block)
        self.answer.service_tier = (
            label(mapping(block).get("service_tier")) or self.answer.service_tier
        )


class _Counts:
    """The counts as last stated; a zero undoes no input, as some servers send it first or last."""

    __slots__ = ("_extra", "_inputs", "_written", "output", "thinking")

    def __init__(self) -> None:
        self.output: int | None = None
        self.thinking = 0
        self._inputs: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._extra = Usage()

    def take(self, block: object) -> None:
        if type(block) is not dict:
            return
        for name in _INPUTS:
            if number := count(block.get(name)):
                self._inputs[name] = number
            elif number == 0:
                self._inputs.setdefault(name, 0)
        split = mapping(block.get("cache_creation"))
        for name in _WRITTEN:
            if number := count(split.get(name)):
                self._written[name] = number
        number = count(block.get("output_tokens"))
        if number is not None:
            self.output = number
        details = mapping(block.get("output_tokens_details"))
        self.thinking = count(details.get("thinking_tokens")) or self.thinking
        iterations = sequence(block.get("iterations"))
        if iterations:
            self._extra = _outside_total(iterations)

    def usage(self) -> Usage | None:
        """None where neither input nor output was stated."""
        if not self._inputs and self.output is None:
            return None
        plain, read, written = (self._inputs.get(name, 0) for name in _INPUTS)
        short, long = (self._written.get(name, 0) for name in _WRITTEN)
        short = max(short, written - long)
        output = self.output or 0
        extra = self._extra
        return Usage(
            input_tokens=plain + read + short + long + extra.input_tokens,
            cache_read_tokens=read + extra.cache_read_tokens,
            cache_write_5m_tokens=short + extra.cache_write_5m_tokens,
            cache_write_1h_tokens=long + extra.cache_write_1h_tokens,
            output_tokens=output + extra.output_tokens,
            reasoning_tokens=min(self.thinking, output),
        )


def _outside_total(iterations: list[Any]) -> Usage:
    """Compaction and advisor turns: billed, but not in the counts of the message."""
    parts = []
    for iteration in iterations:
        if text(mapping(iteration).get("type")) not in ("", *_IN_TOTAL):
            counts = _Counts()
            counts.take({**iteration, "iterations": None})
            parts.append(counts.usage() or Usage())
    return Usage(
        *(
            min(MOST_TOKENS, sum(getattr(part, name) for part in parts))
            for name in Usage.__dataclass_fields__
        )
    )


def _take_head(answer: Answer, message: dict[str, Any]) -> None:
    answer.model = label(message.get("model")) or answer.model
    answer.response_id = label(message.get("id")) or answer.response_id
    tier = label(mapping(message.get("usage")).get("service_tier"))
    answer.service_tier = tier or answer.service_tier
    _take_tools(answer, message.get("usage"))


def _take_tools(answer: Answer, usage: object) -> None:
    """Searches cost a fee each; fetching costs tokens alone."""
    used = mapping(mapping(usage).get("server_tool_use"))
    answer.tools_ran = answer.tools_ran or bool(count(used.get("web_search_requests")))


def _text_bytes(block: dict[str, Any]) -> int:
    """Text, thinking and tool input in a block or a delta of one."""
    return sum(
        utf8(value)
        for key in ("text", "thinking", "partial_json", "name")
        if type(value := block.get(key)) is str
    )
