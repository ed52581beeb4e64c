"""`ledger agents`: register, list, show, set, suspend, resume, retire. Decides nothing."""

from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.publish import publish_now
from ledger.cli.session import Run, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.db import Row
    from ledger.tables import Column

MAX_LISTED: Final = 10_000
_MAX_CHANGES: Final = 100
_NO_PRICE: Final = "none"
_why_option: Final = click.option("--why", default="", help="A remark for the books.")


@click.group()
def agents() -> None:
    """Register agents; suspend and retire them."""


@agents.command()
@click.argument("name")
@click.option("--team", help="The team that runs it.  [required]")
@click.option("--owner", help="Who answers for it.  [required]")
@click.option("--purpose", help="What it is for.  [required]")
@click.option("--price-per-call", metavar="USD", help="What others pay for a call of it.")
@_why_option
@format_option
@pass_run
def register(
    run: Run,
    name: str,
    team: str | None,
    owner: str | None,
    purpose: str | None,
    price_per_call: str | None,
    why: str,
    output: str,
) -> None:
    """Give an agent an identity. Its keys are those with its name as their agent."""
    from ledger import agents as registry

    request = registry.AgentRequest(
        name=name, team=team, owner=owner, purpose=purpose, price_nanos=_price(price_per_call)
    )
    with run.books() as db:
        with db.transaction() as session:
            row = registry.register(session, request, who=who(), why=why)
        publish_now(run, db)
    _show_one(row, output)


@agents.command("list")
@click.option("--status", type=click.Choice(["active", "suspended", "retired"]))
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def list_agents(run: Run, status: str | None, limit: int, output: str) -> None:
    """List agents by name."""
    from ledger import reports

    with run.books() as db:
        rows = db.run("agents_list", status=status, limit=limit + 1)
    shown = [reports.agent(row) for row in rows[:limit]]
    show(output, _columns(), shown, empty="No agent is registered.")
    if len(rows) > limit:
        hint(f"These are the first {limit}; --limit shows more.")


@agents.command("show")
@click.argument("name")
@format_option
@pass_run
def show_agent(run: Run, name: str, output: str) -> None:
    """Show one agent: what its keys spent, how often it was called, and who changed it."""
    from ledger import agents as registry
    from ledger import reports

    with run.books() as db, db.transaction() as session:
        row = registry.find(session, name)
        [usage] = session.run("agents_usage", name=row["name"])
        changes = session.run("agents_changes", name=row["name"], limit=_MAX_CHANGES)
    document = {**reports.agent(row), **reports.agent_usage(usage), "changes": changes}
    if output != "table":
        show(output, (), [document], document=document)
        return
    show("table", [*_columns(), *_usage_columns()], [document])
    click.echo()
    show("table", _change_columns(), changes)


@agents.command("set")
@click.argument("name")
@click.option("--team", help="The team that runs it.")
@click.option("--owner", help="Who answers for it.")
@click.option("--purpose", help="What it is for.")
@click.option("--price-per-call", metavar="USD", help="What a call of it costs, or none.")
@_why_option
@format_option
@pass_run
def set_agent(
    run: Run,
    name: str,
    team: str | None,
    owner: str | None,
    purpose: str | None,
    price_per_call: str | None,
    why: str,
    output: str,
) -> None:
    """Change what is registered of an agent."""
    from ledger import agents as registry
    from ledger.cli import arguments

    given = {"team": team, "owner": owner, "purpose": purpose}
    wanted: dict[str, Any] = {n: value for n, value in given.items() if value is not None}
    if price_per_call is not None:
        wanted["price_nanos"] = _price(price_per_call)
    if not wanted:
        raise arguments.InputError(
            "Say what to set: --team, --owner, --purpose or --price-per-call."
        )
    with run.books() as db:
        with db.transaction() as session:
            row = registry.change(session, name, wanted, who=who(), why=why)
        publish_now(run, db)
    _show_one(row, output)


@agents.command()
@click.argument("name")
@_why_option
@format_option
@pass_run
def suspend(run: Run, name: str, why: str, output: str) -> None:
    """Refuse the calls of the agent's keys, and calls of it, until it is resumed."""
    _set_status(run, name, "suspended", why, output)


@agents.command()
@click.argument("name")
@_why_option
@format_option
@pass_run
def resume(run: Run, name: str, why: str, output: str) -> None:
    """Let a suspended agent act again."""
    _set_status(run, name, "active", why, output)


@agents.command()
@click.argument("name")
@_why_option
@format_option
@pass_run
def retire(run: Run, name: str, why: str, output: str) -> None:
    """End an agent for good: its keys are refused, and no new one is issued."""
    _set_status(run, name, "retired", why, output)


def _set_status(run: Run, name: str, status: str, why: str, output: str) -> None:
    from ledger import agents as registry

    with run.books() as db:
        with db.transaction() as session:
            row = registry.set_status(session, name, status, who=who(), why=why)
        publish_now(run, db)
    _show_one(row, output)


def _price(text: str | None) -> int | None:
    from ledger.cli.arguments import price

    return None if text is None or text == _NO_PRICE else price(text)


def _show_one(row: "Row", output: str) -> None:
    from ledger import reports

    document = reports.agent(row)
    show(output, _columns(), [document], document=document)


def _columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("name", "Agent"),
        Column("team", "Team"),
        Column("owner", "Owner"),
        Column("purpose", "Purpose"),
        Column("status", "Status", "id"),
        Column("price_nanos", "Per call", "limit"),
    ]


def _usage_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("keys", "Keys", "count"),
        Column("calls", "Calls", "count"),
        Column("spent_nanos", "Spent", "usd"),
        Column("times_called", "Times called", "count"),
    ]


def _change_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("at", "Changed", "time"),
        Column("what", "What", "id"),
        Column("who", "Who"),
        Column("why", "Why"),
    ]
