"""The one way to PostgreSQL: a pool, statements by name, migrations. Knows no table."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

MAX_CONNECTIONS: Final = 8
CONNECT_TIMEOUT_S: Final = 5
MIGRATION_LOCK: Final = (
    7460000  # advisory locks are numbers; 7460001 to 7460006 are named where they are taken
)
_SQL: Final = files("ledger") / "sql"
_MIGRATION_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

Row = dict[str, Any]
Connection = psycopg.Connection[DictRow]


class BooksUnavailableError(RuntimeError):
    """PostgreSQL does not answer."""


class MigrationError(RuntimeError):
    """The database and this version's migrations do not fit together."""


class Migration(NamedTuple):
    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


class Session:
    """One connection inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def run(self, name: str, /, **parameters: Any) -> list[Row]:
        """The rows of the statement in `ledger/sql/<name>.sql`; none where it returns none."""
        cursor = self.connection.execute(statement(name), parameters)
        return cursor.fetchall() if cursor.description else []

    def copy(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """Write `rows` through the COPY statement of that name."""
        with self.connection.cursor() as cursor, cursor.copy(statement(name)) as copy:
            for row in rows:
                copy.write_row(row)


class Database:
    """The books' PostgreSQL. Use it as a context manager, or close it."""

    def __init__(self, dsn: str, *, max_connections: int = MAX_CONNECTIONS) -> None:
        self.dsn = dsn
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            dsn,
            connection_class=psycopg.Connection[DictRow],
            kwargs={
                "row_factory": dict_row,
                "autocommit": True,
                "connect_timeout": CONNECT_TIMEOUT_S,
            },
            min_size=1,
            max_size=max_connections,
            timeout=CONNECT_TIMEOUT_S,
            # Short, so that a server that comes back is found at the next request.
            reconnect_timeout=2.0,
            check=ConnectionPool.check_connection,
            open=True,
        )

    def run(self, name: str, /, **parameters: Any) -> list[Row]:
        """Run one named statement in a transaction of its own."""
        with self.transaction() as session:
            return session.run(name, **parameters)

    @contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[Session]:
        """A transaction, committed at the end and rolled back by an exception.

        `snapshot`: read-only, and every statement sees the database as the first one did.
        """
        try:
            connection = self._pool.getconn()
        except PoolTimeout as error:
            raise _unavailable(self.dsn) from error
        try:
            with connection.transaction():
                if snapshot:
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield Session(connection)
        finally:
            self._pool.putconn(connection)

    def migrate(self) -> list[str]:
        """Apply the missing migrations in order and return their names."""
        return migrate(self.dsn)

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def migrate(dsn: str) -> list[str]:
    """Apply the missing migrations in order and return their names. Starters wait in turn."""
    try:
        connection = psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
    except psycopg.OperationalError as error:
        raise _unavailable(dsn) from error
    with connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
        return _migrate(connection, migrations())


@cache  # bounded by the files in the package
def statement(name: str) -> bytes:
    """The text of `ledger/sql/<name>.sql`."""
    return (_SQL / f"{name}.sql").read_bytes()


def migrations() -> list[Migration]:
    """Every migration of this version, in order."""
    found = []
    for file in (_SQL / "migrations").iterdir():
        if match := _MIGRATION_NAME.fullmatch(file.name):
            found.append(Migration(int(match[1]), file.name, file.read_text("utf-8")))
    return sorted(found)


def _migrate(connection: psycopg.Connection[Any], known: Sequence[Migration]) -> list[str]:
    connection.execute(statement("migrations_table"))
    applied = dict(connection.execute(statement("migrations_applied")).fetchall())
    _refuse_other_history(applied, {migration.name: migration for migration in known})
    missing = [migration for migration in known if migration.name not in applied]
    for migration in missing:
        with connection.transaction():
            connection.execute(migration.text.encode())
            connection.execute(statement("migrations_record"), [migration.name, migration.sha256])
    return [migration.name for migration in missing]


def _refuse_other_history(applied: dict[str, str], known: dict[str, Migration]) -> None:
    for name, sha256 in applied.items():
        if name not in known:
            raise MigrationError(
                f"The database has migration {name}, which this version does not know; install the"
                " version of Tollkeeper that made it, or a later one."
            )
        if known[name].sha256 != sha256:
            raise MigrationError(
                f"Migration {name} was changed after it had been applied; restore the file and put"
                " the change into a new migration."
            )


def _unavailable(dsn: str) -> BooksUnavailableError:
    parts = conninfo_to_dict(dsn)
    return BooksUnavailableError(
        f"PostgreSQL at {parts.get('host', 'localhost')}:{parts.get('port', 5432)} does not"
        " answer; start it, or correct TOLLKEEPER_POSTGRES_DSN."
    )
