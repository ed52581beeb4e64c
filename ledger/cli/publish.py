"""Tells the sidecars what a command has just committed. The commit stands whatever happens here."""

from typing import TYPE_CHECKING

from ledger.cli.session import Refusal, Run, hint, sentence_for

if TYPE_CHECKING:
    from ledger.db import Database


def publish_now(run: Run, db: "Database") -> None:
    """Publish at once; where that fails say so, because the writer will do it.

    Nothing that a person can do something about ends the command here: a key that was just issued
    must still be shown.
    """
    from ledger.publish import publish

    try:
        with run.counters() as client:
            publish(db, client, run.keyspace)
    except Exception as error:
        refusal = error if isinstance(error, Refusal) else sentence_for(error)
        if refusal is None:
            raise
        says = refusal.message.rstrip(".")
        hint(
            f"It is in the books but not published yet ({says});"
            " the writer publishes it as soon as Redis is back."
        )
