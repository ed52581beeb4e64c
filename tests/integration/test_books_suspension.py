"""A budget that suspends: whose keys go off, when, and who says so."""

import json
import time
from typing import Any

import pytest

from ledger.event import to_bytes
from ledger.issue import set_status
from ledger.publish import publish
from ledger.stream import Entry, command
from ledger.writer import book
from tests.integration.books import Books, facts

RISK = ["team", "risk"]


def now_us() -> int:
    return time.time_ns() // 1000


def add_key(books: Books, key_id: str, **labels: str) -> None:
    values = {"owner": "ann", "team": "risk", "agent": "scout", "workload": "nightly", **labels}
    books.rows(
        "INSERT INTO keys (key_id, sha256, owner, team, agent, workload, labels)"
        " VALUES (%s, encode(sha256(%s::bytea), 'hex'), %s, %s, %s, %s, %s::jsonb)",
        *(key_id, key_id, values["owner"], values["team"], values["agent"], values["workload"]),
        json.dumps({"project": values.get("project", "x")}),
    )


def add_budget(books: Books, where: list[list[str]], **facts: Any) -> None:
    books.add_budget("b1", where, **{"on_exceed": "suspend", **facts})
    publish(books.db, books.redis)


def refuse(books: Books, at_us: int = 0, **others: Any) -> Entry:
    """A call that the budget refused, booked; the stream entry that brought it."""
    sidecar = books.sidecar(f"p{time.monotonic_ns()}")
    event = sidecar.call(
        at_us or now_us(),
        **facts(
            **{
                "outcome": "refused",
                "refusal": "budget_spent",
                "refused_by": "budget b1",
                "cost_nanos": 0,
                **others,
            }
        ),
    )
    sidecar.settle_all()
    books.book_all()
    return Entry("1-1", to_bytes(event))


def statuses(books: Books) -> dict[str, str]:
    rows = books.rows("SELECT key_id, status FROM keys ORDER BY key_id")
    return {row["key_id"]: row["status"] for row in rows}


def published(books: Books, key_id: str) -> str:
    text = command(books.redis, "HGET", books.keys.directory, f"key:{key_id}")
    return str(json.loads(text)["status"])


def resume(books: Books, key_id: str) -> None:
    with books.db.transaction() as session:
        set_status(session, key_id, "active", who="ada")


def test_the_calling_key_is_suspended_at_once(books: Books) -> None:
    """The key that met the spent budget is off, the sidecars know, and the books say why."""
    add_key(books, "k1")
    add_key(books, "k2")
    add_budget(books, [RISK])
    refuse(books)
    assert statuses(books) == {"k1": "suspended", "k2": "active"}
    assert published(books, "k1") == "suspended"
    [change] = books.rows("SELECT * FROM key_changes")
    assert (change["key_id"], change["who"], change["what"]) == (
        *("k1", "budget:budget b1", "suspended"),
    )
    assert "spent" in change["why"]
    assert change["detail"]["refusal"] == "budget_spent"


@pytest.mark.parametrize(
    ("where", "suspended"),
    [
        ([["agent", "scout"]], {"k1", "k2", "k4"}),
        ([["agent", "scout"], ["project", "y"]], {"k2"}),
        ([["agent", "scout"], ["provider", "openai"]], {"k1", "k2", "k4"}),
        ([["key", "k2"]], {"k2"}),
        ([["team", "risk"], ["agent", "scout"], ["principal", "ann"]], {"k1", "k2"}),
        ([["agent", "scout"], ["run", "r1"]], {"k2"}),
        ([["agent", "scout"], ["root_team", "hq"]], {"k2"}),
        ([["agent", "scout"], ["principal", "eve"]], {"k2", "k4"}),
        ([], {"k2"}),
    ],
)
def test_a_selector_that_names_an_agent_suspends_the_agent(
    books: Books, where: list[list[str]], suspended: set[str]
) -> None:
    """All keys that it picks, whichever of them was refused; else the calling key alone."""
    add_key(books, "k1")
    add_key(books, "k2", project="y")
    add_key(books, "k3", agent="other", team="ops")
    add_key(books, "k4", owner="eve", project="z", team="eve's")
    call: dict[str, Any] = {
        "labels": {"project": "y"},
        "run_id": "r1",
        "root_team": "hq",
        "principal": "ann",
    }
    if ["principal", "eve"] in where:
        call["principal"] = "eve"
    add_budget(books, where)
    refuse(books, key_id="k2", **call)
    assert {k for k, status in statuses(books).items() if status == "suspended"} == suspended


@pytest.mark.parametrize(
    "others",
    [
        {"refusal": "budget_held"},
        {"refused_by": "another budget"},
        {"refused_by": ""},
        {"team": "ops"},
        {"key_id": "unknown"},
        {"outcome": "ok", "refusal": ""},
    ],
)
def test_other_refusals_suspend_nobody(books: Books, others: dict[str, Any]) -> None:
    """A call that must only wait, or that another limit refused, leaves its key alone."""
    add_key(books, "k1")
    add_budget(books, [RISK])
    refuse(books, **others)
    assert statuses(books) == {"k1": "active"}


@pytest.mark.parametrize("on_exceed", ["block", "throttle", "shadow"])
def test_other_budgets_suspend_nobody(books: Books, on_exceed: str) -> None:
    """Only a budget that says so."""
    add_key(books, "k1")
    add_budget(books, [RISK], on_exceed=on_exceed)
    refuse(books)
    assert statuses(books) == {"k1": "active"}


def test_a_cut_stream_suspends_too(books: Books) -> None:
    """An answer that was ended because the budget was spent is no better than a refused call."""
    add_key(books, "k1")
    add_budget(books, [RISK])
    refuse(books, outcome="cut", refusal="request_over_budget", cost_nanos=5)
    assert statuses(books) == {"k1": "suspended"}


def test_an_old_event_does_not_suspend_again(books: Books) -> None:
    """A resumed key stays on when the event that suspended it comes again; a new one counts."""
    add_key(books, "k1")
    add_budget(books, [RISK])
    entry = refuse(books)
    writer = books.writer()
    writer.take([entry])
    assert books.one("SELECT count(*) FROM key_changes") == 1
    resume(books, "k1")
    writer.take([entry])
    assert statuses(books) == {"k1": "active"}
    refuse(books)
    assert statuses(books) == {"k1": "suspended"}


def test_a_revoked_key_stays_revoked(books: Books) -> None:
    """Suspending would look as if it could be resumed."""
    add_key(books, "k1")
    add_budget(books, [["agent", "scout"]])
    books.rows("UPDATE keys SET status = 'revoked'")
    refuse(books)
    assert statuses(books) == {"k1": "revoked"}


def test_a_writer_that_died_before_it_suspended(books: Books) -> None:
    """What was booked and not acknowledged is looked at again."""
    add_key(books, "k1")
    add_budget(books, [RISK])
    sidecar = books.sidecar()
    refused = facts(
        outcome="refused", refusal="key_limit_spent", refused_by="budget b1", cost_nanos=0
    )
    entry = Entry("1-1", to_bytes(sidecar.call(now_us(), **refused)))
    book(books.db, [entry])
    assert statuses(books) == {"k1": "active"}
    sidecar.settle_all()
    books.book_all()
    assert statuses(books) == {"k1": "suspended"}
