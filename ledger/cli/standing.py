"""Budgets beside their counters, as commands print them. Changes nothing."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ledger.cli.session import Refusal, Run, show

if TYPE_CHECKING:
    from ledger.budgets import Budget
    from ledger.reports import Row, Standing
    from ledger.tables import Column


def standings(run: Run, granted: "Sequence[Budget]", now: datetime) -> "list[Standing]":
    """What each budget's counter says of the window that holds `now`."""
    from ledger import reports
    from ledger.budgets import window_at
    from ledger.stream import command

    now_us = reports.micros(now)
    found = []
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
            found.append(reports.Standing(int(used or 0), int(held or 0)))
    return found


def readable(row: "Row") -> "Row":
    """The row of a budget with its amounts as a person reads them."""
    from ledger.reports import selector_text
    from ledger.tables import money, tokens

    read = money if row["unit"] == "usd" else tokens
    shown: Row = {name: read(row[name]) for name in ("used", "held", "left") if name in row}
    for name in ("amount", "limit"):
        if name in row:
            shown[name] = amount(row["unit"], row[name])
    shown["where"] = selector_text(row["where"].items())
    shown["alerts"] = ", ".join(f"{percent}%" for percent in row["alerts"])
    if row["time_zone"] != "UTC":
        shown["per"] = f"{row['per']} ({row['time_zone']})"
    return {**row, **shown}


def amount(unit: str, number: int) -> str:
    """A granted amount to read, to its last digit: `$1,234.50`, `1.5Mtok`, `60 calls`."""
    from ledger.reports import amount_text
    from ledger.tables import money

    if unit == "usd":
        return money(number)
    return amount_text(unit, number) if unit == "tokens" else f"{number:,} {unit}"


def raises(rows: "Sequence[Row]", now: datetime) -> list[str]:
    """A line for each raise that has not ended, in the time zone of its budget."""
    from zoneinfo import ZoneInfo

    return [
        f"Raised: {row['name']} by {amount(row['unit'], each['amount'])} until"
        f" {each['until'].astimezone(ZoneInfo(row['time_zone'])):%Y-%m-%d %H:%M}"
        f" ({row['time_zone']})."
        for row in rows
        for each in row["raises"]
        if each["until"] > now
    ]


def show_budgets(
    output: str,
    columns: "Callable[[Sequence[Row]], list[Column]]",
    rows: "Sequence[Row]",
    *,
    document: Any = None,
    empty: str = "No budgets.",
) -> None:
    """Print budgets; a table is followed by the raises of its rows."""
    from ledger.tables import printable

    shown = [readable(row) for row in rows] if output == "table" else rows
    show(output, columns(shown), shown, document=document, empty=empty)
    told = raises(rows, datetime.now(UTC)) if output == "table" else []
    for line in ["", *told] if told else []:
        click.echo(printable(line))


def budget_columns(rows: "Sequence[Row]") -> "list[Column]":
    """Of budgets as they were granted."""
    from ledger.tables import Column

    return [
        Column("name", "Budget", "name"),
        Column("where", "Where", "name"),
        Column("amount", "Amount", "amount"),
        Column("per", "Per"),
        *([Column("alerts", "Alerts")] if any(row["alerts"] for row in rows) else []),
        Column("on_exceed", "When spent"),
    ]


def status_columns(_: "Sequence[Row]") -> "list[Column]":
    """Of budgets beside their counters."""
    from ledger.tables import Column

    return [
        Column("name", "Budget", "name"),
        Column("limit", "Amount", "amount"),
        Column("per", "Per"),
        Column("used", "Used", "amount"),
        Column("held", "Held", "amount"),
        Column("left", "Left", "amount"),
        Column("percent", "Taken", "percent"),
        Column("turns_at", "Turns (UTC)", "minute"),
    ]
