"""`ledger budgets explain`: which budgets bind, and which would refuse first. Decides nothing that
ledger.explain decides.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from ledger.cli.session import Run, WrongUsage, format_option, hint, pass_run
from ledger.cli.standing import show_budgets, standings

if TYPE_CHECKING:
    from ledger.db import Row as DbRow
    from ledger.db import Session
    from ledger.explain import Typical
    from ledger.reports import Row
    from ledger.tables import Column

_ALL: Final = 1_000_000_000  # budgets that are read; any may bind
_LOOKS_BACK: Final = timedelta(days=7)
_OPEN: Final = ("provider", "run")
"""Labels that a call has and a key has not."""


@click.command()
@click.option("--key", "key_text", metavar="KEY", help="A key's id, or the whole key.")
@click.option("--where", multiple=True, metavar="team=risk,...", help="The labels of a call.")
@click.option("--provider", metavar="openai", help="The provider that is called.")
@click.option("--model", metavar="NAME", help="The model: its price says how many calls fit.")
@format_option
@pass_run
def explain(
    run: Run,
    key_text: str | None,
    where: tuple[str, ...],
    provider: str | None,
    model: str | None,
    output: str,
) -> None:
    """Which budgets, limits and wallets bind a key's calls, the first to refuse on top.

    Fits: how many more typical calls each has room for at this moment, which compares money with
    tokens and calls.
    """
    from ledger import grant, reports, spend
    from ledger.cli import arguments
    from ledger.explain import binding, explained
    from ledger.tables import printable

    if (key_text is None) == (not where):
        raise WrongUsage("Say whose calls: either --key KEY or --where team=risk,....")
    now = datetime.now(UTC)
    with run.books() as db, db.transaction(snapshot=True) as session:
        names = reports.allowed(reports.SELECTOR_LABELS, spend.label_names(session))
        key = _key(session, key_text) if key_text is not None else None
        labels = _labels(key) if key is not None else dict(arguments.selector(where, names))
        if provider is not None:
            labels["provider"] = provider
        rows = session.run("budgets_list", name=None, limit=_ALL)
        unknown = [name for name in _OPEN if name not in labels]
        bound = binding(map(grant.budget_of, rows), labels, unknown)
        typical = _typical(run, session, labels, model, now)
    found = explained(bound, standings(run, [budget for budget, _ in bound], now), typical, now)
    refused = _refused(key, now)
    document = {
        "labels": labels,
        "key_status": None if key is None else reports.key(key, now)["status"],
        "typical_call": {"cost_nanos": typical.nanos, "tokens": typical.tokens},
        "budgets": found,
    }
    empty = "No budget binds such a call."
    show_budgets(output, _columns, found, document=document, empty=empty)
    if output == "table" and found:
        click.echo()
        for line in (*_notes(found), f"Fits: calls of {typical.says}."):
            click.echo(printable(line))
    if refused:
        hint(refused)


def _key(session: "Session", text: str) -> "DbRow":
    from ledger.issue import RefusedError, key_id_of

    key_id = key_id_of(text)
    rows = [] if "\0" in key_id else session.run("keys_look", key_id=key_id)
    if not rows:
        raise RefusedError(f"There is no key {key_id!r}; `ledger keys list` shows them all.")
    return rows[0]


def _labels(key: "DbRow") -> dict[str, str]:
    """What a selector may ask for of the key's own calls; each is the root of its chain."""
    return {
        **key["labels"],
        **{name: key[name] for name in ("owner", "team", "agent", "workload", "customer")},
        "key": key["key_id"],
        "principal": "" if key["service_account"] else key["owner"],
        "root_key": key["key_id"],
        **{f"root_{name}": key[name] for name in ("team", "agent", "workload")},
    }


def _typical(
    run: Run, session: "Session", labels: dict[str, str], model: str | None, now: datetime
) -> "Typical":
    """What calls with these labels used of late; else what the model's price says."""
    from ledger import spend
    from ledger.explain import Typical
    from ledger.reports import Question

    if "key" in labels:
        where = {"key": labels["key"]}
        where |= {"provider": labels["provider"]} if "provider" in labels else {}
    else:
        where = {"run_id" if name == "run" else name: v for name, v in labels.items()}
    if model is not None:
        where["model"] = model
    question = Question(by=("owner",), where=tuple(where.items()), since=now - _LOOKS_BACK)
    total = next((r for r in spend.spend(session, question, 1) if r["is_total"]), {})
    calls = int(total.get("calls") or 0) - int(total.get("refused_calls") or 0)
    nanos = int(total.get("cost_nanos") or 0)
    if calls <= 0 or nanos <= 0:
        return _supposed(run, labels.get("provider"), model, now)
    tokens = (int(total["input_tokens"]) + int(total["output_tokens"])) // calls
    return Typical(
        nanos // calls, tokens, _size(nanos // calls, tokens) + ", as its calls of the last 7 days"
    )


def _supposed(run: Run, provider: str | None, model: str | None, now: datetime) -> "Typical":
    from ledger.explain import USUAL_NANOS, USUAL_TOKENS, Typical
    from ledger.prices import ceiling_nanos

    said = "for want of calls in the last 7 days"
    if provider is None or model is None:
        return Typical(USUAL_NANOS, USUAL_TOKENS, f"{_size(USUAL_NANOS, USUAL_TOKENS)}, {said}")
    from ledger.reports import micros

    rates = run.rates().lookup(provider, model, micros(now))
    if rates is None:
        hint(f"The model {model!r} of {provider} has no known price: budgets in usd refuse it.")
        return Typical(USUAL_NANOS, USUAL_TOKENS, f"{_size(USUAL_NANOS, USUAL_TOKENS)}, {said}")
    nanos = ceiling_nanos(rates, USUAL_TOKENS * 3 // 4, USUAL_TOKENS // 4)
    return Typical(nanos, USUAL_TOKENS, f"{_size(nanos, USUAL_TOKENS)}, at {model}'s price")


def _size(nanos: int, tokens: int) -> str:
    from ledger.tables import money

    return f"{money(nanos)} and {tokens:,} tokens each"


def _refused(key: "DbRow | None", now: datetime) -> str:
    from ledger import reports

    status = "active" if key is None else reports.key(key, now)["status"]
    return "" if status == "active" else f"The key is {status}: every call of it is refused."


def _notes(rows: "Sequence[Row]") -> list[str]:
    """What the table does not say: a line for each kind of remark."""
    from ledger.reports import selector_text

    told = [f"First to refuse: {row['name']}." for row in rows if row["refuses_first"]]
    if shadows := [row["name"] for row in rows if row["shadow"]]:
        told.append(f"Only reports (shadow): {', '.join(shadows)}.")
    for row in rows:
        if row["only_if"]:
            told.append(f"Only with {selector_text(row['only_if'].items())}: {row['name']}.")
    return told


def _columns(_: "Sequence[Row]") -> "list[Column]":
    from ledger.tables import Column

    return [
        Column("name", "Budget", "name"),
        Column("limit", "Amount", "amount"),
        Column("per", "Per"),
        Column("used", "Used", "amount"),
        Column("held", "Held", "amount"),
        Column("left", "Left", "amount"),
        Column("percent", "Taken", "percent"),
        Column("calls_left", "Fits", "count"),
        Column("turns_at", "Turns", "time"),
    ]
