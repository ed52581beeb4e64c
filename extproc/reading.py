"""A streamed answer as it passes: decode, split into events, read usage, take out what we asked
for. Pure.
"""

import re
from collections.abc import Callable
from typing import Final

from extproc.eventstream import BinaryEventStream
from extproc.inflate import InflateError, open_inflate
from extproc.jsonarray import ArrayStream
from extproc.providers.shape import Answer, Framing, Stream
from extproc.sse import EventStream

MAX_DECODED_BYTES: Final = 32 * 1024 * 1024
"""What one decoded stream may hand to the client in place of its compressed bytes."""
SERVER_SENT_EVENTS: Final = "text/event-stream"
BINARY_EVENTS: Final = "application/vnd.amazon.eventstream"
FRAMINGS: Final[dict[str, Callable[[], Framing]]] = {
    SERVER_SENT_EVENTS: EventStream,
    BINARY_EVENTS: BinaryEventStream,
    "application/json": ArrayStream,  # only where the request asked for a stream
}
"""Content type of a stream -> how it is cut into events."""
_NULL_USAGE: Final = re.compile(rb',\s*"usage"\s*:\s*null')


class StreamedAnswer:
    """Feeds a provider's stream reader, chunk by chunk, whatever the chunking and the content
    coding.

    `remove_usage`: the usage-only event, and the null usage of all others, are there because we
    asked for usage, so they are taken out; the other bytes reach the client as they came, decoded
    where they came compressed. A stream in a coding that cannot be decoded passes unread.

    `whole_events`: the stream may have to end with an event of ours, so that the client is never
    left in the middle of one.
    """

    def __init__(
        self,
        stream: Stream,
        content_type: str,
        content_encoding: str,
        *,
        remove_usage: bool,
        whole_events: bool = False,
    ) -> None:
        self._stream = stream
        self._events = FRAMINGS[content_type]()
        coded = content_encoding not in ("", "identity")
        self._inflate = open_inflate(content_encoding) if coded else None
        self._unreadable = coded and self._inflate is None
        self._remove = remove_usage and not self._unreadable
        self._whole = self._remove or (whole_events and not self._unreadable)
        self.decoded = self._whole and coded
        self._sent = 0

    @property
    def answer(self) -> Answer:
        return self._stream.answer

    def feed(self, chunk: bytes, ended: bool) -> bytes | None:
        """Read one chunk. None: it passes as it is; else the bytes that go to the client in its
        place.
        """
        if self._unreadable:
            return b"" if self.decoded else None
        kept: list[bytes] = []
        try:
            for plain in (chunk,) if self._inflate is None else self._inflate.pieces(chunk):
                self._read(plain, kept)
        except InflateError:
            self._unreadable = True
        if ended and not self._unreadable:
            kept.append(self._last())
        if not self._whole:
            return None
        body = b"".join(kept)
        return None if body == chunk else body

    def _read(self, plain: bytes, kept: list[bytes]) -> None:
        if not self._whole:
            for name, value in self._events.feed(plain):
                self._stream.feed(name, value)
            return
        for raw, event, data in self._events.split(plain):
            drop = data is not None and self._stream.feed(event, data)
            if not (drop and self._remove):
                kept.append(_without_usage(raw) if self._remove else raw)
                self._sent += len(raw)
        if self.decoded and self._sent > MAX_DECODED_BYTES:
            raise InflateError("The decoded stream is larger than any answer.")

    def _last(self) -> bytes:
        """What was held at the end of the stream, less an unfinished event of usage alone."""
        raw, event, data = self._events.finish()
        drop = data is not None and self._stream.feed(event, data)
        if not self._remove:
            return raw
        return b"" if drop else _without_usage(raw)


def _without_usage(raw: bytes) -> bytes:
    """An event without the null usage that every event has once usage is asked for.

    Quotes inside a JSON string are escaped, so these bytes are never part of generated text.
    """
    return _NULL_USAGE.sub(b"", raw, 1) if b'"usage"' in raw else raw
