"""What tests of imported keys share: rows into the books, keys as the sidecars know them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ledger.imports import MAX_CHUNK, Outcome
from ledger.imports import take as take_chunk
from ledger.key_files import KeyRow
from ledger.stream import command
from tests.integration.books import Books


def take(books: Books, rows: Sequence[KeyRow], days: int = 30) -> list[Outcome]:
    """Import these rows, in as many transactions as it takes."""
    outcomes = []
    for start in range(0, len(rows), MAX_CHUNK):
        with books.db.transaction() as session:
            outcomes += take_chunk(
                *(session, rows[start : start + MAX_CHUNK]),
                grace_until=datetime.now(UTC) + timedelta(days=days),
                reserved=frozenset(),
                who="test",
            )
    return outcomes


def published(books: Books, key_id: str) -> dict[str, Any]:
    """A key as the sidecars know it."""
    text = command(books.redis, "HGET", books.keys.directory, f"key:{key_id}")
    found: dict[str, Any] = json.loads(text)
    return found


def csv_file(directory: Path, *lines: str) -> str:
    """A file of these lines."""
    path = directory / "keys.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)
