"""Content codings: any chunking gives the same bytes, and nothing swells beyond the limits."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.inflate import InflateError, open_inflate
from tests.extproc.test_sse import cut


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


CODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "two gzip members": ("x-gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "brotli": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.compress),
    "two zstd frames": (
        "ZSTD",
        lambda data: zstandard.compress(data[:7]) + zstandard.compress(data[7:]),
    ),
    "gzip, then brotli": ("gzip, br", lambda data: brotli.compress(gzip.compress(data))),
    "identity": ("identity", lambda data: data),
    "none": ("", lambda data: data),
}


def inflate(encoding: str, chunks: list[bytes]) -> bytes:
    decoder = open_inflate(encoding)
    assert decoder is not None
    return b"".join([decoder.feed(chunk) for chunk in chunks])


@pytest.mark.parametrize("name", CODERS)
@settings(max_examples=40)
@given(
    word=st.binary(max_size=300),
    times=st.sampled_from([1, 3, 2000]),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_any_chunking_gives_the_plain_bytes(
    name: str, word: bytes, times: int, cuts: list[int]
) -> None:
    """Every coding, alone or stacked, cut anywhere."""
    text = word * times
    encoding, code = CODERS[name]
    assert inflate(encoding, cut(code(text), cuts)) == text


@pytest.mark.parametrize("name", CODERS)
def test_a_cut_body_gives_what_came(name: str) -> None:
    """A stream that ends early is no error: what was readable is read."""
    text = bytes(range(256)) * 40
    encoding, code = CODERS[name]
    coded = code(text)
    assert text.startswith(inflate(encoding, [coded[: len(coded) * 2 // 3]]))


@pytest.mark.parametrize("name", [name for name in CODERS if name not in ("identity", "none")])
@settings(max_examples=40)
@given(noise=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_noise_is_an_inflate_error_or_bytes(name: str, noise: bytes, cuts: list[int]) -> None:
    """Whatever a server sends, no other exception comes out."""
    with suppress(InflateError):
        inflate(CODERS[name][0], cut(noise, cuts))


@pytest.mark.parametrize(
    ("encoding", "bomb"),
    [
        ("br", brotli.compress(bytes(64 * 1024 * 1024), quality=5)),
        ("zstd", zstandard.compress(bytes(64 * 1024 * 1024))),
        ("gzip", gzip.compress(bytes(64 * 1024 * 1024))),
        ("gzip, gzip", gzip.compress(gzip.compress(bytes(64 * 1024 * 1024)))),
    ],
)
def test_a_bomb_is_refused_before_it_fills_the_memory(encoding: str, bomb: bytes) -> None:
    """A body that swells more than any answer does is an error, and stays one."""
    decoder = open_inflate(encoding)
    assert decoder is not None
    tracemalloc.start()
    with pytest.raises(InflateError, match="swells more than 250-fold"):
        decoder.feed(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 * 1024 * 1024
    with pytest.raises(InflateError, match="swells"):
        decoder.feed(b"")


def test_the_total_is_limited() -> None:
    """The caller says how much it is willing to read."""
    decoder = open_inflate("gzip", limit_bytes=1000)
    assert decoder is not None
    with pytest.raises(InflateError, match="beyond 1000 bytes"):
        decoder.feed(gzip.compress(bytes(range(256)) * 4))


def test_bytes_behind_the_last_gzip_member_are_ignored() -> None:
    """As gunzip does: padding and garbage after a complete member do no harm."""
    assert inflate("gzip", [gzip.compress(b"answer") + bytes(20) + b"garbage"]) == b"answer"


@pytest.mark.parametrize("encoding", ["compress", "gzip, br, zstd", "dcb", "gzip;q=1"])
def test_an_unknown_coding_is_none(encoding: str) -> None:
    """The caller passes such an answer on unread and says that it was not metered."""
    assert open_inflate(encoding) is None
