"""Chain tokens: who started the run a call belongs to, signed. Knows no clock, no store and no
directory.

A token is a JWT (RFC 7519) in JWS compact form, signed with HMAC-SHA-256. It says which key started
the run, the keys it has passed since, who may continue it, and when it ends. It is read on the
request path, so it is written out here instead of by a library that lets a token choose how it is
checked: the one header accepted is the one we write, and nothing of a token is parsed before its
signature is good.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import orjson

MAX_TOKEN_BYTES: Final = 2048
MAX_DEPTH: Final = 16
"""Hops below the root that a run may have."""
MAX_AUDIENCE: Final = 16
"""Entries of an audience."""
MAX_AUDIENCE_CHARS: Final = 200
AUDIENCE_NAMES: Final = ("key", "agent", "team", "workload", "owner")
"""What an audience may select keys by."""
DEFAULT_TTL_S: Final = 3600
MAX_TTL_S: Final = 24 * 3600
SECRET_BYTES: Final = 32
RUN_PREFIX: Final = "run_"
"""How minted run ids begin, and no others."""
_RUN_CHARS: Final = 26
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_NEVER_US: Final = 2**63 - 1
_ISSUER: Final = "tollkeeper:"

Audience = tuple[tuple[str, str], ...]
Fault = Literal["malformed", "forged", "expired", "foreign_issuer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A secret that signs from `from_us` on and is accepted until `until_us`."""

    kid: str
    secret: bytes
    from_us: int
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The key that started a run, with the labels it had then."""

    key_id: str
    owner: str
    team: str
    agent: str
    workload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A run as one hop of it knows it.

    `path` has the key ids from the root's to the last hop's. `audience` pairs a name of
    `AUDIENCE_NAMES` with a value: a key that has one of them may continue the run. A token keeps
    `expires_at_us` to the whole second.
    """

    run_id: str
    root: Root
    path: tuple[str, ...]
    audience: Audience
    expires_at_us: int

    @property
    def depth(self) -> int:
        return len(self.path) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that the ledger knows: one that it started, or one that was ended before its time.

    `expires_at_us` and `audience` count for callers that name the run by its id alone; a token has
    its own. `root` is None where only the end of a run is known.
    """

    run_id: str
    root: Root | None
    audience: Audience
    expires_at_us: int
    ended: bool = False


def new_run_id(random_bits: int) -> str:
    """`run_` and the lowest 130 of these random bits in Crockford's base 32."""
    shifts = range(5 * (_RUN_CHARS - 1), -1, -5)
    return RUN_PREFIX + "".join(_CROCKFORD[random_bits >> shift & 31] for shift in shifts)


def parse_audience(entries: Iterable[str]) -> Audience:
    """The audience in `agent=coder` and the like; ValueError says in one sentence what is wrong."""
    found = set()
    for entry in entries:
        name, equals, value = entry.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or name not in AUDIENCE_NAMES or not value:
            raise ValueError(
                f"{entry[:MAX_AUDIENCE_CHARS]!r} does not say who may continue a run; write "
                f"NAME=VALUE, NAME being one of {', '.join(AUDIENCE_NAMES)}."
            )
        if len(value) > MAX_AUDIENCE_CHARS or not value.isprintable():
            raise ValueError(
                f"The {name} of an audience has at most {MAX_AUDIENCE_CHARS} printable characters."
            )
        found.add((name, value))
    if len(found) > MAX_AUDIENCE:
        raise ValueError(f"An audience has at most {MAX_AUDIENCE} entries; name a team instead.")
    return tuple(sorted(found))


def say_audience(audience: Audience) -> list[str]:
    return [f"{name}={value}" for name, value in audience]


def admits(audience: Audience, labels: Mapping[str, str]) -> bool:
    """Whether a key with these labels (`AUDIENCE_NAMES` to values) may continue the run."""
    return any(labels.get(name) == value for name, value in audience)


def default_audience(root: Root) -> Audience:
    """Who may continue a run where nobody said: the root's team, or the root alone where its team
    is not known, as of an imported key: two keys without a team have none in common.
    """
    return (("team", root.team),) if root.team else (("key", root.key_id),)


def signing(keys: Iterable[SigningKey], now_us: int) -> SigningKey | None:
    """The key that signs now: of those whose time has come and is not over, the newest."""
    able = [key for key in keys if key.from_us <= now_us < key.until_us]
    return max(able, key=lambda key: (key.from_us, key.kid), default=None)


def mint(chain: Chain, key: SigningKey, org: str) -> str:
    """The signed token; ValueError where it would be larger than `read` takes."""
    claims = {
        "iss": _ISSUER + org,
        "exp": chain.expires_at_us // 1_000_000,
        "run": chain.run_id,
        "root": chain.root,
        "path": chain.path,
        "aud": say_audience(chain.audience),
    }
    signed = f"{_header(key.kid)}.{_encode(orjson.dumps(claims))}"
    token = f"{signed}.{_signature(signed, key.secret)}"
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(
            f"The chain token would be larger than {MAX_TOKEN_BYTES} bytes; "
            "name fewer keys, agents or teams in its audience."
        )
    return token


def read(token: str, keys: Mapping[str, SigningKey], org: str, now_us: int) -> Chain | Fault:
    """What a token says, or what is wrong with it. An unknown or retired key is a forger's."""
    if len(token) > MAX_TOKEN_BYTES or not _COMPACT.fullmatch(token):
        return "malformed"
    header, claims, signature = token.split(".")
    key = next((key for key in keys.values() if _header(key.kid) == header), None)
    if key is None or now_us >= key.until_us:
        return "forged"
    expected = _signature(f"{header}.{claims}", key.secret)
    if not hmac.compare_digest(signature, expected):
        return "forged"
    return _believed(claims, org, now_us)


def _believed(claims: str, org: str, now_us: int) -> Chain | Fault:
    """The chain in claims whose signature is good. That we signed them does not make them of a form
    that this version reads.
    """
    try:
        said = orjson.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        if said["iss"] != _ISSUER + org:
            return "foreign_issuer"
        chain = Chain(
            run_id=str(said["run"]),
            root=_root(said["root"]),
            path=tuple(str(hop) for hop in said["path"]),
            audience=parse_audience(said["aud"]),
            expires_at_us=int(said["exp"]) * 1_000_000,
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return "malformed"
    sound = chain.path[:1] == (chain.root.key_id,) and chain.depth <= MAX_DEPTH
    if not sound or not chain.run_id.startswith(RUN_PREFIX):
        return "malformed"
    return chain if now_us < chain.expires_at_us else "expired"


def key_from_document(document: Mapping[str, Any]) -> SigningKey:
    """The signing key in a directory document; KeyError, TypeError or ValueError where it is not
    one. Without `until_us` nothing has taken its place yet.
    """
    text = str(document["secret"])
    secret = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(secret) < SECRET_BYTES:
        raise ValueError(f"a chain's secret has at least {SECRET_BYTES} bytes")
    until_us = document.get("until_us")
    return SigningKey(
        kid=str(document["kid"]),
        secret=secret,
        from_us=int(document["from_us"]),
        until_us=_NEVER_US if until_us is None else int(until_us),
    )


def key_document(key: SigningKey) -> dict[str, Any]:
    """The directory document of a signing key, but for its version."""
    return {
        "kid": key.kid,
        "secret": _encode(key.secret),
        "from_us": key.from_us,
        "until_us": key.until_us,
    }


def run_from_document(document: Mapping[str, Any]) -> Run:
    """The run in a directory document; KeyError, TypeError or ValueError where it is not one."""
    root = document.get("root")
    return Run(
        run_id=str(document["run_id"]),
        root=_root(root) if root is not None else None,
        audience=tuple((str(name), str(value)) for name, value in document.get("audience") or ()),
        expires_at_us=int(document.get("expires_at_us") or 0),
        ended=bool(document.get("ended")),
    )


def run_document(run: Run) -> dict[str, Any]:
    """The directory document of a run, but for its version."""
    return asdict(run)


def _root(said: Mapping[str, Any]) -> Root:
    return Root(**{name: str(said[name]) for name in Root.__dataclass_fields__})


@lru_cache(maxsize=64)
def _header(kid: str) -> str:
    return _encode(orjson.dumps({"alg": "HS256", "kid": kid, "typ": "JWT"}))


def _signature(signed: str, secret: bytes) -> str:
    return _encode(hmac.digest(secret, signed.encode(), hashlib.sha256))


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
