"""Cache writes split over who used them: what the split keeps, and who has read what."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger.sharing import (
    LOOK_BACK,
    CachedCall,
    Group,
    Split,
    Tally,
    apportioned,
    split,
)

MINUTE = 60 * 1_000_000


def call(name: str, minute: float, group: str = "", **facts: Any) -> CachedCall:
    """A call that starts at `minute` and takes no time; its group and agent are its name's."""
    group = group or name.rstrip("0123456789")
    at_us = int(minute * MINUTE)
    values = {"event_id": name, "at_us": at_us, "end_us": at_us, "group": (group,), "run": name}
    return CachedCall(**{**values, "agent": group, **facts})


def shares(*calls: CachedCall) -> dict[str, dict[str, int]]:
    """Write -> group -> nanodollars, for calls in the order of time."""
    found: dict[str, dict[str, int]] = {}
    for one in split(calls):
        parts = found.setdefault(one.event_id, {})
        for group, nanos in one.parts.items():
            name = group[0] if group else "elsewhere"
            parts[name] = parts.get(name, 0) + nanos
    return found


@st.composite
def traffic(draw: st.DrawFn) -> list[CachedCall]:
    """Calls of one cache at whole minutes, many of them at once, with lengths that often meet."""
    lengths = st.sampled_from([0, 0, 1000, 1500, 2000, 3500])
    calls = []
    for number in range(draw(st.integers(0, 30))):
        at_us = draw(st.integers(0, 90)) * MINUTE
        team = draw(st.sampled_from(["a", "b", "c"]))
        short, long = draw(lengths), draw(lengths)
        calls.append(
            CachedCall(
                event_id=f"e{number:02}",
                at_us=at_us,
                end_us=at_us + draw(st.integers(0, 3)) * MINUTE,
                group=draw(st.sampled_from([(team,), None])),
                run=draw(st.sampled_from(["r1", "r2", f"e{number}"])),
                agent=team,
                read=draw(lengths),
                short=short,
                long=long,
                short_nanos=draw(st.integers(0, 10**12)) if short else 0,
                long_nanos=draw(st.integers(0, 10**12)) if long else 0,
            )
        )
    return sorted(calls, key=lambda each: each.at_us)


@given(traffic())
def test_the_parts_of_a_write_sum_to_it(calls: list[CachedCall]) -> None:
    """To the nanodollar, none negative, and every write is split once."""
    found = list(split(calls))
    for one in found:
        assert sum(one.parts.values()) == one.nanos
        assert min(one.parts.values()) >= 0
    assert sum(one.nanos for one in found) == sum(c.short_nanos + c.long_nanos for c in calls)
    assert len(found) == sum((c.short > 0) + (c.long > 0) for c in calls)


@given(traffic(), st.randoms(use_true_random=False))
def test_the_order_at_one_instant_does_not_matter(calls: list[CachedCall], random: Any) -> None:
    """Same calls, same times, any order of those that start together: the same splits."""
    shuffled = sorted(random.sample(calls, len(calls)), key=lambda each: each.at_us)

    def key(one: Split) -> str:
        return repr((one.event_id, one.nanos, sorted(one.parts.items(), key=repr)))

    assert sorted(map(key, split(shuffled))) == sorted(map(key, split(calls)))


@given(traffic())
def test_sharing_moves_money_and_makes_none(calls: list[CachedCall]) -> None:
    """What goes out somewhere comes in elsewhere."""
    tally = Tally()
    for one in split(calls):
        tally.add(one)
    moved = tally.groups.values()
    assert sum(each.out_nanos for each in moved) == sum(each.in_nanos for each in moved)
    assert all(each.out_nanos <= each.written_nanos for each in moved)


@given(traffic())
def test_a_write_that_nobody_read_stays_with_its_writer(calls: list[CachedCall]) -> None:
    """Without reads nothing moves."""
    for one in split([replace(each, read=0) for each in calls]):
        assert one.parts == {one.group: one.nanos}


@given(
    st.integers(0, 10**15),
    st.dictionaries(
        st.one_of(st.none(), st.tuples(st.text(max_size=3))),
        st.integers(1, 10**9),
        min_size=1,
        max_size=9,
    ),
)
def test_apportioned_is_exact_and_fair(amount: int, weights: dict[Group | None, int]) -> None:
    """The parts sum to the whole, each within one of its exact share."""
    parts = apportioned(amount, weights)
    whole = sum(weights.values())
    assert sum(parts.values()) == amount
    assert all(abs(parts[name] * whole - amount * weights[name]) < whole for name in weights)


def test_writer_and_readers_pay_by_what_they_used() -> None:
    """Three full reads and the write: a quarter each; a read of half counts half."""
    write = call("w", 0, short=1000, short_nanos=1_000_000)
    assert shares(write, *(call(f"r{n}", n, read=1000) for n in (1, 2, 3))) == {
        "w": {"w": 250_000, "r": 750_000}
    }
    assert shares(write, call("r", 1, read=500)) == {"w": {"w": 666_667, "r": 333_333}}


def test_a_write_lives_as_long_as_it_is_used() -> None:
    """Five minutes or an hour from the end of its last use; after that it is somebody else's."""
    short = call("w", 0, short=1000, short_nanos=900)
    assert shares(short, call("r", 5, read=1000)) == {"w": {"w": 450, "r": 450}}
    assert shares(short, call("r", 5.1, read=1000)) == {"w": {"w": 900}}
    kept = [call("r1", 4, read=1000), call("r2", 8, read=1000)]
    assert shares(short, *kept) == {"w": {"w": 300, "r": 600}}
    slow = replace(short, end_us=3 * MINUTE)
    assert shares(slow, call("r", 7, read=1000)) == {"w": {"w": 450, "r": 450}}
    long = call("w", 0, long=1000, long_nanos=900)
    assert shares(long, call("r", 60, read=1000)) == {"w": {"w": 450, "r": 450}}
    assert shares(long, call("r", 60.1, read=1000)) == {"w": {"w": 900}}


def test_nothing_is_read_before_it_is_written() -> None:
    """A call at the same instant has read something else."""
    write = call("w", 1, short=1000, short_nanos=900)
    assert shares(call("r1", 0, read=1000), call("r2", 1, read=1000), write) == {"w": {"w": 900}}


def test_a_conversation_uses_all_that_it_stands_upon() -> None:
    """A turn reads the shared beginning and its own earlier turns, each write to its own length."""
    found = shares(
        call("w", 0, short=1000, short_nanos=1200),
        call("a1", 1, read=1000, short=500, short_nanos=500),
        call("a2", 2, read=1500, short=100, short_nanos=100),
        call("b1", 2, read=1000, short=300, short_nanos=300),
    )
    assert found == {
        "w": {"w": 300, "a": 600, "b": 300},
        "a1": {"a": 500},
        "a2": {"a": 100},
        "b1": {"b": 300},
    }


def test_the_same_length_is_the_same_text() -> None:
    """A shared beginning is told from one's own longer one by its exact length."""
    found = shares(
        call("w", 0, short=1000, short_nanos=900),
        call("a1", 1, short=5000, short_nanos=700),
        call("a2", 2, read=1000),
    )
    assert found == {"w": {"w": 450, "a": 450}, "a1": {"a": 700}}


def test_of_several_the_nearest_was_read() -> None:
    """Own run before own agent before the newest of all; no foreign write is charged."""
    writes = [
        call("x1", 0, "x", short=1000, short_nanos=100),
        call("a1", 1, "a", short=1000, short_nanos=100),
        call("a2", 2, "a", short=1000, short_nanos=100, run="talk"),
        call("y1", 3, "y", short=1000, short_nanos=100),
    ]
    reader = call("r", 4, "r", read=1000)
    assert shares(*writes, reader)["y1"] == {"y": 50, "r": 50}
    assert shares(*writes, replace(reader, agent="a"))["a2"] == {"a": 50, "r": 50}
    own = replace(reader, agent="x", run="talk")
    assert shares(*writes, own)["a2"] == {"a": 50, "r": 50}


def test_a_part_of_something_longer_was_read_where_nothing_fits() -> None:
    """A system prompt that was written together with a first question."""
    found = shares(call("w", 0, short=2000, short_nanos=3000), call("r", 1, read=1000, short=700))
    assert found["w"] == {"w": 2000, "r": 1000}


def test_what_nothing_explains_moves_nothing() -> None:
    """More was read than anybody wrote: it was written before the time that was asked for."""
    write = call("w", 0, short=1000, short_nanos=900)
    assert shares(write, call("r", 1, read=9000)) == {"w": {"w": 900}}


def test_an_hour_and_five_minutes_in_one_call_are_two_writes() -> None:
    """Each with its own cost and life; what is for an hour comes first."""
    write = call("w", 0, long=1000, long_nanos=2000, short=500, short_nanos=600)
    found = list(split([write, call("r", 1, read=1000), call("r", 3, read=1500)]))
    assert [(one.nanos, one.parts) for one in found] == [
        (600, {("w",): 300, ("r",): 300}),
        (2000, {("w",): 667, ("r",): 1333}),
    ]


def test_what_is_held_is_bounded() -> None:
    """The write that would end first is settled when there are too many; the others are read."""
    calls = [call(f"w{n}", n / 100, short=10, short_nanos=7) for n in range(9)]
    found = list(split([*calls, call("r", 1, read=10)], most_open=5))
    assert [one.event_id for one in found][:4] == ["w0", "w1", "w2", "w3"]
    assert sorted(one.event_id for one in found) == [f"w{n}" for n in range(9)]
    assert [one.event_id for one in found if ("r",) in one.parts] == ["w8"]


def test_only_the_newest_are_looked_at() -> None:
    """A hundred thousand writes are not compared with each read."""
    calls = [call(f"w{n:03}", n / 100, short=20, short_nanos=6) for n in range(LOOK_BACK)]
    old = call("old", 0, short=90, short_nanos=6)
    assert shares(old, call("r", 4, read=50))["old"] == {"old": 4, "r": 2}
    assert shares(old, *calls, call("r", 4, read=50))["old"] == {"old": 6}
