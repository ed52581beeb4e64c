"""envoy.yaml made to fit a machine: what changes, and what must not."""

from typing import Any

import pytest
import yaml

from ledger.envoy_config import (
    Provider,
    Site,
    configure,
    parse_provider,
    prefixes_in,
    providers_in,
    refuse_shared_names,
)
from ledger.parts import stock_envoy_config

STOCK = stock_envoy_config()


def _configured(
    *providers: str,
    credentials: tuple[str, ...] = (),
    mcp: tuple[str, ...] = (),
    a2a: tuple[str, ...] = (),
    **changes: Any,
) -> Any:
    site = Site(
        listen=("127.0.0.1", 4000),
        admin_socket="/run/x/admin.sock",
        sidecar_sockets=["/run/x/0.sock", "/run/x/1.sock", "/run/x/2.sock"],
        access_log="/log/access.log",
        trusted_ca="/etc/ca.crt",
        providers=[
            *(parse_provider(text) for text in providers),
            *(parse_provider(text, "mcp") for text in mcp),
            *(parse_provider(text, "a2a") for text in a2a),
        ],
        credentials=credentials,
        **changes,
    )
    return configure(STOCK, site)


def _routes(text: str) -> list[dict[str, Any]]:
    listener = yaml.safe_load(text)["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes: list[dict[str, Any]] = manager["route_config"]["virtual_hosts"][0]["routes"]
    return routes


def _route(text: str, name: str) -> dict[str, Any]:
    return next(route for route in _routes(text) if route["name"] == name)


def _cluster(text: str, name: str) -> dict[str, Any]:
    clusters = yaml.safe_load(text)["static_resources"]["clusters"]
    found: dict[str, Any] = next(cluster for cluster in clusters if cluster["name"] == name)
    return found


def _told(route: dict[str, Any]) -> dict[str, str]:
    """What a route tells the sidecar."""
    per_route = route["typed_per_filter_config"]["envoy.filters.http.ext_proc"]
    return {said["key"]: said["value"] for said in per_route["overrides"]["grpc_initial_metadata"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openai=https://api.example.com", Provider("openai", "api.example.com", 443, True)),
        ("a-1=http://[::1]:80/", Provider("a-1", "::1", 80, False)),
        ("g=https://h:8443/openai/v1/", Provider("g", "h", 8443, True, "/openai/v1")),
    ],
)
def test_a_provider_is_name_and_base_url(text: str, expected: Provider) -> None:
    """Scheme, host, port and path are read; a slash at the end means nothing."""
    assert parse_provider(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "https://api.example.com",
        "=https://h",
        "Upper=https://h",
        "v1=https://h",
        "x=ftp://h",
        "x=https://",
        "x=https://h:99999",
        "x=https://h:0",
        "x=https://user:secret@h",
        "x=https://h?key=1",
    ],
)
def test_what_is_no_provider_is_a_sentence(text: str) -> None:
    """Anything else is refused with a sentence that never repeats a secret as advice."""
    with pytest.raises(ValueError, match=r"[.]$"):
        parse_provider(text)


def test_the_machine_is_filled_in() -> None:
    """Address, sockets of all workers, access log and authorities are the machine's."""
    text = _configured()
    config = yaml.safe_load(text)
    address = config["static_resources"]["listeners"][0]["address"]["socket_address"]
    assert address == {"address": "127.0.0.1", "port_value": 4000}
    assert config["admin"]["address"]["pipe"]["path"] == "/run/x/admin.sock"
    endpoints = _cluster(text, "tollkeeper")["load_assignment"]["endpoints"][0]["lb_endpoints"]
    paths = [endpoint["endpoint"]["address"]["pipe"]["path"] for endpoint in endpoints]
    assert paths == ["/run/x/0.sock", "/run/x/1.sock", "/run/x/2.sock"]
    assert "path: /log/access.log" in text
    assert "/etc/ssl" not in text


def test_a_base_url_replaces_a_providers_address() -> None:
    """Both of the provider's routes go there, with the path of the base URL before their own."""
    text = _configured("openai=http://127.0.0.1:9000/base")
    assert providers_in(text)["openai"] == "http://127.0.0.1:9000/base"
    for name, rewrite in (("openai", "/base/"), ("openai-bare", "/base/v1/")):
        action = _route(text, name)["route"]
        assert action["prefix_rewrite"] == rewrite
        assert action["host_rewrite_literal"] == "127.0.0.1:9000"
    assert "transport_socket" not in _cluster(text, "openai")


def test_an_unknown_provider_is_taken_to_be_compatible() -> None:
    """A new name gets a route, a cluster and a credential of its own, verified by its host name."""
    text = _configured("groq=https://api.groq.test/openai", credentials=("GROQ_API_KEY",))
    assert _told(_route(text, "groq")) == {
        "x-tollkeeper-provider": "groq",
        "x-tollkeeper-api": "compatible",
        "x-tollkeeper-prefix": "/groq",
    }
    cluster = _cluster(text, "groq")
    assert cluster["transport_socket"]["typed_config"]["sni"] == "api.groq.test"
    secrets = yaml.safe_load(text)["static_resources"]["secrets"]
    assert [secret["name"] for secret in secrets] == ["groq"]
    assert providers_in(text)["openai"] == "https://api.openai.com"


def test_a_new_provider_does_not_inherit_a_replaced_address() -> None:
    """The order of --provider options does not matter."""
    both = ("openai=http://127.0.0.1:1", "groq=https://api.groq.test")
    assert providers_in(_configured(*both)) == providers_in(_configured(*reversed(both)))
    assert providers_in(_configured(*both))["groq"] == "https://api.groq.test"


def test_credentials_only_where_there_is_one() -> None:
    """A provider whose variable is not set gets no credential, and its callers bring their own."""
    text = _configured(credentials=("OPENAI_API_KEY",))
    secrets = yaml.safe_load(text)["static_resources"]["secrets"]
    assert [secret["name"] for secret in secrets] == ["openai"]
    assert "credential_injector" in yaml.dump(_cluster(text, "openai"))
    assert "credential_injector" not in yaml.dump(_cluster(text, "anthropic"))


def test_azure_is_there_if_it_has_an_address() -> None:
    """Its address differs for everybody, so without one there is no route to it."""
    assert "azure" not in providers_in(_configured())
    resource = "azure=https://mine.openai.azure.com"
    assert providers_in(_configured(resource))["azure"] == "https://mine.openai.azure.com"


def test_only_the_given_providers() -> None:
    """All others can be left out, with their routes."""
    text = _configured("openai=http://127.0.0.1:1", only_these=True)
    assert providers_in(text) == {"openai": "http://127.0.0.1:1"}
    names = [route["name"] for route in _routes(text)]
    assert names == ["escaped-slash", "openai", "openai-bare", "tollkeeper", "unknown"]


def test_the_unknown_route_names_the_prefixes() -> None:
    """The answer on any other path says which prefixes there are now."""
    body = _route(_configured("groq=https://g.test"), "unknown")["direct_response"]["body"]
    assert "/openai/, /groq/, /anthropic/" in body["inline_string"]


def test_every_route_to_a_provider_is_metered() -> None:
    """Only the answer on unknown paths is not, and it leads nowhere; nothing is ever retried."""
    behind = {"mcp": ("tools=https://t.test",), "a2a": ("coder=https://c.test",)}
    for route in _routes(_configured("groq=https://g.test", **behind)):
        if "route" in route:
            told = _told(route)
            assert told["x-tollkeeper-provider"] == route["route"]["cluster"]
            assert "retry_policy" not in route["route"]
        else:
            assert "direct_response" in route


def test_google_s_credential_is_its_own_header() -> None:
    """And what a caller could hide a call's usage with is taken off on the way there."""
    text = _configured("gemini=http://127.0.0.1:1/base", credentials=("GEMINI_API_KEY",))
    assert "header: x-goog-api-key" in yaml.dump(_cluster(text, "gemini"))
    route = _route(text, "gemini")
    assert _told(route)["x-tollkeeper-provider"] == "gemini"
    assert route["route"]["prefix_rewrite"] == "/base/"
    assert "x-goog-fieldmask" in route["request_headers_to_remove"]


@pytest.mark.parametrize("kind", ["mcp", "a2a"])
def test_tools_and_agents_have_a_prefix_of_their_kind(kind: str) -> None:
    """The base URL itself and everything below it lead there, with a credential of its own."""
    behind = {kind: ("search=https://s.test:8443/base/rpc",)}
    text = _configured(**behind, credentials=("SEARCH_API_KEY",))
    below, exact = _route(text, "search"), _route(text, "search-bare")
    assert (below["match"], exact["match"]) == (
        {"prefix": f"/{kind}/search/"},
        {"path": f"/{kind}/search"},
    )
    assert below["route"]["prefix_rewrite"] == "/base/rpc/"
    assert exact["route"]["prefix_rewrite"] == "/base/rpc"
    for route in (below, exact):
        assert route["route"]["host_rewrite_literal"] == "s.test:8443"
        assert _told(route) == {
            "x-tollkeeper-provider": "search",
            "x-tollkeeper-api": kind,
            "x-tollkeeper-prefix": f"/{kind}/search",
        }
    assert providers_in(text)["search"] == "https://s.test:8443/base/rpc"
    assert prefixes_in(text)["search"] == f"/{kind}/search/"
    assert f"/{kind}/search/" in _route(text, "unknown")["direct_response"]["body"]["inline_string"]
    assert "credential_injector" in yaml.dump(_cluster(text, "search"))
    names = [route["name"] for route in _routes(text)]
    assert names.index("search") < names.index("openai-bare")
    assert len(names) == len(set(names))


def test_the_examples_of_tools_and_agents_are_never_there() -> None:
    """Their addresses are nobody's; a base URL without a path is the server's root."""
    text = _configured(mcp=("a=http://127.0.0.1:1", "b=http://127.0.0.1:2"))
    assert "example" not in text.replace("envoy.yaml", "")
    assert _route(text, "a-bare")["route"]["prefix_rewrite"] == "/"
    assert _told(_route(text, "b"))["x-tollkeeper-provider"] == "b"
    with pytest.raises(ValueError, match="does not name a provider"):
        parse_provider("example-tools=https://h", "mcp")


def test_one_name_means_one_thing() -> None:
    """A server of tools cannot be called as a provider is; the last of two addresses counts."""
    tools, agent = parse_provider("x=http://h", "mcp"), parse_provider("x=http://h", "a2a")
    refuse_shared_names([tools, tools, parse_provider("openai=http://h")])
    for pair in ([tools, agent], [parse_provider("openai=http://h", "mcp")]):
        with pytest.raises(ValueError, match="cannot both be called"):
            refuse_shared_names(pair)
