"""Speaks ext_proc as Envoy would, through an implementation that is not ours."""

import json
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its pydantic models use a deprecated decorator
    from envoy_data_plane.envoy.config.core.v3 import HeaderMap, HeaderValue
    from envoy_data_plane.envoy.service.ext_proc.v3 import (
        HttpBody,
        HttpHeaders,
        HttpTrailers,
        ProcessingRequest,
        ProcessingResponse,
    )

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


def _map(headers: dict[str, str | bytes]) -> HeaderMap:
    return HeaderMap(
        headers=[
            HeaderValue(key=name, raw_value=value if isinstance(value, bytes) else value.encode())
            for name, value in headers.items()
        ]
    )


def request_headers(
    path: str,
    *,
    method: str = "POST",
    ended: bool = False,
    key: str = "",
    **more: str | bytes,
) -> bytes:
    """The head of a client's request; `more` are header names with `_` for `-`."""
    head: dict[str, str | bytes] = {
        ":method": method,
        ":path": path,
        ":authority": "gateway",
        ":scheme": "http",
        "content-type": "application/json",
        **({"authorization": f"Bearer {key}"} if key else {}),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return bytes(
        ProcessingRequest(request_headers=HttpHeaders(headers=_map(head), end_of_stream=ended))
    )


def request_body(document: Any, *, ended: bool = True) -> bytes:
    """A client's body: JSON unless it is bytes already."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return bytes(ProcessingRequest(request_body=HttpBody(body=body, end_of_stream=ended)))


def response_headers(
    status: int = 200, content_type: str = "application/json", *, ended: bool = False, **more: str
) -> bytes:
    """The head of a provider's answer."""
    head: dict[str, str | bytes] = {":status": str(status), "content-type": content_type}
    head |= {name.replace("_", "-"): value for name, value in more.items()}
    return bytes(
        ProcessingRequest(response_headers=HttpHeaders(headers=_map(head), end_of_stream=ended))
    )


def response_body(document: Any, *, ended: bool = True) -> bytes:
    """A provider's body or a chunk of it."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return bytes(ProcessingRequest(response_body=HttpBody(body=body, end_of_stream=ended)))


def request_trailers() -> bytes:
    """A client's trailers."""
    return bytes(ProcessingRequest(request_trailers=HttpTrailers(trailers=_map({"x-t": "1"}))))


def response_trailers() -> bytes:
    """A provider's trailers."""
    return bytes(ProcessingRequest(response_trailers=HttpTrailers(trailers=_map({"x-t": "1"}))))


class Call:
    """One ext_proc stream: one HTTP call."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aenter__(self) -> "Call":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Every call ends the way Envoy ends it by default: reset."""
        self._stream.cancel()

    async def say(self, message: bytes) -> Any:
        """Send one message and read the one `ProcessingResponse` to it."""
        await self._stream.write(message)
        reply = await self._stream.read()
        if reply is grpc.aio.EOF:
            raise AssertionError(f"the sidecar ended the stream: {await self._stream.code()}")
        return reply

    async def send(self, message: bytes) -> None:
        """Send one message and read nothing."""
        await self._stream.write(message)

    async def hang_up(self) -> grpc.StatusCode:
        """Half-close, read what still comes, and return how the sidecar ended."""
        await self._stream.done_writing()
        try:
            while await self._stream.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        code: grpc.StatusCode = await self._stream.code()
        return code

    def reset(self) -> None:
        """End the stream at once, as when a client disconnects."""
        self._stream.cancel()


class Voice:
    """An open channel to one sidecar."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._open = channel.stream_stream(
            METHOD, request_serializer=None, response_deserializer=ProcessingResponse.parse
        )

    def call(self, *metadata: tuple[str, str]) -> Call:
        """A new stream; `metadata` is what a route's `grpc_initial_metadata` says."""
        return Call(self._open(metadata=metadata, timeout=30))


@asynccontextmanager
async def voice(socket: Path) -> AsyncIterator[Voice]:
    """A channel to the sidecar at `socket`."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        yield Voice(channel)
