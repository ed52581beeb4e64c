"""The metered event and its bytes: what is written is read back, and bad bytes raise one error."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.event import FIELDS, MalformedEventError, MeteredEvent, Usage, from_bytes, to_bytes
from ledger.wire import event_pb2

WIDE = ("tokens", "seq", "policy_version")
SIGNED = ("occurred_at_us", "cost_nanos", "provider_cost_nanos", "hold_nanos")
OPTIONAL = ("cost_nanos", "provider_cost_nanos", "first_byte_ms")
texts = st.text(st.characters(codec="utf-8"), max_size=20)


def values_of(name: str, kind: object) -> st.SearchStrategy[object]:
    if name == "labels":
        return st.dictionaries(texts, texts, max_size=4)
    if kind is bool:
        return st.booleans()
    if kind is str:
        return texts
    if name in SIGNED:
        whole = st.integers(-(2**63), 2**63 - 1)
    else:
        whole = st.integers(0, 2**64 - 1 if name.endswith(WIDE) else 2**32 - 1)
    return st.one_of(st.none(), st.just(0), whole) if name in OPTIONAL else whole


events = st.builds(
    MeteredEvent,
    **{field.name: values_of(field.name, field.type) for field in fields(MeteredEvent)},
)
SMALL = MeteredEvent(event_id="e", producer="p", seq=1, occurred_at_us=0, labels={"env": "test"})


@given(events)
def test_round_trip(event: MeteredEvent) -> None:
    """Every field is read back as written; an unknown cost stays unknown, zero stays zero."""
    assert from_bytes(to_bytes(event)) == event


@given(events, st.integers(1, 2**63))
def test_numbering_changes_only_the_number(event: MeteredEvent, seq: int) -> None:
    """The outbox numbers an event as it leaves; all else stays."""
    assert from_bytes(to_bytes(event, seq)) == replace(event, seq=seq)


def test_an_unknown_cost_is_not_zero() -> None:
    """An unpriced call and a free one are different on the stream."""
    unpriced, free = to_bytes(SMALL), to_bytes(replace(SMALL, cost_nanos=0))
    assert from_bytes(unpriced).cost_nanos is None
    assert from_bytes(free).cost_nanos == 0


def test_the_wire_has_our_fields() -> None:
    """The dataclass and the message carry the same names, and usage is part of the event."""
    assert {field.name for field in event_pb2.MeteredEvent.DESCRIPTOR.fields} == set(FIELDS)
    assert {field.name for field in fields(Usage)} <= set(FIELDS)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_event_or_malformed(payload: bytes) -> None:
    """Whatever is on the stream, reading it raises MalformedEventError or nothing."""
    try:
        from_bytes(payload)
    except MalformedEventError:
        pass


@given(events, st.data())
def test_damaged_events_are_an_event_or_malformed(event: MeteredEvent, data: st.DataObject) -> None:
    """A flipped byte or a cut tail raises MalformedEventError or nothing."""
    payload = bytearray(to_bytes(event))
    if payload:
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    try:
        from_bytes(bytes(payload[:cut]))
    except MalformedEventError:
        pass


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a\x09",  # a string that ends early
        b"\x0a\x02\xff\xfe",  # a string that is not UTF-8
        b"not an event",
    ],
)
def test_malformed_bytes_say_so(payload: bytes) -> None:
    """The reason is a sentence that the dead letter can carry."""
    with pytest.raises(MalformedEventError, match="not a serialised MeteredEvent"):
        from_bytes(payload)


def test_fields_of_a_newer_producer_are_ignored() -> None:
    """During an upgrade the ledger reads events that carry fields it does not know."""
    assert from_bytes(to_bytes(SMALL) + b"\xf8\x3f\x01") == SMALL


@pytest.mark.parametrize(
    "event",
    [
        replace(SMALL, model_requested="\ud800"),
        replace(SMALL, labels={"env": "\udcff"}),
        replace(SMALL, input_tokens=-1),
        replace(SMALL, input_tokens=2**64),
        replace(SMALL, cost_nanos=2**63),
        replace(SMALL, latency_ms=2**32),
    ],
)
def test_values_that_do_not_fit_are_refused_when_written(event: MeteredEvent) -> None:
    """A lone surrogate or a number beyond its column never reaches the stream."""
    with pytest.raises(ValueError, match=r"surrogates|out of range"):
        to_bytes(event)
