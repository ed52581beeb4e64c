"""Usage in OpenAI's answers: whole ones, chat streams and responses streams. Knows no request."""

import re
from typing import Any, Final

import orjson

from extproc.providers import unmetered
from extproc.providers.fields import count, label, mapping, parse, sequence, text, usd_nanos, utf8
from extproc.providers.shape import Answer
from ledger.event import Usage
from ledger.money import MAX_NANOS, round_millionths

_TEXTS: Final = (
    "content",
    "refusal",
    "reasoning_content",
    "reasoning",
    "text",
    "arguments",
    "name",
)
_SUMMARIES: Final = ("content", "summary")
_AUDIO_BYTES_PER_BYTE: Final = (
    800  # base64 of 24 kHz PCM at 20 tokens a second, four bytes of text to a token
)
_MILLIONTHS_PER_TICK: Final = 100_000  # ten billion ticks to a dollar
_EMBEDDINGS_TAIL: Final = 4096
_MODEL: Final = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.){0,256}")')
_PAID_TOOLS: Final = frozenset(
    ("web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call")
)
_ENDS: Final = {
    "response.completed": False,
    "response.incomplete": False,
    "response.failed": True,
    "response.cancelled": True,
}


def read_usage(block: object) -> Usage | None:
    """A usage object of any of OpenAI's shapes; None where it does not say what was used.

    A total above the sum of its parts holds reasoning that the host left out of its output: Gemini
    and Grok do so.
    """
    if type(block) is not dict:
        return None
    given = _first(block, "prompt_tokens", "input_tokens")
    made = _first(block, "completion_tokens", "output_tokens")
    total = count(block.get("total_tokens"))
    known_in, known_out = count(given), count(made)
    if (given is not None and known_in is None) or (made is not None and known_out is None):
        return None
    if known_in is None:
        if total is None and known_out is None:
            return None
        known_in = max(0, (total or 0) - (known_out or 0))
    details = mapping(_first(block, "completion_tokens_details", "output_tokens_details"))
    reasoning = count(details.get("reasoning_tokens")) or 0
    if known_out is None:
        known_out = 0
    elif total is not None and total > known_in + known_out:
        reasoning = max(reasoning, total - known_in - known_out)
        known_out = total - known_in
    return _with_input_parts(block, known_in, known_out, reasoning, details)


def _with_input_parts(
    block: dict[str, Any], known_in: int, known_out: int, reasoning: int, made: dict[str, Any]
) -> Usage:
    details = mapping(
        _first(block, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    )
    cached = _first(details, "cached_tokens")
    if cached is None:
        cached = _first(block, "prompt_cache_hit_tokens", "cached_tokens")
    read = min(count(cached) or 0, known_in)
    written = count(details.get("cache_write_tokens")) or 0
    return Usage(
        input_tokens=known_in,
        cache_read_tokens=read,
        cache_write_5m_tokens=min(written, known_in - read),
        output_tokens=known_out,
        reasoning_tokens=min(reasoning, known_out),
        audio_input_tokens=min(count(details.get("audio_tokens")) or 0, known_in),
        audio_output_tokens=min(count(made.get("audio_tokens")) or 0, known_out),
        image_input_tokens=min(count(details.get("image_tokens")) or 0, known_in),
        image_output_tokens=min(count(made.get("image_tokens")) or 0, known_out),
    )


def _first(block: dict[str, Any], *names: str) -> Any:
    for name in names:
        value = block.get(name)
        if value is not None:
            return value
    return None


def read_answer(operation: str, body: bytes) -> Answer:
    """A whole answer of any status. Of a batch that was taken in, its id: its usage comes later."""
    if operation in ("other", "batches"):
        return unmetered.read_answer(body)
    if operation == "embeddings" and len(body) > 2 * _EMBEDDINGS_TAIL:
        answer = _read_embeddings(body)
        if answer is not None:
            return answer
    value = parse(body)
    answer = Answer(complete=value is not None or body.strip() == b"null")
    if type(value) is dict:
        if operation == "responses":
            _take_response(answer, value)
        else:
            _take_head(answer, value)
            _take_usage(answer, value.get("usage"))
            for choice in sequence(value.get("choices")):
                answer.output_bytes += _choice_bytes(mapping(choice), "message")
        answer.failed = answer.failed or bool(value.get("error"))
    return answer


def _read_embeddings(body: bytes) -> Answer | None:
    """The ends of a large answer, as its megabytes of numbers take milliseconds to parse."""
    at = body.rfind(b'"usage"', len(body) - _EMBEDDINGS_TAIL)
    tail = mapping(parse(b"{" + body[at:])) if at > 0 else {}
    usage = read_usage(tail.get("usage"))
    model = _MODEL.search(body, 0, _EMBEDDINGS_TAIL) or _MODEL.search(
        body, len(body) - _EMBEDDINGS_TAIL
    )
    if usage is None or model is None:
        return None
    return Answer(model=label(parse(model[1])), usage=usage, complete=True)


class ChatStream:
    """Chat completions and legacy completions: the last usage wins, `[DONE]` ends."""

    __slots__ = ("_finished", "answer")

    def __init__(self) -> None:
        self.answer = Answer()
        self._finished = False

    def feed(self, event: bytes, data: bytes) -> bool:
        """True for the chunk that `include_usage` adds: usage, and no choices (or null)."""
        answer = self.answer
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            answer.complete = answer.complete or data.strip() == b"[DONE]"
            return False
        if type(chunk) is not dict:
            return False
        if not answer.model or not answer.response_id or "service_tier" in chunk:
            _take_head(answer, chunk)
        choices = chunk.get("choices")
        if choices:
            for choice in sequence(choices):
                if type(choice) is dict:
                    answer.output_bytes += _choice_bytes(choice, "delta")
                    self._finished = self._finished or choice.get("finish_reason") is not None
        usage = chunk.get("usage")
        if usage is not None:
            _take_usage(answer, usage)
        elif "x_groq" in chunk:
            _take_usage(answer, mapping(chunk["x_groq"]).get("usage"))
        if chunk.get("error"):
            answer.failed = answer.complete = True
            return False
        if choices or type(usage) is not dict or chunk.get("moderation"):
            return False
        answer.complete = answer.complete or self._finished
        return True


class ResponsesStream:
    """The responses API: usage comes with the whole response, in the event that ends the stream."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer = Answer()

    def feed(self, event: bytes, data: bytes) -> bool:
        """Never true: this API reports usage unasked."""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return False
        if type(chunk) is not dict:
            return False
        answer = self.answer
        kind = text(chunk.get("type"))
        if kind.endswith(".delta"):
            delta = chunk.get("delta")
            if type(delta) is str:
                coded = kind == "response.audio.delta"
                answer.output_bytes += len(delta) // _AUDIO_BYTES_PER_BYTE if coded else utf8(delta)
        elif kind in _ENDS:
            _take_response(answer, mapping(chunk.get("response")), counted=True)
            answer.complete = True
            answer.failed = _ENDS[kind]
        elif kind == "error" or (not kind and chunk.get("error")):
            answer.complete = answer.failed = True
        elif not answer.model:
            _take_head(answer, mapping(chunk.get("response")))
        return False


def _take_head(answer: Answer, value: dict[str, Any]) -> None:
    answer.model = answer.model or label(value.get("model"))
    answer.response_id = answer.response_id or label(value.get("id"))
    answer.service_tier = label(value.get("service_tier")) or answer.service_tier


def _take_usage(answer: Answer, block: object) -> None:
    """The last usage wins; one that cannot be read leaves what is known."""
    usage = read_usage(block)
    if usage is None:
        return
    answer.usage = usage
    nanos = stated_cost(mapping(block))
    if nanos is not None:
        answer.provider_cost_nanos = nanos


def stated_cost(usage: dict[str, Any]) -> int | None:
    """What the host itself says that the call cost: in dollars, or in xAI's ticks."""
    ticks = usage.get("cost_in_usd_ticks")
    if type(ticks) is int and 0 <= ticks <= MAX_NANOS:
        return round_millionths(ticks * _MILLIONTHS_PER_TICK)
    cost = usage.get("cost")
    if type(cost) is dict:
        cost = cost.get("total_cost")
    return usd_nanos(cost)


def _take_response(answer: Answer, response: dict[str, Any], counted: bool = False) -> None:
    """A response object. `counted`: its text went by before, as deltas."""
    _take_head(answer, response)
    _take_usage(answer, response.get("usage"))
    answer.failed = response.get("status") in ("failed", "cancelled")
    answer.tools_ran = any(
        text(mapping(item).get("type")) in _PAID_TOOLS for item in sequence(response.get("output"))
    )
    if counted and answer.output_bytes:
        return
    for item in sequence(response.get("output")):
        item = mapping(item)
        answer.output_bytes += _text_bytes(item)
        for name in _SUMMARIES:
            for part in sequence(item.get(name)):
                answer.output_bytes += _text_bytes(mapping(part))


def _choice_bytes(choice: dict[str, Any], name: str) -> int:
    """Generated text in a choice: `delta` or `message`, or the legacy `text`."""
    message = choice.get(name)
    if type(message) is not dict:
        return utf8(text(choice.get("text")))
    total = 0
    for key, value in message.items():
        if type(value) is str:
            if key in _TEXTS and not (key == "reasoning" and message.get("reasoning_content")):
                total += utf8(value)
        elif value:
            total += _nested_bytes(key, value)
    return total


def _nested_bytes(key: str, value: object) -> int:
    if key in ("content", "thinking"):
        parts = [mapping(part) for part in sequence(value)]
        thought = (part["thinking"] for part in parts if type(part.get("thinking")) is list)
        return sum(map(_text_bytes, parts)) + sum(
            _nested_bytes("thinking", each) for each in thought
        )
    if key == "tool_calls":
        calls = (mapping(call) for call in sequence(value))
        return sum(
            _text_bytes(mapping(call.get("function") or call.get("custom"))) for call in calls
        )
    if key == "function_call":
        return _text_bytes(mapping(value))
    if key == "audio":
        audio = mapping(value)
        coded = len(text(audio.get("data"))) // _AUDIO_BYTES_PER_BYTE
        return coded + utf8(text(audio.get("transcript")))
    return 0


def _text_bytes(part: dict[str, Any]) -> int:
    """The strings of a content part, a tool call or an output item that the model wrote."""
    return sum(
        utf8(value)
        for key in (
            "text",
            "refusal",
            "thinking",
            "arguments",
            "input",
            "name",
            "code",
            "transcript",
        )
        if type(value := part.get(key)) is str
    )
