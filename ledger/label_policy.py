"""Rules for labels: which a key must have, and which values they may have. Knows no terminal.

The check itself is the database's (`label_fault`), so that it is the same wherever a key comes
from. A rule is in force for every change that comes after it; keys that do not fit it go on until
their labels change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg.types.json import Jsonb

from ledger.db import Session
from ledger.issue import REQUIRED_LABELS, RefusedError, clean_label, clean_labels

MAX_VALUES: Final = 10_000
"""Of one label, allowed and forbidden together."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for a label; without a rule all values are allowed and none is required."""

    label: str
    required: bool = False
    closed: bool = False


def set_required(
    session: Session, label: str, required: bool, reserved: frozenset[str], *, who: str, why: str
) -> bool:
    """Make a label mandatory, or optional again; whether that changed anything."""
    rule = _rule(session, label, reserved)
    if label in REQUIRED_LABELS:
        if required:
            return False
        raise RefusedError(f"The label {label} is mandatory on every key and cannot be optional.")
    what = "required" if required else "optional"
    return _set(session, rule, Rule(label, required, rule.closed), what, who, why)


def set_values(
    session: Session,
    label: str,
    values: Sequence[str],
    allowed: bool,
    reserved: frozenset[str],
    *,
    close: bool = False,
    who: str,
    why: str,
) -> list[str]:
    """Allow or forbid these values of a label, and `close` its list: then no others are allowed.

    Returns those that were not so before.
    """
    rule = _rule(session, label, reserved)
    clean = sorted({clean_label(label, value) for value in values})
    closed = rule.closed or close
    session.run("labels_set_rule", label=label, required=rule.required, closed=closed)
    if closed != rule.closed:
        _note(session, label, "closed", {}, who, why)
    changed = session.run("labels_set_values", label=label, values=clean, allowed=allowed)
    names = sorted(row["value"] for row in changed)
    [counted] = session.run("labels_count_values", label=label)
    if counted["values"] > MAX_VALUES:
        raise RefusedError(f"A label has at most {MAX_VALUES:,} values on its list.")
    if names:
        _note(session, label, "allowed" if allowed else "forbidden", {"values": names}, who, why)
    return names


def set_open(session: Session, label: str, reserved: frozenset[str], *, who: str, why: str) -> bool:
    """Let a label have any value again that is not forbidden; whether that changed anything."""
    rule = _rule(session, label, reserved)
    return _set(session, rule, Rule(label, rule.required, False), "opened", who, why)


def _rule(session: Session, label: str, reserved: frozenset[str]) -> Rule:
    """The rule of a label that keys can have, kept from others until the transaction ends."""
    if label not in (*REQUIRED_LABELS, "customer"):
        clean_labels({label: "x"}, reserved)
    session.run("directory_lock")
    rows = session.run("labels_one", label=label)
    return Rule(**rows[0]) if rows else Rule(label)


def _set(session: Session, old: Rule, new: Rule, what: str, who: str, why: str) -> bool:
    if new == old:
        return False
    session.run("labels_set_rule", label=new.label, required=new.required, closed=new.closed)
    _note(session, new.label, what, {}, who, why)
    return True


def _note(
    session: Session, label: str, what: str, detail: dict[str, Any], who: str, why: str
) -> None:
    session.run("labels_note", label=label, who=who, what=what, why=why, detail=Jsonb(detail))
