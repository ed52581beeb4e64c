"""A provider that costs next to nothing: three constant answers on raw connections."""

import argparse
import asyncio
import json

import uvloop

CHUNKS = 200
APART_S = 0.005
_HEAD = {"id": "chatcmpl-bench", "created": 1, "model": "gpt-4o", "system_fingerprint": "fp_1"}
_USAGE = {
    "prompt_tokens": 500,
    "completion_tokens": 200,
    "total_tokens": 700,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _whole(content_type: bytes, body: bytes) -> bytes:
    length = str(len(body)).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: " + content_type + b"\r\ncontent-length: " + length
    return head + b"\r\n\r\n" + body


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _events(with_usage: bool) -> list[bytes]:
    """A chat stream as OpenAI sends it, with and without usage asked for."""
    null = {"usage": None} if with_usage else {}

    def event(choices: list[object], usage: object = None) -> bytes:
        more = {"usage": usage} if usage else null
        document = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
        return _chunk(b"data: " + _compact(document) + b"\n\n")

    said = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    tail = event([last]) + (event([], _USAGE) if with_usage else b"")
    tail += _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return [event([said])] * (CHUNKS - 1) + [tail]


_ANSWER = {
    **_HEAD,
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "word " * 200}, "logprobs": None}
    ],
    "usage": _USAGE,
}
MODELS = _whole(b"application/json", _compact({"object": "list", "data": []}))
WHOLE = _whole(b"application/json", _compact(_ANSWER))
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
STREAMS = {asked: _events(asked) for asked in (True, False)}


class Upstream(asyncio.Protocol):
    """One connection from Envoy; requests come one after the other and have a content-length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        if len(body) < length:
            return
        self._received = b""
        if head.startswith(b"GET "):
            self._transport.write(MODELS)
        elif b'"stream":true' not in body:
            self._transport.write(WHOLE)
        else:
            self._transport.write(STREAM_HEAD)
            self._say(STREAMS[b"include_usage" in body], 0)

    def _say(self, events: list[bytes], number: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(events[number])
        if number + 1 < len(events):
            asyncio.get_running_loop().call_later(APART_S, self._say, events, number + 1)


async def serve(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    uvloop.run(serve(parser.parse_args().port))
