"""Server-sent events: any chunking gives the same events and the same bytes."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from extproc.sse import EventStream

PIECES = st.sampled_from(
    [
        b"data: {}\n\n",
        b"data:x\r\n\r\n",
        b"event: e\ndata: y\n\n",
        b"data: a\ndata: b\r\r",
        b": note\n\n",
        b"\n",
        b"\r",
        b"\r\n",
        b"data\n\n",
        b"id: 1\nretry: 5\n\n",
        b"event\ndata: z\n",
        b"\xef\xbb\xbf",
        b"data: " + b"long" * 20 + b"\n\n",
        b"no field at all",
        b"dataset: no\n\n",
    ]
)
STREAMS = st.lists(PIECES, max_size=12).map(b"".join) | st.binary(max_size=120)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    """`stream` in pieces, cut at the given offsets."""
    edges = [0, *sorted(at for at in cuts if at <= len(stream)), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def read(chunks: list[bytes], limit: int = 1000) -> tuple[list[tuple[bytes, bytes]], EventStream]:
    stream = EventStream(limit)
    events = [event for chunk in chunks for event in stream.feed(chunk)]
    _, event, data = stream.finish()
    if data is not None:
        events.append((event, data))
    return events, stream


def keep(chunks: list[bytes], unwanted: bytes, limit: int = 1000) -> bytes:
    stream = EventStream(limit)
    kept = [stream.keep(chunk, lambda _, data: data == unwanted) for chunk in chunks]
    raw, _, data = stream.finish()
    return b"".join(kept) + (b"" if data == unwanted else raw)


def test_fields_are_read_as_the_standard_says() -> None:
    """Comments and unknown fields are skipped, data lines joined, one space eaten."""
    stream = b"\xef\xbb\xbf: hi\nevent: e\nid: 7\ndata:  two\ndata:lines\n\n"
    stream += b"data\n\nevent: lost\n\ndata: x\n\n"
    assert read([stream])[0] == [(b"e", b" two\nlines"), (b"", b""), (b"", b"x")]


def test_every_line_end_works() -> None:
    """Line feed, carriage return and both together, mixed in one stream."""
    stream = b"data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\r\n\ndata: e\n\r\ndata: f\n\n"
    assert [data for _, data in read([stream])[0]] == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_an_event_without_its_blank_line_still_counts_at_the_end() -> None:
    """Some servers end with `data: [DONE]` and a closed connection."""
    assert read([b"data: [DO", b"NE]"])[0] == [(b"", b"[DONE]")]


@given(STREAMS, st.lists(st.integers(0, 200), max_size=8))
@example(b"data: a\r\r\ndata: b\r\n\r\n", [7, 8, 9, 10, 19, 20])
def test_any_chunking_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    """Where the network cut the stream is not visible in its events."""
    assert read(cut(stream, cuts))[0] == read([stream])[0]


@given(STREAMS, st.lists(st.integers(0, 200), max_size=8), st.integers(1, 60))
def test_any_chunking_drops_the_same_events(stream: bytes, cuts: list[int], limit: int) -> None:
    """Too large is a property of the event, not of how it arrived."""
    whole, at_once = read([stream], limit)
    pieces, in_pieces = read(cut(stream, cuts), limit)
    assert pieces == whole
    assert in_pieces.dropped == at_once.dropped


@given(STREAMS, st.lists(st.integers(0, 200), max_size=8), st.integers(1, 200))
def test_nothing_removed_is_nothing_changed(stream: bytes, cuts: list[int], limit: int) -> None:
    """With nothing to drop the kept bytes are the stream, however it is cut."""
    assert keep(cut(stream, cuts), b"\x00never", limit) == stream


@given(STREAMS, st.lists(st.integers(0, 200), max_size=8))
def test_any_chunking_keeps_the_same_bytes(stream: bytes, cuts: list[int]) -> None:
    """Removing an event leaves the same bytes for every chunking."""
    assert keep(cut(stream, cuts), b"y") == keep([stream], b"y")


def test_one_event_is_removed_exactly() -> None:
    """Its lines and its blank line go, every other byte stays."""
    stream = b": hi\n\ndata: a\r\n\r\nevent: u\r\ndata: y\r\n\r\ndata: b\n\n"
    assert keep([stream], b"y") == b": hi\n\ndata: a\r\n\r\ndata: b\n\n"


def test_an_untouched_chunk_is_handed_on_as_it_is() -> None:
    """The caller can tell by identity that nothing was changed."""
    stream = EventStream()
    for chunk in (b"data: a\n\n", b"data: b\n\ndata: c\n\n", b""):
        assert stream.keep(chunk, lambda *_: False) is chunk


def test_an_event_over_the_limit_is_counted_and_reading_goes_on() -> None:
    """A line without end costs no more memory than the limit, and the next event is read."""
    stream = EventStream(limit_bytes=100)
    for _ in range(1000):
        assert stream.feed(b"data: " + b"x" * 50) == []
    assert len(stream.split(b"x" * 1_000_000)[0][0]) >= 1_000_000
    assert stream.feed(b"\n\ndata: next\n\n") == [(b"", b"next")]
    assert stream.dropped == 1
