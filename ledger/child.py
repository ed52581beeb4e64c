"""One child process: started, watched, stopped, and gone when we are. Knows not what it runs."""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

POLL_S: Final = 0.01
LOG_TAIL_BYTES: Final = 2000
_PR_SET_PDEATHSIG: Final = 1
_LINUX: bool = sys.platform.startswith("linux")  # not Final: mypy would check one branch only


class StartFailure(Exception):
    """A part could not be started; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system account that a child runs as, where that is not our own."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Whom a server that refuses root runs as: `nobody` if we are root, else ourselves (None)."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


@dataclass(slots=True, kw_only=True)
class Child:
    """A command that runs until it is stopped.

    `marker` is a text in its command line that no process of anybody else has (a path of ours), so
    that a process id left in `pid_file` by a killed parent is never mistaken for a stranger's.
    Start it from the main thread: the signal at our death belongs to the thread that forked.
    `kept_from_it` names variables of our environment that are none of its business.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    pid_file: Path
    marker: str
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    kept_from_it: frozenset[str] = frozenset()
    process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start the command after whatever an earlier run of it left has been stopped."""
        self.stop_leftover()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._environment(),
                start_new_session=True,  # the terminal's Ctrl-C is ours: we stop the parts in order
                preexec_fn=_die_with_parent(self.stop_signal),
                **_as_account(self.account),
            )
        self.pid_file.write_text(f"{self.process.pid}\n")

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if name not in self.kept_from_it}
        return {**ours, **self.env}

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self.process.pid

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self.stop_signal)

    def stop(self, timeout_s: float = 20) -> None:
        """Ask it to stop, and kill it if it has not within `timeout_s`."""
        if self.process is None:
            return
        self.ask_to_stop()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop_leftover(self, timeout_s: float = 15) -> None:
        """Stop the process that a killed parent of ours left behind, if it still runs."""
        try:
            pid = int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return
        deadline = time.monotonic() + timeout_s
        asked = False
        while self.marker in command_line(pid):
            late = time.monotonic() > deadline
            if late or not asked:
                _signal(pid, signal.SIGKILL if late else self.stop_signal)
                asked = True
            time.sleep(POLL_S)
        self.pid_file.unlink(missing_ok=True)

    def how_it_ended(self) -> str:
        """`was killed by SIGKILL`, `ended with exit code 1`."""
        code = self.process.returncode if self.process else None
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def log_tail(self) -> str:
        """The end of its log, for a message that says why it stopped."""
        try:
            return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except FileNotFoundError:
            return ""


def start(child: Child, is_ready: Callable[[], bool], timeout_s: float = 60) -> None:
    """Start the child and return when it is ready; else raise with the end of its log."""
    child.spawn()
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        if not child.is_running():
            raise StartFailure(f"{child.name} stopped while starting. Its log:\n{child.log_tail()}")
        if time.monotonic() > deadline:
            child.stop()
            raise StartFailure(
                f"{child.name} was not ready within {timeout_s:.0f} s. Its log:\n{child.log_tail()}"
            )
        time.sleep(POLL_S)


def bound_log(log: Path, *, limit_bytes: int = 0) -> None:
    """Move a log that is larger than `limit_bytes` to `<name>.1`, replacing the one before.

    The content is copied and the file truncated in place, so that a process that appends to it
    goes on doing so.
    """
    if not log.exists() or log.stat().st_size <= limit_bytes:
        return
    shutil.copyfile(log, log.with_name(log.name + ".1"))
    os.truncate(log, 0)


def command_line(pid: int) -> str:
    """The command line of a live process; empty where there is none (or only a zombie)."""
    if _LINUX:
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return raw.replace(b"\0", b" ").decode(errors="replace")
    shown = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _as_account(account: Account | None) -> dict[str, Any]:
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Run in the child before its command: Linux then signals it when we die, however we die."""
    if not _LINUX:
        return None  # elsewhere the next start stops the leftover
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # we died between the fork and the line above
            os._exit(1)

    return before_exec
