"""The fake provider as an ASGI app: sends what the formats reply, or misbehaves."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import replace
from typing import Any, Final

import orjson

from ledger.fake_provider import (
    anthropic_api,
    bedrock_api,
    gemini_api,
    media_api,
    openai_api,
    responses_api,
)
from ledger.fake_provider.books import Bill, Books, leaks
from ledger.fake_provider.directives import HEADER, DirectiveError, Directives, read
from ledger.fake_provider.reply import Asked, Part, Reply, bomb, compressed, cut
from ledger.fake_provider.speech import count, text_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES: Final = 64 << 20
_OPERATIONS: Final = (
    ("/chat/completions", "chat"),
    ("/v1/messages/count_tokens", "count_tokens"),
    ("/v1/messages", "messages"),
    ("/completions", "completions"),
    ("/responses", "responses"),
    ("/embeddings", "embeddings"),
    ("/images/generations", "images"),
    ("/images/edits", "images"),
    ("/audio/transcriptions", "audio"),
    ("/audio/speech", "audio"),
    ("/batches", "batches"),
    *((f"/{name}", name) for name in bedrock_api.OPERATIONS),
)
_MAXIMA: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_DEPLOYMENTS: Final = "/openai/deployments/"
_BLOCK: Final = b"x" * 65_536
_FIRST_TOKEN_S: Final = (
    0.35  # of the demo: before a stream's first token, and for a whole answer's start
)
_TOKEN_S: Final = 0.008


class _HalfwayError(Exception):
    """Ends the connection where it is: the server closes it without an end of the body."""


class FakeProvider:
    """The app. `demo`: answer as slowly as a real model would."""

    def __init__(self, *, demo: bool = False) -> None:
        self.books = Books()
        self._demo = demo
        self._random = random.Random(7)
        self._started = int(time.time())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One ASGI connection: HTTP only."""
        if scope["type"] != "http":
            raise RuntimeError(f"The fake provider does not speak {scope['type']}.")
        if scope["path"].startswith("/_fake/"):
            await _send_json(send, *self._tell(scope["method"], scope["path"]))
            return
        body = await _read_body(receive)
        call = _Call(self, scope, receive, send)
        await call.answer(body)

    def _tell(self, method: str, path: str) -> tuple[int, Any]:
        what, _, rest = path.removeprefix("/_fake/").partition("/")
        if method == "POST" and what == "reset":
            self.books.clear()
            return 200, {}
        if what == "bills" and rest:
            bill = self.books.bills.get(rest)
            return (200, bill.as_dict()) if bill else (404, {"error": f"no bill {rest}"})
        if what == "bills":
            return 200, [bill.as_dict() for bill in self.books.bills.values()]
        if what == "requests":
            return 200, list(self.books.requests)
        if what == "leaks":
            return 200, list(self.books.leaks)
        if what == "sent" and rest in self.books.sent:
            return 200, self.books.sent[rest]
        return (200, {"ok": True}) if what == "ready" else (404, {"error": f"no {path}"})

    def next_request_id(self) -> str:
        """The provider's own name of a call: `req_`, the start of this process and a number."""
        self.books.number += 1
        return f"req_{self._started:x}{self.books.number:07d}"

    def pace(self, wishes: Directives, tokens: int, streamed: bool) -> Directives:
        """The wishes with a real model's latency, where this is a demo and none was asked for."""
        if not self._demo or wishes.first_delay_ms or wishes.delay_ms:
            return wishes
        first = self._random.lognormvariate(0.0, 0.35) * _FIRST_TOKEN_S
        spread = int(_TOKEN_S * 1000 * self._random.uniform(0.7, 1.5))
        whole = first + (0 if streamed else tokens * _TOKEN_S)
        first_ms = min(int(whole * 1000), 8_000)
        return replace(wishes, first_delay_ms=first_ms, delay_ms=spread if streamed else 0)


class _Call:
    """One request from its body to the last byte of its answer."""

    def __init__(self, fake: FakeProvider, scope: Message, receive: Receive, send: Send) -> None:
        self._fake = fake
        self._path: str = scope["path"]
        self._query: bytes = scope["query_string"]
        self._method: str = scope["method"]
        self._headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self._receive = receive
        self._send = send
        self._gone = asyncio.Event()
        self._request_id = fake.next_request_id()

    async def answer(self, body: bytes | None) -> None:
        """Answer, remember what was billed, and notice when nobody listens any more."""
        leaked = leaks(self._headers, self._query)
        self._fake.books.saw(self._seen(len(body or b"")), leaked)
        reply, wishes = self._reply(body, leaked)
        watcher = asyncio.create_task(self._watch())
        try:
            await self._deliver(reply, wishes)
        finally:
            watcher.cancel()

    def _seen(self, body_bytes: int) -> dict[str, Any]:
        headers = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in self._headers]
        return {
            "request_id": self._request_id,
            "method": self._method,
            "path": self._path,
            "query": self._query.decode("latin-1"),
            "headers": headers,
            "body_bytes": body_bytes,
        }

    def _reply(self, body: bytes | None, leaked: list[str]) -> tuple[Reply, Directives]:
        quiet = Directives()
        if leaked:
            says = f"Incorrect API key provided: a Tollkeeper secret was in {', '.join(leaked)}."
            return self._error(401, says), quiet
        if body is None:
            return self._error(413, "The request is larger than 64 MiB."), quiet
        if self._method == "GET" and self._path.endswith("/models") and self._google:
            return gemini_api.models(), quiet
        if self._method == "GET" and self._path.endswith("/models"):
            return openai_api.models(int(time.time())), quiet
        operation = _operation(self._method, self._path)
        if operation is None:
            return self._error(404, f"Unknown request URL: {self._method} {self._path}."), quiet
        try:
            asked = self._asked(operation, body)
        except (DirectiveError, ValueError) as error:
            return self._error(400, str(error)), quiet
        wishes = self._fake.pace(asked.wishes, asked.tokens.output_tokens, _streams(asked))
        return self._mischief(asked, wishes), wishes

    def _asked(self, operation: str, body: bytes) -> Asked:
        head = dict(self._headers).get(b"content-type", b"").decode("latin-1")
        posted = head.startswith("multipart/")
        document = media_api.form(head, body) if posted else orjson.loads(body)
        if not isinstance(document, dict):
            raise ValueError("The request's body is not a JSON object.")
        text = text_of(document)
        header = next((value for name, value in self._headers if name == HEADER), None)
        wishes = read(header, text)
        maxima = (document.get(name) for name in _MAXIMA)
        most = next((m for m in maxima if isinstance(m, int) and m >= 0), None)
        n = document.get("n") if operation in ("chat", "completions") else 1
        choices = n if isinstance(n, int) and 1 <= n <= 128 else 1
        named = bedrock_api.model_in(self._path)
        if named:
            most = bedrock_api.maximum(operation, named, document)
        form = ""
        if operation in gemini_api.METHODS.values():
            named, asked = gemini_api.named(self._path)
            most, choices = gemini_api.limits(document)
            if asked == "streamGenerateContent":
                form = "sse" if b"alt=sse" in self._query else "array"
        if operation in ("embeddings", "gemini_embeddings", "count_tokens", "gemini_count"):
            most = 0
        if operation == "messages" and most is None:
            raise ValueError("max_tokens: Field required")
        azure = ""
        if _DEPLOYMENTS in self._path:
            azure = self._path.partition(_DEPLOYMENTS)[2].partition("/")[0]
        return Asked(
            operation=operation,
            body=document,
            wishes=wishes,
            tokens=count(text, wishes, most, choices),
            request_id=self._request_id,
            created=int(time.time()),
            azure=azure,
            named=named,
            choices=choices,
            form=form,
        )

    def _mischief(self, asked: Asked, wishes: Directives) -> Reply:
        if wishes.status != 200:
            reply = self._error(wishes.status, f"The fake provider was asked for {wishes.status}.")
            if wishes.retry_after:
                reply.headers.append((b"retry-after", str(wishes.retry_after).encode()))
            return reply
        if wishes.html:
            page = b"<!doctype html><title>Welcome</title><p>Sign in to this network."
            return Reply(parts=[Part(page, 0)], content_type=b"text/html")
        if wishes.null:
            return Reply(parts=[Part(b"null", 0)], operation=asked.operation)
        reply = _answer(asked)
        if wishes.bomb:
            reply.headers.append((b"content-encoding", b"gzip"))
            return replace(reply, parts=bomb(wishes.bomb), billed=None)
        if wishes.compress:
            reply.headers.append((b"content-encoding", wishes.compress.encode()))
            return replace(reply, parts=compressed(reply.parts, wishes.compress))
        return reply

    def _error(self, status: int, message: str) -> Reply:
        if bedrock_api.is_bedrock(self._path):
            return bedrock_api.error(status, message)
        if self._google:
            array = "streamGenerateContent" in self._path and b"alt=sse" not in self._query
            return gemini_api.error(status, message, array=array)
        names = {name for name, _ in self._headers}
        if b"anthropic-version" in names or "/v1/messages" in self._path:
            return anthropic_api.error(status, message)
        return openai_api.error(status, message)

    @property
    def _google(self) -> bool:
        """Whether the call speaks Google's own API."""
        asked = gemini_api.named(self._path)[1] in gemini_api.METHODS
        return asked or any(name == b"x-goog-api-client" for name, _ in self._headers)

    async def _deliver(self, reply: Reply, wishes: Directives) -> None:
        bill = self._open_bill(reply)
        await self._pause(wishes.first_delay_ms / 1000)
        if wishes.hang == "start":
            await self._pause(wishes.hang_s)
        if self._gone.is_set():
            self._close_bill(bill, 0, complete=False)
            return
        await self._start(reply, whole=not reply.streamed and not wishes.endless_line)
        said, sent = 0, bytearray()
        parts: Iterable[Part] = reply.parts
        if wishes.chunk_bytes:
            parts = cut(reply.parts, wishes.chunk_bytes)
        for number, part in enumerate(parts):
            if number == wishes.close_after:
                self._close_bill(bill, said, complete=False)
                raise _HalfwayError
            if number and wishes.delay_ms:
                await self._pause(wishes.delay_ms / 1000)
            if wishes.hang == "middle" and number == max(1, len(reply.parts) // 2):
                await self._pause(wishes.hang_s)
            if self._gone.is_set():
                break
            await self._write(part.data)
            said = part.said
            sent += part.data
        if wishes.endless_line:
            await self._write_endless_line(wishes.endless_line)
        gone = self._gone.is_set()
        self._close_bill(bill, said, complete=not gone)
        self._fake.books.keep_sent(self._request_id, bytes(sent))
        if not gone:
            await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, reply: Reply, *, whole: bool) -> None:
        headers = [
            (b"content-type", reply.content_type),
            (b"x-request-id", self._request_id.encode()),
        ]
        if reply.model:
            headers.append((b"openai-processing-ms", b"12"))
        if whole:
            length = sum(len(part.data) for part in reply.parts)
            headers.append((b"content-length", str(length).encode()))
        start = {"type": "http.response.start", "status": reply.status}
        await self._send({**start, "headers": headers + reply.headers})

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _write_endless_line(self, size: int) -> None:
        await self._write(b"data: ")
        for _ in range(-(-size // len(_BLOCK))):
            if self._gone.is_set():
                return
            await self._write(_BLOCK)

    def _open_bill(self, reply: Reply) -> Bill | None:
        if reply.billed is None:
            return None
        bill = Bill(
            request_id=self._request_id,
            response_id=reply.response_id,
            model=reply.model,
            operation=reply.operation,
            streamed=reply.streamed,
            status=reply.status,
            tokens=reply.billed,
        )
        self._fake.books.open_bill(bill)
        return bill

    def _close_bill(self, bill: Bill | None, said: int, *, complete: bool) -> None:
        """A call that was cut short costs what had been generated until then."""
        if bill is None:
            return
        bill.complete = complete
        bill.client_gone = self._gone.is_set()
        if bill.streamed and not complete:
            bill.tokens = replace(
                bill.tokens,
                output_tokens=said,
                reasoning_tokens=min(bill.tokens.reasoning_tokens, said),
                audio_output_tokens=min(bill.tokens.audio_output_tokens, said),
            )

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than the client does."""
        if seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            pass

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()


def _answer(asked: Asked) -> Reply:
    if asked.operation in bedrock_api.OPERATIONS:
        return bedrock_api.answer(asked)
    if asked.operation == "messages":
        return anthropic_api.messages(asked)
    if asked.operation == "count_tokens":
        return anthropic_api.count_tokens(asked)
    if asked.operation == "generate":
        return gemini_api.generate(asked)
    if asked.operation == "gemini_embeddings":
        return gemini_api.embeddings(asked)
    if asked.operation == "gemini_count":
        return gemini_api.count_tokens(asked)
    if asked.operation == "responses":
        return responses_api.responses(asked)
    if asked.operation == "embeddings":
        return openai_api.embeddings(asked)
    if asked.operation == "images":
        return media_api.images(asked)
    if asked.operation == "audio":
        return media_api.speech(asked) if "voice" in asked.body else media_api.transcripts(asked)
    if asked.operation == "batches":
        return media_api.batches(asked)
    return openai_api.completions(asked)


def _streams(asked: Asked) -> bool:
    asked_so = asked.body.get("stream") is True or asked.operation.endswith("-stream")
    return asked_so or bool(asked.form)


def _operation(method: str, path: str) -> str | None:
    if method != "POST":
        return None
    found = gemini_api.METHODS.get(gemini_api.named(path)[1])
    return found or next((name for suffix, name in _OPERATIONS if path.endswith(suffix)), None)


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None where it is too large (the rest is read and dropped)."""
    body = bytearray()
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        data = message.get("body", b"")
        size += len(data)
        if size <= MAX_BODY_BYTES:
            body += data
        if not message.get("more_body"):
            return bytes(body) if size <= MAX_BODY_BYTES else None


async def _send_json(send: Send, status: int, document: Any) -> None:
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
