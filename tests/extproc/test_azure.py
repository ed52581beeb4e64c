"""Azure OpenAI: its paths, and requests whose model is only in the path."""

import pytest

from extproc.providers import azure
from extproc.providers.shape import Asked


@pytest.mark.parametrize(
    ("path", "operation", "deployment"),
    [
        ("/openai/deployments/Our-GPT/chat/completions", "chat", "our-gpt"),
        ("/openai/deployments/d/completions", "completions", "d"),
        ("/openai/deployments/d/embeddings", "embeddings", "d"),
        ("/openai/deployments/d/extensions/chat/completions", "chat", "d"),
        ("/openai/responses", "responses", ""),
        ("/openai/v1/responses", "responses", ""),
        ("/openai/v1/chat/completions", "chat", ""),
        ("/openai/deployments/d/images/generations", "images", "d"),
        ("/openai/deployments", "other", ""),
    ],
)
def test_paths(path: str, operation: str, deployment: str) -> None:
    """A deployment's name is compared without case, as Azure does."""
    assert azure.operation("POST", path) == operation
    assert azure.deployment(path) == deployment


def test_the_body_need_not_name_a_model() -> None:
    """The deployment in the path does; the answer tells which model that was."""
    found = azure.read_request("chat", b'{"messages":[],"stream":true}')
    assert isinstance(found, Asked)
    assert found.model == ""
    assert found.usage_on_request
