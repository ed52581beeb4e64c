"""A team with its own budget on the real stack: its calls, and what they came to in the end."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import httpx
import openai

from ledger.fake_provider.speech import Tokens
from tests.e2e.conftest import openai_client, wish
from tests.e2e.processes import until
from tests.e2e.stack import Event, Stack, cost_of

WORKERS = 4
TEN_CENTS: Any = {  # 9,970 tokens and a little input: its hold and its cost are just below $0.10
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "x"}],
    "max_tokens": 9970,
}
TEN_CENTS_WISH: Any = {"output_tokens": 9970, "chunk_tokens": 500}
LEAST_TEN_CENTS = 99_702_500
QUIET_S = 40.0


@dataclass(frozen=True, slots=True)
class Team:
    """A key, and the budget of its team."""

    stack: Stack
    name: str
    key: str
    key_id: str
    budget_id: str = ""

    def sdk(self, **options: Any) -> Any:
        """The official client, with its own two retries unless told otherwise."""
        client: Any = openai_client(self.stack, self.key)
        return client.with_options(**options) if options else client

    def post(self, body: Any, **directives: Any) -> httpx.Response:
        """One call without any retry, read to its end."""
        url = f"{self.stack.gateway}/openai/v1/chat/completions"
        headers = {"authorization": f"Bearer {self.key}", **wish(**directives)}
        return httpx.post(url, json=body, headers=headers, timeout=60)

    def counter(self) -> tuple[int, int]:
        """What the budget's counter says is used and held."""
        found = self.stack.counter(self.budget_id)
        return found.get("used", 0), found.get("held", 0)

    def events(self, outcome: str = "") -> list[Event]:
        """Its calls in the books, without those that only asked for the list of models."""
        return self.stack.rows(
            "SELECT * FROM events WHERE key_id = %s AND operation <> 'other'"
            " AND (outcome = %s OR %s = '') ORDER BY occurred_at",
            *(self.key_id, outcome, outcome),
        )


def team(stack: Stack, name: str, amount: str, *options: str) -> Team:
    """A new team with a total budget, and its key, both known to every worker."""
    where = ("--where", f"team={name}", "--amount", amount, "--per", "total")
    done = stack.ledger("budgets", "set", name, *where, *options)
    assert done.returncode == 0, done.stderr
    [budget] = stack.rows("SELECT budget_id FROM budgets WHERE name = %s", name)
    return member(stack, name, budget_id=budget["budget_id"])


def member(stack: Stack, name: str, *options: str, budget_id: str = "") -> Team:
    """A new key of a team. Workers that know it know all that was published before it."""
    issued = stack.issue(*options, team=name)
    stack.until_known(issued["key"], WORKERS)
    return Team(stack, name, issued["key"], issued["key_id"], budget_id)


def at_once(number: int, call: Callable[[], Any]) -> list[Any]:
    """What so many calls at the same time came to; what the SDK raised is returned."""

    def one(_: int) -> Any:
        try:
            return call()
        except openai.OpenAIError as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


def said(client: Any, body: Any, **directives: Any) -> str:
    """One call through the SDK, to the end of its answer; the text that came."""
    answer = client.chat.completions.create(**body, extra_headers=wish(**directives))
    if not body.get("stream"):
        return answer.choices[0].message.content or ""
    choices = [choice for chunk in answer for choice in chunk.choices]
    return "".join(choice.delta.content or "" for choice in choices)


def until_refused(status: int, call: Callable[[], Any], most: int = 200) -> openai.APIStatusError:
    """Call until the SDK raises for a refusal, which must have this status."""
    for _ in range(most):
        try:
            call()
        except openai.APIStatusError as error:
            if error.status_code != status:
                raise
            return error
    raise AssertionError(f"{most} calls were served")


def settled(team: Team, calls: int) -> int:
    """What it came to: the books and the counter agree, nothing is held, the audit is content."""

    def agreed() -> int | None:
        events = team.events()
        cost = sum(event["cost_nanos"] for event in events)
        right = len(events) >= calls and team.counter() == (cost, 0)
        return (cost or -1) if right else None

    def what() -> str:
        costs = [event["cost_nanos"] for event in team.events()]
        return f"{len(costs)} of {calls} events, {sum(costs)} spent, counter {team.counter()}"

    try:
        cost = until(agreed, what="", deadline_s=QUIET_S)
    except AssertionError:
        raise AssertionError(f"the books and the counter never agree: {what()}") from None
    until(lambda: audit(team.stack)["ok"], what=f"{audit(team.stack)}", deadline_s=QUIET_S)
    return max(cost, 0)


def audit(stack: Stack) -> Any:
    """What `ledger audit` finds."""
    return json.loads(stack.ledger("audit", "--format", "json").stdout)


def billed(team: Team, provider: str = "openai") -> int:
    """Nanodollars that the provider bills for the team's calls, by its own count."""
    ids = {event["provider_response_id"] for event in team.events()} - {""}

    def closed() -> list[Any] | None:
        bills = [b for b in team.stack.fake.bills().values() if b["response_id"] in ids]
        done = all(bill["complete"] or bill["client_gone"] for bill in bills)
        return bills if done and len(bills) == len(ids) else None

    bills = until(closed, what=f"bills of {len(ids)} calls")
    return sum(_price(b["input_tokens"], b["output_tokens"], b["model"], provider) for b in bills)


@lru_cache
def _price(read: int, spoken: int, model: str, provider: str) -> int:
    return cost_of(Tokens(input_tokens=read, output_tokens=spoken), model, provider)


def refusals(events: Sequence[Event]) -> set[str]:
    """The codes that calls were refused with."""
    return {event["refusal"] for event in events if event["outcome"] == "refused"}


def seconds_left_in_minute() -> int:
    """How long the current minute lasts."""
    return 60 - datetime.now(UTC).second


def early_in_minute(seconds: int = 20) -> None:
    """Wait until so much of a minute lies ahead, where a window may not turn in between."""
    until(lambda: seconds_left_in_minute() > seconds, what="a new minute", deadline_s=30)
