"""The budget decision around the store: plan what to hold, judge what came back. Knows no store and
no clock.

`plan` says which counters a call must fit into, what it takes from each at least, and what each
token of output takes. The store grants as many tokens as fit everywhere, or nothing anywhere.
`judge` turns the counters that the store saw into an admission or a refusal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from extproc.refusal import Refusal
from ledger.budgets import Budget, Window, limit_at, window_at
from ledger.keyspace import Keyspace
from ledger.money import usd_from_nanos

HELD_RETRY_S: Final = 1
STORE_RETRY_S: Final = 2
NO_LIMIT: Final = 2**53
"""What a counter that only reports is limited to: the largest whole number that Lua counts exactly.
"""
THROTTLE_SHARE: Final = 20
"""A throttling budget lets one part in so many of what is left be spent in one minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a call can take: nanodollars and tokens before its output, and for each token of it."""

    nanos: int = 0
    nanos_per_token: int = 0
    tokens: int = 0
    tokens_per_token: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one call takes from a counter, in the budget's unit; `limit`: what it must fit into."""

    counter: str
    base: int
    per_token: int
    limit: int
    budget: Budget
    window: Window
    throttle: bool = False

    @property
    def expires_at_ms(self) -> int:
        """When the store may forget the counter; 0 where its window never turns."""
        return self.window.kept_until_ms

    def amount(self, tokens: int) -> int:
        """What is held when `tokens` of output are granted."""
        return self.base + self.per_token * tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """The holds of one call, all of them or none, for `least` to `most` tokens of output."""

    event_id: str
    shares: tuple[Share, ...]
    expires_at_ms: int
    least: int = 0
    most: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What a counter held when the store looked."""

    used: int
    held: int


@dataclass(frozen=True, slots=True)
class Reserved:
    """The store's answer. `standings`: in the plan's order, before this call's hold was added."""

    admitted: bool
    standings: tuple[Standing, ...]
    granted: int = 0


@dataclass(frozen=True, slots=True)
class StoreAway:
    """The store gave no answer; `says` why."""

    says: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call may go. `held`: the store keeps a hold, for `granted` tokens of output.

    `shadow` is what would have refused it, where that limit only reports.
    """

    held: bool
    granted: int = 0
    shadow: Refusal | None = None


def shares(
    keyspace: Keyspace,
    budgets: Sequence[Budget],
    started_us: int,
    now_us: int,
    costs: Costs,
    left: dict[str, int],
    least: int = 0,
) -> tuple[Share, ...]:
    """What a call started at `started_us` that needs `least` tokens of output takes from each
    budget.

    `left` is what was last seen to be left of throttling budgets, by budget id.
    """
    taken = []
    for budget in budgets:
        window = window_at(budget.per, budget.time_zone, started_us)
        counter = keyspace.counter(budget.budget_id, window.name)
        base, per_token = _takes(budget.unit, costs)
        hard = budget.on_exceed != "shadow"
        limit = limit_at(budget, now_us) if hard else NO_LIMIT
        share = Share(
            counter=counter,
            base=base,
            per_token=per_token,
            limit=limit,
            budget=budget,
            window=window,
        )
        taken.append(share)
        if budget.on_exceed == "throttle":
            seen = left.get(budget.budget_id, limit)
            taken.append(_throttled(keyspace, share, started_us, seen, least))
    return tuple(taken)


def _takes(unit: str, costs: Costs) -> tuple[int, int]:
    if unit == "usd":
        return max(1, costs.nanos), costs.nanos_per_token
    if unit == "tokens":
        return max(1, costs.tokens), costs.tokens_per_token
    return 1, 0


def _throttled(keyspace: Keyspace, share: Share, started_us: int, left: int, least: int) -> Share:
    """A counter of this minute that shrinks with what is left, and always has room for one call."""
    minute = window_at("minute", "UTC", started_us)
    return Share(
        counter=keyspace.counter(share.budget.budget_id, "throttle:" + minute.name),
        base=share.base,
        per_token=share.per_token,
        limit=max(left // THROTTLE_SHARE, share.amount(least)),
        budget=share.budget,
        window=minute,
        throttle=True,
    )


def judge(
    plan: Plan, reply: Reserved | StoreAway, now_us: int, *, open_when_away: bool
) -> Admitted | Refusal:
    """Admit or refuse. The one place that decides whether a lost store opens or closes the gate."""
    if isinstance(reply, StoreAway):
        if open_when_away:
            return Admitted(held=False, granted=plan.most)
        return Refusal(
            status=503,
            code="budget_store_away",
            message=f"The budget store cannot be asked ({reply.says}): the call was not let "
            "through; try again.",
            limit_source="store",
            retry_after_s=STORE_RETRY_S,
        )
    pairs = list(zip(plan.shares, reply.standings, strict=True))
    if reply.admitted:
        would = [
            _refuse(share, seen, plan.least, now_us) for share, seen in pairs if _shadow(share)
        ]
        shadow = max((each for each in would if each is not None), key=_severity, default=None)
        return Admitted(held=True, granted=reply.granted, shadow=shadow)
    refusals = [_refuse(share, seen, plan.least, now_us) for share, seen in pairs]
    hard = [
        each
        for (share, _), each in zip(pairs, refusals, strict=True)
        if each is not None and not _shadow(share)
    ]
    return max(hard, key=_severity)


def throttled(plan: Plan, reply: Reserved) -> list[tuple[str, int]]:
    """What the store saw to be left of each throttling budget, by budget id."""
    return [
        (share.budget.budget_id, max(0, share.limit - seen.used - seen.held))
        for share, seen in zip(plan.shares, reply.standings, strict=True)
        if share.budget.on_exceed == "throttle" and not share.throttle
    ]


def _shadow(share: Share) -> bool:
    return share.budget.on_exceed == "shadow"


def _severity(refusal: Refusal) -> int:
    """What never passes comes before what passes later, so that nobody retries in vain."""
    return 2**62 if refusal.retry_after_s is None else refusal.retry_after_s


def _refuse(share: Share, standing: Standing, tokens: int, now_us: int) -> Refusal | None:
    budget = share.budget
    limit = limit_at(budget, now_us) if _shadow(share) else share.limit
    amount = share.amount(tokens)
    left = limit - standing.used - standing.held
    if amount <= left:
        return None
    status, code, retry_after_s, says = _why(share, standing, amount, limit, now_us)
    return Refusal(
        status=status,
        code=code,
        message=f"This call {says}: {_show(max(left, 0), budget)} of {_show(limit, budget)} left.",
        limit_source=budget.limit_source,
        limit=budget.name,
        unit=budget.unit,
        left=max(left, 0),
        resets_at_us=share.window.end_us,
        retry_after_s=retry_after_s,
    )


def _why(
    share: Share, standing: Standing, amount: int, limit: int, now_us: int
) -> tuple[int, str, int | None, str]:
    """HTTP status, code, seconds until a retry may pass, and what the caller is told."""
    budget = share.budget
    name = _name(budget)
    turns_s = _until(share.window, now_us)
    if share.throttle:
        return 429, "throttled", turns_s, f"comes faster than the {name} allows as it empties"
    if budget.unit == "parallel":
        return 429, "too_many_parallel", HELD_RETRY_S, f"is one more than the {name} allows"
    if budget.unit == "calls":
        return 429, "rate_limited", turns_s, f"is one more than the {name} allows"
    if amount > limit and (standing.used or budget.limit_source != "wallet"):
        says = f"can cost up to {_show(amount, budget)}, more than the whole {name}"
        return 402, "request_over_budget", None, says
    if standing.used + amount <= limit:
        says = f"must wait for calls in flight that hold the rest of the {name}"
        return 429, "budget_held", HELD_RETRY_S, says
    says = f"does not fit into what is left of the {name}"
    code = _SPENT.get(budget.limit_source, "budget_spent")
    return (402, code, None, says) if turns_s is None else (429, code, turns_s, says)


_SPENT: Final = {"key": "key_limit_spent", "wallet": "credit_spent", "rate": "rate_limited"}


def _until(window: Window, now_us: int) -> int | None:
    """Seconds until the window turns, at least one; None where it never does."""
    if window.end_us is None:
        return None
    return max(1, -(-(window.end_us - now_us) // 1_000_000))


def _name(budget: Budget) -> str:
    if budget.limit_source == "wallet":
        return f"prepaid credit {budget.name!r}"
    period = "in total" if budget.per == "total" else f"per {budget.per}"
    if budget.limit_source in ("key", "rate"):
        return f"limit of this key ({budget.unit} {period})"
    return f"budget {budget.name!r} ({period})"


def _show(amount: int, budget: Budget) -> str:
    if budget.unit != "usd":
        return f"{amount:,}" + (" tokens" if budget.unit == "tokens" else "")
    text = usd_from_nanos(amount).rstrip("0").rstrip(".")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals.ljust(2, '0')}"


def settled(
    keyspace: Keyspace, budgets: Sequence[Budget], started_us: int, nanos: int, tokens: int
) -> tuple[str | int, ...]:
    """What an ended call adds to the counters: counter, amount, end of life in Unix ms, ..."""
    added: list[str | int] = []
    for budget in budgets:
        amount = {"usd": nanos, "tokens": tokens, "calls": 1}.get(budget.unit, 0)
        if amount <= 0:
            continue
        window = window_at(budget.per, budget.time_zone, started_us)
        counter = keyspace.counter(budget.budget_id, window.name)
        added += (counter, amount, window.kept_until_ms)
        if budget.on_exceed == "throttle":
            minute = window_at("minute", "UTC", started_us)
            counter = keyspace.counter(budget.budget_id, "throttle:" + minute.name)
            added += (counter, amount, minute.kept_until_ms)
    return tuple(added)
