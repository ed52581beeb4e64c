"""`ledger cache`: what calls cost once cache writes are split over their readers. Splits nothing
itself.
"""

from typing import TYPE_CHECKING

import click

from ledger.cli.session import Refusal, Run, format_option, hint, pass_run, show
from ledger.cli.spend import grouped_question, since_option, until_option, where_option

if TYPE_CHECKING:
    from ledger.tables import Column


@click.command()
@click.option(
    "--by",
    multiple=True,
    default=("team",),
    show_default="team",
    metavar="team[,agent,...]",
    help="What to sum by: as in `ledger spend`.",
)
@since_option
@until_option
@where_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@format_option
@pass_run
def cache(
    run: Run,
    by: tuple[str, ...],
    since: str | None,
    until: str | None,
    where: tuple[str, ...],
    limit: int,
    output: str,
) -> None:
    """What each group's calls cost once cached context is shared fairly.

    A cache write is booked to the call that made it, though others read it. Here each write is
    split over all calls that used it, the writer included, by the tokens they used; reads stay
    where they are, and a write that nobody read stays with its writer.

    A call has read what an earlier one left behind that is exactly as long, else the beginning of
    something longer: of its own run, its own agent, then of anybody who uses the same account and
    model. Only writes and reads within the time asked for count.

    OpenAI bills no cache writes, so there is nothing to split: the first call pays plain input, and
    that stays with its caller.
    """
    from ledger import reports, shared_context
    from ledger import spend as books

    most = shared_context.MAX_GROUPS
    with run.books() as db, db.transaction(snapshot=True) as session:
        question = grouped_question(by, since, until, where, books.label_names(session))
        spent = reports.spend(question, books.spend(session, question, most), most)
        if spent.truncated:
            raise Refusal(f"That is more than {most:,} groups; ask --by something coarser.")
        try:
            found = shared_context.tally(
                question.by, books.cached_calls(session, question), run.rates()
            )
        except shared_context.TooManyGroupsError as error:
            raise Refusal(str(error)) from None
    rows = sorted(
        shared_context.rows(question.by, spent.rows, found),
        key=lambda row: (-row["shared_cost_nanos"], *(row[name] for name in question.by)),
    )
    total = shared_context.total(rows)
    show(
        output,
        _columns(question.by),
        rows[:limit],
        total={question.by[0]: "Total", **dict.fromkeys(question.by[1:], " "), **total},
        document={
            "by": question.by,
            "since": question.since,
            "until": question.until,
            "rows": rows[:limit],
            "total": total,
        },
        empty="Nothing was spent or called.",
    )
    if len(rows) > limit:
        hint(f"These are the first {limit} rows (the total is of all); --limit shows more.")


def _columns(by: tuple[str, ...]) -> "list[Column]":
    from ledger.tables import Column

    return [
        *(Column(name, name.replace("_", " ").capitalize(), "name") for name in by),
        Column("calls", "Calls", "count"),
        Column("cache_read_tokens", "Cache reads", "tokens"),
        Column("cache_write_nanos", "Cache writes", "usd"),
        Column("cost_nanos", "Booked", "usd"),
        Column("moved_out_nanos", "To others", "usd"),
        Column("moved_in_nanos", "From others", "usd"),
        Column("shared_cost_nanos", "Shared cost", "usd"),
    ]
