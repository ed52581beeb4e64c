"""Starts all of Tollkeeper on this machine, restarts what dies, stops it in order.

Knows of the parts only in which order they need each other.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import click

from ledger.child import StartFailure, bound_log
from ledger.parts import DATABASE, Machine, Part

START_LIMIT_S: Final = 60.0
RESTART_PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
CALM_S: Final = 60.0
"""A part that ran this long starts its pauses over."""
DRAIN_LIMIT_S: Final = 3.0
STOP_LIMIT_S: Final = 10.0
TEND_EVERY_S: Final = 0.1
BOUND_LOGS_EVERY_S: Final = 10.0
LOG_LIMIT_BYTES: Final = 64 * 1024 * 1024


@dataclass(slots=True)
class _Watched:
    """A part, and how its restarts have gone. `due_at`: it is down until then."""

    part: Part
    started_at: float
    failures: int = 0
    due_at: float | None = None
    is_back: bool = True


class Supervisor:
    """Starts the parts of a machine in the order of their needs and keeps them running.

    All of it happens in the caller's thread, which must be the main one: see `Child`.
    """

    def __init__(self, machine: Machine, extra: Sequence[Part] = ()) -> None:
        self.machine = machine
        self._extra = tuple(extra)
        self._watched: list[_Watched] = []
        self._logs_due_at = 0.0

    @contextmanager
    def running(self, stop: threading.Event) -> Iterator[None]:
        """All parts started and ready inside, stopped in order after it, however it is left.

        Returns early, with less than all of them, where `stop` is set meanwhile.
        """
        try:
            self._start(stop)
            yield
        finally:
            self._stop()

    def tend(self) -> None:
        """Start again what died, after its pause; keep the logs within their limit."""
        now = time.monotonic()
        for watched in self._watched:
            self._look_after(watched, now)
        if now >= self._logs_due_at:
            self._logs_due_at = now + BOUND_LOGS_EVERY_S
            for log in self.machine.layout.logs.glob("*.log"):
                bound_log(log, limit_bytes=LOG_LIMIT_BYTES)

    def _start(self, stop: threading.Event) -> None:
        machine = self.machine
        machine.database.prepare()
        machine.store.prepare()
        for log in machine.layout.logs.glob("*.log"):
            bound_log(log)
        self._bring_up(stop, machine.postgres, machine.valkey, *self._extra)
        if stop.is_set():
            return
        _create_database(machine)
        machine.write_env()
        machine.layout.envoy_config.write_text(machine.envoy_text)
        self._bring_up(stop, machine.writer, machine.sidecar, machine.gateway)

    def _bring_up(self, stop: threading.Event, *parts: Part) -> None:
        """Start these at the same time and wait until all are ready."""
        for part in parts:
            part.child.spawn()
            self._watched.append(_Watched(part, time.monotonic()))
        deadline = time.monotonic() + START_LIMIT_S
        for part in parts:
            while not part.is_ready():
                if not part.child.is_running():
                    raise StartFailure(
                        f"{part.name} stopped while starting. The end of its log, "
                        f"{part.child.log}:\n{part.child.log_tail()}"
                    )
                if time.monotonic() > deadline:
                    raise StartFailure(
                        f"{part.name} was not ready within {START_LIMIT_S:.0f} s. The end of its "
                        f"log, {part.child.log}:\n{part.child.log_tail()}"
                    )
                if stop.wait(0.02):
                    return

    def _look_after(self, watched: _Watched, now: float) -> None:
        part = watched.part
        if watched.due_at is not None:
            if now >= watched.due_at:
                part.child.spawn()
                watched.due_at, watched.started_at, watched.is_back = None, now, False
        elif not part.child.is_running():
            calm = now - watched.started_at > CALM_S
            watched.failures = 1 if calm else watched.failures + 1
            pause_s = RESTART_PAUSES_S[min(watched.failures, len(RESTART_PAUSES_S)) - 1]
            watched.due_at = now + pause_s
            when = f"in {pause_s:g} s" if pause_s else "now"
            _say(f"{part.name} {part.child.how_it_ended()}; it is started again {when}.")
        elif not watched.is_back and part.is_ready():
            watched.is_back = True
            _say(f"{part.name} is back.")

    def _stop(self) -> None:
        """Stop what runs, whoever needs others first: nothing is asked of a part that is gone."""
        started = [watched.part for watched in self._watched]
        machine = self.machine
        if machine.gateway in started:
            self._drain()
        order = (machine.gateway, machine.sidecar, machine.writer, *self._extra)
        for part in (*order, machine.valkey, machine.postgres):
            if part in started:
                part.child.stop(STOP_LIMIT_S)
        self._watched.clear()
        machine.tidy()

    def _drain(self) -> None:
        """No new calls, and a moment for those under way."""
        self.machine.ask_envoy("/drain_listeners", "POST")
        deadline = time.monotonic() + DRAIN_LIMIT_S
        while self.machine.calls_in_flight() and time.monotonic() < deadline:
            time.sleep(0.05)


def _create_database(machine: Machine) -> None:
    import psycopg

    from ledger.db import Database

    with psycopg.connect(machine.database.dsn(), autocommit=True) as admin:
        found = admin.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if found is None:
            admin.execute(f"CREATE DATABASE {DATABASE}")
    with Database(machine.postgres_dsn, max_connections=1) as database:
        database.migrate()


def _say(sentence: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {sentence}", err=True)
