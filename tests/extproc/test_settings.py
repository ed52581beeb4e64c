"""The sidecar's settings: their sources, what they refuse, and that the README names them."""

from dataclasses import fields
from pathlib import Path

import pytest

from extproc.settings import SettingError, Settings, from_environment

README = Path(__file__).parents[2] / "README.md"


def test_flags_come_before_the_environment() -> None:
    """A flag wins over its variable, and a variable over the default."""
    environment = {"TOLLKEEPER_WORKERS": "3", "TOLLKEEPER_ORG": "acme", "TOLLKEEPER_HOST": "h"}
    settings = from_environment(environment, workers=5)
    assert (settings.workers, settings.org, settings.store_away) == (5, "acme", "closed")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOLLKEEPER_WORKERS", "many"),
        ("TOLLKEEPER_WORKERS", "0"),
        ("TOLLKEEPER_STORE_AWAY", "perhaps"),
        ("TOLLKEEPER_ENFORCE", "soft"),
        ("TOLLKEEPER_HOST", "a b"),
        ("TOLLKEEPER_AZURE_DEPLOYMENTS", "prod="),
        ("TOLLKEEPER_PRINCIPAL_CLAIMS", "email,,sub"),
        ("TOLLKEEPER_BEDROCK_MODELS", "arn:aws:bedrock:us-east-1:1:prompt/P"),
        ("TOLLKEEPER_PRICE_LIST", "myhost"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str) -> None:
    """The error says which setting is wrong."""
    with pytest.raises(SettingError, match=name):
        from_environment({"TOLLKEEPER_HOST": "h", name: value})


def test_deployments_are_read_in_any_case() -> None:
    """Azure's deployment names do not mind their case."""
    said = {"TOLLKEEPER_HOST": "h", "TOLLKEEPER_AZURE_DEPLOYMENTS": "Prod=gpt-4o, x = gpt-5"}
    assert from_environment(said).deployments == {"prod": "gpt-4o", "x": "gpt-5"}


def test_hosts_are_named_with_their_price_list() -> None:
    """And those that are not asked for usage are a list of names."""
    said = {"TOLLKEEPER_HOST": "h", "TOLLKEEPER_PRICE_LIST": "Router = openrouter, fast=groq"}
    said |= {"TOLLKEEPER_USAGE_UNASKED": "mistral, router"}
    settings = from_environment(said)
    assert settings.price_lists == {"router": "openrouter", "fast": "groq"}
    assert settings.unasked == {"mistral", "router"}


@pytest.mark.parametrize("variable", [f.metadata["env"] for f in fields(Settings)])
def test_the_readme_names_every_setting(variable: str) -> None:
    """A setting that is not documented does not exist for its users."""
    assert f"`{variable}`" in README.read_text()


def test_models_behind_arns_of_bedrock_stand_beside_azure_s() -> None:
    """Both are names in a path that say nothing of the model; an ARN is compared in lower case."""
    arn = "arn:aws:bedrock:us-east-1:123456789012:prompt/ABCDEF1234"
    said = {"TOLLKEEPER_AZURE_DEPLOYMENTS": "prod=gpt-4o", "TOLLKEEPER_BEDROCK_MODELS": f"{arn}=m"}
    assert from_environment(said).deployments == {"prod": "gpt-4o", arn.lower(): "m"}
