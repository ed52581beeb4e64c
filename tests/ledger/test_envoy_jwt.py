"""Whose tokens say who calls: what may be asked for, and what becomes of envoy.yaml."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ledger.envoy_config import Site, configure, providers_in
from ledger.envoy_jwt import People, check_header, check_keys, check_url, with_people
from ledger.parts import stock_envoy_config, stock_file

SITE = Site(
    listen=("127.0.0.1", 4000),
    admin_socket="/run/x/admin.sock",
    sidecar_sockets=["/run/x/0.sock"],
    access_log="/log/access.log",
    trusted_ca="/etc/ca.crt",
)
PLAIN = configure(stock_envoy_config(), SITE)
URL = "https://login.example.com:8443/keys?v=1"


def changed(jwks: str = URL, **more: Any) -> str:
    people = People(jwks=jwks, issuer="https://i.example.com", **more)
    return with_people(PLAIN, stock_file("jwt.yaml"), people, "/etc/ca.crt")


def parts(text: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The filter's configuration, its provider, and the clusters by name."""
    resources = yaml.safe_load(text)["static_resources"]
    chain = resources["listeners"][0]["filter_chains"][0]
    filters = chain["filters"][0]["typed_config"]["http_filters"]
    assert [each["name"].rpartition(".")[2] for each in filters] == [
        *("jwt_authn", "ext_proc", "router")
    ]
    config = filters[0]["typed_config"]
    return config, config["providers"]["people"], {c["name"]: c for c in resources["clusters"]}


def test_tokens_are_verified_before_the_sidecar_is_asked() -> None:
    """With the issuer's keys, for the audience that was given, and taken off the request."""
    _, provider, clusters = parts(changed(audiences=("gateway", "tools")))
    assert provider["issuer"] == "https://i.example.com"
    assert provider["audiences"] == ["gateway", "tools"]
    assert provider["forward"] is False
    assert provider["remote_jwks"]["http_uri"]["uri"] == URL
    cluster = clusters[provider["remote_jwks"]["http_uri"]["cluster"]]
    [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {
        "address": "login.example.com",
        "port_value": 8443,
    }
    tls = cluster["transport_socket"]["typed_config"]
    assert tls["sni"] == "login.example.com"
    context = tls["common_tls_context"]["validation_context"]
    assert context["trusted_ca"]["filename"] == "/etc/ca.crt"


def test_keys_of_a_file_need_no_cluster() -> None:
    """Nothing is fetched, and any audience will do where none is given."""
    _, provider, clusters = parts(changed("/etc/keys.json"))
    assert provider["local_jwks"] == {"filename": "/etc/keys.json"}
    assert "remote_jwks" not in provider
    assert "audiences" not in provider
    assert "token_keys" not in clusters


def test_a_header_of_its_own_is_always_a_token() -> None:
    """What stands there is verified whatever it looks like; a credential is left alone."""
    config, provider, _ = parts(changed(header="x-user-token"))
    assert provider["from_headers"] == [{"name": "x-user-token"}]
    [rule] = config["rules"]
    assert rule["match"]["headers"] == [{"name": "x-user-token", "present_match": True}]


def test_the_rest_of_the_file_stays() -> None:
    """Nothing else is changed, and nothing at all where nobody verifies tokens."""
    before, after = yaml.safe_load(PLAIN), yaml.safe_load(changed("/etc/keys.json"))
    manager = after["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    del manager["typed_config"]["http_filters"][0]
    del manager["typed_config"]["local_reply_config"]["mappers"][0]
    assert after == before
    assert changed().splitlines()[0] == PLAIN.splitlines()[0]
    assert providers_in(changed()) == providers_in(PLAIN)
    assert "jwt_authn\n" not in PLAIN.replace("- envoy.filters.http.jwt_authn\n", "")


@pytest.mark.parametrize("url", [URL, "http://127.0.0.1:9/keys", "http://localhost/keys"])
def test_keys_are_fetched_safely(url: str) -> None:
    """Encrypted, or from this machine."""
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        *("http://login.example.com/keys", "ftp://h/keys", "https://", "https://h:99999/k"),
        *("https://u:p@h/keys", "https://[::1/keys", "https://h:0/keys"),
    ],
)
def test_keys_are_not_fetched_from_anywhere_else(url: str) -> None:
    """A sentence says what is wrong."""
    with pytest.raises(ValueError, match=r"[.]$|https$|PATH"):
        check_url(url)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not a key set"),
        (b"\xff", "not a key set"),
        (b"[]", "not a key set"),
        (b'{"keys": []}', "not a key set"),
        (b'{"keys": [1]}', "not a key set"),
        (b'{"keys": [{"kty": "RSA", "n": "x", "e": "AQAB", "d": "y"}]}', "private"),
    ],
)
def test_a_file_holds_public_keys(text: bytes, says: str) -> None:
    """Anything else is refused before Envoy is started with it."""
    with pytest.raises(ValueError, match=says):
        check_keys(text, "keys.json")
    check_keys(json.dumps({"keys": [{"kty": "RSA", "n": "x", "e": "AQAB"}]}).encode(), "k")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "x:y",
        "X-API-KEY",
        "x-tollkeeper-key",
        "x-envoy-x",
        "host",
        ":path",
        "x-customer-id",
    ],
)
def test_a_token_has_a_header_of_its_own(name: str) -> None:
    """Not one that means something else here."""
    with pytest.raises(ValueError, match="cannot carry tokens"):
        check_header(name)
    assert check_header("X-Goog-Iap-Jwt-Assertion") == "x-goog-iap-jwt-assertion"


def test_the_package_has_the_file() -> None:
    """An installation without a checkout finds it too."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"envoy/jwt.yaml" = "ledger/jwt.yaml"' in project
