"""Gemini's API, and the OpenAI shape that Google also speaks. Knows no gateway.

Google's `promptTokenCount` contains what the cache gave, as ours does; thoughts stand beside the
output, ours contains them.
"""

from typing import Any, Final

import orjson

from extproc.providers import compatible, gemini_answer, gemini_request, openai, unmetered
from extproc.providers.body import ask_for_usage
from extproc.providers.limits import limit_fields
from extproc.providers.paths import segments
from extproc.providers.shape import Answer, Asked, BadRequest, Stream
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

_OPERATIONS: Final = {
    "generatecontent": "generate",
    "streamgeneratecontent": "generate",
    "embedcontent": "embeddings",
    "batchembedcontents": "embeddings",
}
_STATUSES: Final = {
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPE: Final = "type.googleapis.com/google.rpc."


def operation(method: str, path: str) -> str:
    """The method behind the last colon; counting is free, and batches are billed when they end.

    The same methods over gRPC and in a multipart batch would be paid for unread: they count as
    generating, for which they name no model, and so are refused.
    """
    if method != "POST":
        return "other"
    _, asked = gemini_request.named(path)
    if found := _OPERATIONS.get(asked):
        return found
    parts = segments(path)
    if parts and (parts[-1] in _OPERATIONS or parts[0] == "batch"):
        return "generate"
    found = openai.operation(method, path)
    return found if found in ("chat", "embeddings") else "other"


def read_request(operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
    """What the request asks for, or one sentence on why it cannot be metered."""
    if operation == "other":
        return unmetered.read_request(body)
    if operation == "generate" or gemini_request.named(path)[1]:
        return gemini_request.read_request(operation, body, path)
    asked = gemini_request.read_query(path)
    return asked if isinstance(asked, BadRequest) else openai.read_request(operation, body)


def read_answer(operation: str, body: bytes) -> Answer:
    """A whole answer of any status."""
    if operation == "generate":
        return gemini_answer.read_content(body)
    if operation == "embeddings":
        return gemini_answer.read_embeddings(body)
    return openai.read_answer(operation, body)


def stream(operation: str) -> Stream:
    """A reader for a streamed answer, whether it comes as events or as an array."""
    if operation == "generate":
        return gemini_answer.GenerateStream()
    return openai.stream(operation) if operation == "chat" else unmetered.UnreadStream()


def state_maximum(operation: str, body: bytes, model: str, tokens: int) -> bytes:
    """The request with a maximum, in place of a null or a zero that stands there already."""
    if operation == "generate":
        return gemini_request.state_maximum(body, tokens)
    return compatible.state_maximum(operation, body, model, tokens)


def refuse_stream(operation: str, refusal: Refusal, content_type: str = "") -> bytes:
    """The error in place of the next chunk: the last event, or the array's last element."""
    if operation == "chat":
        return openai.refuse_stream(operation, refusal, content_type)
    error = refuse(refusal)
    return b",\n%s\n]" % error if content_type == "application/json" else b"data: %s\n\n" % error


def refuse(refusal: Refusal) -> bytes:
    """Google's error body; the fields of ours are the `metadata` of its `ErrorInfo`, as strings."""
    status = _STATUSES.get(refusal.status)
    if status is None:
        status = "INTERNAL" if refusal.status >= 500 else "INVALID_ARGUMENT"
    limits = {
        name: str(value) for name, value in limit_fields(refusal).items() if value is not None
    }
    details: list[dict[str, Any]] = [
        {
            "@type": _TYPE + "ErrorInfo",
            "reason": refusal.code.upper(),
            "domain": "tollkeeper",
            "metadata": {"code": refusal.code, **limits},
        }
    ]
    if refusal.limit_source:
        violation = {"subject": refusal.limit, "description": refusal.message}
        details.append({"@type": _TYPE + "QuotaFailure", "violations": [violation]})
    if refusal.retry_after_s is not None:
        delay = f"{refusal.retry_after_s}s"
        details.append({"@type": _TYPE + "RetryInfo", "retryDelay": delay})
    error = {"code": refusal.status, "message": refusal.message, "status": status}
    return orjson.dumps({"error": {**error, "details": details}})
