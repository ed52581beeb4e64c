"""Takes keys that callers had before into the books: labelled ones as keys, others in quarantine.
Knows no terminal and no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from psycopg.types.json import Jsonb

from ledger.db import Session
from ledger.issue import REQUIRED_LABELS, RefusedError, clean_label, clean_labels, new_key_id
from ledger.key_files import KeyRow

MAX_CHUNK: Final = 1000  # rows of one transaction: nobody else changes a key meanwhile
IMPORTED, QUARANTINED, KNOWN, REFUSED = "imported", "quarantined", "known", "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: `says` why it was refused, or what labels are still missing."""

    line: int
    result: str
    key_id: str = ""
    says: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """A key's labels as they are stored; the four and the customer are empty where not known."""

    owner: str = ""
    team: str = ""
    agent: str = ""
    workload: str = ""
    customer: str = ""
    others: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Which of the four are not known."""
        return [name for name in REQUIRED_LABELS if not getattr(self, name)]

    @property
    def columns(self) -> dict[str, Any]:
        """As rows hold them."""
        return {
            **{name: getattr(self, name) for name in (*REQUIRED_LABELS, "customer")},
            "labels": self.others,
        }

    @property
    def all(self) -> dict[str, str]:
        """By name, those that are known."""
        named = {name: getattr(self, name) for name in (*REQUIRED_LABELS, "customer")}
        return self.others | {name: value for name, value in named.items() if value}


class Faults(NamedTuple):
    """What the rules for labels say of a set of them: what is wrong, and what is lacking."""

    fault: str | None = None
    lacks: str | None = None


def labels_from(given: dict[str, str], reserved: frozenset[str]) -> Labels:
    """The labels in a row as they are stored; raises RefusedError where one cannot be."""
    columns = (*REQUIRED_LABELS, "customer")
    return Labels(
        **{name: clean_label(name, given[name]) for name in columns if name in given},
        others=clean_labels({n: v for n, v in given.items() if n not in columns}, reserved),
    )


def faults(session: Session, sets: Sequence[dict[str, str]]) -> list[Faults]:
    """What the rules for labels say of each of these sets."""
    found = [Faults()] * len(sets)
    for row in session.run("labels_faults", sets=Jsonb(list(sets))):
        found[row["place"] - 1] = Faults(row["fault"], row["lacks"])
    return found


def take(
    session: Session,
    rows: Sequence[KeyRow],
    *,
    grace_until: datetime,
    reserved: frozenset[str],
    who: str,
    why: str = "",
    dry_run: bool = False,
) -> list[Outcome]:
    """Put these keys into the books; what became of each. One that is known stays as it is."""
    assert len(rows) <= MAX_CHUNK
    session.run("directory_lock")
    found = session.run("keys_by_digest", digests=[row.sha256 for row in rows])
    known = {row["sha256"]: row["key_id"] for row in found}
    outcomes: list[Outcome] = []
    cleaned: list[tuple[KeyRow, Labels]] = []
    for row in rows:
        if row.sha256 in known:
            outcomes.append(Outcome(row.line, KNOWN, known[row.sha256]))
            continue
        try:
            cleaned.append((row, labels_from(row.labels, reserved)))
        except RefusedError as error:
            outcomes.append(Outcome(row.line, REFUSED, says=str(error)))
    ruled = faults(session, [labels.all for _, labels in cleaned])
    new: dict[str, list[dict[str, Any]]] = {IMPORTED: [], QUARANTINED: []}
    for (row, labels), says in zip(cleaned, ruled, strict=True):
        if says.fault:
            outcomes.append(Outcome(row.line, REFUSED, says=says.fault))
            continue
        lacks = f"It has no {', '.join(labels.missing)}." if labels.missing else says.lacks
        result = QUARANTINED if lacks else IMPORTED
        key_id = new_key_id()
        new[result].append(_row(row, labels, key_id))
        outcomes.append(Outcome(row.line, result, "" if dry_run else key_id, lacks or ""))
    if not dry_run:
        _insert(session, new, grace_until, who, why)
    return sorted(outcomes, key=lambda outcome: outcome.line)


def _row(row: KeyRow, labels: Labels, key_id: str) -> dict[str, Any]:
    remarks = {"name": row.name, "note": row.note}
    return {"key_id": key_id, "sha256": row.sha256, **labels.columns, **remarks}


def _insert(
    session: Session,
    new: dict[str, list[dict[str, Any]]],
    grace_until: datetime,
    who: str,
    why: str,
) -> None:
    if new[IMPORTED]:
        session.run("keys_import", rows=Jsonb(new[IMPORTED]))
    if new[QUARANTINED]:
        rows = Jsonb(new[QUARANTINED])
        session.run("quarantined_import", rows=rows, grace_until=grace_until)
    notes = [
        {"key_id": row["key_id"], "detail": {n: row[n] for n in ("name", "note") if row[n]}}
        for rows in new.values()
        for row in rows
    ]
    session.run("keys_note_many", rows=Jsonb(notes), who=who, what="imported", why=why)
