"""Hosts that speak OpenAI's API and Anthropic's (vLLM, OpenRouter, DeepSeek). Knows no host."""

from extproc.providers import anthropic, openai
from extproc.providers.openai import ask_for_usage, refuse
from extproc.providers.shape import Answer, Api, Asked, BadRequest, Stream

__all__ = ["ask_for_usage", "operation", "read_answer", "read_request", "refuse", "stream"]


def operation(method: str, path: str) -> str:
    """OpenAI's operations and Anthropic's `messages`."""
    found = openai.operation(method, path)
    return anthropic.operation(method, path) if found == "other" else found


def read_request(operation: str, body: bytes) -> Asked | BadRequest:
    return _api(operation).read_request(operation, body)


def read_answer(operation: str, body: bytes) -> Answer:
    return _api(operation).read_answer(operation, body)


def stream(operation: str) -> Stream:
    return _api(operation).stream(operation)


def _api(operation: str) -> Api:
    return anthropic if operation == "messages" else openai
