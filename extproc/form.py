"""A multipart form as the JSON object that says the same. Knows no API.

The reading is strict where servers differ: a form that two of them could read as two different
calls is refused, since one of them would be metered and the other billed.
"""

import re
from typing import Final, NamedTuple

import orjson

from extproc.providers.shape import BadRequest

FILES: Final = "files"
"""The member that lists the sizes of the uploaded files, in bytes."""
MAX_PARTS: Final = 256
MAX_HEADER_BYTES: Final = 8 * 1024
MAX_TEXT_BYTES: Final = 1024 * 1024

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE: Final = rb'(?:"(?:[^"\\\r\n]|\\["\\])*"|' + _TOKEN + rb")"
_PARAMETER: Final = rb"\s*;\s*(" + _TOKEN + rb")\s*=\s*(" + _VALUE + rb")"
_PARAMETERS: Final = re.compile(_PARAMETER)
_DISPOSITION: Final = re.compile(rb"form-data((?:" + _PARAMETER + rb")+)\s*;?\s*", re.IGNORECASE)
_MULTIPART: Final = re.compile(
    rb"multipart/form-data((?:\s*;\s*" + _TOKEN + rb"\s*=\s*" + _VALUE + rb")+)\s*;?\s*",
    re.IGNORECASE,
)
_HEADER: Final = re.compile(_TOKEN + rb":[^\r\n]*")
_PLAIN_CODINGS: Final = (b"7bit", b"8bit", b"binary")


class _Part(NamedTuple):
    name: bytes
    is_file: bool
    start: int


class _FormError(ValueError):
    """The form cannot be read; the message is one sentence."""


def is_form(content_type: bytes) -> bool:
    """Whether the body is a form, by its content type."""
    return content_type.lstrip()[:10].lower() == b"multipart/"


def as_json(body: bytes, content_type: bytes) -> bytes | BadRequest:
    """The form's text fields as members, in their order and as often as they came, and the sizes
    of its files as the last member.
    """
    try:
        return _object(body, b"--" + _boundary(content_type))
    except _FormError as error:
        return BadRequest(f"The form cannot be read: {error}")


def _object(body: bytes, delimiter: bytes) -> bytes:
    members: list[bytes] = []
    files: list[int] = []
    at = 2 if body.startswith(b"\r\n") else 0
    if not body.startswith(delimiter, at):
        raise _FormError("it does not begin with the boundary that its content type names.")
    position = at + len(delimiter)
    while not body.startswith(b"--", position):
        if len(members) + len(files) >= MAX_PARTS:
            raise _FormError(f"it has more than {MAX_PARTS} parts.")
        part = _part(body, position)
        end = body.find(delimiter, part.start)
        if end < part.start + 2 or body[end - 2 : end] != b"\r\n":
            raise _FormError("one of its parts does not end in a line of its own.")
        size = end - 2 - part.start
        if part.is_file:
            files.append(size)
        elif size > MAX_TEXT_BYTES:
            raise _FormError(f"one of its fields has more than {MAX_TEXT_BYTES:,} bytes.")
        else:
            text = body[part.start : end - 2].decode("utf-8", "replace")
            name = part.name.decode("utf-8", "replace")
            members.append(orjson.dumps(name) + b":" + orjson.dumps(text))
        position = end + len(delimiter)
    if len(body) - position > 4 or body[position + 2 :] not in (b"", b"\r\n"):
        raise _FormError("it goes on behind its end.")
    members.append(orjson.dumps(FILES) + b":" + orjson.dumps(files))
    return b"{" + b",".join(members) + b"}"


def _part(body: bytes, position: int) -> _Part:
    """The head of the part whose delimiter ends at `position`."""
    if not body.startswith(b"\r\n", position):
        raise _FormError("its boundary also stands inside a line.")
    start = body.find(b"\r\n\r\n", position, position + MAX_HEADER_BYTES)
    if start < 0:
        raise _FormError(f"the head of a part is not within {MAX_HEADER_BYTES:,} bytes.")
    dispositions = []
    for line in body[position + 2 : start].split(b"\r\n"):
        if not _HEADER.fullmatch(line):
            raise _FormError("the head of a part has a line that is no header.")
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-disposition":
            dispositions.append(value)
        elif name == b"content-transfer-encoding" and value.lower() not in _PLAIN_CODINGS:
            raise _FormError("one of its parts has a transfer encoding.")
    found = _DISPOSITION.fullmatch(dispositions[0]) if len(dispositions) == 1 else None
    parameters = _PARAMETERS.findall(found[1]) if found else []
    names = [value.strip(b'"') for key, value in parameters if key.lower() == b"name"]
    odd = any(key.lower() == b"name*" or {*b"\\;"} <= {*value} for key, value in parameters)
    if len(names) != 1 or b"\\" in names[0] or odd:
        raise _FormError("one of its parts has no plain name.")
    is_file = any(key.lower() in (b"filename", b"filename*") for key, _ in parameters)
    return _Part(names[0], is_file, start + 4)


def _boundary(content_type: bytes) -> bytes:
    found = _MULTIPART.fullmatch(content_type.strip())
    named: list[bytes] = [
        value.strip(b'"')
        for key, value in (_PARAMETERS.findall(found[1]) if found else [])
        if key.lower() == b"boundary"
    ]
    if len(named) != 1 or not 1 <= len(named[0]) <= 70:
        raise _FormError("its content type is not multipart/form-data with one boundary.")
    return named[0]
