"""Keys that callers have, on the real stack: they call unchanged, until their grace ends."""

import hashlib
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.conftest import openai_client
from tests.e2e.processes import until
from tests.e2e.stack import EVENT_ID, Stack

pytestmark = pytest.mark.timeout(180)

PLAIN = "sk-litellm-Zx81ahhKqT3Qp0aV"
HASHED = "sk-litellm-Hm27bWwPz9LrY5nD"
UUID = "5b0c2f0a-4c2e-4a39-9c51-0f5a1a2f7f9e"
MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def imported(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Key ids by text: a labelled key, one of which only the team is known, and one of which
    nothing is.
    """
    file = tmp_path_factory.mktemp("keys") / "old.csv"
    digest = hashlib.sha256(HASHED.encode()).hexdigest()
    lines = (
        "key,sha256,owner,team,agent,workload,name",
        f"{PLAIN},,ann,import-team,kyc,onboarding,kyc in production",
        f",{digest},,import-team,,,the old batch",
        f"{UUID},,,,,,",
    )
    file.write_text("\n".join(lines) + "\n")
    found = stack.json("keys", "import", str(file))
    assert (found["imported"], found["quarantined"]) == (1, 2)
    for key in (UUID, PLAIN, HASHED):
        stack.until_known(key)
    ids = [result["key_id"] for result in found["results"]]
    return dict(zip((PLAIN, HASHED, UUID), ids, strict=True))


@pytest.fixture(autouse=True)
def unseen(stack: Stack) -> Any:
    """The provider never sees an old key, in no header and in no query."""
    yield
    for request in stack.fake.requests():
        for key in (PLAIN, HASHED, UUID):
            assert key not in str(request)


def said(stack: Stack, key: str) -> dict[str, Any]:
    """The event of one call with the official SDK, of which only the base URL is new."""
    with openai_client(stack, key) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=MESSAGES
        )
        assert answer.parse().choices[0].message.content
        return stack.booked(answer.headers)


def test_an_old_key_calls_unchanged(stack: Stack, imported: dict[str, str]) -> None:
    """With all of its labels it is a key like any."""
    event = said(stack, PLAIN)
    assert event["key_id"] == imported[PLAIN]
    assert (event["owner"], event["team"], event["agent"], event["workload"]) == (
        *("ann", "import-team", "kyc", "onboarding"),
    )
    assert event["byok"] is False


def test_a_quarantined_key_calls_and_is_untagged(stack: Stack, imported: dict[str, str]) -> None:
    """Its digest was all that was imported; what is known of it is on the event."""
    event = said(stack, HASHED)
    assert (event["key_id"], event["team"], event["owner"]) == (
        *(imported[HASHED], "import-team"),
        "",
    )
    found = stack.json("keys", "untagged")
    assert found["untagged_nanos"] >= event["cost_nanos"] > 0


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "x-goog-api-key", "x-tollkeeper-key"])
def test_it_may_stand_wherever_a_key_may(
    stack: Stack, imported: dict[str, str], header: str
) -> None:
    """And in `?key=`."""
    body = {"model": "gpt-4o-mini", "messages": MESSAGES}
    url = f"{stack.gateway}/openai/v1/chat/completions"
    answers = [
        httpx.post(url, json=body, headers={header: UUID}),
        httpx.post(f"{url}?key={UUID}&x=1", json=body),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert stack.event(answer.headers[EVENT_ID])["key_id"] == imported[UUID]


def test_anthropics_sdk_may_use_it_too(stack: Stack, imported: dict[str, str]) -> None:
    """The same key, another API."""
    with anthropic.Anthropic(base_url=f"{stack.gateway}/anthropic", api_key=PLAIN) as client:
        answer = client.messages.with_raw_response.create(
            model="claude-sonnet-4-6", max_tokens=20, messages=MESSAGES
        )
    assert stack.event(answer.headers[EVENT_ID])["key_id"] == imported[PLAIN]


def test_ones_own_credential_stays_ones_own(stack: Stack, imported: dict[str, str]) -> None:
    """Beside an imported key in x-tollkeeper-key an unknown credential goes on; an imported one
    does not.
    """
    body = {"model": "gpt-4o-mini", "messages": MESSAGES}
    url = f"{stack.gateway}/openai/v1/chat/completions"
    for credential, byok in (("sk-my-own-provider-key", True), (HASHED, False)):
        headers = {"x-tollkeeper-key": PLAIN, "authorization": f"Bearer {credential}"}
        answer = httpx.post(url, json=body, headers=headers)
        assert answer.status_code == 200
        event = stack.event(answer.headers[EVENT_ID])
        assert (event["key_id"], event["byok"]) == (imported[PLAIN], byok)
        seen = dict(stack.fake.request(answer.headers["x-request-id"])["headers"])
        assert ("sk-my-own-provider-key" in seen.get("authorization", "")) is byok


def test_a_key_that_nobody_imported_is_refused(stack: Stack) -> None:
    """As a call without a key."""
    with (
        openai_client(stack, "sk-litellm-of-somebody-else") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_backfilled_it_is_labelled_from_the_next_call_on(
    stack: Stack, imported: dict[str, str], tmp_path: Path
) -> None:
    """Quarantine, labels, a labelled event; the events before keep what they had."""
    before = said(stack, HASHED)
    file = tmp_path / "labels.csv"
    header = "key_id,owner,agent,workload,cost_center\n"
    file.write_text(f"{header}{imported[HASHED]},bea,batch,night,7\n")
    assert stack.json("keys", "backfill", str(file))["labelled"] == 1

    def labelled() -> dict[str, Any] | None:
        event = said(stack, HASHED)
        return event if event["owner"] == "bea" else None

    event = until(labelled, what="a labelled event")
    assert (event["key_id"], event["agent"], event["labels"]) == (
        *(imported[HASHED], "batch"),
        {"cost_center": "7"},
    )
    assert stack.event(before["event_id"])["owner"] == ""


def test_after_its_grace_date_it_is_refused_with_what_to_do(
    stack: Stack, imported: dict[str, str]
) -> None:
    """403 in the shape of the API that was called; labels let it call again."""
    moved = ("keys", "grace", imported[UUID], "--until", "1s", "--why", "the end of a test")
    assert stack.ledger(*moved).returncode == 0

    def refused() -> openai.PermissionDeniedError | None:
        try:
            said(stack, UUID)
        except openai.PermissionDeniedError as error:
            return error
        return None

    error = until(refused, what="a refusal")
    assert error.code == "key_quarantined"
    assert "label it" in str(error)
    event = stack.event(error.response.headers[EVENT_ID])
    assert (event["refusal"], event["cost_nanos"], event["key_id"]) == (
        *("key_quarantined", 0),
        imported[UUID],
    )
    with (
        anthropic.Anthropic(base_url=f"{stack.gateway}/anthropic", api_key=UUID) as client,
        pytest.raises(anthropic.PermissionDeniedError) as denied,
    ):
        client.messages.create(model="claude-sonnet-4-6", max_tokens=20, messages=MESSAGES)
    assert "key_quarantined" in str(denied.value.body)
    labels = ("--owner", "a", "--team", "import-team", "--agent", "b", "--workload", "w")
    assert stack.ledger("keys", "relabel", imported[UUID], *labels, "--why", "x").returncode == 0

    def served() -> bool:
        try:
            return bool(said(stack, UUID)["owner"] == "a")
        except openai.PermissionDeniedError:
            return False

    until(served, what="a labelled call")
