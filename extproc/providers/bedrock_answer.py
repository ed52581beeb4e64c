"""Usage in Bedrock's answers: Converse's, and those of each family of models. Knows no request.

Bedrock's `inputTokens` leave out what the cache gave or took; ours hold all input.
"""

from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Any, Final

import orjson

from extproc.events import Headers
from extproc.eventstream import FAULT
from extproc.providers import anthropic
from extproc.providers.fields import count, label, mapping, parse, sequence, text, utf8
from extproc.providers.openai_answer import read_usage as read_openai_usage
from extproc.providers.shape import Answer
from ledger.event import Usage

_METRICS: Final = "amazon-bedrock-invocationMetrics"
_METRICS_BYTES: Final = _METRICS.encode()
_COUNT_HEADERS: Final = {
    "inputTokenCount": "x-amzn-bedrock-input-token-count",
    "outputTokenCount": "x-amzn-bedrock-output-token-count",
    "cacheReadInputTokenCount": "x-amzn-bedrock-cache-read-input-token-count",
    "cacheWriteInputTokenCount": "x-amzn-bedrock-cache-write-input-token-count",
}
_TEXTS: Final = frozenset(
    (
        *("text", "outputText", "generation", "completion", "content", "reasoning_content"),
        *("arguments", "name", "input", "thinking", "redactedContent"),
    )
)
_NOT_GENERATED: Final = frozenset(("chat_history", "prompt", "usage", "meta", _METRICS))
_MAX_NESTING: Final = 8


def short_name(model: str) -> str:
    """The id at the end of an ARN."""
    return model.rpartition("/")[2]


def read_usage(block: object) -> Usage | None:
    """A usage object of Converse's or Nova's, or invocation metrics; None where it is none."""
    if type(block) is not dict:
        return None
    given = _first(block, "inputTokens", "inputTokenCount")
    made = _first(block, "outputTokens", "outputTokenCount")
    if given is None and made is None:
        return None
    read = _first(block, "cacheReadInputTokens", "cacheReadInputTokenCount") or 0
    written = _first(block, "cacheWriteInputTokens", "cacheWriteInputTokenCount") or 0
    split = {"5m": 0, "1h": 0}
    for detail in sequence(block.get("cacheDetails")):
        ttl = text(mapping(detail).get("ttl"))
        if ttl in split:
            split[ttl] += count(detail.get("inputTokens")) or 0
    short, long = max(split["5m"], written - split["1h"]), split["1h"]
    return _usage(given or 0, made or 0, read, short, long)


def counted(headers: Headers) -> Usage | None:
    """The tokens that the headers of an answer state."""
    block = {}
    for name, header in _COUNT_HEADERS.items():
        value = headers.get(header, b"")
        if value.isdigit() and len(value) < 20:
            block[name] = int(value)
    return read_usage(block)


def read_converse(body: bytes) -> Answer:
    """A whole answer of Converse."""
    value = parse(body)
    document = mapping(value)
    answer = Answer(complete=value is not None)
    answer.usage = read_usage(document.get("usage"))
    answer.output_bytes = generated_bytes(document.get("output"))
    _take_head(answer, document)
    return answer


def read_invoke(operation: str, body: bytes) -> Answer:
    """A whole answer of InvokeModel: the model's own body."""
    if operation == "messages" and b'"usage"' in body:
        return anthropic.read_answer(operation, body)
    value = parse(body)
    document = mapping(value)
    answer = Answer(complete=value is not None)
    answer.usage = _family_usage(document)
    if operation != "embeddings":
        answer.output_bytes = generated_bytes(document)
    answer.model = label(document.get("model"))
    return answer


def generated_bytes(value: object, nesting: int = _MAX_NESTING) -> int:
    """The size of the generated text in a part of an answer, whatever its family."""
    total = 0
    if type(value) is list:
        for item in value:
            if nesting and type(item) in (dict, list):
                total += generated_bytes(item, nesting - 1)
    elif type(value) is dict:
        for name, item in value.items():
            if type(item) is str:
                total += utf8(item) if name in _TEXTS else 0
            elif name == "input":
                total += len(orjson.dumps(item, default=str))
            elif nesting and type(item) in (dict, list) and name not in _NOT_GENERATED:
                total += generated_bytes(item, nesting - 1)
    return total


class ConverseStream:
    """Text first, then one `metadata` with the usage, which is the last event."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer = Answer()

    def feed(self, event: bytes, data: bytes) -> bool:
        """Never true: this API reports usage unasked."""
        answer = self.answer
        if event == b"contentBlockDelta" or event == b"contentBlockStart":
            block = mapping(parse(data))
            answer.output_bytes += generated_bytes(block.get("delta") or block.get("start"))
        elif event == b"metadata":
            document = mapping(parse(data))
            answer.usage = read_usage(document.get("usage"))
            _take_head(answer, document)
            answer.complete = True
        elif event.startswith(FAULT):
            answer.complete = answer.failed = True
        return False


class InvokeStream:
    """The model's own chunks, each coded in base64; the last one carries Bedrock's metrics."""

    __slots__ = ("_messages", "answer")

    def __init__(self, operation: str) -> None:
        self._messages = anthropic.MessagesStream() if operation == "messages" else None
        self.answer = self._messages.answer if self._messages else Answer()

    def feed(self, event: bytes, data: bytes) -> bool:
        """Never true: this API reports usage unasked."""
        answer = self.answer
        if event.startswith(FAULT):
            answer.complete = answer.failed = True
        if event != b"chunk":
            return False
        try:
            chunk = a2b_base64(text(mapping(parse(data)).get("bytes")))
        except (Base64Error, ValueError):
            return False
        if self._messages is not None:
            self._messages.feed(b"", chunk)
            if _METRICS_BYTES not in chunk and b'"completion"' not in chunk:
                return False
        self._take(mapping(parse(chunk)))
        return False

    def _take(self, chunk: dict[str, Any]) -> None:
        answer = self.answer
        if self._messages is None or chunk.get("type") == "completion":
            answer.output_bytes += generated_bytes(chunk)
            if (usage := _family_usage(chunk)) is not None:
                answer.usage = usage if answer.usage is None else _largest(answer.usage, usage)
        if (metrics := read_usage(chunk.get(_METRICS))) is not None:
            said = answer.usage
            if said is None or not (said.input_tokens and said.output_tokens):
                answer.usage = metrics
            answer.complete = True


def _family_usage(document: dict[str, Any]) -> Usage | None:
    """The counts of an answer or a chunk, in whichever shape its family has them."""
    block = mapping(document.get("usage")) or mapping(
        mapping(document.get("metadata")).get("usage")
    )
    if block:
        return read_usage(block) or read_openai_usage(block)
    billed = mapping(mapping(document.get("meta")).get("billed_units"))
    if billed:
        return read_openai_usage(billed)
    given = _first(document, "inputTextTokenCount", "prompt_token_count", "inputTokenCount")
    made = _first(document, "totalOutputTextTokenCount", "generation_token_count")
    if made is None:
        counts = [count(mapping(r).get("tokenCount")) for r in sequence(document.get("results"))]
        made = sum(n for n in counts if n is not None) if counts else None
    if given is None and made is None:
        return None
    return _usage(given or 0, made or 0, 0, 0, 0)


def _largest(one: Usage, other: Usage) -> Usage:
    return Usage(*(max(getattr(one, n), getattr(other, n)) for n in Usage.__dataclass_fields__))


def _usage(plain: int, made: int, read: int, short: int, long: int) -> Usage:
    return Usage(
        input_tokens=plain + read + short + long,
        cache_read_tokens=read,
        cache_write_5m_tokens=short,
        cache_write_1h_tokens=long,
        output_tokens=made,
    )


def _first(block: dict[str, Any], *names: str) -> int | None:
    """The first of these that is a number of tokens."""
    for name in names:
        number = count(block.get(name))
        if number is not None:
            return number
    return None


def _take_head(answer: Answer, document: dict[str, Any]) -> None:
    """The tier that priced the call, and the model that a prompt router chose."""
    tier = label(mapping(document.get("serviceTier")).get("type"))
    if mapping(document.get("performanceConfig")).get("latency") == "optimized":
        tier = "latency-optimized"
    answer.service_tier = tier or answer.service_tier
    router = mapping(mapping(document.get("trace")).get("promptRouter"))
    answer.model = short_name(label(router.get("invokedModelId"))) or answer.model
