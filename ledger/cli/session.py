"""What every command has at hand: connections, printing, errors as sentences. Knows no command."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from ledger.db import Database
    from ledger.keyspace import Keyspace
    from ledger.prices import RateTable
    from ledger.stream import Redis
    from ledger.tables import Column

Command = TypeVar("Command", bound=Callable[..., Any])

CONNECT_TIMEOUT_S: Final = 3
MAX_WHO_CHARS: Final = 200


class Refusal(click.ClickException):
    """A refusal or a finding: one sentence on stderr, exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


class WrongUsage(Refusal):
    """What was typed cannot be used: one sentence on stderr, exit code 2."""

    exit_code = 2


format_option: Final[Callable[[Command], Command]] = click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How to print.",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the books and the counters are. An empty address: nobody said where."""

    data_dir: Path
    postgres_dsn: str = ""
    redis_url: str = ""
    org: str = "default"
    price_list: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command line."""

    settings: Settings

    @property
    def keyspace(self) -> "Keyspace":
        from ledger.keyspace import Keyspace

        return Keyspace(self.settings.org)

    @contextmanager
    def books(self, max_connections: int = 1) -> "Iterator[Database]":
        """The books; where PostgreSQL does not answer, that is known at once and not by a pool."""
        dsn = self.postgres_dsn()
        import logging

        import psycopg

        from ledger.db import Database

        psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S).close()
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # the same, many times over
        with Database(dsn, max_connections=max_connections) as database:
            yield database

    @contextmanager
    def counters(self) -> "Iterator[Redis]":
        """The counters and the directory in Redis."""
        from ledger.stream import connect

        url = self.redis_url()
        try:
            client = connect(url)
        except ValueError as error:
            raise Refusal(
                f"TOLLKEEPER_REDIS_URL cannot be read ({str(error).rstrip('.')});"
                " write redis://host:6379/0."
            ) from None
        with client:
            yield client

    def rates(self) -> "RateTable":
        """What tokens cost, as the sidecars know it; loading it takes most of a second."""
        from ledger.price_list import standard_table
        from ledger.prices import list_names

        try:
            return standard_table().named(list_names(self.settings.price_list))
        except ValueError as error:
            raise Refusal(f"TOLLKEEPER_PRICE_LIST {error}") from None

    def postgres_dsn(self) -> str:
        return self._given(self.settings.postgres_dsn, "PostgreSQL", "TOLLKEEPER_POSTGRES_DSN")

    def redis_url(self) -> str:
        return self._given(self.settings.redis_url, "Redis", "TOLLKEEPER_REDIS_URL")

    def _given(self, value: str, service: str, variable: str) -> str:
        if not value:
            raise Refusal(
                f"Nobody said where {service} is: start it all with `ledger up`, or set {variable}"
                f" (there is no {self.settings.data_dir / 'env'} that names it)."
            )
        return value


pass_run: Final = click.make_pass_decorator(Run)


def who() -> str:
    """Whom the books name for a change: TOLLKEEPER_ACTOR, else the account that ran the command."""
    import getpass

    try:
        name = os.environ.get("TOLLKEEPER_ACTOR") or getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in many containers
        name = f"uid {os.getuid()}"
    return name.replace("\0", "")[:MAX_WHO_CHARS]


def hint(sentence: str) -> None:
    """A remark that is not part of the output."""
    click.echo(sentence, err=True)


def show(
    output: str,
    columns: "Sequence[Column]",
    rows: Sequence[Mapping[str, Any]],
    *,
    total: Mapping[str, Any] | None = None,
    document: Any = None,
    empty: str = "Nothing to show.",
) -> None:
    """Print rows as asked; `document` is the JSON where it is more than the list of rows."""
    from ledger import tables

    if output == "json":
        click.echo(tables.as_json(rows if document is None else document))
    elif output == "csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        names = names or [column.name for column in columns]
        click.echo(tables.as_csv(names, rows), nl=False)
    else:
        tables.print_table(columns, rows, sys.stdout, total=total, empty=empty)


def sentence_for(error: Exception) -> click.ClickException | None:
    """The refusal that this error means to the person at the terminal; None: a bug of ours.

    Names are compared instead of classes where the class's module is heavy and may not be loaded.
    """
    if isinstance(error, click.ClickException):
        return None
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).mro()}
    if "ledger.InputError" in names:
        return WrongUsage(str(error))
    if names & _OUR_REFUSALS:
        return Refusal(str(error))
    if "psycopg.Error" in names:
        return Refusal(_postgres_says(error, names))
    if "redis.RedisError" in names:
        return Refusal(_redis_says(error, names))
    return None


_OUR_REFUSALS: Final = {
    "ledger.RefusedError",
    "ledger.BooksUnavailableError",
    "ledger.MigrationError",
}


def _postgres_says(error: Exception, names: set[str]) -> str:
    diagnosis = getattr(error, "diag", None)
    says = (getattr(diagnosis, "message_primary", None) or str(error) or "no answer").strip()
    if getattr(diagnosis, "constraint_name", None) == "label_policy":
        return says
    first_line = " ".join(says.splitlines()[:1]).rstrip(".")
    if names & {"psycopg.UndefinedTable", "psycopg.UndefinedColumn", "psycopg.UndefinedFunction"}:
        return f"The database has not all of our tables ({first_line}); run `ledger migrate`."
    if "psycopg.UniqueViolation" in names:
        return "Somebody else changed the same thing at this moment; look at it and try again."
    if "psycopg.OperationalError" in names and getattr(error, "sqlstate", None) is None:
        return (
            f"PostgreSQL does not answer ({first_line}); start it all with `ledger up`,"
            " or set TOLLKEEPER_POSTGRES_DSN."
        )
    if "psycopg.ProgrammingError" in names and getattr(error, "sqlstate", None) is None:
        return (
            f"TOLLKEEPER_POSTGRES_DSN cannot be read ({first_line}); write"
            " postgresql://user@host/name."
        )
    return f"PostgreSQL refused: {first_line}."


def _redis_says(error: Exception, names: set[str]) -> str:
    first_line = " ".join((str(error) or "no answer").splitlines()[:1]).rstrip(".")
    if names & {"redis.ConnectionError", "redis.TimeoutError"}:
        return (
            f"Redis does not answer ({first_line}); start it all with `ledger up`,"
            " or set TOLLKEEPER_REDIS_URL."
        )
    return f"Redis refused: {first_line}."
