"""A JSON array as a stream: any chunking gives the same elements and the same bytes."""

import json
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.jsonarray import ArrayStream
from tests.extproc.test_sse import cut

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)
PIECES = st.sampled_from(
    [b"[", b"]", b"{", b"}", b",", b'"', b"\\", b'\\"', b"\n", b"x", b'{"a":"]"}', b'"[{"', b"\xff"]
)
STREAMS = st.lists(PIECES, max_size=24).map(b"".join) | st.binary(max_size=80)
CUTS = st.lists(st.integers(0, 300), max_size=12)


def read(chunks: list[bytes], limit: int = 10_000) -> tuple[list[bytes], bytes, ArrayStream]:
    """The elements, all bytes that were handed on, and the stream."""
    stream = ArrayStream(limit)
    elements, passed = [], b""
    for chunk in chunks:
        for raw, _, data in stream.split(chunk):
            passed += raw
            elements += [data] if data is not None else []
    raw, _, data = stream.finish()
    assert data is None
    return elements, passed + raw, stream


@given(st.lists(OBJECTS, max_size=5), st.sampled_from([None, 2]), st.booleans(), CUTS)
def test_the_elements_of_any_array(
    objects: list[Any], indent: int | None, ascii_only: bool, cuts: list[int]
) -> None:
    """However it is written and cut, each element is what was put in."""
    text = json.dumps(objects, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    elements, passed, _ = read(cut(text, cuts))
    assert [orjson.loads(element) for element in elements] == orjson.loads(text)
    assert passed == text


@given(STREAMS, CUTS, st.integers(1, 60))
@example(b'[{"a":"\\\\"},{"b":"\\""}]', list(range(24)), 60)
def test_any_chunking_of_anything_is_read_the_same(
    stream: bytes, cuts: list[int], limit: int
) -> None:
    """Nothing raises, every byte is handed on, and too large is a property of the element."""
    whole, passed, at_once = read([stream], limit)
    assert passed == stream
    elements, passed, in_pieces = read(cut(stream, cuts), limit)
    assert (elements, passed) == (whole, stream)
    assert in_pieces.dropped == at_once.dropped


def test_each_piece_has_what_stands_before_its_element() -> None:
    """So what is pending is the next element with its comma, and an error can take its place."""
    stream = ArrayStream()
    assert stream.split(b'[{"a": 1}\n,\n{"b') == [(b'[{"a": 1}', b"", b'{"a": 1}')]
    assert stream.split(b'":2}\n]\n') == [(b'\n,\n{"b":2}', b"", b'{"b":2}')]
    assert stream.finish() == (b"\n]\n", b"", None)


def test_objects_without_an_array_are_elements_too() -> None:
    """A lone error, or one object a line."""
    assert read([b'{"error": {"code": 400}}\n{"b": []}'])[0] == [
        b'{"error": {"code": 400}}',
        b'{"b": []}',
    ]


def test_an_element_over_the_limit_is_counted_and_reading_goes_on() -> None:
    """It costs no more memory than the limit, and the next element is read."""
    stream = ArrayStream(limit_bytes=100)
    given = handed = 0
    for piece in [b'[{"a":"', *[b"x" * 50] * 1000]:
        given += len(piece)
        for raw, _, data in stream.split(piece):
            assert data is None
            handed += len(raw)
        assert given - handed <= 100
    assert stream.feed(b'"},{"b":1}]') == [(b"", b'{"b":1}')]
    assert stream.dropped == 1
