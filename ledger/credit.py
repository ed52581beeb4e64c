"""Prepaid credit: wallets, paid into, paid out of, and paid from. Knows no terminal.

The database mirrors each wallet into a budget of the same name, so the sidecars enforce it like any
other; here are the payments and their double entry.
"""

import secrets
import string
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from psycopg.types.json import Jsonb

from ledger.balances import Wallet
from ledger.booking import occurred_at
from ledger.budgets import TOTAL, from_document
from ledger.counters import labels_of, taken
from ledger.db import Row, Session
from ledger.event import MeteredEvent
from ledger.grant import budget_of, note
from ledger.issue import RefusedError
from ledger.journal import credit_account, earned, paid_in
from ledger.keyspace import Keyspace
from ledger.money import MAX_NANOS, usd_from_nanos
from ledger.reports import selector_text
from ledger.stream import Redis, command, run_script

WALLET_ID_CHARS: Final = 12
HOLD_MS: Final = 5_000
"""How long a withdrawal that died half-way keeps its amount from being spent."""
SETTLE_S: Final = 0.25
"""In so long every sidecar has read a change that was published."""
_SWEPT: Final = 200  # holds at most that are released beside our own
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits


def wallets(session: Session, *, limit: int) -> list[Wallet]:
    """Every wallet, by name."""
    return [_wallet(row) for row in session.run("wallets_list", name=None, limit=limit)]


def look(session: Session, name: str) -> Wallet:
    """The wallet of that name, to read; RefusedError where there is none."""
    rows = [] if "\0" in name else session.run("wallets_list", name=name.strip(), limit=1)
    return _only(rows, name)


def history(session: Session, wallet: Wallet, *, limit: int) -> list[Row]:
    """What moved a wallet's credit, the newest first."""
    account = credit_account(wallet.name)
    return session.run("wallet_history", wallet_id=wallet.wallet_id, account=account, limit=limit)


def find(session: Session, name: str) -> Wallet:
    """The wallet of that name, kept from other payments until the transaction ends."""
    session.run("directory_lock")
    rows = [] if "\0" in name else session.run("wallets_one", name=name.strip())
    return _only(rows, name)


def create(
    session: Session,
    name: str,
    where: tuple[tuple[str, str], ...],
    *,
    alert_below_nanos: int | None,
    who: str,
) -> Wallet:
    """A wallet without credit for the calls that `where` picks, from now on."""
    session.run("directory_lock")  # no other wallet for the same calls may be on its way
    if session.run("budgets_by_name", name=name):
        raise RefusedError(f"There is a budget or wallet {name!r} already; choose another name.")
    selector = Jsonb([list(pair) for pair in where])
    if others := session.run("wallets_overlapping", selector=selector):
        theirs = selector_text((str(n), str(v)) for n, v in others[0]["selector"])
        raise RefusedError(
            f"The wallet {others[0]['name']!r} ({theirs}) could pay for the same calls, and a call"
            " is paid for once; choose calls that differ from its own in a label's value."
        )
    wallet_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(WALLET_ID_CHARS))
    session.run(
        "wallets_insert",
        wallet_id=wallet_id,
        name=name,
        selector=selector,
        alert_below_nanos=alert_below_nanos,
    )
    made = find(session, name)
    note(session, made.budget.budget_id, "created", made.budget, who)
    return made


def set_alert(session: Session, name: str, alert_below_nanos: int | None) -> Wallet:
    """Below which balance somebody is told."""
    wallet = find(session, name)
    session.run(
        "wallets_set_alert", wallet_id=wallet.wallet_id, alert_below_nanos=alert_below_nanos
    )
    return find(session, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """What is paid into a wallet, or out of it where the amount is below zero. `reference` names
    the payment outside, such as an invoice: it is booked once.
    """

    amount_nanos: int
    against: str
    reference: str
    who: str
    why: str = ""

    @property
    def kind(self) -> str:
        return "top_up" if self.amount_nanos > 0 else "withdrawal"


def top_up(session: Session, name: str, payment: Payment) -> tuple[Row, bool]:
    """Pay in; the transaction, and whether it is new."""
    wallet = find(session, name)
    if booked := _booked(session, wallet, payment):
        return booked, False
    if wallet.budget.amount + payment.amount_nanos > MAX_NANOS:
        raise RefusedError(f"The wallet {wallet.name!r} cannot hold more than $9.2 billion.")
    return _book(session, wallet, payment), True


def withdraw(
    session: Session, redis: Redis, keys: Keyspace, name: str, payment: Payment
) -> tuple[Row, str]:
    """Pay out what is neither spent nor held; the transaction, and the name of the hold on its
    amount, which is `released` once the sidecars know. Without a hold it was booked before.
    """
    wallet = find(session, name)
    if booked := _booked(session, wallet, payment):
        return booked, ""
    hold = _hold(session, redis, keys, wallet, -payment.amount_nanos)
    return _book(session, wallet, payment), hold


@contextmanager
def released(redis: Redis, keys: Keyspace, hold: str) -> Iterator[None]:
    """Ends the hold of a withdrawal after the block, which publishes it, has become known."""
    yield
    if hold:
        time.sleep(SETTLE_S)
        command(redis, "ZADD", keys.hold_expiry, "XX", 0, hold)
        run_script(redis, "sweep", [keys.holds, keys.hold_expiry], [_SWEPT])


def pay(session: Session, booked: Sequence[MeteredEvent]) -> None:
    """Book what wallets pay for these events, beside what each cost its team."""
    pairs = {("", ""), *(pair for event in booked for pair in labels_of(event).items())}
    rows = session.run(
        "wallets_binding", names=[name for name, _ in pairs], values=[value for _, value in pairs]
    )
    binding = [from_document(row["document"]) for row in rows]
    lines = [
        (event.event_id, occurred_at(event), *entry)
        for event, wallet, _, cost_nanos in taken(booked, binding)
        for entry in earned(wallet.name, cost_nanos)
    ]
    if lines:
        session.copy("journal_copy", lines)


def _only(rows: Sequence[Row], name: str) -> Wallet:
    if not rows:
        raise RefusedError(f"There is no wallet {name!r}; `ledger wallets list` shows them all.")
    return _wallet(rows[0])


def _wallet(row: Row) -> Wallet:
    return Wallet(
        wallet_id=row["wallet_id"],
        name=row["name"],
        budget=budget_of(row),
        alert_below_nanos=row["alert_below_nanos"],
        created_at=row["created_at"],
    )


def _booked(session: Session, wallet: Wallet, payment: Payment) -> Row | None:
    """The transaction that has this reference already; RefusedError where it is another one."""
    rows = session.run(
        "wallet_transactions_by_reference",
        wallet_id=wallet.wallet_id,
        reference=payment.reference,
    )
    if not rows:
        return None
    [row] = rows
    same = (payment.kind, payment.amount_nanos, payment.against)
    if (row["kind"], row["amount_nanos"], row["against"]) != same:
        kind = row["kind"].replace("_", "-")
        raise RefusedError(
            f"The reference {payment.reference!r} is booked as a {kind} of"
            f" {_usd(abs(row['amount_nanos']))} ({row['against']}); a payment is booked once, so"
            " give another one its own reference."
        )
    return row


def _book(session: Session, wallet: Wallet, payment: Payment) -> Row:
    transaction_id = secrets.token_hex(16)
    [row] = session.run(
        "wallet_transactions_insert",
        transaction_id=transaction_id,
        wallet_id=wallet.wallet_id,
        kind=payment.kind,
        amount_nanos=payment.amount_nanos,
        against=payment.against,
        reference=payment.reference,
        who=payment.who,
        why=payment.why,
    )
    entries = paid_in(wallet.name, payment.amount_nanos, payment.against)
    session.run(
        "journal_write",
        transaction_id=transaction_id,
        occurred_at=row["at"],
        kind=payment.kind,
        accounts=[entry.account for entry in entries],
        amounts=[entry.amount_nanos for entry in entries],
    )
    return row


def _hold(session: Session, redis: Redis, keys: Keyspace, wallet: Wallet, nanos: int) -> str:
    """Keep the amount from being spent; its name. Only the counter knows what is spent and held."""
    epoch = session.run("books_state")[0]["epoch"]
    counter = keys.counter(wallet.budget.budget_id, TOTAL)
    name = "withdrawal-" + secrets.token_hex(8)
    answer, *standing = run_script(
        redis,
        "hold",
        [keys.epoch, keys.holds, keys.hold_expiry, counter],
        [epoch or "", name, HOLD_MS, nanos, wallet.budget.amount],
    )
    if answer == -1:
        raise RefusedError(
            "Redis has no counters yet, so nobody knows what is spent; the writer counts them from"
            " the books when it runs: start it with `ledger up` or `ledger write`."
        )
    if not answer:
        used, held = (int(amount) for amount in standing)
        free = wallet.budget.amount - used - held
        raise RefusedError(
            f"The wallet {wallet.name!r} has {_usd(max(free, 0))} that can be withdrawn:"
            f" {_usd(wallet.budget.amount)} paid in, {_usd(used)} spent, {_usd(held)} held by"
            " calls in flight."
        )
    return name


def _usd(nanos: int) -> str:
    whole, _, decimals = usd_from_nanos(nanos).partition(".")
    return f"${int(whole):,}.{decimals.rstrip('0').ljust(2, '0')}"
