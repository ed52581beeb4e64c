"""The budget store: two scripts and the epoch they must agree on. Knows Redis, and neither budgets'
meaning nor HTTP.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import orjson

from extproc.budget import Plan, Reserved, Standing, StoreAway
from extproc.resp import Connection, StoreError
from extproc.spool import Unsettled
from ledger.keyspace import Keyspace

MAX_STREAM_ENTRIES: Final = 500_000
"""Events that may wait in Redis for the ledger; further ones wait in the spools."""
_RESERVE_TIMEOUT_S: Final = 1.0
_SETTLE_TIMEOUT_S: Final = 5.0
_GUARD_S: Final = 0.1
"""Well within the time that the ledger waits between closing the gate and adding up the holds."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What the store has of this producer. `full`: the stream takes no more now; `gap`: earlier
    events are missing.
    """

    last: int
    committed: int
    full: bool = False
    gap: bool = False


class Script:
    """A Lua script by its digest; its text is sent when the server does not know it."""

    def __init__(self, name: str) -> None:
        self._text = files("extproc").joinpath("lua", name).read_bytes()
        self._sha = hashlib.sha1(self._text, usedforsecurity=False).hexdigest()

    async def run(
        self, connection: Connection, keys: Sequence[str], args: Sequence[Any], timeout_s: float
    ) -> Any:
        command = (self._sha, len(keys), *keys, *args)
        try:
            return await connection.call("EVALSHA", *command, timeout_s=timeout_s)
        except StoreError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await connection.call("EVAL", self._text, *command[1:], timeout_s=timeout_s)


class Store:
    """Reserve and settle against one Redis. `before_reserve` runs before each reservation."""

    def __init__(self, url: str, keyspace: Keyspace) -> None:
        self._connection = Connection(url)
        self._keyspace = keyspace
        self._epoch = b""
        self._reserve, self._settle = Script("reserve.lua"), Script("settle.lua")
        self._void, self._restore = Script("void.lua"), Script("restore.lua")
        self._holds: dict[str, tuple[list[str | int], int]] = {}
        self.before_reserve: Callable[[], None] | None = None

    async def reserve(self, plan: Plan, *, grow: bool = False) -> Reserved | StoreAway:
        """Hold every share of the plan or none; `grow` adds to the hold there is. Never raises."""
        if self.before_reserve is not None:
            self.before_reserve()
            await asyncio.sleep(0)  # what it sets off goes out first, and in the same write
        names = self._keyspace
        keys = [names.epoch, names.holds, names.hold_expiry]
        args: list[Any] = [plan.event_id, plan.expires_at_ms, plan.least, plan.most]
        args.append("grow" if grow else "")
        for share in plan.shares:
            keys.append(share.counter)
            args += (share.base, share.per_token, share.limit, share.expires_at_ms)
        try:
            for _ in range(2):
                reply = await self._reserve.run(
                    self._connection, keys, (self._epoch, *args), _RESERVE_TIMEOUT_S
                )
                if reply[0] >= 0:
                    if reply[0] == 1:
                        self._remember(plan, reply[1])
                    pairs = zip(reply[2::2], reply[3::2], strict=True)
                    standings = tuple(Standing(used, held) for used, held in pairs)
                    return Reserved(reply[0] == 1, standings, reply[1])
                await self.learn_epoch()
        except StoreError as error:
            return StoreAway(str(error))
        return StoreAway("its counters are not rebuilt from the books yet")

    async def settle(self, producer: str, batch: Sequence[Unsettled]) -> Settled:
        """Hand over the producer's next events, in order; raises StoreError. Safe to repeat."""
        names = self._keyspace
        keys = (
            *(names.epoch, names.holds, names.hold_expiry),
            *(names.producers, names.committed, names.events),
        )
        args: list[Any] = [self._epoch, producer, MAX_STREAM_ENTRIES]
        for item in batch:
            args += (item.seq, item.event_id, item.payload, item.counters)
        status, last, committed = await self._settle.run(
            self._connection, keys, args, _SETTLE_TIMEOUT_S
        )
        if status == -1:
            await self.learn_epoch()
            raise StoreError("its counters have been rebuilt; sending again")
        for item in batch:
            if item.seq <= last:
                self._holds.pop(item.event_id, None)
        return Settled(last, committed, full=status == 0, gap=status == -2)

    def _remember(self, plan: Plan, granted: int) -> None:
        """Keep what is held for a call until it is settled: the store may lose it."""
        held, _ = self._holds.get(plan.event_id, ([], 0))
        for share in plan.shares:
            if amount := share.amount(granted):
                held += (share.counter, amount)
        self._holds[plan.event_id] = (held, plan.expires_at_ms)

    async def guard_holds(self) -> None:
        """For ever: put the holds of calls under way back into a store that lost its memory. The
        ledger waits for them before it lets anybody reserve again.
        """
        while True:
            await asyncio.sleep(_GUARD_S)
            if self._holds:
                try:
                    await self.learn_epoch()
                except StoreError:
                    continue

    async def extend(self, event_ids: Sequence[str], expires_at_ms: int) -> None:
        """Let the holds of calls still under way live longer; raises StoreError."""
        pairs = [part for event_id in event_ids for part in (expires_at_ms, event_id)]
        await self._connection.call("ZADD", self._keyspace.hold_expiry, "XX", *pairs)

    async def ask_for_rebuild(self) -> None:
        """Declare this generation of counters void, so that the ledger rebuilds them from the
        books.
        """
        await self._void.run(self._connection, (self._keyspace.epoch,), (self._epoch,), 1.0)
        self._epoch = b""

    async def learn_epoch(self) -> None:
        """Read which generation of counters is in force; raises StoreError while there is none."""
        names = self._keyspace
        epoch = await self._connection.call("GET", names.epoch)
        if epoch != self._epoch and self._holds:
            keys = (names.epoch, names.holds, names.hold_expiry)
            parts = [
                part
                for event_id, (held, expires_at_ms) in self._holds.items()
                for part in (event_id, orjson.dumps(held), expires_at_ms)
            ]
            await self._restore.run(self._connection, keys, parts, _SETTLE_TIMEOUT_S)
        if epoch is None:
            raise StoreError("its counters are not rebuilt from the books yet")
        self._epoch = epoch

    async def close(self) -> None:
        await self._connection.close()
