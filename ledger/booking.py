"""From stream entries to rows: what can be booked, what must be cleaned. Knows no store."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from ledger.event import FIELDS, MalformedEventError, MeteredEvent, from_bytes
from ledger.stream import Entry

MAX_TEXT_CHARS: Final = 500
"""Of any text but the identity, which must not be cut: two events could become one."""
MAX_IDENTITY_CHARS: Final = 200
MAX_LABELS: Final = 64
MAX_BIGINT: Final = 2**63 - 1
_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INTEGERS: Final = tuple(f.name for f in fields(MeteredEvent) if f.type in (int, int | None))
_TEXTS: Final = tuple(f.name for f in fields(MeteredEvent) if f.type is str)
_PRODUCER_FIELD: Final = 2  # numbers of proto/event.proto
_SEQ_FIELD: Final = 3


@dataclass(frozen=True, slots=True)
class Letter:
    """An entry that cannot be booked, and why. `producer` and `seq` are None where unreadable."""

    entry: Entry
    reason: str
    producer: str | None = None
    seq: int | None = None


class Bookable(NamedTuple):
    entry: Entry
    event: MeteredEvent


def sort_out(entries: Iterable[Entry]) -> tuple[list[Bookable], list[Letter]]:
    """What of `entries` can be booked, and letters for the rest. Never raises."""
    bookable, letters = [], []
    for entry in entries:
        try:
            event = from_bytes(entry.payload)
        except MalformedEventError as error:
            producer, seq = _identity(entry.payload)
            letters.append(Letter(entry, str(error), producer, seq))
            continue
        if reason := why_not(event):
            letters.append(undeliverable(Bookable(entry, event), reason))
        else:
            bookable.append(Bookable(entry, cleaned(event)))
    return bookable, letters


def undeliverable(bookable: Bookable, reason: str) -> Letter:
    """The letter for an event that could be read."""
    producer, seq = _usable(bookable.event.producer, bookable.event.seq)
    return Letter(bookable.entry, _clean(reason), producer, seq)


def why_not(event: MeteredEvent) -> str:
    """Why no row can hold the event; empty where one can."""
    for name in ("event_id", "producer"):
        text = getattr(event, name)
        if not text or "\x00" in text or len(text) > MAX_IDENTITY_CHARS:
            return f"Its {name} is empty, too long or has a NUL character in it."
    if event.seq < 1:
        return "Its seq is 0; producers count from 1."
    for name in _INTEGERS:
        if (getattr(event, name) or 0) > MAX_BIGINT:
            return f"Its {name} is larger than a bigint."
    try:
        _time(event.occurred_at_us)
    except OverflowError:
        return "Its occurred_at_us is not a time."
    return ""


def cleaned(event: MeteredEvent) -> MeteredEvent:
    """The event with texts that PostgreSQL takes: without NUL characters and not too long."""
    changes: dict[str, Any] = {}
    for name in _TEXTS:
        text = getattr(event, name)
        if "\x00" in text or len(text) > MAX_TEXT_CHARS:
            changes[name] = _clean(text)
    labels = dict(sorted((_clean(n), _clean(v)) for n, v in event.labels.items())[:MAX_LABELS])
    if labels != event.labels:
        changes["labels"] = labels
    return replace(event, **changes) if changes else event


def row(event: MeteredEvent) -> tuple[Any, ...]:
    """The event as the COPY statement takes it, in the order of ledger.event.FIELDS."""
    values = {name: getattr(event, name) for name in FIELDS}
    values["occurred_at_us"] = _time(event.occurred_at_us)
    values["labels"] = json.dumps(event.labels)
    return tuple(values.values())


def occurred_at(event: MeteredEvent) -> datetime:
    """The event's time as PostgreSQL keeps it, to the microsecond."""
    return _time(event.occurred_at_us)


def _time(at_us: int) -> datetime:
    return _UNIX_EPOCH + timedelta(microseconds=at_us)


def _clean(text: str) -> str:
    return text.replace("\x00", "\ufffd")[:MAX_TEXT_CHARS]


def _identity(payload: bytes) -> tuple[str | None, int | None]:
    """Producer and seq of an entry whose other fields cannot be read, so that it leaves no gap."""
    try:
        unread = UnknownFieldSet(Empty.FromString(payload))
    except DecodeError:
        return None, None
    producer, seq = b"", 0
    for item in (unread[index] for index in range(len(unread))):
        if item.field_number == _PRODUCER_FIELD and isinstance(item.data, bytes):
            producer = item.data
        elif item.field_number == _SEQ_FIELD and isinstance(item.data, int):
            seq = item.data
    return _usable(producer.decode("utf-8", "replace"), seq)


def _usable(producer: str, seq: int) -> tuple[str | None, int | None]:
    if not producer or "\x00" in producer or len(producer) > MAX_IDENTITY_CHARS:
        return None, None
    return (producer, seq) if 1 <= seq <= MAX_BIGINT else (None, None)
