"""Who calls: where a key may stand in a request, and what the key says. Knows no store and no
clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
_MAX_KEY_BYTES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An issued key as the directory publishes it; its text is known only by its SHA-256.

    Behind a `service_account` there is no person. With `customer_header` a call may say for which
    customer it is.
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
    service_account: bool = False
    customer_header: bool = False

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
class Presented:
    """What a request brings to be known by.

    `digest` is the SHA-256 of the key's text, None where there is none. `remove` names the headers
    that must not reach the provider, and `path` is the path without our key where it stood there.
    `byok`: a provider's credential of the caller's own goes on beside our key. `signed`: that
    credential is a signature over the request, whose body must stay as it is.
    """

    digest: bytes | None
    remove: tuple[str, ...]
    path: str | None
    byok: bool = False
    signed: bool = False


def present(headers: Headers, path: str) -> Presented:
    """Find our key in a request and say what to take off it before it goes upstream.

    `x-tollkeeper-key` comes first: then every other credential is the caller's own and stays,
    unless it is one of our keys too.
    """
    remove = [name for name in headers if name.startswith(OUR_PREFIX)]
    key = headers[KEY_HEADER].strip() if remove and KEY_HEADER in headers else b""
    byok = signed = False
    for name in _CREDENTIALS:
        value = headers.get(name, b"").strip()
        if name == "authorization" and value[:7].lower() == _BEARER:
            value = value[7:].strip()
        if value.startswith(_KEY_START):
            key = key or value
            remove.append(name)
        elif value:
            byok = True
            signed = signed or (name == "authorization" and value.startswith(_SIGNATURE))
    remove += _PRIVATE.intersection(headers)
    clean_path = None
    if "key=" in path:
        in_path, clean_path = _key_in_query(path)
        key = key or (in_path[0] if in_path else b"")
        rest = clean_path or path
        byok = byok or "?key=" in rest or "&key=" in rest
    known = key.startswith(_KEY_START) and len(key) <= _MAX_KEY_BYTES
    digest = sha256(key).digest() if known else None
    return Presented(digest, tuple(remove), clean_path, byok, signed)


def _key_in_query(path: str) -> tuple[list[bytes], str | None]:
    """Our keys in `?key=`, and the path without them; None where there was nothing to take away."""
    bare, _, query = path.partition("?")
    kept, found = [], []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        text = unquote_plus(value)
        if unquote_plus(name) == "key" and text.startswith("tk-"):
            found.append(text.encode("utf-8", "replace"))
        else:
            kept.append(part)
    if not found:
        return [], None
    return found, bare + ("?" + "&".join(kept) if kept else "")


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
    return None


_MISSING: Final = (
    "This gateway needs a Tollkeeper key (tk-...): send it where the provider's key would stand, "
    "or in x-tollkeeper-key beside a credential of your own."
)
_UNKNOWN: Final = "This Tollkeeper key is not known here; check that it was copied whole."
