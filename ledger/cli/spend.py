"""`ledger spend` and `ledger events`: questions to the books. Aggregates nothing itself."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from ledger.cli.session import Run, format_option, hint, pass_run, show

if TYPE_CHECKING:
    from ledger.reports import Question
    from ledger.tables import Column

_MAX_ROWS: Final = 10_000
_MAX_EVENTS: Final = 100_000
_EVENTS_IN_A_TABLE: Final = 50
_EVENTS_IN_A_FILE: Final = 10_000
_NO_PERSON: Final = "(no person)"

since_option: Final = click.option("--since", metavar="7d|DATE", help="From then on (UTC).")
until_option: Final = click.option(
    "--until", metavar="1d|DATE", help="Up to but without then (UTC)."
)
where_option: Final = click.option(
    "--where", multiple=True, metavar="NAME=VALUE", help="Only calls with this label."
)


@click.command()
@click.option(
    "--by",
    multiple=True,
    required=True,
    metavar="team[,agent,...]",
    help="What to sum by: any label, provider, model, key, hour, day, month, run_id and more.",
)
@since_option
@until_option
@where_option
@click.option("--limit", type=click.IntRange(1, _MAX_ROWS), default=1000, show_default=True)
@format_option
@pass_run
def spend(
    run: Run,
    by: tuple[str, ...],
    since: str | None,
    until: str | None,
    where: tuple[str, ...],
    limit: int,
    output: str,
) -> None:
    """Who spent how much: calls, tokens and cost per group, the dearest first, and their total.

    Hours, days and months are UTC's. CSV has no total row, so that a pivot does not count it twice.

    `team` made the calls, `root_team` started their chains, and `billed_team` pays for them. Where
    a call is split between two teams each has its half of the cost, and the calls and tokens stand
    in the caller's row alone, so that every column adds up to its total.
    """
    from ledger import reports
    from ledger import spend as books

    with run.books() as db, db.transaction(snapshot=True) as session:
        question = grouped_question(by, since, until, where, books.label_names(session))
        answer = reports.spend(question, books.spend(session, question, limit), limit)
    document = {
        "by": question.by,
        "since": question.since,
        "until": question.until,
        "rows": answer.rows,
        "total": answer.total,
    }
    rows = answer.rows
    if output == "table" and "principal" in question.by:
        rows = [row if row["principal"] else {**row, "principal": _NO_PERSON} for row in rows]
    total = {question.by[0]: "Total", **dict.fromkeys(question.by[1:], " "), **answer.total}
    show(
        output,
        _spend_columns(question),
        rows,
        total=total,
        document=document,
        empty="Nothing was spent or called.",
    )
    if answer.truncated:
        hint(f"These are the first {limit} rows (the total is of all); --limit shows more.")
    if any(row.get("principal") == _NO_PERSON for row in rows):
        hint(f"{_NO_PERSON}: calls of service accounts, and refused calls without a known key.")


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(1, _MAX_EVENTS),
    help=f"At most so many.  [default: {_EVENTS_IN_A_TABLE} in a table, {_EVENTS_IN_A_FILE} else]",
)
@since_option
@until_option
@where_option
@format_option
@pass_run
def events(
    run: Run,
    limit: int | None,
    since: str | None,
    until: str | None,
    where: tuple[str, ...],
    output: str,
) -> None:
    """The metered calls, newest first; JSON and CSV have every field."""
    from ledger import reports
    from ledger import spend as books

    most = limit or (_EVENTS_IN_A_TABLE if output == "table" else _EVENTS_IN_A_FILE)
    with run.books() as db, db.transaction(snapshot=True) as session:
        question = _asked_question(since, until, where, books.label_names(session))
        found = books.newest_events(session, question, most + 1)
    rows = [reports.event(row) for row in found[:most]]
    if output == "table":
        rows = [
            {**row, "called": reports.called(row), "result": reports.result(row)} for row in rows
        ]
    show(output, _event_columns(), rows, empty="No calls.")
    if len(found) > most:
        hint(f"These are the newest {most}; --limit shows more.")


def grouped_question(
    by: tuple[str, ...],
    since: str | None,
    until: str | None,
    where: tuple[str, ...],
    labels: list[str],
) -> "Question":
    """What --by, --since, --until and --where ask for."""
    from ledger import reports
    from ledger.cli import arguments

    asked = _asked_question(since, until, where, labels)
    dimensions = reports.allowed(
        reports.ROLLUP_DIMENSIONS, reports.TIME_DIMENSIONS, reports.EVENT_DIMENSIONS, labels
    )
    return replace(asked, by=arguments.dimensions(by, dimensions))


def _asked_question(
    since: str | None, until: str | None, where: tuple[str, ...], labels: list[str]
) -> "Question":
    """What --since, --until and --where ask for."""
    from ledger import reports
    from ledger.cli import arguments

    now = datetime.now(UTC)
    names = reports.allowed(
        reports.ROLLUP_DIMENSIONS, reports.FILTERS, reports.EVENT_DIMENSIONS, labels
    )
    start = arguments.moment(since, now) if since else None
    end = arguments.moment(until, now) if until else None
    if start and end and start >= end:
        raise arguments.InputError("--since must lie before --until.")
    return reports.Question(where=arguments.selector(where, names), since=start, until=end)


def _spend_columns(question: "Question") -> "list[Column]":
    from ledger.tables import Column

    return [
        *(Column(name, name.replace("_", " ").capitalize(), "name") for name in question.by),
        Column("calls", "Calls", "count"),
        Column("refused_calls", "Refused", "count"),
        Column("unpriced_calls", "Unpriced", "count"),
        Column("input_tokens", "Input", "tokens"),
        Column("output_tokens", "Output", "tokens"),
        Column("cost_nanos", "Cost", "usd"),
    ]


def _event_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("occurred_at", "Time (UTC)", "time"),
        Column("team", "Team"),
        Column("agent", "Agent"),
        Column("called", "Called"),
        Column("result", "Result"),
        Column("input_tokens", "Input", "tokens"),
        Column("output_tokens", "Output", "tokens"),
        Column("cost_nanos", "Cost", "usd"),
    ]
