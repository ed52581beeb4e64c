"""`ledger wallets`: prepaid credit, paid in and out, and what is left. Decides nothing that
ledger.credit decides.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from ledger.cli.publish import publish_now
from ledger.cli.session import Run, WrongUsage, format_option, hint, pass_run, show, who
from ledger.cli.standing import standings

if TYPE_CHECKING:
    from ledger.balances import Wallet
    from ledger.credit import Payment
    from ledger.db import Row as DbRow
    from ledger.reports import Row
    from ledger.tables import Column

MAX_LISTED: Final = 10_000
MAX_REFERENCE_CHARS: Final = 200
_why_option: Final = click.option("--why", default="", help="A remark for the books.")
_reference_option: Final = click.option(
    "--reference", default="", help='Its name outside, such as "invoice 17": booked once.'
)
_against_option: Final = click.option(
    "--receivable",
    "against",
    flag_value="receivable",
    default="cash",
    help="The money has not moved yet.  [default: cash]",
)


@click.group()
def wallets() -> None:
    """Prepaid credit: top up, withdraw, and see what is left."""


@wallets.command()
@click.argument("name")
@click.option(
    "--where",
    multiple=True,
    required=True,
    metavar="customer=acme[,team=...]",
    help="Which calls it pays for, from now on; `all` for every call.",
)
@click.option("--alert-below", metavar="20usd", help="Be told when less than this is left.")
@format_option
@pass_run
def create(
    run: Run, name: str, where: tuple[str, ...], alert_below: str | None, output: str
) -> None:
    """Open the wallet NAME. Its calls are refused (402) until it is topped up."""
    from ledger import balances, credit, grant, reports, spend
    from ledger.cli import arguments

    clean_name = grant.clean_name(name)
    least = arguments.credit(alert_below) if alert_below is not None else None
    with run.books() as db:
        with db.transaction() as session:
            names = reports.allowed(reports.SELECTOR_LABELS, spend.label_names(session))
            chosen = arguments.selector(where, names)
            made = credit.create(session, clean_name, chosen, alert_below_nanos=least, who=who())
        publish_now(run, db)
    _show_one(balances.wallet(made), output)


@wallets.command("set")
@click.argument("name")
@click.option("--alert-below", required=True, metavar="20usd|none", help="When to be told.")
@format_option
@pass_run
def set_alert(run: Run, name: str, alert_below: str, output: str) -> None:
    """Change below which balance of the wallet NAME somebody is told."""
    from ledger import balances, credit
    from ledger.cli import arguments

    least = None if alert_below == "none" else arguments.credit(alert_below)
    with run.books() as db, db.transaction() as session:
        changed = credit.set_alert(session, name, least)
    _show_one(balances.wallet(changed), output)


@wallets.command("top-up")
@click.argument("name")
@click.option("--amount", required=True, metavar="100usd", help="How much is paid in.")
@_reference_option
@_against_option
@_why_option
@format_option
@pass_run
def top_up(
    run: Run, name: str, amount: str, reference: str, against: str, why: str, output: str
) -> None:
    """Pay into the wallet NAME. With a --reference it is safe to repeat."""
    from ledger import credit
    from ledger.cli import arguments

    nanos = arguments.credit(amount)
    payment = _payment(nanos, against, reference, why)
    with run.books() as db:
        with db.transaction() as session:
            row, is_new = credit.top_up(session, name, payment)
            wallet = credit.find(session, name)
        publish_now(run, db)
    _show_payment(wallet, row, is_new, output)


@wallets.command()
@click.argument("name")
@click.option("--amount", required=True, metavar="30usd", help="How much is paid out.")
@_reference_option
@_against_option
@_why_option
@format_option
@pass_run
def withdraw(
    run: Run, name: str, amount: str, reference: str, against: str, why: str, output: str
) -> None:
    """Pay out of the wallet NAME what is neither spent nor held by calls in flight."""
    from ledger import credit
    from ledger.cli import arguments

    nanos = arguments.credit(amount)
    payment = _payment(-nanos, against, reference, why)
    with run.books() as db, run.counters() as client:
        with db.transaction() as session:
            row, hold = credit.withdraw(session, client, run.keyspace, name, payment)
            wallet = credit.find(session, name)
        with credit.released(client, run.keyspace, hold):
            publish_now(run, db)
    _show_payment(wallet, row, bool(hold), output)


@wallets.command("list")
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def list_wallets(run: Run, limit: int, output: str) -> None:
    """What is left in each wallet, as its counter says now."""
    from ledger import credit

    with run.books() as db, db.transaction(snapshot=True) as session:
        found = credit.wallets(session, limit=limit + 1)
    rows = _balances(run, found[:limit])
    shown = [_readable(row) for row in rows] if output == "table" else rows
    show(output, _columns(), shown, empty="No wallets.")
    if len(found) > limit:
        hint(f"These are the first {limit}; --limit shows more.")


@wallets.command("show")
@click.argument("name")
@format_option
@pass_run
def show_wallet(run: Run, name: str, output: str) -> None:
    """Show the wallet NAME: its balance, what calls in flight hold, what is available."""
    from ledger import credit
    from ledger.tables import iso, printable

    with run.books() as db, db.transaction(snapshot=True) as session:
        wallet = credit.look(session, name)
    [document] = _balances(run, [wallet])
    if output != "table":
        show(output, (), [document], document=document)
        return
    shown = {**_readable(document), "created_at": iso(document["created_at"])}
    for field in (
        *("name", "where", "credited", "spent", "balance", "held", "available", "alert_below"),
        *("wallet_id", "created_at"),
    ):
        click.echo(f"{field + ':':13}{printable(shown[field] or '-')}")


@wallets.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=100, show_default=True)
@format_option
@pass_run
def transactions(run: Run, name: str, limit: int, output: str) -> None:
    """What moved the wallet NAME, the newest first; usage is summed by day (UTC)."""
    from ledger import balances, credit

    with run.books() as db, db.transaction(snapshot=True) as session:
        wallet = credit.look(session, name)
        found = credit.history(session, wallet, limit=limit + 1)
    rows = [balances.move(wallet.name, row) for row in found[:limit]]
    shown = [_move(row) for row in rows] if output == "table" else rows
    show(output, _move_columns(), shown, empty="Nothing was paid in yet.")
    if len(found) > limit:
        hint(f"These are the newest {limit}; --limit shows more.")


def _payment(nanos: int, against: str, reference: str, why: str) -> "Payment":
    from ledger.credit import Payment

    if "\0" in reference or len(reference) > MAX_REFERENCE_CHARS:
        raise WrongUsage(f"--reference takes at most {MAX_REFERENCE_CHARS} plain characters.")
    return Payment(
        amount_nanos=nanos, against=against, reference=reference.strip(), who=who(), why=why
    )


def _balances(run: Run, found: "list[Wallet]") -> "list[Row]":
    from ledger import balances

    now = datetime.now(UTC)
    seen = standings(run, [wallet.budget for wallet in found], now)
    return [balances.status(wallet, standing) for wallet, standing in zip(found, seen, strict=True)]


def _show_one(document: "Row", output: str) -> None:
    shown = [_readable(document)] if output == "table" else [document]
    show(output, _opened_columns(), shown, document=document)


def _show_payment(wallet: "Wallet", row: "DbRow", is_new: bool, output: str) -> None:
    from ledger import balances
    from ledger.tables import money

    document = {
        **balances.payment(wallet.name, row, is_new=is_new),
        "credited_nanos": wallet.budget.amount,
    }
    if output == "table":
        amount, what = money(abs(row["amount_nanos"])), row["kind"].replace("_", "-")
        says = f"{wallet.name}: {what} of {amount} booked"
        if not is_new:
            says += f" before, as {row['reference']!r}; nothing was changed"
        click.echo(f"{says}. Paid in so far: {money(wallet.budget.amount)}.")
    else:
        show(output, (), [document], document=document)


def _readable(row: "Row") -> "Row":
    """The row with its amounts as a person reads them."""
    from ledger.reports import selector_text
    from ledger.tables import money

    names = ("credited", "spent", "balance", "held", "available", "alert_below")
    shown = {
        name: None if row[f"{name}_nanos"] is None else money(row[f"{name}_nanos"])
        for name in names
        if f"{name}_nanos" in row
    }
    if row.get("low"):
        shown["alert_below"] = f"{shown['alert_below']} (is low)"
    return {**row, **shown, "where": selector_text(row["where"].items())}


def _move(row: "Row") -> "Row":
    from ledger.tables import money

    about = row["reference"] if row["kind"] != "usage" else f"{row['calls']:,} calls"
    sums = {name: money(row[f"{name}_nanos"]) for name in ("amount", "balance")}
    return {**row, **sums, "kind": row["kind"].replace("_", "-"), "about": about}


def _opened_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("name", "Wallet", "name"),
        Column("where", "Pays for", "name"),
        Column("credited", "Paid in", "amount"),
        Column("alert_below", "Alert below", "amount"),
    ]


def _columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("name", "Wallet", "name"),
        Column("where", "Pays for", "name"),
        Column("credited", "Paid in", "amount"),
        Column("spent", "Spent", "amount"),
        Column("balance", "Balance", "amount"),
        Column("held", "Held", "amount"),
        Column("available", "Available", "amount"),
        Column("alert_below", "Alert below", "amount"),
    ]


def _move_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("at", "When (UTC)", "minute"),
        Column("kind", "What", "id"),
        Column("amount", "Amount", "amount"),
        Column("balance", "Balance", "amount"),
        Column("about", "Reference", "name"),
        Column("who", "Who"),
        Column("why", "Why", "name"),
    ]
