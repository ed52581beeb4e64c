"""Fixtures: the real services, started once a run, and each test's own empty part of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests import services


def pytest_report_header() -> str:
    return services.describe()


@pytest.fixture(scope="session")
def services_directory() -> Iterator[Path]:
    """Where this process's servers keep their data; with xdist each worker has its own servers."""
    with services.scratch_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def postgres_server(services_directory: Path) -> Iterator[str]:
    """The DSN of a PostgreSQL server, as a user who may create databases."""
    with services.postgres(services_directory) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def redis_server(services_directory: Path) -> Iterator[str]:
    """The URL of a Redis server that belongs to the tests."""
    with services.redis_server(services_directory) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str) -> Iterator[str]:
    """The database that each test's own is copied from: every migration, no rows."""
    from ledger import db  # here, so that a broken ledger.db fails only the tests that need it

    with services.database(postgres_server) as dsn:
        with db.Database(dsn, max_connections=1) as database:
            database.migrate()
        yield services.database_name(dsn)


@pytest.fixture
def postgres_dsn(postgres_server: str, migrated_template: str) -> Iterator[str]:
    """The DSN of a new, migrated database of this test alone."""
    with services.database(postgres_server, template=migrated_template) as dsn:
        yield dsn


@pytest.fixture
def empty_postgres_dsn(postgres_server: str) -> Iterator[str]:
    """The DSN of a new database without any migration."""
    with services.database(postgres_server) as dsn:
        yield dsn


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis database."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server
