"""The `extproc` command: a parent that keeps N worker processes alive, and the worker itself.
Wiring.
"""

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import click

from extproc.observe import configure_logging
from extproc.settings import SettingError, Settings, from_environment

log = logging.getLogger(__name__)

_STOP_S: Final = 35.0
_RESTART_S: Final = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
_HEALTHY_S: Final = 30.0
"""A worker that lived this long starts its successor's waiting times over."""
_PR_SET_PDEATHSIG: Final = 1
GRPC_EXPERIMENTS: Final = "-event_engine_listener,-event_engine_client"
"""gRPC then polls in the one thread that grpc.aio has anyway. With its event engine every message
is handed through a pool of threads; measured, that is a quarter of the CPU of a call.
"""


@click.command()
@click.option("--workers", type=int, help="Worker processes, one socket each.")
@click.option("--socket-dir", type=click.Path(path_type=Path), help="Where the sockets are made.")
@click.option(
    "--spool-dir", type=click.Path(path_type=Path), help="Where events wait for the ledger."
)
@click.option("--redis-url", help="Counters and the event stream.")
@click.option("--worker", type=int, hidden=True, help="Be worker number N.")
def main(worker: int | None, **flags: Any) -> None:
    """Envoy's external processor: meters, attributes and enforces every call. Settings also come
    from TOLLKEEPER_*.
    """
    try:
        settings = from_environment(**flags)
        settings.socket_dir.mkdir(parents=True, exist_ok=True)
        settings.spool_dir.mkdir(parents=True, exist_ok=True)
    except SettingError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"The folder {error.filename} cannot be made: {error.strerror}."
        ) from error
    if worker is None:
        configure_logging("extproc")
        sys.exit(Parent(settings).run())
    configure_logging(f"extproc[{worker}]")
    _work(settings, worker)


def _work(settings: Settings, index: int) -> None:
    import uvloop

    from extproc.worker import serve

    settings.socket(index).unlink(missing_ok=True)  # left by a killed worker; gRPC would refuse it

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(settings, index, stop)

    uvloop.run(run())


class Parent:
    """Starts the workers, starts a dead one again, stops them all on SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        children = {index: self._start(index) for index in range(self._settings.workers)}
        started = dict.fromkeys(children, time.monotonic())
        failures = dict.fromkeys(children, 0)
        while not self._stopping.wait(0.1):
            for index, child in children.items():
                code = child.poll()
                if code is None:
                    continue
                lived = time.monotonic() - started[index]
                failures[index] = 0 if lived > _HEALTHY_S else failures[index] + 1
                pause = (
                    _RESTART_S[min(failures[index], len(_RESTART_S)) - 1]
                    if failures[index]
                    else 0.0
                )
                log.error("Worker %d ended (%s); it is started again.", index, _ended(code))
                if self._stopping.wait(pause):
                    break
                children[index] = self._start(index)
                started[index] = time.monotonic()
        return self._stop(list(children.values()))

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        settings = self._settings
        command = [sys.executable, "-m", "extproc", "--worker", str(index)]
        command += [
            "--socket-dir",
            str(settings.socket_dir),
            "--spool-dir",
            str(settings.spool_dir),
        ]
        environment = dict(os.environ, TOLLKEEPER_REDIS_URL=settings.redis_url)
        environment.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
        return subprocess.Popen(
            command, env=environment, start_new_session=True, preexec_fn=_die_with_parent
        )

    def _stop(self, children: list[subprocess.Popen[bytes]]) -> int:
        for child in children:
            child.terminate()
        deadline = time.monotonic() + _STOP_S
        for child in children:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                log.error("A worker did not stop within %g s and was killed.", _STOP_S)
        return 0


def _die_with_parent() -> None:
    """Linux: the child is terminated when its parent dies, however it dies."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _ended(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    main()
