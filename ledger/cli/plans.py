"""`ledger budgets apply|export`: budgets as code. Decides nothing that ledger.plans decides."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.publish import publish_now
from ledger.cli.session import Refusal, Run, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.budgets import Budget
    from ledger.db import Session
    from ledger.plans import Change

_ALL: Final = 1_000_000_000  # budgets that are read; a plan must know every one
_STDIN: Final = "-"


@click.command()
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--prune", is_flag=True, help="Remove the budgets that FILE does not name.")
@click.option("--why", default="", help="A remark for the books.")
@format_option
@pass_run
def apply(run: Run, file: str, yes: bool, prune: bool, why: str, output: str) -> None:
    """Make the budgets in force those of FILE, YAML or JSON; `-` reads it from a pipe.

    Shows what will change and asks. All of it happens, or nothing. Limits of keys and wallets are
    never touched.
    """
    from ledger import plans

    text = _text(file)
    with run.books() as db:
        with db.transaction() as session:
            changes = _planned(session, text, file, prune)
        due = [change for change in changes if change.what != plans.UNCHANGED]
        if output == "table":
            _show_plan(due, changes)
        if due and not yes:
            _confirm(changes, due, output)
        if due:
            with db.transaction() as session:
                session.run("directory_lock")
                if _planned(session, text, file, prune) != changes:
                    raise Refusal("The budgets changed in the meantime; look at the plan again.")
                _carry_out(session, due, why)
            publish_now(run, db)
    if output != "table":
        _show_steps(changes, due, output, applied=bool(due))
    elif due:
        click.echo("Applied.")


@click.command()
@click.option("--format", "output", type=click.Choice(["yaml", "json"]), default="yaml")
@pass_run
def export(run: Run, output: str) -> None:
    """Print the budgets in force as a file that `apply` finds unchanged.

    Without limits of keys, wallets and raises, which end by themselves.
    """
    from ledger import budget_files, grant, plans

    with run.books() as db:
        rows = db.run("budgets_list", name=None, limit=_ALL)
    granted = [grant.budget_of(row) for row in rows]
    plain = sorted((b for b in granted if b.limit_source == plans.PLAIN), key=lambda b: b.name)
    click.echo(budget_files.write(plain, output), nl=False)


def _text(file: str) -> str:
    from ledger.budget_files import MAX_BYTES

    try:
        if file == _STDIN:
            return sys.stdin.buffer.read(MAX_BYTES + 1).decode()
        with Path(file).open("rb") as opened:
            return opened.read(MAX_BYTES + 1).decode()
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise Refusal(f"{file} is not a text in UTF-8; save it as one.") from None


def _planned(session: "Session", text: str, file: str, prune: bool) -> "list[Change]":
    from ledger import budget_files, grant, plans, reports, spend

    in_force = [grant.budget_of(row) for row in session.run("budgets_list", name=None, limit=_ALL)]
    used = (name for budget in in_force for name, _ in budget.where)
    labels = reports.allowed(reports.SELECTOR_LABELS, spend.label_names(session), used)
    wanted = budget_files.read(text, "the pipe" if file == _STDIN else file, labels)
    _refuse_others(wanted, in_force)
    return plans.plan(wanted, in_force, prune=prune)


def _refuse_others(wanted: "list[Budget]", in_force: "list[Budget]") -> None:
    from ledger import plans

    others = {b.name: b.limit_source for b in in_force if b.limit_source != plans.PLAIN}
    for budget in wanted:
        if budget.name in others:
            raise Refusal(
                f"{budget.name!r} is the name of a {others[budget.name]}, which no file of budgets"
                " can change; choose another name."
            )


def _confirm(changes: "list[Change]", due: "list[Change]", output: str) -> None:
    what = "this change" if len(due) == 1 else f"these {len(due)} changes"
    if not sys.stdin.isatty():
        if output != "table":
            _show_steps(changes, due, output, applied=False)
        raise Refusal(f"Nobody is at a terminal to confirm {what}; add --yes to apply.")
    if not click.confirm(f"Apply {what}?", err=True):
        raise Refusal("Nothing was changed.")


def _carry_out(session: "Session", due: "list[Change]", why: str) -> None:
    from ledger import grant

    # Removals first: they may free what others take.
    for change in sorted(due, key=lambda change: change.new is not None):
        if change.new is None:
            grant.remove(session, change.name, who=who(), why=why)
        else:
            grant.grant(session, change.new, who=who(), why=why)


def _show_plan(due: "list[Change]", changes: "list[Change]") -> None:
    from ledger import plans
    from ledger.tables import Column

    columns = [
        Column("what", "Change"),
        Column("name", "Budget", "name"),
        Column("field", "Field"),
        Column("is", "Is", "name"),
        Column("becomes", "Becomes", "name"),
    ]
    rows = [row for change in due for row in _lines(change)]
    if rows:
        show("table", columns, rows)
        click.echo()
    counts = {what: n for what, n in plans.counted(changes).items() if n}
    click.echo(", ".join(f"{n} {_TO[what]}" for what, n in counts.items()) or "An empty file.")
    if any(change.what == plans.REPLACED for change in due):
        hint(
            "A replaced budget counts other calls than before: its counter starts with what the"
            " books say of them."
        )


_TO: Final = {
    "create": "to create",
    "change": "to change",
    "replace": "to replace",
    "remove": "to remove",
    "unchanged": "unchanged",
}


def _lines(change: "Change") -> list[dict[str, Any]]:
    """One row a field, the first with the budget's name."""
    defaults = _defaults() if change.old is None or change.new is None else {}
    told = [
        {"field": field, "is": old, "becomes": new}
        for field, (old, new) in change.fields.items()
        if (old or new) != defaults.get(field)
    ]
    first = {"what": change.what, "name": change.name}
    again = {"what": " ", "name": " "}
    return [{**(again if at else first), **row} for at, row in enumerate(told)]


def _defaults() -> dict[str, str]:
    from ledger import plans

    named = {name: str(value) for name, value in plans.DEFAULTS.items() if value}
    return {**named, "alerts": "none"}


def _show_steps(
    changes: "list[Change]", due: "list[Change]", output: str, *, applied: bool
) -> None:
    from ledger import plans

    steps = [_document(change) for change in due]
    document = {"counts": plans.counted(changes), "changes": steps, "applied": applied}
    show(output, (), steps, document=document)


def _document(change: "Change") -> dict[str, Any]:
    sides = ("from", "to")
    fields = {name: dict(zip(sides, values, strict=True)) for name, values in change.fields.items()}
    return {"change": change.what, "name": change.name, "fields": fields}
