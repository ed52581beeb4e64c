"""`ledger runs`: start, list, show and end runs of agents. Decides nothing."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.cli.publish import publish_now
from ledger.cli.run_tree import draw, show_facts, show_runs
from ledger.cli.session import Refusal, Run, format_option, hint, pass_run, show, who

if TYPE_CHECKING:
    from ledger.budgets import Budget
    from ledger.db import Row, Session
    from ledger.run_trees import Hop

MAX_LISTED: Final = 10_000
_ROOTS: Final = ("root_key", "root_team", "root_agent", "root_workload")
_why_option: Final = click.option("--why", default="", help="A remark for the books.")


@click.group()
def runs() -> None:
    """Runs of agents: start one, see what it cost, end it."""


@runs.command()
@click.option("--key", required=True, metavar="KEY", help="In whose name: a key's id.")
@click.option(
    "--audience",
    multiple=True,
    metavar="agent=coder",
    help="Who may take part: a key, agent, team, workload or owner; may be repeated."
    "  [default: the key's team]",
)
@click.option("--ttl", default="8h", show_default=True, help="How long it is open, at most 24h.")
@click.option(
    "--budget", metavar="5usd|2Mtok", help="What all of its calls together may use, and no more."
)
@click.option("--name", default="", metavar="TEXT", help="What to call it.")
@_why_option
@format_option
@pass_run
def start(
    run: Run,
    key: str,
    audience: tuple[str, ...],
    ttl: str,
    budget: str | None,
    name: str,
    why: str,
    output: str,
) -> None:
    """Start a run and print its chain token.

    Its agents send the token as x-agent-chain, each beside its own key. Whatever they spend is
    attributed to KEY as the root, with its labels as they are now. The token is shown once. A key
    of the audience may send the run's id as x-agent-run instead.
    """
    import secrets

    from ledger import runs as running
    from ledger.chains import parse_audience
    from ledger.cli import arguments

    try:
        chosen = parse_audience(audience)
    except ValueError as error:
        raise arguments.InputError(f"--audience: {error}") from None
    unit, amount = arguments.amount(budget) if budget else ("", None)
    wanted = running.Start(
        key=key, audience=chosen, ttl=_ttl(ttl), name=name, unit=unit, amount=amount
    )
    with run.books() as db:
        with db.transaction() as session:
            started = running.start(
                session,
                wanted,
                org=run.keyspace.org,
                now=datetime.now(UTC),
                random_bits=secrets.randbits(130),
                who=who(),
                why=why,
            )
        publish_now(run, db)
    document = {
        "run_id": started.row["run_id"],
        "chain_token": started.token,
        **_facts(started.row, started.budget),
    }
    if output != "table":
        show(output, (), [document], document=document)
        return
    click.echo(f"{started.token}\n")
    show_facts(document)
    hint(
        "\nEach agent sends the token as x-agent-chain beside its own key. Keep it now: it is not"
        " stored and cannot be shown again."
    )


@runs.command("list")
@click.option("--since", metavar="7d|DATE", default="7d", show_default=True, help="Active since.")
@click.option(
    "--where", multiple=True, metavar="root_team=risk", help=f"By its root: {', '.join(_ROOTS)}."
)
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=100, show_default=True)
@format_option
@pass_run
def list_runs(run: Run, since: str, where: tuple[str, ...], limit: int, output: str) -> None:
    """List runs, the newest first.

    Those that were started, here or at the gateway, and those that callers named: a trace, a
    session of Claude Code or Codex. Calls and cost are all of a run's, whenever they were made.
    """
    from ledger.cli import arguments
    from ledger.reports import usd_text
    from ledger.tables import Column

    chosen = dict(arguments.selector(where, _ROOTS))
    now = datetime.now(UTC)
    with run.books() as db:
        rows = db.run(
            "runs_list",
            since=arguments.moment(since, now),
            limit=limit + 1,
            **{name: chosen.get(name) for name in _ROOTS},
        )
    found = [
        {**row, "state": _state(row, now), "cost_usd": usd_text(row["cost_nanos"])}
        for row in rows[:limit]
    ]
    if output == "table":
        show_runs(found)
    else:
        show(output, [Column("run_id", "Run")], found)
    if len(rows) > limit:
        hint(f"These are the newest {limit}; --limit shows more.")


@runs.command("show")
@click.argument("run_id", metavar="RUN")
@format_option
@pass_run
def show_run(run: Run, run_id: str, output: str) -> None:
    """Draw a run: who called whom, and what it cost.

    Each hop shows what its own calls cost, and what they cost with all below it. RUN is the id of
    any run, one that was started here as well as trace:... or claude-code:... . Its total is the
    sum of its events.
    """
    from ledger import run_trees

    with run.books() as db, db.transaction(snapshot=True) as session:
        document, top = _looked_up(session, run_id)
    if output == "json":
        show(output, (), [], document={**document, "tree": run_trees.nested(top)})
    elif output == "csv":
        flat = [run_trees.flat(hop, depth) for depth, hop in run_trees.walk(top)]
        show(output, (), [{"run_id": run_id, **row} for row in flat])
    else:
        draw(document, top)


@runs.command()
@click.argument("run_id", metavar="RUN")
@_why_option
@format_option
@pass_run
def end(run: Run, run_id: str, why: str, output: str) -> None:
    """End a run, within a second.

    Neither its tokens nor its id are believed any more: who still sends them pays for its own
    calls.
    """
    from ledger import runs as running

    with run.books() as db:
        with db.transaction() as session:
            row = running.end(session, run_id, now=datetime.now(UTC), who=who(), why=why)
        publish_now(run, db)
    document = {"run_id": run_id, **_facts(row, None)}
    if output == "table":
        show_facts(document)
    else:
        show(output, (), [document], document=document)


def _ttl(text: str) -> timedelta:
    from ledger.chains import MAX_TTL_S
    from ledger.cli import arguments

    ttl = arguments.duration(text)
    if not timedelta(0) < ttl <= timedelta(seconds=MAX_TTL_S):
        raise arguments.InputError(
            f"A run is open for at most {MAX_TTL_S // 3600}h, not {text}; start another one then."
        )
    return ttl


def _looked_up(session: "Session", run_id: str) -> "tuple[dict[str, Any], Hop]":
    """What the books know of a run, and its tree."""
    from ledger import reports, run_trees
    from ledger import runs as running
    from ledger.grant import budget_of

    row = running.find(session, run_id)
    asked = {"run_id": run_id.replace("\0", ""), "most": run_trees.MAX_GROUPS + 1}
    total, *groups = session.run("runs_calls", **asked)
    if row is None and not total["calls"]:
        raise Refusal(f"There is no run {run_id!r}; `ledger runs list` shows them.")
    key_ids = run_trees.unnamed(groups)
    known = {each["key_id"]: each for each in session.run("keys_labels", key_ids=key_ids)}
    top = run_trees.grow(groups, total, row["root"] if row else None, known)
    billed = session.run("runs_billed", run_id=asked["run_id"])
    budget_ids = [row["budget_id"]] if row and row["budget_id"] else []
    budgets = session.run("runs_budgets", budget_ids=budget_ids)
    sums = {name: int(total[name] or 0) for name in run_trees.SUMS}
    document = {
        "run_id": run_id,
        **(_facts(row, budget_of(budgets[0]) if budgets else None) if row else {}),
        "root": {"key_id": top.key_id, **top.labels},
        "first_at": total["first_at"],
        "last_at": total["last_at"],
        "events": sums["calls"],
        **sums,
        "cost_usd": reports.usd_text(sums["cost_nanos"]),
        "billed": [
            {
                "team": each["team"],
                "cost_nanos": int(each["cost_nanos"]),
                "cost_usd": reports.usd_text(int(each["cost_nanos"])),
            }
            for each in billed
        ],
    }
    return document, top


def _facts(row: "Row", budget: "Budget | None") -> dict[str, Any]:
    """What is on record of a run that was started or ended here."""
    from ledger.chains import Root, say_audience
    from ledger.reports import amount_text
    from ledger.runs import state

    root = row["root"]
    return {
        "name": row["name"],
        "state": state(row, datetime.now(UTC)),
        "root": root and {name: root[name] for name in Root.__dataclass_fields__},
        "audience": say_audience(tuple((name, value) for name, value in row["audience"])),
        "expires_at": row["expires_at"],
        "budget": budget.name if budget else None,
        "budget_amount": amount_text(budget.unit, budget.amount) if budget else None,
        "started_at": row["created_at"] if row["started_by"] else None,
        "started_by": row["started_by"],
        "why": row["why"],
        "ended_at": row["ended_at"],
        "ended_by": row["ended_by"],
        "ended_why": row["ended_why"],
    }


def _state(row: "Row", now: datetime) -> str:
    from ledger.runs import state

    return "" if row["expires_at"] is None else state(row, now)
