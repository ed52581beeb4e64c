"""Recorded calls: tokens, model, cost and the client's bytes as each case worked them out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.providers import anthropic, azure, bedrock, compatible, gemini, openai
from extproc.providers.routing import Told, destination
from extproc.providers.shape import Answer, Api, Asked
from extproc.reading import FRAMINGS
from ledger.event import Usage
from ledger.prices import cost_nanos
from tests.extproc.builders import RATES
from tests.extproc.test_sse import cut

DATA = Path(__file__).parents[1] / "data"
CASES = sorted(path.parent for path in DATA.glob("*/*/expected.json"))
APIS: dict[str, Api] = {"openai": openai, "anthropic": anthropic, "azure": azure}
APIS |= {"bedrock": bedrock, "gemini": gemini, "compatible": compatible}
STREAMS = {
    "response.sse": "text/event-stream",
    "response.array.json": "application/json",
    "response.eventstream": "application/vnd.amazon.eventstream",
}
"""How a recorded stream is cut into events follows from the name of its file."""
NOVEMBER_2026_US = int(datetime(2026, 11, 15, 12, tzinfo=UTC).timestamp()) * 1_000_000

all_cases = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}"
)


def expected_of(case: Path) -> dict[str, Any]:
    expected: dict[str, Any] = orjson.loads((case / "expected.json").read_bytes())
    return expected


def read(case: Path, api: Api, cuts: list[int]) -> tuple[Answer, bytes]:
    """The case's answer as the sidecar reads it, and the bytes that the client gets."""
    expected = expected_of(case)
    operation = api.operation("POST", expected["path"])
    whole = case / "response.json"
    asked = asked_of(case, api)
    if whole.exists():
        answer = api.read_answer(operation, whole.read_bytes())
        return completed(case, answer, asked), whole.read_bytes()
    file = stream_of(case)
    assert file is not None
    stream, events, kept = api.stream(operation), FRAMINGS[STREAMS[file.name]](), b""
    asks = not expected.get("unasked", False)
    pieces = [piece for chunk in cut(file.read_bytes(), cuts) for piece in events.split(chunk)]
    for raw, event, data in [*pieces, events.finish()]:
        if data is None or not (stream.feed(event, data) and asked.usage_on_request and asks):
            kept += raw
    return completed(case, stream.answer, asked), kept


def stream_of(case: Path) -> Path | None:
    """The recorded stream, where the answer was one."""
    return next((case / name for name in STREAMS if (case / name).exists()), None)


def asked_of(case: Path, api: Api) -> Asked:
    expected = expected_of(case)
    body = (case / "request.json").read_bytes()
    asked = api.read_request(expected["operation"], body, expected["path"])
    assert isinstance(asked, Asked)
    return asked


def completed(case: Path, answer: Answer, asked: Asked) -> Answer:
    """With what the API says in the answer's headers and in its path."""
    expected = expected_of(case)
    headers = {name: value.encode() for name, value in expected.get("headers", {}).items()}
    target = destination(expected["path"], Told(case.parent.name, expected["api"]))
    target.complete(answer, asked.model, headers)
    return answer


def check(case: Path, answer: Answer) -> None:
    expected = expected_of(case)
    tokens = expected["tokens"]
    assert answer.usage == (None if tokens is None else Usage(**tokens))
    assert answer.model == expected["model"]
    assert answer.response_id == expected["response_id"]
    assert answer.output_bytes == expected["output_bytes"]
    assert answer.provider_cost_nanos == expected.get("provider_cost_nanos")
    assert (answer.complete or answer.finished) == (expected["ending"] != "cut")
    assert answer.failed == (expected["ending"] == "error")


@all_cases
def test_an_answer_is_read_as_worked_out(case: Path) -> None:
    """Operation, tokens by kind, model, id and ending of each recorded call."""
    expected = expected_of(case)
    api = APIS[expected["api"]]
    assert api.operation("POST", expected["path"]) == expected["operation"]
    answer, sent = read(case, api, [])
    check(case, answer)
    client = case / "client.sse"
    recorded = stream_of(case) or case / "response.json"
    assert sent == (client if client.exists() else recorded).read_bytes()


@all_cases
@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 4000), max_size=40))
def test_any_chunking_is_read_the_same(case: Path, cuts: list[int]) -> None:
    """Neither what is metered nor what the client gets depends on the network."""
    api = APIS[expected_of(case)["api"]]
    answer, sent = read(case, api, cuts)
    check(case, answer)
    assert sent == read(case, api, [])[1]


@all_cases
def test_a_host_of_both_apis_reads_the_same(case: Path) -> None:
    """Which module reads a call follows from its path alone."""
    if "model" in orjson.loads((case / "request.json").read_bytes()):
        check(case, read(case, compatible, [])[0])


@all_cases
def test_the_cost_is_as_worked_out(case: Path) -> None:
    """The price list of November 2026 gives the sum that the case's own arithmetic ends with."""
    expected = expected_of(case)
    if expected["cost_nanos"] is None:
        return
    api = APIS[expected["api"]]
    answer, _ = read(case, api, [])
    assert answer.usage is not None
    model = expected.get("priced_as") or answer.model or asked_of(case, api).model
    rates = RATES.lookup(case.parent.name, model, NOVEMBER_2026_US, answer.service_tier)
    assert rates is not None
    assert cost_nanos(rates, answer.usage) == expected["cost_nanos"]
    assert str(expected["cost_nanos"]) in expected["arithmetic"][-1]


@all_cases
def test_a_stream_that_is_asked_for_usage_is_otherwise_the_same_request(case: Path) -> None:
    """Only `stream_options` is added, and then the request asks for nothing more."""
    expected = expected_of(case)
    api, body = APIS[expected["api"]], (case / "request.json").read_bytes()
    if asked_of(case, api).usage_on_request:
        changed = api.ask_for_usage(body)
        assert changed == body[:-1] + b',"stream_options":{"include_usage":true}}'
        again = api.read_request(expected["operation"], changed)
        assert isinstance(again, Asked)
        assert not again.usage_on_request
