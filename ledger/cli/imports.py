"""`ledger keys import`: takes keys that callers have. Leaves the deciding to ledger.imports."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.key_files import complain, opened, progress
from ledger.cli.publish import publish_now
from ledger.cli.session import Refusal, Run, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.db import Database
    from ledger.imports import Outcome
    from ledger.key_files import BadRow, KeyFile, KeyRow

_NAMES: Final = ("key", "sha256")


@click.command("import")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option(
    "--grace",
    metavar="30d",
    default="30d",
    show_default=True,
    help="How long keys without all labels may call: a length of time or a date.",
)
@click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing.")
@click.option("--why", default="", help="A remark for the books.")
@format_option
@pass_run
def import_keys(run: Run, file: str, grace: str, dry_run: bool, why: str, output: str) -> None:
    """Take the keys of FILE, a CSV, so that their callers need not change them.

    Columns: `key` (its text, any text; only its SHA-256 is kept) or `sha256`; owner, team, agent,
    workload, customer and any other labels; name, note. Rows with all labels become keys; the
    others go into quarantine: their calls pass until the grace date, and are refused after it
    (`ledger keys backfill`, `ledger keys untagged`). Keys that are known stay as they are, so the
    same file may be imported again. `-` reads a pipe.
    """
    from ledger.cli import arguments

    grace_until = arguments.expiry(grace, datetime.now(UTC))
    with run.books() as db, opened(file, _NAMES) as rows:
        counted = _Counted()
        outcomes = _import(db, rows, counted, grace_until, why, dry_run)
        if not dry_run:
            publish_now(run, db)
    document = _document(outcomes, grace_until, dry_run)
    refused = [outcome for outcome in outcomes if outcome.result == "refused"]
    _show(output, outcomes, document)
    _warn(counted, document, dry_run)
    if output == "table":
        complain(refused)
    if refused:
        rest = len(outcomes) - len(refused)
        done = "would be taken" if dry_run else "are in the books"
        raise Refusal(
            f"{len(refused):,} of {len(outcomes):,} rows were refused; the other {rest:,} {done}."
            " Correct them and import the file again."
        )


class _Counted:
    """Rows of which there is something to say beside what becomes of them."""

    def __init__(self) -> None:
        self.guessable: list[int] = []
        self.hash_like: list[int] = []

    def see(self, row: "KeyRow") -> None:
        """Note the row's line where its key is short, or looks like a digest."""
        if row.guessable:
            self.guessable.append(row.line)
        if row.hash_like:
            self.hash_like.append(row.line)


def _import(
    db: "Database",
    file: "KeyFile",
    counted: _Counted,
    grace_until: datetime,
    why: str,
    dry_run: bool,
) -> "list[Outcome]":
    """Chunk by chunk, each in a transaction of its own: what is in the books stays there."""
    from ledger import imports, reports
    from ledger.key_files import BadRow, KeyRow

    outcomes: list[Outcome] = []
    try:
        for chunk in _chunks(file.rows(), imports.MAX_CHUNK):
            good = [row for row in chunk if isinstance(row, KeyRow)]
            for row in good:
                counted.see(row)
            with db.transaction() as session:
                taken = imports.take(
                    *(session, good),
                    grace_until=grace_until,
                    reserved=reports.RESERVED_NAMES,
                    who=who(),
                    why=why,
                    dry_run=dry_run,
                )
            bad = [
                imports.Outcome(row.line, imports.REFUSED, says=row.says)
                for row in chunk
                if isinstance(row, BadRow)
            ]
            outcomes += sorted([*taken, *bad], key=lambda outcome: outcome.line)
            progress(len(outcomes), "read")
    except BaseException:
        if outcomes and not dry_run:
            hint(
                f"It ended after {len(outcomes):,} rows, which are done; import the same file again"
                " to take the rest."
            )
        raise
    return outcomes


def _chunks(rows: "Iterator[KeyRow | BadRow]", size: int) -> "Iterator[list[KeyRow | BadRow]]":
    from itertools import islice

    while chunk := list(islice(rows, size)):
        yield chunk


def _document(outcomes: "list[Outcome]", grace_until: datetime, dry_run: bool) -> dict[str, Any]:
    results = Counter(outcome.result for outcome in outcomes)
    names = ("imported", "quarantined", "known", "refused")
    return {
        "rows": len(outcomes),
        **{name: results[name] for name in names},
        "grace_until": grace_until,
        "dry_run": dry_run,
        "results": [
            {"line": o.line, "result": o.result, "key_id": o.key_id, "says": o.says}
            for o in outcomes
        ],
    }


def _show(output: str, outcomes: "list[Outcome]", document: dict[str, Any]) -> None:
    from ledger.tables import Column, iso

    if output != "table":
        show(output, (Column("line", "Line"),), document["results"], document=document)
        return
    columns = [
        Column("rows", "Rows", "count"),
        Column("imported", "Labelled", "count"),
        Column("quarantined", "In quarantine", "count"),
        Column("known", "Known before", "count"),
        Column("refused", "Refused", "count"),
    ]
    show(output, columns, [document])
    if document["quarantined"]:
        click.echo(f"\nKeys in quarantine may call until {iso(document['grace_until'])[:16]}Z.")


def _warn(counted: _Counted, document: dict[str, Any], dry_run: bool) -> None:
    if document["known"]:
        hint("Known keys stay as they are; `ledger keys backfill FILE` labels those in quarantine.")
    if counted.guessable:
        hint(
            f"{_some(counted.guessable)} a key of fewer than 16 characters, which can be guessed;"
            " give its callers another one soon (`ledger keys rotate`)."
        )
    if counted.hash_like:
        hint(
            f"{_some(counted.hash_like)} a key that looks like a SHA-256 itself; if these are"
            " digests, call the column sha256."
        )
    if dry_run:
        hint("Nothing was changed: this was a dry run.")


def _some(lines: list[int]) -> str:
    shown = ", ".join(str(line) for line in lines[:5])
    more = f" and {len(lines) - 5:,} more" if len(lines) > 5 else ""
    return f"Line {shown} has" if len(lines) == 1 else f"Lines {shown}{more} have"
