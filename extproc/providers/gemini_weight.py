"""What `weight` does, for the content parts of Gemini: bytes of input that a request stands for."""

from typing import Any, Final

from extproc.providers.fields import mapping, sequence, text
from extproc.providers.weight import (
    AUDIO_BYTES_PER_BYTE,
    FILE_BYTES,
    FILE_SWELLING,
    HISTORY_BYTES,
    HOSTED_TOOL_BYTES,
    IMAGE_BYTES,
    LEAST_FILE_BYTES,
    MOST_FILE_BYTES,
    TOOLS_BYTES,
)

FILM_BYTES: Final = (
    4 * FILE_BYTES
)  # by reference: its length is not known; a minute is 18,000 tokens

_TIMED: Final = ("audio/", "video/")
_SHOWN_AS_WRITTEN: Final = frozenset(
    ("functiondeclarations", "googlesearch", "googlesearchretrieval", "googlemaps", "computeruse")
)
"""Tools whose input is in the request, or is not billed as tokens."""


def content_bytes(contents: object) -> int:
    """What media in contents (one or a list of them) add to their bytes."""
    total = 0
    for content in contents if type(contents) is list else [contents]:
        parts = mapping(content).get("parts")
        for part in parts if type(parts) is list else [parts]:
            total += _part(mapping(part))
    return total


def hidden_bytes(tools: object, cached_content: object) -> int:
    """Input that the provider adds by itself: what it has stored, and what its tools find."""
    total = HISTORY_BYTES if cached_content else 0
    given = [mapping(tool) for tool in (tools if type(tools) is list else [tools])]
    if any(given):
        total += TOOLS_BYTES
    for tool in given:
        names = {name.replace("_", "").lower() for name in tool}
        total += HOSTED_TOOL_BYTES * len(names - _SHOWN_AS_WRITTEN)
    return total


def _part(part: dict[str, Any]) -> int:
    total = 0
    for name in ("inlineData", "inline_data"):
        if blob := mapping(part.get(name)):
            total += _inline(_kind(blob), len(text(blob.get("data"))))
    for name in ("fileData", "file_data"):
        if file := mapping(part.get(name)):
            total += _referred(_kind(file))
    for name in ("functionResponse", "function_response", "toolResponse", "tool_response"):
        for inner in sequence(mapping(part.get(name)).get("parts")):
            inner = mapping(inner)
            if not any(again in inner for again in ("functionResponse", "function_response")):
                total += _part(inner)
    return total


def _kind(media: dict[str, Any]) -> str:
    return text(media.get("mimeType") or media.get("mime_type")).lower()


def _inline(kind: str, coded: int) -> int:
    """Allowance less what is written."""
    if kind.startswith("image/"):
        return IMAGE_BYTES - coded
    if kind.startswith(_TIMED):
        return min(coded // AUDIO_BYTES_PER_BYTE, MOST_FILE_BYTES) - coded
    if kind.startswith("text/"):
        return 0
    return min(max(FILE_SWELLING * coded * 3 // 4, LEAST_FILE_BYTES), MOST_FILE_BYTES) - coded


def _referred(kind: str) -> int:
    if kind.startswith("image/"):
        return IMAGE_BYTES
    return FILM_BYTES if kind.startswith("video/") or not kind else FILE_BYTES
