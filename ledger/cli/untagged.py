"""`ledger keys untagged`: spending that no label explains, and until when there can be any. Decides
nothing.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.session import Run, format_option, pass_run, show

if TYPE_CHECKING:
    from ledger.tables import Column

_NAMES: Final = ("cost_nanos", "calls", "refused_calls", "unpriced_calls")


@click.command()
@click.option("--since", default="30d", show_default=True, metavar="30d", help="From when on.")
@click.option("--per", type=click.Choice(["day", "week"]), default="day", show_default=True)
@format_option
@pass_run
def untagged(run: Run, since: str, per: str, output: str) -> None:
    """Show the spending of keys without all four labels: a number that only falls.

    Only imported keys can lack labels, and only until their grace date. Labels change nothing
    about calls that were made without them.
    """
    from ledger.cli import arguments

    now = datetime.now(UTC)
    start = arguments.moment(since, now).replace(minute=0, second=0, microsecond=0)
    with run.books() as db, db.transaction(snapshot=True) as session:
        spent = session.run("untagged_spend", since=start, per=per)
        [every] = session.run("untagged_of", since=start)
        graces = session.run("quarantined_by_grace", now=now)
    document = _document(per, start, now, spent, int(every["cost_nanos"]), graces)
    if output != "table":
        show(output, (), document["per"], document=document)
        return
    _show_table(document, per)


def _document(
    per: str,
    start: datetime,
    now: datetime,
    spent: list[dict[str, Any]],
    every_nanos: int,
    graces: list[dict[str, Any]],
) -> dict[str, Any]:
    from ledger.reports import usd_text

    sums = {name: sum(row[name] for row in spent) for name in _NAMES}
    keys = sum(row["keys"] for row in graces)
    last = max((row["grace_until"] for row in graces if row["passing"]), default=None)
    return {
        "since": start,
        "until": now,
        "untagged_nanos": sums["cost_nanos"],
        "untagged_usd": usd_text(sums["cost_nanos"]),
        **{name: sums[name] for name in _NAMES[1:]},
        "spent_nanos": every_nanos,
        "spent_usd": usd_text(every_nanos),
        "keys_in_quarantine": keys,
        "keys_passing": sum(row["passing"] for row in graces),
        "zero_from": last or (now if not keys else max(row["grace_until"] for row in graces)),
        "per": [
            {
                per: row["starts"].astimezone(UTC).strftime("%Y-%m-%d"),
                **{name: row[name] for name in _NAMES},
                "cost_usd": usd_text(row["cost_nanos"]),
                "keys": row["keys"],
            }
            for row in spent
        ],
        "quarantine": [
            {
                "day": row["day"].astimezone(UTC).strftime("%Y-%m-%d"),
                **{name: row[name] for name in ("grace_until", "keys", "passing", "replaced")},
            }
            for row in graces
        ],
    }


def _show_table(document: dict[str, Any], per: str) -> None:
    from ledger.tables import iso, money

    untagged, every = document["untagged_nanos"], document["spent_nanos"]
    share = f", {untagged * 100 / every:.1f} % of all" if every else ""
    click.echo(f"Untagged since {iso(document['since'])[:16]}Z: {money(untagged)}{share}\n")
    show("table", _spend_columns(per), document["per"], empty="No call was untagged.")
    click.echo()
    show("table", _grace_columns(), document["quarantine"], empty="No key is in quarantine.")
    click.echo()
    if document["keys_passing"]:
        click.echo(f"There can be none from {iso(document['zero_from'])[:16]}Z on.")
    else:
        click.echo("There can be none any more: no key without all of its labels may call.")


def _spend_columns(per: str) -> "list[Column]":
    from ledger.tables import Column

    return [
        Column(per, per.capitalize(), "id"),
        Column("cost_nanos", "Untagged", "usd"),
        Column("calls", "Calls", "count"),
        Column("refused_calls", "Refused", "count"),
        Column("unpriced_calls", "Unpriced", "count"),
        Column("keys", "Keys", "count"),
    ]


def _grace_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("day", "Grace ends", "id"),
        Column("keys", "Keys in quarantine", "count"),
        Column("passing", "May call", "count"),
        Column("replaced", "Replaced", "count"),
    ]
