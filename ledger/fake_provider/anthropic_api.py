"""Anthropic's formats: messages, whole and as events, count_tokens and errors. Knows no socket."""

from typing import Any

from ledger.fake_provider.reply import SSE, Asked, Part, Reply, json_parts, sse
from ledger.fake_provider.speech import pieces, words


def messages(asked: Asked) -> Reply:
    """The answer to `POST /v1/messages`."""
    streamed = asked.body.get("stream") is True
    total = asked.tokens.output_tokens
    document = _message(asked, [{"type": "text", "text": "".join(words(total))}], _stop(asked))
    if not asked.wishes.no_usage:
        document["usage"] = _usage(asked, total)
    return Reply(
        parts=_stream(asked) if streamed else json_parts(document, total),
        content_type=SSE if streamed else b"application/json",
        billed=asked.tokens,
        model=asked.model,
        response_id="msg_" + asked.request_id,
        operation="messages",
        streamed=streamed,
    )


def count_tokens(asked: Asked) -> Reply:
    """The answer to `POST /v1/messages/count_tokens`; free."""
    return Reply(parts=json_parts({"input_tokens": asked.tokens.input_tokens}, 0))


def error(status: int, message: str) -> Reply:
    """An error in Anthropic's shape."""
    kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        status, "api_error" if status >= 500 else "invalid_request_error"
    )
    document = {"type": "error", "error": {"type": kind, "message": message}}
    return Reply(parts=json_parts(document, 0), status=status)


def _stop(asked: Asked) -> str:
    return "max_tokens" if asked.tokens.output_tokens < asked.wishes.output_tokens else "end_turn"


def _usage(asked: Asked, said: int) -> dict[str, Any]:
    tokens = asked.tokens
    written = tokens.cache_write_5m_tokens + tokens.cache_write_1h_tokens
    return {
        "input_tokens": tokens.input_tokens - tokens.cache_read_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": tokens.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": tokens.cache_write_1h_tokens,
        },
        "output_tokens": said,
        "service_tier": "standard",
    }


def _message(asked: Asked, content: list[dict[str, Any]], stop: str | None) -> dict[str, Any]:
    return {
        "id": "msg_" + asked.request_id,
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
    }


def _stream(asked: Asked) -> list[Part]:
    parts: list[Part] = []
    silent = asked.wishes.no_usage

    def say(kind: str, said: int, **fields: Any) -> None:
        document = {"type": kind, **fields}
        parts.append(Part(sse(document, kind, crlf=asked.wishes.crlf), said))

    # The real API says one output token before it has said any.
    start = _message(asked, [], None)
    say("message_start", 1, message={**start, **({} if silent else {"usage": _usage(asked, 1)})})
    say("content_block_start", 1, index=0, content_block={"type": "text", "text": ""})
    say("ping", 1)
    total = asked.tokens.output_tokens
    spoken = pieces(total, asked.wishes.chunk_tokens)
    if asked.wishes.stream_error:
        spoken = spoken[: len(spoken) // 2]
    for text, said in spoken:
        say("content_block_delta", said, index=0, delta={"type": "text_delta", "text": text})
    if asked.wishes.stream_error:
        fault = {"type": "overloaded_error", "message": "Overloaded"}
        say("error", total // 2, error=fault)
        return parts
    say("content_block_stop", total, index=0)
    end = {"stop_reason": _stop(asked), "stop_sequence": None}
    say(
        "message_delta", total, delta=end, **({} if silent else {"usage": {"output_tokens": total}})
    )
    say("message_stop", total)
    return parts
