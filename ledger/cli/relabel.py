"""`ledger keys relabel|grace`: changes to keys that go on record with their reason. Decides
nothing.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from ledger.cli.publish import publish_now
from ledger.cli.session import Run, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.tables import Column

_FOUR: Final = ("owner", "team", "agent", "workload")


@click.command()
@click.argument("key_id")
@click.option("--owner", help="Who answers for the key.")
@click.option("--team", help="Whose money it spends.")
@click.option("--agent", help="The program that calls.")
@click.option("--workload", help="The work it does.")
@click.option("--customer", help="For whom the work is done.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Another label.")
@click.option("--unlabel", multiple=True, metavar="NAME", help="Take a label away.")
@click.option("--why", required=True, help="The reason, for the books.")
@format_option
@pass_run
def relabel(
    run: Run,
    key_id: str,
    owner: str | None,
    team: str | None,
    agent: str | None,
    workload: str | None,
    customer: str | None,
    labels: tuple[str, ...],
    unlabel: tuple[str, ...],
    why: str,
    output: str,
) -> None:
    """Change a key's labels from now on; events keep the labels that the key had.

    A key in quarantine whose labels are then complete leaves it.
    """
    from ledger import issue as issuing
    from ledger import labelling, reports
    from ledger.cli import arguments

    if not why.strip():
        raise arguments.InputError("--why is blank; say why the labels change.")
    given = dict(zip((*_FOUR, "customer"), (owner, team, agent, workload, customer), strict=True))
    wanted: dict[str, str | None] = {n: v for n, v in given.items() if v is not None}
    for name, value in arguments.pairs(labels, "--label").items():
        if wanted.setdefault(name, value) != value:
            raise arguments.InputError(f"--label names {name}, and --{name} does too; give one.")
    for name in unlabel:
        if wanted.setdefault(name.strip(), None) is not None:
            raise arguments.InputError(f"{name} cannot be given and taken away at once.")
    if not wanted:
        raise arguments.InputError(
            "Say which label to change: --owner, --team, --agent, --workload, --customer, --label"
            " or --unlabel."
        )
    with run.books() as db:
        with db.transaction() as session:
            row = issuing.find(session, key_id)
            done = labelling.relabel(
                session, row, wanted, reports.RESERVED_NAMES, who=who(), why=why
            )
        if done.what != labelling.UNCHANGED:
            publish_now(run, db)
    document = {"result": done.what, **reports.key(done.row, datetime.now(UTC))}
    show(output, _columns(), [document], document=document)
    if done.what == labelling.LABELLED:
        hint("Its labels are complete: it has left quarantine.")
    elif done.lacks:
        hint(f"It stays in quarantine. {done.lacks}")


@click.command()
@click.argument("key_id")
@click.option("--until", required=True, metavar="14d", help="A length of time or a date.")
@click.option("--why", required=True, help="The reason, for the books.")
@format_option
@pass_run
def grace(run: Run, key_id: str, until: str, why: str, output: str) -> None:
    """Move the date until which a key in quarantine may call."""
    from ledger import issue as issuing
    from ledger import labelling, reports
    from ledger.cli import arguments

    if not why.strip():
        raise arguments.InputError("--why is blank; say why the grace date moves.")
    grace_until = arguments.expiry(until, datetime.now(UTC))
    with run.books() as db:
        with db.transaction() as session:
            row = issuing.find(session, key_id)
            row, changed = labelling.set_grace(session, row, grace_until, who=who(), why=why)
        if changed:
            publish_now(run, db)
    document = reports.key(row, datetime.now(UTC))
    show(output, _columns(), [document], document=document)


def _columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("key_id", "Key", "id"),
        Column("owner", "Owner"),
        Column("team", "Team"),
        Column("agent", "Agent"),
        Column("workload", "Workload"),
        Column("status", "Status", "id"),
        Column("grace_until", "Grace until", "minute"),
    ]
