"""The life of one worker process: its parts wired together, started, stopped in order. Wiring."""

import asyncio
import gc
import logging
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from extproc.directory import Directory
from extproc.estimate import Estimates
from extproc.outbox import Outbox, adopt
from extproc.policy import Policy
from extproc.server import Budgets, Sidecar, build_server, now
from extproc.settings import Settings
from extproc.spool import Spool
from extproc.store import Store
from ledger.keyspace import Keyspace
from ledger.price_list import standard_table
from ledger.prices import RateTable

log = logging.getLogger(__name__)

_COLLECT_EVERY: Final = 20_000
"""New container objects between two collections; a call makes some hundred, short-lived."""
_NICENESS: Final = 5
"""Of gRPC's threads: enough that the loop goes first, and far from starving them."""
_GRACE_S: Final = 25.0
_DRAIN_S: Final = 5.0
_TURN_AWAY_S: Final = 3.0
"""Envoy asks every second and believes the second refusal."""
_QUIET_S: Final = 0.3
_LOAD_S: Final = 5.0
"""How long a worker keeps its socket shut for want of keys; then it opens, and says so itself."""


async def serve(settings: Settings, index: int, stop: asyncio.Event) -> None:
    """One worker: serve its socket until `stop`, then finish open calls and hand over what they
    cost.
    """
    keyspace = Keyspace(settings.org)
    producer = f"{settings.host}-{index}-{os.urandom(4).hex()}"
    policy = Policy(
        keyspace,
        _rates(settings),
        Estimates(),
        producer=producer,
        max_request_bytes=settings.max_request_bytes,
        max_response_bytes=settings.max_response_bytes,
        unstated_output_tokens=settings.unstated_output_tokens,
        hold_ms=settings.hold_s * 1000,
        deployments=settings.deployments,
        shadow=settings.enforce == "shadow",
        principal_claims=settings.claims,
        usage_unasked=settings.unasked,
    )
    store = Store(settings.redis_url, keyspace)
    outbox = Outbox(Spool(settings.spool_dir, producer), store)
    store.before_reserve = outbox.hurry
    directory = Directory(settings.redis_url, keyspace, policy)
    budgets = Budgets(store, policy, open_when_away=settings.store_away == "open")
    sidecar = Sidecar(policy, budgets, outbox)
    server = build_server(sidecar.process, lambda: policy.ready and not stop.is_set())
    path = settings.socket(index)
    tasks = [
        asyncio.create_task(directory.run(), name="directory"),
        asyncio.create_task(outbox.run(), name="outbox"),
        asyncio.create_task(store.guard_holds(), name="guard"),
        asyncio.create_task(outbox.keep_holds(policy.hold_ms, now), name="holds"),
        asyncio.create_task(adopt(settings.spool_dir, store), name="adopt"),
    ]
    await _until_loaded(directory.loaded, stop)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    _let_the_loop_finish()
    _spare_the_collector()
    log.info("Worker %d serves %s as producer %s.", index, path, producer)
    await _until_stopped(stop, tasks)
    await _let_envoy_turn_away(sidecar)
    await server.stop(_GRACE_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await _hand_over(outbox)
    await directory.close()
    await store.close()


def _rates(settings: Settings) -> RateTable:
    table = standard_table()
    for name, listed in settings.price_lists.items():
        if listed not in table.lists:
            log.error(
                "TOLLKEEPER_PRICE_LIST gives %s the list %r, which does not exist: its calls have"
                " no price. There are: %s.",
                name,
                listed,
                ", ".join(sorted(table.lists)),
            )
    return table.named(settings.price_lists)


def _let_the_loop_finish() -> None:
    """Where Linux schedules: gRPC's own threads wake for every message, and no longer interrupt the
    event loop for it. They run when the loop has nothing to do, and then hand over many messages at
    once; measured, that is a third of the CPU of a call.
    """
    if not sys.platform.startswith("linux"):
        return
    for task in Path("/proc/self/task").iterdir():
        thread = int(task.name)
        if thread != threading.main_thread().native_id:
            with suppress(OSError):  # it has ended, or a sandbox forbids it: slower, not wrong
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)


def _spare_the_collector() -> None:
    """What start-up has made (prices above all) lives for ever: no collection need look at it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)


async def _until_loaded(loaded: asyncio.Event, stop: asyncio.Event) -> None:
    """Wait for the keys before the socket is there: Envoy takes a call that it cannot connect to
    another worker, but one that this worker refuses is lost.
    """
    waits = [asyncio.create_task(loaded.wait()), asyncio.create_task(stop.wait())]
    await asyncio.wait(waits, timeout=_LOAD_S, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()


async def _until_stopped(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for `stop`; a background task that ends before it is a bug, and raises."""
    stopped = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if stopped not in done:
        stopped.cancel()
        for task in done:
            task.result()


async def _let_envoy_turn_away(sidecar: Sidecar) -> None:
    """Serve on until Envoy's health checks have seen that this worker stops: a call that it sends
    to a closed socket is lost. Without calls there is nothing to wait for.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + _TURN_AWAY_S
    seen = -1
    while loop.time() < end and (sidecar.under_way or sidecar.calls != seen):
        seen = sidecar.calls
        await asyncio.sleep(_QUIET_S)


async def _hand_over(outbox: Outbox) -> None:
    if await outbox.drain(_DRAIN_S):
        outbox.forget()
    else:
        log.warning("%d events stay in the spool for the next start.", outbox.uncommitted)
