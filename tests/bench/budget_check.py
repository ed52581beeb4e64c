"""The second table: what the budget check adds to a call, and how many holds one counter takes."""

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from extproc.budget import Plan, Reserved, Share
from extproc.store import Store
from ledger.budgets import Budget, window_at
from ledger.keyspace import Keyspace
from tests.bench import load
from tests.e2e import seeded
from tests.e2e.processes import cpu_ns, until

ROUNDS: Final = 8
LIMIT_S: Final = 45.0
DEFINED: Final = 10_000
IN_FLIGHT: Final = 64
HOT_S: Final = 3.0
_BINDING: Final = {"none": 0, "two": 2, "ten": 10}  # team -> budgets that bind its calls
_HUGE: Final = 10**15

Gateway = Callable[[Path, Path], AbstractContextManager[int]]


@dataclass(slots=True)
class Case:
    """One row: a gateway and a key, and a number of each kind for each round."""

    name: str
    pid: int
    port: int
    key: str
    cpu_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)


def cases(stack: ExitStack, folder: Path, redis_url: str, gateway: Gateway) -> list[Case]:
    """Start two sidecars, each before its own Envoy: one with few budgets, one with 10,000."""
    teams = tuple(_BINDING)
    binding = [
        _budget(f"{team}-{n}", team, n) for team, number in _BINDING.items() for n in range(number)
    ]
    others = [_budget(f"other-{n}", f"team-{n}", n) for n in range(DEFINED - len(binding))]
    found = []
    for database, (name, budgets) in enumerate((("few", binding), ("many", binding + others)), 1):
        url = f"{redis_url.rpartition('/')[0]}/{database}"
        with redis.Redis.from_url(url) as store:
            seeded.publish(store, budgets, teams)
        home = folder / name
        home.mkdir()
        sidecar = stack.enter_context(seeded.sidecar(url, home, home / "spool"))
        until(sidecar.socket.exists, what=f"the sidecar with {name} budgets listens")
        port = stack.enter_context(gateway(home / "envoy", sidecar.socket))
        keys = {team: seeded.key(number) for number, team in enumerate(teams, 1)}
        if name == "few":
            found += [
                Case(f"{_BINDING[team]} budgets bind", sidecar.worker, port, keys[team])
                for team in teams
            ]
        else:
            label = f"2 bind of {DEFINED:,} defined"
            found.append(Case(label, sidecar.worker, port, keys["two"]))
    return found


def _budget(budget_id: str, team: str, number: int) -> Budget:
    """A budget that never refuses; every other one in tokens."""
    return Budget(
        budget_id=budget_id,
        name=budget_id,
        where=(("team", team),),
        unit="tokens" if number % 2 else "usd",
        amount=_HUGE,
        per=("month", "day", "hour", "total")[number % 4],
        version=1,
    )


async def measure(found: list[Case]) -> int:
    """Measure all cases in turns; how many rounds there were time for."""
    shape = load.SHAPES[1]
    for case in found:
        await load.run(case.port, shape.request(case.key), 100, shape.clients)
    began = time.monotonic()
    done = 0
    while done < ROUNDS and time.monotonic() - began < LIMIT_S:
        for case in found:
            before = cpu_ns(case.pid)
            took = await load.run(case.port, shape.request(case.key), shape.loaded, shape.clients)
            await asyncio.sleep(0.1)  # what is done behind the answer belongs to the call as well
            case.cpu_us.append((cpu_ns(case.pid) - before) / 1000 / len(took))
        for case in found:
            took = await load.run(case.port, shape.request(case.key), shape.alone, 1)
            case.p50_ms.append(statistics.median(took) * 1000)
        done += 1
    return done


async def hot_counter(redis_url: str) -> float:
    """Reservations per second on one counter, from one process with 64 of them in flight."""
    names = Keyspace("hot")
    with redis.Redis.from_url(redis_url) as client:
        client.set(names.epoch, "epoch-1")
    budget = _budget("hot", "hot", 0)
    window = window_at("total", "UTC", 0)
    share = Share(
        counter=names.counter("hot", window.name),
        base=100,
        per_token=10,
        limit=_HUGE,
        budget=budget,
        window=window,
    )
    store = Store(redis_url, names)
    done = 0
    end = time.perf_counter() + HOT_S

    async def caller(number: int) -> None:
        nonlocal done
        turn = 0
        while time.perf_counter() < end:
            turn += 1
            plan = Plan(f"{number}-{turn}", (share,), 2**42, 300, 300)
            reply = await store.reserve(plan)
            if not isinstance(reply, Reserved) or not reply.admitted:
                raise RuntimeError(f"the store answered {reply}")
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(IN_FLIGHT)))
    lasted = time.perf_counter() - began
    await store.close()
    return done / lasted


def report(found: list[Case], rounds: int, per_second: float) -> dict[str, Any]:
    """The table as JSON; each share is taken within a round, against the call without budgets."""
    rows = []
    for case in found:
        floor = found[0]
        shares = [(a - b) / a for a, b in zip(case.cpu_us, floor.cpu_us, strict=True)]
        added = [a - b for a, b in zip(case.p50_ms, floor.p50_ms, strict=True)]
        rows.append(
            {
                "case": case.name,
                "cpu_us": round(statistics.median(case.cpu_us), 1),
                "cpu_share": round(statistics.median(shares), 3),
                "p50_ms": round(statistics.median(case.p50_ms), 3),
                "added_p50_ms": round(statistics.median(added), 3),
            }
        )
    how = (
        f"JSON calls as above, {rounds} rounds in turns; shares and added times are against the "
        "call that no budget counts. Reservations: one counter that every one changes, one "
        f"process, {IN_FLIGHT} in flight."
    )
    return {"how": how, "cases": rows, "reservations_per_second": round(per_second)}


def table(budgets: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [
        f"{'budget check':<26}{'CPU us/call':>13}{'its share':>11}{'p50':>12}{'added p50':>13}"
    ]
    lines += [
        f"{row['case']:<26}{row['cpu_us']:>13.0f}{row['cpu_share']:>10.1%}"
        f"{row['p50_ms']:>10.2f} ms{row['added_p50_ms']:>10.2f} ms"
        for row in budgets["cases"]
    ]
    hot = f"one hot counter: {budgets['reservations_per_second']:,} reservations per second"
    return "\n".join([*lines, hot, "", budgets["how"]])
