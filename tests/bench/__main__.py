"""`python -m tests.bench`: what the sidecar costs, against a server that does nothing.

CPU is what the scheduler counted for all threads of the one process that serves Envoy, per call.
Both sides run at the same time, each behind its own Envoy of the same binary and configuration,
and are measured in turns, A B A B; ratios are taken within a round, and their median is shown.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis
import uvloop

from extproc.__main__ import GRPC_EXPERIMENTS
from ledger.budgets import Budget
from ledger.embedded import find_envoy, free_port
from ledger.envoy_config import Provider, Site, configure
from ledger.parts import stock_envoy_config, trusted_authorities
from tests import services
from tests.bench import budget_check, load
from tests.e2e import seeded
from tests.e2e.processes import ROOT, cpu_ns, stop, until

ROUNDS: Final = 12
LIMIT_S: Final = 110.0
"""No round begins after this; the rest of the four minutes is for the budget check, starting and
stopping.
"""
_BUDGETS: Final = (
    Budget(
        budget_id="b1",
        name="risk",
        where=(("team", "risk"),),
        unit="usd",
        amount=10**15,
        per="month",
        version=1,
    ),
    Budget(
        budget_id="b2",
        name="all",
        where=(),
        unit="tokens",
        amount=10**13,
        per="day",
        version=1,
    ),
)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers: its process, and the gateway before it."""

    name: str
    pid: int
    port: int


@dataclass(slots=True)
class Measured:
    """One side and shape: a number for each round."""

    cpu_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"at most; default {ROUNDS}")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(services.scratch_directory())
        upstream = free_port()
        stack.enter_context(_process("-m", "tests.bench.upstream", str(upstream), cpu=1))
        url = stack.enter_context(services.redis_server(folder))
        with ExitStack() as first:
            sides = _sides(first, folder, url, upstream)
            results, rounds = uvloop.run(_measure(sides, chosen.rounds))
        budgets = _budget_check(stack, folder, url, upstream)
    report = _report(results, rounds) | {"budget_check": budgets}
    print(json.dumps(report, indent=2) if chosen.json else _table(report))
    return 0


def _budget_check(stack: ExitStack, folder: Path, url: str, upstream: int) -> dict[str, Any]:
    """The second table, once the first one's processes are gone."""
    gateway = partial(_envoy, upstream=upstream)
    with ExitStack() as second:
        found = budget_check.cases(second, folder, url, gateway)
        for case in found:
            _pin(case.pid, 0)
        rounds = uvloop.run(budget_check.measure(found))
    per_second = uvloop.run(budget_check.hot_counter(url))
    return budget_check.report(found, rounds, per_second)


def _sides(stack: ExitStack, folder: Path, url: str, upstream: int) -> tuple[Side, Side]:
    """Start both sides; the two servers on one processor, all others on the other."""
    with redis.Redis.from_url(url) as store:
        seeded.publish(store, _BUDGETS)
    ours = folder / "ours"
    ours.mkdir()
    sidecar = stack.enter_context(seeded.sidecar(url, ours, folder / "spool"))
    socket = folder / "nothing.sock"
    nothing = stack.enter_context(_process("-m", "tests.bench.nothing", str(socket), cpu=0))
    until(lambda: sidecar.socket.exists() and socket.exists(), what="both servers listen")
    _pin(sidecar.worker, 0)
    _pin(os.getpid(), 1)
    gateways = [
        stack.enter_context(_envoy(folder / name, path, upstream))
        for name, path in (("envoy-a", sidecar.socket), ("envoy-b", socket))
    ]
    pids = (sidecar.worker, nothing.pid)
    for pid in pids:  # once more, for threads that were there before or came meanwhile
        _pin(pid, 0)
    names = ("tollkeeper", "nothing")
    first, second = (Side(*each) for each in zip(names, pids, gateways, strict=True))
    return first, second


@contextmanager
def _process(*arguments: str, cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"GRPC_EXPERIMENTS": GRPC_EXPERIMENTS}  # as our workers have it
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment)
    _pin(process.pid, cpu)
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def _envoy(folder: Path, socket: Path, upstream: int) -> Iterator[int]:
    """Envoy with the stock configuration before one server; its port once it lets calls through."""
    folder.mkdir()
    port = free_port()
    site = Site(
        listen=("127.0.0.1", port),
        admin_socket=str(folder / "admin.sock"),
        sidecar_sockets=[str(socket)],
        access_log="/dev/null",
        trusted_ca=trusted_authorities(os.environ),
        providers=[Provider("openai", "127.0.0.1", upstream, tls=False)],
    )
    (folder / "envoy.yaml").write_text(configure(stock_envoy_config(), site))
    command = [str(find_envoy()), "-c", str(folder / "envoy.yaml"), "--disable-hot-restart"]
    command += ["--concurrency", "1", "--log-level", "error"]
    process = subprocess.Popen(command, cwd=folder)
    _pin(process.pid, 1)
    try:
        until(lambda: asyncio.run(_passes(port)), what="Envoy lets calls through")
        yield port
    finally:
        stop(process)


async def _passes(port: int) -> bool:
    try:
        await load.run(port, load.SHAPES[0].request(seeded.KEY), 1, 1)
    except (OSError, RuntimeError, asyncio.IncompleteReadError):
        return False
    return True


def _pin(pid: int, cpu: int) -> None:
    """Keep all threads of a process on one processor: servers on one, the load on another."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cpu})


Results = dict[str, dict[str, Measured]]


async def _measure(sides: tuple[Side, Side], rounds: int) -> tuple[Results, int]:
    results: Results = {
        shape.name: {side.name: Measured() for side in sides} for shape in load.SHAPES
    }
    for shape in load.SHAPES:  # warm: imports, connections, estimates, the scripts in Valkey
        for side in sides:
            await load.run(side.port, shape.request(seeded.KEY), shape.clients * 2, shape.clients)
    began = time.monotonic()
    done = 0
    while done < rounds and time.monotonic() - began < LIMIT_S:
        for shape in load.SHAPES:
            await _one_round(sides, shape, results[shape.name])
        done += 1
    return results, done


async def _one_round(
    sides: tuple[Side, Side], shape: load.Shape, into: dict[str, Measured]
) -> None:
    """CPU and rate under load, side by side; then latency with nobody else calling."""
    request = shape.request(seeded.KEY)
    took = [await _under_load(side, shape, request, into[side.name]) for side in sides]
    if shape.alone:
        took = await load.in_turns([side.port for side in sides], request, shape.alone)
    for side, times in zip(sides, took, strict=True):
        into[side.name].p50_ms.append(statistics.median(times) * 1000)
        into[side.name].p99_ms.append(statistics.quantiles(times, n=100)[98] * 1000)


async def _under_load(side: Side, shape: load.Shape, request: bytes, into: Measured) -> list[float]:
    before, began = cpu_ns(side.pid), time.perf_counter()
    took = await load.run(side.port, request, shape.loaded, shape.clients)
    lasted = time.perf_counter() - began
    await asyncio.sleep(0.1)  # what is done behind the answer belongs to the call as well
    into.cpu_us.append((cpu_ns(side.pid) - before) / 1000 / len(took))
    into.per_second.append(len(took) / lasted)
    return took


def _report(results: Results, rounds: int) -> dict[str, Any]:
    shapes = []
    for shape in load.SHAPES:
        ours, floor = results[shape.name]["tollkeeper"], results[shape.name]["nothing"]
        shapes.append(
            {
                "shape": shape.name,
                "calls_per_round": shape.loaded,
                "clients": shape.clients,
                "tollkeeper": _medians(ours),
                "nothing": _medians(floor),
                "cpu_ratio": round(_ratio(ours.cpu_us, floor.cpu_us), 2),
                "cpu_ratio_by_round": [
                    round(a / b, 2) for a, b in zip(ours.cpu_us, floor.cpu_us, strict=True)
                ],
                "added_p50_ms": round(_difference(ours.p50_ms, floor.p50_ms), 3),
                "added_p99_ms": round(_difference(ours.p99_ms, floor.p99_ms), 3),
            }
        )
    how = (
        f"{rounds} rounds in turns A B. CPU: all threads of the serving process by the scheduler's "
        "count, per call, under load. Latency: whole calls, one at a time, the sides in turns call "
        "by call (SSE: under load, 20 at once, 200 chunks 5 ms apart). Medians over rounds. One "
        "worker, pinned to one processor, everything else on another; two budgets, Valkey, "
        "no writer."
    )
    return {"how": how, "rounds": rounds, "shapes": shapes}


def _medians(measured: Measured) -> dict[str, float]:
    return {
        "cpu_us": round(statistics.median(measured.cpu_us), 1),
        "p50_ms": round(statistics.median(measured.p50_ms), 3),
        "p99_ms": round(statistics.median(measured.p99_ms), 3),
        "per_second": round(statistics.median(measured.per_second), 1),
    }


def _ratio(ours: list[float], floor: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, floor, strict=True))


def _difference(ours: list[float], floor: list[float]) -> float:
    return statistics.median(a - b for a, b in zip(ours, floor, strict=True))


def _table(report: dict[str, Any]) -> str:
    head = f"{'shape':<20}{'CPU us/call':>13}{'floor':>9}{'ratio':>7}{'added p50':>12}{'p99':>9}"
    lines = [head + f"{'calls/s':>10}{'floor':>9}"]
    for row in report["shapes"]:
        ours, floor = row["tollkeeper"], row["nothing"]
        lines.append(
            f"{row['shape']:<20}{ours['cpu_us']:>13.0f}{floor['cpu_us']:>9.0f}"
            f"{row['cpu_ratio']:>7.2f}{row['added_p50_ms']:>9.2f} ms{row['added_p99_ms']:>6.2f} ms"
            f"{ours['per_second']:>10.0f}{floor['per_second']:>9.0f}"
        )
    return "\n".join([*lines, "", report["how"], "", budget_check.table(report["budget_check"])])


if __name__ == "__main__":
    sys.exit(main())
