"""Undoes content codings piece by piece, within limits. Knows no HTTP and no API."""

import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import brotli
import zstandard

MAX_OUTPUT_BYTES: Final = 256 * 1024 * 1024
MAX_RATIO: Final = 250
"""Plain bytes per coded byte. Model answers reach about 40, a zstd bomb many thousands."""
FREE_BYTES: Final = 1024 * 1024
"""Output that is never held against the ratio: a short answer of one repeated word is no bomb."""
MAX_CODINGS: Final = 2

_PIECE_BYTES: Final = 64 * 1024
_ZSTD_SLICE_BYTES: Final = (
    512  # at most 128 blocks of 128 KiB: what one slice can swell to before the limits look
)
_ZSTD_WINDOW_BYTES: Final = 8 * 1024 * 1024  # the largest window that HTTP allows (RFC 9659)


class InflateError(ValueError):
    """The coded bytes are damaged, or swell beyond the limits."""


class _Coding(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]: ...


class Inflate:
    """The plain bytes of one message; InflateError, for good, once they are damaged or too many."""

    def __init__(self, codings: list[_Coding], limit_bytes: int) -> None:
        self._codings = codings
        self._limit_bytes = limit_bytes
        self._taken = 0
        self._given = [0] * len(codings)
        self._broken: InflateError | None = None

    def feed(self, data: bytes) -> bytes:
        return b"".join(self.pieces(data))

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes piece by piece, so that what swells is never in memory as a whole."""
        if self._broken:
            raise self._broken
        self._taken += len(data)
        try:
            yield from self._through(0, data)
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            self._broken = InflateError(f"The compressed body is damaged: {error}")
            raise self._broken from error
        except InflateError as error:
            self._broken = error
            raise

    def _through(self, stage: int, data: bytes) -> Iterator[bytes]:
        if stage == len(self._codings):
            yield data
            return
        for piece in self._codings[stage].feed(data):
            self._given[stage] += len(piece)
            self._check(self._given[stage])
            yield from self._through(stage + 1, piece)

    def _check(self, given: int) -> None:
        if given > self._limit_bytes:
            raise InflateError(
                f"The compressed body swells beyond {self._limit_bytes} bytes, more than is read."
            )
        if given > FREE_BYTES + MAX_RATIO * self._taken:
            raise InflateError(
                f"The compressed body swells more than {MAX_RATIO}-fold, which no answer does."
            )


def open_inflate(content_encoding: str, limit_bytes: int = MAX_OUTPUT_BYTES) -> Inflate | None:
    """The decoder for a `content-encoding`; None for an unknown coding or more than two of them."""
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > MAX_CODINGS or any(name not in _CODINGS for name in names):
        return None
    return Inflate([_CODINGS[name]() for name in reversed(names)], limit_bytes)


def _drain(decoder: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    while data:
        if piece := decoder.decompress(data, _PIECE_BYTES):
            yield piece
        data = decoder.unconsumed_tail


class _Gzip:
    """gzip with any number of members; what follows the last and is not gzip is ignored."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)
        self._members = 0
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self._ended:
            began = self._decoder
            try:
                yield from _drain(began, data)
            except zlib.error:
                if not self._members:
                    raise
                self._ended = True
                return
            if not began.eof:
                return
            data = began.unused_data
            self._members += 1
            self._decoder = zlib.decompressobj(wbits=31)


class _Deflate:
    """`deflate` means zlib, but some servers send it raw; the first two bytes tell."""

    def __init__(self) -> None:
        self._head = b""
        self._decoder: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            self._head += data
            if len(self._head) < 2:
                return
            data, self._head = self._head, b""
            wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._decoder = zlib.decompressobj(wbits=15 if wrapped else -15)
        if not self._decoder.eof:
            yield from _drain(self._decoder, data)


class _Brotli:
    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        decoder = self._decoder
        if decoder.is_finished():
            return
        piece: bytes = decoder.process(data, output_buffer_limit=_PIECE_BYTES)
        while True:
            if piece:
                yield piece
            if decoder.is_finished() or decoder.can_accept_more_data():
                return
            piece = decoder.process(b"", output_buffer_limit=_PIECE_BYTES)


class _Zstd:
    """zstd with any number of frames. Sliced, as the decoder does not limit what a call returns."""

    def __init__(self) -> None:
        self._source = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._decoder = self._source.decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_SLICE_BYTES):
            rest = data[start : start + _ZSTD_SLICE_BYTES]
            while rest:
                if piece := self._decoder.decompress(rest):
                    yield piece
                rest = b""
                if self._decoder.eof:
                    rest = self._decoder.unused_data
                    self._decoder = self._source.decompressobj()


_CODINGS: Final[dict[str, Callable[[], _Coding]]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}
