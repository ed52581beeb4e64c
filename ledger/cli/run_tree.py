"""How runs are printed for people: what is on record, the tree, the list. Asks no books."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.session import show

if TYPE_CHECKING:
    from ledger.run_trees import Hop

_MONEY: Final = ("cost_nanos", "total_cost_nanos")
_WHOLE_RUN_CHARS: Final = 40
"""A longer run id is continued on the next line, for the other columns' sake."""


def show_runs(found: Sequence[Mapping[str, Any]]) -> None:
    """A list of runs. Their ids stay whole where the terminal allows, to be copied from there."""
    from ledger.tables import Column

    rows = [
        {
            **row,
            "at": row["last_at"] or row["created_at"],
            "root": "/".join(filter(None, (row["root_team"], row["root_agent"]))),
        }
        for row in found
    ]
    longest = max((len(row["run_id"]) for row in found), default=0)
    named = any(row["name"] for row in found)
    columns = [
        Column("run_id", "Run", "id" if longest <= _WHOLE_RUN_CHARS else "name"),
        *([Column("name", "Name")] if named else ()),
        Column("at", "Last (UTC)", "time"),
        Column("root", "Root"),
        Column("state", "State", "id"),
        Column("trust", "Trust"),
        Column("calls", "Calls", "count"),
        Column("cost_nanos", "Cost", "usd"),
    ]
    show("table", columns, rows, empty="No runs.")


def draw(document: Mapping[str, Any], top: "Hop") -> None:
    from ledger.tables import money, money_places, printable

    show_facts(document)
    click.echo()
    _draw_hops(document, top)
    _draw_called(top)
    events = document["events"]
    places = money_places(each["cost_nanos"] for each in document["billed"])
    paying = ", ".join(
        f"{each['team'] or 'nobody'} {money(each['cost_nanos'], places)}"
        for each in document["billed"]
    )
    click.echo(f"\nThe total is the sum of the run's {events:,} event{'s' * (events != 1)}.")
    if paying:
        click.echo(f"Billed to {printable(paying)}.")
    for line in _doubts(top, document):
        click.echo(line)


def _draw_hops(document: Mapping[str, Any], top: "Hop") -> None:
    from ledger import run_trees
    from ledger.tables import Column, money, money_places

    rows = [
        {**run_trees.flat(hop, 0), "branches": branches} for branches, hop in run_trees.drawn(top)
    ]
    total = {**document, "total_cost_nanos": document["cost_nanos"], "trust": " ", "team": " "}
    # In one number of decimals, so that the two columns of money can be compared.
    places = money_places(row[name] for row in (*rows, total) for name in _MONEY)
    for row in (*rows, total):
        row["who"] = f"{row.get('branches', '')}{row.get('who', 'Total')}"
        row |= {f"{name}_text": money(row[name], places) for name in _MONEY}
    columns = [
        Column("who", "Who"),
        Column("team", "Team"),
        Column("trust", "Trust"),
        Column("calls", "Calls", "count"),
        Column("input_tokens", "Input", "tokens"),
        Column("output_tokens", "Output", "tokens"),
        Column("cost_nanos_text", "Own cost", "amount"),
        Column("total_cost_nanos_text", "With below", "amount"),
    ]
    show("table", columns, rows, total=total)


def _draw_called(top: "Hop") -> None:
    """The tools and agents that were called, of whose calls each hop's own are made."""
    from ledger import run_trees
    from ledger.tables import Column

    rows = [
        {"kind": kind, "name": name, "who": hop.who, **sums}
        for _, hop in run_trees.walk(top)
        for (kind, name), sums in sorted(hop.called.items())
    ]
    if rows:
        click.echo()
        columns = [
            Column("name", "Called"),
            Column("kind", "Kind", "id"),
            Column("who", "By"),
            Column("calls", "Calls", "count"),
            Column("failed_calls", "Failed", "count"),
            Column("cost_nanos", "Cost", "usd"),
        ]
        show("table", columns, rows)


def _doubts(top: "Hop", document: Mapping[str, Any]) -> list[str]:
    """What the figures do not say of themselves."""
    from ledger import run_trees
    from ledger.tables import printable

    says = []
    if unpriced := document["unpriced_calls"]:
        says.append(f"{_calls(unpriced)} no price: the cost is unknown, not zero.")
    if refused := document["refused_calls"]:
        says.append(f"{_calls(refused)} been refused.")
    trusts = {trust for _, hop in run_trees.walk(top) for trust in hop.trusts}
    if trusts & {"asserted", "inferred"}:
        says.append("Nobody proved this run: callers named it, so each pays for its own calls.")
    faults = {fault for _, hop in run_trees.walk(top) for fault in hop.faults}
    if faults:
        says.append(f"Chains that were not believed: {printable(', '.join(sorted(faults)))}.")
    return says


def _calls(number: int) -> str:
    return "1 call has" if number == 1 else f"{number:,} calls have"


def show_facts(document: Mapping[str, Any]) -> None:
    """What is on record of a run."""
    from ledger.tables import iso, printable

    root = document["root"] or {}
    shown = {
        "run": document["run_id"],
        "name": document.get("name"),
        "root": " / ".join(root[name] for name in ("team", "agent", "workload") if root.get(name)),
        "root key": root.get("key_id"),
        "state": document.get("state"),
        "audience": ", ".join(document.get("audience") or ()),
        "budget": document.get("budget_amount"),
        "started": _by(document, "started", document.get("why")),
        "expires": document.get("expires_at") if not document.get("ended_at") else None,
        "ended": _by(document, "ended", document.get("ended_why")),
        "first call": document.get("first_at"),
        "last call": document.get("last_at"),
    }
    for name, value in shown.items():
        if value:
            text = iso(value) if isinstance(value, datetime) else str(value)
            click.echo(f"{name:<11} {printable(text)}")


def _by(document: Mapping[str, Any], what: str, why: str | None) -> str:
    from ledger.tables import iso

    at = document.get(f"{what}_at")
    if at is None:
        return ""
    return f"{iso(at)} by {document[f'{what}_by']}{f' ({why})' if why else ''}"
