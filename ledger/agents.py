"""Registered agents, and what calls of tools and agents cost. Knows no terminal and no Redis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from psycopg.types.json import Jsonb

from ledger.db import Row, Session
from ledger.issue import RefusedError, clean_label
from ledger.label_text import composed, fault

MANDATORY: Final = ("team", "owner", "purpose")
STATUSES: Final = ("active", "suspended", "retired")
EVERY_TOOL: Final = "*"
_DONE: Final = {"active": "resumed", "suspended": "suspended", "retired": "retired"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRequest:
    """What is registered of an agent. None or blank: not given, which refuses the first four."""

    name: str | None
    team: str | None
    owner: str | None
    purpose: str | None
    price_nanos: int | None = None


def register(session: Session, request: AgentRequest, *, who: str, why: str = "") -> Row:
    """Give an agent an identity; its keys are those whose label `agent` is its name."""
    columns: dict[str, Any] = {"name": _mandatory("name", request.name)}
    columns |= {name: _mandatory(name, getattr(request, name)) for name in MANDATORY}
    columns["price_nanos"] = request.price_nanos
    rows = session.run("agents_insert", **columns)
    if not rows:
        raise RefusedError(
            f"There is an agent {columns['name']!r} already; `ledger agents set` changes it."
        )
    _note(session, columns["name"], who=who, what="registered", why=why)
    return rows[0]


def find(session: Session, name: str) -> Row:
    """The agent's row, locked against other changes; raises RefusedError where there is none."""
    rows = [] if "\0" in name else session.run("agents_one", name=name.strip())
    if not rows:
        raise RefusedError(
            f"There is no agent {name!r}; `ledger agents list` shows those that are registered."
        )
    return rows[0]


def change(
    session: Session, name: str, wanted: Mapping[str, Any], *, who: str, why: str = ""
) -> Row:
    """Set what `wanted` names: team, owner, purpose, price_nanos. The rest stays."""
    row = find(session, name)
    if row["status"] == "retired":
        raise RefusedError(f"The agent {row['name']!r} is retired; register another one.")
    clean = {n: _mandatory(n, value) if n in MANDATORY else value for n, value in wanted.items()}
    changes = {n: value for n, value in clean.items() if value != row[n]}
    if not changes:
        return row
    detail = {"from": {n: row[n] for n in changes}, "to": changes}
    _note(session, row["name"], who=who, what="changed", why=why, detail=detail)
    return _write(session, row, changes)


def set_status(session: Session, name: str, status: str, *, who: str, why: str = "") -> Row:
    """Suspend, resume or retire. To be in that state already is fine; retired is for good."""
    row = find(session, name)
    if row["status"] == status:
        return row
    if row["status"] == "retired":
        raise RefusedError(f"The agent {row['name']!r} is retired for good; register another one.")
    _note(session, row["name"], who=who, what=_DONE[status], why=why)
    return _write(session, row, {"status": status})


def set_tool_price(
    session: Session, text: str, price_nanos: int | None, *, who: str, why: str = ""
) -> Row:
    """What a call of `SERVER/TOOL` costs, or of every tool of a server (`SERVER/*`); None takes the
    price away.
    """
    server, slash, tool = text.strip().partition("/")
    if not slash:
        raise RefusedError(
            f"{text!r} names no tool; write SERVER/TOOL, or SERVER/* for every tool of a server."
        )
    names = {"server": _mandatory("server", server), "tool": _mandatory("tool", tool)}
    [row] = session.run("tool_prices_set", **names, price_nanos=price_nanos)
    session.run("tool_prices_note", **names, price_nanos=price_nanos, who=who, why=why)
    return row


def _write(session: Session, row: Row, changes: Mapping[str, Any]) -> Row:
    columns = {name: row[name] for name in ("name", *MANDATORY, "status", "price_nanos")}
    [changed] = session.run("agents_change", **(columns | dict(changes)))
    return changed


def _mandatory(name: str, value: str | None) -> str:
    if fault(composed(value or "")) == "blank":
        raise RefusedError(
            f"The {name} is blank; an agent has a name, a team, an owner and a purpose."
            if name in ("name", *MANDATORY)
            else f"The {name} is blank; write SERVER/TOOL."
        )
    return clean_label(name, value)


def _note(
    session: Session,
    name: str,
    *,
    who: str,
    what: str,
    why: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    session.run(
        "agents_note", name=name, who=who, what=what, why=why, detail=Jsonb(dict(detail or {}))
    )
