"""Hosts that speak OpenAI's API and Anthropic's (vLLM, OpenRouter, DeepSeek). Knows no host."""

from extproc.providers import anthropic, openai
from extproc.providers.body import append_member
from extproc.providers.openai import ask_for_usage, refuse
from extproc.providers.shape import Answer, Api, Asked, BadRequest, Stream
from extproc.refusal import Refusal

__all__ = [
    "ask_for_usage",
    "operation",
    "read_answer",
    "read_request",
    "refuse",
    "refuse_stream",
    "state_maximum",
    "stream",
]


def operation(method: str, path: str) -> str:
    """OpenAI's operations and Anthropic's `messages`."""
    found = openai.operation(method, path)
    return anthropic.operation(method, path) if found == "other" else found


def read_request(operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
    return _api(operation).read_request(operation, body, path)


def read_answer(operation: str, body: bytes) -> Answer:
    return _api(operation).read_answer(operation, body)


def stream(operation: str) -> Stream:
    return _api(operation).stream(operation)


def state_maximum(operation: str, body: bytes, model: str, tokens: int) -> bytes:
    """`max_tokens`: what such hosts know, where OpenAI itself has given it another name."""
    if operation == "chat":
        return append_member(body, b'"max_tokens":%d' % tokens)
    return _api(operation).state_maximum(operation, body, model, tokens)


def refuse_stream(operation: str, refusal: Refusal, content_type: str = "") -> bytes:
    return _api(operation).refuse_stream(operation, refusal, content_type)


def _api(operation: str) -> Api:
    return anthropic if operation == "messages" else openai
