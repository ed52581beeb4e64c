"""How much to hold for a call: the most that this request can cost. Knows no store, no clock.

A stated maximum is held as it is. Where a request states none, the budgets that count it say what
to do (`unstated`; the strictest of several decides):

learned   A stream holds what this key's answers from this model hardly exceed, and the hold grows
          as the answer does. An answer that comes whole cannot be stopped once it is under way,
          so its request is given a maximum: generous, and less where less is left.
cap       The request is given a maximum: the model's ceiling, and less where less is left.
ceiling   The model's ceiling is held, and stated.

Only budgets that block can ask for a maximum; without any, a request goes as it came. So does one
that cannot be changed (`fixed`: signed by its caller, or of a model whose body is not known): the
ceiling is held for it, and its stream may outgrow that as far as the budget allows.
"""

from dataclasses import dataclass
from typing import Final

from extproc.budget import Costs, Plan, Share, shares
from extproc.meter import Call, rates_for
from extproc.policy import Policy
from extproc.providers.paths import segments
from extproc.refusal import Refusal
from ledger.budgets import Budget
from ledger.prices import Rates, ceiling_nanos

GENEROUS_TOKENS: Final = 4096
"""The least maximum that a whole answer is given while there is room for it."""
_MILLION: Final = 1_000_000
_STRICTNESS: Final = ("learned", "cap", "ceiling")


@dataclass(frozen=True, slots=True)
class Hold:
    """A plan; `states_maximum`: what it grants must be said in the request; `grows`: as the stream
    does.
    """

    plan: Plan
    nanos: int = 0
    nanos_per_token: int = 0
    states_maximum: bool = False
    grows: bool = False

    def nanos_for(self, tokens: int) -> int:
        """Nanodollars that are held when `tokens` of output are granted."""
        return self.nanos + self.nanos_per_token * tokens


def refuse_unread(call: Call) -> Refusal | None:
    """Why a call whose body is not read may not go: one that opens a realtime session gives out a
    credential for a connection that runs past the gateway.
    """
    past = not call.free and "realtime" in segments(call.path)
    return _PAST_THE_METER if past else None


def hold_unread(call: Call, policy: Policy, now_us: int) -> Hold:
    """For a call whose body is not read. A free one only counts as a call; of others, what they
    cost is not known, so they find their budgets not yet spent.
    """
    budgets = _budgets(call, policy)
    if call.free:
        budgets = tuple(b for b in budgets if b.unit in ("calls", "parallel"))
    return Hold(_plan(call, policy, now_us, budgets, Costs(), 0, 0))


def hold_asked(call: Call, policy: Policy, now_us: int) -> Hold | Refusal:
    """For a metered call whose request has been read."""
    assert call.asked is not None
    assert call.who is not None
    if call.per_call:
        return _hold_price(call, policy, now_us)
    asked, budgets = call.asked, _budgets(call, policy)
    hard = [b for b in budgets if b.on_exceed != "shadow" and b.unit in ("usd", "tokens")]
    rates = rates_for(call, policy, asked.model, asked.service_tier)
    if rates is None:
        money = next((b for b in hard if b.unit == "usd"), None)
        if money is not None and (asked.model or call.silent):
            return _unpriced(asked.model, money.name)
    tokens_in = policy.estimates.input_tokens(
        call.provider, asked.model, asked.input_bytes, call.who.key.key_id
    )
    costs = _costs(rates, tokens_in, asked.choices)
    least, most, states, grows = _output(call, policy, hard, rates, asked.max_output_tokens)
    plan = _plan(call, policy, now_us, budgets, costs, least, most)
    return Hold(plan, costs.nanos, costs.nanos_per_token, states, grows)


def _hold_price(call: Call, policy: Policy, now_us: int) -> Hold:
    """Exactly the price of a call that costs by the call. It uses no tokens, and without a price no
    money.
    """
    price = call.price_nanos or 0
    units = ("usd", "calls", "parallel") if price else ("calls", "parallel")
    budgets = tuple(b for b in _budgets(call, policy) if b.unit in units)
    return Hold(_plan(call, policy, now_us, budgets, Costs(nanos=price), 0, 0), price)


def hold_growth(call: Call, policy: Policy, hold: Hold, granted: int, now_us: int) -> Plan:
    """As much again, or what is left of that: what a stream needs that outgrows its hold."""
    grown = tuple(
        Share(
            counter=share.counter,
            base=0,
            per_token=share.per_token,
            limit=share.limit,
            budget=share.budget,
            window=share.window,
            throttle=share.throttle,
        )
        for share in hold.plan.shares
        if share.per_token and not share.throttle
    )
    expires_at_ms = now_us // 1000 + policy.hold_ms
    return Plan(call.event_id, grown, expires_at_ms, max(1, granted // 8), max(1, granted))


def _budgets(call: Call, policy: Policy) -> tuple[Budget, ...]:
    assert call.who is not None
    return policy.binding(call.who, call.provider, run_id=call.run_id, byok=call.byok)


def _output(
    call: Call, policy: Policy, hard: list[Budget], rates: Rates | None, stated: int | None
) -> tuple[int, int, bool, bool]:
    """The least and the most tokens of output (of one choice) to hold, whether the request must be
    told, and whether the hold may grow.
    """
    if call.operation == "embeddings":
        return 0, 0, False, False
    if stated is not None:
        return stated, stated, False, False
    ceiling = policy.unstated_output_tokens
    if rates is not None and rates.context_tokens is not None:
        ceiling = min(ceiling, rates.context_tokens)
    mode = max((b.unstated for b in hard), key=_STRICTNESS.index, default="learned")
    assert call.asked is not None
    assert call.who is not None
    likely = policy.estimates.likely_most_output_tokens(
        call.who.key.key_id, call.provider, call.asked.model
    )
    likely = min(likely, ceiling)
    if not hard:
        return likely, likely, False, False
    if call.asked.fixed and not (call.asked.streamed and mode == "learned"):
        return ceiling, ceiling, False, call.asked.streamed
    if mode == "ceiling":
        return ceiling, ceiling, True, False
    if mode == "cap":
        return likely, ceiling, True, False
    if call.asked.streamed:
        return likely, likely, False, True
    most = max(GENEROUS_TOKENS, 2 * likely) + call.asked.reasoning_tokens
    return likely, min(ceiling, most), True, False


def _costs(rates: Rates | None, tokens_in: int, choices: int) -> Costs:
    if rates is None:
        return Costs(tokens=tokens_in, tokens_per_token=choices)
    base = ceiling_nanos(rates, tokens_in, 0)
    million = ceiling_nanos(rates, tokens_in, _MILLION) - base
    return Costs(
        nanos=base,
        nanos_per_token=-(-million // _MILLION) * choices,
        tokens=tokens_in,
        tokens_per_token=choices,
    )


def _plan(
    call: Call,
    policy: Policy,
    now_us: int,
    budgets: tuple[Budget, ...],
    costs: Costs,
    least: int,
    most: int,
) -> Plan:
    taken = shares(policy.keyspace, budgets, call.started_us, now_us, costs, policy.left, least)
    return Plan(call.event_id, taken, now_us // 1000 + policy.hold_ms, least, most)


_PAST_THE_METER: Final = Refusal(
    status=403,
    code="unmetered_session",
    message="A realtime session runs past the gateway, so what it costs cannot be metered; "
    "use chat completions with audio, or speech and transcriptions.",
)


def _unpriced(model: str, budget: str) -> Refusal:
    named = f"The model {model[:100]!r}" if model else "The model that this call leaves unnamed"
    says = (
        f"{named} has no known price, and the budget {budget!r} counts money: "
        "ask your platform team to add a price, or call a model that has one."
    )
    return Refusal(
        status=402, code="model_unpriced", message=says, limit_source="price", limit=budget
    )
