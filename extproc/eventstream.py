"""Cuts AWS's binary event stream (`application/vnd.amazon.eventstream`) into events, however it was
chunked, and frames one. Knows no API.

A frame is its whole length and the length of its headers, four bytes each, and their CRC-32; then
the headers, the payload, and the CRC-32 of all before it. A wrong checksum leaves nothing to find
the next frame by: what follows passes unread.
"""

from functools import lru_cache
from struct import Struct
from typing import Final
from zlib import crc32

from extproc.providers.shape import Event

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""A larger frame is passed unread; its length is known, so the next one is found."""
MAX_HEADERS_BYTES: Final = 128 * 1024
"""AWS's own limit."""
_REMEMBERED_HEADERS_BYTES: Final = 512
_PRELUDE: Final = Struct(">III")
_LENGTHS: Final = Struct(">II")
_CRC: Final = Struct(">I")
_LEAST: Final = _PRELUDE.size + _CRC.size
_STRING: Final = 7
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; types 6 and 7, bytes and text, say their length."""
_TYPES: Final = {
    b"event": b":event-type",
    b"exception": b":exception-type",
    b"error": b":error-code",
}
_EVENT: Final = b"event"
FAULT: Final = b"fault:"


class BinaryEventStream:
    """One stream. The pieces that `split` and at last `finish` return are the stream byte for byte,
    one frame each however the stream was chunked.

    Bytes of an unfinished frame are held, at most `limit_bytes` of them: a frame beyond that is
    handed on as it comes and counted in `dropped`. `broken` says why the rest is unread.

    The type of an event is its `:event-type`; that of an exception or an error is `fault:` and its
    `:exception-type` or `:error-code`, so that neither can be taken for the other.
    """

    __slots__ = ("_held", "_limit_bytes", "_need", "_skip", "broken", "dropped")

    def __init__(self, limit_bytes: int = MAX_EVENT_BYTES) -> None:
        self.dropped = 0
        self.broken = ""
        self._limit_bytes = limit_bytes
        self._held = bytearray()
        self._need = _PRELUDE.size
        self._skip = 0

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """The (type, payload) pairs that `chunk` completes."""
        return [(event, data) for _, event, data in self.split(chunk) if data is not None]

    def finish(self) -> Event:
        """What is held when the stream ends: never a whole frame."""
        raw = bytes(self._held)
        self._held.clear()
        return raw, b"", None

    def split(self, chunk: bytes) -> list[Event]:
        """Every piece of the stream that `chunk` completes."""
        if self.broken:
            return [(chunk, b"", None)] if chunk else []
        data = chunk
        if self._held:
            self._held += chunk
            if len(self._held) < self._need:
                return []
            data = bytes(self._held)
            self._held.clear()
        return self._split(data)

    def _split(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        start = 0
        while start < len(data) and not self.broken:
            if self._skip:
                end = min(len(data), start + self._skip)
                self._skip -= end - start
                events.append((data[start:end], b"", None))
                start = end
                continue
            length = self._length(data, start)
            if length is None or (not self._skip and start + length > len(data)):
                self._need = length or _PRELUDE.size
                break
            if not self._skip:
                events.append(self._frame(data, start, start + length))
                start += length
        if self.broken and start < len(data):
            events.append((data[start:], b"", None))
        else:
            self._held += data[start:]
        return events

    def _length(self, data: bytes, start: int) -> int | None:
        """The length of the frame that begins at `start`; None where its prelude is not whole, or
        wrong: then the stream is broken. A frame over the limit is to be skipped.
        """
        if len(data) - start < _PRELUDE.size:
            return None
        length, headers, checksum = _PRELUDE.unpack_from(data, start)
        if crc32(data[start : start + _LENGTHS.size]) != checksum:
            self.broken = "The prelude of a frame does not have its checksum."
            return None
        if headers > MAX_HEADERS_BYTES or length < headers + _LEAST:
            self.broken = "A frame has impossible lengths."
            return None
        if length > self._limit_bytes:
            self.dropped += 1
            self._skip = length
        return int(length)

    def _frame(self, data: bytes, start: int, end: int) -> Event:
        raw = data[start:end]
        if crc32(raw[: -_CRC.size]) != _CRC.unpack_from(raw, len(raw) - _CRC.size)[0]:
            self.broken = "A frame does not have its checksum."
            return raw, b"", None
        headers_end = _PRELUDE.size + _LENGTHS.unpack_from(raw)[1]
        headers = raw[_PRELUDE.size : headers_end]
        short = len(headers) <= _REMEMBERED_HEADERS_BYTES
        kind = _remembered_type(headers) if short else _type(headers)
        return raw, kind or b"", None if kind is None else raw[headers_end : -_CRC.size]


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One frame with these headers, all of them text."""
    written = b"".join(_text(name, 1) + b"\x07" + _text(text, 2) for name, text in headers.items())
    lengths = _LENGTHS.pack(len(written) + len(payload) + _LEAST, len(written))
    whole = lengths + _CRC.pack(crc32(lengths)) + written + payload
    return whole + _CRC.pack(crc32(whole))


def _text(text: str, length_bytes: int) -> bytes:
    coded = text.encode()
    return len(coded).to_bytes(length_bytes, "big") + coded


def _type(headers: bytes) -> bytes | None:
    """The type of the event with these headers; None where they cannot be read."""
    said: dict[bytes, bytes] = {}
    at, end = 0, len(headers)
    while at < end:
        name_end = at + 1 + headers[at]
        if name_end >= end:
            return None
        name, kind = headers[at + 1 : name_end], headers[name_end]
        at = name_end + 1
        size = _SIZES.get(kind)
        if size is None:
            if kind not in (6, _STRING) or at + 2 > end:
                return None
            size = int.from_bytes(headers[at : at + 2], "big")
            at += 2
        if at + size > end:
            return None
        if kind == _STRING:
            said.setdefault(name, headers[at : at + size])
        at += size
    message = said.get(b":message-type", _EVENT)
    kind_name = said.get(_TYPES.get(message, b""), b"")
    return kind_name if message == _EVENT else FAULT + kind_name


_remembered_type = lru_cache(maxsize=64)(_type)
"""All frames of one type have the same headers."""
