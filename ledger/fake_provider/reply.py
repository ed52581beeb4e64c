"""One answer before it is sent: its parts and what they cost. Knows no format and no socket."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import brotli
import orjson
import zstandard

from ledger.fake_provider.directives import Directives
from ledger.fake_provider.speech import Tokens

JSON: Final = b"application/json"
SSE: Final = b"text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of the answer; `said` output tokens have been generated once they are sent."""

    data: bytes
    said: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer. `billed` is what it costs when it was generated to the end; None: it is free."""

    parts: list[Part]
    content_type: bytes = JSON
    status: int = 200
    billed: Tokens | None = None
    model: str = ""
    response_id: str = ""
    operation: str = "other"
    streamed: bool = False
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood. `azure`: the deployment's name, empty elsewhere; `named`: the
    model, where its path names it. `form` of a stream of Google's: `sse` or `array`.
    """

    operation: str
    body: dict[str, Any]
    wishes: Directives
    tokens: Tokens
    request_id: str
    created: int
    azure: str = ""
    named: str = ""
    choices: int = 1
    form: str = ""

    @property
    def model(self) -> str:
        said = self.named or self.body.get("model") or self.azure
        return self.wishes.model or str(said or "unknown")


def json_parts(document: Any, said: int) -> list[Part]:
    """A whole JSON document, indented as OpenAI's are."""
    return [Part(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n", said)]


def sse(data: Any, event: str = "", *, crlf: bool = False) -> bytes:
    """One server-sent event; `data` is sent as it is where it is bytes, else as JSON."""
    end = b"\r\n" if crlf else b"\n"
    name = b"event: " + event.encode() + end if event else b""
    payload = data if isinstance(data, bytes) else orjson.dumps(data)
    return name + b"data: " + payload + end + end


class _Compressor(Protocol):
    def add(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._inner = zlib.compressobj(wbits=wbits)

    def add(self, data: bytes) -> bytes:
        return self._inner.compress(data) + self._inner.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._inner.flush()


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Compressor(quality=4)

    def add(self, data: bytes) -> bytes:
        return bytes(self._inner.process(data) + self._inner.flush())

    def end(self) -> bytes:
        return bytes(self._inner.finish())


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstandard.ZstdCompressor().compressobj()

    def add(self, data: bytes) -> bytes:
        return self._inner.compress(data) + self._inner.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._inner.flush()


def compressed(parts: list[Part], how: str) -> list[Part]:
    """The parts compressed in one stream, flushed after each, so that each can be read in time."""
    compressor: _Compressor
    if how == "br":
        compressor = _Brotli()
    elif how == "zstd":
        compressor = _Zstd()
    else:
        compressor = _Zlib(31 if how == "gzip" else 15)
    made = [Part(compressor.add(part.data), part.said) for part in parts]
    return [*made, Part(compressor.end(), parts[-1].said if parts else 0)]


def cut(parts: list[Part], size: int) -> Iterator[Part]:
    """The same bytes in chunks of `size`, whatever they cut through."""
    data = b"".join(part.data for part in parts)
    ends: list[tuple[int, int]] = []
    reached = 0
    for part in parts:
        reached += len(part.data)
        ends.append((reached, part.said))
    index = 0
    for start in range(0, len(data), size):
        end = min(start + size, len(data))
        while index < len(ends) - 1 and ends[index][0] < end:
            index += 1
        yield Part(data[start:end], ends[index][1])


def bomb(size: int) -> list[Part]:
    """A small gzip body that unpacks to `size` bytes of white space and one JSON document."""
    compressor = zlib.compressobj(9, wbits=31)
    block = b" " * 65_536
    data = b"".join(compressor.compress(block) for _ in range(-(-size // len(block))))
    return [Part(data + compressor.compress(b"{}") + compressor.flush(), 0)]
