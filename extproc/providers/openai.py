"""OpenAI's API and every host that speaks it: requests and refusals. Knows no gateway."""

from typing import Any, Final

import orjson

from extproc.providers import openai_answer, openai_media, unmetered
from extproc.providers.body import append_member, ask_for_usage, read_object
from extproc.providers.fields import MOST_TOKENS, count, label
from extproc.providers.limits import limit_fields
from extproc.providers.openai_answer import ChatStream, ResponsesStream
from extproc.providers.paths import segments
from extproc.providers.shape import Answer, Asked, BadRequest, Stream
from extproc.providers.weight import input_bytes, prompts
from extproc.refusal import Refusal

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
    (
        "model",
        "messages",
        "prompt",
        "input",
        "tools",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "n",
        "best_of",
        "service_tier",
        "background",
        "previous_response_id",
    )
)
_MAXIMUM: Final = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
}
_OPERATIONS: Final = ("completions", "responses", "embeddings", "batches")
MOST_CHOICES: Final = 2**20
_ERROR_TYPES: Final = {402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}


def operation(method: str, path: str) -> str:
    """By the end of the path, as a base URL may hold any beginning of it, `/v1` or more."""
    if method != "POST":
        return "other"
    end = segments(path)[-2:]
    if end == ["chat", "completions"]:
        return "chat"
    if end == ["responses", "compact"]:
        return "responses"
    if end and end[-1] in _OPERATIONS:
        return end[-1]
    return openai_media.operation(end) or "other"


def read_request(operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
    """What the request asks for, or one sentence on why it cannot be metered."""
    asked = read_unnamed_request(operation, body, path)
    may_be_unnamed = operation in ("other", "batches", "images")
    if isinstance(asked, Asked) and not asked.model and not may_be_unnamed:
        return BadRequest("The request names no model; set `model`.")
    return asked


def read_unnamed_request(operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
    """As `read_request`, but the model may be absent: some hosts have it in the path."""
    if operation in ("other", "batches"):
        return unmetered.read_request(body)
    if operation in openai_media.OPERATIONS:
        return openai_media.read_request(operation, body, path)
    read = read_object(body, _NAMES)
    if isinstance(read, BadRequest):
        return read
    request = read.fields
    model = request.get("model")
    if model is not None and not label(model):
        return BadRequest("`model` must be a string of 1 to 256 printable characters.")
    wrong = _wrong_type(operation, request)
    if wrong:
        return BadRequest(wrong)
    streamed = bool(request.get("stream"))
    on_request = streamed and operation in ("chat", "completions")
    options = request.get("stream_options") or {}
    return Asked(
        model=label(model),
        streamed=streamed,
        max_output_tokens=_max_output_tokens(operation, request),
        choices=_choices(operation, request),
        input_bytes=input_bytes(request, read.size_bytes),
        usage_on_request=on_request and options.get("include_usage") is not True,
        service_tier=label(request.get("service_tier")),
        prompt_cache_key=label(request.get("prompt_cache_key")),
    )


def read_answer(operation: str, body: bytes) -> Answer:
    """A whole answer of any status."""
    if operation in openai_media.OPERATIONS:
        return openai_media.read_answer(operation, body)
    return openai_answer.read_answer(operation, body)


def stream(operation: str) -> Stream:
    """A reader for a streamed answer."""
    if operation in openai_media.OPERATIONS:
        return openai_media.MediaStream(operation)
    if operation in ("chat", "completions"):
        return ChatStream()
    return ResponsesStream() if operation == "responses" else unmetered.UnreadStream()


def state_maximum(operation: str, body: bytes, model: str, tokens: int) -> bytes:
    """The request with a maximum. A null may stand there already: the last member counts."""
    name = {"completions": b"max_tokens", "responses": b"max_output_tokens"}.get(
        operation, b"max_completion_tokens"
    )
    return append_member(body, b'"%s":%d' % (name, tokens))


def refuse_stream(operation: str, refusal: Refusal, content_type: str = "") -> bytes:
    """An error event as OpenAI sends it when a stream breaks; the SDKs raise on it."""
    error = orjson.loads(refuse(refusal))["error"]
    if operation == "responses":
        said = error | {"type": "error", "sequence_number": 0}
        return b"event: error\ndata: %s\n\n" % orjson.dumps(said)
    return b"data: %s\n\n" % orjson.dumps({"error": error})


def refuse(refusal: Refusal) -> bytes:
    """OpenAI's error body; the fields after `code` are ours."""
    kind = _ERROR_TYPES.get(refusal.status, "invalid_request_error")
    if refusal.status >= 500:
        kind = "server_error"
    elif refusal.status == 429 and not refusal.retryable:
        kind = "insufficient_quota"
    error: dict[str, Any] = {
        "message": refusal.message,
        "type": kind,
        "param": None,
        "code": refusal.code,
    }
    return orjson.dumps({"error": error | limit_fields(refusal)})


def _wrong_type(operation: str, request: dict[str, Any]) -> str | None:
    """A sentence on a field that decides the cost and that servers may read differently."""
    if type(request.get("stream")) not in (bool, type(None)):
        return "`stream` must be true or false."
    if type(request.get("stream_options")) not in (dict, type(None)):
        return "`stream_options` must be an object."
    for name in (*_MAXIMUM.get(operation, ()), "n", "best_of"):
        value: object = request.get(name)
        if value is not None and type(value) is not int and not _is_whole(value):
            return f"`{name}` must be a whole number."
    if operation == "responses" and request.get("background") and not request.get("stream"):
        return (
            "A background response is answered before its usage is known, so it cannot be metered; "
            "leave `background` out, or set `stream`."
        )
    return None


def _is_whole(value: object) -> bool:
    return type(value) is float and value.is_integer()


def _max_output_tokens(operation: str, request: dict[str, Any]) -> int | None:
    """The larger where two names are used; none where a host reads zero or less as no limit."""
    if operation == "embeddings":
        return 0
    stated = [request.get(name) or 0 for name in _MAXIMUM[operation]]
    most = max(stated)
    return min(int(most), MOST_TOKENS) if most > 0 else None


def _choices(operation: str, request: dict[str, Any]) -> int:
    if operation not in ("chat", "completions"):
        return 1
    each = count(request.get("n")) or 1
    if operation == "completions":
        each = max(each, count(request.get("best_of")) or 1) * prompts(request)
    return min(each, MOST_CHOICES)
