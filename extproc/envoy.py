"""Envoy's messages as our events, our actions as Envoy's replies. The only file that knows the
protobuf.
"""

from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from extproc.events import (
    CONTINUE,
    BodyMode,
    Claims,
    Continue,
    Headers,
    Message,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    Respond,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from extproc.wire import core_pb2, ext_proc_pb2, http_status_pb2, processing_mode_pb2

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
_JWT_AUTHN: Final = "envoy.filters.http.jwt_authn"

Request = ext_proc_pb2.ProcessingRequest
_Mode = processing_mode_pb2.ProcessingMode
_BODY_MODES: Final = {
    None: _Mode.NONE,
    BodyMode.NONE: _Mode.NONE,
    BodyMode.BUFFERED: _Mode.BUFFERED,
    BodyMode.STREAMED: _Mode.STREAMED,
}
_ANSWERS: Final[dict[str, Any]] = {
    "request_headers": ext_proc_pb2.HeadersResponse,
    "request_body": ext_proc_pb2.BodyResponse,
    "response_headers": ext_proc_pb2.HeadersResponse,
    "response_body": ext_proc_pb2.BodyResponse,
}
_OVERWRITE: Final = core_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
parse: Final = Request.FromString


class UnknownMessageError(ValueError):
    """Envoy sent a message of a kind that this processing mode does not ask for."""


def decode(message: Request) -> Message:
    """The event in a message; raises UnknownMessageError where it carries none."""
    kind = message.WhichOneof("request")
    if kind == "response_body":
        part = message.response_body
        return ResponseBody(part.body, part.end_of_stream)
    if kind == "request_headers":
        head = message.request_headers
        claims = _claims(message.metadata_context) if message.metadata_context else ()
        return RequestHeaders(_headers(head.headers), head.end_of_stream, claims)
    if kind == "response_headers":
        head = message.response_headers
        return ResponseHeaders(_headers(head.headers), head.end_of_stream)
    if kind == "request_body":
        part = message.request_body
        return RequestBody(part.body, part.end_of_stream)
    if kind == "request_trailers":
        return RequestTrailers()
    if kind == "response_trailers":
        return ResponseTrailers()
    raise UnknownMessageError(f"Envoy sent an ext_proc message of an unknown kind ({kind}).")


def _headers(header_map: core_pb2.HeaderMap) -> Headers:
    values: Headers = {}
    for header in header_map.headers:
        name = header.key
        if name in values:
            values[name] += b"," + header.raw_value
        else:
            values[name] = header.raw_value
    return values


def _claims(metadata: bytes) -> tuple[Claims, ...]:
    """The claims of the tokens that `jwt_authn` verified, by the names that its providers give
    them; Envoy's limit on headers bounds them.
    """
    spaces = core_pb2.Metadata.FromString(metadata).filter_metadata
    if _JWT_AUTHN not in spaces:
        return ()
    tokens = sorted(spaces[_JWT_AUTHN].fields.items(), key=itemgetter(0))
    return tuple(
        {
            name: value.bool_value if value.HasField("bool_value") else value.string_value
            for name, value in token.struct_value.fields.items()
            if value.HasField("string_value") or value.HasField("bool_value")
        }
        for _, token in tokens
    )


def encode(action: Continue | Respond, answering: Request) -> bytes:
    """The reply to the message `answering`, serialised."""
    kind = answering.WhichOneof("request") or "request_headers"
    if action is CONTINUE:
        return _ACKNOWLEDGE[kind]
    if isinstance(action, Respond):
        return _immediate(action)
    if kind == "request_headers":
        return _remembered(action, kind)
    if len(action.set_headers) == 1 and action.body is None:
        return _one_header(action, kind)
    return _reply(action, kind)


def _one_header(action: Continue, kind: str) -> bytes:
    """A reply that differs from others of its kind in one header's value only: an id, a cost."""
    name, value = action.set_headers[0]
    modes = (action.request_body, action.response_body)
    before, after = _around(kind, name, len(value), action.remove_headers, *modes)
    return before + value + after


@lru_cache(maxsize=1024)
def _around(
    kind: str,
    name: str,
    length: int,
    remove: tuple[str, ...],
    request_body: BodyMode | None,
    response_body: BodyMode | None,
) -> tuple[bytes, bytes]:
    """The serialised reply before and after a value of that length."""
    value = b"\xff" * length
    reply = _reply(Continue(((name, value),), remove, None, request_body, response_body), kind)
    before, _, after = reply.partition(value)
    return before, after


@lru_cache(maxsize=1024)
def _remembered(action: Continue, kind: str) -> bytes:
    """What goes upstream is changed alike for all calls of one SDK."""
    return _reply(action, kind)


def _reply(action: Continue, kind: str) -> bytes:
    common: dict[str, Any] = {}
    if action.set_headers or action.remove_headers:
        common["header_mutation"] = _mutation(action.set_headers, action.remove_headers)
    if action.body:
        common["body_mutation"] = ext_proc_pb2.BodyMutation(body=action.body)
    elif action.body is not None:
        common["body_mutation"] = ext_proc_pb2.BodyMutation(clear_body=True)
    answer = _ANSWERS[kind](response=ext_proc_pb2.CommonResponse(**common))
    reply: dict[str, Any] = {kind: answer}
    if action.request_body is not None or action.response_body is not None:
        reply["mode_override"] = _Mode(
            request_body_mode=_BODY_MODES[action.request_body],
            response_body_mode=_BODY_MODES[action.response_body],
        )
    return ext_proc_pb2.ProcessingResponse(**reply).SerializeToString()


def _mutation(
    set_headers: tuple[tuple[str, bytes], ...], remove: tuple[str, ...]
) -> ext_proc_pb2.HeaderMutation:
    return ext_proc_pb2.HeaderMutation(
        set_headers=[
            core_pb2.HeaderValueOption(
                header=core_pb2.HeaderValue(key=name, raw_value=value), append_action=_OVERWRITE
            )
            for name, value in set_headers
        ],
        remove_headers=remove,
    )


def _immediate(action: Respond) -> bytes:
    return ext_proc_pb2.ProcessingResponse(
        immediate_response=ext_proc_pb2.ImmediateResponse(
            status=http_status_pb2.HttpStatus(code=action.status),
            headers=_mutation(action.headers, ()),
            body=action.body,
            details=action.details,
        )
    ).SerializeToString()


def _acknowledgement(kind: str) -> bytes:
    """An empty reply of one kind; constant, so serialised once."""
    message = ext_proc_pb2.ProcessingResponse()
    getattr(message, kind).SetInParent()
    return message.SerializeToString()


_ACKNOWLEDGE: Final = {
    kind: _acknowledgement(kind)
    for kind in (
        "request_headers",
        "request_body",
        "request_trailers",
        "response_headers",
        "response_body",
        "response_trailers",
    )
}
