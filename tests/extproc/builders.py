"""Small things that many tests of the sidecar need: keys, budgets, a policy and headers."""

from hashlib import sha256

from extproc.estimate import Estimates
from extproc.events import Claims, RequestBody, RequestHeaders, ResponseBody, ResponseHeaders
from extproc.policy import Policy
from ledger.budgets import Budget, to_document
from ledger.chains import SigningKey
from ledger.chains import key_document as chain_key_document
from ledger.keyspace import Keyspace
from ledger.price_list import standard_table

NOW_US = 2_000_000_000_000_000
KEY = "tk-abcdefgh1234-" + "s" * 43
RATES = standard_table()


def key_document(text: str = KEY, /, **changes: object) -> dict[str, object]:
    """A published key of team risk."""
    document: dict[str, object] = {
        "key_id": text.split("-")[1],
        "sha256": sha256(text.encode()).hexdigest(),
        "owner": "ann",
        "team": "risk",
        "agent": "kyc",
        "workload": "onboarding",
        "customer": "",
        "labels": {},
        "status": "active",
        "expires_at_us": None,
        "version": 1,
    }
    return document | changes


def budget(amount: int = 1_000_000_000, **changes: object) -> Budget:
    """A monthly money budget of team risk."""
    values: dict[str, object] = {
        "budget_id": "b1",
        "name": "risk-month",
        "where": (("team", "risk"),),
        "unit": "usd",
        "amount": amount,
        "per": "month",
    }
    return Budget(**(values | changes))  # type: ignore[arg-type]


def policy(*budgets: Budget, **key: object) -> Policy:
    """A ready policy with one key."""
    made = Policy(Keyspace("test"), RATES, Estimates(), producer="p-0-1")
    documents = {"key:abcdefgh1234": key_document(**key)}
    documents |= {f"budget:{b.budget_id}": to_document(b) for b in budgets}
    made.replace(documents, 7)
    return made


def ask(
    path: str = "/openai/v1/chat/completions",
    method: str = "POST",
    key: str | None = KEY,
    *,
    ended: bool = False,
    claims: tuple[Claims, ...] = (),
    **headers: str,
) -> RequestHeaders:
    """Request headers as Envoy sends them."""
    values = {":method": method, ":path": path, ":scheme": "http", ":authority": "gateway"}
    if key is not None:
        values["authorization"] = f"Bearer {key}"
    values |= {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestHeaders({name: value.encode() for name, value in values.items()}, ended, claims)


def body(text: bytes | str) -> RequestBody:
    """A whole request body."""
    return RequestBody(text.encode() if isinstance(text, str) else text, True)


def answer_headers(
    content_type: str = "application/json", status: int = 200, **headers: str
) -> ResponseHeaders:
    """Response headers as Envoy sends them."""
    values = {":status": str(status), "content-type": content_type}
    values |= {name.replace("_", "-"): value for name, value in headers.items()}
    return ResponseHeaders({name: value.encode() for name, value in values.items()}, False)


def answer(text: bytes | str, *, ended: bool = True) -> ResponseBody:
    """A response body, or a piece of one."""
    return ResponseBody(text.encode() if isinstance(text, str) else text, ended)


def other_key(number: int) -> str:
    """The text of a further key."""
    return f"tk-other{number:07d}-" + "s" * 43


SIGNING = SigningKey(kid="k1", secret=bytes(range(32)), from_us=NOW_US - 1, until_us=NOW_US * 2)


def chained(*others: dict[str, object]) -> Policy:
    """A ready policy that signs chains, with `KEY` and a key for each of `others`' labels."""
    made = Policy(Keyspace("test"), RATES, Estimates(), producer="p-0-1")
    published: dict[str, dict[str, object]] = {
        "key:abcdefgh1234": key_document(),
        "chain_key:k1": {**chain_key_document(SIGNING), "version": 1},
    }
    for number, labels in enumerate(others):
        document = key_document(other_key(number), **labels)
        published[f"key:{document['key_id']}"] = document
    complaints = made.replace(published, 7)
    assert complaints == []
    return made
