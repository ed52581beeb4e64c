"""The keys that sign chains, and who pays for what a chain spends, in the books. Knows no terminal
and no Redis.
"""

import secrets
import string
from typing import Any, Final

from psycopg.types.json import Jsonb

from ledger.chains import MAX_TTL_S, SECRET_BYTES, SigningKey, signing
from ledger.db import Row, Session
from ledger.issue import RefusedError
from ledger.publish import FOR_EVER_US

MAX_KEYS: Final = 16
"""That are believed at one time: a sidecar holds them all."""
LEAD_US: Final = 10_000_000
"""A new key signs only when every sidecar has had this long to learn of it."""
SKEW_US: Final = 60_000_000
"""By how much a sidecar's clock may be slow and sign with the old key when the new one's time has
come.
"""
MAX_GRACE_US: Final = MAX_TTL_S * 1_000_000
BILLING: Final = "billing"
_SETTING: Final = "chain"
_KID_CHARS: Final = 8
_KID_ALPHABET: Final = string.ascii_lowercase + string.digits
_DEFAULT_BILLING: Final = "caller"


def keys(session: Session) -> list[SigningKey]:
    """Every key that signs or is believed, the newest first."""
    return [_key(row) for row in session.run("chain_keys_all")]


def ensure_key(session: Session, now_us: int, *, who: str) -> SigningKey:
    """The key that signs now; the first one is made where there is none."""
    session.run("directory_lock")
    key = signing(keys(session), now_us)
    return key or _create(session, now_us, who=who, why="no other could sign")


def rotate(
    session: Session, now_us: int, *, grace_us: int = MAX_GRACE_US, who: str, why: str = ""
) -> SigningKey:
    """Make a new signing key. What the old ones signed is believed for `grace_us` from when it
    signs; with no grace the new one signs at once and the old ones are forgotten.
    """
    session.run("directory_lock")
    known = keys(session)
    if len(known) >= MAX_KEYS and grace_us:
        raise RefusedError(
            f"There are {MAX_KEYS} signing keys that are believed; wait until one has ended, or"
            " end them all with --grace 0s."
        )
    lead_us = LEAD_US if grace_us and signing(known, now_us) else 0
    new = _create(session, now_us + lead_us, who=who, why=why)
    until_us = new.from_us + grace_us + SKEW_US if grace_us else now_us
    session.run("chain_keys_retire", kid=new.kid, until_us=until_us)
    session.run("chain_keys_forget", now_us=now_us)
    return new


def forget(session: Session, now_us: int) -> None:
    """Remove the keys that nobody believes any more, with their secrets."""
    session.run("chain_keys_forget", now_us=now_us)


def billing(session: Session) -> str:
    """Who pays for a call of a chain: its `caller`, the chain's `root`, or both (`split`)."""
    rows = session.run("published_settings_one", name=_SETTING)
    return str(rows[0]["document"][BILLING]) if rows else _DEFAULT_BILLING


def set_billing(session: Session, wanted: str, *, who: str, why: str = "") -> None:
    """Set who pays from now on; calls that are booked stay with whom they were charged to."""
    session.run("directory_lock")
    before = billing(session)
    if wanted == before:
        return
    session.run("published_settings_set", name=_SETTING, document=Jsonb({BILLING: wanted}))
    _note(session, who, "changed", BILLING, why, {"from": before, "to": wanted})


def changes(session: Session, subjects: list[str], *, limit: int) -> list[Row]:
    """What was done to signing keys (by their kid) or to `BILLING`, the newest first."""
    return session.run("chain_changes_newest", subjects=subjects, limit=limit)


def _create(session: Session, from_us: int, *, who: str, why: str) -> SigningKey:
    kid = "".join(secrets.choice(_KID_ALPHABET) for _ in range(_KID_CHARS))
    key = SigningKey(
        kid=kid, secret=secrets.token_bytes(SECRET_BYTES), from_us=from_us, until_us=FOR_EVER_US
    )
    session.run("chain_keys_insert", kid=kid, secret=key.secret, from_us=from_us)
    _note(session, who, "created", kid, why, {"from_us": from_us})
    return key


def _key(row: Row) -> SigningKey:
    until_us = FOR_EVER_US if row["until_us"] is None else int(row["until_us"])
    return SigningKey(
        kid=row["kid"], secret=row["secret"], from_us=int(row["from_us"]), until_us=until_us
    )


def _note(
    session: Session, who: str, what: str, subject: str, why: str, detail: dict[str, Any]
) -> None:
    session.run(
        "chain_changes_insert", who=who, what=what, subject=subject, why=why, detail=Jsonb(detail)
    )
