"""OpenAI's formats: chat and legacy completions, embeddings, models. Knows no socket."""

import base64
import struct
from typing import Any, Final

from ledger.fake_provider.reply import SSE, Asked, Part, Reply, json_parts, sse
from ledger.fake_provider.speech import Tokens, pieces, words

MODELS: Final = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o3", "text-embedding-3-small")
_EMBEDDING: Final = (0.25, -0.5, 0.125, 1.0, -0.25, 0.5, -0.125, 0.75)
_MAX_VECTORS: Final = 2048
_FILTERED: Final[dict[str, Any]] = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
}


def usage(tokens: Tokens) -> dict[str, Any]:
    """The usage block of chat and legacy completions."""
    return {
        "prompt_tokens": tokens.input_tokens,
        "completion_tokens": tokens.output_tokens,
        "total_tokens": tokens.input_tokens + tokens.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": tokens.cache_read_tokens,
            "audio_tokens": tokens.audio_input_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning_tokens,
            "audio_tokens": tokens.audio_output_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def choices(asked: Asked) -> int:
    """How many choices the request asks for."""
    n = asked.body.get("n")
    return n if isinstance(n, int) and 1 <= n <= 128 else 1


def _finish(asked: Asked) -> str:
    wanted = asked.wishes.output_tokens * choices(asked)
    return "length" if asked.tokens.output_tokens < wanted else "stop"


def completions(asked: Asked) -> Reply:
    """Chat or legacy completions, whole or as a stream."""
    if asked.body.get("stream") is True:
        return _reply(asked, _stream(asked), SSE)
    chat = asked.operation == "chat"
    each = asked.tokens.output_tokens // choices(asked)
    text = "".join(words(each))
    made = []
    for index in range(choices(asked)):
        choice: dict[str, Any] = {"index": index}
        if chat:
            choice["message"] = {
                "role": "assistant",
                "content": text,
                "refusal": None,
                "annotations": [],
            }
        else:
            choice["text"] = text
        made.append({**choice, "logprobs": None, "finish_reason": _finish(asked)})
    document = {
        **_head(asked, "chat.completion" if chat else "text_completion"),
        "choices": made,
        "service_tier": "default",
        "system_fingerprint": "fp_fake",
    }
    if not asked.wishes.no_usage:
        document["usage"] = usage(asked.tokens)
    return _reply(asked, json_parts(document, asked.tokens.output_tokens))


def _stream(asked: Asked) -> list[Part]:
    chat = asked.operation == "chat"
    options = asked.body.get("stream_options")
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    head = _head(asked, "chat.completion.chunk" if chat else "text_completion")
    head = {**head, "service_tier": "default", "system_fingerprint": "fp_fake"}
    crlf = asked.wishes.crlf

    def chunk(index: int, said: str | None, finish: str | None = None, role: str = "") -> bytes:
        delta = {key: value for key, value in (("role", role), ("content", said)) if value}
        if role:
            delta = {**delta, "content": "", "refusal": None}  # type: ignore[dict-item]
        body = {"delta": delta} if chat else {"text": said or ""}
        choice = {"index": index, **body, "logprobs": None, "finish_reason": finish}
        return sse(
            {**head, "choices": [choice], **({"usage": None} if with_usage else {})}, crlf=crlf
        )

    n = choices(asked)
    parts = [Part(sse({**_FILTERED}, crlf=crlf), 0)] if asked.azure else []
    if chat:
        parts += [Part(chunk(i, None, role="assistant"), 0) for i in range(n)]
    for index in range(n):
        each = asked.tokens.output_tokens // n
        for text, said in pieces(each, asked.wishes.chunk_tokens):
            parts.append(Part(chunk(index, text), index * each + said))
    total = asked.tokens.output_tokens
    if asked.wishes.stream_error:
        fault = {"error": {"message": "The server had an error.", "type": "server_error"}}
        return [*parts[: len(parts) // 2], Part(sse(fault, crlf=crlf), total // 2)]
    parts += [Part(chunk(i, None, finish=_finish(asked)), total) for i in range(n)]
    if with_usage and not asked.wishes.no_usage:
        last = {**head, "choices": [], "usage": usage(asked.tokens)}
        parts.append(Part(sse(last, crlf=crlf), total))
    parts.append(Part(sse(b"[DONE]", crlf=crlf), total))
    return parts


def embeddings(asked: Asked) -> Reply:
    """One short vector for each input, as floats or as the SDK's base64."""
    inputs = asked.body.get("input")
    number = len(inputs) if isinstance(inputs, list) and inputs else 1
    vector: Any = list(_EMBEDDING)
    if asked.body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(_EMBEDDING)}f", *_EMBEDDING)).decode()
    document: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": vector}
            for i in range(min(number, _MAX_VECTORS))
        ],
        "model": asked.model,
    }
    if not asked.wishes.no_usage:
        tokens = asked.tokens.input_tokens
        document["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _reply(asked, json_parts(document, 0))


def models(created: int) -> Reply:
    """The list of models; free."""
    data = [
        {"id": name, "object": "model", "created": created, "owned_by": "fake"} for name in MODELS
    ]
    return Reply(parts=json_parts({"object": "list", "data": data}, 0))


def error(status: int, message: str, code: str | None = None) -> Reply:
    """An error in OpenAI's shape."""
    kind = {401: "authentication_error", 429: "rate_limit_exceeded", 404: "not_found_error"}.get(
        status, "server_error" if status >= 500 else "invalid_request_error"
    )
    document = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Reply(parts=json_parts(document, 0), status=status)


def _head(asked: Asked, kind: str) -> dict[str, Any]:
    return {
        "id": _id(asked),
        "object": kind,
        "created": asked.created,
        "model": asked.model,
    }


def _id(asked: Asked) -> str:
    prefix = {"chat": "chatcmpl-", "completions": "cmpl-"}.get(asked.operation, "")
    return prefix + asked.request_id if prefix else ""


def _reply(asked: Asked, parts: list[Part], content_type: bytes | None = None) -> Reply:
    return Reply(
        parts=parts,
        content_type=content_type or b"application/json",
        billed=asked.tokens,
        model=asked.model,
        response_id=_id(asked),
        operation=asked.operation,
        streamed=content_type is not None,
    )
