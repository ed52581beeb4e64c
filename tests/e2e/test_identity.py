"""Who the person is, and for which customer: real tokens, real Envoy, one key for many people."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.embedded import free_port
from tests.e2e import issuer
from tests.e2e.conftest import wish
from tests.e2e.fake import Fake
from tests.e2e.processes import until
from tests.e2e.stack import EVENT_ID, Event, Stack, running

CHAT = "/openai/v1/chat/completions"
ASK: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "max_tokens": 50}
ANN, BOB = "ann@example.com", "bob@example.com"
APART = "x-user-token"
OURS = "sk-the-gateways-own"
CREDENTIALS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
TOKENS = ("--jwt-issuer", issuer.ISSUER, "--jwt-audience", issuer.AUDIENCE)
CLAIMED = {
    **dict.fromkeys(
        (
            *("x-user", "x-forwarded-user", "x-forwarded-email", "x-auth-request-email"),
            *("x-tollkeeper-principal", "x-tollkeeper-owner", "x-jwt-payload", "x-jwt-claim-email"),
            *("x-envoy-metadata", "x-envoy-dynamic-metadata", "envoy.filters.http.jwt_authn"),
        ),
        "mallory",
    ),
    "x-customer-id": "mallory",
    "baggage": "principal=mallory",
    "cookie": "user=mallory",
}
"""Headers by which other systems are told who somebody is, and some that look like metadata."""


@pytest.fixture(scope="module")
def people(fake: Fake, services_directory: Path) -> Iterator[Stack]:
    """A gateway that takes tokens where credentials stand, with the issuer's keys in a file."""
    keys = services_directory / "keys.json"
    keys.write_text(json.dumps(issuer.key_set()))
    options = ("--jwks", str(keys), *TOKENS)
    with running(
        services_directory / "people", fake, more=options, variables={"OPENAI_API_KEY": OURS}
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def apart(fake: Fake, services_directory: Path) -> Iterator[Stack]:
    """A gateway that takes tokens in a header of their own, with keys that it fetches."""
    with issuer.published() as url:
        options = ("--jwks", url, *TOKENS, "--jwt-header", APART)
        with running(services_directory / "apart", fake, more=options) as stack:
            yield stack


def call(stack: Stack, key: str, *, body: Any = ASK, **headers: str) -> httpx.Response:
    """One call with our key in its own header; the others with `_` for `-`."""
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    head = {"x-tollkeeper-key": key, **wish(output_tokens=3), **said}
    return httpx.post(stack.gateway + CHAT, json=body, headers=head, timeout=30)


def as_person(stack: Stack, key: str, token: str, **options: Any) -> httpx.Response:
    """One call with our key, and a token as its bearer."""
    return call(stack, key, authorization=f"Bearer {token}", **options)


def event(stack: Stack, answer: httpx.Response) -> Event:
    """The event of a call that was answered well."""
    assert answer.status_code == 200, answer.text
    return stack.event(answer.headers[EVENT_ID])


def arrived(fake: Fake, answer: httpx.Response) -> dict[str, str]:
    """The headers with which a call reached the provider."""
    return dict(fake.request(answer.headers["x-request-id"])["headers"])


def spent(stack: Stack, key_id: str) -> dict[str, int]:
    """Calls of a key by principal, as `ledger spend` says."""
    asked = ("spend", "--by", "principal", "--where", f"key={key_id}")
    where = ("--where", "operation=chat")
    return {row["principal"]: row["calls"] for row in stack.json(*asked, *where)["rows"]}


def test_two_people_share_one_key(people: Stack) -> None:
    """Each call is in the books as the person's who made it, streamed or not, RSA or EC."""
    key = people.issue()
    for token in (issuer.token(email=ANN, sub="u-1"), issuer.es256(email=ANN)):
        assert event(people, as_person(people, key["key"], token))["owner"] == "ann"
    streamed = {**ASK, "stream": True}
    bob = issuer.token(preferred_username=BOB, sub="u-2")
    assert event(people, as_person(people, key["key"], bob, body=streamed))["streamed"] is True
    assert event(people, call(people, key["key"]))["principal"] == "ann"
    expected = {ANN: 2, BOB: 1, "ann": 1}
    until(lambda: spent(people, key["key_id"]) == expected, what="spend by principal")
    shown = people.ledger("spend", "--by", "principal").stdout
    assert ANN in shown
    assert BOB in shown


def test_a_token_is_no_credential(people: Stack, fake: Fake) -> None:
    """It ends at the gateway, which pays with its own credential: the call is not the caller's."""
    key = people.issue()["key"]
    answer = as_person(people, key, issuer.token(email=ANN))
    assert event(people, answer)["byok"] is False
    seen = arrived(fake, answer)
    assert [seen[name] for name in CREDENTIALS if name in seen] == [f"Bearer {OURS}"]
    assert "eyJ" not in json.dumps(seen)


def test_keys_and_credentials_work_beside_tokens(people: Stack, fake: Fake) -> None:
    """Our key may stand where tokens do, and callers may still bring a provider's credential."""
    key = people.issue()["key"]
    url = people.gateway + CHAT
    bare = httpx.post(url, json=ASK, headers={"authorization": f"Bearer {key}"}, timeout=30)
    assert event(people, bare)["principal"] == "ann"
    assert arrived(fake, bare)["authorization"] == f"Bearer {OURS}"
    own = call(people, key, authorization="Bearer sk-own")
    assert (event(people, own)["principal"], event(people, own)["byok"]) == ("ann", True)
    assert arrived(fake, own)["authorization"] == "Bearer sk-own"


HOUR_AGO = 1_500_000_000
BAD: dict[str, tuple[int, Callable[[], str]]] = {
    "expired": (401, lambda: issuer.token(email=ANN, exp=HOUR_AGO)),
    "not yet": (401, lambda: issuer.token(email=ANN, nbf=32_503_680_000, exp=32_503_680_001)),
    "forged": (401, lambda: issuer.token(email=ANN, key=issuer.STRANGER)),
    "another payload": (401, lambda: issuer.with_another_payload(email=ANN)),
    "unsigned": (401, lambda: issuer.unsigned(email=ANN)),
    "public key as secret": (401, lambda: issuer.public_key_as_secret(email=ANN)),
    "another issuer": (401, lambda: issuer.token(email=ANN, iss="https://evil.example.com")),
    "another audience": (403, lambda: issuer.token(email=ANN, aud="mail")),
    "no audience": (403, lambda: issuer.token(email=ANN, aud=None)),
    "no token at all": (401, lambda: "eyJhbGciOiJSUzI1NiJ9"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["people", "apart"])
def test_a_bad_token_spends_nothing(
    request: pytest.FixtureRequest, fake: Fake, where: str, bad: str
) -> None:
    """Envoy itself refuses it in a shape that SDKs read; no provider sees it, nobody is charged,
    and that it came is on record.
    """
    stack: Stack = request.getfixturevalue(where)
    key = stack.issue()
    before = len(fake.bills())
    status, make = BAD[bad]
    name = APART if where == "apart" else "authorization"
    answer = call(stack, key["key"], **{name: make() if where == "apart" else f"Bearer {make()}"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == "token_refused"
    assert "get a new one" in error["message"]
    assert len(fake.bills()) == before
    refused = stack.event(answer.headers[EVENT_ID])
    assert (refused["outcome"], refused["http_status"]) == ("refused", status)
    assert (refused["key_id"], refused["principal"], refused["cost_nanos"]) == ("", "", 0)
    assert spent(stack, key["key_id"]) == {}


def test_a_good_token_without_a_key_is_not_enough(people: Stack) -> None:
    """Whoever somebody is, there is no spend without a key and its labels."""
    head = {"authorization": f"Bearer {issuer.token(email=ANN)}"}
    answer = httpx.post(people.gateway + CHAT, json=ASK, headers=head, timeout=30)
    assert answer.status_code == 401
    assert people.event(answer.headers[EVENT_ID])["refusal"] == "key_missing"


def test_another_spelling_of_bearer_leads_past_nothing(people: Stack) -> None:
    """What Envoy would not read as a token is refused or names nobody; never is it the person."""
    key = people.issue()["key"]
    token = issuer.token(email=ANN)
    forged = issuer.token(email=ANN, key=issuer.STRANGER)
    for spelling in (f"bearer {forged}", f"BEARER {forged}", f"Bearer  {forged}"):
        assert call(people, key, authorization=spelling).status_code == 401
    for spelling in (token, f"Token {token}", f"Bearer\t{token}", f"Basic {token}"):
        found = event(people, call(people, key, authorization=spelling))
        assert (found["principal"], found["byok"]) == ("ann", True)
    double = [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {forged}")]
    head = [("x-tollkeeper-key", key), *double]
    answer = httpx.post(people.gateway + CHAT, json=ASK, headers=head, timeout=30)
    assert answer.status_code == 401


@pytest.mark.parametrize("where", ["people", "apart", "stack"])
def test_a_header_changes_nothing(request: pytest.FixtureRequest, where: str) -> None:
    """Neither with nor without a filter that verifies tokens: nobody is who a header says."""
    stack: Stack = request.getfixturevalue(where)
    key = stack.issue()["key"]
    for headers in (CLAIMED, *({name: value} for name, value in CLAIMED.items())):
        found = event(stack, call(stack, key, **headers))
        assert (found["principal"], found["customer"], found["labels"]) == ("ann", "", {})
        assert "mallory" not in json.dumps(found, default=str)


def test_a_token_that_nobody_verifies_names_nobody(stack: Stack) -> None:
    """Without the filter a token is a credential of the caller's own, and no more than that."""
    key = stack.issue()["key"]
    for token in (issuer.token(email=ANN), issuer.unsigned(email=ANN)):
        found = event(stack, as_person(stack, key, token))
        assert (found["principal"], found["byok"]) == ("ann", True)
    assert (
        event(stack, call(stack, key, x_user_token=issuer.token(email=ANN)))["principal"] == "ann"
    )


def test_a_token_in_a_header_of_its_own(apart: Stack, fake: Fake) -> None:
    """Our key stays where SDKs put it; the token goes no further than the gateway."""
    key = apart.issue()["key"]
    head = {"authorization": f"Bearer {key}", APART: issuer.token(email=ANN)}
    answer = httpx.post(apart.gateway + CHAT, json=ASK, headers=head, timeout=30)
    found = event(apart, answer)
    assert (found["principal"], found["byok"]) == (ANN, False)
    assert not {APART, *CREDENTIALS}.intersection(arrived(fake, answer))


def test_a_providers_token_passes_beside_it(apart: Stack, fake: Fake) -> None:
    """Azure's and Google's credentials are tokens too: the caller's own, and naming nobody."""
    key = apart.issue()["key"]
    theirs = issuer.token(email=BOB, key=issuer.STRANGER, iss="https://sts.example.net")
    answer = as_person(apart, key, theirs, x_user_token=issuer.token(email=ANN))
    found = event(apart, answer)
    assert (found["principal"], found["byok"]) == (ANN, True)
    assert arrived(fake, answer)["authorization"] == f"Bearer {theirs}"


def test_an_issuer_that_is_away_stops_nobody_else(fake: Fake, services_directory: Path) -> None:
    """The gateway starts, calls without a token work, and tokens do as soon as there are keys."""
    port = free_port()
    options = ("--jwks", f"http://127.0.0.1:{port}/keys", *TOKENS)
    with running(services_directory / "away", fake, more=options) as stack:
        key = stack.issue()["key"]
        token = issuer.token(email=ANN)
        assert call(stack, key).status_code == 200
        refused = as_person(stack, key, token)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "token_refused")
        with issuer.published(port):

            def served() -> httpx.Response | None:
                answer = as_person(stack, key, token)
                return answer if answer.status_code == 200 else None

            answer = until(served, what="tokens are verified again")
            assert event(stack, answer)["principal"] == ANN


def test_a_person_s_budget_binds_that_person(people: Stack) -> None:
    """On the same key one is refused and the other is not."""
    spare = ("--amount", "0.0001usd", "--per", "total")
    done = people.ledger("budgets", "set", "carl", "--where", "principal=carl@example.com", *spare)
    assert done.returncode == 0, done.stderr
    key = people.issue()["key"]
    refused = as_person(people, key, issuer.token(email="carl@example.com"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "request_over_budget")
    assert people.event(refused.headers[EVENT_ID])["principal"] == "carl@example.com"
    assert as_person(people, key, issuer.token(email=ANN)).status_code == 200
    assert call(people, key).status_code == 200


def test_a_service_account_has_no_person(people: Stack) -> None:
    """Its calls have an owner and a team; a token beside its key changes nothing."""
    key = people.issue("--service-account")
    for answer in (
        call(people, key["key"]),
        as_person(people, key["key"], issuer.token(email=ANN)),
    ):
        found = event(people, answer)
        assert (found["owner"], found["team"], found["principal"]) == ("ann", "risk", "")
    until(lambda: spent(people, key["key_id"]) == {"": 2}, what="spend without a person")
    shown = people.ledger("spend", "--by", "principal", "--where", f"key={key['key_id']}")
    assert "(no person)" in shown.stdout


def test_a_key_that_may_names_its_customers(stack: Stack, fake: Fake) -> None:
    """The header says for whom, until it is forbidden; no provider ever sees it."""
    key = stack.issue("--customer-header", "--customer", "house")
    named = call(stack, key["key"], x_customer_id="acme")
    assert event(stack, named)["customer"] == "acme"
    assert "x-customer-id" not in arrived(fake, named)
    assert event(stack, call(stack, key["key"]))["customer"] == "house"
    assert event(stack, call(stack, key["key"], x_customer_id="a" * 201))["customer"] == "house"
    stack.json("keys", "set", key["key_id"], "--no-customer-header")
    stack.until_known(stack.issue()["key"])
    forbidden = call(stack, key["key"], x_customer_id="acme")
    assert event(stack, forbidden)["customer"] == "house"
    assert "x-customer-id" not in arrived(fake, forbidden)


def test_a_customer_s_budget_and_wallet_bind_that_customer(stack: Stack) -> None:
    """On the same key: one has spent its budget, one its credit, and one may call."""
    spare = ("--amount", "0.0001usd", "--per", "total")
    budget = ("budgets", "set", "initech", "--where", "customer=initech", *spare)
    for command in (budget, ("wallets", "create", "umbrella", "--where", "customer=umbrella")):
        done = stack.ledger(*command)
        assert done.returncode == 0, done.stderr
    key = stack.issue("--customer-header")["key"]

    def code(customer: str) -> str | None:
        answer = call(stack, key, x_customer_id=customer)
        return None if answer.status_code == 200 else str(answer.json()["error"]["code"])

    assert code("initech") == "request_over_budget"
    assert code("umbrella") == "credit_spent"
    assert code("globex") is None
    stack.json("wallets", "top-up", "umbrella", "--amount", "5usd", "--reference", "invoice 1")
    until(lambda: code("umbrella") is None, what="the paid credit is there")
    plain = stack.issue()["key"]
    assert call(stack, plain, x_customer_id="initech").status_code == 200
