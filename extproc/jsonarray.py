"""Cuts a JSON array that arrives as a stream into its elements, however it was chunked. Knows no
API.
"""

import re
from typing import Final

from extproc.providers.shape import Event

MAX_ELEMENT_BYTES: Final = 4 * 1024 * 1024
"""A larger element is not read. One may hold a picture."""

_TO_BRACKET: Final = re.compile(
    rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+', re.DOTALL
)
_TO_QUOTE: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


class ArrayStream:
    """One stream: an array of objects, or objects one after the other.

    The pieces that `split` and at last `finish` return are the stream byte for byte: each element
    with what stands before it (an opening bracket, a comma, white space), and what follows the last
    one. Bytes of an unfinished element are held, at most `limit_bytes` of them: an element beyond
    that is handed on unread and counted in `dropped`. What is not JSON gives no element and no
    error.
    """

    __slots__ = (
        "_array",
        "_depth",
        "_held",
        "_limit_bytes",
        "_quoted",
        "_scanned",
        "_skipping",
        "_start",
        "dropped",
    )

    def __init__(self, limit_bytes: int = MAX_ELEMENT_BYTES) -> None:
        self.dropped = 0
        self._limit_bytes = limit_bytes
        self._held = bytearray()
        self._scanned = 0
        self._start = -1  # of the element's own bytes within those held; -1: there is none
        self._depth = 0  # of the brackets that are open
        self._array = 0  # 1 within the array: the depth at which elements stand
        self._quoted = False  # a string goes on beyond what is held
        self._skipping = False

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """The elements that `chunk` completes; their type is empty."""
        return [(event, data) for _, event, data in self.split(chunk) if data is not None]

    def split(self, chunk: bytes) -> list[Event]:
        """Every piece of the stream that `chunk` completes."""
        events: list[Event] = []
        held = self._held
        held += chunk
        done = 0
        while (at := self._bracket()) is not None:
            if self._closes(at, done):
                events.append(self._piece(done, at + 1))
                done = at + 1
        del held[:done]
        self._scanned -= done
        self._start -= done
        if len(held) > self._limit_bytes and not self._skipping:
            self.dropped += 1
            self._skipping = True
        if self._skipping and self._scanned:
            events.append((bytes(held[: self._scanned]), b"", None))
            del held[: self._scanned]
            self._scanned = 0
        return events

    def finish(self) -> Event:
        """What is held when the stream ends: the end of the array, and no whole element."""
        raw = bytes(self._held)
        self._held.clear()
        self._scanned = 0
        return raw, b"", None

    def _bracket(self) -> int | None:
        """Where the next bracket is that stands in no string; None where none is held yet."""
        held = self._held
        while True:
            pattern = _TO_QUOTE if self._quoted else _TO_BRACKET
            found = pattern.match(held, self._scanned)
            at = self._scanned = found.end() if found else self._scanned
            if at == len(held) or held[at] == 0x5C:  # half an escape
                return None
            self._scanned = at + 1
            if held[at] != 0x22:
                return at
            self._quoted = not self._quoted

    def _closes(self, at: int, done: int) -> bool:
        """Count the bracket at `at`; whether a piece ends with it."""
        if self._held[at] in b"[{":
            if self._depth == 0 and self._held[at] == 0x5B:
                self._array = 1
            elif self._depth == self._array:
                self._start = at
            self._depth += 1
            return False
        self._depth = max(0, self._depth - 1)
        if self._depth < self._array:
            self._array = 0
            return False
        return self._depth == self._array

    def _piece(self, done: int, end: int) -> Event:
        raw = bytes(self._held[done:end])
        oversized = len(raw) > self._limit_bytes
        if oversized and not self._skipping:
            self.dropped += 1
        start, skipped = self._start, self._skipping or oversized
        self._start, self._skipping = -1, False
        return raw, b"", None if skipped or start < done else bytes(self._held[start:end])
