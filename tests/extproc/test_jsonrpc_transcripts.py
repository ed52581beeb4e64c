"""Recorded calls of tools and agents: what is called and how it ends, under any chunking."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.providers.routing import APIS
from extproc.providers.shape import Answer, Asked
from extproc.reading import SERVER_SENT_EVENTS, StreamedAnswer
from tests.extproc.test_sse import cut

DATA = Path(__file__).parents[1] / "data"
CASES = sorted(path.parent for path in DATA.glob("*/*/outcome.json"))
STREAMS = [case for case in CASES if (case / "response.sse").exists()]


def named(case: Path) -> str:
    return f"{case.parent.name}-{case.name}"


def outcome_of(case: Path) -> dict[str, Any]:
    outcome: dict[str, Any] = orjson.loads((case / "outcome.json").read_bytes())
    return outcome


def asked_of(case: Path) -> Asked:
    api, path = APIS[case.parent.name], outcome_of(case)["path"]
    operation = api.operation("POST", path)
    asked = api.read_request(operation, (case / "request.json").read_bytes(), path)
    assert isinstance(asked, Asked)
    return asked


def read(case: Path, cuts: list[int]) -> Answer:
    """The case's answer as the sidecar reads it; every byte of it passes."""
    asked = asked_of(case)
    assert asked.api is not None
    whole = case / "response.json"
    if whole.exists():
        return asked.api.read_answer(asked.operation, whole.read_bytes())
    reading = StreamedAnswer(
        asked.api.stream(asked.operation), SERVER_SENT_EVENTS, "", remove_usage=False
    )
    chunks = [*cut((case / "response.sse").read_bytes(), cuts), b""]
    for number, chunk in enumerate(chunks, 1):
        assert reading.feed(chunk, number == len(chunks)) is None
    return reading.answer


def check(case: Path, answer: Answer) -> None:
    outcome = outcome_of(case)
    names = ("response_id", "complete", "failed", "performed")
    assert {n: getattr(answer, n) for n in names} == {n: outcome[n] for n in names}
    assert (answer.usage, answer.output_bytes, answer.model) == (None, 0, "")


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_call_is_read_as_recorded(case: Path) -> None:
    """Operation, tool, the task's id, and whether the work was done."""
    asked, outcome = asked_of(case), outcome_of(case)
    assert (asked.operation, asked.tool_name) == (outcome["operation"], outcome["tool_name"])
    check(case, read(case, []))


@pytest.mark.parametrize("case", STREAMS, ids=named)
@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 2000), max_size=30))
def test_any_chunking_of_a_stream_is_read_the_same(case: Path, cuts: list[int]) -> None:
    """How a call ended does not depend on the network."""
    check(case, read(case, cuts))


@pytest.mark.parametrize("case", CASES, ids=named)
@settings(max_examples=20)
@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_spoilt_answer_never_raises(case: Path, at: int, byte: int) -> None:
    """Whatever an answer holds, there is an event of the call."""
    asked = asked_of(case)
    assert asked.api is not None
    name = "response.json" if (case / "response.json").exists() else "response.sse"
    body = bytearray((case / name).read_bytes())
    body[at % len(body)] = byte
    asked.api.read_answer(asked.operation, bytes(body))
    stream = asked.api.stream(asked.operation)
    for line in bytes(body).splitlines():
        assert stream.feed(b"message", line.removeprefix(b"data: ")) is False
