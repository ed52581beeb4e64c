"""The real servers that come with the package: started, found again, and gone with their parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from ledger.child import Child, StartFailure, bound_log, command_line, start
from ledger.embedded import Postgres, Valkey, find_envoy, free_port, socket_directory
from tests import services


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that PostgreSQL's own account can reach."""
    with services.scratch_directory() as path:
        yield path


def _postgres(directory: Path) -> Postgres:
    return Postgres(
        directory / "postgres",
        log=directory / "postgres.log",
        pid_file=directory / "postgres.pid",
        durable=False,
    )


def _valkey(directory: Path, port: int | None = None) -> Valkey:
    return Valkey(
        directory / "valkey",
        sockets=directory,
        log=directory / "valkey.log",
        pid_file=directory / "valkey.pid",
        port=port,
    )


def _until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def test_postgres_keeps_its_rows_over_a_restart(directory: Path) -> None:
    """A row committed before a stop is there after the next start, at the same address."""
    server = _postgres(directory)
    server.start()
    try:
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS answer")
        address = server.dsn()
        server.stop()
        server.start()
        with psycopg.connect(address) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (7,)
    finally:
        server.stop()


def test_postgres_listens_on_no_port(postgres_server: str) -> None:
    """Our own server can be reached only through a socket in a private directory."""
    with psycopg.connect(postgres_server) as connection:
        shown = connection.execute("SHOW listen_addresses").fetchone()
    if services.POSTGRES_VARIABLE not in os.environ:
        assert shown == ("",)


def test_valkey_keeps_its_keys_over_a_kill(directory: Path) -> None:
    """What was written survives kill -9 of the server, and the next start has the same address."""
    server = _valkey(directory)
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "7")
        server.child.kill()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"7"
    finally:
        server.stop()


def test_valkey_listens_on_loopback_if_asked(directory: Path) -> None:
    """With a port it answers there too."""
    server = _valkey(directory, free_port())
    server.start()
    try:
        assert server.url.startswith("redis://127.0.0.1:")
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()


def test_servers_stop_when_their_parent_is_killed(directory: Path) -> None:
    """kill -9 of the process that started them leaves no server, and its data can be used."""
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from tests.integration.test_embedded import _postgres, _valkey
        directory = Path(sys.argv[1])
        for server in (_postgres(directory), _valkey(directory)):
            server.start()
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == "ready\n"
    pids = [int((directory / name).read_text()) for name in ("postgres.pid", "valkey.pid")]
    parent.kill()
    parent.wait()
    _until(lambda: not any(str(directory) in command_line(pid) for pid in pids))
    server = _postgres(directory)
    server.start()
    server.stop()


def test_a_leftover_is_stopped_before_the_next_start(tmp_path: Path) -> None:
    """A process that outlived a killed parent is stopped first; it is known by its command line."""
    first = _sleeper(tmp_path)
    first.spawn()
    second = _sleeper(tmp_path)
    second.spawn()
    try:
        assert not first.is_running()
        assert second.is_running()
    finally:
        second.stop()


def test_a_strangers_process_is_left_alone(tmp_path: Path) -> None:
    """A process id that now belongs to somebody else is not signalled."""
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child = _sleeper(tmp_path)
    child.pid_file.write_text(str(stranger.pid))
    try:
        child.spawn()
        assert stranger.poll() is None
    finally:
        child.stop()
        stranger.communicate(b"\n")


def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The failure carries the end of the child's own log."""
    child = _sleeper(tmp_path, "print('no such thing')")
    with pytest.raises(StartFailure, match="no such thing"):
        start(child, lambda: False)


def test_a_child_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    """Stopping is bounded: after the time limit the child is killed."""
    deaf = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); "
        "print('deaf', flush=True); time.sleep(60)"
    )
    child = _sleeper(tmp_path, deaf)
    start(child, lambda: "deaf" in child.log_tail())
    child.stop(timeout_s=0.1)
    assert child.process is not None
    assert child.process.returncode == -signal.SIGKILL


def test_a_log_is_bounded_while_it_is_written(tmp_path: Path) -> None:
    """A log over its limit becomes `.1` and the writer goes on in the same file."""
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n")
        bound_log(log, limit_bytes=2)
        writer.write(b"new\n")
    assert (tmp_path / "part.log.1").read_bytes() == b"old\n"
    assert log.read_bytes() == b"new\n"


def test_a_long_data_directory_gets_short_sockets(tmp_path: Path) -> None:
    """Where a socket's path would be too long, a private short directory stands in."""
    deep = tmp_path / ("x" * 120)
    short = socket_directory(deep, "test")
    try:
        assert short != deep
        assert short == socket_directory(deep, "test")
        assert short.stat().st_mode & 0o777 == 0o700
    finally:
        short.rmdir()


def test_a_shared_socket_directory_is_refused(tmp_path: Path) -> None:
    """A stand-in directory that others may enter is not used."""
    deep = tmp_path / ("y" * 120)
    short = socket_directory(deep, "test")
    try:
        short.chmod(0o777)
        with pytest.raises(StartFailure, match="private"):
            socket_directory(deep, "test")
    finally:
        short.rmdir()


def test_a_database_of_another_version_is_not_touched(directory: Path) -> None:
    """Data made by another major version of PostgreSQL is refused with a sentence."""
    server = _postgres(directory)
    server.data.mkdir()
    (server.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(StartFailure, match="made by PostgreSQL 12"):
        server.start()


def test_a_missing_binary_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any binary the message says what to install and which variable to set."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartFailure, match="TOLLKEEPER_ENVOY_BIN"):
        find_envoy()


def test_each_test_has_its_own_migrated_database(postgres_dsn: str, redis_url: str) -> None:
    """The database has tables and no rows of another test, and Redis is empty."""
    with psycopg.connect(postgres_dsn) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()"
        ).fetchone()
    assert tables is not None
    assert tables[0] > 0
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def _sleeper(directory: Path, code: str = "import time; time.sleep(60)") -> Child:
    return Child(
        name="sleeper",
        command=(sys.executable, "-c", code, str(directory)),
        log=directory / "sleeper.log",
        pid_file=directory / "sleeper.pid",
        marker=str(directory),
    )
