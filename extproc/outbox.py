"""From a finished call to the store: number it, spool it, settle it, and forget it when the books
have it.

Knows neither HTTP nor money. `put` and `open` never wait: they run while a stream is being
cancelled.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

import orjson

from extproc.meter import Draft, Settlement
from extproc.resp import StoreError
from extproc.spool import Spool, Unsettled, abandoned
from extproc.store import Settled, Store
from ledger.event import fields_to_bytes

log = logging.getLogger(__name__)

BATCH: Final = 200
MAX_PENDING: Final = 20_000
"""Events kept in memory while the store is away; further ones are read back from the spool."""
_GATHER_S: Final = 0.003
"""How long an event waits for others to share its way to the store, unless `hurry` is called."""
_IDLE_S: Final = 0.25
_FULL_S: Final = 0.25
_RETRY_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
_ADOPT_EVERY_S: Final = 5.0
_EXTENSIONS: Final = 3
"""How often a hold is extended within its life, so that one lost extension does not end it."""


class Outbox:
    """Ships the events of one producer in the order of their seq, each until the ledger has
    committed it.
    """

    def __init__(self, spool: Spool, store: Store, last_seq: int = 0) -> None:
        self._spool = spool
        self._store = store
        self._seq = last_seq
        self._settled = 0
        self._committed = 0
        self._pending: deque[Unsettled] = deque()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self.spool_errors = 0

    @property
    def unsettled(self) -> int:
        return self._seq - self._settled

    @property
    def uncommitted(self) -> int:
        return self._seq - self._committed

    def open(self, draft: Draft | None) -> None:
        """Put a call on record before it goes upstream, where there is something to record."""
        if draft is None:
            return
        fields, counters = orjson.dumps(draft.fields), orjson.dumps(draft.counters)
        try:
            self._spool.open(draft.event_id, fields, counters)
        except OSError as error:
            self._spool_failed(error)

    def put(self, settlement: Settlement | None) -> None:
        """Give an event its number and send it on its way. Never waits, never raises."""
        if settlement is None:
            return
        payload = fields_to_bytes(settlement.fields, self._seq + 1)
        self._add(settlement.fields["event_id"], payload, orjson.dumps(settlement.counters))

    def end(self, item: Unsettled) -> None:
        """Turn a call that a dead process left open into its event."""
        payload = fields_to_bytes(orjson.loads(item.payload), self._seq + 1)
        self._add(item.event_id, payload, item.counters)

    def _add(self, event_id: str, payload: bytes, counters: bytes) -> None:
        self._seq += 1
        item = Unsettled(self._seq, event_id, payload, counters)
        spooled = True
        try:
            self._spool.append(item)
        except OSError as error:
            spooled = False
            self._spool_failed(error)
        if len(self._pending) < MAX_PENDING or not spooled:
            self._pending.append(item)
        if len(self._pending) >= BATCH:
            self._wake.set()
        else:
            self._wake_in(_GATHER_S)

    def _spool_failed(self, error: OSError) -> None:
        self.spool_errors += 1
        if self.spool_errors == 1 or self.spool_errors % 1000 == 0:
            log.error(
                "The spool cannot be written (%s): %d records are in memory only.",
                error,
                self.spool_errors,
            )

    def forget(self) -> None:
        """Remove the spool of a producer whose every event is committed."""
        self._spool.destroy()

    async def run(self) -> None:
        """Ship for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._cancel_timer()
            await self.ship()
            if self.unsettled:
                self._wake.set()
            elif self.uncommitted:
                self._wake_in(_IDLE_S)

    def hurry(self) -> None:
        """Ship what waits now: a reservation comes, and finished calls have money to give back."""
        if self._pending:
            self._wake.set()

    def _wake_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._wake.set)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def keep_holds(self, hold_ms: int, now_us: Callable[[], int]) -> None:
        """For ever: let the holds of calls that are still under way outlive `hold_ms`."""
        while True:
            await asyncio.sleep(hold_ms / 1000 / _EXTENSIONS)
            if event_ids := self._spool.under_way:
                try:
                    await self._store.extend(event_ids, now_us() // 1000 + hold_ms)
                except StoreError as error:
                    log.warning("Holds could not be extended now (%s).", error)

    async def drain(self, deadline_s: float) -> bool:
        """Ship until the ledger has committed everything, at most so long; says whether it has."""
        try:
            async with asyncio.timeout(deadline_s):
                while self.uncommitted:
                    await self.ship()
                    if not self.unsettled and self.uncommitted:
                        await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True

    async def ship(self) -> None:
        """One batch to the store; waits where the store is away or full."""
        batch = self._next_batch()
        try:
            settled = await self._store.settle(self._spool.producer, batch)
        except StoreError as error:
            if self._failures % 60 == 0:
                log.warning("Events wait in the spool: the store has a fault (%s).", error)
            await asyncio.sleep(_RETRY_S[min(self._failures, len(_RETRY_S) - 1)])
            self._failures += 1
            return
        self._failures = 0
        await self._take(settled, batch)

    async def _take(self, settled: Settled, batch: list[Unsettled]) -> None:
        self._settled = settled.last
        while self._pending and self._pending[0].seq <= settled.last:
            self._pending.popleft()
        if settled.committed > self._committed:
            self._committed = settled.committed
            self._spool.release(settled.committed)
        if settled.full:
            await asyncio.sleep(_FULL_S)
        elif settled.gap and not await self._refill(settled.last):
            log.error(
                "The store lost events after seq %d that the books hold; it is rebuilt.",
                settled.last,
            )
            await self._store.ask_for_rebuild()

    def _next_batch(self) -> list[Unsettled]:
        if not self._pending and self.unsettled:
            self._pending.extend(self._spool.read_from(self._settled + 1, BATCH))
        batch = [item for item, _ in zip(self._pending, range(BATCH), strict=False)]
        for at, (one, following) in enumerate(pairwise(batch)):
            if following.seq != one.seq + 1:
                return batch[: at + 1]
        return batch

    async def _refill(self, last: int) -> bool:
        """Put what the store lacks in front again, from the spool; False where it is no longer
        there.
        """
        older = self._spool.read_from(last + 1, BATCH)
        if not older or older[0].seq != last + 1:
            return bool(self._pending) and self._pending[0].seq == last + 1
        first = self._pending[0].seq if self._pending else self._seq + 1
        self._pending.extendleft(reversed([item for item in older if item.seq < first]))
        return True


async def adopt(folder: Path, store: Store) -> None:
    """For ever: ship what dead processes have left in this folder, their open calls included."""
    while True:
        for spool in abandoned(folder):
            try:
                await _adopt_one(spool, store)
            except (OSError, ValueError):
                log.exception("The spool of %s cannot be adopted now.", spool.producer)
                spool.close()
        await asyncio.sleep(_ADOPT_EVERY_S)


async def _adopt_one(spool: Spool, store: Store) -> None:
    last_seq, never_ended = spool.load()
    outbox = Outbox(spool, store, last_seq)
    for item in never_ended:
        outbox.end(item)
    if never_ended or last_seq:
        log.warning(
            "Adopted the spool of %s: %d events, %d calls that never ended.",
            spool.producer,
            last_seq,
            len(never_ended),
        )
        while not await outbox.drain(_ADOPT_EVERY_S):
            log.info("Still shipping the spool of %s.", spool.producer)
    outbox.forget()
