"""How many bytes of input a Bedrock request stands for, beside what `weight` knows. Knows content
blocks in which the name of the member says the kind.
"""

from typing import Any, Final

from extproc.providers import weight
from extproc.providers.fields import mapping, sequence, text

_MAX_NESTING: Final = 4  # message, tool result, its content, a document's
_PICTURES: Final = ("inputImage", "images")


def blocks_bytes(request: dict[str, Any], size_bytes: int) -> int:
    """Bytes of text that the `messages` and `system` of a request of this size amount to."""
    total = size_bytes
    for message in sequence(request.get("messages")):
        total += _media(mapping(message).get("content"), _MAX_NESTING)
    return max(0, total + _media(request.get("system"), _MAX_NESTING))


def extra_bytes(request: dict[str, Any], model: str) -> int:
    """What a request does not show as text: pictures of embeddings, tools, a stored prompt."""
    total = 0
    for name in _PICTURES:
        value = request.get(name)
        for picture in [value] if type(value) is str else sequence(value):
            total += weight.IMAGE_BYTES - len(text(picture))
    tools = sequence(mapping(request.get("toolConfig")).get("tools"))
    if tools:
        total += weight.TOOLS_BYTES
    total += weight.HOSTED_TOOL_BYTES * sum(1 for tool in tools if "systemTool" in mapping(tool))
    return total + (weight.HISTORY_BYTES if ":prompt/" in model else 0)


def _media(blocks: object, nesting: int) -> int:
    """What media add to their bytes: allowance less what is written."""
    total = 0
    for block in sequence(blocks):
        for kind, value in mapping(block).items():
            if type(value) is not dict:
                continue
            source = mapping(value.get("source"))
            coded = len(text(source.get("bytes")))
            if kind == "image":
                total += weight.IMAGE_BYTES - coded
            elif kind == "audio":
                total += (coded // weight.AUDIO_BYTES_PER_BYTE or weight.FILE_BYTES) - coded
            elif kind in ("document", "video"):
                total += _file(source, coded, nesting)
            elif nesting and kind == "guardContent":
                total += _media([value], nesting - 1)
            elif nesting:
                total += _media(value.get("content"), nesting - 1)
    return total


def _file(source: dict[str, Any], coded: int, nesting: int) -> int:
    if "text" in source:
        return 0
    if "content" in source:
        return _media(source["content"], nesting - 1) if nesting else 0
    if not coded:
        return weight.FILE_BYTES
    most = weight.FILE_SWELLING * coded * 3 // 4
    return min(max(most, weight.LEAST_FILE_BYTES), weight.MOST_FILE_BYTES) - coded
