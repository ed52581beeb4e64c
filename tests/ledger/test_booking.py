"""From stream entries to rows: what is booked, what is cleaned, what is put aside."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.booking import MAX_TEXT_CHARS, row, sort_out
from ledger.db import statement
from ledger.event import FIELDS, MeteredEvent, to_bytes
from ledger.stream import Entry

UINT64 = 2**64 - 1


def entry(**facts: Any) -> Entry:
    event = MeteredEvent(
        **{"event_id": "e", "producer": "p", "seq": 3, "occurred_at_us": 5, **facts}
    )
    return Entry("1-1", to_bytes(event))


def test_the_copy_statement_takes_the_fields_in_their_order() -> None:
    """A field that is added to the event must be added to the COPY statement at its place."""
    text = statement("staged_copy").decode()
    columns = text[text.index("(") + 1 : text.index(")")].replace("\n", " ").split(",")
    assert [name.strip() for name in columns] == [
        name.removesuffix("_us") if name == "occurred_at_us" else name for name in FIELDS
    ]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"event_id": ""}, "event_id is empty"),
        ({"event_id": "a\x00"}, "NUL character"),
        ({"producer": "p" * 201}, "too long"),
        ({"seq": 0}, "seq is 0"),
        ({"output_tokens": UINT64}, "output_tokens is larger than a bigint"),
        ({"occurred_at_us": 2**63 - 1}, "occurred_at_us is not a time"),
        ({"occurred_at_us": -(2**63)}, "occurred_at_us is not a time"),
    ],
)
def test_what_no_row_can_hold_is_put_aside(facts: dict[str, Any], reason: str) -> None:
    """An event that cannot be booked becomes a letter that says why."""
    bookable, [letter] = sort_out([entry(**facts)])
    assert bookable == []
    assert reason in letter.reason


def test_a_letter_knows_its_seq_where_it_can_be_read() -> None:
    """A broken text does not hide who sent the event, so it leaves no gap in the books."""
    broken = entry(model="abc").payload.replace(b"abc", b"a\xffc")
    _, letters = sort_out([Entry("1-1", broken), Entry("1-2", b"\xff"), Entry("1-3", b"")])
    assert [(letter.producer, letter.seq) for letter in letters] == [
        *[("p", 3), (None, None), (None, None)],
    ]


@given(st.text(), st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_any_text_can_be_booked(text: str, labels: dict[str, str]) -> None:
    """Whatever a client or a provider wrote, the row has no NUL character and no endless text."""
    valid = text.encode("utf-8", "replace").decode()
    clean = {
        name.encode("utf-8", "replace").decode(): value.encode("utf-8", "replace").decode()
        for name, value in labels.items()
    }
    [bookable], letters = sort_out([entry(model=valid * 100, route=valid, labels=clean)])
    assert letters == []
    for value in row(bookable.event):
        if isinstance(value, str):
            assert "\x00" not in value
            assert "\\u0000" not in value
    assert len(bookable.event.model) <= MAX_TEXT_CHARS


@given(st.binary(max_size=60))
def test_no_bytes_raise(payload: bytes) -> None:
    """Every entry is either bookable or a letter."""
    bookable, letters = sort_out([Entry("1-1", payload)])
    assert len(bookable) + len(letters) == 1
