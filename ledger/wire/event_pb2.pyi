from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class MeteredEvent(_message.Message):
    __slots__ = ("event_id", "producer", "seq", "occurred_at_us", "key_id", "owner", "principal", "team", "agent", "workload", "customer", "labels", "run_id", "root_key_id", "root_team", "root_agent", "root_workload", "parent_key_id", "depth", "chain_trust", "provider", "model_requested", "model", "operation", "streamed", "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens", "audio_input_tokens", "audio_output_tokens", "cost_nanos", "provider_cost_nanos", "price_source", "usage_source", "hold_nanos", "price_version", "provider_response_id", "http_status", "outcome", "refusal", "latency_ms", "first_byte_ms", "attempts", "route", "policy_version", "byok", "refused_by", "shadow_refusal", "service_tier")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_US_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_TEAM_FIELD_NUMBER: _ClassVar[int]
    ROOT_AGENT_FIELD_NUMBER: _ClassVar[int]
    ROOT_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    PARENT_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    CHAIN_TRUST_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    STREAMED_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_5M_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_1H_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    PRICE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    USAGE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    HOLD_NANOS_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    HTTP_STATUS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_BYTE_MS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    BYOK_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_REFUSAL_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIER_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    producer: str
    seq: int
    occurred_at_us: int
    key_id: str
    owner: str
    principal: str
    team: str
    agent: str
    workload: str
    customer: str
    labels: _containers.ScalarMap[str, str]
    run_id: str
    root_key_id: str
    root_team: str
    root_agent: str
    root_workload: str
    parent_key_id: str
    depth: int
    chain_trust: str
    provider: str
    model_requested: str
    model: str
    operation: str
    streamed: bool
    input_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    cost_nanos: int
    provider_cost_nanos: int
    price_source: str
    usage_source: str
    hold_nanos: int
    price_version: str
    provider_response_id: str
    http_status: int
    outcome: str
    refusal: str
    latency_ms: int
    first_byte_ms: int
    attempts: int
    route: str
    policy_version: int
    byok: bool
    refused_by: str
    shadow_refusal: str
    service_tier: str
    def __init__(self, event_id: _Optional[str] = ..., producer: _Optional[str] = ..., seq: _Optional[int] = ..., occurred_at_us: _Optional[int] = ..., key_id: _Optional[str] = ..., owner: _Optional[str] = ..., principal: _Optional[str] = ..., team: _Optional[str] = ..., agent: _Optional[str] = ..., workload: _Optional[str] = ..., customer: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., run_id: _Optional[str] = ..., root_key_id: _Optional[str] = ..., root_team: _Optional[str] = ..., root_agent: _Optional[str] = ..., root_workload: _Optional[str] = ..., parent_key_id: _Optional[str] = ..., depth: _Optional[int] = ..., chain_trust: _Optional[str] = ..., provider: _Optional[str] = ..., model_requested: _Optional[str] = ..., model: _Optional[str] = ..., operation: _Optional[str] = ..., streamed: _Optional[bool] = ..., input_tokens: _Optional[int] = ..., cache_read_tokens: _Optional[int] = ..., cache_write_5m_tokens: _Optional[int] = ..., cache_write_1h_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., reasoning_tokens: _Optional[int] = ..., audio_input_tokens: _Optional[int] = ..., audio_output_tokens: _Optional[int] = ..., cost_nanos: _Optional[int] = ..., provider_cost_nanos: _Optional[int] = ..., price_source: _Optional[str] = ..., usage_source: _Optional[str] = ..., hold_nanos: _Optional[int] = ..., price_version: _Optional[str] = ..., provider_response_id: _Optional[str] = ..., http_status: _Optional[int] = ..., outcome: _Optional[str] = ..., refusal: _Optional[str] = ..., latency_ms: _Optional[int] = ..., first_byte_ms: _Optional[int] = ..., attempts: _Optional[int] = ..., route: _Optional[str] = ..., policy_version: _Optional[int] = ..., byok: _Optional[bool] = ..., refused_by: _Optional[str] = ..., shadow_refusal: _Optional[str] = ..., service_tier: _Optional[str] = ...) -> None: ...
