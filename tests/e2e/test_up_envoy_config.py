"""Real Envoy accepts envoy/envoy.yaml, as it stands and as `ledger up` changes it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from ledger.embedded import find_envoy
from ledger.envoy_config import Site, configure, credential_variables, parse_provider
from ledger.envoy_jwt import People, with_people
from ledger.parts import stock_envoy_config, stock_file, trusted_authorities
from tests.e2e.issuer import key_set
from tests.e2e.processes import ROOT

STOCK = stock_envoy_config()


def _verdict(text: str, directory: Path, **environment: str) -> str:
    """What Envoy says of a configuration."""
    file = directory / "envoy.yaml"
    file.write_text(text)
    checked = subprocess.run(
        [find_envoy(), "--mode", "validate", "-c", file, "--log-level", "warning"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **environment},
        timeout=60,
    )
    return checked.stdout + checked.stderr


def test_the_stock_file_is_valid(tmp_path: Path) -> None:
    """The file in the repository runs, given the credentials that it names."""
    text = STOCK.replace("/etc/ssl/certs/ca-certificates.crt", trusted_authorities(os.environ))
    given = dict.fromkeys(credential_variables(STOCK).values(), "secret")
    verdict = _verdict(text, tmp_path, **given)
    assert verdict.rstrip().endswith("OK")
    assert "deprecated" not in verdict


def test_bedrock_may_be_signed_for(tmp_path: Path) -> None:
    """The snippet for AWS roles fits where it says that it belongs."""
    config = yaml.safe_load(STOCK)
    snippet = yaml.safe_load((ROOT / "envoy" / "bedrock-sigv4.yaml").read_text())
    resources = config["static_resources"]
    cluster = next(each for each in resources["clusters"] if each["name"] == "bedrock")
    (options,) = cluster["typed_extension_protocol_options"].values()
    options["http_filters"][0]["typed_config"] |= snippet
    cluster["per_connection_buffer_limit_bytes"] = 67108864
    resources["secrets"] = [each for each in resources["secrets"] if each["name"] != "bedrock"]
    authorities = trusted_authorities(os.environ)
    text = yaml.safe_dump(config).replace("/etc/ssl/certs/ca-certificates.crt", authorities)
    given = dict.fromkeys(credential_variables(text).values(), "secret")
    verdict = _verdict(text, tmp_path, **given, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y")
    assert verdict.rstrip().endswith("OK")


@pytest.mark.parametrize("credentials", [(), ("OPENAI_API_KEY", "GROQ_API_KEY")])
def test_the_changed_file_is_valid(tmp_path: Path, credentials: tuple[str, ...]) -> None:
    """So does every kind of change: http, https, a new name, with and without credentials."""
    providers = ("openai=http://127.0.0.1:9", "groq=https://g.test/v1", "azure=https://a.test")
    site = Site(
        listen=("127.0.0.1", 4000),
        admin_socket=str(tmp_path / "admin.sock"),
        sidecar_sockets=[str(tmp_path / "0.sock")],
        access_log=str(tmp_path / "access.log"),
        trusted_ca=trusted_authorities(os.environ),
        providers=[parse_provider(text) for text in providers],
        credentials=credentials,
    )
    verdict = _verdict(configure(STOCK, site), tmp_path, **dict.fromkeys(credentials, "secret"))
    assert verdict.rstrip().endswith("OK")


@pytest.mark.parametrize("header", ["authorization", "x-user-token"])
@pytest.mark.parametrize("jwks", ["https://login.example.com:8443/keys?v=1", "FILE"])
def test_the_file_that_verifies_tokens_is_valid(tmp_path: Path, jwks: str, header: str) -> None:
    """With keys from a file or fetched, and tokens in either place."""
    if jwks == "FILE":
        (tmp_path / "keys.json").write_text(json.dumps(key_set()))
        jwks = str(tmp_path / "keys.json")
    authorities = trusted_authorities(os.environ)
    site = Site(
        listen=("127.0.0.1", 4000),
        admin_socket=str(tmp_path / "admin.sock"),
        sidecar_sockets=[str(tmp_path / "0.sock")],
        access_log=str(tmp_path / "access.log"),
        trusted_ca=authorities,
    )
    people = People(jwks=jwks, issuer="https://login.example.com", header=header)
    text = with_people(configure(STOCK, site), stock_file("jwt.yaml"), people, authorities)
    verdict = _verdict(text, tmp_path)
    assert verdict.rstrip().endswith("OK")
    assert "deprecated" not in verdict
