"""Who the person and the customer of a call are: what a request can prove, and what it cannot."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import envoy
from extproc.budget import Admitted
from extproc.events import Claims, Continue, RequestHeaders
from extproc.exchange import Exchange, Reserve
from extproc.identity import PRINCIPAL_CLAIMS, principal
from extproc.policy import Policy
from extproc.wire import core_pb2, ext_proc_pb2
from ledger.event import MeteredEvent
from ledger.label_text import MAX_LABEL_CHARS, fault, usable
from tests.extproc.builders import NOW_US, ask, body, budget, policy

CHAT = body(json.dumps({"model": "gpt-4o-mini", "max_tokens": 9, "messages": []}))
ANN: Claims = {"sub": "u-1", "email": "ann@example.com", "email_verified": True}


def metered(rules: Policy, request: RequestHeaders) -> MeteredEvent:
    """The event of a call that its client leaves after its request."""
    exchange = Exchange(rules, "01981e8e-0000-7000-8000-000000000001")
    exchange.receive(request, NOW_US)
    exchange.receive(CHAT, NOW_US)
    exchange.receive(Admitted(held=True), NOW_US)
    settlement = exchange.close(NOW_US)
    assert settlement is not None
    return settlement.event


def binding(rules: Policy, request: RequestHeaders) -> set[str]:
    """The budgets that are asked for a hold."""
    exchange = Exchange(rules, "01981e8e-0000-7000-8000-000000000001")
    exchange.receive(request, NOW_US)
    action = exchange.receive(CHAT, NOW_US)
    assert isinstance(action, Reserve)
    return {share.budget.name for share in action.plan.shares}


@pytest.mark.parametrize(
    ("tokens", "names", "expected"),
    [
        ((ANN,), PRINCIPAL_CLAIMS, "ann@example.com"),
        ((ANN,), ("sub", "email"), "u-1"),
        (({"sub": "u-1"},), PRINCIPAL_CLAIMS, "u-1"),
        (({"sub": "u-1", "preferred_username": "ann"},), PRINCIPAL_CLAIMS, "ann"),
        (({**ANN, "email_verified": False},), PRINCIPAL_CLAIMS, "u-1"),
        (({**ANN, "email_verified": "false"},), PRINCIPAL_CLAIMS, "u-1"),
        (({"email": " ann@example.com\n", "sub": "x"},), PRINCIPAL_CLAIMS, "ann@example.com"),
        (({"email": "a\0b", "sub": "u-1"},), PRINCIPAL_CLAIMS, "u-1"),
        (({"email": "a" * 201, "sub": "u-1"},), PRINCIPAL_CLAIMS, "u-1"),
        (({"email": True, "sub": "  "},), PRINCIPAL_CLAIMS, ""),
        (({"iss": "x"}, ANN), PRINCIPAL_CLAIMS, "ann@example.com"),
        (({"email": "bob@example.com", "email_verified": False}, {"sub": "u-1"}), ("email",), ""),
        ((), PRINCIPAL_CLAIMS, ""),
    ],
)
def test_the_first_usable_claim_names_the_person(
    tokens: tuple[Claims, ...], names: tuple[str, ...], expected: str
) -> None:
    """Claims are tried in their order; an address that the issuer calls unverified names nobody."""
    assert principal(tokens, names) == expected


def test_a_verified_person_is_the_principal() -> None:
    """One key, two people: each call is the person's who made it, the key's owner answers for all.
    Without a token, or with one that names nobody, the owner is taken to have called.
    """
    rules = policy()
    ann = metered(rules, ask(claims=(ANN,)))
    bob = metered(rules, ask(claims=({"email": "bob@example.com"},)))
    assert (ann.principal, bob.principal) == ("ann@example.com", "bob@example.com")
    assert ann.owner == bob.owner == "ann"
    assert metered(rules, ask()).principal == "ann"
    assert metered(rules, ask(claims=({"scope": "all"},))).principal == "ann"


@pytest.mark.parametrize(
    "header",
    [
        *("x_user", "x_forwarded_user", "x_forwarded_email", "x_jwt_payload", "x_tollkeeper_owner"),
        *("x_tollkeeper_principal", "x_auth_request_email", "x_goog_authenticated_user_email"),
    ],
)
def test_a_header_names_nobody(header: str) -> None:
    """Whatever a client writes, the key's owner is the principal."""
    request = ask()
    request.headers[header.replace("_", "-")] = b"mallory"
    assert metered(policy(), request).principal == "ann"


def test_a_service_account_has_no_person() -> None:
    """Its owner answers for it but did not call; a token beside it changes nothing."""
    rules = policy(service_account=True)
    for request in (ask(), ask(claims=(ANN,))):
        event = metered(rules, request)
        assert (event.owner, event.principal, event.team) == ("ann", "", "risk")


def test_a_key_that_may_names_the_customer() -> None:
    """The header says for whom; without a usable one the key's own label does."""
    rules = policy(customer_header=True, customer="own")
    assert metered(rules, ask(x_customer_id=" acme ")).customer == "acme"
    assert metered(rules, ask(x_customer_id="Müller & Söhne")).customer == "Müller & Söhne"
    for unusable in ("", "  ", "a\0b", "\u3164", "a" * 201, "a\u200bb"):
        assert metered(rules, ask(x_customer_id=unusable)).customer == "own"
    latin = ask()
    latin.headers["x-customer-id"] = b"M\xfcller"
    assert metered(rules, latin).customer == "own"
    assert metered(rules, ask()).customer == "own"


def test_a_key_that_may_not_names_nobody() -> None:
    """Its calls are its own label's, or nobody's."""
    assert metered(policy(), ask(x_customer_id="acme")).customer == ""
    assert metered(policy(customer="own"), ask(x_customer_id="acme")).customer == "own"


@pytest.mark.parametrize("may", [True, False])
def test_the_customer_header_never_goes_on(may: bool) -> None:
    """Whom a key's calls are for is no provider's business."""
    action = Exchange(policy(customer_header=may), "e").receive(ask(x_customer_id="acme"), NOW_US)
    assert isinstance(action, Continue)
    assert "x-customer-id" in action.remove_headers


def test_budgets_bind_what_was_proved() -> None:
    """A person's or a customer's budget counts their calls on a shared key, and nobody else's."""
    acme = budget(budget_id="c", name="acme", where=(("customer", "acme"),))
    ann = budget(budget_id="p", name="ann", where=(("principal", "ann@example.com"),))
    rules = policy(acme, ann, customer_header=True)
    assert binding(rules, ask()) == set()
    assert binding(rules, ask(x_customer_id="acme")) == {"acme"}
    assert binding(rules, ask(x_customer_id="globex")) == set()
    assert binding(rules, ask(claims=(ANN,), x_customer_id="globex")) == {"ann"}
    assert binding(rules, ask(claims=(ANN,), x_customer_id="acme")) == {"acme", "ann"}
    assert binding(rules, ask(claims=({"sub": "bob"},))) == set()


def message(metadata: Mapping[str, Mapping[str, Any]] | None) -> envoy.Request:
    """Request headers as Envoy sends them, with what its filters say."""
    made = ext_proc_pb2.ProcessingRequest()
    made.request_headers.SetInParent()
    if metadata is not None:
        context = core_pb2.Metadata()
        for name, said in metadata.items():
            context.filter_metadata[name].update(said)
        made.metadata_context = context.SerializeToString()
    return envoy.parse(made.SerializeToString())


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, ()),
        ({}, ()),
        ({"envoy.filters.http.jwt_authn": {}}, ()),
        ({"envoy.lb": {"people": ANN}}, ()),
        ({"envoy.filters.http.jwt_authn": {"people": ANN}}, (ANN,)),
        (
            {"envoy.filters.http.jwt_authn": {"b": {"sub": "2"}, "a": {"sub": "1"}}},
            ({"sub": "1"}, {"sub": "2"}),
        ),
        (
            {"envoy.filters.http.jwt_authn": {"p": {"sub": "1", "exp": 5, "x": ["a"], "y": {}}}},
            ({"sub": "1"},),
        ),
        ({"envoy.filters.http.jwt_authn": {"p": "text", "q": None}}, ({}, {})),
    ],
)
def test_claims_come_from_jwt_authn_alone(
    metadata: Mapping[str, Mapping[str, Any]] | None, expected: tuple[Claims, ...]
) -> None:
    """Texts and booleans of each verified token, under whatever name; nothing of other filters."""
    decoded = envoy.decode(message(metadata))
    assert isinstance(decoded, RequestHeaders)
    assert decoded.claims == expected


@given(st.one_of(st.text(), st.binary(max_size=900), st.text("a \u0301\u3164\x00é", max_size=900)))
def test_a_usable_text_is_clean(value: str | bytes) -> None:
    """Whatever comes in, what goes out is empty or could have been typed as a label."""
    text = usable(value)
    assert len(text) <= MAX_LABEL_CHARS
    assert text == text.strip()
    assert not text or fault(text) == ""
    assert usable(text) == text
