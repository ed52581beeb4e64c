"""The metered event: one per call, whatever its end, and its bytes on the stream. Knows no clock
and no store.
"""

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Final

from google.protobuf.message import DecodeError

from ledger.wire import event_pb2

OUTCOMES: Final = (
    "ok",
    "refused",
    "provider_error",
    "client_gone",
    "provider_gone",
    "gateway_gone",
    "cut",  # a stream that outgrew its hold, ended by the gateway
)
CHAIN_TRUSTS: Final = ("", "verified", "key_bound", "asserted", "inferred")
"""How sure a chain is, and empty where a call is its own root. The first two move the bill."""
BILLINGS: Final = ("caller", "root", "split")
USAGE_SOURCES: Final = ("provider", "estimated", "none")
OPERATIONS: Final = (
    "chat",
    "completions",
    "responses",
    "messages",
    "embeddings",
    "generate",
    "converse",
    "tool_call",
    "agent_call",
    "images",
    "audio",
    "batches",
    "other",
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by kind. Parts are contained in their whole: cached, audio and images in input;
    reasoning, audio and images in output.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredEvent:
    """One call. Field names are the public contract; times are UTC, tokens counts, money
    nanodollars.

    `cost_nanos` is None where the price is unknown, which is never the same as a call that cost
    nothing.
    """

    event_id: str
    producer: str
    seq: int
    occurred_at_us: int

    key_id: str = ""
    owner: str = ""
    principal: str = ""
    team: str = ""
    agent: str = ""
    workload: str = ""
    customer: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    run_id: str = ""
    root_key_id: str = ""
    root_team: str = ""
    root_agent: str = ""
    root_workload: str = ""
    parent_key_id: str = ""
    depth: int = 0
    chain_trust: str = ""

    provider: str = ""
    model_requested: str = ""
    model: str = ""
    operation: str = "other"
    streamed: bool = False

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0

    cost_nanos: int | None = None
    provider_cost_nanos: int | None = None
    price_source: str = ""
    usage_source: str = "none"
    hold_nanos: int = 0
    price_version: str = ""
    provider_response_id: str = ""

    http_status: int = 0
    outcome: str = "ok"
    refusal: str = ""
    latency_ms: int = 0
    first_byte_ms: int | None = None
    attempts: int = 1
    route: str = ""
    policy_version: int = 0
    service_tier: str = ""
    byok: bool = False
    refused_by: str = ""
    shadow_refusal: str = ""
    billing: str = ""
    chain_signal: str = ""
    chain_fault: str = ""
    chain_path: str = ""
    tool_name: str = ""
    target_agent: str = ""
    image_input_tokens: int = 0
    image_output_tokens: int = 0


FIELDS: Final = tuple(f.name for f in fields(MeteredEvent))
_OPTIONAL: Final = frozenset(("cost_nanos", "provider_cost_nanos", "first_byte_ms"))
_values: Final = attrgetter(*FIELDS)
TOKEN_FIELDS: Final = tuple(f.name for f in fields(Usage))


class MalformedEventError(ValueError):
    """The bytes are not a metered event."""


def fields_to_bytes(said: dict[str, Any], seq: int) -> bytes:
    """As `to_bytes`, from the fields that differ from the defaults: the request path's own way."""
    return event_pb2.MeteredEvent(seq=seq, **said).SerializeToString()


def to_bytes(event: MeteredEvent, seq: int | None = None) -> bytes:
    """The serialised `tollkeeper.v1.MeteredEvent`, numbered `seq` where it is given."""
    said = {
        name: value
        for name, value in zip(FIELDS, _values(event), strict=True)
        if value or (value is not None and name in _OPTIONAL)
    }
    if seq is not None:
        said["seq"] = seq
    return event_pb2.MeteredEvent(**said).SerializeToString()


def from_bytes(payload: bytes) -> MeteredEvent:
    """The event in `payload`; raises MalformedEventError when it is not one."""
    try:
        message = event_pb2.MeteredEvent.FromString(payload)
    except DecodeError as error:
        raise MalformedEventError(f"The entry is not a serialised MeteredEvent: {error}") from error
    values: dict[str, Any] = {name: getattr(message, name) for name in FIELDS}
    values["labels"] = dict(values["labels"])
    for name in _OPTIONAL:
        if not message.HasField(name):
            values[name] = None
    return MeteredEvent(**values)
