"""Migrations, and what the database itself refuses."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from ledger import db as ledger_db
from ledger.audit import audit
from ledger.booking import row
from ledger.budgets import from_document
from ledger.db import (
    BooksUnavailableError,
    Database,
    Migration,
    MigrationError,
    migrate,
)
from ledger.stream import connect
from tests.integration.books import NOW_US, Books, facts
from tests.integration.producer import Sidecar

NEW_FIELDS = (
    *("byok", "refused_by", "shadow_refusal", "billing", "chain_signal", "chain_fault"),
    *("chain_path", "tool_name", "target_agent"),
    *("image_input_tokens", "image_output_tokens"),
)
DIMENSIONS = (
    "key_id, owner, principal, team, agent, workload, customer, labels, root_key_id, root_team,"
    " root_agent, root_workload, chain_trust, provider, model, operation"
)
FIRST_ROLLUPS = (
    "INSERT INTO rollups SELECT date_trunc('hour', occurred_at, 'UTC'),"
    f" md5(jsonb_build_array({DIMENSIONS})::text)::uuid, {DIMENSIONS}, 1, 0, 0, 0, 0,"
    " input_tokens, 0, 0, 0, output_tokens, 0, 0, 0, cost_nanos, 0, latency_ms FROM events"
)
KEY = (
    "INSERT INTO keys (key_id, sha256, owner, team, agent, workload, max_spend_nanos)"
    " VALUES (%s, encode(sha256(%s::bytea), 'hex'), %s, %s, %s, %s, %s)"
)


def test_starters_at_once_migrate_once(empty_postgres_dsn: str) -> None:
    """Of several processes that start together one applies the migrations, the others wait."""
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(migrate, [empty_postgres_dsn] * 4))
    assert sorted(map(len, applied)) == [0, 0, 0, len(ledger_db.migrations())]


def test_a_changed_migration_is_refused(
    empty_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration whose file differs from what was applied stops the start and says what to do."""
    migrate(empty_postgres_dsn)
    first, *rest = ledger_db.migrations()
    changed = [first._replace(text=first.text + "-- more"), *rest]
    monkeypatch.setattr(ledger_db, "migrations", lambda: changed)
    with pytest.raises(MigrationError, match=r"0001_books\.sql was changed after"):
        migrate(empty_postgres_dsn)


def test_a_newer_database_is_refused(
    empty_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that a later version migrated is not touched by an earlier one."""
    known = ledger_db.migrations()
    newer = [*known, Migration(9999, "9999_later.sql", "SELECT 1")]
    monkeypatch.setattr(ledger_db, "migrations", lambda: newer)
    migrate(empty_postgres_dsn)
    monkeypatch.setattr(ledger_db, "migrations", lambda: known)
    with pytest.raises(MigrationError, match=r"9999_later\.sql, which this version does not know"):
        migrate(empty_postgres_dsn)


def test_a_failing_migration_leaves_nothing(
    empty_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each migration is one transaction: what failed half-way is not there."""
    broken = Migration(1, "0001_broken.sql", "CREATE TABLE half (n int); SELECT 1/0")
    monkeypatch.setattr(ledger_db, "migrations", lambda: [broken])
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty_postgres_dsn)
    with psycopg.connect(empty_postgres_dsn) as connection:
        assert connection.execute("SELECT to_regclass('half')").fetchone() == (None,)


def test_an_absent_server_is_named_without_its_password() -> None:
    """The error says where PostgreSQL was looked for, and keeps the password to itself."""
    with pytest.raises(BooksUnavailableError, match=r"127\.0\.0\.1:1 does not answer") as caught:
        migrate("postgresql://ann:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("blank", range(2, 6))
def test_no_key_without_its_four_labels(books: Books, blank: int) -> None:
    """The database refuses a key whose owner, team, agent or workload is blank."""
    values: list[object] = ["k1", "secret", "ann", "risk", "scout", "nightly", None]
    values[blank] = " \t"
    with pytest.raises(psycopg.errors.CheckViolation):
        books.rows(KEY.replace("encode(sha256(%s::bytea), 'hex')", "%s"), *values)


def test_versions_follow_commits(books: Books) -> None:
    """Whoever sees a version has seen every lower one, however the transactions overlap."""
    seen: list[list[int]] = []

    def issue(number: int) -> None:
        with Database(books.db.dsn, max_connections=1) as db, db.transaction() as session:
            session.connection.execute(KEY, [f"k{number}", f"s{number}", *"otaw", None])
        versions = books.rows("SELECT version FROM keys ORDER BY version")
        seen.append([row["version"] for row in versions])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(issue, range(12)))
    final = max(seen, key=len)
    assert all(versions == final[: len(versions)] for versions in seen)


def test_books_of_the_first_version_are_taken_over(
    empty_postgres_dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events, rollups and keys that are there get what is new, and go on in the same rollups."""
    everything = ledger_db.migrations()
    monkeypatch.setattr(ledger_db, "migrations", lambda: everything[:1])
    migrate(empty_postgres_dsn)
    client = connect(redis_url)
    with Database(empty_postgres_dsn) as db:
        books = Books(db, client, redis_url)
        books.rows(KEY, "k1", "secret", "ann", "risk", "scout", "nightly", 5_000)
        books.rows("UPDATE keys SET rpm = 6, max_parallel = 2")
        sidecar = Sidecar(client, "p1")
        event = row(sidecar.call(NOW_US, **facts(1)))[: -len(NEW_FIELDS)]
        books.rows(f"INSERT INTO events VALUES ({', '.join(['%s'] * len(event))})", *event)
        books.rows(FIRST_ROLLUPS)
        books.rows(
            "INSERT INTO journal SELECT event_id, occurred_at, account, sign * cost_nanos"
            " FROM events, (VALUES ('expense:risk', 1), ('payable:openai', -1)) s (account, sign)"
        )
        books.rows("INSERT INTO producers VALUES ('p1', 1, 1)")
        monkeypatch.setattr(ledger_db, "migrations", lambda: everything)
        migrate(empty_postgres_dsn)
        books.book_all()
        sidecar.read_directory()
        sidecar.call(NOW_US, **facts(2))
        sidecar.settle_all()
        books.book_all()
        assert books.rows("SELECT calls::int, byok FROM rollups") == [{"calls": 2, "byok": False}]
        assert {budget.name for budget in sidecar.budgets} == {
            f"{limit} of key k1" for limit in ("max_spend", "rpm", "max_parallel")
        }
        assert audit(db, client).findings == []
    client.close()


def test_max_spend_is_a_budget(books: Books) -> None:
    """A key's lifetime limit is a budget that comes before the key and goes when it is revoked."""
    books.rows(KEY, "k1", "secret", "ann", "risk", "scout", "nightly", 5_000)
    [row] = books.rows("SELECT * FROM budgets")
    document = {**row["document"], "budget_id": row["budget_id"], "name": row["name"]}
    budget = from_document(document)
    assert (budget.budget_id, budget.amount, budget.limit_source) == ("key-k1", 5_000, "key")
    assert budget.where == (("key", "k1"),)
    assert row["version"] < books.one("SELECT version FROM keys")
    books.rows("UPDATE keys SET max_spend_nanos = 7000")
    assert books.one("SELECT document ->> 'amount' FROM budgets WHERE NOT removed") == "7000"
    books.rows("UPDATE keys SET status = 'revoked'")
    assert books.one("SELECT count(*) FROM budgets WHERE NOT removed") == 0


def test_a_budget_cannot_change_what_it_counts(books: Books) -> None:
    """A counter that counted one team cannot become another team's; the amount may change."""
    books.add_budget("b1", [["team", "risk"]])
    books.rows("UPDATE budgets SET document = jsonb_set(document, '{amount}', '5')")
    with pytest.raises(psycopg.errors.CheckViolation, match="cannot change what it counts"):
        books.rows("UPDATE budgets SET document = jsonb_set(document, '{where}', '[]')")


def test_the_journal_refuses_an_unbalanced_transaction(books: Books) -> None:
    """One statement that leaves a transaction off zero is refused as a whole."""
    insert = (
        "INSERT INTO journal VALUES ('t1', now(), 'expense:a', 5), ('t1', now(), 'payable:b', -4)"
    )
    with pytest.raises(psycopg.errors.CheckViolation, match="t1 does not sum to zero"):
        books.rows(insert)


def test_the_journal_is_append_only(books: Books) -> None:
    """What is in the journal can be neither changed nor deleted."""
    for statement in ("UPDATE journal SET amount_nanos = 0", "DELETE FROM journal"):
        with pytest.raises(psycopg.errors.CheckViolation, match="append-only"):
            books.rows(statement)
