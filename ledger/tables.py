"""Rows as a table for people, JSON for scripts, CSV for spreadsheets. Knows no database."""

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TextIO

from ledger.money import NANOS_PER_USD, usd_from_nanos

if TYPE_CHECKING:
    pass

FORMATS: Final = ("table", "json", "csv")
_RIGHT: Final = ("count", "tokens", "usd", "limit", "percent", "amount")
_TIMES: Final = {"time": "%m-%d %H:%M:%S", "minute": "%Y-%m-%d %H:%M", "date": "%Y-%m-%d"}
_FIXED: Final = (*_RIGHT, *_TIMES, "id")
# A spreadsheet runs a cell that starts like this; clients choose some texts (a model's name).
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
_NUMBER: Final = re.compile(r"-\d+(\.\d+)?", re.ASCII).fullmatch
_PIPE_WIDTH: Final = 10_000  # into a pipe nothing is shortened
_GAP: Final = 2
_LEAST_TEXT: Final = 8
_TOKEN_UNITS: Final = ((10**9, "B"), (10**6, "M"), (10**3, "k"))
_NANOS_PER_CENT: Final = NANOS_PER_USD // 100

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: the row's field, its title and how to show it.

    Kinds: text (shortened on a narrow terminal); name (continued on the next line there); id, time,
    minute and date (whole always); and on the right count, tokens (rounded), percent, usd
    (nanodollars; None: unpriced), limit (the same; None: no limit) and amount (a text).
    """

    name: str
    title: str
    kind: str = "text"


def iso(moment: datetime) -> str:
    """ISO-8601 in UTC with microseconds and `Z`, always 27 characters."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def money(nanos: int | None, places: int | None = None) -> str:
    """Dollars to read, `$1,234.50`; without `places`, as many decimals as the amount needs."""
    if nanos is None:
        return "unpriced"
    shown = money_places([nanos]) if places is None else places
    whole, _, fraction = usd_from_nanos(abs(nanos), shown).partition(".")
    return f"{'-' if nanos < 0 else ''}${int(whole):,}.{fraction}"


def money_places(amounts: Iterable[int | None]) -> int:
    """How many decimals these amounts need so that points align and the least still shows."""
    magnitudes = [abs(nanos) for nanos in amounts if nanos]
    if all(nanos >= NANOS_PER_USD or nanos % _NANOS_PER_CENT == 0 for nanos in magnitudes):
        return 2
    return 4 if min(magnitudes) >= _NANOS_PER_CENT else 6


def tokens(count: int) -> str:
    """A number of tokens to read: four digits and a unit, such as `19.05M`; exact below 10,000."""
    magnitude = abs(count)
    if magnitude < 10_000:
        return f"{count:,}"
    size, unit = next(pair for pair in _TOKEN_UNITS if magnitude >= pair[0])
    places = max(0, 4 - len(str(magnitude // size)))
    return f"{Decimal(count) / size:,.{places}f}{unit}"


def printable(text: str) -> str:
    """`text` with whatever a terminal would act on shown as `\\xNN`."""
    return "".join(_harmless(character) for character in text)


def as_json(value: Any) -> str:
    """The value as JSON, indented; times become ISO-8601 strings."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=_json_default)


def as_csv(names: Sequence[str], rows: Iterable[Row]) -> str:
    """A header and a line per row; a text that a spreadsheet would run is prefixed by `'`."""
    lines = [names, *([_csv_cell(row.get(name)) for name in names] for row in rows)]
    return "".join(_csv_line(cells) + "\n" for cells in lines)


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Row],
    out: TextIO,
    *,
    total: Row | None = None,
    empty: str = "Nothing to show.",
) -> None:
    """Prints aligned columns; a narrow terminal shortens or continues texts, never numbers."""
    if not rows:
        print(empty, file=out)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    everything = [*rows, *([total] if total is not None else [])]
    texts = [_texts(column, everything) for column in columns]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            Text(column.title, no_wrap=True, overflow="ellipsis"),
            justify="right" if column.kind in _RIGHT else "left",
            no_wrap=column.kind in _FIXED,
        )
    for row, cells in zip(everything, zip(*texts, strict=True), strict=True):
        shown = (
            Text(text, overflow="fold")
            if column.kind == "name"
            else Text(text, no_wrap=True, overflow="ellipsis")
            for column, text in zip(columns, cells, strict=True)
        )
        table.add_row(*shown, style="bold" if row is total else "")
    console = Console(file=out, width=_width(out), highlight=False)
    # Below this the terminal had better wrap the lines than we leave out columns.
    console.width = max(console.width, _least_width(columns, texts))
    console.print(table)


def _texts(column: Column, rows: Sequence[Row]) -> list[str]:
    values = [row.get(column.name) for row in rows]
    places = money_places(values) if column.kind == "usd" else None
    return [_shown(column.kind, value, places) for value in values]


def _least_width(columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> int:
    widest = [max(len(c.title), *map(len, cells)) for c, cells in zip(columns, texts, strict=True)]
    least = (
        width if column.kind in _FIXED else min(width, _LEAST_TEXT)
        for column, width in zip(columns, widest, strict=True)
    )
    return sum(least) + _GAP * (len(columns) - 1)


def _shown(kind: str, value: Any, places: int | None) -> str:
    if kind == "usd":
        return money(value, places)
    if value is None or value == "" or value is False:
        return "-"
    if value is True:
        return "yes"
    if kind in _TIMES:
        moment: datetime = value
        return moment.astimezone(UTC).strftime(_TIMES[kind])
    if kind == "limit":
        return money(value)
    if kind == "count":
        return f"{value:,}"
    if kind == "tokens":
        return tokens(value)
    if kind == "percent":
        return f"{value}%"
    return printable(str(value))


def _width(out: TextIO) -> int | None:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal():
        return int(columns)
    return None if out.isatty() else _PIPE_WIDTH


def _harmless(character: str) -> str:
    risky = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return repr(character)[1:-1] if risky else character


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return iso(value)
    raise TypeError(f"{type(value).__name__} has no JSON form.")


def _csv_line(cells: Sequence[str]) -> str:
    # The writer quotes what is part of its line end: with this one also a lone carriage return.
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().removesuffix("\r\n")


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=_json_default)
    text = str(value)
    risky = isinstance(value, str) and text.startswith(_FORMULA_STARTS) and not _NUMBER(text)
    return f"'{text}" if risky else text
