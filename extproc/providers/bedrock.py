"""Amazon Bedrock: Converse, and InvokeModel in the bodies of each family of models. Knows no
gateway.

The model stands in the path, percent-encoded, as an id, an inference profile or an ARN. InvokeModel
takes the model's own body, so its operation is that body's: `messages` for Anthropic's,
`embeddings` for embeddings, `generate` for every other. Models that are not billed by tokens
(pictures, video, reranking) are not metered. The host also serves OpenAI's API.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from extproc.events import Headers
from extproc.eventstream import frame
from extproc.providers import openai
from extproc.providers.bedrock_answer import (
    ConverseStream,
    InvokeStream,
    counted,
    read_converse,
    read_invoke,
    short_name,
)
from extproc.providers.bedrock_weight import blocks_bytes, extra_bytes
from extproc.providers.body import Written, ask_for_usage, members, read_object, set_member
from extproc.providers.fields import MOST_TOKENS, count, label, mapping
from extproc.providers.limits import limit_fields
from extproc.providers.paths import segments
from extproc.providers.shape import Answer, Asked, BadRequest, Stream
from extproc.providers.weight import input_bytes
from extproc.refusal import Refusal

__all__ = [
    "ask_for_usage",
    "complete",
    "operation",
    "read_answer",
    "read_request",
    "refusal_headers",
    "refuse",
    "refuse_stream",
    "state_maximum",
    "stream",
    "unresolved",
]

EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
STAMP: Final = "tollkeeper_event_id"
"""The member of `requestMetadata`, which AWS writes to its invocation log, that is our event id."""

_CONVERSE: Final = ("converse", "converse-stream")
_INVOKE: Final = ("invoke", "invoke-with-response-stream")
_OPENAI: Final = ("chat", "responses")
_MOST_METADATA: Final = 16
_NOT_BY_TOKENS: Final = ("stability.", "titan-image", "nova-canvas", "nova-reel", "luma.", "rerank")
_NAMED_IN_ARN: Final = ("foundation-model", "inference-profile")
_ERRORS: Final = {
    400: "ValidationException",
    401: "AccessDeniedException",
    402: "ServiceQuotaExceededException",
    403: "AccessDeniedException",
    413: "ValidationException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}

_Path = tuple[str, ...]
_CONVERSE_MAXIMUM: Final[_Path] = ("inferenceConfig", "maxTokens")


@dataclass(frozen=True, slots=True)
class _Family:
    """Models whose ids hold `mark`: their operation, and where their bodies state a maximum; the
    first of `maxima` is set where none is stated.
    """

    mark: str
    maxima: tuple[_Path, ...] = (("max_tokens",),)
    operation: str = "generate"


_ANTHROPIC: Final = _Family("anthropic.", (("max_tokens",), ("max_tokens_to_sample",)), "messages")
_UNKNOWN: Final = _Family("", ())
_FAMILIES: Final = (
    _Family("embed", (), "embeddings"),
    _ANTHROPIC,
    _Family(
        "amazon.nova", (("inferenceConfig", "maxTokens"), ("inferenceConfig", "max_new_tokens"))
    ),
    _Family("amazon.titan-t", (("textGenerationConfig", "maxTokenCount"),)),
    _Family("meta.", (("max_gen_len",),)),
    _Family("openai.", (("max_completion_tokens",), ("max_tokens",))),
    _Family("ai21.j2", (("maxTokens",),)),
    *(
        _Family(vendor)
        for vendor in ("ai21.", "cohere.", "deepseek.", "google.", "minimax.", "mistral.")
    ),
    *(_Family(vendor) for vendor in ("moonshot", "nvidia.", "qwen.", "writer.", "zai.")),
)
_EVERY_MAXIMUM: Final = tuple({path for family in _FAMILIES for path in family.maxima})
_NESTED: Final = frozenset(path[0] for path in _EVERY_MAXIMUM if len(path) > 1)
_NAMES: Final = _NESTED | {
    *(path[0] for path in _EVERY_MAXIMUM),
    *("messages", "system", "prompt", "inputText", "additionalModelRequestFields", "serviceTier"),
    *("requestMetadata", "toolConfig", "tools", "n", "num_generations", "anthropic_version"),
}


def operation(method: str, path: str) -> str:
    """By the end of the path: `/model/{id}/{action}`, and OpenAI's under `/openai/v1`."""
    parts = segments(path)
    if method != "POST" or not parts:
        return "other"
    if "model" not in parts[:-2]:
        found = openai.operation(method, path)
        return found if found in _OPENAI else "other"
    if parts[-1] in _CONVERSE:
        return "converse"
    if parts[-1] not in _INVOKE:
        return "other"
    model = _model_in(parts)
    if any(mark in model for mark in _NOT_BY_TOKENS):
        return "other"
    return _family(model).operation


def unresolved(path: str) -> str:
    """The ARN in the path that does not say its model: an application's inference profile, a
    provisioned or custom model, a prompt. Empty where the path names the model.
    """
    model = _model_in(segments(path))
    return model if model.startswith("arn:") else ""


def read_request(operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
    """What the request asks for, or one sentence on why it cannot be metered."""
    if operation in _OPENAI:
        return openai.read_request(operation, body)
    parts = segments(path)
    model = label(_model_in(parts))
    if not model:
        return BadRequest("The path must name a model: /model/{modelId}/converse.")
    read = read_object(body, _NAMES)
    if isinstance(read, BadRequest):
        return read
    if wrong := _repeated(body, read):
        return BadRequest(wrong)
    streamed = parts[-1].endswith("stream")
    asked = _converse if operation == "converse" else _invoke
    return asked(model, read, streamed)


def read_answer(operation: str, body: bytes) -> Answer:
    """A whole answer of any status."""
    if operation in _OPENAI:
        return openai.read_answer(operation, body)
    return read_converse(body) if operation == "converse" else read_invoke(operation, body)


def stream(operation: str) -> Stream:
    """A reader for a streamed answer."""
    if operation in _OPENAI:
        return openai.stream(operation)
    return ConverseStream() if operation == "converse" else InvokeStream(operation)


def complete(answer: Answer, model: str, headers: Headers) -> None:
    """Add what only the request and the answer's headers say: AWS's own id of the call, by which
    its logs are joined, tokens where the body has none, and the id of the model as it is priced.
    """
    answer.response_id = _said(headers, "x-amzn-requestid") or answer.response_id
    if answer.usage is None:
        answer.usage = counted(headers)
    answer.service_tier = answer.service_tier or _said(headers, "x-amzn-bedrock-service-tier")
    if answer.model and model and not model.startswith("arn:"):
        answer.model = model


def state_maximum(operation: str, body: bytes, model: str, tokens: int) -> bytes:
    """The request with a maximum, where its family of models has one."""
    if operation in _OPENAI:
        return openai.state_maximum(operation, body, model, tokens)
    maxima = (_CONVERSE_MAXIMUM,) if operation == "converse" else _family(model).maxima
    return set_member(body, maxima[0], b"%d" % tokens) if maxima else body


def refuse_stream(operation: str, refusal: Refusal, content_type: str = "") -> bytes:
    """The exception that ends a stream. It is one of those that the API documents for streams: of
    any other botocore loses name and message.
    """
    if content_type != EVENT_STREAM:
        return openai.refuse_stream(operation, refusal, content_type)
    server = "serviceUnavailableException" if refusal.status >= 500 else "validationException"
    headers = {
        ":exception-type": "throttlingException" if refusal.status in (402, 429) else server,
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    return frame(headers, refuse(refusal))


def refuse(refusal: Refusal) -> bytes:
    """Bedrock's error body; the fields after `message` are ours."""
    return orjson.dumps({"message": refusal.message, "code": refusal.code} | limit_fields(refusal))


def refusal_headers(refusal: Refusal) -> tuple[tuple[str, bytes], ...]:
    """The name of the error, which AWS's SDKs read from a header.

    They retry a `ThrottlingException`, any 5xx, and a 429 whose name Converse does not document,
    such as that of a quota. So a 429 that no retry can help says that access is denied, as an
    action of AWS Budgets does. (botocore's `legacy` mode retries every 429, whatever it says.)
    """
    return (("x-amzn-errortype", _error(refusal).encode()),)


def _error(refusal: Refusal) -> str:
    if refusal.status == 429 and not refusal.retryable:
        return "AccessDeniedException"
    server = "InternalServerException" if refusal.status >= 500 else "ValidationException"
    return _ERRORS.get(refusal.status, server)


def _said(headers: Headers, name: str) -> str:
    return label(headers.get(name, b"").decode("latin-1"))


def _model_in(parts: list[str]) -> str:
    """The model's id; an ARN where it hides the id."""
    if "model" not in parts[:-2]:
        return ""
    model = "/".join(parts[parts.index("model") + 1 : -1])
    if model.startswith("arn:") and model.partition("/")[0].rpartition(":")[2] in _NAMED_IN_ARN:
        return short_name(model)
    return model


def _family(model: str) -> _Family:
    if model.startswith("arn:"):
        return _UNKNOWN
    return next((family for family in _FAMILIES if family.mark in model), _UNKNOWN)


def _repeated(body: bytes, read: Written) -> str | None:
    """A sentence on a maximum that stands twice, of which servers may take either."""
    inside = _NESTED | {"additionalModelRequestFields"}
    if read.compact or inside.isdisjoint(read.fields):
        return None
    for name, start, end in members(body):
        if name in inside and body[start : start + 1] == b"{":
            names = [member.name for member in members(body[start:end])]
            if None in names or len(set(names)) < len(names):
                return f"The request body has a member of `{name}` more than once; send it once."
    return None


def _converse(model: str, read: Written, streamed: bool) -> Asked | BadRequest:
    request = read.fields
    more = mapping(request.get("additionalModelRequestFields"))
    stated = _stated(request, (_CONVERSE_MAXIMUM,))
    beside = _stated(more, _EVERY_MAXIMUM)
    for found in (stated, beside):
        if isinstance(found, BadRequest):
            return found
    metadata = request.get("requestMetadata")
    room = metadata is None or (type(metadata) is dict and len(metadata) < _MOST_METADATA)
    return Asked(
        model=model,
        streamed=streamed,
        max_output_tokens=_larger(stated, beside),
        input_bytes=blocks_bytes(request, read.size_bytes) + extra_bytes(request, model),
        service_tier=label(mapping(request.get("serviceTier")).get("type")),
        stamp=_stamp if room and STAMP not in mapping(metadata) else None,
    )


def _invoke(model: str, read: Written, streamed: bool) -> Asked | BadRequest:
    request = read.fields
    family = _family(model)
    if family is _UNKNOWN and "anthropic_version" in request:
        family = _ANTHROPIC
    if family.operation == "embeddings":
        stated: int | BadRequest | None = 0
    else:
        stated = _stated(request, family.maxima)
    if isinstance(stated, BadRequest):
        return stated
    size = read.size_bytes
    if family.mark == "amazon.nova":
        size = blocks_bytes(request, size)
    else:
        size = input_bytes(request, size)
    each = count(request.get("num_generations")) or count(request.get("n")) or 1
    return Asked(
        model=model,
        operation=family.operation,
        streamed=streamed,
        max_output_tokens=stated,
        choices=min(each, openai.MOST_CHOICES),
        input_bytes=size + extra_bytes(request, model),
        fixed=not family.maxima,
    )


def _stated(request: dict[str, Any], paths: tuple[_Path, ...]) -> int | BadRequest | None:
    """The largest of the maxima at these paths; None where none is stated."""
    most: int | None = None
    for path in paths:
        holder: object = request
        for name in path[:-1]:
            holder = mapping(holder).get(name)
            if holder is not None and type(holder) is not dict:
                return BadRequest(f"`{name}` must be an object.")
        value = mapping(holder).get(path[-1])
        if value is None:
            continue
        tokens = count(value)
        if tokens is None:
            return BadRequest(f"`{'.'.join(path)}` must be a whole number.")
        most = max(tokens, most or 0)
    return min(most, MOST_TOKENS) if most is not None else None


def _larger(one: int | BadRequest | None, other: int | BadRequest | None) -> int | None:
    stated = [each for each in (one, other) if isinstance(each, int)]
    return max(stated, default=None)


def _stamp(body: bytes, event_id: str) -> bytes:
    return set_member(body, ("requestMetadata", STAMP), b'"%s"' % event_id.encode())
