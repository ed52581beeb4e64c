"""A key's own limits, prepaid credit, and what else a spent budget can do than refuse."""

from typing import Any

import httpx
import openai
import pytest

from tests.e2e.budgeted import (
    Team,
    at_once,
    billed,
    early_in_minute,
    member,
    refusals,
    said,
    seconds_left_in_minute,
    settled,
    team,
    until_refused,
)
from tests.e2e.conftest import wish
from tests.e2e.processes import until
from tests.e2e.stack import EVENT_ID, Stack

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

CALLS = 40
USD = 10**9


def ask(most: int) -> Any:
    """A short request that states a maximum."""
    return {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": most,
    }


def codes(answers: list[httpx.Response]) -> list[str]:
    """What refused answers say."""
    return [answer.json()["error"]["code"] for answer in answers if answer.status_code != 200]


def statuses(answers: list[httpx.Response]) -> dict[int, int]:
    """How many answers had each status."""
    found = [answer.status_code for answer in answers]
    return {status: found.count(status) for status in sorted(set(found))}


def test_calls_per_minute_are_exact(four: Stack) -> None:
    """Forty at once against ten a minute: ten are served, the others know when to come again."""
    labels = ("--owner", "ann", "--team", "rpm-team", "--agent", "scout", "--workload", "nightly")
    issued = four.json("keys", "issue", *labels, "--rpm", "10")
    member(four, "rpm-team")  # workers that know this later key know the other, still unused
    crew = Team(four, "rpm-team", issued["key"], issued["key_id"])
    early_in_minute()
    answers = at_once(CALLS, lambda: crew.post(ask(10)))
    turns_s = seconds_left_in_minute()
    assert statuses(answers) == {200: 10, 429: 30}
    assert set(codes(answers)) == {"rate_limited"}
    for answer in answers:
        if answer.status_code == 429:
            assert turns_s <= int(answer.headers["retry-after"]) <= 60
            assert answer.json()["error"]["limit_source"] == "rate"


def test_tokens_per_minute_are_exact(four: Stack) -> None:
    """Calls of nearly a thousand tokens against ten thousand a minute: ten are served."""
    crew = member(four, "tpm-team", "--tpm", "10000")
    early_in_minute()
    answers = at_once(CALLS, lambda: crew.post(ask(890), output_tokens=890, first_delay_ms=4000))
    assert statuses(answers) == {200: 10, 429: 30}
    assert set(codes(answers)) <= {"budget_held", "rate_limited"}
    late = crew.post(ask(3000))
    assert (late.status_code, codes([late])) == (429, ["rate_limited"])


def test_calls_under_way_are_exact(four: Stack) -> None:
    """Forty at once against seven at a time: seven are served; later there is room again."""
    crew = member(four, "parallel-team", "--max-parallel", "7")
    answers = at_once(CALLS, lambda: crew.post(ask(10), first_delay_ms=4000))
    assert statuses(answers) == {200: 7, 429: 33}
    assert set(codes(answers)) == {"too_many_parallel"}
    for _ in range(3):
        assert statuses(at_once(7, lambda: crew.post(ask(10), first_delay_ms=200))) == {200: 7}
        until(
            lambda: four.counter(f"parallel-{crew.key_id}") == {"held": 0},
            what="no call is under way",
            deadline_s=5,
        )


def test_a_shadow_budget_refuses_nothing(four: Stack) -> None:
    """Its events say what it would have refused; its counter counts on."""
    crew = team(four, "shadow", "0.001usd", "--on-exceed", "shadow")
    answers = at_once(12, lambda: crew.post(ask(20), output_tokens=20))
    answers.append(crew.post(ask(2000)))
    assert statuses(answers) == {200: 13}
    assert settled(crew, 13) == billed(crew) > USD // 1000
    said_of = [event["shadow_refusal"] for event in crew.events()]
    assert "" in said_of
    assert said_of[-1] == "request_over_budget shadow"
    assert set(said_of) - {""} <= {
        *("budget_held shadow", "budget_spent shadow", "request_over_budget shadow")
    }


def test_a_throttling_budget_slows_down(four: Stack) -> None:
    """A minute's share of what is left is served; the next call is told to wait a minute."""
    crew = team(four, "throttle", "0.02usd", "--on-exceed", "throttle")
    early_in_minute()
    answers = at_once(20, lambda: crew.post(ask(20), output_tokens=20))
    answers += [crew.post(ask(20)) for _ in range(8)]
    assert 1 <= statuses(answers)[200] <= 10
    assert set(codes(answers)) == {"throttled"}
    assert all(1 <= int(a.headers["retry-after"]) <= 60 for a in answers if a.status_code == 429)
    assert 0 < settled(crew, 28) == billed(crew) <= USD // 50 // 20


def test_a_throttling_budget_has_room_for_one_large_call(four: Stack) -> None:
    """A call larger than the minute's share passes as long as it fits the budget."""
    crew = team(four, "throttle-large", "0.05usd", "--on-exceed", "throttle")
    early_in_minute()
    answers = [crew.post(ask(1000), output_tokens=1000) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert codes(answers) == ["throttled"]


def test_prepaid_credit_ends_and_a_caller_who_pays_itself_goes_on(four: Stack) -> None:
    """402 at zero, once: the SDK does not retry. With an own credential the wallet is not asked."""
    name = "prepaid"
    assert four.ledger("wallets", "create", name, "--where", f"team={name}").returncode == 0
    wallet = f"wallet-{four.json('wallets', 'show', name)['wallet_id']}"
    crew = member(four, name, budget_id=wallet)
    with crew.sdk() as client:
        until_refused(402, lambda: said(client, ask(200)), most=1)
        assert four.ledger("wallets", "top-up", name, "--amount", "0.02usd").returncode == 0
        until(lambda: crew.post(ask(200), output_tokens=1).status_code == 200, what="credit works")
        error = until_refused(402, lambda: said(client, ask(200), output_tokens=200))
    assert error.code == "credit_spent"
    spent = settled(crew, 10)
    assert 0.8 * USD / 50 < spent == billed(crew) <= USD // 50
    refused = len(
        crew.events("refused")
    )  # some may have waited for a hold that was on its way back
    with crew.sdk() as client, pytest.raises(openai.APIStatusError):
        said(client, ask(200))
    headers = {"x-tollkeeper-key": crew.key, "authorization": "Bearer sk-their-own", **wish()}
    url = f"{four.gateway}/openai/v1/chat/completions"
    own = httpx.post(url, json=ask(200), headers=headers, timeout=30)
    assert own.status_code == 200, own.text
    event = four.event(own.headers[EVENT_ID])
    assert event["byok"]
    assert event["cost_nanos"] > 0
    assert len(crew.events("refused")) == refused + 1
    assert refusals(crew.events()) - {"budget_held"} == {"credit_spent"}
    assert crew.counter() == (spent, 0)
    shown = four.json("wallets", "show", name)
    assert (shown["balance_nanos"], shown["held_nanos"]) == (USD // 50 - spent, 0)
