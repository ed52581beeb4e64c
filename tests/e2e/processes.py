"""Processes of the system under test: started, found, measured, killed. Knows no protocol."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from ledger.embedded import free_port

ROOT: Final = Path(__file__).parents[2]
POLL_S: Final = 0.02
_T = TypeVar("_T")


def until(look: Callable[[], _T | None], *, what: str, deadline_s: float = 20.0) -> _T:
    """The first thing that `look` finds (not None, not False), else a failure at the deadline."""
    end = time.monotonic() + deadline_s
    pause = POLL_S
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


@contextmanager
def fake_provider(port: int | None = None) -> Iterator[str]:
    """The base URL of a fake provider in a process of its own."""
    port = port or free_port()
    command = [sys.executable, "-m", "ledger.fake_provider", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(url + "/_fake/ready"), what="the fake provider answers")
        yield url
    finally:
        stop(process)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def stop(process: subprocess.Popen[Any], timeout_s: float = 30.0) -> None:
    """Ask a process of ours to end, and end it if it does not."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    """The live child processes of `pid`, of all its threads."""
    found: list[int] = []
    try:
        threads = list(Path(f"/proc/{pid}/task").glob("*/children"))
    except FileNotFoundError:  # it ended while we looked
        return found
    for thread in threads:
        try:
            found += [int(child) for child in thread.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descendants(pid: int) -> list[int]:
    """All live processes below `pid`, parents first."""
    found = children(pid)
    for child in found:
        found += [c for c in children(child) if c not in found]
    return found


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty where it is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def resident_bytes(pid: int) -> int:
    """The memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_ns(pid: int) -> int:
    """Nanoseconds on a CPU of all threads of a process, by the scheduler's own count."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((thread / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to one process, which may have gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
