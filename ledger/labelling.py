"""Labels of keys change, and keys leave quarantine with them. Knows no terminal and no Redis.

Events keep the labels that a key had when they were made; who changed them, when, why, from what
and to what is on record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from ledger import issue
from ledger.db import Row, Session
from ledger.imports import Labels, faults, labels_from
from ledger.issue import REQUIRED_LABELS, IssuedKey, KeyRequest, RefusedError, in_quarantine

RELABELLED, LABELLED, UNCHANGED = "relabelled", "labelled", "unchanged"
_COLUMNS: Final = (*REQUIRED_LABELS, "customer")


@dataclass(frozen=True, slots=True)
class Relabelled:
    """A key after its labels were changed; `lacks` says what keeps it in quarantine, if anything.

    `what` is `labelled` where it left quarantine.
    """

    row: Row
    what: str
    lacks: str = ""


def labels_of(row: Row) -> Labels:
    """The labels of a key's row."""
    return Labels(**{name: row[name] for name in _COLUMNS}, others=row["labels"])


def relabel(
    session: Session,
    row: Row,
    wanted: Mapping[str, str | None],
    reserved: frozenset[str],
    *,
    who: str,
    why: str = "",
) -> Relabelled:
    """Give a key these labels; None takes one away, the others stay. `row` was found and locked.

    A quarantined key whose labels are then complete leaves quarantine. Raises RefusedError, and
    the database refuses what the rules for labels do not allow.
    """
    if row["status"] == "revoked":
        raise RefusedError(f"The key {row['key_id']} is revoked; its labels stay as they are.")
    old = labels_of(row)
    new = _changed(old, wanted, reserved)
    session.run("directory_lock")
    if in_quarantine(row):
        return _relabel_quarantined(session, row, old, new, who, why)
    if new == old:
        return Relabelled(row, UNCHANGED)
    session.run("keys_set_labels", key_id=row["key_id"], **_parameters(new))
    _note(session, row["key_id"], RELABELLED, old, new, who, why)
    return Relabelled(issue.find(session, row["key_id"]), RELABELLED)


def set_grace(
    session: Session, row: Row, grace_until: datetime, *, who: str, why: str
) -> tuple[Row, bool]:
    """Move the date until which a quarantined key's calls pass; whether that changed anything."""
    if not in_quarantine(row):
        raise RefusedError(f"The key {row['key_id']} has all of its labels and needs no grace.")
    if row["status"] == "revoked":
        raise RefusedError(f"The key {row['key_id']} is revoked for good; issue a new one.")
    if row["grace_until"] == grace_until:
        return row, False
    session.run("quarantined_set_grace", key_id=row["key_id"], grace_until=grace_until)
    moved = {"from": _date(row["grace_until"]), "to": _date(grace_until)}
    issue.note(session, row["key_id"], who=who, what="grace moved", why=why, detail=moved)
    return issue.find(session, row["key_id"]), True


def replace(
    session: Session, old: Row, request: KeyRequest, *, ends_at: datetime, who: str, why: str
) -> IssuedKey:
    """Issue a key in place of a quarantined one, whose grace ends at `ends_at` or earlier."""
    key_id, ends = old["key_id"], min(ends_at, old["grace_until"])
    issued = issue.issue(session, request, who=who, why=why or f"in place of {key_id}")
    new_id = issued.row["key_id"]
    session.run("quarantined_replace", key_id=key_id, replaced_by=new_id, grace_until=ends)
    detail = {"replaced_by": new_id, "from": _date(old["grace_until"]), "to": _date(ends)}
    issue.note(session, key_id, who=who, what="rotated", why=why, detail=detail)
    return issued


def _relabel_quarantined(
    session: Session, row: Row, old: Labels, new: Labels, who: str, why: str
) -> Relabelled:
    [says] = faults(session, [new.all])
    if says.fault:
        raise RefusedError(says.fault)
    lacks = f"It has no {', '.join(new.missing)}." if new.missing else says.lacks
    key_id = row["key_id"]
    if lacks and new == old:
        return Relabelled(row, UNCHANGED, lacks)
    if lacks:
        session.run("quarantined_set_labels", key_id=key_id, **_parameters(new))
    else:
        [was] = session.run("quarantined_leave", key_id=key_id)
        session.run("keys_take_in", key_id=key_id, **was, **_parameters(new))
    what = RELABELLED if lacks else LABELLED
    _note(session, key_id, what, old, new, who, why)
    return Relabelled(issue.find(session, key_id), what, lacks or "")


def _changed(old: Labels, wanted: Mapping[str, str | None], reserved: frozenset[str]) -> Labels:
    """The old labels with those that were given, each as it is stored."""
    for name, value in wanted.items():
        if value is None and name in REQUIRED_LABELS:
            raise RefusedError(
                f"The label {name} is mandatory; change it, it cannot be taken away."
            )
    given = {name: value for name, value in wanted.items() if value is not None}
    kept = {name: value for name, value in old.all.items() if name not in wanted}
    return labels_from(kept | given, reserved)


def _parameters(labels: Labels) -> dict[str, Any]:
    return {**labels.columns, "labels": Jsonb(labels.others)}


def _note(
    session: Session, key_id: str, what: str, old: Labels, new: Labels, who: str, why: str
) -> None:
    before, after = old.all, new.all
    names = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    detail = {
        "from": {name: before.get(name) for name in names},
        "to": {name: after.get(name) for name in names},
    }
    issue.note(session, key_id, who=who, what=what, why=why, detail=detail)


def _date(moment: datetime) -> dict[str, str]:
    return {"grace_until": moment.isoformat(timespec="seconds")}
