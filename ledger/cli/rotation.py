"""`ledger keys rotate --unlabelled`: new keys in place of all that are in quarantine. Leaves the
deciding to ledger.labelling.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.key_files import MAX_COMPLAINTS, opened
from ledger.cli.publish import publish_now
from ledger.cli.session import Command, Refusal, Run, hint, show, who

if TYPE_CHECKING:
    from ledger.db import Database, Row, Session

_NAMES: Final = ("key_id", "sha256", "key")
_FOUR: Final = ("owner", "team", "agent", "workload")
_CHUNK: Final = 500  # keys of one transaction: nobody else changes a key meanwhile


def unlabelled_options(command: Command) -> Command:
    """The options of `ledger keys rotate` that are for keys in quarantine alone."""
    options: list[Callable[[Command], Command]] = [
        click.option(
            "--unlabelled", is_flag=True, help="Every key in quarantine, instead of one KEY_ID."
        ),
        *(click.option(f"--{name}", help="Of those that do not say it.") for name in _FOUR),
        click.option(
            "--labels",
            "labels_file",
            metavar="FILE.csv",
            type=click.Path(allow_dash=True),
            help="Labels by key_id or sha256, for --unlabelled.",
        ),
    ]
    for add in reversed(options):
        command = add(command)
    return command


def rotate_unlabelled(
    run: Run,
    ends_at: datetime,
    labels: Mapping[str, str | None],
    labels_file: str | None,
    limits: Mapping[str, Any],
    why: str,
    output: str,
) -> None:
    """Issue a key for each in quarantine that has none yet; print which is for which, once.

    The file says a key's labels first, then the key itself, then the options.
    """
    given = {name: value for name, value in labels.items() if value is not None}
    listed = _listed(labels_file) if labels_file is not None else {}
    made: list[dict[str, Any]] = []
    refused: list[str] = []
    with run.books() as db:
        try:
            _rotate(db, given, listed, limits, ends_at, why, made, refused)
        finally:  # what is in the books must be shown, whatever happened then
            _show(output, made)
            publish_now(run, db)
    early = sum(each["old_ends_at"] < ends_at for each in made)
    if early:
        hint(
            f"{early:,} of the old keys end before that, at their grace date; `ledger keys grace`"
            " moves it."
        )
    for says in refused[:MAX_COMPLAINTS]:
        hint(says)
    if refused:
        more = len(refused) - MAX_COMPLAINTS
        hint(f"... and {more:,} more.") if more > 0 else None
        raise Refusal(f"{len(refused):,} keys in quarantine got no new key; label them first.")


def _rotate(
    db: "Database",
    given: Mapping[str, str],
    listed: Mapping[str, Mapping[str, str]],
    limits: Mapping[str, Any],
    ends_at: datetime,
    why: str,
    made: list[dict[str, Any]],
    refused: list[str],
) -> None:
    """Chunk by chunk; what a transaction has committed is in `made`."""
    after = ""
    while True:
        with db.transaction() as session:
            rows = session.run("quarantined_unreplaced", after=after, limit=_CHUNK)
            session.run("directory_lock")
            issued = _replace(session, rows, given, listed, limits, ends_at, why, refused)
        made += issued
        if len(rows) < _CHUNK:
            return
        after = rows[-1]["key_id"]


def _replace(
    session: "Session",
    rows: "Sequence[Row]",
    given: Mapping[str, str],
    listed: Mapping[str, Mapping[str, str]],
    limits: Mapping[str, Any],
    ends_at: datetime,
    why: str,
    refused: list[str],
) -> list[dict[str, Any]]:
    from ledger import imports, labelling, reports
    from ledger import issue as issuing

    wanted = []
    for row in rows:
        own = {**given, **labelling.labels_of(row).all}
        named = {**own, **listed.get(row["key_id"], {}), **listed.get(row["sha256"], {})}
        wanted.append(named)
    ruled = imports.faults(session, wanted)
    made = []
    for row, named, says in zip(rows, wanted, ruled, strict=True):
        columns: dict[str, Any] = {name: named.pop(name, "") for name in (*_FOUR, "customer")}
        request = issuing.KeyRequest(**columns, labels=named, **limits)
        try:
            if says.fault or (says.lacks and all(columns[name] for name in _FOUR)):
                raise issuing.RefusedError(says.fault or says.lacks)
            request = issuing.checked(request, reports.RESERVED_NAMES)
        except issuing.RefusedError as error:
            refused.append(f"{row['key_id']}: {error}")
            continue
        new = labelling.replace(session, row, request, ends_at=ends_at, who=who(), why=why)
        made.append(
            {
                "old_key_id": row["key_id"],
                "name": row["name"],
                "key": new.text,
                **{n: new.row[n] for n in ("key_id", *_FOUR, "customer", "labels")},
                "old_ends_at": min(ends_at, row["grace_until"]),
            }
        )
    return made


def _listed(file: str) -> dict[str, dict[str, str]]:
    """The labels of a file by the key's id or digest; all of its rows must be good."""
    from ledger.key_files import BadRow

    found = {}
    with opened(file, _NAMES) as rows:
        for row in rows.rows():
            if isinstance(row, BadRow):
                raise Refusal(f"{file}, line {row.line}: {row.says} No key was rotated.")
            found[row.key_id or row.sha256] = row.labels
    return found


def _show(output: str, made: list[dict[str, Any]]) -> None:
    from ledger.tables import Column

    columns = [
        Column("old_key_id", "Old key", "id"),
        Column("name", "Name"),
        Column("key", "New key", "id"),
        Column("team", "Team"),
        Column("old_ends_at", "Old ends", "minute"),
    ]
    show(output, columns, made, empty="No key in quarantine got a new one.")
    if made:
        hint("Keep the new keys now: they are not stored and cannot be shown again.")
