"""envoy/jwt.yaml for this machine, put into its envoy.yaml: whose tokens say who calls. Text to
text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

DEFAULT_HEADER: Final = "authorization"
_HEADER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_OTHER_HEADERS: Final = frozenset(
    ("api-key", "x-api-key", "x-goog-api-key", "x-customer-id", "x-agent-chain", "baggage", "host")
)
_OTHER_PREFIXES: Final = ("x-tollkeeper-", "x-envoy-", "content-")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_EXT_PROC: Final = "envoy.filters.http.ext_proc"

Node = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Whose tokens say who calls. `jwks` is where the issuer's public keys are: a URL, or the whole
    path of a file.
    """

    jwks: str
    issuer: str
    audiences: Sequence[str] = ()
    header: str = DEFAULT_HEADER


def is_url(jwks: str) -> bool:
    """Whether the keys are fetched, not read from a file."""
    return "://" in jwks


def check_url(url: str) -> None:
    """Raises ValueError where the keys cannot be fetched from there, or not safely."""
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:
        whole = False
    if not whole or parts.scheme not in ("http", "https"):
        raise ValueError(
            f"{url!r} is not the address of a key set; write https://HOST[:PORT]/PATH."
        )
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError(
            f"{url!r} is not encrypted, so anybody on the way could exchange the keys; write https."
        )


def check_keys(text: bytes, name: str) -> None:
    """Raises ValueError where the text of a file is no set of public keys."""
    try:
        document = json.loads(text)
        keys = [dict(key) for key in document["keys"]]
    except (ValueError, TypeError, KeyError):
        keys = []
    if not keys:
        raise ValueError(f'{name} is not a key set; it must be JSON of the form {{"keys": [...]}}.')
    if any("d" in key for key in keys):
        raise ValueError(f"{name} holds private keys; give the public ones only.")


def check_header(name: str) -> str:
    """The header's name as Envoy has it; raises ValueError where tokens cannot be there."""
    lower = name.lower()
    taken = lower in _OTHER_HEADERS or lower.startswith(_OTHER_PREFIXES)
    if taken or not _HEADER.fullmatch(lower):
        raise ValueError(
            f"{name!r} cannot carry tokens; name a header that has no other meaning here, such as"
            " x-user-token."
        )
    return lower


def with_people(text: str, pattern: str, people: People, trusted_ca: str) -> str:
    """The text of an envoy.yaml in which `pattern`, the text of envoy/jwt.yaml, verifies tokens."""
    first_line, _, rest = text.partition("\n")
    config, parts = yaml.safe_load(rest), yaml.safe_load(pattern)
    resources = config["static_resources"]
    listener = resources["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    filters = manager["http_filters"]
    place = next(n for n, each in enumerate(filters) if each["name"] == _EXT_PROC)
    filters.insert(place, _filter(parts["filter"], people))
    manager["local_reply_config"]["mappers"].insert(0, parts["reply"])
    if is_url(people.jwks):
        resources["clusters"].append(_cluster(parts["cluster"], people.jwks, trusted_ca))
    return f"{first_line}\n{yaml.safe_dump(config, sort_keys=False, width=120)}"


def _filter(filter_: Node, people: People) -> Node:
    verifies = filter_["typed_config"]
    [provider] = verifies["providers"].values()
    provider["issuer"] = people.issuer
    del provider["audiences"]
    if people.audiences:
        provider["audiences"] = list(people.audiences)
    if is_url(people.jwks):
        provider["remote_jwks"]["http_uri"]["uri"] = people.jwks
    else:
        del provider["remote_jwks"]
        provider["local_jwks"] = {"filename": people.jwks}
    if people.header != DEFAULT_HEADER:
        provider["from_headers"] = [{"name": people.header}]
        verifies["rules"][0]["match"]["headers"] = [{"name": people.header, "present_match": True}]
    return filter_


def _cluster(cluster: Node, url: str, trusted_ca: str) -> Node:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    [endpoints] = cluster["load_assignment"]["endpoints"]
    [each] = endpoints["lb_endpoints"]
    each["endpoint"]["address"]["socket_address"].update(
        address=parts.hostname, port_value=parts.port or (443 if tls else 80)
    )
    if tls:
        context = cluster["transport_socket"]["typed_config"]
        context["sni"] = parts.hostname
        context["common_tls_context"]["validation_context"]["trusted_ca"]["filename"] = trusted_ca
    else:
        del cluster["transport_socket"]
    return cluster
