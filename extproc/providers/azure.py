"""Azure OpenAI: OpenAI's bodies under other paths. Knows no gateway and no deployments."""

from extproc.providers.openai import (
    ask_for_usage,
    operation,
    read_answer,
    refuse,
    refuse_stream,
    state_maximum,
    stream,
)
from extproc.providers.openai import read_unnamed_request as read_request
from extproc.providers.paths import segments

__all__ = [
    "ask_for_usage",
    "deployment",
    "operation",
    "read_answer",
    "read_request",
    "refuse",
    "refuse_stream",
    "state_maximum",
    "stream",
]


def deployment(path: str) -> str:
    """The deployment in the path, empty where the body names it. Its name is not a model's."""
    parts = segments(path)
    at = parts.index("deployments") + 1 if "deployments" in parts else len(parts)
    return parts[at] if at < len(parts) else ""
