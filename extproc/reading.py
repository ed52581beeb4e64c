"""A streamed answer as it passes: decode, split into events, read usage, take out what we asked
for. Pure.
"""

import re
from typing import Final

from extproc.inflate import InflateError, open_inflate
from extproc.providers.shape import Answer, Stream
from extproc.sse import EventStream

_NULL_USAGE: Final = re.compile(rb',\s*"usage"\s*:\s*null')


class StreamedAnswer:
    """Feeds a provider's stream reader, chunk by chunk, whatever the chunking and the content
    coding.

    `remove_usage`: the usage-only event, and the null usage of all others, are there because we
    asked for usage, so they are taken out; the other bytes reach the client as they came, decoded
    where they came compressed. A stream in a coding that cannot be decoded passes unread.
    """

    def __init__(self, stream: Stream, content_encoding: str, *, remove_usage: bool) -> None:
        self._stream = stream
        self._events = EventStream()
        coded = content_encoding not in ("", "identity")
        self._inflate = open_inflate(content_encoding) if coded else None
        self._unreadable = coded and self._inflate is None
        self._remove = remove_usage and not self._unreadable
        self.decoded = self._remove and coded

    @property
    def answer(self) -> Answer:
        return self._stream.answer

    def feed(self, chunk: bytes, ended: bool) -> bytes | None:
        """Read one chunk. None: it passes as it is; else the bytes that go to the client in its
        place.
        """
        if self._unreadable:
            return b"" if self.decoded else None
        plain = chunk
        if self._inflate is not None:
            try:
                plain = self._inflate.feed(chunk)
            except InflateError:
                self._unreadable = True
                return b"" if self.decoded else None
        if not self._remove:
            for event, data in self._events.feed(plain):
                self._stream.feed(event, data)
            if ended:
                self._last()
            return None
        kept = [
            _without_usage(raw)
            for raw, event, data in self._events.split(plain)
            if data is None or not self._stream.feed(event, data)
        ]
        if ended:
            kept.append(self._last())
        body = b"".join(kept)
        return None if body == chunk else body

    def _last(self) -> bytes:
        """What was held at the end of the stream, less an unfinished event of usage alone."""
        raw, event, data = self._events.finish()
        drop = data is not None and self._stream.feed(event, data)
        return b"" if drop and self._remove else _without_usage(raw) if self._remove else raw


def _without_usage(raw: bytes) -> bytes:
    """An event without the null usage that every event has once usage is asked for.

    Quotes inside a JSON string are escaped, so these bytes are never part of generated text.
    """
    return _NULL_USAGE.sub(b"", raw, 1) if b'"usage"' in raw else raw
