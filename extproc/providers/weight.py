"""How many bytes of input a request stands for, the basis of its hold. Knows all content parts.

Everything counts as it is written, compactly and in UTF-8, so that what is not known counts in
full. Two things do not say their size: coded media, whose bytes overstate their tokens hundredfold,
and input that the provider adds. They count by the allowances below, in bytes of text, at about
four to a token.
"""

from typing import Any, Final

from extproc.providers.fields import mapping, sequence, text

IMAGE_BYTES: Final = 16 * 1024
COSTLY_IMAGE_BYTES: Final = 200 * 1024  # gpt-4o-mini takes 33 times the tokens of gpt-4o
FILE_BYTES: Final = 64 * 1024  # by reference: its size is not known
LEAST_FILE_BYTES: Final = 8 * 1024
MOST_FILE_BYTES: Final = 1024 * 1024  # about the largest context there is
FILE_SWELLING: Final = 4  # a page is read as text and as an image
AUDIO_BYTES_PER_BYTE: Final = 8  # of coded audio; speech at 32 kbit/s has 400 bytes to a token
HISTORY_BYTES: Final = 64 * 1024  # a conversation that the provider has stored
HOSTED_TOOL_BYTES: Final = 64 * 1024  # searches and servers whose results become input
TOOLS_BYTES: Final = 2 * 1024  # the hidden prompt that explains tools to the model
TOKEN_BYTES: Final = 8  # a prompt may be an array of token numbers

_IMAGES: Final = frozenset(("image_url", "input_image", "image", "computer_screenshot"))
_FILES: Final = frozenset(("file", "input_file", "document", "video_url", "video"))
_HOSTED_TOOLS: Final = ("web_", "file_search", "mcp", "code_")
_STORED: Final = ("previous_response_id", "conversation", "prompt", "container")
_MAX_NESTING: Final = 4  # message, tool result, its content, a part


def input_bytes(request: dict[str, Any], size_bytes: int) -> int:
    """Bytes of text that the input of a request of this written size amounts to."""
    total = size_bytes
    mini = text(request.get("model")).startswith("gpt-4o-mini")
    image_bytes = COSTLY_IMAGE_BYTES if mini else IMAGE_BYTES
    for name in ("messages", "input", "system"):
        total += _media(request.get(name), image_bytes, _MAX_NESTING)
    for name in ("prompt", "input"):
        total += _token_numbers(request.get(name))
    return max(0, total) + _hidden(request)


def prompts(request: dict[str, Any]) -> int:
    """The number of prompts that a completions request holds; each gets its own choices."""
    prompt = sequence(request.get("prompt"))
    return len(prompt) if prompt and type(prompt[0]) in (str, list) else 1


def _media(parts: object, image_bytes: int, nesting: int) -> int:
    """What media add to their bytes: allowance less what is written."""
    if type(parts) is dict:
        parts = [parts]
    total = 0
    for part in sequence(parts):
        if type(part) is not dict:
            continue
        kind = text(part.get("type"))
        if kind in _IMAGES:
            total += image_bytes - _payload(part)
        elif kind in _FILES:
            total += _file(part)
        elif kind == "input_audio":
            coded = _payload(part)
            total += coded // AUDIO_BYTES_PER_BYTE - coded
        elif kind == "image_generation_call":
            total += image_bytes - len(text(part.get("result")))
        elif nesting:
            for name in ("content", "output"):
                inner = part.get(name)
                if type(inner) in (list, dict):
                    total += _media(inner, image_bytes, nesting - 1)
    return total


def _file(part: dict[str, Any]) -> int:
    source = mapping(part.get("source"))
    if source.get("type") == "text":
        return 0
    if source.get("type") == "content":
        return _media(source.get("content"), IMAGE_BYTES, 1)
    coded = _payload(part)
    if not coded:
        return FILE_BYTES
    most = FILE_SWELLING * coded * 3 // 4
    return min(max(most, LEAST_FILE_BYTES), MOST_FILE_BYTES) - coded


def _payload(part: dict[str, Any]) -> int:
    """The size of the coded bytes in a media part, wherever its API has them; 0 for a reference."""
    holder = mapping(part.get(text(part.get("type")))) or mapping(part.get("source")) or part
    for name in ("data", "file_data"):
        if coded := text(holder.get(name)):
            return len(coded)
    for name in ("url", "image_url", "file_url"):
        if (coded := text(holder.get(name))).startswith("data:"):
            return len(coded)
    return 0


def _token_numbers(value: object) -> int:
    """What arrays of token numbers add, as a small number has fewer digits than a token bytes."""
    total = 0
    for numbers in [value, *sequence(value)]:
        if type(numbers) is list and numbers and type(numbers[0]) is int:
            total += TOKEN_BYTES * len(numbers)
    return total


def _hidden(request: dict[str, Any]) -> int:
    """Input that the provider adds by itself."""
    total = 0
    for name in _STORED:
        if request.get(name) and not (name == "prompt" and type(request[name]) is not dict):
            total += HISTORY_BYTES
    tools = sequence(request.get("tools"))
    if tools or request.get("functions"):
        total += TOOLS_BYTES
    for tool in tools:
        if text(mapping(tool).get("type")).startswith(_HOSTED_TOOLS):
            total += HOSTED_TOOL_BYTES
    total += HOSTED_TOOL_BYTES * len(sequence(request.get("mcp_servers")))
    return total + (HOSTED_TOOL_BYTES if request.get("web_search_options") else 0)
