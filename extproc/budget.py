"""The budget decision around the store: plan what to hold, judge what came back. Knows no store and
no clock.

`plan` says which counters a call must fit into and how much it takes from each. The store adds all
of it or none. `judge` turns the counters that the store saw into an admission or a refusal.
"""

from dataclasses import dataclass
from typing import Final

from extproc.refusal import Refusal
from ledger.budgets import Budget, Window, window_at
from ledger.keyspace import Keyspace
from ledger.money import usd_from_nanos

HELD_RETRY_S: Final = 1
KEEP_MS: Final = 7 * 24 * 3600 * 1000
"""How long a counter outlives its window: as long as a spool may keep a late event."""
STORE_RETRY_S: Final = 2


@dataclass(frozen=True, slots=True)
class Share:
    """What one call takes from one budget's counter: nanodollars or tokens, as the budget's unit
    says.
    """

    counter: str
    amount: int
    budget: Budget
    window: Window

    @property
    def expires_at_ms(self) -> int:
        """When the store may forget the counter; 0 where its window never turns."""
        return 0 if self.window.end_us is None else self.window.end_us // 1000 + KEEP_MS


@dataclass(frozen=True, slots=True)
class Plan:
    """The holds of one call: all of them or none."""

    event_id: str
    shares: tuple[Share, ...]
    expires_at_ms: int


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


@dataclass(frozen=True, slots=True)
class StoreAway:
    """The store gave no answer; `says` why."""

    says: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call may go. `held`: whether the store keeps a hold for it."""

    held: bool


def shares(
    keyspace: Keyspace, budgets: tuple[Budget, ...], at_us: int, nanos: int, tokens: int
) -> tuple[Share, ...]:
    """What a call started at `at_us` takes from each budget, for its hold or its settlement."""
    taken = []
    for budget in budgets:
        window = window_at(budget.per, budget.time_zone, at_us)
        counter = keyspace.counter(budget.budget_id, window.name)
        taken.append(Share(counter, tokens if budget.unit == "tokens" else nanos, budget, window))
    return tuple(taken)


def judge(
    plan: Plan, reply: Reserved | StoreAway, now_us: int, *, open_when_away: bool
) -> Admitted | Refusal:
    """Admit or refuse. This is the one place that decides whether a lost store opens or closes the
    gate.
    """
    if isinstance(reply, StoreAway):
        if open_when_away:
            return Admitted(held=False)
        return Refusal(
            status=503,
            code="budget_store_away",
            message=f"The budget store cannot be asked ({reply.says}): the call was not let "
            "through; try again.",
            limit_source="store",
            retry_after_s=STORE_RETRY_S,
        )
    if reply.admitted:
        return Admitted(held=True)
    refusals = [
        refusal
        for share, standing in zip(plan.shares, reply.standings, strict=True)
        if (refusal := _refuse(share, standing, now_us)) is not None
    ]
    return max(refusals, key=_severity)


def _severity(refusal: Refusal) -> int:
    """What never passes comes before what passes later, so that nobody retries in vain."""
    return 2**62 if refusal.retry_after_s is None else refusal.retry_after_s


def _refuse(share: Share, standing: Standing, now_us: int) -> Refusal | None:
    budget, amount = share.budget, share.amount
    left = budget.amount - standing.used - standing.held
    if amount <= left:
        return None
    status, code = 429, "budget_held"
    retry_after_s: int | None = HELD_RETRY_S
    if amount > budget.amount:
        status, code, retry_after_s = 402, "request_over_budget", None
        says = f"can cost up to {_show(amount, budget)}, more than the whole {_name(budget)}"
    elif standing.used + amount > budget.amount:
        code = "key_limit_spent" if budget.limit_source == "key" else "budget_spent"
        status, retry_after_s = _until_turn(share.window, now_us)
        says = f"does not fit into what is left of the {_name(budget)}"
    else:
        says = f"must wait for calls in flight that hold the rest of the {_name(budget)}"
    return Refusal(
        status=status,
        code=code,
        message=f"This call {says}: {_show(max(left, 0), budget)} of "
        f"{_show(budget.amount, budget)} left.",
        limit_source=budget.limit_source,
        limit=budget.name,
        unit=budget.unit,
        left=max(left, 0),
        resets_at_us=share.window.end_us,
        retry_after_s=retry_after_s,
    )


def _until_turn(window: Window, now_us: int) -> tuple[int, int | None]:
    if window.end_us is None:
        return 402, None
    return 429, max(1, -(-(window.end_us - now_us) // 1_000_000))


def _name(budget: Budget) -> str:
    if budget.limit_source == "key":
        return "lifetime limit of this key"
    period = "in total" if budget.per == "total" else f"per {budget.per}"
    return f"budget {budget.name!r} ({period})"


def _show(amount: int, budget: Budget) -> str:
    if budget.unit == "tokens":
        return f"{amount:,} tokens"
    text = usd_from_nanos(amount).rstrip("0").rstrip(".")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals.ljust(2, '0')}"
