"""What Envoy tells the exchange, and what the exchange answers. Values only; knows no protobuf and
no policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

Headers = dict[str, bytes]
"""Header values by lower-case name, as raw bytes: values need not be UTF-8. Repeated names are
joined with a comma.
"""


Claims = Mapping[str, str | bool]
"""What one token says that Envoy verified: its claims, as far as they are texts or yes and no."""


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """`ended`: no body will follow. `claims` come from Envoy and never from a header: one mapping
    for each token that its `jwt_authn` verified.
    """

    headers: Headers
    ended: bool
    claims: tuple[Claims, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestBody:
    body: bytes
    ended: bool


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    headers: Headers
    ended: bool


@dataclass(frozen=True, slots=True)
class ResponseBody:
    body: bytes
    ended: bool


@dataclass(frozen=True, slots=True)
class RequestTrailers:
    pass


@dataclass(frozen=True, slots=True)
class ResponseTrailers:
    pass


Message = (
    RequestHeaders
    | RequestBody
    | RequestTrailers
    | ResponseHeaders
    | ResponseBody
    | ResponseTrailers
)
"""What Envoy may send."""


class BodyMode(Enum):
    """How Envoy sends a body; the names are Envoy's."""

    NONE = auto()
    BUFFERED = auto()
    STREAMED = auto()


@dataclass(frozen=True, slots=True)
class Continue:
    """Go on with headers or body, changed as said. `body` replaces the message's body; `b""` drops
    it.

    `response_body` overrides how the response's body is sent (only in answer to headers); likewise
    `request_body`.
    """

    set_headers: tuple[tuple[str, bytes], ...] = ()
    remove_headers: tuple[str, ...] = ()
    body: bytes | None = None
    request_body: BodyMode | None = None
    response_body: BodyMode | None = None


CONTINUE = Continue()


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer the client at once and never go upstream; only before response headers."""

    status: int
    headers: tuple[tuple[str, bytes], ...]
    body: bytes
    details: str
