"""`ledger labels`: which labels keys must have and may have. Leaves the deciding to
ledger.label_policy.
"""

import re
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.session import Refusal, Run, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.db import Session
    from ledger.tables import Column

MAX_LISTED: Final = 10_000
_MAX_CHANGES: Final = 200
_why_option: Final = click.option("--why", default="", help="A remark for the books.")


@click.group()
def labels() -> None:
    """Say which labels are mandatory and which values exist.

    A rule holds for every key that is issued, imported, rotated or relabelled from now on; keys
    that do not fit it go on until then (`ledger labels check`).
    """


@labels.command()
@click.argument("label")
@_why_option
@format_option
@pass_run
def require(run: Run, label: str, why: str, output: str) -> None:
    """Make LABEL mandatory, beside owner, team, agent and workload."""
    _set_required(run, label, True, why, output)


@labels.command()
@click.argument("label")
@_why_option
@format_option
@pass_run
def optional(run: Run, label: str, why: str, output: str) -> None:
    """Let keys be without LABEL again."""
    _set_required(run, label, False, why, output)


@labels.command()
@click.argument("values", metavar="LABEL=VALUE[,VALUE...]")
@click.option("--close", is_flag=True, help="From now on only values that were allowed.")
@_why_option
@format_option
@pass_run
def allow(run: Run, values: str, close: bool, why: str, output: str) -> None:
    """Put values on a label's list; with --close no other value is allowed."""
    _set_values(run, values, True, close, why, output)


@labels.command()
@click.argument("values", metavar="LABEL=VALUE[,VALUE...]")
@_why_option
@format_option
@pass_run
def forbid(run: Run, values: str, why: str, output: str) -> None:
    """Take values off a label's list, or forbid them where the list is open."""
    _set_values(run, values, False, False, why, output)


@labels.command("open")
@click.argument("label")
@_why_option
@format_option
@pass_run
def open_list(run: Run, label: str, why: str, output: str) -> None:
    """Let LABEL have any value again that is not forbidden."""
    from ledger import label_policy, reports

    with run.books() as db, db.transaction() as session:
        label_policy.set_open(session, label, reports.RESERVED_NAMES, who=who(), why=why)
        rule = _rule(session, label)
    _show_rules([rule], output, rule)


@labels.command("list")
@format_option
@pass_run
def list_rules(run: Run, output: str) -> None:
    """Show every rule, and who made the last ones."""
    with run.books() as db, db.transaction(snapshot=True) as session:
        rules = [_shown(row) for row in session.run("labels_list")]
        changes = session.run("labels_changes", label=None, limit=_MAX_CHANGES)
    if output == "json":
        show(output, (), rules, document={"rules": rules, "changes": changes})
        return
    _show_rules(rules, output)
    if output == "table" and changes:
        click.echo()
        show(output, _change_columns(), [_readable(change) for change in changes])


@labels.command()
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def check(run: Run, limit: int, output: str) -> None:
    """List the keys in use that do not fit the rules; exit code 1 where there are any."""
    from ledger.tables import Column

    with run.books() as db:
        rows = db.run("labels_check", limit=limit + 1)
    columns = [
        Column("key_id", "Key", "id"),
        Column("owner", "Owner"),
        Column("team", "Team"),
        Column("fault", "What is wrong", "name"),
    ]
    show(output, columns, rows[:limit], empty="Every key fits the rules for labels.")
    if rows:
        more = "more than " if len(rows) > limit else ""
        raise Refusal(
            f"{more}{len(rows[:limit])} of the keys in use do not fit the rules; their calls pass,"
            " and their next change must put it right (`ledger keys relabel`)."
        )


def _set_required(run: Run, label: str, required: bool, why: str, output: str) -> None:
    from ledger import label_policy, reports

    with run.books() as db, db.transaction() as session:
        changed = label_policy.set_required(
            session, label, required, reports.RESERVED_NAMES, who=who(), why=why
        )
        rule = _rule(session, label)
        unfit = bool(required and session.run("labels_check", limit=1))
    _show_rules([rule], output, rule)
    if changed and unfit:
        _say_when()


def _set_values(run: Run, text: str, allowed: bool, close: bool, why: str, output: str) -> None:
    from ledger import label_policy, reports

    label, values = _values(text)
    with run.books() as db, db.transaction() as session:
        label_policy.set_values(
            *(session, label, values, allowed, reports.RESERVED_NAMES),
            close=close,
            who=who(),
            why=why,
        )
        rule = _rule(session, label)
        unfit = bool(session.run("labels_check", limit=1))
    _show_rules([rule], output, rule)
    if allowed and not rule["closed"]:
        hint(f"Other values of {label} are still allowed; --close ends that.")
    if unfit:
        _say_when()


def _say_when() -> None:
    hint(
        "Keys that do not fit go on until their labels change or they are rotated;"
        " `ledger labels check` lists them."
    )


def _values(text: str) -> tuple[str, list[str]]:
    """`team=risk,search` as the label and its values; `\\,` is a comma itself."""
    from ledger.cli.arguments import InputError

    label, equals, listed = text.partition("=")
    values = [part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", listed)]
    if not equals or not label.strip() or not all(values):
        raise InputError(
            f"Write a label and its values such as team=risk,search, not {text!r} (a comma inside a"
            " value is written \\,)."
        )
    return label.strip(), values


def _rule(session: "Session", label: str) -> dict[str, Any]:
    rows = [row for row in session.run("labels_list") if row["label"] == label]
    nothing = {"required": False, "closed": False, "allowed": [], "forbidden": []}
    return _shown(rows[0] if rows else {"label": label, **nothing})


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    from ledger.issue import REQUIRED_LABELS

    return {**row, "required": row["required"] or row["label"] in REQUIRED_LABELS}


def _show_rules(rules: list[dict[str, Any]], output: str, document: Any = None) -> None:
    from ledger.tables import Column

    columns = [
        Column("label", "Label", "id"),
        Column("required", "Mandatory", "id"),
        Column("values", "Values", "id"),
        Column("allowed", "Allowed", "name"),
        Column("forbidden", "Forbidden", "name"),
    ]
    rows = rules if output != "table" else [_readable_rule(rule) for rule in rules]
    empty = "No rules: owner, team, agent and workload are mandatory, with any value."
    show(output, columns, rows, document=document, empty=empty)


def _readable_rule(rule: dict[str, Any]) -> dict[str, Any]:
    return {
        "label": rule["label"],
        "required": "yes" if rule["required"] else "no",
        "values": "closed list" if rule["closed"] else "open",
        "allowed": ", ".join(rule["allowed"]),
        "forbidden": ", ".join(rule["forbidden"]),
    }


def _readable(change: dict[str, Any]) -> dict[str, Any]:
    return {**change, "values": ", ".join(change["detail"].get("values", ()))}


def _change_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("at", "Changed", "time"),
        Column("label", "Label", "id"),
        Column("what", "What", "id"),
        Column("values", "Values", "name"),
        Column("who", "Who"),
        Column("why", "Why"),
    ]
