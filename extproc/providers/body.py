"""A JSON request body as bytes: repeated members found, members spliced in. Knows no API.

orjson keeps the last of two members of one name. A server that keeps the first would bill another
model than the one that was metered, so repeated names must be seen; and a body that is changed must
keep its other bytes.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from extproc.providers.fields import parse
from extproc.providers.shape import BadRequest

_SPACE: Final = b" \t\r\n"
_KEY: Final = re.compile(rb'[\s{,]*+"((?:[^"\\]++|\\.)*+)"\s*+:\s*+', re.DOTALL)
_SCALAR: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s,\[\]{}"]++', re.DOTALL)
_TO_BRACKET: Final = re.compile(
    rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+[\[\]{}]', re.DOTALL
)
_ESCAPED_LETTERS: Final = (b"\\u004", b"\\u005", b"\\u006", b"\\u007")
_MAX_BRACKETS: Final = 200_000
"""Bounds what a body made of brackets costs to read, to a fraction of a second."""


class Member(NamedTuple):
    """A member of a JSON object: its name, and where its value begins and ends."""

    name: str | None
    start: int
    end: int


_NOWHERE: Final[Mapping[str, Member]] = {}


class Written(NamedTuple):
    """A request object, and its size when written compactly in UTF-8. `compact`: it came so, hence
    no name stands in it twice, at any depth. `places`: where the named members stand, where it did
    not come so.
    """

    fields: dict[str, Any]
    size_bytes: int
    compact: bool = False
    places: Mapping[str, Member] = _NOWHERE


def read_object(body: bytes, names: frozenset[str]) -> Written | BadRequest:
    """The request as an object in which each of `names` stands once at most."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return BadRequest(f"The request body is not valid JSON: {error}.")
    if type(request) is not dict:
        return BadRequest("The request body must be a JSON object.")
    try:
        written = orjson.dumps(request)
    except TypeError:  # nested deeper than orjson writes, though it reads it
        written = b""
    if written == body:  # as most clients write it; then nothing can be there twice
        return Written(request, len(body), compact=True)
    seen: dict[str, Member] = {}
    for member in members(body):
        if member.name is None:
            return BadRequest("The request body is too deeply structured to be metered.")
        if member.name in seen:
            says = f"The request body has `{member.name}` more than once; send it once."
            return BadRequest(says)
        if member.name in names:
            seen[member.name] = member
    return Written(request, len(written) or len(body), places=seen)


def members(body: bytes) -> Iterator[Member]:
    """The members of a valid JSON object; one without a name: the rest is too much to read."""
    position = brackets = 0
    while key := _KEY.match(body, position):
        start = position = key.end()
        depth = 0
        nested = body[start : start + 1] in (b"[", b"{")
        while True:
            step = (_TO_BRACKET if nested else _SCALAR).match(body, position)
            brackets += 1
            if step is None or brackets > _MAX_BRACKETS:
                yield Member(None, start, start)
                return
            position = step.end()
            if nested:
                depth += 1 if body[position - 1] in b"[{" else -1
            if not depth:
                break
        yield Member(parse(b'"' + key[1] + b'"'), start, position)


def append_member(body: bytes, member: bytes) -> bytes:
    """The object `body` with `member` as its last; every other byte stays."""
    inner = body.rstrip(_SPACE)
    if not inner.endswith(b"}"):
        return body
    inner = inner[:-1].rstrip(_SPACE)
    comma = b"" if inner.endswith(b"{") else b","
    return inner + comma + member + body[len(inner) :]


def ask_for_usage(body: bytes) -> bytes:
    """The request with `stream_options.include_usage` set, where `stream_options` may be set."""
    found = _named(body, "stream_options")
    if not found:
        return append_member(body, b'"stream_options":{"include_usage":true}')
    _, start, end = found[-1]
    options = body[start:end]
    if options == b"null":
        options = b'{"include_usage":true}'
    elif options.startswith(b"{"):
        options = _included(options)
    return body[:start] + options + body[end:]


def _named(body: bytes, name: str) -> list[Member]:
    """The members of this name; a body that does not hold the word at all is not read for it."""
    escaped = b"\\u00" in body and any(part in body for part in _ESCAPED_LETTERS)
    if escaped or name.encode() in body:
        return [member for member in members(body) if member.name == name]
    return []


def _included(options: bytes) -> bytes:
    found = _named(options, "include_usage")
    if not found:
        return append_member(options, b'"include_usage":true')
    for _, start, end in reversed(found):
        options = options[:start] + b"true" + options[end:]
    return options


def find_member(body: bytes, *names: str) -> Member | None:
    """The last member of one of these names; one without a name where there is too much to read."""
    found = None
    for member in members(body):
        if member.name is None:
            return member
        if member.name in names:
            found = member
    return found


def set_member(body: bytes, path: tuple[str, ...], value: bytes) -> bytes:
    """The object `body` with the member at `path` set to `value`; every other byte stays. What is
    on the way and no object is replaced by one.
    """
    name, inner = path[0], path[1:]
    found = _named(body, name)
    if not found:
        return append_member(body, b'"%s":%s' % (name.encode(), _nested(inner, value)))
    _, start, end = found[-1]
    old = body[start:end]
    descends = inner and old.startswith(b"{")
    new = set_member(old, inner, value) if descends else _nested(inner, value)
    return body[:start] + new + body[end:]


def _nested(path: tuple[str, ...], value: bytes) -> bytes:
    for name in reversed(path):
        value = b'{"%s":%s}' % (name.encode(), value)
    return value
