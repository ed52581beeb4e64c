"""`ledger alerts`: what was said of budgets, whom it is sent to, and whether it arrived. Decides
nothing about when an alert is due.
"""

import secrets
import string
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.session import Refusal, Run, WrongUsage, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.db import Row
    from ledger.tables import Column

MAX_LISTED: Final = 10_000
MAX_ENDPOINTS: Final = 50
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits
_ID_CHARS: Final = 8

limit_option: Final = click.option(
    "--limit", type=click.IntRange(1, MAX_LISTED), default=100, show_default=True
)


@click.group(invoke_without_command=True)
@click.option("--budget", metavar="NAME", help="Only what was said of this budget.")
@limit_option
@format_option
@click.pass_context
def alerts(context: click.Context, budget: str | None, limit: int, output: str) -> None:
    """What was said of budgets, newest first.

    Each threshold is said once per budget and window. Endpoints are told as well: see `webhooks`.
    """
    if context.invoked_subcommand is not None:
        return
    from ledger.deliveries import facts

    run: Run = context.obj
    with run.books() as db:
        rows = db.run("alerts_list", name=budget, limit=limit + 1)
    counts = ("deliveries", "delivered", "failed", "pending")
    found = [{**facts(row), **{name: row[name] for name in counts}} for row in rows[:limit]]
    shown = [_readable(row) for row in found] if output == "table" else found
    show(output, _columns(), shown, empty="No alerts.")
    if len(rows) > limit:
        hint(f"These are the newest {limit}; --limit shows more.")


@alerts.group()
def webhooks() -> None:
    """Whom alerts are sent to."""


@webhooks.command()
@click.argument("url")
@click.option("--slack", is_flag=True, help="In the form of Slack's incoming webhooks, unsigned.")
@click.option(
    "--kinds",
    metavar="threshold,exhausted,...",
    help="Which alerts it is sent.  [default: all]",
)
@format_option
@pass_run
def add(run: Run, url: str, slack: bool, kinds: str | None, output: str) -> None:
    """Send alerts to URL from now on; the secret that signs them is shown this once.

    Messages follow Standard Webhooks: verify `webhook-signature` with any of its libraries.
    """
    from ledger.webhooks import clean_url, new_secret

    endpoint = {
        "endpoint_id": "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARS)),
        "url": clean_url(url),
        "secret": "" if slack else new_secret(),
        "form": "slack" if slack else "standard",
        "kinds": _kinds(kinds),
    }
    with run.books() as db, db.transaction() as session:
        session.run("webhooks_lock")
        if session.run("webhooks_number")[0]["number"] >= MAX_ENDPOINTS:
            raise Refusal(f"There are {MAX_ENDPOINTS} endpoints, which is the most; remove one.")
        [row] = session.run("webhooks_insert", **endpoint, created_by=who())
    document = {**_endpoint(row), **({} if slack else {"secret": endpoint["secret"]})}
    _show_endpoints([document], output, document)
    if output == "table" and not slack:
        click.echo(f"\nSecret, shown this once: {endpoint['secret']}")


@webhooks.command("list")
@format_option
@pass_run
def list_webhooks(run: Run, output: str) -> None:
    """List the endpoints; one that answered 410 is gone until it is added again."""
    with run.books() as db:
        rows = db.run("webhooks_list")
    found = [
        {
            **_endpoint(row),
            "state": row["end_reason"] or "in use",
            **{name: row[name] for name in ("pending", "failed", "last_delivered_at")},
        }
        for row in rows
    ]
    _show_endpoints(found, output)


@webhooks.command()
@click.argument("endpoint_id", metavar="ID")
@format_option
@pass_run
def remove(run: Run, endpoint_id: str, output: str) -> None:
    """Send nothing more to the endpoint ID, not even what is queued for it."""
    now = datetime.now(UTC)
    with run.books() as db:
        rows = db.run("webhooks_end", endpoint_id=_text(endpoint_id), reason="removed", now=now)
    if not rows:
        raise _no_endpoint(endpoint_id)
    document = {**_endpoint(rows[0]), "state": "removed"}
    _show_endpoints([document], output, document)


@webhooks.command()
@click.argument("endpoint_id", metavar="ID")
@format_option
@pass_run
def test(run: Run, endpoint_id: str, output: str) -> None:
    """Send a test message to the endpoint ID now, once; exit code 1: it did not arrive."""
    from ledger.tables import Column
    from ledger.webhooks import Endpoint, post, request

    with run.books() as db:
        rows = db.run("webhooks_one", endpoint_id=_text(endpoint_id))
    if not rows:
        raise _no_endpoint(endpoint_id)
    now = datetime.now(UTC)
    message = {"kind": "test", "at": now, "message": f"Sent by {who()} to see whether it arrives."}
    endpoint = Endpoint(rows[0]["url"], rows[0]["secret"], rows[0]["form"])
    message_id = f"msg_{secrets.token_hex(16)}"
    answer = post(endpoint, *request(endpoint, message_id, message, int(now.timestamp())))
    document = {
        "endpoint_id": endpoint_id,
        "message_id": message_id,
        "delivered": answer.delivered,
        "status": answer.status,
        "error": answer.error,
    }
    columns = [Column("endpoint_id", "Endpoint", "id"), Column("message_id", "Message", "id")]
    show(output, [*columns, Column("status", "Status")], [document], document=document)
    if not answer.delivered:
        raise Refusal(f"The test message was not delivered. {answer.error}")


@alerts.command()
@click.option("--failed", is_flag=True, help="Only those that were given up.")
@limit_option
@format_option
@pass_run
def deliveries(run: Run, failed: bool, limit: int, output: str) -> None:
    """What is on its way to endpoints, what arrived and what was given up, newest first."""
    from ledger.tables import Column
    from ledger.webhooks import shown_url

    with run.books() as db:
        rows = db.run("deliveries_list", failed=failed, limit=limit + 1)
    found = []
    for row in rows[:limit]:
        waits = row["state"] == "pending"
        document = {name: value for name, value in row.items() if name not in ("form", "name")}
        document["url"] = shown_url(row["url"], row["form"])
        document["next_attempt_at"] = row["next_attempt_at"] if waits else None
        found.append({**document, "budget": row["name"]})
    columns = [
        Column("delivery_id", "Delivery", "id"),
        Column("at", "Alert (UTC)", "minute"),
        Column("budget", "Budget", "name"),
        Column("kind", "Kind"),
        Column("url", "To", "name"),
        Column("state", "State", "id"),
        Column("attempts", "Attempts", "count"),
        Column("next_attempt_at", "Next (UTC)", "time"),
        Column("last_error", "Error", "name"),
    ]
    show(output, columns, found, empty="No deliveries.")
    if len(rows) > limit:
        hint(f"These are the newest {limit}; --limit shows more.")


@alerts.command()
@click.argument("delivery_ids", metavar="[ID]...", nargs=-1, type=click.IntRange(1, 2**63 - 1))
@click.option("--failed", is_flag=True, help="All that were given up.")
@format_option
@pass_run
def retry(run: Run, delivery_ids: tuple[int, ...], failed: bool, output: str) -> None:
    """Try deliveries again that were given up, from the first attempt on."""
    from ledger.tables import Column

    if bool(delivery_ids) == failed:
        raise WrongUsage("Name the deliveries to retry, or all of them with --failed.")
    chosen = None if failed else sorted(set(delivery_ids))
    with run.books() as db, db.transaction() as session:
        rows = session.run("deliveries_retry", delivery_ids=chosen, now=datetime.now(UTC))
        found = {row["delivery_id"] for row in rows}
        if missing := [number for number in chosen or () if number not in found]:
            raise Refusal(
                f"Delivery {missing[0]} was not given up, or its endpoint ended; nothing was"
                " changed. `ledger alerts deliveries --failed` shows them all."
            )
    columns = [Column("delivery_id", "Delivery", "id"), Column("endpoint_id", "Endpoint", "id")]
    rows.sort(key=lambda row: row["delivery_id"])
    show(output, [*columns, Column("state", "State", "id")], rows, empty="No deliveries.")


def _kinds(text: str | None) -> list[str]:
    from ledger.alerts import KINDS

    if text is None:
        return []
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names:
        says = f"does not know {unknown[0]!r}" if unknown else "names none"
        raise WrongUsage(f"--kinds {says}; allowed are {', '.join(KINDS)}.")
    return names


def _text(endpoint_id: str) -> str:
    return endpoint_id.replace("\0", "")


def _no_endpoint(endpoint_id: str) -> Refusal:
    return Refusal(
        f"There is no endpoint {endpoint_id!r}; `ledger alerts webhooks list` shows them all."
    )


def _endpoint(row: "Row") -> dict[str, Any]:
    """An endpoint without anything secret."""
    from ledger.webhooks import shown_url

    return {
        "endpoint_id": row["endpoint_id"],
        "url": shown_url(row["url"], row["form"]),
        "form": row["form"],
        "kinds": row["kinds"],
        "created_by": row["created_by"],
        "created_at": row["created_at"],
    }


def _show_endpoints(
    found: list[dict[str, Any]], output: str, document: dict[str, Any] | None = None
) -> None:
    from ledger.tables import Column

    columns = [
        Column("endpoint_id", "Endpoint", "id"),
        Column("url", "URL", "name"),
        Column("form", "Form", "id"),
        Column("kinds", "Alerts", "name"),
        Column("created_by", "Added by"),
    ]
    if found and "state" in found[0]:
        columns.append(Column("state", "State", "id"))
    if found and "pending" in found[0]:
        columns += [Column("pending", "Waiting", "count"), Column("failed", "Failed", "count")]
    rows = found
    if output == "table":
        rows = [{**row, "kinds": ", ".join(row["kinds"]) or "all"} for row in found]
    show(output, columns, rows, document=document, empty="No endpoints.")


def _readable(row: "Row") -> "Row":
    from ledger.alerts import shown

    used, amount = (shown(row["unit"], row[name]) for name in ("used", "amount"))
    percent = row["kind"] in ("threshold", "exhausted")
    low = shown(row["unit"], row["threshold"]) if row["kind"] == "low_balance" else ""
    return {
        **row,
        "threshold": f"{row['threshold']}%" if percent else low,
        "used": f"{used} of {amount}",
        "delivered": _arrived(row),
    }


def _arrived(row: "Row") -> str:
    if not row["deliveries"]:
        return ""
    if row["failed"]:
        return "failed"
    return "waiting" if row["pending"] else "yes" if row["delivered"] else ""


def _columns() -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("at", "When (UTC)", "minute"),
        Column("budget", "Budget", "name"),
        Column("kind", "Kind", "id"),
        Column("threshold", "At", "amount"),
        Column("window", "Window", "id"),
        Column("used", "Used", "id"),
        Column("delivered", "Delivered", "id"),
        Column("message", "Message", "name"),
    ]
