"""`ledger tools`: what calls of tools cost, and which were called. Decides nothing."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from ledger.cli.publish import publish_now
from ledger.cli.session import Run, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.tables import Column

MAX_LISTED: Final = 10_000
_NO_PRICE: Final = "none"


@click.group()
def tools() -> None:
    """Set what calls of tools cost, and see which were called."""


@tools.command()
@click.argument("tool", metavar="SERVER/TOOL")
@click.option(
    "--per-call", required=True, metavar="USD", help="What one call costs, or none to lift it."
)
@click.option("--why", default="", help="A remark for the books.")
@format_option
@pass_run
def price(run: Run, tool: str, per_call: str, why: str, output: str) -> None:
    """Set the price of a tool, or of all tools of a server with SERVER/*.

    A tool's own price comes before its server's. SERVER is the name after `ledger up --mcp`.
    """
    from ledger import agents as registry
    from ledger import reports
    from ledger.cli import arguments

    nanos = None if per_call == _NO_PRICE else arguments.price(per_call)
    with run.books() as db:
        with db.transaction() as session:
            row = registry.set_tool_price(session, tool, nanos, who=who(), why=why)
        publish_now(run, db)
    document = reports.tool_price(row)
    show(output, _price_columns(), [document], document=document)


@tools.command("list")
@click.option("--since", metavar="7d|DATE", help="Only calls from then on (UTC).")
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def list_tools(run: Run, since: str | None, limit: int, output: str) -> None:
    """List the tools that have a price or were called, by server."""
    from ledger import reports
    from ledger.cli import arguments

    start = arguments.moment(since, datetime.now(UTC)) if since else None
    with run.books() as db:
        rows = db.run("tools_list", since=start, limit=limit + 1)
    shown = [reports.tool(row) for row in rows[:limit]]
    show(output, [*_price_columns(), *_call_columns()], shown, empty="No tool was called.")
    if len(rows) > limit:
        hint(f"These are the first {limit}; --limit shows more.")


def _price_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("server", "Server"),
        Column("tool", "Tool"),
        Column("price_nanos", "Per call", "limit"),
    ]


def _call_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("calls", "Calls", "count"),
        Column("refused_calls", "Refused", "count"),
        Column("failed_calls", "Failed", "count"),
        Column("mean_ms", "Mean ms", "count"),
        Column("cost_nanos", "Cost", "usd"),
        Column("last_called_at", "Last called", "time"),
    ]
