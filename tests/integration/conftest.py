"""Fixtures of the tests that need the real services."""

from collections.abc import Iterator

import pytest

from ledger.db import Database
from ledger.stream import connect
from tests.integration.books import Books


@pytest.fixture
def books(postgres_dsn: str, redis_url: str) -> Iterator[Books]:
    """Empty books and an empty Redis, after the writer's first turn: open for sidecars."""
    client = connect(redis_url)
    with Database(postgres_dsn) as db:
        books = Books(db, client, redis_url)
        books.book_all()
        yield books
    client.close()
