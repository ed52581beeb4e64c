"""`ledger budgets`: grant, raise, list and end budgets. Leaves the deciding to ledger.grant."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from ledger.cli.explain import explain
from ledger.cli.plans import apply, export
from ledger.cli.publish import publish_now
from ledger.cli.session import Refusal, Run, format_option, hint, pass_run, show, who
from ledger.cli.standing import (
    amount as amount_shown,
)
from ledger.cli.standing import (
    budget_columns,
    raises,
    readable,
    show_budgets,
    standings,
    status_columns,
)

if TYPE_CHECKING:
    from ledger.budgets import Budget
    from ledger.db import Row as DbRow
    from ledger.reports import Row

MAX_LISTED: Final = 10_000
_MAX_CHANGES: Final = 100
_PERIODS: Final = ("minute", "hour", "day", "week", "month", "quarter", "total")
_ON_EXCEED: Final = ("block", "throttle", "suspend", "shadow")
_UNSTATED: Final = ("learned", "cap", "ceiling")
_why_option: Final = click.option("--why", default="", help="A remark for the books.")


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
@click.option(
    "--amount",
    required=True,
    metavar="500usd|2Mtok|60calls",
    help="How much they may use; `8parallel`: how many may be under way at once.",
)
@click.option("--per", required=True, type=click.Choice(_PERIODS), help="The window it is for.")
@click.option("--time-zone", default="UTC", show_default=True, help="Whose days and months.")
@click.option(
    "--alert",
    metavar="50,80,100",
    help="Percentages to be told about, or none.  [default: as before]",
)
@click.option(
    "--on-exceed",
    type=click.Choice(_ON_EXCEED),
    help="When it is spent: refuse calls; slow them down as it empties; keep the key off until it"
    " is resumed; only report.  [default: as before, or block]",
)
@click.option(
    "--unstated",
    type=click.Choice(_UNSTATED),
    help="What to hold for a call that states no maximum of output: what such calls hardly exceed;"
    " what is left, and tell the model so; the model's own.  [default: as before, or learned]",
)
@_why_option
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
    on_exceed: str | None,
    unstated: str | None,
    why: str,
    output: str,
) -> None:
    """Put a budget into force under NAME, or change it.

    A new amount keeps what is already used; another selector or window starts a new counter, which
    begins with what the books say was spent in the window.
    """
    from ledger import grant, reports, spend
    from ledger.budgets import Budget
    from ledger.cli import arguments

    clean_name = grant.clean_name(name)
    unit, number = arguments.amount(amount)
    arguments.rule(unit, per, on_exceed or "block")
    percents = None if alert is None else arguments.alerts(alert)
    zone = arguments.time_zone(time_zone)
    given = {"alerts": percents, "on_exceed": on_exceed, "unstated": unstated}
    with run.books() as db:
        with db.transaction() as session:
            names = reports.allowed(reports.SELECTOR_LABELS, spend.label_names(session))
            wanted = Budget(
                budget_id="",
                name=clean_name,
                where=arguments.selector(where, names),
                unit=unit,
                amount=number,
                per=per,
                time_zone=zone,
                on_exceed=on_exceed or "block",
                unstated=unstated or "learned",
                alerts=percents or (),
            )
            keeps = [name for name, value in given.items() if value is None]
            row, what = grant.grant(session, wanted, keeps=keeps, who=who(), why=why)
        publish_now(run, db)
    _show_one(reports.budget(grant.budget_of(row)), what, output)


@budgets.command("raise")
@click.argument("name")
@click.option("--by", required=True, metavar="100usd", help="How much more.")
@click.option(
    "--until",
    required=True,
    metavar="2026-11-30[T18:00]|7d",
    help="When it ends by itself, in the budget's time zone; a date is its first instant.",
)
@_why_option
@format_option
@pass_run
def raise_budget(run: Run, name: str, by: str, until: str, why: str, output: str) -> None:
    """Raise the budget NAME for a while. What is used stays used."""
    from ledger import grant, reports
    from ledger.budgets import Raise
    from ledger.cli import arguments

    unit, number = arguments.amount(by)
    now = datetime.now(UTC)
    with run.books() as db:
        with db.transaction() as session:
            _, budget = grant.find(session, name)
            ends = arguments.until(until, now, budget.time_zone)
            more = Raise(number, reports.micros(now), reports.micros(ends))
            row = grant.add_raise(session, name, more, unit=unit, who=who(), why=why)
        publish_now(run, db)
    _show_one(reports.budget(grant.budget_of(row)), "raised", output)


@budgets.command("list")
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def list_budgets(run: Run, limit: int, output: str) -> None:
    """List the budgets in force, keys' own limits and prepaid credit last."""
    from ledger import reports

    granted = _in_force(run, None, limit)
    found = [reports.budget(budget) for budget in granted[:limit]]
    show_budgets(output, budget_columns, found)
    _say_if_more(granted, limit)


@budgets.command("show")
@click.argument("name")
@format_option
@pass_run
def show_budget(run: Run, name: str, output: str) -> None:
    """Show one budget: its rule, its raises, and who changed it."""
    from ledger import grant, reports
    from ledger.tables import Column, iso, printable

    with run.books() as db:
        rows = _rows(db.run("budgets_list", name=name, limit=1), name)
        budget = grant.budget_of(rows[0])
        changes = db.run("budgets_changes", budget_id=budget.budget_id, limit=_MAX_CHANGES)
    document = {**reports.budget(budget), "created_at": rows[0]["created_at"], "changes": changes}
    if output != "table":
        show(output, (), [document], document=document)
        return
    shown = {**readable(document), "created_at": iso(document["created_at"])}
    names = ("name", "where", "amount", "per", "on_exceed", "unstated", "alerts", "limit_source")
    for field in (*names, "budget_id", "created_at"):
        click.echo(f"{field + ':':15}{printable(shown[field] or '-')}")
    for line in raises([document], datetime.now(UTC)):
        click.echo(printable(line))
    click.echo()
    columns = [
        Column("at", "When (UTC)", "minute"),
        Column("what", "What"),
        Column("who", "Who"),
        Column("was", "Was", "amount"),
        Column("why", "Why", "name"),
    ]
    show("table", columns, [_change(change) for change in changes], empty="No changes.")


@budgets.command()
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def status(run: Run, name: str | None, limit: int, output: str) -> None:
    """What each budget has used, holds and has left, as its counter says now."""
    from ledger import reports

    granted = _in_force(run, name, limit)
    now = datetime.now(UTC)
    found = [
        reports.budget_status(budget, standing, now)
        for budget, standing in zip(
            granted[:limit], standings(run, granted[:limit], now), strict=True
        )
    ]
    show_budgets(output, status_columns, found)
    _say_if_more(granted, limit)


@budgets.command()
@click.argument("name")
@_why_option
@format_option
@pass_run
def remove(run: Run, name: str, why: str, output: str) -> None:
    """End the budget NAME; what it counted stays in the books."""
    from ledger import grant, reports

    with run.books() as db:
        with db.transaction() as session:
            removed = grant.remove(session, name, who=who(), why=why)
        publish_now(run, db)
    _show_one(reports.budget(removed), "removed", output)


for _command in (explain, apply, export):
    budgets.add_command(_command)


def _in_force(run: Run, name: str | None, limit: int) -> "list[Budget]":
    """The budgets in force, one more than `limit` where there are more."""
    from ledger import grant

    with run.books() as db:
        rows = db.run("budgets_list", name=name, limit=limit + 1)
    return [grant.budget_of(row) for row in (rows if name is None else _rows(rows, name))]


def _rows(rows: "list[DbRow]", name: str) -> "list[DbRow]":
    if not rows:
        raise Refusal(f"There is no budget {name!r}; `ledger budgets list` shows them all.")
    return rows


def _change(change: "DbRow") -> "Row":
    created = change["what"] == "created"
    was = change["detail"]
    return {**change, "was": None if created else amount_shown(was["unit"], was["amount"])}


def _show_one(budget: "Row", change: str, output: str) -> None:
    document = {**budget, "change": change}
    show_budgets(output, budget_columns, [document], document=document)


def _say_if_more(found: "list[Budget]", limit: int) -> None:
    if len(found) > limit:
        hint(f"These are the first {limit}; --limit shows more.")
