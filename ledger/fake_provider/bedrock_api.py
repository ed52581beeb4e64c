"""Bedrock's formats: Converse and InvokeModel, whole and in binary frames. Knows no socket."""

import base64
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import orjson

from ledger.fake_provider import anthropic_api
from ledger.fake_provider.reply import Asked, Part, Reply, json_parts
from ledger.fake_provider.speech import pieces, words

EVENT_STREAM: Final = b"application/vnd.amazon.eventstream"
OPERATIONS: Final = ("converse", "converse-stream", "invoke", "invoke-with-response-stream")

_PATH: Final = re.compile(r"/model/(.+)/([a-z-]+)\Z")
_METRICS: Final = "amazon-bedrock-invocationMetrics"
_PADDING: Final = "abcdefghijklmnopqrstuvwxyz"
_VECTOR: Final = (0.0625, -0.125, 0.25)
_MAXIMA: Final = (
    (("converse",), ("inferenceConfig", "maxTokens")),
    (("amazon.nova",), ("inferenceConfig", "maxTokens")),
    (("amazon.titan",), ("textGenerationConfig", "maxTokenCount")),
    (("meta.",), ("max_gen_len",)),
)
_ERRORS: Final = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


def is_bedrock(path: str) -> bool:
    """Whether a path is one of Bedrock's runtime."""
    return _PATH.search(path) is not None


def model_in(path: str) -> str:
    """The model that a path names; the id at the end of an ARN."""
    found = _PATH.search(path)
    return found[1].rpartition("/")[2] if found else ""


def maximum(operation: str, model: str, body: dict[str, Any]) -> int | None:
    """The maximum that a request states, where its API or its model's family has it."""
    if "embed" in model:
        return 0
    converse = operation.startswith("converse")
    name = "converse" if converse else model
    marks = (path for marks, path in _MAXIMA if any(mark in name for mark in marks))
    value: Any = body
    for part in next(marks, ("max_tokens",)):
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, int) and value >= 0 else None


def answer(asked: Asked) -> Reply:
    """The answer to any of the four calls."""
    streamed = asked.operation.endswith("stream")
    converse = asked.operation.startswith("converse")
    if converse:
        parts = _converse_stream(asked) if streamed else _converse(asked)
    else:
        parts = _invoke_stream(asked) if streamed else _invoke(asked)
    headers = [(b"x-amzn-requestid", asked.request_id.encode())]
    if not converse and not streamed and not asked.wishes.no_usage:
        headers += _counted(asked)
    if metadata := asked.body.get("requestMetadata"):
        headers.append((b"x-fake-request-metadata", orjson.dumps(metadata)))
    return Reply(
        parts=parts,
        content_type=EVENT_STREAM if streamed else b"application/json",
        billed=asked.tokens,
        model=asked.model,
        response_id=asked.request_id,
        operation="converse" if converse else "invoke",
        streamed=streamed,
        headers=headers,
    )


def error(status: int, message: str) -> Reply:
    """An error in Bedrock's shape."""
    kind = _ERRORS.get(status, "InternalServerException" if status >= 500 else _ERRORS[400])
    reply = Reply(parts=json_parts({"message": message}, 0), status=status)
    reply.headers.append((b"x-amzn-errortype", kind.encode()))
    return reply


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message of AWS's binary stream: lengths, their checksum, headers, payload, checksum."""
    coded = bytearray()
    for name, value in headers.items():
        coded += struct.pack(">B", len(name)) + name.encode()
        coded += struct.pack(">BH", 7, len(value)) + value.encode()
    message = bytearray(struct.pack(">II", 16 + len(coded) + len(payload), len(coded)))
    message += struct.pack(">I", zlib.crc32(message)) + coded + payload
    return bytes(message + struct.pack(">I", zlib.crc32(message)))


def _event(kind: str, document: dict[str, Any]) -> bytes:
    padded = {**document, "p": _PADDING[: 1 + len(kind) % 20]}
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, orjson.dumps(padded))


def _exception(asked: Asked) -> Part:
    headers = {
        ":exception-type": "modelStreamErrorException",
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    fault = {"message": "The model stopped.", "originalStatusCode": 500}
    return Part(frame(headers, orjson.dumps(fault)), asked.tokens.output_tokens // 2)


def _usage(asked: Asked) -> dict[str, Any]:
    tokens = asked.tokens
    written = tokens.cache_write_5m_tokens + tokens.cache_write_1h_tokens
    usage: dict[str, Any] = {
        "inputTokens": tokens.input_tokens - tokens.cache_read_tokens - written,
        "outputTokens": tokens.output_tokens,
        "totalTokens": tokens.input_tokens + tokens.output_tokens,
        "cacheReadInputTokens": tokens.cache_read_tokens,
        "cacheWriteInputTokens": written,
    }
    if written:
        usage["cacheDetails"] = [
            {"inputTokens": tokens.cache_write_5m_tokens, "ttl": "5m"},
            {"inputTokens": tokens.cache_write_1h_tokens, "ttl": "1h"},
        ]
    return usage


def _counted(asked: Asked) -> list[tuple[bytes, bytes]]:
    usage = _usage(asked)
    return [
        (b"x-amzn-bedrock-input-token-count", str(usage["inputTokens"]).encode()),
        (b"x-amzn-bedrock-output-token-count", str(usage["outputTokens"]).encode()),
    ]


def _stop(asked: Asked) -> str:
    return "max_tokens" if asked.tokens.output_tokens < asked.wishes.output_tokens else "end_turn"


def _message(asked: Asked) -> dict[str, Any]:
    text = "".join(words(asked.tokens.output_tokens))
    return {"message": {"role": "assistant", "content": [{"text": text}]}}


def _spoken(asked: Asked) -> list[tuple[str, int]]:
    spoken = pieces(asked.tokens.output_tokens, asked.wishes.chunk_tokens)
    return spoken[: len(spoken) // 2] if asked.wishes.stream_error else spoken


def _converse(asked: Asked) -> list[Part]:
    document: dict[str, Any] = {
        "metrics": {"latencyMs": 12},
        "output": _message(asked),
        "stopReason": _stop(asked),
    }
    if not asked.wishes.no_usage:
        document["usage"] = _usage(asked)
    return json_parts(document, asked.tokens.output_tokens)


def _converse_stream(asked: Asked) -> list[Part]:
    total = asked.tokens.output_tokens
    parts = [Part(_event("messageStart", {"role": "assistant"}), 0)]
    for text, said in _spoken(asked):
        delta = {"contentBlockIndex": 0, "delta": {"text": text}}
        parts.append(Part(_event("contentBlockDelta", delta), said))
    if asked.wishes.stream_error:
        return [*parts, _exception(asked)]
    parts.append(Part(_event("contentBlockStop", {"contentBlockIndex": 0}), total))
    parts.append(Part(_event("messageStop", {"stopReason": _stop(asked)}), total))
    if not asked.wishes.no_usage:
        metadata = {"metrics": {"latencyMs": 12}, "usage": _usage(asked)}
        parts.append(Part(_event("metadata", metadata), total))
    return parts


def _invoke(asked: Asked) -> list[Part]:
    if "anthropic." in asked.model:
        return anthropic_api.messages(_plain(asked)).parts
    if "embed" in asked.model:
        return json_parts(_embedding(asked), 0)
    total = asked.tokens.output_tokens
    document = _chunk(asked, "".join(words(total)), total, last=True)
    if "amazon.titan" in asked.model:
        result = {"tokenCount": total, "outputText": document["outputText"]}
        result["completionReason"] = "FINISH"
        document = {"results": [result], "inputTextTokenCount": asked.tokens.input_tokens}
    elif "amazon.nova" in asked.model:
        document = {"output": _message(asked), "stopReason": _stop(asked), "usage": _usage(asked)}
    if asked.wishes.no_usage:
        names = ("usage", "inputTextTokenCount", "prompt_token_count", "generation_token_count")
        document = {name: value for name, value in document.items() if name not in names}
    return json_parts(document, total)


def _embedding(asked: Asked) -> dict[str, Any]:
    if "cohere." in asked.model:
        return {"id": asked.request_id, "embeddings": [_VECTOR], "texts": asked.body.get("texts")}
    return {"embedding": _VECTOR, "inputTextTokenCount": asked.tokens.input_tokens}


def _invoke_stream(asked: Asked) -> list[Part]:
    total = asked.tokens.output_tokens
    parts = [Part(_coded(chunk), said) for chunk, said in _chunks(asked)]
    if asked.wishes.stream_error:
        return [*parts, _exception(asked)]
    if not asked.wishes.no_usage:
        usage = _usage(asked)
        metrics = {
            "inputTokenCount": usage["inputTokens"],
            "outputTokenCount": usage["outputTokens"],
            "invocationLatency": 12,
            "firstByteLatency": 5,
        }
        (last, _), *_rest = reversed(list(_chunks(asked)))
        parts[-1] = Part(_coded({**last, _METRICS: metrics}), total)
    return parts


def _chunks(asked: Asked) -> Iterator[tuple[dict[str, Any], int]]:
    """The model's own chunks, each with what had been said by then."""
    if "anthropic." in asked.model:
        plain = _plain(asked)
        events = anthropic_api.messages(replace(plain, body={**plain.body, "stream": True})).parts
        for part in events[: -1 if asked.wishes.stream_error else None]:
            yield orjson.loads(part.data.partition(b"data: ")[2]), part.said
        return
    spoken = _spoken(asked)
    for number, (text, said) in enumerate(spoken):
        yield _chunk(asked, text, said, last=number == len(spoken) - 1), said
    if "amazon.nova" in asked.model and not asked.wishes.stream_error:
        yield {"metadata": {"usage": _usage(asked)}}, asked.tokens.output_tokens


def _chunk(asked: Asked, text: str, said: int, *, last: bool) -> dict[str, Any]:
    stop = "stop" if last else None
    if "amazon.titan" in asked.model:
        return {
            "outputText": text,
            "index": 0,
            "totalOutputTextTokenCount": said if last else None,
            "completionReason": "FINISH" if last else None,
            "inputTextTokenCount": asked.tokens.input_tokens,
        }
    if "amazon.nova" in asked.model:
        return {"contentBlockDelta": {"delta": {"text": text}, "contentBlockIndex": 0}}
    if "meta." in asked.model:
        return {
            "generation": text,
            "prompt_token_count": asked.tokens.input_tokens,
            "generation_token_count": said,
            "stop_reason": stop,
        }
    return {"outputs": [{"text": text, "stop_reason": stop}]}


def _coded(chunk: dict[str, Any]) -> bytes:
    return _event("chunk", {"bytes": base64.b64encode(orjson.dumps(chunk)).decode()})


def _plain(asked: Asked) -> Asked:
    """As Anthropic is asked behind Bedrock: its own name for the model, nothing of the path's."""
    name = re.sub(r"\A.*anthropic\.|-v\d+(:\d+)?\Z", "", asked.model)
    return replace(asked, operation="messages", wishes=replace(asked.wishes, model=name))
