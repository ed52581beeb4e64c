"""From what the exchange saw to one metered event and its settlement. Knows no clock, no store and
no protobuf.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from extproc.budget import settled
from extproc.identity import Attribution
from extproc.policy import Policy
from extproc.providers.paths import segments
from extproc.providers.routing import OWN_PROVIDER
from extproc.providers.shape import Answer, Asked
from extproc.refusal import Refusal
from ledger.event import TOKEN_FIELDS, MeteredEvent, Usage
from ledger.prices import Rates, cost_nanos, price_source

FREE_METHODS: Final = ("GET", "HEAD", "OPTIONS", "DELETE")
_FREE_ENDS: Final = (["messages", "count_tokens"], ["v1", "moderations"])
_FREE_METHODS: Final = (":counttokens", ":computetokens")
_CANCELLED: Final = (["batches"], ["responses"])
_SILENT: Final = ("images", "audio", "batches")
"""Operations whose good answers may not say what was used; what is not said has no known price."""
_MAX_TEXT: Final = 200
"""Characters of any client- or provider-supplied text that an event keeps."""


@dataclass(slots=True, kw_only=True)
class Call:
    """What is known of one call so far; the exchange fills it in. A call without a chain is a run
    of its own. `per_call`: it costs by the call, `price_nanos`, None where nobody set a price.
    """

    event_id: str
    started_us: int
    method: str = ""
    path: str = ""
    provider: str = ""
    operation: str = "other"
    has_body: bool = False
    who: Attribution | None = None
    run_id: str = ""
    asked: Asked | None = None
    answer: Answer | None = None
    byok: bool = False
    per_call: bool = False
    price_nanos: int | None = None
    hold_nanos: int = 0
    shadow: Refusal | None = None
    refusal: Refusal | None = None
    outcome: str = "client_gone"
    http_status: int = 0
    streamed: bool = False
    first_byte_us: int | None = None
    attempts: int = 1

    @property
    def silent(self) -> bool:
        """Whether a good answer may leave out what was used."""
        return self.operation in _SILENT

    @property
    def free(self) -> bool:
        """Whether the provider charges nothing for this call, whatever it answers."""
        if self.operation != "other":
            return False
        if self.per_call or self.provider == OWN_PROVIDER:
            return True
        only_asks = self.method in FREE_METHODS and not self.has_body
        return only_asks or _is_free_end(segments(self.path))


@dataclass(frozen=True, slots=True)
class Settlement:
    """The event, as the fields that differ from the defaults, and what it adds to each counter
    in place of its hold. The outbox gives its seq.

    `counters` is flat, as the store's script takes it: counter, amount, end of life in Unix ms, ...
    """

    fields: dict[str, Any]
    counters: tuple[str | int, ...]

    @property
    def event(self) -> MeteredEvent:
        return MeteredEvent(seq=0, **self.fields)


@dataclass(frozen=True, slots=True)
class Draft:
    """The event of a call that nobody ends, as the fields that differ from an event's defaults."""

    event_id: str
    fields: dict[str, Any]
    counters: tuple[str | int, ...]


def meter(call: Call, policy: Policy, now_us: int) -> Settlement:
    """The one event of a call, as far as it has come."""
    answer = call.answer or Answer()
    usage, source = _usage(call, answer, policy)
    model = _model(call, answer, usage)
    cost, price_source = _cost(call, policy, usage, model, answer.service_tier)
    fields = _identity(call, policy)
    fields["model"] = clip(model)
    for name in TOKEN_FIELDS:
        if tokens := getattr(usage, name):
            fields[name] = tokens
    if cost is not None:
        fields["cost_nanos"] = cost
    if answer.provider_cost_nanos is not None:
        fields["provider_cost_nanos"] = answer.provider_cost_nanos
    fields["price_source"] = price_source
    if answer.tools_ran and cost is not None:
        fields["price_source"] += ", tool-fees-unpriced"
    fields["usage_source"] = source
    fields["provider_response_id"] = clip(answer.response_id)
    fields["http_status"] = call.http_status
    fields["outcome"] = call.outcome
    fields["latency_ms"] = _ms(now_us - call.started_us)
    if call.first_byte_us is not None:
        fields["first_byte_ms"] = _ms(call.first_byte_us)
    fields["attempts"] = call.attempts
    if answer.service_tier:
        fields["service_tier"] = clip(answer.service_tier)
    if call.refusal is not None:
        fields["refusal"], fields["refused_by"] = call.refusal.code, call.refusal.limit
    if call.shadow is not None:
        fields["shadow_refusal"] = f"{call.shadow.code} {call.shadow.limit}"
    return Settlement(fields, _counters(call, policy, cost, usage))


def draft(call: Call, policy: Policy, *, let_through: bool) -> Draft:
    """The event as it stands if this process dies now: the input is estimated, the rest unknown. A
    call that was not let through cost nothing.
    """
    fields = _identity(call, policy)
    fields["outcome"] = "gateway_gone"
    if not let_through:
        fields |= {"cost_nanos": 0, "price_source": "none", "usage_source": "none"}
        return Draft(call.event_id, fields, ())
    usage, source = _usage(call, Answer(), policy)
    model = call.asked.model if call.asked is not None else ""
    cost, price_source = _cost(call, policy, usage, model, "")
    fields["model"] = clip(model)
    fields["input_tokens"] = usage.input_tokens
    if cost is not None:
        fields["cost_nanos"] = cost
    fields["price_source"] = price_source
    fields["usage_source"] = source
    return Draft(call.event_id, fields, _counters(call, policy, cost, usage))


def _counters(call: Call, policy: Policy, cost: int | None, usage: Usage) -> tuple[str | int, ...]:
    if call.who is None or call.outcome == "refused":
        return ()
    budgets = policy.binding(call.who, call.provider, run_id=call.run_id, byok=call.byok)
    tokens = usage.input_tokens + usage.output_tokens
    return settled(policy.keyspace, budgets, call.started_us, cost or 0, tokens)


def _identity(call: Call, policy: Policy) -> dict[str, Any]:
    """What is known of a call before it is answered."""
    fields: dict[str, Any] = {
        "event_id": call.event_id,
        "producer": policy.producer,
        "occurred_at_us": call.started_us,
        "run_id": call.run_id,
        "provider": call.provider,
        "model_requested": clip(call.asked.model) if call.asked is not None else "",
        "operation": call.operation,
        "streamed": call.streamed,
        "hold_nanos": call.hold_nanos,
        "price_version": policy.rates.version,
        "route": clip(f"{call.method} {call.path}"),
        "byok": call.byok,
        "policy_version": policy.version,
    }
    if call.per_call:
        fields |= _called(call)
    if call.who is not None:
        fields.update(call.who.columns)
    return fields


def _called(call: Call) -> dict[str, Any]:
    """The tool or the agent that a call is for."""
    if call.operation == "agent_call":
        return {"target_agent": clip(call.provider)}
    return {"tool_name": clip(call.asked.tool_name)} if call.asked is not None else {}


def rates_for(call: Call, policy: Policy, model: str, service_tier: str) -> Rates | None:
    """The price of `model` when the call started."""
    return policy.rates.lookup(call.provider, model, call.started_us, service_tier)


def clip(text: str) -> str:
    """Text from outside as an event may keep it: bounded, valid UTF-8, and without NUL."""
    if len(text) <= _MAX_TEXT and text.isascii() and "\x00" not in text:
        return text
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def _usage(call: Call, answer: Answer, policy: Policy) -> tuple[Usage, str]:
    """Tokens, and how sure we are. What a provider did not say is estimated from what was seen."""
    if call.outcome == "refused" or call.per_call:
        return Usage(), "none"
    said = answer.usage
    if said is not None and (answer.complete or answer.finished or not call.streamed):
        return said, "provider"
    asked = call.asked
    if asked is None or call.http_status >= 400:
        return (said, "provider") if said is not None else (Usage(), "none")
    if call.silent and (answer.complete or not answer.output_bytes):
        return Usage(), "none"
    model = answer.model or asked.model
    output = output_so_far(call, answer, model, policy)
    if said is not None:
        if output <= said.output_tokens:
            return said, "provider"
        return replace(said, output_tokens=output), "estimated"
    if answer.complete and not answer.output_bytes and not answer.uncounted:
        return Usage(), "none"
    likely = policy.estimates.likely_input_tokens(call.provider, model, asked.input_bytes)
    return Usage(input_tokens=likely, output_tokens=output), "estimated"


def output_so_far(call: Call, answer: Answer, model: str, policy: Policy) -> int:
    """Tokens that a stream under way has made: as last counted, or by its text, whichever is more;
    where counts come with the text, as counted, and by the text since.
    """
    text_bytes = answer.output_bytes - answer.counted_bytes
    likely = policy.estimates.output_tokens(call.provider, model, text_bytes)
    counted = answer.usage.output_tokens if answer.usage is not None else 0
    return counted + likely if answer.counted_bytes else max(counted, likely)


def _model(call: Call, answer: Answer, usage: Usage) -> str:
    """The provider's own name for the model; the requested one only where it was spent on."""
    if answer.model:
        return answer.model
    spent = usage.input_tokens or usage.output_tokens or (call.silent and call.outcome == "ok")
    return call.asked.model if call.asked is not None and spent else ""


def _cost(
    call: Call, policy: Policy, usage: Usage, model: str, service_tier: str
) -> tuple[int | None, str]:
    """Nanodollars and where the price comes from; None where something was used and its price is
    unknown.
    """
    if call.outcome == "refused" or (call.http_status >= 400 and usage == Usage()):
        return 0, "none"
    if call.free:
        return 0, "free"
    if call.per_call:
        return _price_per_call(call)
    if usage == Usage():
        unsaid = call.silent and call.outcome != "provider_error"
        return (None, "unpriced") if call.operation == "other" or unsaid else (0, "none")
    rates = rates_for(call, policy, model, service_tier)
    if rates is None and call.asked is not None and call.asked.model != model:
        rates = rates_for(call, policy, call.asked.model, service_tier)
    if rates is None:
        return None, "unpriced"
    return cost_nanos(rates, usage), price_source(rates, usage)


def _is_free_end(parts: list[str]) -> bool:
    """Bedrock's `/model/{id}/count-tokens` has an id in between, of two segments where an ARN.
    Google's methods stand behind a colon.
    """
    if parts[-1:] == ["count-tokens"] and "model" in parts[-4:-2]:
        return True
    if parts[-1:] == ["cancel"] and parts[-3:-2] in _CANCELLED:
        return True
    if parts[-2:-1] == ["models"] and parts[-1].endswith(_FREE_METHODS):
        return True
    return parts[-2:] in _FREE_ENDS


def _price_per_call(call: Call) -> tuple[int, str]:
    """The price is due unless the answer says that nothing was done. A tool or an agent has none
    unless somebody set one, so that what has none is free, and not unpriced.
    """
    if call.price_nanos is None or (call.answer is not None and call.answer.performed is False):
        return 0, "none"
    return call.price_nanos, "per-call"


def _ms(microseconds: int) -> int:
    return max(0, microseconds) // 1000
