"""From what the exchange saw to one metered event and its settlement. Knows no clock, no store and
no protobuf.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from extproc.budget import Plan, shares
from extproc.identity import Key
from extproc.policy import Policy
from extproc.providers.shape import Answer, Asked
from extproc.refusal import Refusal
from ledger.event import MeteredEvent, Usage
from ledger.prices import Rates, cost_nanos, price_source

FREE_METHODS: Final = ("GET", "HEAD", "OPTIONS", "DELETE")
_FREE_ENDS: Final = ("/count_tokens", "/moderations")
_MAX_TEXT: Final = 200
"""Characters of any client- or provider-supplied text that an event keeps."""


@dataclass(slots=True, kw_only=True)
class Call:
    """What is known of one call so far; the exchange fills it in."""

    event_id: str
    started_us: int
    method: str = ""
    path: str = ""
    provider: str = ""
    operation: str = "other"
    key: Key | None = None
    asked: Asked | None = None
    answer: Answer | None = None
    plan: Plan | None = None
    hold_nanos: int = 0
    refusal: Refusal | None = None
    outcome: str = "client_gone"
    http_status: int = 0
    streamed: bool = False
    first_byte_us: int | None = None
    attempts: int = 1

    @property
    def free(self) -> bool:
        """Whether the provider charges nothing for this call, whatever it answers."""
        return self.operation == "other" and (
            self.method in FREE_METHODS or self.path.endswith(_FREE_ENDS)
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """The event, and what it adds to each counter in place of its hold. The outbox gives the event
    its seq.

    `counters` is flat, as the store's script takes it: counter, amount, end of life in Unix ms, and
    so on.
    """

    event: MeteredEvent
    counters: tuple[str | int, ...]


def meter(call: Call, policy: Policy, now_us: int) -> Settlement:
    """The one event of a call, as far as it has come."""
    answer = call.answer or Answer()
    usage, source = _usage(call, answer, policy)
    model = _model(call, answer, usage)
    cost, price_source = _cost(call, policy, usage, model, answer.service_tier)
    key = call.key
    identity = _labels(key) if key is not None else {}
    event = MeteredEvent(
        event_id=call.event_id,
        producer=policy.producer,
        seq=0,
        occurred_at_us=call.started_us,
        run_id=call.event_id,
        **identity,
        provider=call.provider,
        model_requested=clip(call.asked.model) if call.asked else "",
        model=clip(model),
        operation=call.operation,
        streamed=call.streamed,
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        audio_input_tokens=usage.audio_input_tokens,
        audio_output_tokens=usage.audio_output_tokens,
        cost_nanos=cost,
        provider_cost_nanos=answer.provider_cost_nanos,
        price_source=price_source,
        usage_source=source,
        hold_nanos=call.hold_nanos,
        price_version=policy.rates.version,
        provider_response_id=clip(answer.response_id),
        http_status=call.http_status,
        outcome=call.outcome,
        refusal=call.refusal.code if call.refusal else "",
        latency_ms=_ms(now_us - call.started_us),
        first_byte_ms=None if call.first_byte_us is None else _ms(call.first_byte_us),
        attempts=call.attempts,
        route=clip(f"{call.method} {call.path}"),
        policy_version=policy.version,
        service_tier=clip(answer.service_tier),
    )
    if key is None or call.refusal is not None:
        return Settlement(event, ())
    tokens = usage.input_tokens + usage.output_tokens
    taken = shares(
        policy.keyspace, policy.binding(key, call.provider), call.started_us, cost or 0, tokens
    )
    counters = [part for s in taken if s.amount for part in (s.counter, s.amount, s.expires_at_ms)]
    return Settlement(event, tuple(counters))


def rates_for(call: Call, policy: Policy, model: str, service_tier: str) -> Rates | None:
    """The price of `model` when the call started."""
    return policy.rates.lookup(call.provider, model, call.started_us, service_tier)


def clip(text: str) -> str:
    """Text from outside as an event may keep it: bounded, valid UTF-8, and without NUL."""
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def _labels(key: Key) -> dict[str, Any]:
    """The event's identity columns. A call without a chain is its own root."""
    return {
        "key_id": key.key_id,
        "owner": key.owner,
        "principal": key.owner,
        "team": key.team,
        "agent": key.agent,
        "workload": key.workload,
        "customer": key.customer,
        "labels": key.labels,
        "root_key_id": key.key_id,
        "root_team": key.team,
        "root_agent": key.agent,
        "root_workload": key.workload,
    }


def _usage(call: Call, answer: Answer, policy: Policy) -> tuple[Usage, str]:
    """Tokens, and how sure we are. What a provider did not say is estimated from what was seen."""
    if call.refusal is not None:
        return Usage(), "none"
    said = answer.usage
    if said is not None and (answer.complete or not call.streamed):
        return said, "provider"
    asked = call.asked
    if asked is None or call.http_status >= 400:
        return (said, "provider") if said is not None else (Usage(), "none")
    model = answer.model or asked.model
    output = policy.estimates.output_tokens(call.provider, model, answer.output_bytes)
    if said is not None:
        if output <= said.output_tokens:
            return said, "provider"
        return replace(said, output_tokens=output), "estimated"
    if answer.complete and not answer.output_bytes:
        return Usage(), "none"
    likely = policy.estimates.input_tokens(call.provider, model, asked.input_bytes)
    return Usage(input_tokens=likely, output_tokens=output), "estimated"


def _model(call: Call, answer: Answer, usage: Usage) -> str:
    """The provider's own name for the model; the requested one only where tokens were spent."""
    if answer.model:
        return answer.model
    spent = usage.input_tokens or usage.output_tokens
    return call.asked.model if call.asked is not None and spent else ""


def _cost(
    call: Call, policy: Policy, usage: Usage, model: str, service_tier: str
) -> tuple[int | None, str]:
    """Nanodollars and where the price comes from; None where something was used and its price is
    unknown.
    """
    if call.refusal is not None or (call.http_status >= 400 and usage == Usage()):
        return 0, "none"
    if call.free:
        return 0, "free"
    if usage == Usage():
        return (None, "unpriced") if call.operation == "other" else (0, "none")
    rates = rates_for(call, policy, model, service_tier)
    if rates is None and call.asked is not None and call.asked.model != model:
        rates = rates_for(call, policy, call.asked.model, service_tier)
    if rates is None:
        return None, "unpriced"
    return cost_nanos(rates, usage), price_source(rates, usage)


def _ms(microseconds: int) -> int:
    return max(0, microseconds) // 1000
