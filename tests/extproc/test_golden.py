"""Recorded calls: tokens, model, cost and the client's bytes as each case worked them out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.providers import anthropic, azure, compatible, gemini, openai
from extproc.providers.shape import Answer, Api, Asked
from extproc.reading import FRAMINGS
from ledger.event import Usage
from ledger.prices import cost_nanos
from tests.extproc.builders import RATES
from tests.extproc.test_sse import cut

DATA = Path(__file__).parents[1] / "data"
CASES = sorted(path.parent for path in DATA.glob("*/*/expected.json"))
APIS: dict[str, Api] = {
    "openai": openai,
    "anthropic": anthropic,
    "azure": azure,
    "gemini": gemini,
}
STREAMS = {"response.sse": "text/event-stream", "response.array.json": "application/json"}
"""A case's answer, where it is a stream, and the content type that says how it is framed."""
NOVEMBER_2026_US = int(datetime(2026, 11, 15, 12, tzinfo=UTC).timestamp()) * 1_000_000

all_cases = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}"
)


def expected_of(case: Path) -> dict[str, Any]:
    expected: dict[str, Any] = orjson.loads((case / "expected.json").read_bytes())
    return expected


def response_of(case: Path) -> Path:
    """The case's answer: whole, or a stream that its name tells the framing of."""
    return next(case / name for name in ("response.json", *STREAMS) if (case / name).exists())


def asked_by(case: Path, api: Api) -> Asked:
    """The case's request, as it is read."""
    path = expected_of(case)["path"]
    operation = api.operation("POST", path.partition("?")[0])
    asked = api.read_request(operation, (case / "request.json").read_bytes(), path)
    assert isinstance(asked, Asked)
    return asked


def read(case: Path, api: Api, cuts: list[int]) -> tuple[Answer, bytes]:
    """The case's answer as the sidecar reads it, and the bytes that the client gets."""
    operation = api.operation("POST", expected_of(case)["path"].partition("?")[0])
    response = response_of(case)
    if response.name not in STREAMS:
        return api.read_answer(operation, response.read_bytes()), response.read_bytes()
    asked, stream = asked_by(case, api), api.stream(operation)
    framing, kept = FRAMINGS[STREAMS[response.name]](), b""

    def keep(raw: bytes, event: bytes, data: bytes | None) -> bytes:
        drop = data is not None and stream.feed(event, data) and asked.usage_on_request
        return b"" if drop else raw

    for chunk in cut(response.read_bytes(), cuts):
        kept += b"".join(keep(*piece) for piece in framing.split(chunk))
    return stream.answer, kept + keep(*framing.finish())


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
    assert api.operation("POST", expected["path"].partition("?")[0]) == expected["operation"]
    answer, sent = read(case, api, [])
    check(case, answer)
    client = case / "client.sse"
    assert sent == (client if client.exists() else response_of(case)).read_bytes()


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
    answer, _ = read(case, APIS[expected["api"]], [])
    assert answer.usage is not None
    rates = RATES.lookup(case.parent.name, answer.model, NOVEMBER_2026_US, answer.service_tier)
    assert rates is not None
    assert cost_nanos(rates, answer.usage) == expected["cost_nanos"]
    assert str(expected["cost_nanos"]) in expected["arithmetic"][-1]


@all_cases
def test_a_stream_that_is_asked_for_usage_is_otherwise_the_same_request(case: Path) -> None:
    """Only `stream_options` is added, and then the request asks for nothing more."""
    expected = expected_of(case)
    api, body = APIS[expected["api"]], (case / "request.json").read_bytes()
    if asked_by(case, api).usage_on_request:
        changed = api.ask_for_usage(body)
        assert changed == body[:-1] + b',"stream_options":{"include_usage":true}}'
        again = api.read_request(expected["operation"], changed)
        assert isinstance(again, Asked)
        assert not again.usage_on_request
