"""Opens the CSV files that `ledger keys` takes, and prints what became of their rows. Decides
nothing.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from ledger.cli.session import Refusal, hint

if TYPE_CHECKING:
    from ledger.imports import Outcome
    from ledger.key_files import KeyFile

MAX_COMPLAINTS: Final = 50
_STDIN: Final = "-"


@contextmanager
def opened(file: str, names: Collection[str]) -> "Iterator[KeyFile]":
    """The file of that name, or the pipe; its columns other than `names` must be labels."""
    from ledger import issue, reports
    from ledger.cli.arguments import InputError
    from ledger.key_files import KeyFile

    source = sys.stdin.buffer if file == _STDIN else _open(Path(file))
    # Bytes that are no text spoil their own row and not the file.
    text = TextIOWrapper(source, "utf-8", errors="surrogateescape", newline="")
    try:
        made = KeyFile(text, names)
        columns = set(made.labels) - {*issue.REQUIRED_LABELS, "customer"}
        try:
            issue.clean_labels(dict.fromkeys(columns, "x"), reports.RESERVED_NAMES)
        except issue.RefusedError as error:
            raise InputError(f"A column of the file cannot be a label: {error}") from None
        yield made
    finally:
        if file == _STDIN:
            text.detach()
        else:
            text.close()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Refusal(f"{path} cannot be read: {error.strerror or error}.") from None


def complain(refused: "Sequence[Outcome]") -> None:
    """Say of each refused row why, on stderr, the first of them."""
    for outcome in refused[:MAX_COMPLAINTS]:
        hint(f"line {outcome.line}: {outcome.says}")
    if len(refused) > MAX_COMPLAINTS:
        hint(f"... and {len(refused) - MAX_COMPLAINTS:,} more; --format csv or json says all.")


def progress(rows: int, what: str, every: int = 10_000) -> None:
    """Say how far a long file has come."""
    if rows and rows % every == 0:
        click.echo(f"{rows:,} rows {what} ...", err=True)
