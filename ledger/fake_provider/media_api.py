"""OpenAI's formats beside text: images, speech, transcripts, batches. Knows no socket."""

from dataclasses import replace
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Final

from ledger.fake_provider.reply import SSE, Asked, Part, Reply, json_parts, sse
from ledger.fake_provider.speech import Tokens, words

_PNG: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_SOUND: Final = b"ID3\x04" + b"\x00" * 4092


def form(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a multipart form; a file is its size."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    fields: dict[str, Any] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = len(content) if part.get_filename() else content.decode()
    return fields


def images(asked: Asked) -> Reply:
    """One tiny picture. A gpt-image model says its tokens; any other is billed by the picture."""
    document: dict[str, Any] = {"created": asked.created, "data": [{"b64_json": _PNG}]}
    if not asked.model.startswith("gpt-image"):
        return Reply(
            parts=json_parts(document, 0), billed=Tokens(), model=asked.model, operation="images"
        )
    said = asked.tokens
    tokens = replace(said, image_output_tokens=said.output_tokens)
    usage = {
        "input_tokens": said.input_tokens,
        "input_tokens_details": {"text_tokens": said.input_tokens, "image_tokens": 0},
        "output_tokens": said.output_tokens,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": said.output_tokens},
        "total_tokens": said.input_tokens + said.output_tokens,
    }
    if asked.body.get("stream") not in (True, "true"):
        return _reply(asked, json_parts(document | {"usage": usage}, said.output_tokens), tokens)
    drawn = {"b64_json": _PNG, "created_at": asked.created}
    events = [
        {"type": "image_generation.partial_image", **drawn, "partial_image_index": 0},
        {"type": "image_generation.completed", **drawn, "usage": usage},
    ]
    parts = [Part(sse(event, str(event["type"])), said.output_tokens) for event in events]
    return _reply(asked, parts, tokens, SSE)


def transcripts(asked: Asked) -> Reply:
    """The words that were said, and the tokens of their sound."""
    text = "".join(words(asked.tokens.output_tokens))
    tokens = replace(asked.tokens, audio_input_tokens=asked.tokens.input_tokens)
    usage = {
        "type": "tokens",
        "input_tokens": tokens.input_tokens,
        "input_token_details": {"text_tokens": 0, "audio_tokens": tokens.input_tokens},
        "output_tokens": tokens.output_tokens,
        "total_tokens": tokens.input_tokens + tokens.output_tokens,
    }
    if asked.body.get("stream") != "true":
        document = {"text": text, "usage": usage}
        return _reply(asked, json_parts(document, tokens.output_tokens), tokens)
    events = [
        {"type": "transcript.text.delta", "delta": text},
        {"type": "transcript.text.done", "text": text, "usage": usage},
    ]
    return _reply(asked, [Part(sse(event), tokens.output_tokens) for event in events], tokens, SSE)


def speech(asked: Asked) -> Reply:
    """Some sound, which says nothing of its cost."""
    return _reply(asked, [Part(_SOUND, 0)], Tokens(), b"audio/mpeg")


def batches(asked: Asked) -> Reply:
    """A batch that was taken in; it is billed when it has ended."""
    document = {
        "id": f"batch_{asked.request_id}",
        "object": "batch",
        "errors": None,
        "status": "validating",
        "created_at": asked.created,
    }
    return replace(
        _reply(asked, json_parts(document, 0), Tokens()), response_id=str(document["id"]), model=""
    )


def _reply(
    asked: Asked, parts: list[Part], billed: Tokens, content_type: bytes = b"application/json"
) -> Reply:
    return Reply(
        parts=parts,
        content_type=content_type,
        billed=billed,
        model=asked.model,
        operation=asked.operation,
        streamed=content_type == SSE,
    )
