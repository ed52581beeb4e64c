"""OpenAI's Responses API, whole and as its numbered events. Knows no socket."""

from typing import Any

from ledger.fake_provider.reply import SSE, Asked, Part, Reply, json_parts, sse
from ledger.fake_provider.speech import pieces, words


def responses(asked: Asked) -> Reply:
    """The answer to `POST /v1/responses`."""
    streamed = asked.body.get("stream") is True
    total = asked.tokens.output_tokens
    document = _document(asked, _status(asked), finished=True)
    return Reply(
        parts=_stream(asked) if streamed else json_parts(document, total),
        content_type=SSE if streamed else b"application/json",
        billed=asked.tokens,
        model=asked.model,
        response_id="resp_" + asked.request_id,
        operation="responses",
        streamed=streamed,
    )


def _status(asked: Asked) -> str:
    short = asked.tokens.output_tokens < asked.wishes.output_tokens
    return "incomplete" if short else "completed"


def _usage(asked: Asked) -> dict[str, Any]:
    tokens = asked.tokens
    return {
        "input_tokens": tokens.input_tokens,
        "input_tokens_details": {"cached_tokens": tokens.cache_read_tokens},
        "output_tokens": tokens.output_tokens,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
        "total_tokens": tokens.input_tokens + tokens.output_tokens,
    }


def _item(asked: Asked, status: str, text: str | None) -> dict[str, Any]:
    content = [] if text is None else [_part(text)]
    return {
        "id": "msg_" + asked.request_id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _document(asked: Asked, status: str, *, finished: bool) -> dict[str, Any]:
    text = "".join(words(asked.tokens.output_tokens))
    item = [_item(asked, status, text)] if finished and status != "failed" else []
    cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
    fault = {"code": "server_error", "message": "The server had an error."}
    return {
        "id": "resp_" + asked.request_id,
        "object": "response",
        "created_at": asked.created,
        "status": status,
        "error": fault if status == "failed" else None,
        "incomplete_details": cut,
        "instructions": asked.body.get("instructions"),
        "max_output_tokens": asked.body.get("max_output_tokens"),
        "metadata": {},
        "model": asked.model,
        "output": item,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _usage(asked) if finished and not asked.wishes.no_usage else None,
        "user": None,
    }


def _stream(asked: Asked) -> list[Part]:
    parts: list[Part] = []
    place = {"item_id": "msg_" + asked.request_id, "output_index": 0, "content_index": 0}

    def say(kind: str, said: int, **fields: Any) -> None:
        document = {"type": kind, **fields, "sequence_number": len(parts)}
        parts.append(Part(sse(document, kind, crlf=asked.wishes.crlf), said))

    start = _document(asked, "in_progress", finished=False)
    say("response.created", 0, response=start)
    say("response.in_progress", 0, response=start)
    item = _item(asked, "in_progress", None)
    say("response.output_item.added", 0, output_index=0, item=item)
    say("response.content_part.added", 0, **place, part=_part(""))
    total = asked.tokens.output_tokens
    spoken = pieces(total, asked.wishes.chunk_tokens)
    if asked.wishes.stream_error:
        spoken = spoken[: len(spoken) // 2]
    for text, said in spoken:
        say("response.output_text.delta", said, **place, delta=text, logprobs=[])
    if asked.wishes.stream_error:
        say("response.failed", total, response=_document(asked, "failed", finished=True))
        return parts
    text = "".join(words(total))
    status = _status(asked)
    say("response.output_text.done", total, **place, text=text, logprobs=[])
    say("response.content_part.done", total, **place, part=_part(text))
    say("response.output_item.done", total, output_index=0, item=_item(asked, status, text))
    say("response." + status, total, response=_document(asked, status, finished=True))
    return parts
