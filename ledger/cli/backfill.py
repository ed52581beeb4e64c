"""`ledger keys backfill`: labels for keys in quarantine, asked for or from a file. Leaves the
deciding to ledger.labelling.
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.key_files import complain, opened, progress
from ledger.cli.publish import publish_now
from ledger.cli.session import Refusal, Run, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.db import Database
    from ledger.imports import Outcome
    from ledger.key_files import BadRow, KeyRow

_NAMES: Final = ("key_id", "sha256", "key")
_ASKED: Final = ("owner", "team", "agent", "workload")
_WHY: Final = "backfill"
_MAX_KNOWN: Final = 200  # values of a label that are offered
_MAX_SHOWN: Final = 8
_SKIP, _QUIT = "skip", "quit"


class _SkipError(Exception):
    """This key shall be left as it is."""


class _QuitError(Exception):
    """Nothing more shall be asked."""


@click.command()
@click.argument("file", type=click.Path(allow_dash=True), required=False)
@click.option("--top", type=click.IntRange(1), help="Ask for so many of the biggest spenders.")
@click.option("--why", default=_WHY, show_default=True, help="A remark for the books.")
@format_option
@pass_run
def backfill(run: Run, file: str | None, top: int | None, why: str, output: str) -> None:
    """Label the keys in quarantine; one whose labels are complete leaves it at once.

    Without FILE you are asked, for the biggest spenders first; `skip` and `quit` are answers too.
    FILE is a CSV with a column `key_id`, `sha256` or `key`, and owner, team, agent, workload and
    any other labels; empty cells leave a label as it is.
    """
    if file is None:
        if output != "table":
            raise Refusal("Without a file you are asked; leave --format out, or name a CSV.")
        _ask_for_all(run, top, why)
        return
    if top is not None:
        raise Refusal("--top is for being asked; a file says itself which keys it labels.")
    with run.books() as db, opened(file, _NAMES) as rows:
        outcomes = []
        for row in rows.rows():
            outcomes.append(_label(db, row, why))
            progress(len(outcomes), "read")
        publish_now(run, db)
    _show_outcomes(output, outcomes)


def _label(db: "Database", row: "KeyRow | BadRow", why: str) -> "Outcome":
    """Label the key of a row, in a transaction of its own."""
    from ledger import imports, labelling, reports
    from ledger import issue as issuing
    from ledger.key_files import BadRow

    if isinstance(row, BadRow):
        return imports.Outcome(row.line, imports.REFUSED, says=row.says)
    try:
        with db.transaction() as session:
            found = issuing.find(session, row.key_id or row.sha256)
            if not issuing.in_quarantine(found):
                return _labelled_before(row, found)
            done = labelling.relabel(
                session, found, row.labels, reports.RESERVED_NAMES, who=who(), why=why
            )
        result = imports.QUARANTINED if done.lacks else done.what
        return imports.Outcome(row.line, result, found["key_id"], done.lacks)
    except issuing.RefusedError as error:
        return imports.Outcome(row.line, imports.REFUSED, says=str(error))


def _labelled_before(row: "KeyRow", found: dict[str, Any]) -> "Outcome":
    """A key that is not in quarantine is fine where the row says nothing new of it."""
    from ledger import imports, labelling

    given = {name: value.strip() for name, value in row.labels.items()}
    if given.items() <= labelling.labels_of(found).all.items():
        return imports.Outcome(row.line, imports.KNOWN, found["key_id"])
    says = (
        f"The key {found['key_id']} has its labels already, and others than these; change them with"
        " `ledger keys relabel`."
    )
    return imports.Outcome(row.line, imports.REFUSED, found["key_id"], says)


def _show_outcomes(output: str, outcomes: "list[Outcome]") -> None:
    from ledger.tables import Column

    results = Counter(outcome.result for outcome in outcomes)
    rows = [
        {"line": o.line, "result": o.result, "key_id": o.key_id, "says": o.says} for o in outcomes
    ]
    document = {
        "rows": len(outcomes),
        **{name: results[name] for name in ("labelled", "quarantined", "known", "refused")},
        "results": rows,
    }
    if output == "table":
        columns = [
            Column("rows", "Rows", "count"),
            Column("labelled", "Labelled", "count"),
            Column("quarantined", "Still in quarantine", "count"),
            Column("known", "Labelled before", "count"),
            Column("refused", "Refused", "count"),
        ]
        show(output, columns, [document])
        complain([o for o in outcomes if o.result in ("refused", "quarantined")])
    else:
        show(output, (), rows, document=document)
    if refused := results["refused"]:
        raise Refusal(f"{refused:,} of {len(outcomes):,} rows were refused; the others are done.")


def _ask_for_all(run: Run, top: int | None, why: str) -> None:
    with run.books() as db:
        rows = db.run("quarantined_by_spend", limit=top)
        if not rows:
            click.echo("No key is in quarantine.")
            return
        hint("Answer `skip` to leave a key as it is, `quit` to end. What is labelled stays so.")
        done = 0
        try:
            for number, row in enumerate(rows, 1):
                click.echo(f"\n{_described(row, number, len(rows))}")
                try:
                    done += _ask_for_one(db, row, why)
                except _SkipError:
                    continue
                publish_now(run, db)
        except (_QuitError, click.Abort):
            click.echo()
        [left] = db.run("quarantined_count")
    click.echo(f"\n{done:,} labelled; {left['keys']:,} still in quarantine.")


def _ask_for_one(db: "Database", row: dict[str, Any], why: str) -> bool:
    """Ask for what a key lacks until it can leave quarantine; False where it did not."""
    from ledger import imports, labelling, reports
    from ledger import issue as issuing

    wanted: dict[str, str | None] = {}
    with db.transaction() as session:
        required = [r["label"] for r in session.run("labels_list") if r["required"]]
    for label in dict.fromkeys((*_ASKED, *required)):
        known = [r["value"] for r in db.run("labels_known", label=label, limit=_MAX_KNOWN)]
        old = row[label] if label in (*_ASKED, "customer") else row["labels"].get(label, "")

        def wrong(value: str, label: str = label) -> str:
            try:
                clean = imports.labels_from({label: value}, reports.RESERVED_NAMES).all
            except issuing.RefusedError as error:
                return str(error)
            with db.transaction() as session:
                return imports.faults(session, [clean])[0].fault or ""

        wanted[label] = _ask(label, old, known, wrong)
    with db.transaction() as session:
        found = issuing.find(session, row["key_id"])
        if not issuing.in_quarantine(found):
            hint("Somebody else has labelled it in the meantime.")
            return False
        done = labelling.relabel(session, found, wanted, reports.RESERVED_NAMES, who=who(), why=why)
    if done.lacks:
        hint(f"It stays in quarantine. {done.lacks}")
    return not done.lacks


def _ask(label: str, old: str, known: list[str], wrong: Callable[[str], str]) -> str:
    """One label's value; what is known completes it, and a lone known value is the default."""
    if known and not old:
        more = f" and {len(known) - _MAX_SHOWN} more" if len(known) > _MAX_SHOWN else ""
        click.echo(f"  known: {', '.join(known[:_MAX_SHOWN])}{more}")
    default = old or (known[0] if len(known) == 1 else None)
    while True:
        with _completing(known):
            answer = str(click.prompt(f"  {label}", default=default)).strip()
        if answer == _SKIP:
            raise _SkipError
        if answer == _QUIT:
            raise _QuitError
        says = wrong(answer)
        if not says:
            return answer
        click.echo(f"  {says}")


class _completing:
    """The Tab key completes these words where the terminal can do so."""

    def __init__(self, words: list[str]) -> None:
        self._words = [*words, _SKIP, _QUIT]

    def __enter__(self) -> None:
        try:
            import readline
        except ImportError:  # not on every platform
            return
        readline.set_completer_delims("")
        readline.set_completer(self._complete)
        readline.parse_and_bind("tab: complete")

    def __exit__(self, *_: object) -> None:
        try:
            import readline
        except ImportError:
            return
        readline.set_completer(None)

    def _complete(self, text: str, state: int) -> str | None:
        fits = [word for word in self._words if word.lower().startswith(text.lower())]
        return fits[state] if state < len(fits) else None


def _described(row: dict[str, Any], number: int, of: int) -> str:
    """What is known of a key, so that somebody can tell whose it is."""
    from ledger.tables import iso, money, printable

    used = row["last_used_at"]
    known = {**{n: row[n] for n in (*_ASKED, "customer")}, **row["labels"]}
    facts = [
        f"{number} of {of}  {row['key_id']}  {row['name']}".rstrip(),
        f"  spent {money(row['spent_nanos'])} in {row['calls']:,} calls,"
        f" last {'never' if used is None else iso(used)[:16] + 'Z'}",
        f"  models {', '.join(row['models'])}" if row["models"] else "",
        f"  note {row['note']}" if row["note"] else "",
        "  has " + ", ".join(f"{n}={v}" for n, v in known.items() if v)
        if any(known.values())
        else "",
        f"  may call until {_ends(row['grace_until'])}",
    ]
    return "\n".join(printable(fact) for fact in facts if fact)


def _ends(grace_until: datetime) -> str:
    from ledger.tables import iso

    over = " (over: its calls are refused)" if grace_until <= datetime.now(UTC) else ""
    return f"{iso(grace_until)[:16]}Z{over}"
