"""Keys: issued and changed, with all four labels or not at all. Knows no terminal and no Redis."""

import hashlib
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from ledger.db import Row, Session
from ledger.label_text import MAX_LABEL_CHARS, composed, fault

REQUIRED_LABELS: Final = ("owner", "team", "agent", "workload")
OPTIONAL_LABELS: Final = ("customer", "environment", "project", "cost_center")
RATES: Final = ("rpm", "tpm", "max_parallel")
LIMITS: Final = ("max_spend_nanos", *RATES)
STATUSES: Final = ("active", "suspended", "revoked")
MAX_LABEL_NAME_CHARS: Final = 63
MAX_OPTIONAL_LABELS: Final = 32
KEY_ID_CHARS: Final = 12
SECRET_CHARS: Final = 43  # of 62 letters and digits: 256 bits

_KEY_ID_ALPHABET: Final = string.ascii_lowercase + string.digits
_SECRET_ALPHABET: Final = string.ascii_letters + string.digits
_NAME_ALPHABET: Final = frozenset(string.ascii_lowercase + string.digits + "_")


class RefusedError(ValueError):
    """The books refuse; the message is one sentence for the person who asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """What a key shall say. None or blank: not given, which refuses the four mandatory labels.

    Behind a `service_account` there is no person, only the owner who answers for it. With
    `customer_header` the key's calls may say for which customer they are.
    """

    owner: str | None
    team: str | None
    agent: str | None
    workload: str | None
    customer: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    max_spend_nanos: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    max_parallel: int | None = None
    service_account: bool = False
    customer_header: bool = False


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. `text` exists nowhere else: show it once and forget it."""

    text: str
    row: Row


def clean_label(name: str, value: str | None) -> str:
    """The value as it is stored, composed and without blanks around it; raises RefusedError."""
    text = composed(value or "")
    wrong = fault(text)
    if wrong == "blank":
        raise RefusedError(
            f"The key needs --{name}: owner, team, agent and workload are mandatory and not blank."
            if name in REQUIRED_LABELS
            else f"The label {name} is blank; give it a value or leave it out."
        )
    if wrong == "long":
        raise RefusedError(
            f"The label {name} has {len(text)} characters; use at most {MAX_LABEL_CHARS}."
        )
    if wrong == "unseen":
        raise RefusedError(f"The label {name} holds a character that cannot be seen; remove it.")
    return text


def clean_labels(labels: Mapping[str, str], reserved: frozenset[str]) -> dict[str, str]:
    """The optional labels as they are stored, by name; none may mean something else in a report."""
    if len(labels) > MAX_OPTIONAL_LABELS:
        raise RefusedError(f"A key has at most {MAX_OPTIONAL_LABELS} optional labels.")
    for name in labels:
        plain = name[:1].isalpha() and _NAME_ALPHABET.issuperset(name)
        if not plain or len(name) > MAX_LABEL_NAME_CHARS:
            raise RefusedError(
                f"The label name {name!r} cannot be used; write a letter and then letters, digits"
                f" and _, in lower case, at most {MAX_LABEL_NAME_CHARS}."
            )
        if name in reserved:
            raise RefusedError(f"The label name {name!r} has its own meaning; choose another.")
    return {name: clean_label(name, labels[name]) for name in sorted(labels)}


def checked(request: KeyRequest, reserved: frozenset[str]) -> KeyRequest:
    """The request with every label as it is stored; RefusedError where one of four is missing."""
    return replace(
        request,
        owner=clean_label("owner", request.owner),
        team=clean_label("team", request.team),
        agent=clean_label("agent", request.agent),
        workload=clean_label("workload", request.workload),
        customer=clean_label("customer", request.customer) if request.customer else "",
        labels=clean_labels(request.labels, reserved),
    )


def issue(session: Session, request: KeyRequest, *, who: str, why: str = "") -> IssuedKey:
    """Put a new key into the books. `request` was `checked`; the database checks again."""
    _must_be_at_work(session, request.agent)
    key_id = new_key_id()
    secret = "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(SECRET_CHARS))
    text = f"tk-{key_id}-{secret}"
    [row] = session.run(
        "keys_insert",
        key_id=key_id,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        owner=request.owner,
        team=request.team,
        agent=request.agent,
        workload=request.workload,
        customer=request.customer,
        labels=Jsonb(dict(request.labels)),
        expires_at=request.expires_at,
        service_account=request.service_account,
        customer_header=request.customer_header,
        **{name: getattr(request, name) for name in LIMITS},
    )
    note(session, key_id, who=who, what="issued", why=why)
    return IssuedKey(text, row)


def _must_be_at_work(session: Session, agent: str | None) -> None:
    """Raises RefusedError for an agent that is registered and retired."""
    if any(row["status"] == "retired" for row in session.run("agents_one", name=agent)):
        raise RefusedError(
            f"The agent {agent!r} is retired, so no key is issued to it; name the one that follows"
            " it (`ledger agents list`)."
        )


def new_key_id() -> str:
    """An id that no other key has."""
    return "".join(secrets.choice(_KEY_ID_ALPHABET) for _ in range(KEY_ID_CHARS))


def key_id_of(text: str) -> str:
    """The key id in what a person pasted: the id, or a whole key, whose secret is not looked at."""
    parts = text.strip().split("-")
    return parts[1] if len(parts) >= 2 and parts[0] == "tk" else text.strip()


def find(session: Session, text: str) -> Row:
    """The key's row, locked against other changes; raises RefusedError where there is none.

    The row of a key in quarantine has a `grace_until`. An imported key is found by its id, its
    whole text or the SHA-256 of that.
    """
    key_id = key_id_of(text)
    if rows := _rows(session, key_id):
        return rows[0]
    typed = text.strip()
    digests = [hashlib.sha256(typed.encode("utf-8", "replace")).hexdigest(), typed.lower()]
    for known in [] if "\0" in typed else session.run("keys_by_digest", digests=digests):
        if rows := _rows(session, known["key_id"]):
            return rows[0]
    shown = key_id if len(key_id) <= 2 * KEY_ID_CHARS else f"{key_id[:4]}..."  # maybe a secret
    raise RefusedError(f"There is no key {shown!r}; `ledger keys list` shows them all.")


def _rows(session: Session, key_id: str) -> list[Row]:
    if "\0" in key_id:
        return []
    found = session.run("keys_one", key_id=key_id)
    return found or session.run("quarantined_one", key_id=key_id)


def in_quarantine(row: Row) -> bool:
    """Whether labels of this key are missing."""
    return row.get("grace_until") is not None


def set_status(
    session: Session,
    text: str,
    status: str,
    *,
    who: str,
    why: str = "",
    detail: Mapping[str, Any] | None = None,
) -> Row:
    """Suspend, resume or revoke. To be in that state already is fine; revoked is for good."""
    row = find(session, text)
    if row["status"] == status:
        return row
    if row["status"] == "revoked":
        raise RefusedError(f"The key {row['key_id']} is revoked for good; issue a new one.")
    what = "resumed" if status == "active" else status
    note(session, row["key_id"], who=who, what=what, why=why, detail=detail)
    change = "quarantined_set_status" if in_quarantine(row) else "keys_set_status"
    [changed] = session.run(change, key_id=row["key_id"], status=status)
    return changed


def set_limits(
    session: Session,
    text: str,
    wanted: Mapping[str, int | None],
    *,
    who: str,
    why: str = "",
) -> Row:
    """Set those limits of a key that `wanted` names; None lifts one. The others stay."""
    row = find(session, text)
    if row["status"] == "revoked":
        raise RefusedError(f"The key {row['key_id']} is revoked; issue a new one.")
    must_have_labels(row)
    changes = {name: value for name, value in wanted.items() if value != row[name]}
    if not changes:
        return row
    before = {name: row[name] for name in changes}
    note(
        *(session, row["key_id"]),
        who=who,
        what="changed",
        why=why,
        detail={"from": before, "to": changes},
    )
    limits = {name: changes.get(name, row[name]) for name in LIMITS}
    [changed] = session.run("keys_set_limits", key_id=row["key_id"], **limits)
    return changed


def set_customer_header(
    session: Session, text: str, allowed: bool, *, who: str, why: str = ""
) -> Row:
    """Let a key's calls say for which customer they are, or not any more."""
    row = find(session, text)
    if row["status"] == "revoked":
        raise RefusedError(f"The key {row['key_id']} is revoked; issue a new one.")
    if row["customer_header"] == allowed:
        return row
    detail = {"from": {"customer_header": not allowed}, "to": {"customer_header": allowed}}
    note(session, row["key_id"], who=who, what="changed", why=why, detail=detail)
    [changed] = session.run(
        "keys_set_customer_header", key_id=row["key_id"], customer_header=allowed
    )
    return changed


def rotate(
    session: Session,
    old: Row,
    request: KeyRequest,
    *,
    ends_at: datetime | None,
    who: str,
    why: str = "",
) -> IssuedKey:
    """Issue `request` in place of `old`, which is revoked now, or expires at `ends_at`."""
    issued = issue(session, request, who=who, why=why or f"in place of {old['key_id']}")
    replaced_by = {"replaced_by": issued.row["key_id"]}
    if ends_at is None:
        set_status(session, old["key_id"], "revoked", who=who, why=why or "rotated")
    elif old["expires_at"] is None or ends_at < old["expires_at"]:
        session.run("keys_set_expiry", key_id=old["key_id"], expires_at=ends_at)
    note(session, old["key_id"], who=who, what="rotated", why=why, detail=replaced_by)
    return issued


def may_rotate(old: Row) -> None:
    """Raises RefusedError where a new key would undo what was decided about the old one."""
    if old["status"] == "revoked":
        raise RefusedError(f"The key {old['key_id']} is revoked; issue a new one.")
    if old["status"] == "suspended":
        raise RefusedError(f"The key {old['key_id']} is suspended; resume it before you rotate it.")
    must_have_labels(old)


def must_have_labels(row: Row) -> None:
    """Raises RefusedError where labels of this key are missing, and says what to do."""
    if in_quarantine(row):
        raise RefusedError(
            f"The key {row['key_id']} is in quarantine; give it its labels first, with"
            f" `ledger keys relabel {row['key_id']}`."
        )


def successor(
    old: Row,
    spent_nanos: int,
    *,
    expires_at: datetime | None,
    max_spend_nanos: int | None,
    has_grace: bool,
    rates: Mapping[str, int | None] | None = None,
) -> KeyRequest:
    """What the next key says: the same labels and rates, and as its lifetime limit what `old` has
    not spent. `rates` are those that it shall have instead.
    """
    if max_spend_nanos is None and old["max_spend_nanos"] is not None:
        if has_grace:
            raise RefusedError(
                f"The key {old['key_id']} has a lifetime limit, which two keys cannot share during"
                " --grace; give the new one its own with --max-spend, or leave --grace out."
            )
        max_spend_nanos = old["max_spend_nanos"] - spent_nanos
        if max_spend_nanos <= 0:
            raise RefusedError(
                f"The key {old['key_id']} has spent its lifetime limit; give the new one its own"
                " with --max-spend."
            )
    given = {name: old[name] for name in RATES} | dict(rates or {})
    return KeyRequest(
        **{name: old[name] for name in REQUIRED_LABELS},
        customer=old["customer"],
        labels=old["labels"],
        expires_at=expires_at,
        max_spend_nanos=max_spend_nanos,
        rpm=given["rpm"],
        tpm=given["tpm"],
        max_parallel=given["max_parallel"],
        service_account=old["service_account"],
        customer_header=old["customer_header"],
    )


def note(
    session: Session,
    key_id: str,
    *,
    who: str,
    what: str,
    why: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write down who changed the key, and why."""
    session.run(
        "keys_note", key_id=key_id, who=who, what=what, why=why, detail=Jsonb(dict(detail or {}))
    )
