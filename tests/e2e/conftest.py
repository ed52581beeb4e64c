"""One real stack for all end-to-end tests: Envoy, sidecars, stores, writer, and a fake provider."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.fake import Fake
from tests.e2e.processes import fake_provider
from tests.e2e.stack import Stack, running


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than ten seconds of waiting")


@pytest.fixture(scope="session")
def fake() -> Iterator[Fake]:
    """The fake provider behind the stack; no key or header of ours may ever reach it."""
    with fake_provider() as url:
        provider = Fake(url)
        yield provider
        assert provider.leaks() == []


@pytest.fixture(scope="session")
def stack(fake: Fake, services_directory: Path) -> Iterator[Stack]:
    """The session's stack."""
    with running(services_directory / "stack", fake) as started:
        yield started


@pytest.fixture(scope="session")
def four(fake: Fake, services_directory: Path) -> Iterator[Stack]:
    """Another stack for the session, with four workers that share every budget."""
    with running(services_directory / "four", fake, workers=4) as started:
        yield started


@pytest.fixture(scope="session")
def key(stack: Stack) -> dict[str, Any]:
    """A key without limits."""
    return stack.issue()


@pytest.fixture
def client(stack: Stack, key: dict[str, Any]) -> Iterator[openai.OpenAI]:
    """The official SDK, with its own two retries, pointed at the gateway."""
    with openai_client(stack, key["key"]) as made:
        yield made


@pytest.fixture
def claude(stack: Stack, key: dict[str, Any]) -> Iterator[anthropic.Anthropic]:
    """Anthropic's SDK, with its own two retries, pointed at the gateway."""
    with anthropic.Anthropic(base_url=f"{stack.gateway}/anthropic", api_key=key["key"]) as made:
        yield made


def openai_client(stack: Stack, key: str) -> contextlib.AbstractContextManager[openai.OpenAI]:
    """An SDK client with another key."""
    return openai.OpenAI(base_url=f"{stack.gateway}/openai/v1", api_key=key)


def wish(**directives: object) -> dict[str, str]:
    """The header that asks the fake provider for something."""
    return {"x-fake": json.dumps(directives)}
