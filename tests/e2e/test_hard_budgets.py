"""Hard budgets under storms of calls: nothing overspends, and nobody is blocked wrongly.

What was spent is the provider's own bill by the price list; books and counters must agree with it.
"""

from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.budgeted import (
    LEAST_TEN_CENTS,
    TEN_CENTS,
    TEN_CENTS_WISH,
    at_once,
    billed,
    refusals,
    said,
    settled,
    team,
    until_refused,
)
from tests.e2e.conftest import wish
from tests.e2e.processes import until
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

USD = 10**9
OUTGROWN = ("budget_held", "budget_spent")  # by its own hold too


def brief(model: str, **more: Any) -> Any:
    """A short request."""
    return {"model": model, "messages": [{"role": "user", "content": "x"}], **more}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_fifty_of_a_hundred_calls_fit(four: Stack, streamed: bool) -> None:
    """100 calls of $0.10 at once against $5, each with the SDK's retries: exactly 50 are served."""
    crew = team(four, f"fifty-{streamed}", "5usd")
    body = {**TEN_CENTS, "stream": streamed}
    with crew.sdk() as client:
        ends = at_once(
            100, lambda: said(client, body, **TEN_CENTS_WISH, first_delay_ms=300, delay_ms=20)
        )
    served = [end for end in ends if isinstance(end, str)]
    others = [end for end in ends if not isinstance(end, str)]
    assert all(len(text.split()) == TEN_CENTS["max_tokens"] for text in served)
    assert len(served) == 50, others[:1]
    assert {error.status_code for error in others} == {402}
    spent = settled(crew, 100)
    assert spent == billed(crew) == 50 * LEAST_TEN_CENTS <= 5 * USD
    assert refusals(crew.events()) <= {"budget_held", "budget_spent"}


def test_freed_money_is_usable_at_once(four: Stack) -> None:
    """Calls that cost a tenth of their hold, one after the other: the budget is used to its end."""
    crew = team(four, "freed", "0.25usd")
    with crew.sdk() as client:
        until_refused(402, lambda: said(client, TEN_CENTS, output_tokens=1000))
    served = crew.events("ok")
    hold = max(event["hold_nanos"] for event in served)
    spent = settled(crew, len(served) + 1)
    assert spent == billed(crew)
    assert USD // 4 - hold < spent <= USD // 4
    until(lambda: len(crew.events("ok")) == 16, what="all sixteen are booked")
    assert refusals(crew.events()) <= {"budget_held", "budget_spent"}


def test_a_held_call_is_retried_by_the_sdk_and_a_spent_one_is_not(four: Stack) -> None:
    """429 with a second's wait while money is only held, 402 once when it is gone."""
    crew = team(four, "patience", "0.15usd")
    with crew.sdk() as client:
        ends = at_once(2, lambda: said(client, TEN_CENTS, output_tokens=1000, first_delay_ms=500))
        assert [type(end) for end in ends] == [str, str]
        events = crew.events()
        held = [event for event in events if event["outcome"] == "refused"]
        assert refusals(held) == {"budget_held"}
        said(client, TEN_CENTS, output_tokens=3000)
        said(client, {**TEN_CENTS, "max_tokens": 9000}, output_tokens=6000)
        before = len(crew.events("refused"))
        with pytest.raises(openai.APIStatusError) as caught:
            said(client, TEN_CENTS)
    assert caught.value.status_code == 402
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert settled(crew, 5 + before) == billed(crew)
    last = crew.events("refused")[before:]
    assert [(e["refusal"], e["refused_by"]) for e in last] == [("budget_spent", crew.name)]


def test_whole_answers_without_a_stated_maximum(four: Stack) -> None:
    """The request that goes upstream carries a maximum that is held, however much is wished for."""
    crew = team(four, "unstated-whole", "0.05usd")
    ask = brief("gpt-4.1")
    with crew.sdk(max_retries=0) as client:
        ends = at_once(20, lambda: said(client, ask, output_tokens=100_000, first_delay_ms=200))
    assert any(isinstance(end, str) for end in ends)
    spent = settled(crew, 20)
    assert spent == billed(crew) <= USD // 20
    for event in crew.events("ok"):
        assert 0 < event["output_tokens"] < 100_000
        assert event["cost_nanos"] <= event["hold_nanos"]


@pytest.mark.parametrize(
    ("model", "streamed"), [("gpt-4.1-nano", False), ("gpt-4.1-mini", True)], ids=["whole", "sse"]
)
def test_small_answers_without_a_maximum_use_a_budget_to_its_end(
    four: Stack, model: str, streamed: bool
) -> None:
    """Nobody states a maximum and answers are small: what is left at the end is less than a call's
    hold.
    """
    amount = 16 * USD // 1000 if streamed else 4 * USD // 1000
    crew = team(four, f"small-{model}", f"{amount / USD}usd")
    ask = brief(model, stream=streamed)
    with crew.sdk(max_retries=4) as client:
        until_refused(402, lambda: said(client, ask, output_tokens=100, chunk_tokens=50))
    served = crew.events("ok")
    spent = settled(crew, len(served) + 1)
    assert spent == billed(crew) <= amount
    one = max(event["cost_nanos"] for event in served)
    assert amount - spent < 1.5 * one, f"{amount - spent} left, a call costs {one}"


def test_a_stream_s_hold_grows_with_it(four: Stack) -> None:
    """A long answer is served whole; its hold was always ahead, and never passed the budget."""
    crew = team(four, "growing", "0.1usd")
    ask = brief("o3", stream=True)
    wishes = {"output_tokens": 4000, "chunk_tokens": 20, "delay_ms": 3}
    with crew.sdk() as client:
        assert len(said(client, ask, **wishes).split()) == 4000
    settled(crew, 1)
    [event] = crew.events("ok")
    assert event["hold_nanos"] >= event["cost_nanos"] == billed(crew) == 4000 * 8000 + 2000


def test_streams_without_a_maximum_never_pass_the_budget_together(four: Stack) -> None:
    """Twelve streams that want three times the budget: some are cut, the sum stays within it."""
    crew = team(four, "growing-storm", "0.02usd")
    ask = brief("gpt-4.1-mini", stream=True)
    wishes = {"output_tokens": 3000, "chunk_tokens": 10, "delay_ms": 4}
    with crew.sdk(max_retries=0) as client:
        at_once(12, lambda: said(client, ask, **wishes))
    settled(crew, 12)
    assert billed(crew) <= USD // 50
    assert {event["outcome"] for event in crew.events()} <= {"ok", "cut", "refused"}
    assert all(event["cost_nanos"] <= event["hold_nanos"] for event in crew.events("ok"))


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_stream_that_outgrows_its_budget_is_ended(four: Stack, api: str) -> None:
    """It ends with the API's own error, the SDK raises, and the provider is told to stop."""
    crew = team(four, f"outgrown-{api}", "0.02usd")
    directives = wish(output_tokens=50_000, chunk_tokens=10, delay_ms=4)
    text: list[str] = []
    codes: list[str] = []
    with crew.sdk() as client, pytest.raises(openai.APIError) as caught:
        _read(client, api, text, codes, directives)
    assert len("".join(text)) > 2000
    code = codes[-1] if codes else caught.value.code
    assert code in OUTGROWN
    spent = settled(crew, 1)
    [event] = crew.events()
    assert (event["outcome"], event["usage_source"]) == ("cut", "estimated")
    assert event["refusal"] in OUTGROWN
    assert event["refused_by"] == crew.name
    assert 0 < spent <= event["hold_nanos"] <= USD // 50
    [bill] = [
        bill
        for bill in four.fake.bills().values()
        if bill["response_id"] == event["provider_response_id"]
    ]
    assert bill["client_gone"]
    assert billed(crew) <= USD // 50


def _read(client: Any, api: str, text: list[str], codes: list[str], directives: Any) -> None:
    """Note what a stream says until it breaks; of responses, the SDK gives an error as an item."""
    if api == "chat":
        ask = brief("gpt-4.1", stream=True)
        for chunk in client.chat.completions.create(**ask, extra_headers=directives):
            text += [choice.delta.content or "" for choice in chunk.choices]
    else:
        ask = {"model": "gpt-4.1", "input": "x", "stream": True}
        for item in client.responses.create(**ask, extra_headers=directives):
            text.append(getattr(item, "delta", "") or "")
            codes += [item.code] if item.type == "error" else []


@pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
def test_prompts_that_cross_a_price_tier(four: Stack) -> None:
    """Five long prompts at once against money for one at the dearer price: one is served."""
    crew = team(four, "long-context", "3usd")
    text = "word " * 80_000
    url = f"{four.gateway}/anthropic"
    with anthropic.Anthropic(base_url=url, api_key=crew.key, max_retries=0) as client:

        def call() -> Any:
            try:
                return client.messages.create(
                    model="claude-sonnet-4-5",
                    max_tokens=100,
                    messages=[{"role": "user", "content": text}],
                    extra_headers=wish(output_tokens=100, extra_input=110_000, first_delay_ms=1000),
                )
            except anthropic.APIStatusError as error:
                return error

        ends = at_once(5, call)
    served = [end for end in ends if not isinstance(end, Exception)]
    assert [end.usage.input_tokens for end in served] == [210_000]
    spent = settled(crew, 5)
    assert spent == billed(crew, "anthropic") == 210_000 * 6_000 + 100 * 22_500
    [event] = crew.events("ok")
    assert spent <= event["hold_nanos"] <= 3 * USD


def test_a_provider_bills_more_input_than_was_estimated(four: Stack) -> None:
    """Calls in flight overrun, on an account of its own and with an alarm; no further one may."""
    crew = team(four, "overrun", "0.03usd")
    ask = brief("gpt-4o", max_tokens=50)
    ends = at_once(8, lambda: crew.post(ask, extra_input=5000, first_delay_ms=1500))
    assert [end.status_code for end in ends] == [200] * 8
    spent = settled(crew, 8)
    assert spent == billed(crew) > 3 * USD // 100
    over = sum(event["cost_nanos"] - event["hold_nanos"] for event in crew.events())
    assert spent - 3 * USD // 100 <= over
    assert crew.post(ask, extra_input=5000).status_code == 402
    accounts = four.rows(
        "SELECT account, sum(amount_nanos)::bigint AS amount FROM journal WHERE account LIKE %s"
        " GROUP BY account ORDER BY account",
        f"%:{crew.name}",
    )
    assert [(row["account"], row["amount"]) for row in accounts] == [
        (f"expense:{crew.name}", spent - over),
        (f"overrun:{crew.name}", over),
    ]
    until(
        lambda: any(
            alert["kind"] == "overrun" and alert["budget"] == crew.name
            for alert in four.json("alerts")
        ),
        what=f"an alarm of {crew.name}",
    )


def test_the_estimate_has_learned_by_the_next_call(four: Stack) -> None:
    """Each worker is surprised once; calls in flight together teach it no more than one does."""
    crew = team(four, "learning", "1000usd")
    ask = brief("gpt-4o", max_tokens=50)
    at_once(16, lambda: crew.post(ask, extra_input=5000, first_delay_ms=500))
    settled(crew, 16)
    seen = {event["producer"] for event in crew.events()}
    assert len(seen) == 4
    for _ in range(40):
        assert crew.post(ask, extra_input=5000).status_code == 200
    settled(crew, 56)
    later = crew.events()[16:]
    assert all(event["cost_nanos"] <= event["hold_nanos"] for event in later)
    assert all(event["hold_nanos"] < 2 * event["cost_nanos"] for event in later)
