"""What the books say a budget's counter holds, and what the ledger adds to it. Knows no stream.

The sidecars add a call to the counters of the budgets that they knew when it ended. The ledger adds
the others: those booked before a budget was made (its base), and late ones, booked afterwards but
enforced under a directory older than the budget. Both are `adjustments`, written in the transaction
that books, and applied to Redis once each, in order, under the ledger's own number in `producers`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from ledger.budgets import Budget, Window, from_document, matches, window_at
from ledger.db import Database, Row, Session
from ledger.event import MeteredEvent
from ledger.journal import credit_account
from ledger.keyspace import Keyspace
from ledger.money import MAX_NANOS
from ledger.stream import DEFAULT_KEYSPACE, Redis, command, run_script

LEDGER: Final = "@ledger"
"""The ledger's name in `producers`; the seq there is the last adjustment applied."""
MAX_ADJUSTMENTS: Final = 500  # in one script call, which holds up everyone else
_HOUR_US: Final = 3_600_000_000
_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# What a selector may name beside the optional labels, and the column that answers.
_SELECTORS: Final = {
    **{name: name for name in ("owner", "principal", "team", "agent", "workload", "customer")},
    **{name: name for name in ("provider", "root_team", "root_agent", "root_workload")},
    "key": "key_id",
    "root_key": "root_key_id",
}
_RUN: Final = "run"  # may be named too, but the rollups do not know it


class Adjustment(NamedTuple):
    """A row of `adjustments`, as its COPY statement takes it."""

    budget_id: str
    window_name: str
    expires_at_ms: int
    amount: int
    producer: str | None
    seq: int | None


@dataclass(frozen=True, slots=True)
class Spent:
    """What one set of labels used in a window. `calls` are those that were not refused; `byok`:
    the callers' own provider credentials paid.
    """

    labels: Mapping[str, str]
    byok: bool
    cost_nanos: int
    tokens: int
    calls: int


class Used(NamedTuple):
    """What the books say a counter holds."""

    budget: Budget
    window: Window
    amount: int


def new_budgets(session: Session) -> list[Budget]:
    """Budgets whose base is not counted yet; locked until the transaction ends."""
    return [from_document(row["document"]) for row in session.run("budgets_uncounted")]


def counted_budgets(session: Session, *, counts_from_above: int = -1) -> list[Budget]:
    """Budgets that have counters, those that begin to count above a directory version."""
    rows = session.run("budgets_counted", counts_from_above=counts_from_above)
    return [from_document(row["document"]) for row in rows]


def count_new_budgets(db: Database, now_us: int) -> int:
    """Give every new budget its base: all that its current window already has in the books.

    No sidecar knows these budgets yet, because they are published afterwards, so nothing in the
    books has been counted for them.
    """
    with db.transaction() as session:
        session.run("books_lock")
        budgets = new_budgets(session)
        used = used_in_windows(session, budgets, now_us)
        session.copy(
            "adjustments_copy",
            [
                Adjustment(
                    u.budget.budget_id, u.window.name, u.window.kept_until_ms, u.amount, None, None
                )
                for u in used
                if u.amount
            ],
        )
        session.run("budgets_mark_counted", budget_ids=[budget.budget_id for budget in budgets])
    return len(budgets)


def late_adjustments(events: Iterable[MeteredEvent], budgets: Sequence[Budget]) -> list[Adjustment]:
    """What booked events add to budgets that their sidecar did not know yet."""
    return [
        Adjustment(
            *(budget.budget_id, window.name, window.kept_until_ms, amount),
            *(event.producer, event.seq),
        )
        for event, budget, window, amount in taken(events, budgets)
        if event.policy_version < budget.counts_from
    ]


def taken(
    events: Iterable[MeteredEvent], budgets: Iterable[Budget]
) -> Iterator[tuple[MeteredEvent, Budget, Window, int]]:
    """What each event takes of which budgets, in the window that it falls into."""
    index = _Index(budgets)
    for event in events:
        spent = _spent_of_event(event)
        for budget in index.matching(spent.labels):
            if _is_older(event, budget):
                continue
            if amount := _amount(budget, spent):
                window = window_at(budget.per, budget.time_zone, event.occurred_at_us)
                yield event, budget, window, amount


def apply_adjustments(
    db: Database, redis: Redis, epoch: str, keys: Keyspace = DEFAULT_KEYSPACE
) -> int:
    """Add to the counters what is owed to them; the last adjustment applied. Safe to repeat.

    Nothing happens while Redis has another epoch: a rebuild will count everything.
    """
    last = int(command(redis, "HGET", keys.producers, LEDGER) or 0)
    while True:
        owed = db.run("adjustments_after", adjustment_id=last, most=MAX_ADJUSTMENTS)
        if not owed:
            return last
        counters = [keys.counter(row["budget_id"], row["window_name"]) for row in owed]
        parts = [(row["adjustment_id"], row["amount"], row["expires_at_ms"]) for row in owed]
        arguments = [epoch, LEDGER, *(part for row in parts for part in row)]
        applied = int(
            run_script(redis, "adjust", [keys.epoch, keys.producers, *counters], arguments)
        )
        if applied <= last:
            return last
        last = applied


def used_in_windows(
    session: Session,
    budgets: Sequence[Budget],
    now_us: int,
    beyond: Mapping[str, int] | None = None,
) -> list[Used]:
    """What the books say each budget's current window holds.

    `beyond`: leave out events above that seq of those producers.
    """
    by_window: dict[Window, list[Budget]] = defaultdict(list)
    for budget in budgets:
        by_window[window_at(budget.per, budget.time_zone, now_us)].append(budget)
    used = []
    for window, those in by_window.items():
        amounts = used_in(session, window, those, beyond)
        used += [Used(budget, window, amounts[budget.budget_id]) for budget in those]
    return used


def used_in(
    session: Session,
    window: Window,
    budgets: Sequence[Budget],
    beyond: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """What the books say was used of each budget between the ends of a window."""
    wallets, runs, others = _sorted_out(budgets)
    amounts = _paid_from(session, window, wallets, beyond or {})
    if runs:
        amounts |= _summed(runs, _spent_by_run(session, window, runs, beyond or {}))
    if others:
        amounts |= _summed(others, _spent(session, window, beyond or {}))
    return amounts


def overruns_in(session: Session, window: Window, budgets: Sequence[Budget]) -> dict[str, int]:
    """What providers billed above the holds of calls in a window, for each budget in money."""
    start, end = _instant(window.start_us, window), _instant(window.end_us, window)
    rows = session.run("overruns_by_labels", start=start, end=end)
    return _summed(budgets, ((1, _spent_of_run(row)) for row in rows))


def _summed(budgets: Sequence[Budget], signed: Iterable[tuple[int, Spent]]) -> dict[str, int]:
    amounts = dict.fromkeys((budget.budget_id for budget in budgets), 0)
    index = _Index(budgets)
    for sign, spent in signed:
        for budget in index.matching(spent.labels):
            amounts[budget.budget_id] += sign * _amount(budget, spent)
    return amounts


class _Index:
    """Budgets by one label that they ask for: not every budget is compared with every call."""

    def __init__(self, budgets: Iterable[Budget]) -> None:
        self._everywhere: list[Budget] = []
        self._by_label: dict[tuple[str, str], list[Budget]] = defaultdict(list)
        for budget in budgets:
            chosen = self._by_label[budget.where[0]] if budget.where else self._everywhere
            chosen.append(budget)

    def matching(self, labels: Mapping[str, str]) -> Iterator[Budget]:
        yield from self._everywhere
        for label in labels.items():
            for budget in self._by_label.get(label, ()):
                if matches(budget, labels):
                    yield budget


def _amount(budget: Budget, spent: Spent) -> int:
    """What stays used of a budget: nothing of calls in parallel, nor of credit that did not pay."""
    if spent.byok and budget.limit_source == "wallet":
        return 0
    amounts = {"usd": spent.cost_nanos, "tokens": spent.tokens, "calls": spent.calls}
    return min(amounts.get(budget.unit, 0), MAX_NANOS)


def _spent(
    session: Session, window: Window, beyond: Mapping[str, int]
) -> Iterator[tuple[int, Spent]]:
    for row in session.run("spent_by_labels", **_bounds(window)):
        yield 1, _spent_of_row(row)
    if beyond:
        start, end = _instant(window.start_us, window), _instant(window.end_us, window)
        producers, seqs = list(beyond), list(beyond.values())
        for row in session.run(
            "spent_beyond", producers=producers, seqs=seqs, start=start, end=end
        ):
            yield -1, _spent_of_row(row)


def _bounds(window: Window) -> dict[str, str]:
    """The window as whole hours and what sticks out of them before (head) and after (tail)."""
    start, end = _instant(window.start_us, window), _instant(window.end_us, window)
    if window.end_us is None:
        head_end, tail_start = start, end
    else:
        first_hour = -(-window.start_us // _HOUR_US) * _HOUR_US
        last_hour = window.end_us // _HOUR_US * _HOUR_US
        if last_hour < first_hour:  # within one hour
            first_hour = last_hour = window.end_us
        head_end, tail_start = _iso(first_hour), _iso(last_hour)
    return {"start": start, "head_end": head_end, "tail_start": tail_start, "end": end}


def _instant(at_us: int | None, window: Window) -> str:
    if window.end_us is None:
        return "infinity" if at_us is None else "-infinity"
    return _iso(at_us or 0)


def _iso(at_us: int) -> str:
    return (_UNIX_EPOCH + timedelta(microseconds=at_us)).isoformat()


def _spent_of_row(row: Row) -> Spent:
    labels = {
        **{str(name): str(value) for name, value in row["labels"].items()},
        **{name: row[column] for name, column in _SELECTORS.items()},
    }
    numbers = (int(row[name]) for name in ("cost_nanos", "tokens", "calls"))
    return Spent(labels, row["byok"], *numbers)


def _spent_of_event(event: MeteredEvent) -> Spent:
    return Spent(
        labels_of(event),
        byok=event.byok,
        cost_nanos=event.cost_nanos or 0,
        tokens=event.input_tokens + event.output_tokens,
        calls=0 if event.outcome == "refused" else 1,
    )


def _is_older(event: MeteredEvent, budget: Budget) -> bool:
    """Whether the call was let through before there was this wallet, which does not pay for it."""
    return budget.limit_source == "wallet" and event.policy_version < budget.counts_from


def _sorted_out(budgets: Sequence[Budget]) -> tuple[list[Budget], list[Budget], list[Budget]]:
    """Wallets, budgets for one run, and all others."""
    wallets: list[Budget] = []
    runs: list[Budget] = []
    others: list[Budget] = []
    for budget in budgets:
        if budget.limit_source == "wallet":
            wallets.append(budget)
        else:
            (runs if _RUN in dict(budget.where) else others).append(budget)
    return wallets, runs, others


def _paid_from(
    session: Session, window: Window, wallets: Sequence[Budget], beyond: Mapping[str, int]
) -> dict[str, int]:
    """What wallets paid, which only the journal knows: not every call that they match is theirs."""
    paid = dict.fromkeys((credit_account(wallet.name) for wallet in wallets), 0)
    if not paid:
        return {}
    start, end = _instant(window.start_us, window), _instant(window.end_us, window)
    asked = {"accounts": list(paid), "start": start, "end": end}
    for row in session.run("wallets_paid", **asked):
        paid[row["account"]] += int(row["amount_nanos"])
    if beyond:
        known = {"producers": list(beyond), "seqs": list(beyond.values())}
        for row in session.run("wallets_paid_beyond", **asked, **known):
            paid[row["account"]] -= int(row["amount_nanos"])
    return {w.budget_id: paid[credit_account(w.name)] for w in wallets}


def _spent_by_run(
    session: Session, window: Window, budgets: Sequence[Budget], beyond: Mapping[str, int]
) -> Iterator[tuple[int, Spent]]:
    rows = session.run(
        "spent_by_run",
        runs=sorted({value for b in budgets for name, value in b.where if name == _RUN}),
        start=_instant(window.start_us, window),
        end=_instant(window.end_us, window),
        producers=list(beyond),
        seqs=list(beyond.values()),
    )
    for row in rows:
        yield 1, _spent_of_run(row)


def _spent_of_run(row: Row) -> Spent:
    spent = _spent_of_row(row)
    return replace(spent, labels={**spent.labels, _RUN: row["run_id"]})


def labels_of(event: MeteredEvent) -> dict[str, str]:
    """What a budget's selector may ask for of an event."""
    named = {name: getattr(event, column) for name, column in _SELECTORS.items()}
    return {**event.labels, **named, _RUN: event.run_id}
