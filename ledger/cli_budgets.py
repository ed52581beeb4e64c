"""`ledger budgets`: set, list, status, remove. Decides nothing that ledger.grant decides."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from ledger.cli_publish import publish_now
from ledger.cli_session import Refusal, Run, WrongUsage, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.budgets import Budget
    from ledger.reports import Row, Standing
    from ledger.tables import Column

MAX_LISTED: Final = 10_000
_PERIODS: Final = ("minute", "hour", "day", "week", "month", "quarter", "total")
_LATER: Final = ("throttle", "suspend", "shadow")


@click.group()
def budgets() -> None:
    """Set budgets and see what is left."""


@budgets.command("set")
@click.argument("name")
@click.option(
    "--where",
    multiple=True,
    required=True,
    metavar="team=risk[,agent=...]",
    help="Which calls it counts; `all` for every call.",
)
@click.option("--amount", required=True, metavar="500usd|2Mtok", help="How much they may use.")
@click.option("--per", required=True, type=click.Choice(_PERIODS), help="The window it is for.")
@click.option("--time-zone", default="UTC", show_default=True, help="Whose days and months.")
@click.option(
    "--alert",
    metavar="50,80,100",
    help="Percentages to be told about, or none.  [default: as before]",
)
@click.option(
    "--on-exceed", default="block", show_default=True, help="What happens when it is spent."
)
@format_option
@pass_run
def set_budget(
    run: Run,
    name: str,
    where: tuple[str, ...],
    amount: str,
    per: str,
    time_zone: str,
    alert: str | None,
    on_exceed: str,
    output: str,
) -> None:
    """Put a budget into force under NAME, or change it.

    A new amount keeps what is already used; another selector or window starts a new counter, which
    begins with what the books say was spent in the window.
    """
    from ledger import cli_input, grant, reports, spend
    from ledger.budgets import Budget

    if on_exceed != "block":
        later = ", ".join(_LATER)
        says = f"is not there yet ({later} come later)" if on_exceed in _LATER else "is not known"
        raise WrongUsage(f"--on-exceed {on_exceed} {says}; this version knows block.")
    clean_name = grant.clean_name(name)
    unit, number = cli_input.amount(amount)
    percents = None if alert is None else cli_input.alerts(alert)
    zone = cli_input.time_zone(time_zone)
    with run.books() as db:
        with db.transaction() as session:
            names = reports.allowed(reports.SELECTOR_LABELS, spend.label_names(session))
            wanted = Budget(
                budget_id="",
                name=clean_name,
                where=cli_input.selector(where, names),
                unit=unit,
                amount=number,
                per=per,
                time_zone=zone,
                on_exceed=on_exceed,
                alerts=percents or (),
            )
            row, what = grant.grant(session, wanted, keeps_alerts=percents is None, who=who())
        publish_now(run, db)
    document = {**reports.budget(grant.budget_of(row)), "change": what}
    show(
        output,
        _columns(),
        [_readable(document)] if output == "table" else [document],
        document=document,
    )


@budgets.command("list")
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def list_budgets(run: Run, limit: int, output: str) -> None:
    """List the budgets in force, keys' own limits last."""
    from ledger import grant, reports

    with run.books() as db:
        rows = db.run("budgets_list", name=None, limit=limit + 1)
    found = [reports.budget(grant.budget_of(row)) for row in rows[:limit]]
    shown = [_readable(row) for row in found] if output == "table" else found
    show(output, _columns(), shown, empty="No budgets.")
    if len(rows) > limit:
        hint(f"These are the first {limit}; --limit shows more.")


@budgets.command()
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def status(run: Run, name: str | None, limit: int, output: str) -> None:
    """What each budget has used, holds and has left, as its counter says now."""
    from ledger import grant, reports

    with run.books() as db:
        rows = db.run("budgets_list", name=name, limit=limit + 1)
    if name is not None and not rows:
        raise Refusal(f"There is no budget {name!r}; `ledger budgets list` shows them all.")
    now = datetime.now(UTC)
    granted = [grant.budget_of(row) for row in rows[:limit]]
    standings = _standings(run, granted, now)
    found = [
        reports.budget_status(budget, standing, now)
        for budget, standing in zip(granted, standings, strict=True)
    ]
    shown = [_readable(row) for row in found] if output == "table" else found
    show(output, _status_columns(), shown, empty="No budgets.")
    if len(rows) > limit:
        hint(f"These are the first {limit}; --limit shows more.")


@budgets.command()
@click.argument("name")
@format_option
@pass_run
def remove(run: Run, name: str, output: str) -> None:
    """End the budget NAME; what it counted stays in the books."""
    from ledger import grant, reports

    with run.books() as db:
        with db.transaction() as session:
            removed = grant.remove(session, name, who=who())
        publish_now(run, db)
    _show_one(reports.budget(removed), "removed", output)


def _show_one(budget: "Row", change: str, output: str) -> None:
    document = {**budget, "change": change}
    shown = [_readable(document)] if output == "table" else [document]
    show(output, _columns(), shown, document=document)


def _standings(run: Run, granted: "list[Budget]", now: datetime) -> "list[Standing]":
    from ledger import reports
    from ledger.budgets import window_at
    from ledger.stream import command

    now_us = reports.micros(now)
    standings = []
    with run.counters() as client:
        if granted and command(client, "GET", run.keyspace.epoch) is None:
            raise Refusal(
                "Redis has no counters yet: the writer counts them from the books when it runs;"
                " start it with `ledger up` or `ledger write`."
            )
        for budget in granted:
            window = window_at(budget.per, budget.time_zone, now_us)
            counter = run.keyspace.counter(budget.budget_id, window.name)
            used, held = command(client, "HMGET", counter, "used", "held")
            standings.append(reports.Standing(int(used or 0), int(held or 0)))
    return standings


def _readable(row: "Row") -> "Row":
    """The row with its amounts as a person reads them."""
    from ledger.reports import amount_text, selector_text
    from ledger.tables import money, tokens

    read = money if row["unit"] == "usd" else tokens
    names = [name for name in ("amount", "used", "held", "left") if name in row]
    readable: Row = {name: read(row[name]) for name in names}
    if row["unit"] == "tokens":
        readable["amount"] = amount_text("tokens", row["amount"])
    readable["where"] = selector_text(row["where"].items())
    readable["alerts"] = ", ".join(f"{percent}%" for percent in row["alerts"])
    if row["time_zone"] != "UTC":
        readable["per"] = f"{row['per']} ({row['time_zone']})"
    return {**row, **readable}


def _columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("name", "Budget", "name"),
        Column("where", "Where", "name"),
        Column("amount", "Amount", "amount"),
        Column("per", "Per"),
        Column("alerts", "Alerts"),
        Column("on_exceed", "When spent"),
    ]


def _status_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("name", "Budget", "name"),
        Column("amount", "Amount", "amount"),
        Column("per", "Per"),
        Column("used", "Used", "amount"),
        Column("held", "Held", "amount"),
        Column("left", "Left", "amount"),
        Column("percent", "Taken", "percent"),
        Column("turns_at", "Turns (UTC)", "minute"),
    ]
