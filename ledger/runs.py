"""Runs of agents: started, ended and looked for in the books. Knows no terminal and no Redis."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from psycopg.types.json import Jsonb

from ledger import grant, issue, signing
from ledger.budgets import Budget
from ledger.chains import (
    MAX_TTL_S,
    RUN_PREFIX,
    Audience,
    Chain,
    Root,
    default_audience,
    mint,
    new_run_id,
)
from ledger.db import Database, Row, Session
from ledger.issue import RefusedError
from ledger.reports import micros

MAX_PUBLISHED: Final = 100_000
"""Runs that the sidecars know at one time: those that are open or were until a day ago."""
MAX_NAME_CHARS: Final = 200
KEPT: Final = timedelta(days=1)
"""How long after its end a run is still published."""
_MAX_PRUNED: Final = 500  # in one transaction, which holds up who changes keys
_WRITER: Final = "ledger"
_MINTED: Final = re.compile(RUN_PREFIX + "[0-9a-z]{26}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A run to start. `key` is a key's id; an empty audience is the key's own team. `amount` with
    its `unit` is what the whole run may use, where it is limited.
    """

    key: str
    audience: Audience = ()
    ttl: timedelta
    name: str = ""
    unit: str = ""
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A new run. `token` exists nowhere else: who has it spends in the root's name."""

    row: Row
    token: str
    budget: Budget | None


def start(
    session: Session,
    wanted: Start,
    *,
    org: str,
    now: datetime,
    random_bits: int,
    who: str,
    why: str = "",
) -> Started:
    """Start a run in the name of a key, with its labels as they are now, and its budget with it.

    Raises RefusedError where the key cannot call or too many runs are open.
    """
    root = _root(issue.find(session, wanted.key), now)
    session.run("directory_lock")  # after the key's row, as who changes a key
    if session.run("runs_published")[0]["runs"] >= MAX_PUBLISHED:
        raise RefusedError(
            f"There are {MAX_PUBLISHED:,} runs open already, which is all that the sidecars hold;"
            " give runs a shorter --ttl."
        )
    expires_at = (now + wanted.ttl).astimezone(UTC).replace(microsecond=0)
    chain = Chain(
        run_id=new_run_id(random_bits),
        root=root,
        path=(root.key_id,),
        audience=wanted.audience or default_audience(root),
        expires_at_us=micros(expires_at),
    )
    try:
        token = mint(chain, signing.ensure_key(session, micros(now), who=who), org)
    except ValueError as error:
        raise RefusedError(str(error)) from None
    # Before the run, so that nobody learns of the run before the limit on it.
    budget = _budget(session, wanted, chain.run_id, who, why)
    [row] = session.run(
        "runs_insert",
        run_id=chain.run_id,
        name=_clean_name(wanted.name),
        root=Jsonb({name: getattr(root, name) for name in Root.__dataclass_fields__}),
        audience=Jsonb([list(pair) for pair in chain.audience]),
        budget_id=budget.budget_id if budget else None,
        expires_at=expires_at,
        who=who,
        why=why,
    )
    return Started(row, token, budget)


def end(session: Session, run_id: str, *, now: datetime, who: str, why: str = "") -> Row:
    """End a run: neither its tokens nor its id are believed any more. To have ended is fine.

    RefusedError where the id is none that we gave: such a run has nothing that could be ended.
    """
    session.run("directory_lock")
    row = find(session, run_id)
    if row is not None and row["ended_at"] is not None:
        return row
    if row is None and not _MINTED.fullmatch(run_id):
        raise RefusedError(
            f"{run_id!r} is not a run that Tollkeeper started, so it has no token that could end;"
            " suspend the key, or set a budget --where run=... ."
        )
    roots = [] if row else session.run("runs_root", run_id=run_id)
    [ended] = session.run(
        "runs_end",
        run_id=run_id,
        root=Jsonb(roots[0]) if roots else None,
        expires_at=now + timedelta(seconds=MAX_TTL_S),
        who=who,
        why=why,
    )
    return ended


def find(session: Session, run_id: str) -> Row | None:
    """The run as it was started or ended here, if it was."""
    rows = [] if "\0" in run_id else session.run("runs_one", run_id=run_id)
    return rows[0] if rows else None


def state(row: Row, now: datetime) -> str:
    """`open`, `ended` or `expired`."""
    if row["ended_at"] is not None:
        return "ended"
    return "expired" if row["expires_at"] <= now else "open"


def prune(session: Session, now: datetime) -> int:
    """Stop publishing some runs that are long over, and end their budgets; how many."""
    session.run("directory_lock")
    over = session.run("runs_prune", before=now - KEPT, most=_MAX_PRUNED)
    budget_ids = [row["budget_id"] for row in over if row["budget_id"] is not None]
    for row in session.run("runs_budgets", budget_ids=budget_ids) if budget_ids else ():
        session.run("budgets_remove", budget_id=row["budget_id"])
        budget = grant.budget_of(row)
        grant.note(session, budget.budget_id, "removed", budget, _WRITER, "its run is over")
    return len(over)


def keep_chains(db: Database) -> None:
    """See that something can sign, and let go of the runs and signing keys that are over."""
    now = datetime.now(UTC)
    with db.transaction() as session:
        signing.ensure_key(session, micros(now), who=_WRITER)
        signing.forget(session, micros(now))
    while True:
        with db.transaction() as session:
            if not prune(session, now):
                return


def _root(key: Row, now: datetime) -> Root:
    if key["status"] != "active":
        raise RefusedError(f"The key {key['key_id']} is {key['status']}; it cannot start a run.")
    if key["expires_at"] is not None and key["expires_at"] <= now:
        raise RefusedError(f"The key {key['key_id']} has expired; it cannot start a run.")
    issue.must_have_labels(key)
    return Root(**{name: key[name] for name in Root.__dataclass_fields__})


def _budget(session: Session, wanted: Start, run_id: str, who: str, why: str) -> Budget | None:
    if wanted.amount is None:
        return None
    budget = Budget(
        budget_id="",
        name=f"run {run_id}",
        where=(("run", run_id),),
        unit=wanted.unit,
        amount=wanted.amount,
        per="total",
    )
    row, _ = grant.grant(session, budget, who=who, why=why)
    return grant.budget_of(row)


def _clean_name(name: str) -> str:
    return issue.clean_label("of the run", name)[:MAX_NAME_CHARS] if name else ""
