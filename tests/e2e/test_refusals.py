"""Refused calls as the official SDKs see them: their exceptions, our words, no vain retry."""

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.conftest import openai_client, wish
from tests.e2e.processes import until
from tests.e2e.stack import EVENT_ID, Stack

ASK: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "max_tokens": 50}


def refused(stack: Stack, key: str, kind: type[openai.APIStatusError]) -> openai.APIStatusError:
    """The SDK's exception for one call, made with the SDK's default of two retries."""
    with openai_client(stack, key) as client, pytest.raises(kind) as caught:
        client.chat.completions.create(**ASK)
    return caught.value


def event_of(stack: Stack, error: Any) -> dict[str, Any]:
    """The event of the call that an SDK's exception tells of."""
    event = stack.event(error.response.headers[EVENT_ID])
    assert event["outcome"] == "refused"
    assert event["http_status"] == error.status_code
    assert event["cost_nanos"] in (0, None)
    assert event["input_tokens"] == 0
    return event


def refusals(stack: Stack, code: str) -> int:
    """How many events were refused with a code."""
    return len(stack.rows("SELECT event_id FROM events WHERE refusal = %s", code))


def test_an_unknown_key_is_an_authentication_error(stack: Stack) -> None:
    """401 with our sentence, once: the SDK does not try again."""
    before = refusals(stack, "key_unknown")
    error = refused(stack, "tk-nobody-nothing", openai.AuthenticationError)
    assert "not known here" in error.message
    assert event_of(stack, error)["refusal"] == "key_unknown"
    assert refusals(stack, "key_unknown") == before + 1


def test_no_key_and_a_provider_s_own_key_are_refused(stack: Stack) -> None:
    """There is no unlabelled spend: a credential that is not ours is not enough."""
    url = f"{stack.gateway}/openai/v1/chat/completions"
    for headers in ({}, {"authorization": "Bearer sk-proj-abc"}):
        answer = httpx.post(url, json=ASK, headers=headers)
        assert answer.status_code == 401
        assert stack.event(answer.headers[EVENT_ID])["refusal"] == "key_missing"


def test_a_revoked_key_is_refused_within_a_second(stack: Stack) -> None:
    """A second after `ledger keys revoke` has returned, no worker takes the key."""
    issued = stack.issue()
    assert stack.ledger("keys", "revoke", issued["key_id"]).returncode == 0
    returned = last_taken = time.monotonic()
    headers = {"authorization": f"Bearer {issued['key']}"}
    url = f"{stack.gateway}/openai/v1/models"
    refused_in_a_row = 0
    while refused_in_a_row < 8:  # fresh connections: eight of them reach both workers
        asked = time.monotonic()
        assert asked - returned < 10
        if httpx.get(url, headers=headers).status_code == 401:
            refused_in_a_row += 1
        else:
            refused_in_a_row, last_taken = 0, asked
    assert last_taken - returned < 1.0
    error = refused(stack, issued["key"], openai.AuthenticationError)
    assert "revoked" in error.message
    assert event_of(stack, error)["key_id"] == issued["key_id"]


def test_a_suspended_key_is_a_permission_error(stack: Stack) -> None:
    """403 while it is suspended, and none when it is resumed."""
    issued = stack.issue()
    assert stack.ledger("keys", "suspend", issued["key_id"]).returncode == 0

    def error() -> openai.PermissionDeniedError | None:
        with openai_client(stack, issued["key"]) as client:
            try:
                client.chat.completions.create(**ASK)
            except openai.PermissionDeniedError as caught:
                return caught
        return None

    found = until(error, what="the suspended key is refused", deadline_s=2)
    assert "suspended" in found.message
    assert event_of(stack, found)["refusal"] == "key_suspended"
    assert stack.ledger("keys", "resume", issued["key_id"]).returncode == 0
    until(lambda: error() is None, what="the resumed key is taken", deadline_s=2)


def test_a_request_larger_than_the_key_s_limit_is_402(stack: Stack) -> None:
    """The SDK raises its plain status error with our sentence, and does not try again."""
    issued = stack.issue("--max-spend", "0.000001")
    error = refused(stack, issued["key"], openai.APIStatusError)
    assert error.status_code == 402
    assert "limit of this key" in error.message
    assert error.response.headers["x-should-retry"] == "false"
    [event] = stack.events_of(issued["key_id"], 1)
    assert event["refusal"] == event_of(stack, error)["refusal"]


def test_a_spent_key_is_402_until_the_end(stack: Stack) -> None:
    """Real costs use the lifetime limit up; what was admitted before stays within it."""
    limit_nanos = 2_000_000
    issued = stack.issue("--max-spend", "0.002")
    with openai_client(stack, issued["key"]) as client:
        passed, error = _spend(client)
    assert error.status_code == 402
    assert passed > 0
    events = stack.events_of(issued["key_id"], passed + 1)
    spent = sum(event["cost_nanos"] for event in events if event["outcome"] == "ok")
    assert 0 < spent <= limit_nanos
    # The SDK waits and asks again where the call before it has yet to give its hold back.
    told = [e["refusal"] for e in events if e["refusal"] not in ("", "budget_held")]
    assert len(told) == 1
    assert sum(event["outcome"] == "ok" for event in events) == passed
    # Not one more token than the limit, but not much less either: a hold is 0.5 thousandths.
    assert spent > limit_nanos - 2 * 700_000


def _spend(client: openai.OpenAI) -> tuple[int, openai.APIStatusError]:
    for number in range(60):
        try:
            client.chat.completions.create(**ASK, extra_headers=wish(output_tokens=50))
        except openai.APIStatusError as error:
            return number, error
    raise AssertionError("the limit was never reached")


def test_a_spent_budget_is_a_rate_limit_error_without_a_vain_retry(stack: Stack) -> None:
    """429 with the time until the month turns; the SDK is told that a retry cannot help."""
    team = "spent-team"
    issued = stack.issue(team=team)
    options = ("--where", f"team={team}", "--amount", "0.001usd", "--per", "month")
    assert stack.ledger("budgets", "set", team, *options).returncode == 0
    with openai_client(stack, issued["key"]) as client:
        passed, error = _spend(client)
    assert isinstance(error, openai.RateLimitError)
    assert team in error.message
    headers = error.response.headers
    assert headers["x-should-retry"] == "false"
    assert int(headers["retry-after"]) > 0
    body: Any = error.body
    assert body["limit_source"] == "budget" or "budget" in str(body)
    events = stack.events_of(issued["key_id"], passed + 1)
    # A call may first wait for the hold of the one before, which the SDK's own retry is for.
    assert sum(event["refusal"] == "budget_spent" for event in events) == 1


def test_a_hold_in_flight_is_waited_for(stack: Stack) -> None:
    """A budget held by a call under way answers 429, retryable, and the SDK's retry succeeds."""
    team = "held-team"
    issued = stack.issue(team=team)
    options = ("--where", f"team={team}", "--amount", "0.0011usd", "--per", "total")
    assert stack.ledger("budgets", "set", team, *options).returncode == 0
    _until_budget(stack, team)
    url = f"{stack.gateway}/openai/v1/chat/completions"
    headers = {"authorization": f"Bearer {issued['key']}", **wish(delay_ms=100)}
    body = {**ASK, "stream": True}
    with httpx.stream("POST", url, json=body, headers=headers) as first:
        assert first.status_code == 200
        with openai_client(stack, issued["key"]) as client:
            raw = client.chat.completions.with_raw_response.create(**ASK)
    assert raw.retries_taken > 0
    events = stack.events_of(issued["key_id"], 2 + raw.retries_taken)
    held = [event for event in events if event["outcome"] == "refused"]
    assert {event["refusal"] for event in held} == {"budget_held"}
    assert len(held) == raw.retries_taken


def _until_budget(stack: Stack, name: str) -> None:
    """Wait until the budget can be seen by its own command; workers follow within a second."""

    def listed() -> bool:
        return name in stack.ledger("budgets", "list", "--format", "json").stdout

    until(listed, what=f"budget {name}")
    time.sleep(1.0)


def test_anthropic_s_sdk_raises_its_own(stack: Stack) -> None:
    """The same refusals in Anthropic's shape: 401, 403 and 402."""
    issued = stack.issue("--max-spend", "0.000001")
    ask: Any = {**ASK, "model": "claude-sonnet-4-6"}

    def error(key: str, kind: type[anthropic.APIStatusError]) -> anthropic.APIStatusError:
        url = f"{stack.gateway}/anthropic"
        with (
            anthropic.Anthropic(base_url=url, api_key=key) as client,
            pytest.raises(kind) as caught,
        ):
            client.messages.create(**ask)
        return caught.value

    spent = error(issued["key"], anthropic.APIStatusError)
    assert spent.status_code == 402
    unknown = error("tk-nobody-nothing", anthropic.AuthenticationError)
    body: Any = unknown.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "authentication_error"
    assert "not known here" in body["error"]["message"]
    for caught in (spent, unknown):
        event_of(stack, caught)
    assert len(stack.events_of(issued["key_id"], 1)) == 1


def test_no_concurrency_passes_a_hard_budget(stack: Stack) -> None:
    """Twenty calls at once against a budget for four: the sum of real costs stays within it."""
    team = "storm-team"
    issued = stack.issue(team=team)
    options = ("--where", f"team={team}", "--amount", "0.0025usd", "--per", "total")
    assert stack.ledger("budgets", "set", team, *options).returncode == 0
    _until_budget(stack, team)
    url = f"{stack.gateway}/openai/v1/chat/completions"
    headers = {
        "authorization": f"Bearer {issued['key']}",
        **wish(output_tokens=50, first_delay_ms=2000),  # all are there before the first one ends
    }

    def call(_: int) -> int:
        return httpx.post(url, json=ASK, headers=headers, timeout=30).status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(call, range(20)))
    assert set(statuses) == {200, 429}
    events = stack.events_of(issued["key_id"], 20)
    spent = sum(event["cost_nanos"] for event in events if event["outcome"] == "ok")
    assert spent <= 2_500_000
    assert len(events) == 20


def test_a_command_that_fails_says_why(stack: Stack) -> None:
    """A key without a label is never issued."""
    attempts: list[Callable[[], subprocess.CompletedProcess[str]]] = [
        lambda: stack.ledger("keys", "issue", "--owner", "ann", "--team", "risk"),
        lambda: stack.ledger(
            *("keys", "issue", "--owner", "ann", "--team", " ", "--agent", "a"),
            *("--workload", "w"),
        ),
    ]
    for attempt in attempts:
        done = attempt()
        assert done.returncode in (1, 2)
        assert done.stderr.strip()
