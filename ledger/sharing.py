"""Who used what a cached context cost to write: a fair split of each write. Knows no store and no
price.

The rule
--------
A provider tells how many tokens of a call's input it wrote to its cache and how many it read from
there, not whose they were. But a cache holds beginnings of prompts, so their lengths are a thread:

- A call that reads R tokens and writes W leaves a beginning of R + W tokens behind, which lives as
  long as its kind does (5 minutes or an hour), counted from the end of the last call that used it.
- A call that reads exactly as many tokens as an earlier one left behind has read that; where
  several left as many, that of its own run, else of its own agent, else the newest.
- Otherwise it has read the first part of a longer one: in the same order of nearness.
- Reading a beginning uses every write that it was made of, each up to the tokens that were read.
- What nothing explains was written before, or by nobody who was billed: nothing is moved for it.

Each write is then split over the calls that used it, the writer included, in proportion to the
tokens used. So a write that nobody read stays with its writer, one that ten calls read in full is
split in eleven, and the parts sum to the write, to the nanodollar. What reading costs stays where
it was booked. A call sees only writes of calls that started before it, so the order of calls at one
instant does not matter.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import groupby
from operator import attrgetter
from typing import Final

SHORT_US: Final = 5 * 60 * 1_000_000
LONG_US: Final = 60 * 60 * 1_000_000
MAX_OPEN: Final = 100_000
"""Writes of one cache that wait for readers; beyond it the one that would end first is settled."""
LOOK_BACK: Final = 128
"""How many of the newest writes of a run, an agent, a length or a cache are looked at."""

Group = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CachedCall:
    """One call that read or wrote a cache. `group`: what the report shows it under, None where the
    report leaves it out. `short_nanos` and `long_nanos`: what its writes cost.
    """

    event_id: str
    at_us: int
    end_us: int
    group: Group | None
    run: str
    agent: str
    read: int = 0
    short: int = 0
    long: int = 0
    short_nanos: int = 0
    long_nanos: int = 0


@dataclass(frozen=True, slots=True)
class Split:
    """One write and its parts by group; they sum to `nanos`."""

    event_id: str
    group: Group | None
    nanos: int
    parts: Mapping[Group | None, int]


@dataclass(slots=True, eq=False)
class _Write:
    event_id: str
    group: Group | None
    start: int
    end: int
    nanos: int
    lives_us: int
    until_us: int
    under: "_Write | None"
    uses: dict[Group | None, int]
    places: tuple[tuple[str, str | int], ...]
    open: bool = True


def split(calls: Iterable[CachedCall], most_open: int = MAX_OPEN) -> Iterator[Split]:
    """The writes of one cache (an account's, of one model), as they end; `calls` by time."""
    cache = _Cache()
    for at_us, instant in groupby(calls, attrgetter("at_us")):
        yield from cache.end_before(at_us)
        same = sorted(instant, key=attrgetter("event_id"))
        found = [cache.read(call) for call in same]
        for call, under in zip(same, found, strict=True):
            cache.write(call, under)
        yield from cache.make_room(most_open)
    yield from cache.end_before(None)


def apportioned(amount: int, weights: Mapping[Group | None, int]) -> dict[Group | None, int]:
    """`amount` in proportion to positive weights, in whole numbers that sum to it: what is left by
    rounding down goes to the largest remainders, then by name.
    """
    whole = sum(weights.values())
    parts = {name: amount * weight // whole for name, weight in weights.items()}
    left = amount - sum(parts.values())
    order = sorted(weights, key=lambda name: (-(amount * weights[name] % whole), name or ("",)))
    for name in order[:left]:
        parts[name] += 1
    return parts


class _Cache:
    """What one cache holds now, found by length and by nearness; all of it bounded."""

    def __init__(self) -> None:
        self._ends: list[tuple[int, int, _Write]] = []
        self._places: dict[tuple[str, str | int], deque[_Write]] = {}
        self._number = 0

    def read(self, call: CachedCall) -> _Write | None:
        """Note what `call` read, and give the write that its own stand upon."""
        if call.read <= 0:
            return None
        found = self._find(call)
        each = found
        while each is not None:
            if each.open and (used := min(call.read, each.end) - each.start) > 0:
                each.uses[call.group] = each.uses.get(call.group, 0) + used
                each.until_us = max(each.until_us, call.end_us + each.lives_us)
            if each.under is not None and not each.under.open:
                each.under = None
            each = each.under
        return found

    def write(self, call: CachedCall, under: _Write | None) -> None:
        """Keep what `call` wrote: that for an hour comes first, as providers demand."""
        start = max(0, call.read)
        for tokens, nanos, lives_us in (
            (call.long, call.long_nanos, LONG_US),
            (call.short, call.short_nanos, SHORT_US),
        ):
            if tokens > 0:
                under = self._keep(call, start, tokens, nanos, lives_us, under)
                start += tokens

    def _keep(
        self,
        call: CachedCall,
        start: int,
        tokens: int,
        nanos: int,
        lives_us: int,
        under: _Write | None,
    ) -> _Write:
        end = start + tokens
        write = _Write(
            call.event_id,
            call.group,
            start,
            end,
            nanos,
            lives_us,
            call.end_us + lives_us,
            under,
            {call.group: tokens},
            (("length", end), ("run", call.run), ("agent", call.agent), ("all", "")),
        )
        self._number += 1
        heappush(self._ends, (write.until_us, self._number, write))
        for place in write.places:
            self._places.setdefault(place, deque(maxlen=LOOK_BACK)).append(write)
        return write

    def _find(self, call: CachedCall) -> _Write | None:
        exact = [write for write in self._at("length", call.read) if write.open]
        for near in ("run", "agent", "all"):
            place = (near, _name(call, near))
            for write in exact:
                if place in write.places:
                    return write
        for near in ("run", "agent", "all"):
            for write in self._at(near, _name(call, near)):
                if write.open and write.end > call.read:
                    return write
        return None

    def _at(self, kind: str, name: str | int) -> Iterator[_Write]:
        """The newest first."""
        return reversed(self._places.get((kind, name), ()))

    def end_before(self, at_us: int | None) -> Iterator[Split]:
        """Settle what nobody can read any more; None: everything."""
        while self._ends and (at_us is None or self._ends[0][0] < at_us):
            _, number, write = heappop(self._ends)
            if at_us is not None and write.until_us >= at_us:
                heappush(self._ends, (write.until_us, number, write))
            else:
                yield self._settled(write)

    def make_room(self, most_open: int) -> Iterator[Split]:
        """Settle what would end first, while there is too much."""
        if len(self._ends) > most_open:
            self._ends = [(write.until_us, number, write) for _, number, write in self._ends]
            heapify(self._ends)
        while len(self._ends) > most_open:
            yield self._settled(heappop(self._ends)[2])

    def _settled(self, write: _Write) -> Split:
        write.open, write.under = False, None
        for place in write.places:
            kept = self._places.get(place)
            while kept and not kept[0].open:
                kept.popleft()
            if not kept:
                self._places.pop(place, None)
        parts = apportioned(write.nanos, write.uses)
        return Split(write.event_id, write.group, write.nanos, parts)


def _name(call: CachedCall, near: str) -> str:
    return {"run": call.run, "agent": call.agent, "all": ""}[near]


@dataclass(slots=True)
class Moved:
    """What sharing does to one group."""

    written_nanos: int = 0
    out_nanos: int = 0
    in_nanos: int = 0


@dataclass(slots=True)
class Tally:
    """Sums of splits by group. What stays within a group has not moved."""

    groups: dict[Group | None, Moved] = field(default_factory=dict)

    def add(self, one: Split) -> None:
        """Count one write: out of its writer's group, into those that used it."""
        writer = self._group(one.group)
        writer.written_nanos += one.nanos
        for group, nanos in one.parts.items():
            if group != one.group and nanos:
                writer.out_nanos += nanos
                self._group(group).in_nanos += nanos

    def _group(self, group: Group | None) -> Moved:
        return self.groups.setdefault(group, Moved())
