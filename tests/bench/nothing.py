"""The floor: an ext_proc server that does nothing but ask for the same messages that ours does."""

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from extproc.wire import ext_proc_pb2, processing_mode_pb2

_Request = ext_proc_pb2.ProcessingRequest
_Mode = processing_mode_pb2.ProcessingMode


def _reply(kind: str, request: Any = None, response: Any = None) -> bytes:
    """A constant reply, with the body modes that it asks for."""
    message = ext_proc_pb2.ProcessingResponse()
    getattr(message, kind).SetInParent()
    if request is not None:
        message.mode_override.request_body_mode = request
        message.mode_override.response_body_mode = response or _Mode.NONE
    return message.SerializeToString()


PASS = {
    kind: _reply(kind)
    for kind in ("request_headers", "request_body", "response_headers", "response_body")
}
WANT_BODY = _reply("request_headers", _Mode.BUFFERED)
WANT_WHOLE = _reply("response_headers", _Mode.BUFFERED, _Mode.BUFFERED)
WANT_CHUNKS = _reply("response_headers", _Mode.BUFFERED, _Mode.STREAMED)


async def process(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
    """Answer each message with a constant; a GET is never asked for more."""
    bodies = False
    async for message in messages:
        kind = message.WhichOneof("request")
        if kind == "request_headers":
            bodies = not message.request_headers.end_of_stream
            yield WANT_BODY if bodies else PASS[kind]
        elif kind == "response_headers" and bodies:
            yield WANT_CHUNKS if _is_stream(message.response_headers.headers) else WANT_WHOLE
        else:
            yield PASS[kind]


def _is_stream(headers: Any) -> bool:
    for header in headers.headers:
        if header.key == "content-type":
            return bool(header.raw_value.startswith(b"text/event-stream"))
    return False


async def _healthy(request: bytes, context: Any) -> bytes:
    return b"\x08\x01"


async def serve(socket: str) -> None:
    """Serve one Unix socket until told to stop, with the options that our own server has."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=unlimited, maximum_concurrent_rpcs=4096)
    handler = grpc.stream_stream_rpc_method_handler(
        process, request_deserializer=_Request.FromString
    )
    service = "envoy.service.ext_proc.v3.ExternalProcessor"
    health = grpc.unary_unary_rpc_method_handler(_healthy)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(service, {"Process": handler}),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health}),
        )
    )
    server.add_insecure_port(f"unix:{socket}")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    uvloop.run(serve(parser.parse_args().socket))
