"""What `ledger up` runs: where each part's files are, how it is started and when it is ready.

Knows not when a part is started, watched or stopped.
"""

import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.child import Child, StartFailure
from ledger.embedded import Postgres, Valkey, find_envoy, socket_directory
from ledger.envoy_config import Provider, Site, configure, credential_variables
from ledger.envoy_jwt import People, with_people
from ledger.keyspace import Keyspace

DATABASE: Final = "tollkeeper"
OLDEST_ENVOY: Final = (1, 39)
_ADMIN_TIMEOUT_S: Final = 2.0
_SERVING_WORKER: Final = re.compile(r"tollkeeper::.*::health_flags::healthy")
_AUTHORITIES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies under one data directory."""

    data_dir: Path

    @property
    def env_file(self) -> Path:
        return self.data_dir / "env"

    @property
    def lock(self) -> Path:
        return self.data_dir / "up.lock"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def run(self) -> Path:
        return self.data_dir / "run"

    @property
    def spool(self) -> Path:
        return self.data_dir / "spool"

    @property
    def envoy_config(self) -> Path:
        return self.data_dir / "envoy" / "envoy.yaml"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def pid_file(self, name: str) -> Path:
        return self.run / f"{name}.pid"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the whole: its process, and whether it does its work already."""

    child: Child
    is_ready: Callable[[], bool]

    @property
    def name(self) -> str:
        return self.child.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the person asked for."""

    data_dir: Path
    gateway: tuple[str, int]
    workers: int
    providers: Sequence[Provider]
    environment: Mapping[str, str]
    only_these_providers: bool = False
    people: People | None = None
    """Whose tokens say who calls; None: nobody's."""


class Machine:
    """The parts of one installation on this machine, none of them started."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.layout = layout = Layout(wanted.data_dir.absolute())
        for directory in (layout.logs, layout.run, layout.spool, layout.envoy_config.parent):
            directory.mkdir(parents=True, exist_ok=True)
        self.sockets = socket_directory(layout.run, "run")
        self.database = Postgres(
            layout.data_dir / "postgres",
            log=layout.log("postgres"),
            pid_file=layout.pid_file("postgres"),
        )
        self.store = Valkey(
            layout.data_dir / "valkey",
            sockets=self.sockets,
            log=layout.log("valkey"),
            pid_file=layout.pid_file("valkey"),
        )
        for server in (self.database, self.store):
            server.child.kept_from_it = self._credentials()
        self.envoy_text = self._configured()
        self.postgres = Part(self.database.child, self.database.is_ready)
        self.valkey = Part(self.store.child, self.store.is_ready)
        self.writer = Part(self._ledger_writer(), self._has_counters)
        self.sidecar = Part(self._extproc(), self._workers_serve)
        self.gateway = Part(self._envoy(), self._gateway_is_live)

    @property
    def postgres_dsn(self) -> str:
        return self.database.dsn(DATABASE)

    @property
    def redis_url(self) -> str:
        return self.store.url

    @property
    def gateway_url(self) -> str:
        host, port = self.wanted.gateway
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def addresses(self) -> dict[str, str]:
        """The variables that say where the services are."""
        return {
            "TOLLKEEPER_POSTGRES_DSN": self.postgres_dsn,
            "TOLLKEEPER_REDIS_URL": self.redis_url,
        }

    def write_env(self) -> None:
        """Say in DIR/env where the services are, for the other commands; readable for us alone."""
        new = self.layout.env_file.with_name("env.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(f"{name}={value}\n" for name, value in self.addresses().items())
        new.rename(self.layout.env_file)

    def tidy(self) -> None:
        """Remove the short folders that stood in for sockets whose paths were too long."""
        usual = ((self.sockets, self.layout.run), (self.database.sockets, self.database.data))
        for directory, own in usual:
            if directory != own:
                shutil.rmtree(directory, ignore_errors=True)

    def ask_envoy(self, path: str, method: str = "GET") -> str:
        """What Envoy's admin interface answers; empty where it does not."""
        connection = _UnixConnection(self.sockets / "envoy-admin.sock")
        try:
            connection.request(method, path, headers={"host": "envoy"})
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def calls_in_flight(self) -> int:
        """Calls that the gateway is answering at this moment."""
        name = "http.gateway.downstream_rq_active"
        found = re.search(rf"{name}: (\d+)", self.ask_envoy(f"/stats?filter={name}"))
        return int(found[1]) if found else 0

    def _ours(self) -> dict[str, str]:
        # The parts run the very code that started them, whatever else is installed beside it.
        path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        return {
            **self.addresses(),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONUNBUFFERED": "1",
        }

    def _child(self, name: str, file: str, command: Sequence[str], *, secrets: bool) -> Child:
        return Child(
            name=name,
            command=tuple(command),
            log=self.layout.log(file),
            pid_file=self.layout.pid_file(file),
            marker=str(self.layout.data_dir),
            env=self._ours(),
            kept_from_it=frozenset() if secrets else self._credentials(),
        )

    def _ledger_writer(self) -> Child:
        command = (sys.executable, "-m", "ledger", "--data-dir", str(self.layout.data_dir), "write")
        return self._child("The writer", "writer", command, secrets=False)

    def _extproc(self) -> Child:
        command = [sys.executable, "-m", "extproc", "--workers", str(self.wanted.workers)]
        command += ["--socket-dir", str(self.sockets), "--spool-dir", str(self.layout.spool)]
        command += ["--redis-url", self.redis_url]
        return self._child("The sidecar", "extproc", command, secrets=False)

    def _envoy(self) -> Child:
        binary = str(_recent(find_envoy()))
        command = [binary, "-c", str(self.layout.envoy_config), "--disable-hot-restart"]
        command += ["--concurrency", str(self.wanted.workers), "--log-level", "warning"]
        return self._child("Envoy", "envoy", command, secrets=True)

    def fake_provider(self, port: int) -> Part:
        """The provider of the demo, which bills nobody."""
        command = [sys.executable, "-m", "ledger.fake_provider", "--port", str(port)]
        command += ["--demo-latency"]
        child = self._child("The fake provider", "provider", command, secrets=False)
        child.marker = f"--port {port}"

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        return Part(child, listens)

    def _credentials(self) -> frozenset[str]:
        """The variables that hold a provider's credential: Envoy's business, nobody else's."""
        known = credential_variables(stock_envoy_config(), self.wanted.providers)
        return frozenset(known.values())

    def _configured(self) -> str:
        site = Site(
            listen=self.wanted.gateway,
            admin_socket=str(self.sockets / "envoy-admin.sock"),
            sidecar_sockets=[
                str(self.sockets / f"extproc-{index}.sock") for index in range(self.wanted.workers)
            ],
            access_log=str(self.layout.log("access")),
            trusted_ca=trusted_authorities(self.wanted.environment),
            providers=self.wanted.providers,
            only_these=self.wanted.only_these_providers,
            credentials={name for name, value in self.wanted.environment.items() if value},
        )
        text, people = configure(stock_envoy_config(), site), self.wanted.people
        return (
            with_people(text, stock_file("jwt.yaml"), people, site.trusted_ca) if people else text
        )

    def _has_counters(self) -> bool:
        """Whether the writer has brought the counters in line with the books."""
        import redis

        org = self.wanted.environment.get("TOLLKEEPER_ORG") or "default"
        with redis.Redis.from_url(self.redis_url, socket_timeout=_ADMIN_TIMEOUT_S) as client:
            try:
                return bool(client.exists(Keyspace(org).epoch))
            except redis.RedisError:
                return False

    def _workers_serve(self) -> bool:
        """Whether Envoy finds every worker healthy; that they say so themselves is not enough."""
        lines = self.ask_envoy("/clusters").splitlines()
        serving = [line for line in lines if _SERVING_WORKER.fullmatch(line)]
        return len(serving) == self.wanted.workers

    def _gateway_is_live(self) -> bool:
        return self.ask_envoy("/ready").strip() == "LIVE"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ADMIN_TIMEOUT_S)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _recent(envoy: Path) -> Path:
    shown = subprocess.run([envoy, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"/(\d+)\.(\d+)\.\d+", shown)
    if not found or (int(found[1]), int(found[2])) < OLDEST_ENVOY:
        oldest = ".".join(map(str, OLDEST_ENVOY))
        raise StartFailure(f"{envoy} is not Envoy {oldest} or newer; older ones can be bypassed.")
    return envoy


def stock_envoy_config() -> str:
    """The text of envoy/envoy.yaml."""
    return stock_file("envoy.yaml")


def stock_file(name: str) -> str:
    """The text of a file of envoy/: beside this package in a checkout, inside it when installed."""
    package = Path(__file__).parent
    for place in (package.parent / "envoy" / name, package / name):
        if place.exists():
            return place.read_text()
    raise StartFailure(f"{name} is missing from this installation; install tollkeeper again.")


def trusted_authorities(environment: Mapping[str, str]) -> str:
    """The file of certificate authorities by which providers are known."""
    candidates = (environment.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile)
    for place in (*candidates, *_AUTHORITIES):
        if place and Path(place).exists():
            return str(Path(place).absolute())
    raise StartFailure(
        "No file of certificate authorities was found, and no provider is called unverified. "
        "Install ca-certificates, or point SSL_CERT_FILE at such a file."
    )
