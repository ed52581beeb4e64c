"""Cuts a server-sent event stream into events, however it was chunked. Knows no API."""

import re
from collections.abc import Callable
from typing import Final

from extproc.providers.shape import Event

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""A larger event is not read. `response.completed` repeats instructions and images."""

_BOM: Final = b"\xef\xbb\xbf"
_END_BYTES: Final = 4  # the longest end of an event, `\r\n\r\n`
_EVENT_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")


class EventStream:
    """One stream: `feed` when its bytes pass untouched, `keep` when events may have to go.

    The pieces that `split` and at last `finish` return are the stream byte for byte, one event each
    however the stream was chunked. Bytes of an unfinished event are held, at most `limit_bytes` of
    them: an event beyond that is handed on unread and counted in `dropped`, and reading goes on at
    the next event.
    """

    __slots__ = ("_first", "_held", "_limit_bytes", "_scanned", "_skipping", "dropped")

    def __init__(self, limit_bytes: int = MAX_EVENT_BYTES) -> None:
        self.dropped = 0
        self._limit_bytes = limit_bytes
        self._held = bytearray()
        self._scanned = 0
        self._skipping = False
        self._first = True

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """The (event, data) pairs that `chunk` completes."""
        return [(event, data) for _, event, data in self.split(chunk) if data is not None]

    def keep(self, chunk: bytes, drop: Callable[[bytes, bytes], bool]) -> bytes:
        """The bytes to hand on: whole events for which `drop(event, data)` is false.

        It is `chunk` itself where nothing was held or dropped: `is` tells an untouched chunk.
        """
        held = bool(self._held)
        kept = []
        events = self.split(chunk)
        for raw, event, data in events:
            if data is None or not drop(event, data):
                kept.append(raw)
        if not held and not self._held and len(kept) == len(events):
            return chunk
        return b"".join(kept)

    def finish(self) -> Event:
        """What is held when the stream ends; an event without its blank line still counts."""
        raw = bytes(self._held)
        self._held.clear()
        self._scanned = 0
        if self._skipping or not raw:
            return raw, b"", None
        return (raw, *self._read(raw))

    def split(self, chunk: bytes) -> list[Event]:
        """Every piece of the stream that `chunk` completes, comments and blank lines included."""
        if self._held or self._skipping or self._first or b"\r" in chunk:
            self._held += chunk
            return self._split_held()
        blocks = chunk.split(b"\n\n")
        tail = blocks.pop()
        events: list[Event] = []
        for block in blocks:
            if len(block) + 2 > self._limit_bytes:
                self.dropped += 1
                events.append((block + b"\n\n", b"", None))
            elif block.startswith(b"data: ") and b"\n" not in block:
                events.append((block + b"\n\n", b"", block[6:]))
            else:
                events.append((block + b"\n\n", *_fields(block)))
        if tail:
            self._held += tail
            if len(tail) > self._limit_bytes:
                events += self._split_held()
        return events

    def _split_held(self) -> list[Event]:
        events: list[Event] = []
        held = self._held
        start = 0
        while match := _EVENT_END.search(held, max(start, self._scanned)):
            end = match.end()
            if end == len(held) and held[-1] == 0x0D:
                break  # a line feed may follow, and would belong to this line end
            raw = bytes(held[start:end])
            if self._skipping:
                events.append((raw, b"", None))
            elif len(raw) > self._limit_bytes:
                self.dropped += 1
                events.append((raw, b"", None))
            else:
                events.append((raw, *self._read(raw)))
            self._first = self._skipping = False
            start = self._scanned = end
        del held[:start]
        self._scanned = max(0, len(held) - _END_BYTES + 1)
        if len(held) > self._limit_bytes and not self._skipping:
            self.dropped += 1
            self._skipping = True
        if self._skipping and self._scanned:
            events.append((bytes(held[: self._scanned]), b"", None))
            del held[: self._scanned]
            self._scanned = 0
        return events

    def _read(self, raw: bytes) -> tuple[bytes, bytes | None]:
        if self._first:
            raw = raw.removeprefix(_BOM)
        return _fields(raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))


def _fields(block: bytes) -> tuple[bytes, bytes | None]:
    """The `event` and `data` fields of the lines of one event."""
    event = b""
    data: bytes | None = None
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
            data = value if data is None else data + b"\n" + value
        elif line.startswith(b"event:"):
            event = line[7:] if line.startswith(b"event: ") else line[6:]
        elif line == b"data":
            data = b"" if data is None else data + b"\n"
        elif line == b"event":
            event = b""
    return event, data
