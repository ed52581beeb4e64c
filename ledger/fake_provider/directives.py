"""What a caller may ask of the fake provider, by header or in the prompt. Knows no socket."""

import json
from dataclasses import dataclass, fields
from typing import Any, Final

HEADER: Final = b"x-fake"
MARK: Final = "x-fake:"
MAX_HANG_S: Final = 60.0
MAX_DELAY_MS: Final = 10_000
MAX_OUTPUT_TOKENS: Final = 100_000
MAX_BYTES: Final = 1 << 30  # of a bomb or of a line without end
COMPRESSIONS: Final = ("", "gzip", "br", "zstd", "deflate")


class DirectiveError(ValueError):
    """The caller asked for something that does not exist; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """The wishes of one request.

    Tokens: `cached`, `cache_write`, `cache_write_1h`, `audio_input`, `tool_input` and `extra_input`
    come on top of the text's own input tokens; `reasoning` and `audio_output` are part of
    `output_tokens`.
    Shape: `chunk_tokens` per SSE event, `chunk_bytes` cuts the bytes regardless of events,
    `delay_ms` between chunks, `first_delay_ms` before the first, `crlf` line ends, `compress`.
    Trouble: `status`, `html` or `null` instead of the answer, `hang` at `start` (no header leaves)
    or `middle` for `hang_s`, `close_after` that many chunks, an SSE `endless_line` or a gzip `bomb`
    of that many bytes, `no_usage`, `stream_error` half-way, the name of another `model`, a prompt
    that is `blocked`.
    """

    output_tokens: int = 12
    extra_input: int = 0
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    reasoning: int = 0
    audio_output: int = 0
    chunk_tokens: int = 1
    chunk_bytes: int = 0
    delay_ms: int = 0
    first_delay_ms: int = 0
    crlf: bool = False
    compress: str = ""
    status: int = 200
    retry_after: int = 0
    html: bool = False
    null: bool = False
    hang: str = ""
    hang_s: float = 5.0
    close_after: int = -1
    endless_line: int = 0
    bomb: int = 0
    no_usage: bool = False
    stream_error: bool = False
    model: str = ""
    tool_input: int = 0
    blocked: bool = False


_LIMITS: Final[dict[str, float]] = {
    "output_tokens": MAX_OUTPUT_TOKENS,
    "delay_ms": MAX_DELAY_MS,
    "first_delay_ms": MAX_DELAY_MS,
    "hang_s": MAX_HANG_S,
    "endless_line": MAX_BYTES,
    "bomb": MAX_BYTES,
}
_KNOWN: Final[dict[str, Any]] = {field.name: field.default for field in fields(Directives)}


def read(header: bytes | None, text: str) -> Directives:
    """The directives of a request: `x-fake: {...}` as a header, else anywhere in the prompt."""
    if header is not None:
        return _checked(header.decode("utf-8", "replace"))
    at = text.find(MARK)
    return _checked(text[at + len(MARK) :].lstrip()) if at >= 0 else Directives()


def _checked(text: str) -> Directives:
    try:
        wishes, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        raise DirectiveError(f"The directives are not a JSON object: {error}.") from error
    if not isinstance(wishes, dict):
        raise DirectiveError("The directives are not a JSON object.")
    for name, value in wishes.items():
        _check(name, value)
    return Directives(**wishes)


def _check(name: str, value: Any) -> None:
    if name not in _KNOWN:
        raise DirectiveError(f"There is no directive {name!r}; there are {', '.join(_KNOWN)}.")
    kind = type(_KNOWN[name])
    if not (isinstance(value, kind) or (kind is float and isinstance(value, int))):
        raise DirectiveError(f"The directive {name!r} must be of type {kind.__name__}.")
    limit = _LIMITS.get(name)
    if limit is not None and not 0 <= value <= limit:
        raise DirectiveError(f"The directive {name!r} must be between 0 and {limit}.")
    if name == "compress" and value not in COMPRESSIONS:
        raise DirectiveError(f"There is no compression {value!r}; there are {COMPRESSIONS[1:]}.")
