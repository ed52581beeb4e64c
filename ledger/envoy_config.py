"""envoy/envoy.yaml for this machine: addresses, sockets, providers, credentials. Text to text."""

import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

PLACEHOLDERS: Final = ("azure", "example-tools", "example-agent")
"""Providers whose address in envoy.yaml is only an example: they are there if somebody names it."""
PER_CALL: Final = {"mcp": "example-tools", "a2a": "example-agent"}
"""What is priced by the call has its prefix below one of these, and routes like those of a
placeholder.
"""
_PATTERN: Final = "openai"
"""What a provider unknown to envoy.yaml is made from: its API is taken to be OpenAI's."""
_VENDORS: Final = ("openai", "anthropic", "azure", "gemini", "bedrock")
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_RESERVED: Final = ("v1", "tollkeeper", "unknown", *PER_CALL, *PER_CALL.values())
_EXT_PROC: Final = "envoy.filters.http.ext_proc"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Provider:
    """Where a provider is. `path` is what its base URL has before the API's own path. `kind`: a
    server of tools (`mcp`), an agent (`a2a`), or a provider of models.
    """

    name: str
    host: str
    port: int
    tls: bool
    path: str = ""
    kind: str = ""

    @property
    def authority(self) -> str:
        """The Host header of calls to it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What differs from machine to machine."""

    listen: tuple[str, int]
    admin_socket: str
    sidecar_sockets: Sequence[str]
    access_log: str
    trusted_ca: str
    providers: Sequence[Provider] = ()
    only_these: bool = False
    """No provider of envoy.yaml but those that are given."""
    credentials: Iterable[str] = ()
    """Names of the environment variables that hold a provider's credential and are set."""


def parse_provider(text: str, kind: str = "") -> Provider:
    """A provider from `NAME=BASE_URL`; ValueError says what is wrong with it."""
    name, equals, url = text.partition("=")
    if not equals or not _NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            f"{text!r} does not name a provider; write NAME=BASE_URL, NAME being lower-case "
            f"letters, digits and dashes and not {' or '.join(_RESERVED)}."
        )
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"{url!r} is not a base URL; write https://HOST[:PORT][/PATH].")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError(
            f"The base URL of {name} must be scheme, host, port and path only; "
            f"its credential belongs into the variable {credential_variable(name)}."
        )
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/")
    return Provider(name, parts.hostname, port or (443 if tls else 80), tls, path, kind)


def refuse_shared_names(providers: Iterable[Provider]) -> None:
    """ValueError where two things have one name: an event's provider, a price and an account would
    mean both.
    """
    kinds: dict[str, str] = dict.fromkeys(_VENDORS, "")
    for provider in providers:
        if kinds.setdefault(provider.name, provider.kind) != provider.kind:
            raise ValueError(
                f"Two things cannot both be called {provider.name!r}; give the server of tools or"
                " the agent another name."
            )


def credential_variable(name: str) -> str:
    """The environment variable with the credential of a provider unknown to envoy.yaml."""
    return name.upper().replace("-", "_") + "_API_KEY"


def credential_variables(text: str, more: Iterable[Provider] = ()) -> dict[str, str]:
    """Provider -> the environment variable with its credential: those of envoy.yaml, and more."""
    added = {provider.name: credential_variable(provider.name) for provider in more}
    return added | _variables(yaml.safe_load(text))


def configure(text: str, site: Site) -> str:
    """The text of envoy.yaml, changed for this site."""
    config = _unshared(yaml.safe_load(text))
    config["admin"]["address"]["pipe"]["path"] = site.admin_socket
    listener = config["static_resources"]["listeners"][0]
    host, port = site.listen
    listener["address"]["socket_address"].update(address=host, port_value=port)
    _manager(config)["access_log"][0]["typed_config"]["path"] = site.access_log
    _set_sockets(_cluster(config, "tollkeeper"), site.sidecar_sockets)
    given = {provider.name: provider for provider in site.providers}
    known = _variables(config)
    for name, provider in given.items():
        if provider.kind:
            _add_per_call(config, provider)
        elif name not in known:
            _add(config, name)
    for name in {**(known if site.only_these else {}), **dict.fromkeys(PLACEHOLDERS)}:
        if name not in given:
            _remove(config, name)
    for provider in given.values():
        _point(config, provider)
    for name, variable in _variables(config).items():
        if variable not in site.credentials:
            _without_credential(config, name)
    _trust(config, site.trusted_ca)
    _name_prefixes(config)
    return _HEADER + yaml.safe_dump(config, sort_keys=False, width=120)


def prefixes_in(text: str) -> dict[str, str]:
    """Provider -> its prefix in the gateway's paths, in the order of the routes."""
    return _prefixed(yaml.safe_load(text))


def providers_in(text: str) -> dict[str, str]:
    """Provider -> base URL, in the order of the routes, as a configuration has them."""
    config = yaml.safe_load(text)
    found = {}
    for name in _prefixed(config):
        cluster = _cluster(config, name)
        address = _endpoint(cluster)["address"]["socket_address"]
        path = _routes_to(config, name)[0]["route"]["prefix_rewrite"].rstrip("/")
        tls = "transport_socket" in cluster
        provider = Provider(name, address["address"], address["port_value"], tls, path)
        found[name] = provider.base_url
    return found


_HEADER: Final = (
    "# Written by `ledger up` from envoy/envoy.yaml at every start; changes here are lost.\n"
)


def _unshared(node: Any) -> Any:
    """A copy in which an anchor's uses are parts of their own, so that one can be changed alone."""
    if isinstance(node, dict):
        return {name: _unshared(value) for name, value in node.items()}
    return [_unshared(each) for each in node] if isinstance(node, list) else node


def _manager(config: Node) -> Node:
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    manager: Node = chain["filters"][0]["typed_config"]
    return manager


def _routes(config: Node) -> list[Node]:
    routes: list[Node] = _manager(config)["route_config"]["virtual_hosts"][0]["routes"]
    return routes


def _routes_to(config: Node, name: str) -> list[Node]:
    return [route for route in _routes(config) if route.get("route", {}).get("cluster") == name]


def _prefixed(config: Node) -> dict[str, str]:
    """Provider -> its own prefix, in the order of the routes."""
    return {
        route["name"]: prefix
        for route in _routes(config)
        if (prefix := route["match"].get("prefix", "")).endswith(f"/{route['name']}/")
    }


def _cluster(config: Node, name: str) -> Node:
    clusters: list[Node] = config["static_resources"]["clusters"]
    return next(cluster for cluster in clusters if cluster["name"] == name)


def _endpoint(cluster: Node) -> Node:
    endpoint: Node = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    return endpoint


def _variables(config: Node) -> dict[str, str]:
    return {
        secret["name"]: secret["generic_secret"]["secret"]["environment_variable"]
        for secret in config["static_resources"]["secrets"]
    }


def _set_sockets(cluster: Node, sockets: Sequence[str]) -> None:
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"pipe": {"path": path}}}} for path in sockets
    ]


def _remove(config: Node, name: str) -> None:
    resources = config["static_resources"]
    for part in ("clusters", "secrets"):
        resources[part] = [each for each in resources[part] if each["name"] != name]
    routes = _routes(config)
    routes[:] = [route for route in routes if route.get("route", {}).get("cluster") != name]


def _add(config: Node, name: str) -> None:
    """A provider made from the pattern: its route, its cluster and its credential."""
    resources = config["static_resources"]
    cluster = deepcopy(_cluster(config, _PATTERN))
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
    _generic(_injector(cluster))["credential"]["name"] = name
    resources["clusters"].append(cluster)
    secret = {"environment_variable": credential_variable(name)}
    resources["secrets"].append({"name": name, "generic_secret": {"secret": secret}})
    routes = _routes(config)
    pattern = next(route for route in routes if route["name"] == _PATTERN)
    route = deepcopy(pattern)
    route["name"] = name
    route["match"] = {"prefix": f"/{name}/"}
    route["route"]["cluster"] = name
    _tell(route, "x-tollkeeper-provider", name)
    _tell(route, "x-tollkeeper-api", "compatible")
    _tell(route, "x-tollkeeper-prefix", f"/{name}")
    routes.insert(routes.index(pattern) + 1, route)


def _add_per_call(config: Node, provider: Provider) -> None:
    """A server of tools or an agent: its credential and cluster as a provider's, its routes as the
    placeholder's.
    """
    name, placeholder = provider.name, PER_CALL[provider.kind]
    _add(config, name)
    routes = _routes(config)
    routes[:] = [route for route in routes if route["name"] != name]
    patterns = _routes_to(config, placeholder)
    copies = [_renamed(route, placeholder, name) for route in patterns]
    at = routes.index(patterns[0])
    routes[at:at] = copies


def _renamed(node: Any, old: str, new: str) -> Any:
    """A copy in which every text says `new` for `old`."""
    if isinstance(node, dict):
        return {key: _renamed(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(each, old, new) for each in node]
    return node.replace(old, new) if isinstance(node, str) else node


def _point(config: Node, provider: Provider) -> None:
    """Lead a provider's routes to its base URL."""
    cluster = _cluster(config, provider.name)
    _endpoint(cluster)["address"]["socket_address"].update(
        address=provider.host, port_value=provider.port
    )
    if provider.tls:
        cluster["transport_socket"]["typed_config"]["sni"] = provider.host
    else:
        del cluster["transport_socket"]
        options = cluster["typed_extension_protocol_options"][_HTTP_OPTIONS]
        del options["auto_config"]  # negotiates within TLS; without it HTTP/1.1 is what all speak
        options["explicit_http_config"] = {"http_protocol_options": {}}
    for route in _routes_to(config, provider.name):
        action = route["route"]
        action["host_rewrite_literal"] = provider.authority
        if provider.path:
            # A route of one exact path is the base URL itself, without a slash behind it.
            exact = "path" in route["match"]
            action["prefix_rewrite"] = provider.path + ("" if exact else action["prefix_rewrite"])


def _tell(route: Node, name: str, value: str) -> None:
    """Say something about a route to the sidecar, in place of what was said under that name."""
    overrides = route["typed_per_filter_config"][_EXT_PROC]["overrides"]
    others = [said for said in overrides["grpc_initial_metadata"] if said["key"] != name]
    overrides["grpc_initial_metadata"] = [*others, {"key": name, "value": value}]


def _filters(cluster: Node) -> list[Node]:
    filters: list[Node] = cluster["typed_extension_protocol_options"][_HTTP_OPTIONS]["http_filters"]
    return filters


def _injector(cluster: Node) -> Node:
    return next(each for each in _filters(cluster) if each["name"] == "credential")


def _generic(injector: Node) -> Node:
    inner = injector["typed_config"]["extension_config"]["typed_config"]
    generic: Node = inner["credential"]["typed_config"]
    return generic


def _without_credential(config: Node, name: str) -> None:
    """Envoy does not start while a credential's variable is missing: callers bring their own."""
    resources = config["static_resources"]
    resources["secrets"] = [each for each in resources["secrets"] if each["name"] != name]
    cluster = _cluster(config, name)
    options = cluster["typed_extension_protocol_options"][_HTTP_OPTIONS]
    del options["http_filters"]  # without a filter before it, the codec's own entry is implied


def _trust(config: Node, authorities: str) -> None:
    for cluster in config["static_resources"]["clusters"]:
        if socket := cluster.get("transport_socket"):
            context = socket["typed_config"]["common_tls_context"]["validation_context"]
            context["trusted_ca"] = {"filename": authorities}


def _name_prefixes(config: Node) -> None:
    """The answer on an unknown path names the prefixes that there are."""
    names = list(_prefixed(config).values())
    body = next(route for route in _routes(config) if route["name"] == "unknown")
    content = body["direct_response"]["body"]
    content["inline_string"] = re.sub(
        r"begin with [^.]*\.", f"begin with {', '.join(names)} or /v1/.", content["inline_string"]
    )
