"""OpenAI's images and audio: what a request can cost, and the usage in an answer. Knows no other
operation.

Many of these answers do not say what was used: dall-e and whisper are billed by the picture and by
the minute, speech comes as bare sound. Such a call has no usage, and so no known price.
"""

from dataclasses import replace
from typing import Any, Final

import orjson

from extproc.form import FILES
from extproc.providers.body import read_object
from extproc.providers.fields import MOST_TOKENS, count, label, mapping, parse, sequence, text, utf8
from extproc.providers.openai_answer import read_usage, stated_cost
from extproc.providers.paths import segments
from extproc.providers.shape import Answer, Asked, BadRequest
from extproc.providers.weight import IMAGE_BYTES
from ledger.event import Usage

OPERATIONS: Final = ("images", "audio")
_PATHS: Final = {
    "images": ("generations", "edits", "variations"),
    "audio": ("speech", "transcriptions", "translations"),
}
_NAMES: Final = frozenset(("model", "stream", "n", "quality", "size", FILES))
MOST_IMAGES: Final = 1024
_IMAGE_TOKENS: Final = {"low": 1024, "medium": 4096}
_MOST_IMAGE_TOKENS: Final = 16 * 1024
"""One picture's output: a few times what the usual sizes take (272, 1,056 and 4,160 for a square of
1024), as newer models draw larger ones. What is held, never what is booked.
"""
_SPEECH_TOKENS_PER_BYTE: Final = 4  # English has about 1.3 tokens of sound to a letter
_TRANSCRIPT_TOKENS: Final = 4 * 1024
_SOUND_BYTES_PER_BYTE: Final = 50  # of an uploaded file: ten tokens a second at 16 kbit/s
_PICTURE_BYTES_PER_BYTE: Final = 256  # base64 of a picture, some two megabytes to 1,056 tokens
_SPOKEN_BYTES_PER_BYTE: Final = 800  # base64 of 24 kHz PCM
_NO: Final = ("", "false", "0", "no", "off", "f", "n")


def operation(end: list[str]) -> str:
    """`images` or `audio` for the last two segments of a path that is metered as such, else ``."""
    if len(end) == 2 and end[1] in _PATHS.get(end[0], ()):
        return end[0]
    return ""


def read_request(operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
    """What the request asks for. Images have a default model, so none need be named.

    The hold of such a call is an allowance, as no maximum can be stated in its request.
    """
    read = read_object(body, _NAMES)
    if isinstance(read, BadRequest):
        return read
    request = read.fields
    model = request.get("model")
    if model not in (None, "") and not label(model):
        return BadRequest("`model` must be a string of 1 to 256 printable characters.")
    number = _number(request.get("n"))
    if number is None:
        return BadRequest("`n` must be a whole number.")
    streamed = _streamed(request)
    if streamed and operation == "images" and number > 1:
        # Each picture ends with an event of its own; the first would be taken for the last.
        return BadRequest(
            "A stream of several images cannot be metered; leave out `stream` or `n`."
        )
    asked = Asked(model=label(model), streamed=streamed, choices=max(1, number))
    if operation == "images":
        return replace(
            asked,
            input_bytes=read.size_bytes + IMAGE_BYTES * _pictures(request),
            max_output_tokens=_IMAGE_TOKENS.get(text(request.get("quality")), _MOST_IMAGE_TOKENS),
        )
    sound = sum(size for each in sequence(request.get(FILES)) if (size := count(each)))
    spoken = segments(path)[-1:] == ["speech"]
    most = _SPEECH_TOKENS_PER_BYTE * read.size_bytes if spoken else _TRANSCRIPT_TOKENS
    return replace(
        asked,
        choices=1,
        input_bytes=read.size_bytes + sound // _SOUND_BYTES_PER_BYTE,
        max_output_tokens=min(most, MOST_TOKENS),
    )


def read_answer(operation: str, body: bytes) -> Answer:
    """A whole answer of any status. A transcript may come as plain text, which says no usage."""
    value = parse(body)
    answer = Answer(complete=value is not None)
    said = mapping(value)
    answer.model = label(said.get("model"))
    answer.response_id = label(said.get("id"))
    answer.failed = bool(said.get("error"))
    answer.usage = _usage(operation, said.get("usage"))
    answer.provider_cost_nanos = stated_cost(mapping(said.get("usage")))
    pictures = sum(len(text(mapping(each).get("b64_json"))) for each in sequence(said.get("data")))
    answer.output_bytes = pictures // _PICTURE_BYTES_PER_BYTE + utf8(text(said.get("text")))
    return answer


class MediaStream:
    """Pictures as they form, sound, or a transcript: usage comes with the event that ends it."""

    __slots__ = ("_operation", "answer")

    def __init__(self, operation: str) -> None:
        self.answer = Answer()
        self._operation = operation

    def feed(self, event: bytes, data: bytes) -> bool:
        """Never true: usage comes unasked here."""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return False
        if type(chunk) is not dict:
            return False
        answer, kind = self.answer, text(chunk.get("type"))
        if kind.endswith((".partial_image", ".completed")) and self._operation == "images":
            drawn = len(text(chunk.get("b64_json"))) // _PICTURE_BYTES_PER_BYTE
            answer.output_bytes = max(answer.output_bytes, drawn)
        elif kind == "transcript.text.delta":
            answer.output_bytes += utf8(text(chunk.get("delta")))
        elif kind == "speech.audio.delta":
            answer.output_bytes += len(text(chunk.get("audio"))) // _SPOKEN_BYTES_PER_BYTE
        if kind.endswith((".completed", ".done")):
            answer.usage = _usage(self._operation, chunk.get("usage")) or answer.usage
            answer.complete = True
        elif kind == "error" or chunk.get("error"):
            answer.complete = answer.failed = True
        return False


def _usage(operation: str, block: object) -> Usage | None:
    """Output of images without details is pictures, as OpenAI documents it."""
    usage = read_usage(block)
    if usage is None or operation != "images":
        return usage
    if mapping(block).get("output_tokens_details"):
        return usage
    return replace(usage, image_output_tokens=usage.output_tokens)


def _number(value: object) -> int | None:
    """How many images; a form says it in digits. None for what is no number."""
    if value in (None, ""):
        return 1
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    number = count(value)
    return None if number is None else min(number, MOST_IMAGES)


def _streamed(request: dict[str, Any]) -> bool:
    """Whether events are asked for; a form says it in a word, speech by another name."""
    value = request.get("stream")
    if type(value) is str:
        return value.strip().lower() not in _NO
    return bool(value) or request.get("stream_format") == "sse"


def _pictures(request: dict[str, Any]) -> int:
    """How many pictures go in: uploaded, by reference, or named in place."""
    named = request.get("images")
    listed = len(named) if type(named) is list else 0
    return len(sequence(request.get(FILES))) + listed
