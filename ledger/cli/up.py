"""`ledger up`: what it is told on the command line, and what it says. Knows no process."""

import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from ledger.child import StartFailure
from ledger.cli.session import Refusal, Run, WrongUsage, pass_run
from ledger.envoy_config import (
    Provider,
    credential_variables,
    parse_provider,
    prefixes_in,
    providers_in,
    refuse_shared_names,
)
from ledger.envoy_jwt import DEFAULT_HEADER, People, check_header, check_keys, check_url, is_url
from ledger.parts import Machine, Wanted, stock_envoy_config
from ledger.supervisor import TEND_EVERY_S, Supervisor

DEFAULT_GATEWAY: Final = "127.0.0.1:10000"
MAX_WORKERS: Final = 64


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is kept.  [default: $TOLLKEEPER_DATA_DIR or ./.tollkeeper]",
)
@click.option(
    "--gateway", metavar="HOST:PORT", help=f"Where callers connect.  [default: {DEFAULT_GATEWAY}]"
)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME=BASE_URL",
    help="Lead /NAME/ to this address; its credential is NAME_API_KEY. May be repeated.",
)
@click.option(
    "--mcp",
    "tools",
    multiple=True,
    metavar="NAME=BASE_URL",
    help="Lead /mcp/NAME to this MCP server; its credential is NAME_API_KEY. May be repeated.",
)
@click.option(
    "--a2a",
    "agents",
    multiple=True,
    metavar="NAME=BASE_URL",
    help="Lead /a2a/NAME to this A2A agent; its credential is NAME_API_KEY. May be repeated.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
    help="Sidecar processes.  [default: one per processor, from 2 to 8]",
)
@click.option(
    "--jwks",
    metavar="FILE|URL",
    help="Verify tokens by these public keys: whom one names is a call's principal.",
)
@click.option("--jwt-issuer", metavar="ISS", help="Who makes them.  [required with --jwks]")
@click.option(
    "--jwt-audience",
    "jwt_audiences",
    multiple=True,
    metavar="AUD",
    help="For whom they must be made; without it, any of that issuer's will do. May be repeated.",
)
@click.option(
    "--jwt-header", metavar="NAME", help=f"Where they come.  [default: {DEFAULT_HEADER}: Bearer]"
)
@click.option("--demo", is_flag=True, help="Show it at work with a fake provider, then stop.")
@pass_run
def up(
    run: Run,
    data_dir: Path | None,
    gateway: str | None,
    providers: tuple[str, ...],
    tools: tuple[str, ...],
    agents: tuple[str, ...],
    workers: int | None,
    jwks: str | None,
    jwt_issuer: str | None,
    jwt_audiences: tuple[str, ...],
    jwt_header: str | None,
    demo: bool,
) -> None:
    """Run all of Tollkeeper on this machine: PostgreSQL, Valkey, the writer, the sidecar, Envoy.

    Ctrl-C stops it all and keeps the data. The credentials of providers are read from
    OPENAI_API_KEY, ANTHROPIC_API_KEY, AZURE_OPENAI_API_KEY, GEMINI_API_KEY and
    AWS_BEARER_TOKEN_BEDROCK; where one is not set, callers bring their own.
    """
    from ledger import demo as demonstration

    stop = _stop_on_signals()
    directory = (data_dir or run.settings.data_dir).absolute()
    if demo:
        directory = demonstration.directory_for(run.settings.data_dir, data_dir)
    try:
        with only_one(directory):
            os.umask(0o077)  # what the parts write is for us alone
            wanted = Wanted(
                data_dir=directory,
                gateway=_gateway(gateway, any_port=demo),
                workers=workers or min(max(os.cpu_count() or 2, 2), 8),
                providers=_providers({"": providers, "mcp": tools, "a2a": agents}),
                environment=os.environ,
                people=_people(jwks, jwt_issuer, jwt_audiences, jwt_header),
            )
            code = demonstration.run(wanted, stop) if demo else _serve(wanted, stop)
    except StartFailure as error:
        raise Refusal(str(error)) from error
    raise SystemExit(code)


def _serve(wanted: Wanted, stop: threading.Event) -> int:
    supervisor = Supervisor(Machine(wanted))
    with supervisor.running(stop):
        if not stop.is_set():
            click.echo(announcement(supervisor.machine))
        while not stop.wait(TEND_EVERY_S):
            supervisor.tend()
        click.echo("Stopping ...")
    click.echo("Stopped. The data is kept.")
    return 0


def announcement(machine: Machine) -> str:
    """What the person at the terminal needs to know once everything runs."""
    directory = machine.layout.data_dir
    shown = _relative(directory)
    option = "" if shown == ".tollkeeper" else f" --data-dir {shown}"
    variables = credential_variables(stock_envoy_config(), machine.wanted.providers)
    lines = [f"Tollkeeper is up. Ctrl-C stops it and keeps the data in {shown}.", ""]
    lines.append(f"  Gateway     {machine.gateway_url}")
    prefixes = prefixes_in(machine.envoy_text)
    for name, base_url in providers_in(machine.envoy_text).items():
        variable = variables[name]
        have = bool(machine.wanted.environment.get(variable))
        pays = f"with {variable}" if have else f"callers' own credential ({variable} is not set)"
        lines.append(f"    {prefixes[name]:<12} {base_url}, {pays}")
    if people := machine.wanted.people:
        lines.append(f"  Principals  whom a token of {people.issuer} names, in {people.header}")
    lines += [
        f"  PostgreSQL  {machine.postgres_dsn}",
        f"  Valkey      {machine.redis_url}",
        f"  Logs        {_relative(machine.layout.logs)}",
        "",
        "Issue a key, and give it to an SDK as its API key with the gateway as its base URL:",
        f"  ledger{option} keys issue --owner you@example.com --team your-team"
        " --agent your-agent --workload trying-out",
        "See who spent what:",
        f"  ledger{option} spend --by team,agent",
    ]
    return "\n".join(lines)


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold the data directory for this process; a second `ledger up` is told who has it."""
    if not directory.exists():
        directory.mkdir(parents=True)
        # PostgreSQL runs as `nobody` where we are root, and must get through to its own folder.
        directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
    with (directory / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise StartFailure(
                f"`ledger up` runs already on {_relative(directory)} (process "
                f"{lock.read().strip() or 'unknown'}); stop it, or choose another --data-dir."
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _gateway(text: str | None, *, any_port: bool) -> tuple[str, int]:
    """The address to listen on, free at this moment. `any_port`: another one will do."""
    host, colon, port = (text or DEFAULT_GATEWAY).rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise WrongUsage(f"--gateway {text} is not an address; write HOST:PORT.")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or "0.0.0.0", int(port), type=socket.SOCK_STREAM
        )
    except socket.gaierror as error:
        raise WrongUsage(
            f"--gateway {text}: there is no host {host!r}; write HOST:PORT."
        ) from error
    family, *_, address = found[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if any_port and text is None:
                probe.bind((address[0], 0))
                return str(address[0]), int(probe.getsockname()[1])
            raise StartFailure(
                f"The gateway cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}); "
                "choose another address with --gateway HOST:PORT."
            ) from error
    return str(address[0]), int(address[1])


def _providers(texts: Mapping[str, Sequence[str]]) -> list[Provider]:
    """What is behind the gateway, by the kind of thing that it is."""
    found: list[Provider] = []
    for kind, given in texts.items():
        try:
            found += [parse_provider(text, kind) for text in given]
            refuse_shared_names(found)
        except ValueError as error:
            raise WrongUsage(f"--{kind or 'provider'}: {error}") from error
    return found


def _people(
    jwks: str | None, issuer: str | None, audiences: Sequence[str], header: str | None
) -> People | None:
    """Whose tokens say who calls."""
    if jwks is None:
        if issuer or audiences or header:
            raise WrongUsage("Tokens are verified by --jwks; give it the issuer's public keys.")
        return None
    if not issuer:
        raise WrongUsage("--jwks needs --jwt-issuer; without it, anybody's token would do.")
    try:
        if is_url(jwks):
            check_url(jwks)
        else:
            jwks = str(Path(jwks).absolute())
            check_keys(Path(jwks).read_bytes(), jwks)
    except OSError as error:
        raise WrongUsage(f"--jwks {jwks} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise WrongUsage(f"--jwks: {error}") from error
    try:
        where = check_header(header or DEFAULT_HEADER)
    except ValueError as error:
        raise WrongUsage(f"--jwt-header: {error}") from error
    return People(jwks=jwks, issuer=issuer, audiences=audiences, header=where)


def _relative(path: Path) -> str:
    """The path as a person in this directory would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
