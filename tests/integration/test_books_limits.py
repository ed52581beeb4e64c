"""Limits of every unit: a key's own, counters of calls, credit that did not pay, overruns."""

from typing import Any

import pytest

from ledger.audit import audit
from ledger.budgets import from_document, window_at
from ledger.publish import publish
from ledger.stream import command, integers
from tests.integration.books import NOW_US, Books, facts
from tests.integration.producer import Sidecar

RISK = [["team", "risk"]]
LIMITS = ("max_spend_nanos", "rpm", "tpm", "max_parallel")
MIRRORS = {
    "key-k1": ("max_spend of key k1", "usd", "total", "key"),
    "rpm-k1": ("rpm of key k1", "calls", "minute", "rate"),
    "tpm-k1": ("tpm of key k1", "tokens", "minute", "rate"),
    "parallel-k1": ("max_parallel of key k1", "parallel", "total", "key"),
}
KEY = (
    "INSERT INTO keys (key_id, sha256, owner, team, agent, workload)"
    " VALUES ('k1', repeat('ab', 32), 'ann', 'risk', 'scout', 'nightly')"
)


def mirrors(books: Books) -> dict[str, tuple[str, str, str, str]]:
    rows = books.rows("SELECT budget_id, name, document FROM budgets WHERE NOT removed")
    budgets = [from_document({**row["document"], **row}) for row in rows]
    assert all(budget.where == (("key", "k1"),) for budget in budgets)
    return {b.budget_id: (b.name, b.unit, b.per, b.limit_source) for b in budgets}


def amounts(books: Books) -> dict[str, int]:
    rows = books.rows("SELECT budget_id, document -> 'amount' AS amount FROM budgets")
    return {row["budget_id"]: row["amount"] for row in rows}


def settle_and_book(books: Books, sidecar: Sidecar) -> None:
    sidecar.settle_all()
    books.book_all()


def add_everything(books: Books) -> None:
    """A budget of each unit, and a wallet, over the same calls."""
    for unit in ("usd", "tokens", "calls", "parallel"):
        books.add_budget(unit, RISK, unit=unit)
    publish(books.db, books.redis)


def used(books: Books) -> dict[str, int]:
    return {unit: books.used(unit) for unit in ("usd", "tokens", "calls", "parallel")}


def call_some(sidecar: Sidecar, **more: Any) -> dict[str, int]:
    """Calls of every outcome; what they use."""
    for outcome in ("ok", "provider_error", "client_gone"):
        sidecar.call(NOW_US, **facts(1, outcome=outcome, **more))
    sidecar.call(NOW_US, **facts(outcome="refused", cost_nanos=0) | _NO_TOKENS)
    sidecar.call(NOW_US, **facts(cost_nanos=None, **more))
    return {"usd": 3 * 1001, "tokens": 4 * 16, "calls": 4, "parallel": 0}


_NO_TOKENS = {"input_tokens": 0, "output_tokens": 0}


def test_every_limit_of_a_key_is_a_budget(books: Books) -> None:
    """Each is there before the key says so, follows it, and goes when the key is revoked."""
    books.rows(KEY)
    assert mirrors(books) == {}
    books.rows("UPDATE keys SET max_spend_nanos = 5, rpm = 6, tpm = 7, max_parallel = 8")
    assert mirrors(books) == MIRRORS
    assert amounts(books) == {"key-k1": 5, "rpm-k1": 6, "tpm-k1": 7, "parallel-k1": 8}
    [key_version] = books.rows("SELECT version FROM keys")
    assert books.one("SELECT max(version) FROM budgets") < key_version["version"]
    before = books.rows("SELECT budget_id, version FROM budgets ORDER BY budget_id")
    books.rows("UPDATE keys SET status = 'suspended'")
    assert books.rows("SELECT budget_id, version FROM budgets ORDER BY budget_id") == before
    books.rows("UPDATE keys SET rpm = 60")
    assert amounts(books) == {"key-k1": 5, "rpm-k1": 60, "tpm-k1": 7, "parallel-k1": 8}
    books.rows("UPDATE keys SET status = 'revoked'")
    assert mirrors(books) == {}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_lifted_limit_comes_back_as_another_budget(books: Books, limit: str) -> None:
    """The old counter stopped counting when the limit was lifted; the new one counts anew."""
    books.rows(KEY)
    books.rows(f"UPDATE keys SET {limit} = 5")
    [first] = mirrors(books)
    books.rows(f"UPDATE keys SET {limit} = NULL")
    assert mirrors(books) == {}
    books.rows(f"UPDATE keys SET {limit} = 5")
    [second] = mirrors(books)
    assert second.startswith(f"{first}-")


def test_every_unit_counts_what_it_says(books: Books) -> None:
    """Money and tokens add up, calls count unless they were refused, nothing stays parallel."""
    add_everything(books)
    sidecar = books.sidecar()
    expected = call_some(sidecar)
    settle_and_book(books, sidecar)
    assert used(books) == expected
    assert audit(books.db, books.redis).findings == []


def test_a_new_budget_of_any_unit_starts_with_what_was_used(books: Books) -> None:
    """The base counts as the sidecars would have."""
    sidecar = books.sidecar()
    expected = call_some(sidecar)
    settle_and_book(books, sidecar)
    add_everything(books)
    assert used(books) == expected
    assert audit(books.db, books.redis).findings == []


def test_late_events_of_any_unit_are_counted(books: Books) -> None:
    """The ledger adds what a sidecar settled before it knew the budget."""
    sidecar = books.sidecar()
    add_everything(books)
    expected = call_some(sidecar)
    settle_and_book(books, sidecar)
    publish(books.db, books.redis)
    assert used(books) == expected
    assert audit(books.db, books.redis).findings == []


def test_every_unit_is_rebuilt(books: Books) -> None:
    """A wiped Redis gets the same counters from the books."""
    add_everything(books)
    sidecar = books.sidecar()
    expected = call_some(sidecar)
    settle_and_book(books, sidecar)
    command(books.redis, "FLUSHALL")
    books.book_all()
    assert used(books) == expected
    assert audit(books.db, books.redis).findings == []


def test_a_rate_counts_its_own_minute(books: Books) -> None:
    """What was called before this minute is no part of a rate; the books agree about its window."""
    window = window_at("minute", "UTC", NOW_US)
    sidecar = books.sidecar()
    sidecar.call(window.start_us - 1, **facts())
    sidecar.call(window.start_us, **facts())
    settle_and_book(books, sidecar)
    books.rows(KEY)
    books.rows("UPDATE keys SET rpm = 5, tpm = 500")
    publish(books.db, books.redis)
    late = books.sidecar("p2")
    late.call(window.start_us + 1, **facts())
    settle_and_book(books, late)
    counter = integers(books.redis, books.keys.counter("rpm-k1", window.name))
    assert counter.get("used", 0) in (1, 2)  # 1 where the minute turned meanwhile
    assert audit(books.db, books.redis).findings == []


def test_who_paid_is_a_dimension_of_the_rollups(books: Books) -> None:
    """Calls that the caller's own credential paid are told apart, and count in other budgets."""
    add_everything(books)
    sidecar = books.sidecar()
    for byok in (True, False, True):
        sidecar.call(NOW_US, **facts(1, byok=byok))
    settle_and_book(books, sidecar)
    rows = books.rows("SELECT byok, calls::int AS calls FROM rollups ORDER BY byok")
    assert rows == [{"byok": False, "calls": 1}, {"byok": True, "calls": 2}]
    assert books.used("calls") == 3
    assert audit(books.db, books.redis).findings == []


def test_an_overrun_has_its_own_account(books: Books) -> None:
    """The journal tells apart what was billed above the hold; an event's cost is all of it."""
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts(cost_nanos=1000, hold_nanos=700))
    sidecar.call(NOW_US, **facts(cost_nanos=1000, hold_nanos=1000))
    settle_and_book(books, sidecar)
    rows = books.rows(
        "SELECT account, sum(amount_nanos)::bigint AS nanos FROM journal GROUP BY 1 ORDER BY 1"
    )
    assert {row["account"]: row["nanos"] for row in rows} == {
        "expense:risk": 1700,
        "overrun:risk": 300,
        "payable:openai": -2000,
    }
    assert books.one("SELECT sum(cost_nanos)::bigint FROM rollups") == 2000
    assert audit(books.db, books.redis).findings == []


def test_an_overrun_that_does_not_fit_its_hold_is_found(books: Books) -> None:
    """The audit knows how much of a cost may stand on that account."""
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts(cost_nanos=1000, hold_nanos=700))
    settle_and_book(books, sidecar)
    books.rows("UPDATE events SET hold_nanos = 800")
    [finding] = audit(books.db, books.redis).findings
    assert finding.check == "journal"
