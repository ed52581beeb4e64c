"""AWS's binary event stream: any chunking gives the same events and bytes; botocore agrees."""

from struct import pack
from typing import Any
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from extproc.eventstream import MAX_HEADERS_BYTES, BinaryEventStream, frame
from tests.extproc.test_sse import cut

EVENT = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
NAMES = st.text("abc:-é", min_size=1, max_size=20)
FRAMES = st.builds(
    lambda headers, payload: frame(EVENT | headers, payload),
    st.dictionaries(NAMES, st.text(max_size=30), max_size=3),
    st.binary(max_size=60),
)
STREAMS = st.lists(FRAMES, max_size=6).map(b"".join)
CUTS = st.lists(st.integers(0, 900), max_size=12)


def read(chunks: list[bytes], limit: int = 4096) -> tuple[list[tuple[bytes, bytes]], bytes, Any]:
    """The events, the bytes of all pieces, and the reader."""
    stream = BinaryEventStream(limit)
    pieces = [piece for chunk in chunks for piece in stream.split(chunk)]
    pieces.append(stream.finish())
    events = [(event, data) for _, event, data in pieces if data is not None]
    return events, b"".join(raw for raw, _, _ in pieces), stream


def test_what_is_framed_is_read() -> None:
    """Type and payload of events, exceptions and errors; an exception is not taken for an event."""
    stream = frame(EVENT, b"{}")
    stream += frame({":message-type": "exception", ":exception-type": "chunk"}, b"no")
    stream += frame({":message-type": "error", ":error-code": "500"}, b"")
    stream += frame({}, b"bare")
    events = [(b"chunk", b"{}"), (b"fault:chunk", b"no"), (b"fault:500", b""), (b"", b"bare")]
    assert read([stream])[0] == events


@given(st.dictionaries(NAMES, st.text(max_size=30), max_size=5), st.binary(max_size=200))
def test_botocore_reads_what_is_framed(headers: dict[str, str], payload: bytes) -> None:
    """An implementation that knows nothing of ours finds the same headers and payload."""
    theirs = EventStreamBuffer()
    theirs.add_data(frame(headers, payload))
    (message,) = list(theirs)
    assert (message.headers, message.payload) == (headers, payload)


@given(STREAMS, CUTS)
def test_botocore_reads_the_same(stream: bytes, cuts: list[int]) -> None:
    """Event by event, however the stream was chunked."""
    theirs = EventStreamBuffer()
    found = []
    for chunk in cut(stream, cuts):
        theirs.add_data(chunk)
        found += [(each.headers[":event-type"].encode(), each.payload) for each in theirs]
    assert read(cut(stream, cuts))[0] == found


@given(STREAMS | st.binary(max_size=200), CUTS, st.integers(16, 200))
def test_any_chunking_gives_the_same_events_and_bytes(
    stream: bytes, cuts: list[int], limit: int
) -> None:
    """Where the network cut the stream, and how much may be held, is not visible."""
    events, sent, whole = read([stream], limit)
    again, sent_again, pieces = read(cut(stream, cuts), limit)
    assert (again, sent_again) == (events, stream)
    assert sent == stream
    assert (pieces.dropped, bool(pieces.broken)) == (whole.dropped, bool(whole.broken))


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_arbitrary_bytes_never_raise(chunks: list[bytes]) -> None:
    """Whatever comes passes."""
    assert read(chunks)[1] == b"".join(chunks)


@given(STREAMS, st.integers(0, 2**16), st.integers(1, 255), CUTS)
def test_a_flipped_byte_is_never_read(
    stream: bytes, place: int, change: int, cuts: list[int]
) -> None:
    """What comes before the damaged frame is read, nothing after it is, and every byte passes."""
    if not stream:
        return
    damaged = bytearray(stream)
    damaged[place % len(stream)] ^= change
    events, sent, _ = read(cut(bytes(damaged), cuts))
    good = read([stream])[0]
    assert events == good[: len(events)]
    assert len(events) < len(good)
    assert sent == bytes(damaged)


def test_a_wrong_checksum_makes_the_rest_unread() -> None:
    """Of the prelude or of the frame: nothing says where the next frame begins."""
    good = frame(EVENT, b"{}")
    for place in (8, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 1
        events, sent, reader = read([good + bytes(bad) + good])
        assert (events, sent) == ([(b"chunk", b"{}")], good + bytes(bad) + good)
        assert "checksum" in reader.broken


@pytest.mark.parametrize(
    ("length", "headers"), [(15, 0), (100, 85), (2**31, MAX_HEADERS_BYTES + 1)]
)
def test_impossible_lengths_end_the_reading(length: int, headers: int) -> None:
    """A frame shorter than its own parts, or with more headers than AWS allows."""
    lengths = pack(">II", length, headers)
    prelude = lengths + pack(">I", crc32(lengths))
    events, sent, reader = read([prelude, b"x" * 300])
    assert (events, sent) == ([], prelude + b"x" * 300)
    assert "impossible" in reader.broken


def test_a_frame_over_the_limit_passes_as_it_comes_and_reading_goes_on() -> None:
    """Its length is known, so the next frame is found, and nothing of it is held."""
    large, small = frame(EVENT, b"x" * 1000), frame(EVENT, b"{}")
    stream = BinaryEventStream(limit_bytes=200)
    sent = b""
    for chunk in cut(large + small, list(range(0, 1200, 50))):
        pieces = stream.split(chunk)
        sent += b"".join(raw for raw, _, _ in pieces)
    assert sent == large + small
    assert stream.dropped == 1
    assert stream.feed(small) == [(b"chunk", b"{}")]


def test_a_length_that_has_not_its_checksum_is_not_waited_for() -> None:
    """Four gigabytes that a damaged prelude promises are not held back."""
    stream = BinaryEventStream()
    assert stream.split(b"\xff" * 5) == []
    assert stream.split(b"\xff" * 20)[0][0] == b"\xff" * 25
    assert stream.broken


def test_a_header_of_every_type_is_passed_over() -> None:
    """Booleans, numbers, bytes, timestamps and UUIDs may stand beside the type."""
    values = [(0, b""), (1, b""), (2, b"a"), (3, b"ab"), (4, b"abcd"), (5, b"x" * 8)]
    values += [(6, b"\x00\x02ab"), (8, b"x" * 8), (9, b"x" * 16)]
    headers = b"".join(bytes((1, 97 + at, kind)) + value for at, (kind, value) in enumerate(values))
    headers += b"\x0b:event-type\x07\x00\x05chunk"
    lengths = pack(">II", len(headers) + 16, len(headers))
    whole = lengths + pack(">I", crc32(lengths)) + headers
    whole += pack(">I", crc32(whole))
    assert read([whole])[0] == [(b"chunk", b"")]
    theirs = EventStreamBuffer()
    theirs.add_data(whole)
    assert next(theirs).headers[":event-type"] == "chunk"
