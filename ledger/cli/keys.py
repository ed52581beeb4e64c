"""`ledger keys`: issue, list, show, set, rotate, suspend, resume, revoke. Decides nothing."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.backfill import backfill
from ledger.cli.imports import import_keys
from ledger.cli.publish import publish_now
from ledger.cli.relabel import grace, relabel
from ledger.cli.rotation import rotate_unlabelled, unlabelled_options
from ledger.cli.session import Command, Run, format_option, hint, pass_run, show, who
from ledger.cli.untagged import untagged

if TYPE_CHECKING:
    from ledger.db import Session
    from ledger.issue import IssuedKey
    from ledger.tables import Column

MAX_LISTED: Final = 10_000
_MAX_CHANGES: Final = 100
_NO_LIMIT: Final = "none"
_QUARANTINED: Final = "quarantined"
_why_option: Final = click.option("--why", default="", help="A remark for the books.")
_RATES: Final = (
    ("--rpm", "How many calls it may make in a minute."),
    ("--tpm", "How many tokens it may use in a minute."),
    ("--max-parallel", "How many calls it may have under way at a time."),
)


def _rate_options(default: str = "") -> Callable[[Command], Command]:
    """The options for the limits on a key's pace; `default` says what holds where one is left
    out.
    """

    def add(command: Command) -> Command:
        for option, says in reversed(_RATES):
            command = click.option(option, metavar="N", help=says + default)(command)
        return command

    return add


@click.group()
def keys() -> None:
    """Issue, list and end keys."""


for _command in (import_keys, backfill, untagged, grace, relabel):
    keys.add_command(_command)


@keys.command()
@click.option("--owner", help="Who answers for the key.  [required]")
@click.option("--team", help="Whose money it spends.  [required]")
@click.option("--agent", help="The program that calls.  [required]")
@click.option("--workload", help="The work it does.  [required]")
@click.option("--customer", default="", help="For whom the work is done.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Another label.")
@click.option("--max-spend", metavar="USD", help="What the key may spend in its whole life.")
@_rate_options()
@click.option("--expires", metavar="90d", help="When it ends: a length of time or a date.")
@click.option("--service-account", is_flag=True, help="No person calls with it, only a program.")
@click.option(
    "--customer-header", is_flag=True, help="Its calls may name a customer in x-customer-id."
)
@_why_option
@format_option
@pass_run
def issue(
    run: Run,
    owner: str | None,
    team: str | None,
    agent: str | None,
    workload: str | None,
    customer: str,
    labels: tuple[str, ...],
    max_spend: str | None,
    rpm: str | None,
    tpm: str | None,
    max_parallel: str | None,
    expires: str | None,
    service_account: bool,
    customer_header: bool,
    why: str,
    output: str,
) -> None:
    """Issue a key. Its text is shown once; the books keep only its SHA-256."""
    from ledger import issue as issuing
    from ledger import reports
    from ledger.cli import arguments

    named = arguments.pairs(labels, "--label")
    if customer and "customer" in named:
        raise arguments.InputError("--customer and --label customer=... are the same; give one.")
    wanted = issuing.KeyRequest(
        owner=owner,
        team=team,
        agent=agent,
        workload=workload,
        customer=customer or named.pop("customer", ""),
        labels=named,
        expires_at=arguments.expiry(expires, datetime.now(UTC)) if expires else None,
        max_spend_nanos=arguments.usd(max_spend) if max_spend else None,
        service_account=service_account,
        customer_header=customer_header,
        **_rates(rpm, tpm, max_parallel),
    )
    request = issuing.checked(wanted, reports.RESERVED_NAMES)
    with run.books() as db:
        with db.transaction() as session:
            issued = issuing.issue(session, request, who=who(), why=why)
        publish_now(run, db)
    _show_issued(issued, output)


@keys.command("list")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only keys with this label.")
@click.option("--status", type=click.Choice(["active", "suspended", "revoked", "quarantined"]))
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=1000, show_default=True)
@format_option
@pass_run
def list_keys(
    run: Run, where: tuple[str, ...], status: str | None, limit: int, output: str
) -> None:
    """List keys, the newest first."""
    from psycopg.types.json import Jsonb

    from ledger import reports, spend
    from ledger.cli import arguments

    with run.books() as db, db.transaction(snapshot=True) as session:
        names = reports.allowed(reports.KEY_LABELS, spend.label_names(session))
        chosen = dict(arguments.selector(where, names))
        columns = {
            "key_id" if name == "key" else name: chosen.pop(name)
            for name in reports.KEY_LABELS
            if name in chosen
        }
        wanted = {"columns": Jsonb(columns), "labels": Jsonb(chosen), "limit": limit + 1}
        rows = []
        if status != _QUARANTINED:
            rows += session.run("keys_list", status=status, **wanted)
        if status != "active":
            kept = "active" if status == _QUARANTINED else status
            rows += session.run("quarantined_list", status=kept, **wanted)
    rows.sort(key=lambda row: row["created_at"], reverse=True)
    now = datetime.now(UTC)
    show(output, _columns(), [reports.key(row, now) for row in rows[:limit]], empty="No keys.")
    if len(rows) > limit:
        hint(f"These are the newest {limit}; --limit shows more.")


@keys.command("show")
@click.argument("key_id")
@format_option
@pass_run
def show_key(run: Run, key_id: str, output: str) -> None:
    """Show one key: its labels, what it spent, and who changed it."""
    from ledger import issue as issuing
    from ledger import reports

    with run.books() as db, db.transaction() as session:
        row = issuing.find(session, key_id)
        [usage] = session.run("keys_usage", key_id=row["key_id"])
        changes = session.run("keys_changes", key_id=row["key_id"], limit=_MAX_CHANGES)
    spent = int(usage["spent_nanos"])
    document = {
        **reports.key(row, datetime.now(UTC)),
        "calls": int(usage["calls"]),
        "spent_nanos": spent,
        "spent_usd": reports.usd_text(spent),
        "last_used_at": usage["last_used_at"],
        "changes": changes,
    }
    if output != "table":
        show(output, (), [document], document=document)
        return
    _show_fields(document)
    show("table", _change_columns(), [reports.change(change) for change in changes])


@keys.command()
@click.argument("key_id")
@_why_option
@format_option
@pass_run
def suspend(run: Run, key_id: str, why: str, output: str) -> None:
    """Refuse the key's calls until it is resumed."""
    _set_status(run, key_id, "suspended", why, output)


@keys.command()
@click.argument("key_id")
@_why_option
@format_option
@pass_run
def resume(run: Run, key_id: str, why: str, output: str) -> None:
    """Let a suspended key call again."""
    _set_status(run, key_id, "active", why, output)


@keys.command()
@click.argument("key_id")
@_why_option
@format_option
@pass_run
def revoke(run: Run, key_id: str, why: str, output: str) -> None:
    """End the key for good, within a second."""
    _set_status(run, key_id, "revoked", why, output)


@keys.command("set")
@click.argument("key_id")
@click.option("--max-spend", metavar="USD", help="What it may spend in its whole life, or none.")
@_rate_options("  `none` lifts the limit.")
@click.option(
    "--customer-header/--no-customer-header",
    default=None,
    help="Whether its calls may name a customer in x-customer-id.",
)
@_why_option
@format_option
@pass_run
def set_key(
    run: Run,
    key_id: str,
    max_spend: str | None,
    rpm: str | None,
    tpm: str | None,
    max_parallel: str | None,
    customer_header: bool | None,
    why: str,
    output: str,
) -> None:
    """Change or lift a key's limits, or what its calls may say.

    What it has used so far still counts.
    """
    from ledger import issue as issuing
    from ledger import reports
    from ledger.cli import arguments

    wanted: dict[str, int | None] = dict(_rates(rpm, tpm, max_parallel))
    if max_spend is not None:
        wanted["max_spend_nanos"] = None if max_spend == _NO_LIMIT else arguments.usd(max_spend)
    if not wanted and customer_header is None:
        raise arguments.InputError(
            "Say what to set: --max-spend, --rpm, --tpm or --max-parallel with its number or none,"
            " or --customer-header or --no-customer-header."
        )
    with run.books() as db:
        with db.transaction() as session:
            row = issuing.set_limits(session, key_id, wanted, who=who(), why=why)
            if customer_header is not None:
                row = issuing.set_customer_header(
                    session, key_id, customer_header, who=who(), why=why
                )
        publish_now(run, db)
    document = reports.key(row, datetime.now(UTC))
    if output == "table":
        _show_fields(document)
    else:
        show(output, (), [document], document=document)


@keys.command()
@click.argument("key_id", required=False)
@unlabelled_options
@click.option(
    "--grace", metavar="1h", help="How long the old key still works.  [default: not at all]"
)
@click.option("--max-spend", metavar="USD", help="The new key's limit.  [default: what is left]")
@_rate_options("  [default: as the old]")
@click.option(
    "--expires", metavar="90d", help="When the new key ends.  [default: as long as the old]"
)
@_why_option
@format_option
@pass_run
def rotate(
    run: Run,
    /,
    key_id: str | None,
    unlabelled: bool,
    labels_file: str | None,
    grace: str | None,
    max_spend: str | None,
    rpm: str | None,
    tpm: str | None,
    max_parallel: str | None,
    expires: str | None,
    why: str,
    output: str,
    **labels: str | None,
) -> None:
    """Issue a new key with the same labels and end the old one.

    With --unlabelled for every key in quarantine: a new key needs the four labels, which come from
    --labels, else from what is known of the old key, else from the options.
    """
    from ledger import issue as issuing
    from ledger.cli import arguments

    now = datetime.now(UTC)
    grace_time = arguments.duration(grace) if grace else timedelta()
    ends_at = now + grace_time if grace_time else None
    new_limit = arguments.usd(max_spend) if max_spend else None
    new_rates = _rates(rpm, tpm, max_parallel)
    new_end = arguments.expiry(expires, now) if expires else None
    if unlabelled and key_id is None:
        limits = {**new_rates, "max_spend_nanos": new_limit, "expires_at": new_end}
        rotate_unlabelled(run, ends_at or now, labels, labels_file, limits, why, output)
        return
    if key_id is None or unlabelled or labels_file or any(labels.values()):
        raise arguments.InputError(
            "Name the KEY_ID to rotate, or --unlabelled for all in quarantine; only these take"
            " labels."
        )
    with run.books() as db:
        with db.transaction() as session:
            old = issuing.find(session, key_id)
            issuing.may_rotate(old)
            if new_end is None and old["expires_at"] is not None:
                new_end = now + (old["expires_at"] - old["created_at"])
            request = issuing.successor(
                old,
                _spent_nanos(session, old["key_id"]),
                expires_at=new_end,
                max_spend_nanos=new_limit,
                has_grace=ends_at is not None,
                rates=new_rates,
            )
            issued = issuing.rotate(session, old, request, ends_at=ends_at, who=who(), why=why)
        publish_now(run, db)
    _show_issued(issued, output, replaces=old["key_id"])


def _rates(rpm: str | None, tpm: str | None, max_parallel: str | None) -> dict[str, int | None]:
    """The limits on a key's pace that were given; None where one shall be lifted."""
    from ledger.cli.arguments import count

    given = {"rpm": rpm, "tpm": tpm, "max_parallel": max_parallel}
    return {
        name: None if text == _NO_LIMIT else count(text, f"--{name.replace('_', '-')}")
        for name, text in given.items()
        if text is not None
    }


def _spent_nanos(session: "Session", key_id: str) -> int:
    [usage] = session.run("keys_usage", key_id=key_id)
    return int(usage["spent_nanos"])


def _set_status(run: Run, key_id: str, status: str, why: str, output: str) -> None:
    from ledger import issue as issuing
    from ledger import reports

    with run.books() as db:
        with db.transaction() as session:
            row = issuing.set_status(session, key_id, status, who=who(), why=why)
        publish_now(run, db)
    shown = reports.key(row, datetime.now(UTC))
    show(output, _columns(), [shown], document=shown)


def _show_issued(issued: "IssuedKey", output: str, replaces: str | None = None) -> None:
    from ledger import reports

    document = {"key": issued.text, **reports.key(issued.row, datetime.now(UTC))}
    if replaces is not None:
        document["replaces"] = replaces
    if output != "table":
        show(output, (), [document], document=document)
        return
    click.echo(f"{issued.text}\n")
    _show_fields(document)
    hint("\nKeep the key now: it is not stored and cannot be shown again.")


def _show_fields(document: Mapping[str, Any]) -> None:
    from ledger.reports import selector_text
    from ledger.tables import iso, money, printable

    skipped = ("key", "changes", "max_spend_usd", "spent_usd")
    for name, value in document.items():
        if name in skipped or value is None or value is False or value == "" or value == {}:
            continue
        if name.endswith("_nanos"):
            name, value = name.removesuffix("_nanos"), money(value)
        elif isinstance(value, datetime):
            value = iso(value)
        elif value is True:
            value = "yes"
        elif isinstance(value, Mapping):
            value = selector_text(value.items())
        click.echo(f"{name.replace('_', ' '):<12}  {printable(str(value))}")
    click.echo()


def _columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("key_id", "Key", "id"),
        Column("owner", "Owner"),
        Column("team", "Team"),
        Column("agent", "Agent"),
        Column("workload", "Workload"),
        Column("service_account", "Service", "id"),
        Column("status", "Status", "id"),
        Column("expires_at", "Expires", "date"),
        Column("max_spend_nanos", "Limit", "limit"),
    ]


def _change_columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("at", "Changed", "time"),
        Column("what", "What", "id"),
        Column("changed", "From -> to", "name"),
        Column("who", "Who"),
        Column("why", "Why"),
    ]
