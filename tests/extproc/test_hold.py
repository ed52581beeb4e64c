"""What is held where a request states no maximum: learned, capped or the ceiling; what grows."""

import json
from typing import Any

import pytest

from extproc.budget import Admitted
from extproc.events import Continue, Respond
from extproc.exchange import Exchange, Reserve
from extproc.hold import GENEROUS_TOKENS
from extproc.refusal import Refusal
from ledger.event import Usage
from tests.extproc.builders import NOW_US, answer, answer_headers, ask, body, budget, policy

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
SPENT = Refusal(status=429, code="budget_spent", message="Spent.", limit="risk", retry_after_s=999)


def asked(
    request: dict[str, Any], path: str = "/openai/v1/chat/completions", **changes: Any
) -> tuple[Exchange, Reserve]:
    """An exchange that has asked for its hold, against one budget."""
    exchange = Exchange(policy(budget(**changes)), "01981e8e-0000-7000-8000-000000000001")
    exchange.receive(ask(path), NOW_US)
    action = exchange.receive(body(json.dumps(request)), NOW_US)
    assert isinstance(action, Reserve)
    return exchange, action


def sent(reply: object) -> dict[str, Any]:
    """The request body that goes upstream."""
    assert isinstance(reply, Continue)
    assert reply.body is not None
    sent: dict[str, Any] = json.loads(reply.body)
    return sent


def chunk(text: str) -> bytes:
    """One streamed piece of an answer."""
    delta = {"model": "gpt-4o-mini", "choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


def test_a_stated_maximum_is_held_as_it_is() -> None:
    """Nothing less would hold, and the request goes as it came."""
    exchange, reserve = asked(CHAT | {"max_tokens": 77})
    assert (reserve.plan.least, reserve.plan.most) == (77, 77)
    reply = exchange.receive(Admitted(held=True, granted=77), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.body is None


def test_a_whole_answer_is_given_what_was_granted() -> None:
    """`learned`, not streamed: generous while there is room, less near the end, and stated."""
    exchange, reserve = asked(CHAT)
    assert reserve.plan.most == GENEROUS_TOKENS
    assert reserve.plan.least < reserve.plan.most
    reply = exchange.receive(Admitted(held=True, granted=700), NOW_US)
    assert sent(reply) == CHAT | {"max_completion_tokens": 700}


@pytest.mark.parametrize(
    ("path", "request_body", "name"),
    [
        (
            "/openai/v1/completions",
            {"model": "gpt-3.5-turbo-instruct", "prompt": "x"},
            "max_tokens",
        ),
        ("/openai/v1/responses", {"model": "gpt-4o", "input": "x"}, "max_output_tokens"),
        ("/groq/v1/chat/completions", CHAT, "max_completion_tokens"),
    ],
)
def test_each_api_states_it_in_its_own_word(
    path: str, request_body: dict[str, Any], name: str
) -> None:
    """The maximum is said as the called API says it."""
    exchange, _ = asked(request_body, path)
    assert name in sent(exchange.receive(Admitted(held=True, granted=500), NOW_US))


def test_cap_and_ceiling() -> None:
    """`cap` asks for the ceiling and takes less; `ceiling` takes nothing less."""
    _, capped = asked(CHAT, unstated="cap")
    assert capped.plan.least < capped.plan.most == 16_384
    exchange, whole = asked(CHAT, unstated="ceiling")
    assert whole.plan.least == whole.plan.most == 16_384
    reply = exchange.receive(Admitted(held=True, granted=16_384), NOW_US)
    assert sent(reply)["max_completion_tokens"] == 16_384


def test_without_a_hard_budget_nothing_is_stated() -> None:
    """A budget that only reports leaves the request alone."""
    exchange, _ = asked(CHAT, on_exceed="shadow")
    reply = exchange.receive(Admitted(held=True, granted=5), NOW_US)
    assert isinstance(reply, Continue)
    assert reply.body is None


def test_answers_teach_the_next_hold() -> None:
    """Small real answers make small holds, for this key and model."""
    rules = policy(budget())
    for _ in range(20):
        usage = Usage(input_tokens=10, output_tokens=40)
        rules.estimates.observe_key(
            "abcdefgh1234", "openai", "gpt-4o-mini", input_bytes=50, usage=usage
        )
    exchange = Exchange(rules, "e")
    exchange.receive(ask(), NOW_US)
    action = exchange.receive(body(json.dumps(CHAT | {"stream": True})), NOW_US)
    assert isinstance(action, Reserve)
    assert 40 <= action.plan.most <= 60


def test_input_that_cost_more_is_held_by_the_next_call() -> None:
    """What a provider adds to the input unseen is part of the next hold."""
    rules = policy(budget())
    holds = []
    for _ in range(2):
        exchange = Exchange(rules, "e")
        exchange.receive(ask(), NOW_US)
        action = exchange.receive(body(json.dumps(CHAT | {"max_tokens": 1})), NOW_US)
        assert isinstance(action, Reserve)
        holds.append(action.plan.shares[0].amount(1))
        exchange.receive(Admitted(held=True, granted=1), NOW_US)
        exchange.receive(answer_headers(), NOW_US)
        usage = {"prompt_tokens": 5000, "completion_tokens": 1}
        exchange.receive(answer(json.dumps({"model": "gpt-4o-mini", "usage": usage})), NOW_US)
        exchange.close(NOW_US)
    assert holds[1] >= 5000 * 150


def streaming() -> Exchange:
    """A stream of a request without a maximum, 100 tokens granted."""
    exchange, _ = asked(CHAT | {"stream": True, "stream_options": {"include_usage": True}})
    exchange.receive(Admitted(held=True, granted=100), NOW_US)
    exchange.receive(answer_headers("text/event-stream"), NOW_US)
    return exchange


def test_a_stream_asks_for_more_before_it_outgrows_its_hold() -> None:
    """The chunk in hand waits for the verdict, and passes unchanged."""
    exchange = streaming()
    assert isinstance(exchange.receive(answer(chunk("x" * 100), ended=False), NOW_US), Continue)
    piece = chunk("x" * 300)
    grow = exchange.receive(answer(piece, ended=False), NOW_US)
    assert isinstance(grow, Reserve)
    assert grow.grow
    assert grow.plan.most == 100
    assert all(share.base == 0 for share in grow.plan.shares)
    reply = exchange.receive(Admitted(held=True, granted=100), NOW_US)
    assert reply == Continue(body=piece)
    assert not exchange.done


def test_a_stream_that_cannot_grow_ends_with_the_apis_error() -> None:
    """Asked once more at the last; then an error event, a reset, and an event that says `cut`."""
    exchange = streaming()
    exchange.receive(answer(chunk("x" * 270), ended=False), NOW_US)
    assert isinstance(exchange.receive(SPENT, NOW_US), Continue)
    exchange.receive(answer(chunk("x" * 100), ended=False), NOW_US)
    reply = exchange.receive(SPENT, NOW_US)
    assert isinstance(reply, Continue)
    assert reply.body is not None
    error = json.loads(reply.body.rsplit(b"data: ", 1)[1])
    assert error["error"]["code"] == "budget_spent"
    assert exchange.done
    settlement = exchange.close(NOW_US)
    assert settlement is not None
    made = settlement.event
    assert (made.outcome, made.refusal, made.refused_by) == ("cut", "budget_spent", "risk")
    assert made.cost_nanos
    assert settlement.counters
    assert isinstance(exchange.receive(answer(chunk("x"), ended=False), NOW_US), Respond)
