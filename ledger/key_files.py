"""CSV files about keys: rows as typed, a key's text as its digest at once. Knows no database."""

import csv
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from typing import Final

from ledger.cli.arguments import InputError

MAX_ROWS: Final = 1_000_000
MAX_KEY_BYTES: Final = 4096
"""Of a key's text; the sidecar takes nothing longer for a key."""
GUESSABLE_CHARS: Final = 16
_KEY, _SHA256, _KEY_ID = "key", "sha256", "key_id"
_REMARKS: Final = ("name", "note")
_MAX_REMARK_CHARS: Final = 500
_MAX_COLUMNS: Final = 64
_MAX_NAMED: Final = 200
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """One key of a file: which it is, by its digest or its id, and what the row says of it.

    `labels` are the cells that are not empty, by column, not checked yet. `guessable`: the key's
    text is short. `hash_like`: it looks like a digest itself.
    """

    line: int
    sha256: str = ""
    key_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    name: str = ""
    note: str = ""
    guessable: bool = False
    hash_like: bool = False


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be taken, and why in one sentence, which never says the key."""

    line: int
    says: str


class KeyFile:
    """An opened file: its header is read, its rows are still to come."""

    def __init__(self, lines: Iterable[str], names: Collection[str]) -> None:
        """`names` are the columns that may say which key a row is about. Raises InputError."""
        rest = iter(lines)
        blank = 0
        header = next(rest, "")
        while header and not header.strip("\ufeff\r\n\t "):
            header, blank = next(rest, ""), blank + 1
        header = header.removeprefix("\ufeff")
        self._blank_lines = blank
        delimiter = max(",;\t", key=header.count)
        self._reader = csv.reader(chain([header], rest), delimiter=delimiter)
        try:
            titles = next(self._reader, [])
        except csv.Error as error:
            raise InputError(f"The header cannot be read ({error}); write a CSV file.") from None
        self._columns = [title.strip().lower() for title in titles]
        self._names = [name for name in names if name in self._columns]
        self._refuse_columns(names)
        self.labels = tuple(
            column
            for column in self._columns
            if column and column not in names and column not in _REMARKS
        )

    def _refuse_columns(self, names: Collection[str]) -> None:
        if not self._names:
            raise InputError(
                f"The file has no column that says which key a row is about: {' or '.join(names)};"
                " its first line must name the columns."
            )
        if len(self._columns) > _MAX_COLUMNS:
            raise InputError(f"The file has more than {_MAX_COLUMNS} columns; leave some out.")
        for column in {*self._columns} - {""}:
            if self._columns.count(column) > 1:
                raise InputError(f"The column {column!r} is there twice; name it once.")

    def rows(self) -> Iterator[KeyRow | BadRow]:
        """Every row that is not blank, in order; a key that was there before is a bad row."""
        first: dict[str, int] = {}
        for number in range(MAX_ROWS + 1):
            line = self._blank_lines + self._reader.line_num + 1
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                yield BadRow(line, f"The row cannot be read as CSV ({error}).")
                continue
            if cells is None:
                return
            if number == MAX_ROWS:
                yield BadRow(
                    line, f"A file has at most {MAX_ROWS:,} rows; put the rest in another."
                )
                return
            if not any(cell.strip() for cell in cells):
                continue
            row = self._row(line, cells)
            if isinstance(row, KeyRow):
                before = first.setdefault(row.sha256 or row.key_id, line)
                if before != line:
                    row = BadRow(line, f"The key is the same as in line {before}, which counts.")
            yield row

    def _row(self, line: int, cells: list[str]) -> KeyRow | BadRow:
        if any(cell.strip() for cell in cells[len(self._columns) :]):
            return BadRow(line, "The row has more cells than the header has columns.")
        given = {
            column: cell.strip()
            for column, cell in zip(self._columns, cells, strict=False)
            if column and cell.strip()
        }
        if any("\ud800" <= c <= "\udfff" for cell in given.values() for c in cell):
            return BadRow(line, "The row is not in UTF-8.")
        key = given.pop(_KEY, "") if _KEY in self._names else ""
        digest = given.pop(_SHA256, "").lower() if _SHA256 in self._names else ""
        key_id = given.pop(_KEY_ID, "") if _KEY_ID in self._names else ""
        says = _wrong(key, digest, key_id, given, self._names)
        if says:
            return BadRow(line, says)
        name, note = (given.pop(remark, "") for remark in _REMARKS)
        return KeyRow(
            line=line,
            sha256=sha256(key.encode()).hexdigest() if key else digest,
            key_id=key_id,
            labels=given,
            name=name,
            note=note,
            guessable=0 < len(key) < GUESSABLE_CHARS,
            hash_like=_is_digest(key.lower()),
        )


def _wrong(key: str, digest: str, key_id: str, given: dict[str, str], names: list[str]) -> str:
    """What makes a row unusable; empty where nothing does."""
    if not (key or digest or key_id):
        return f"The row does not say which key it is about: {' or '.join(names)} is empty."
    if digest and not _is_digest(digest):
        return "The sha256 is not 64 hexadecimal digits."
    if key and digest and sha256(key.encode()).hexdigest() != digest:
        return "The sha256 is not that of the key; leave one of them out."
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"The key has more than {MAX_KEY_BYTES} bytes."
    if not key.isprintable():
        return "The key holds a character that no header can carry."
    if key[:7].lower() == "bearer ":
        return "The key starts with Bearer; write what stands behind it."
    if key and any(key == cell or _holds(cell, key) for cell in given.values()):
        return "The key stands in another column too, where it would be stored as it is."
    if any(len(given.get(remark, "")) > _MAX_REMARK_CHARS for remark in _REMARKS):
        return f"Name and note have at most {_MAX_REMARK_CHARS} characters each."
    if len(key_id) > _MAX_NAMED or any("\0" in cell for cell in (key_id, *given.values())):
        return "The row holds a NUL character or a key id that is too long."
    return ""


def _holds(cell: str, key: str) -> bool:
    """Whether a key's text is part of another cell; a short one may be so by chance."""
    return len(key) >= GUESSABLE_CHARS and key in cell


def _is_digest(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)
