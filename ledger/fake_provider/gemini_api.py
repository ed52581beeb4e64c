"""Google's formats: content whole, as events and as an array, embeddings, counts, errors. Knows no
socket.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import orjson

from ledger.fake_provider.reply import SSE, Asked, Part, Reply, json_parts, sse
from ledger.fake_provider.speech import Tokens, pieces, words

JSON: Final = b"application/json; charset=UTF-8"
METHODS: Final = {
    "generateContent": "generate",
    "streamGenerateContent": "generate",
    "embedContent": "gemini_embeddings",
    "batchEmbedContents": "gemini_embeddings",
    "countTokens": "gemini_count",
}
_MODELS: Final = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-embedding-001")
_VECTOR: Final = (0.25, -0.5, 0.125, 1.0)
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def named(path: str) -> tuple[str, str]:
    """The model and the method at the end of a path."""
    model, _, method = path.rpartition("/")[2].rpartition(":")
    return model, method


def limits(body: dict[str, Any]) -> tuple[int | None, int]:
    """The stated maximum of output, and the number of candidates."""
    config = body.get("generationConfig") or body.get("generation_config") or {}
    most = config.get("maxOutputTokens", config.get("max_output_tokens"))
    candidates = config.get("candidateCount", config.get("candidate_count"))
    return (
        int(most) if most else None,
        candidates if isinstance(candidates, int) and 1 <= candidates <= 8 else 1,
    )


def generate(asked: Asked) -> Reply:
    """The answer to `:generateContent` and `:streamGenerateContent`."""
    tokens = asked.tokens
    if asked.wishes.blocked:
        tokens = replace(tokens, output_tokens=0, reasoning_tokens=0, audio_output_tokens=0)
    asked = replace(asked, tokens=tokens)
    if asked.form:
        parts = _events(asked) if asked.form == "sse" else _array(asked)
    else:
        parts = json_parts(_whole(asked), tokens.output_tokens)
    return Reply(
        parts=parts,
        content_type=SSE if asked.form == "sse" else JSON,
        billed=tokens,
        model=asked.model,
        response_id=_id(asked),
        operation="generate",
        streamed=bool(asked.form),
    )


def embeddings(asked: Asked) -> Reply:
    """Vectors. Only the second generation of models says what was used; all are billed."""
    requests = asked.body.get("requests")
    vector = {"values": list(_VECTOR)}
    document: dict[str, Any] = {"embedding": vector}
    if isinstance(requests, list):
        document = {"embeddings": [vector for _ in requests[:100]]}
    if asked.model.startswith("gemini-embedding-2") and not asked.wishes.no_usage:
        read = asked.tokens.input_tokens
        details = [{"modality": "TEXT", "tokenCount": read}]
        document["usageMetadata"] = {"promptTokenCount": read, "promptTokenDetails": details}
    return Reply(
        parts=json_parts(document, 0),
        content_type=JSON,
        billed=asked.tokens,
        model=asked.model,
        operation="embeddings",
    )


def count_tokens(asked: Asked) -> Reply:
    """The answer to `:countTokens`; free."""
    read = asked.tokens.input_tokens
    details = [{"modality": "TEXT", "tokenCount": read}]
    document = {"totalTokens": read, "promptTokensDetails": details}
    return Reply(parts=json_parts(document, 0), content_type=JSON)


def models() -> Reply:
    """The list of models; free."""
    listed = [{"name": f"models/{name}", "displayName": name} for name in _MODELS]
    return Reply(parts=json_parts({"models": listed}, 0), content_type=JSON)


def error(status: int, message: str, *, array: bool = False) -> Reply:
    """An error in Google's shape, which a stream that is an array has as its one element."""
    document: Any = _error(status, message)
    parts = json_parts([document] if array else document, 0)
    return Reply(parts=parts, content_type=JSON, status=status)


def _error(status: int, message: str) -> dict[str, Any]:
    kind = _STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    return {"error": {"code": status, "message": message, "status": kind}}


def _id(asked: Asked) -> str:
    return "gem-" + asked.request_id


def _finish(asked: Asked) -> str:
    short = asked.tokens.output_tokens < asked.wishes.output_tokens * asked.choices
    return "MAX_TOKENS" if short else "STOP"


def _usage(tokens: Tokens, tools: int, said: int) -> dict[str, Any]:
    """The counts once `said` tokens of output were made, thoughts first."""
    thought = min(tokens.reasoning_tokens, said)
    spoken = said - thought
    prompt = tokens.input_tokens - tools
    audio = tokens.audio_input_tokens
    usage = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": spoken,
        "totalTokenCount": tokens.input_tokens + said,
        "cachedContentTokenCount": tokens.cache_read_tokens,
        "promptTokensDetails": _details(TEXT=prompt - audio, AUDIO=audio),
        "candidatesTokensDetails": _details(AUDIO=min(tokens.audio_output_tokens, spoken)),
        "thoughtsTokenCount": thought,
        "toolUsePromptTokenCount": tools,
    }
    return {name: value for name, value in usage.items() if value}  # proto3 leaves zeros out


def _details(**modalities: int) -> list[dict[str, Any]]:
    return [{"modality": name, "tokenCount": n} for name, n in modalities.items() if n]


def _answer(asked: Asked, candidates: list[dict[str, Any]], said: int) -> dict[str, Any]:
    document: dict[str, Any] = {"candidates": candidates} if candidates else {}
    if asked.wishes.blocked:
        document["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
    if not asked.wishes.no_usage:
        document["usageMetadata"] = _usage(asked.tokens, asked.wishes.tool_input, said)
    return {**document, "modelVersion": asked.model, "responseId": _id(asked)}


def _candidate(text: str, index: int, finish: str = "") -> dict[str, Any]:
    content = {"parts": [{"text": text}], "role": "model"}
    return {"content": content, **({"finishReason": finish} if finish else {}), "index": index}


def _spoken(asked: Asked) -> int:
    """Visible tokens of one candidate."""
    tokens = asked.tokens
    return (tokens.output_tokens - tokens.reasoning_tokens) // asked.choices


def _whole(asked: Asked) -> dict[str, Any]:
    if asked.wishes.blocked:
        return _answer(asked, [], 0)
    text = "".join(words(_spoken(asked)))
    candidates = [_candidate(text, index, _finish(asked)) for index in range(asked.choices)]
    return _answer(asked, candidates, asked.tokens.output_tokens)


def _chunks(asked: Asked) -> Iterator[tuple[dict[str, Any], int]]:
    """What a stream says, with the number of tokens made by then."""
    total = asked.tokens.output_tokens
    if asked.wishes.blocked:
        yield _answer(asked, [], 0), 0
        return
    each, before = _spoken(asked), asked.tokens.reasoning_tokens
    for index in range(asked.choices):
        spoken = pieces(each, asked.wishes.chunk_tokens)
        if asked.wishes.stream_error:
            spoken = spoken[: len(spoken) // 2]
        for text, said in spoken:
            made = before + index * each + said
            yield _answer(asked, [_candidate(text, index)], made), made
    if asked.wishes.stream_error:
        yield _error(503, "The model is overloaded."), total // 2
        return
    last = [_candidate("", index, _finish(asked)) for index in range(asked.choices)]
    yield _answer(asked, last, total), total


def _events(asked: Asked) -> list[Part]:
    return [Part(sse(document, crlf=True), said) for document, said in _chunks(asked)]


def _array(asked: Asked) -> list[Part]:
    parts: list[Part] = []
    for document, said in _chunks(asked):
        before = b",\r\n" if parts else b"["
        parts.append(Part(before + orjson.dumps(document, option=orjson.OPT_INDENT_2), said))
    return [*parts, Part(b"\n]\n", asked.tokens.output_tokens)]
