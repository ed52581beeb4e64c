"""The size of a request's input: text as it is, media and stored context by allowance."""

import base64
import json
from typing import Any

import orjson
import pytest

from extproc.providers import anthropic, openai, weight
from extproc.providers.shape import Asked

MEGABYTE = base64.b64encode(bytes(750_000)).decode()
DATA_URL = f"data:image/png;base64,{MEGABYTE}"


def size(operation: str = "chat", **fields: Any) -> int:
    api = anthropic if operation == "messages" else openai
    found = api.read_request(operation, orjson.dumps({"model": "m"} | fields))
    assert isinstance(found, Asked)
    return found.input_bytes


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_text_counts_its_bytes_in_utf8() -> None:
    """Escaping and spacing make a body larger, not its prompt."""
    fields = {"model": "m", "messages": user({"type": "text", "text": "日本語" * 1000})}
    plain = openai.read_request("chat", orjson.dumps(fields))
    escaped = openai.read_request("chat", json.dumps(fields, indent=8).encode())
    assert isinstance(plain, Asked)
    assert isinstance(escaped, Asked)
    assert plain.input_bytes == escaped.input_bytes
    assert 9000 <= plain.input_bytes < 9100


def test_tool_schemas_count() -> None:
    """They are part of the input, and so is what explains tools to the model."""
    schema = {"type": "function", "function": {"name": "f", "description": "x" * 5000}}
    assert size(messages=[], tools=[schema]) - size(messages=[]) > 5000 + weight.TOOLS_BYTES


def chat(kind: str, **holder: str) -> dict[str, Any]:
    return {"messages": user({"type": kind, kind: holder})}


def claude(kind: str, **source: str) -> dict[str, Any]:
    return {"messages": user({"type": kind, "source": source})}


SCREENSHOT = {"type": "computer_screenshot", "image_url": DATA_URL}
TOOL_RESULT = {"type": "tool_result", "content": claude("image", data=MEGABYTE)["messages"]}
SEARCH = {"tools": [{"type": "web_search"}]}


@pytest.mark.parametrize(
    ("operation", "fields", "allowance"),
    [
        ("chat", chat("image_url", url=DATA_URL), weight.IMAGE_BYTES),
        ("chat", chat("image_url", url="https://x/y.png"), weight.IMAGE_BYTES),
        ("chat", chat("file", file_id="f1"), weight.FILE_BYTES),
        ("chat", chat("file", file_data=MEGABYTE[:4000]), 12_000),
        ("chat", chat("input_audio", data=MEGABYTE), 125_000),
        ("responses", {"input": user({"type": "input_image", "image_url": DATA_URL})}, 16_384),
        ("responses", {"input": [{"type": "x", "output": SCREENSHOT}]}, weight.IMAGE_BYTES),
        ("responses", {"input": [{"type": "image_generation_call", "result": MEGABYTE}]}, 16_384),
        ("responses", {"previous_response_id": "resp_1"}, weight.HISTORY_BYTES),
        ("responses", SEARCH, weight.HOSTED_TOOL_BYTES + weight.TOOLS_BYTES),
        ("messages", claude("image", type="base64", data=MEGABYTE), weight.IMAGE_BYTES),
        ("messages", {"messages": user(TOOL_RESULT)}, weight.IMAGE_BYTES),
        ("messages", claude("document", type="url", url="https://x"), weight.FILE_BYTES),
        ("messages", claude("document", data=MEGABYTE), weight.MOST_FILE_BYTES),
        ("messages", {"mcp_servers": [{}, {}]}, 2 * weight.HOSTED_TOOL_BYTES),
    ],
)
def test_what_does_not_say_its_size_counts_by_allowance(
    operation: str, fields: dict[str, Any], allowance: int
) -> None:
    """Coded media neither starve a budget by their bytes nor count as nothing."""
    assert allowance <= size(operation, **fields) < allowance + 250


def test_an_unknown_part_counts_in_full() -> None:
    """What is not known is never underestimated, and text beside an image still counts."""
    assert size(messages=user({"type": "hologram", "data": MEGABYTE})) > 1_000_000
    beside = {"type": "image_url", "image_url": {"url": "data:,x", "note": MEGABYTE}}
    assert size(messages=user(beside)) > 1_000_000
    assert size(extra={"prompt": MEGABYTE}) > 1_000_000


def test_a_text_document_counts_as_text() -> None:
    """Its bytes are its text."""
    document = {"type": "document", "source": {"type": "text", "data": "x" * 50_000}}
    assert 50_000 < size("messages", messages=user(document)) < 50_200


def test_token_numbers_count_as_tokens() -> None:
    """A prompt of small token numbers has fewer digits than a token has bytes."""
    assert size("completions", prompt=[1] * 1000) >= 8000
    assert size("embeddings", input=[[1] * 1000, [2] * 1000]) >= 16_000


def test_images_of_the_model_that_bills_them_dearly_count_more() -> None:
    """gpt-4o-mini takes 33 times the tokens of gpt-4o for an image."""
    image = user({"type": "image_url", "image_url": {"url": "https://x/y.png"}})
    assert size(model="gpt-4o-mini-2024-07-18", messages=image) > weight.COSTLY_IMAGE_BYTES
