"""`ledger migrate`, `write` and `audit`: run the parts that keep the books. Keeps none itself."""

import signal
import threading
from collections.abc import Mapping
from typing import Any

import click

from ledger.cli.session import Refusal, Run, format_option, pass_run, show


@click.command()
@format_option
@pass_run
def migrate(run: Run, output: str) -> None:
    """Create or update the tables in PostgreSQL; safe to repeat, and at several places at once."""
    from ledger.db import migrate as apply
    from ledger.runs import keep_chains
    from ledger.tables import Column

    applied = [{"migration": name} for name in apply(run.postgres_dsn())]
    with run.books() as db:
        keep_chains(db)
    columns = [Column("migration", "Applied", "id")]
    show(output, columns, applied, empty="The tables are up to date.")


@click.command()
@click.option("--name", default="", help="This writer's name among several.  [default: the host's]")
@pass_run
def write(run: Run, name: str) -> None:
    """Run the writer in the foreground until SIGTERM or Ctrl-C.

    It books events, keeps the counters sound and publishes keys and budgets. A PostgreSQL or Redis
    that goes away is waited for. Several may run, under different names.
    """
    import logging

    from ledger.db import Database
    from ledger.stream import connect
    from ledger.writer import run_writer

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    stop = threading.Event()

    def end(*_: Any) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    with Database(run.postgres_dsn()) as db, connect(run.redis_url()) as client:
        run_writer(db, client, stop, run.keyspace, consumer=name)


@click.command()
@format_option
@pass_run
def audit(run: Run, output: str) -> None:
    """Prove that the books are whole, balanced and the same as the counters.

    It only reads, and needs a running writer for what is still in the stream. Exit code 1: a
    finding. CSV holds the findings alone.
    """
    from ledger.audit import audit as audit_books
    from ledger.tables import Column

    with run.books() as db, run.counters() as client:
        result = audit_books(db, client, run.keyspace)
    document = result.to_document()
    columns = [
        Column("check", "Check", "id"),
        Column("subject", "Subject", "id"),
        Column("expected", "Expected"),
        Column("found", "Found"),
        Column("says", "What is wrong"),
    ]
    if output == "table":
        _show_audit(document)
    else:
        show(output, columns, document["findings"], document=document)
    if not result.ok:
        raise Refusal(_summary(document))


def _show_audit(document: Mapping[str, Any]) -> None:
    from ledger.tables import printable

    for finding in document["findings"]:
        subject = printable(str(finding["subject"]))
        click.echo(f"{finding['check']} {subject}: {printable(str(finding['says']))}")
        expected, found = printable(str(finding["expected"])), printable(str(finding["found"]))
        click.echo(f"  expected {expected}, found {found}")
    for note in document["notes"]:
        click.echo(f"Note: {printable(str(note['says']))}")
    looked_at = ", ".join(
        f"{n:,} {name.replace('_', ' ')}" for name, n in document["counts"].items()
    )
    click.echo(f"Looked at {looked_at}." if looked_at else "There was nothing to look at.")
    if not document["findings"]:
        click.echo("The books are whole and consistent.")


def _summary(document: Mapping[str, Any]) -> str:
    number = len(document["findings"])
    return f"The audit has {number} finding{'s' if number != 1 else ''}."
