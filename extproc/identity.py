"""Who calls: where a key may stand in a request, and what the key says. Knows no store and no
clock.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final
from urllib.parse import unquote_plus

from extproc.events import Claims, Headers, RequestHeaders
from extproc.refusal import Refusal
from ledger.label_text import usable

OUR_PREFIX: Final = "x-tollkeeper-"
KEY_HEADER: Final = "x-tollkeeper-key"
CUSTOMER_HEADER: Final = "x-customer-id"
PRINCIPAL_CLAIMS: Final = ("email", "preferred_username", "sub")
_PRIVATE: Final = frozenset(("baggage", "x-agent-chain", "x-agent-run", CUSTOMER_HEADER))
_CREDENTIALS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
"""In the order in which they count: a request with two of our keys is the first one's."""
_KEY_START: Final = b"tk-"
_BEARER: Final = b"bearer "
_SIGNATURE: Final = b"AWS4-"
MAX_KEY_BYTES: Final = 4096
"""Longer texts are no keys. An imported one may be long, such as a JWT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as the directory publishes it; its text is known only by its SHA-256.

    An imported key has a `grace_until_us` as long as labels are missing: these are empty. Behind a
    `service_account` there is no person. With `customer_header` a call may say for which customer
    it is.
    """

    key_id: str
    digest: bytes
    owner: str
    team: str
    agent: str
    workload: str
    customer: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    status: str = "active"
    expires_at_us: int | None = None
    grace_until_us: int | None = None
    service_account: bool = False
    customer_header: bool = False
    version: int = 0

    @property
    def columns(self) -> dict[str, Any]:
        """What an event says of this key where nothing but the key speaks."""
        return {
            "key_id": self.key_id,
            "owner": self.owner,
            "principal": "" if self.service_account else self.owner,
            "team": self.team,
            "agent": self.agent,
            "workload": self.workload,
            "customer": self.customer,
            "labels": self.labels,
            "root_key_id": self.key_id,
            "root_team": self.team,
            "root_agent": self.agent,
            "root_workload": self.workload,
            "billing": "caller",
        }


_SELECTED: Final = {
    **{name: name for name in ("owner", "principal", "team", "agent", "workload", "customer")},
    **{name: name for name in ("root_team", "root_agent", "root_workload")},
    "key": "key_id",
    "root_key": "root_key_id",
}
"""What a budget's selector may name beside the optional labels, and the field that answers."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """Whom a call is attributed to: its key, and what its request proved beside it.

    `columns` are the fields of its event, `proved` those that a budget may select by and that are
    not the key's own word.
    """

    key: Key
    columns: Mapping[str, Any]
    proved: tuple[tuple[str, Any], ...] = ()

    def proving(self, **fields: Any) -> "Attribution":
        """The same, with these fields of the event as the request proved them."""
        selected = {name: fields[name] for name in _SELECTED.values() if name in fields}
        proved = tuple(sorted((dict(self.proved) | selected).items()))
        return Attribution(self.key, {**self.columns, **fields}, proved)

    def selectors(self, provider: str) -> dict[str, str]:
        """The label values that a budget's selector is compared with."""
        columns = self.columns
        named = {name: columns[column] for name, column in _SELECTED.items()}
        return {**columns["labels"], **named, "provider": provider}


def key_from_document(document: Mapping[str, Any]) -> Key:
    """The key in a directory document; raises KeyError or ValueError where it is not one."""
    return Key(
        key_id=str(document["key_id"]),
        digest=bytes.fromhex(document["sha256"]),
        owner=str(document["owner"]),
        team=str(document["team"]),
        agent=str(document["agent"]),
        workload=str(document["workload"]),
        customer=str(document.get("customer") or ""),
        labels={str(k): str(v) for k, v in (document.get("labels") or {}).items()},
        status=str(document["status"]),
        expires_at_us=document.get("expires_at_us"),
        grace_until_us=document.get("grace_until_us"),
        version=int(document.get("version") or 0),
        service_account=document.get("service_account") is True,
        customer_header=document.get("customer_header") is True,
    )


def proven(who: Attribution, asked: RequestHeaders, names: Sequence[str]) -> Attribution:
    """`who`, with the person whom a verified token names by one of the claims `names`, and with the
    customer that the request states where its key may.

    What cannot be a label's value is as good as not there: the key's own word stands.
    """
    fields = {}
    if asked.claims and not who.key.service_account:
        fields["principal"] = principal(asked.claims, names)
    if who.key.customer_header:
        fields["customer"] = usable(asked.headers.get(CUSTOMER_HEADER, b""))
    found = {name: value for name, value in fields.items() if value}
    return who.proving(**found) if found else who


def principal(tokens: Sequence[Claims], names: Sequence[str]) -> str:
    """The first of the claims `names` that a token has as a usable text; empty where none has.

    An address that the issuer itself calls unverified is what somebody typed, and names nobody.
    """
    for name in names:
        for claims in tokens:
            value = claims.get(name)
            if name == "email" and claims.get("email_verified") in (False, "false"):
                continue
            if isinstance(value, str) and (text := usable(value)):
                return text
    return ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A credential that does not look like one of ours, and yet may be an imported key.

    `header` is where it stands, or `query` the part of the path's query.
    """

    digest: bytes
    header: str = ""
    query: str = ""


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request brings to be known by.

    `digest` is the SHA-256 of the key's text, None where there is none. `remove` names the headers
    that must not reach the provider, and `path` is the path without our key where it stood there.
    `byok`: a provider's credential of the caller's own goes on beside our key. `signed`: that
    credential is a signature over the request, whose body must stay as it is. Which credentials are
    ours all the same, `recognise` says of the `candidates`.
    """

    digest: bytes | None
    remove: tuple[str, ...]
    path: str | None
    byok: bool = False
    signed: bool = False
    candidates: tuple[Candidate, ...] = ()


def present(headers: Headers, path: str) -> Presented:
    """Find our key in a request and say what to take off it before it goes upstream.

    `x-tollkeeper-key` comes first, and any text may be the key there: then every other credential
    is the caller's own and stays, unless it is one of our keys too. Elsewhere a key of ours starts
    with `tk-`, or is a candidate.
    """
    remove = [name for name in headers if name.startswith(OUR_PREFIX)]
    key = headers[KEY_HEADER].strip() if remove and KEY_HEADER in headers else b""
    candidates: list[Candidate] = []
    signed = False
    for name in _CREDENTIALS:
        value = headers.get(name, b"").strip()
        if name == "authorization" and value[:7].lower() == _BEARER:
            value = value[7:].strip()
        if value.startswith(_KEY_START):
            key = key or value
            remove.append(name)
        elif value:
            candidates.append(Candidate(_digest(value), header=name))
            signed = signed or (name == "authorization" and value.startswith(_SIGNATURE))
    remove += _PRIVATE.intersection(headers)
    clean_path = None
    if "key=" in path or ("%" in path and "?" in path):  # the name may be written %6bey
        in_path, foreign, clean_path = _keys_in_query(path)
        key = key or (in_path[0] if in_path else b"")
        candidates += foreign
    known = 0 < len(key) <= MAX_KEY_BYTES
    digest = sha256(key).digest() if known else None
    byok = bool(candidates)
    return Presented(digest, tuple(remove), clean_path, byok, signed, tuple(candidates))


def recognise(presented: Presented, path: str, keys: Container[bytes]) -> Presented:
    """The same where `keys` are all that we know: a candidate among them is ours.

    It goes no further than any key of ours, and is the caller's where no other one is.
    """
    ours = [candidate for candidate in presented.candidates if candidate.digest in keys]
    if not ours:
        return presented
    clean_path = presented.path
    if parts := [candidate.query for candidate in ours if candidate.query]:
        bare, _, query = (clean_path or path).partition("?")
        kept = [part for part in query.split("&") if part not in parts]
        clean_path = bare + ("?" + "&".join(kept) if kept else "")
    return replace(
        presented,
        digest=presented.digest or ours[0].digest,
        remove=presented.remove + tuple(found.header for found in ours if found.header),
        path=clean_path,
        byok=len(ours) < len(presented.candidates),
    )


def _digest(text: bytes) -> bytes:
    return sha256(text).digest() if len(text) <= MAX_KEY_BYTES else b""


def _keys_in_query(path: str) -> tuple[list[bytes], list[Candidate], str | None]:
    """Our keys in `?key=`, what else stands there, and the path without ours; None where there was
    nothing to take away.
    """
    bare, _, query = path.partition("?")
    kept, found, foreign = [], [], []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        text = unquote_plus(value) if unquote_plus(name) == "key" else ""
        if text.startswith("tk-"):
            found.append(text.encode("utf-8", "replace"))
            continue
        kept.append(part)
        if text:
            digest = _digest(text.strip().encode("utf-8", "replace"))
            foreign.append(Candidate(digest, query=part))
    if not found:
        return [], foreign, None
    return found, foreign, bare + ("?" + "&".join(kept) if kept else "")


def refuse_key(key: Key | None, presented: bool, now_us: int) -> Refusal | None:
    """Why this key may not call at `now_us`, or None where it may."""
    if key is None:
        if presented:
            return Refusal(status=401, code="key_unknown", message=_UNKNOWN)
        return Refusal(status=401, code="key_missing", message=_MISSING)
    if key.status == "revoked":
        says = f"The key {key.key_id} has been revoked; ask your platform team for a new one."
        return Refusal(status=401, code="key_revoked", message=says)
    if key.expires_at_us is not None and key.expires_at_us <= now_us:
        says = f"The key {key.key_id} has expired; ask your platform team for a new one."
        return Refusal(status=401, code="key_expired", message=says)
    if key.status != "active":
        says = f"The key {key.key_id} is {key.status}; ask your platform team to resume it."
        return Refusal(status=403, code=f"key_{key.status}", message=says)
    if key.grace_until_us is not None and key.grace_until_us <= now_us:
        says = _QUARANTINED.format(key.key_id)
        return Refusal(status=403, code="key_quarantined", message=says)
    return None


_MISSING: Final = (
    "This gateway needs a Tollkeeper key (tk-...): send it where the provider's key would stand, "
    "or in x-tollkeeper-key beside a credential of your own."
)
_UNKNOWN: Final = "This Tollkeeper key is not known here; check that it was copied whole."
_QUARANTINED: Final = (
    "The key {0} was imported without all of its labels and its grace date has passed: ask your "
    "platform team to label it (ledger keys relabel {0}) or to issue you a new one."
)
