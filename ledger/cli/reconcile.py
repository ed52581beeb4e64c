"""`ledger reconcile`: what is kept twice, side by side. Compares and repairs nothing itself."""

from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.session import Refusal, Run, format_option, hint, pass_run, show

if TYPE_CHECKING:
    from ledger.recount import Line, Recount
    from ledger.tables import Column

MAX_LISTED: Final = 100_000
_CONNECTIONS: Final = 4  # a repair holds its lock in one while it works in others


@click.group()
def reconcile() -> None:
    """Compare what is kept twice, and repair it."""


@reconcile.command()
@click.option("--repair", "repairs", is_flag=True, help="Set right what differs.")
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def counters(run: Run, repairs: bool, limit: int, output: str) -> None:
    """Compare the counters in Redis with the books and what is still in the stream.

    For each budget's window of now: what is used and held, what should be, and why they differ;
    those that differ come first. It is exact while calls go on. Exit code 1: a difference is left.
    """
    from ledger import recount

    with run.books(_CONNECTIONS) as db, run.counters() as client:
        if repairs:
            found, left = recount.repair(db, client, run.keyspace)
        else:
            found = left = recount.recount(db, client, run.keyspace)
    rows = [_row(line) for line in sorted(left.lines, key=_differing_first)]
    document = {
        "ok": left.ok,
        "counters": rows[:limit],
        "stale_holds": list(left.stale_holds),
        "missing": left.missing,
        "repaired": [_row(line) for line in found.lines if line.differs] if repairs else [],
        "released_holds": list(found.stale_holds) if repairs else [],
    }
    shown = [_readable(row) for row in rows[:limit]] if output == "table" else rows[:limit]
    show(output, _columns(), shown, document=document, empty="No counters.")
    if len(rows) > limit:
        hint(f"These are the first {limit} of {len(rows)}; --limit shows more.")
    if repairs and not found.ok:
        hint(_repaired(found))
    if not left.ok:
        raise Refusal(_says(left))


def _row(line: "Line") -> dict[str, Any]:
    counter = line.counter
    return {
        "budget": counter.budget.name,
        "budget_id": counter.budget.budget_id,
        "window": counter.window.name,
        "unit": counter.budget.unit,
        "used": counter.used,
        "expected_used": line.must_use,
        "used_difference": line.used_difference,
        "held": counter.held,
        "expected_held": line.must_hold,
        "held_difference": line.held_difference,
        "open_holds": len(counter.open_holds),
        "reason": line.reason,
    }


def _differing_first(line: "Line") -> tuple[bool, str]:
    return not line.differs, line.counter.budget.name


def _repaired(found: "Recount") -> str:
    if found.lost:
        return f"{found.lost} They were rebuilt from the books."
    differing = sum(line.differs for line in found.lines)
    return f"Found {differing} counters that differed and {len(found.stale_holds)} stale holds."


def _says(left: "Recount") -> str:
    if left.lost:
        return f"{left.lost} A running writer rebuilds the counters, and so does --repair."
    if differing := sum(line.differs for line in left.lines):
        verb = "counter differs" if differing == 1 else "counters differ"
        return f"{differing} {verb} from the books; --repair sets right what can be."
    return f"{len(left.stale_holds)} holds are of calls that have ended; --repair releases them."


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its amounts as a person reads them."""
    from ledger.tables import money

    names = ("used", "expected_used", "used_difference", "held", "held_difference")
    read = money if row["unit"] == "usd" else "{:,}".format
    return {**row, **{name: read(row[name]) for name in names}}


def _columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("budget", "Budget", "name"),
        Column("window", "Window", "id"),
        Column("used", "Used", "amount"),
        Column("expected_used", "By the books", "amount"),
        Column("used_difference", "Differs by", "amount"),
        Column("held", "Held", "amount"),
        Column("held_difference", "Differs by", "amount"),
        Column("open_holds", "Holds", "count"),
        Column("reason", "Why"),
    ]
