"""`ledger chains`: the keys that sign chains, and who pays for what they spend. Decides nothing."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.publish import publish_now
from ledger.cli.session import Run, format_option, pass_run, show, who

if TYPE_CHECKING:
    from ledger.chains import SigningKey
    from ledger.db import Session
    from ledger.tables import Column

_MAX_CHANGES: Final = 20
_why_option: Final = click.option("--why", default="", help="A remark for the books.")
_SAYS: Final = {
    "caller": "Whoever makes a call pays for it.",
    "root": "The team that started a chain pays for all of it.",
    "split": "The team that started a chain and the caller's team pay half each.",
}


@click.group()
def chains() -> None:
    """What signs chains, and who pays for what they spend."""


@chains.command("rotate-key")
@click.option(
    "--grace",
    metavar="24h",
    default="24h",
    show_default=True,
    help="How long what the old keys signed is believed; 0s where a secret has leaked.",
)
@_why_option
@format_option
@pass_run
def rotate_key(run: Run, grace: str, why: str, output: str) -> None:
    """Make a new signing key. Open runs go on under the old ones until --grace is over.

    The new key signs as soon as every sidecar has it, some seconds from now.
    """
    from ledger import signing
    from ledger.cli import arguments
    from ledger.reports import micros

    given = arguments.duration(grace)
    if given > timedelta(microseconds=signing.MAX_GRACE_US):
        raise arguments.InputError("No chain is older than 24h; write a --grace of at most 24h.")
    now_us = micros(datetime.now(UTC))
    with run.books() as db:
        with db.transaction() as session:
            grace_us = given // timedelta(microseconds=1)
            signing.rotate(session, now_us, grace_us=grace_us, who=who(), why=why)
            rows = _listed(session, now_us)
        publish_now(run, db)
    show(output, _columns(), rows, document=rows[0])


@chains.command()
@format_option
@pass_run
def keys(run: Run, output: str) -> None:
    """List the signing keys, without their secrets."""
    from ledger.reports import micros

    with run.books() as db, db.transaction(snapshot=True) as session:
        rows = _listed(session, micros(datetime.now(UTC)))
    show(output, _columns(), rows, empty="No signing keys yet; a running writer makes the first.")


@chains.command()
@click.argument(
    "wanted", required=False, metavar="[caller|root|split]", type=click.Choice([*_SAYS])
)
@_why_option
@format_option
@pass_run
def billing(run: Run, wanted: str | None, why: str, output: str) -> None:
    """Show or set who pays for a call in a chain.

    The caller of each call, the chain's root for all of them, or half each (split). Only chains
    that were proved move the bill (trust verified or key_bound). Calls that are in the books stay
    with whom they were charged to.
    """
    from ledger import signing
    from ledger.tables import Column

    with run.books() as db:
        with db.transaction() as session:
            if wanted is not None:
                signing.set_billing(session, wanted, who=who(), why=why)
            current = signing.billing(session)
            changes = signing.changes(session, [signing.BILLING], limit=_MAX_CHANGES)
        if wanted is not None:
            publish_now(run, db)
    document = {"billing": current, "changes": changes}
    if output != "table":
        show(output, (), [{"billing": current}], document=document)
        return
    click.echo(f"{current}: {_SAYS[current]}")
    if changes:
        click.echo()
        columns = [
            Column("at", "Changed (UTC)", "minute"),
            Column("to", "To", "id"),
            Column("who", "Who"),
            Column("why", "Why", "name"),
        ]
        show("table", columns, [{**each, "to": each["detail"]["to"]} for each in changes])


def _listed(session: "Session", now_us: int) -> list[dict[str, Any]]:
    """The signing keys as they are shown, with who made them."""
    from ledger import chains as tokens
    from ledger import signing

    known = signing.keys(session)
    able = tokens.signing(known, now_us)
    made = {
        row["subject"]: row
        for row in signing.changes(session, [key.kid for key in known], limit=len(known))
    }
    return [_row(key, able, now_us, made.get(key.kid, {})) for key in known]


def _row(
    key: "SigningKey", able: "SigningKey | None", now_us: int, made: dict[str, Any]
) -> dict[str, Any]:
    from ledger.publish import FOR_EVER_US

    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    if key == able:
        state = "signing"
    elif key.from_us > now_us:
        state = "next"
    else:
        state = "believed" if key.until_us > now_us else "ended"
    last = None if key.until_us == FOR_EVER_US else epoch + timedelta(microseconds=key.until_us)
    return {
        "kid": key.kid,
        "state": state,
        "signs_from": epoch + timedelta(microseconds=key.from_us),
        "believed_until": last,
        "who": made.get("who", ""),
        "why": made.get("why", ""),
    }


def _columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("kid", "Key", "id"),
        Column("state", "State", "id"),
        Column("signs_from", "Signs from (UTC)", "time"),
        Column("believed_until", "Believed until", "time"),
        Column("who", "Who"),
        Column("why", "Why"),
    ]
