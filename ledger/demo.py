"""`ledger up --demo`: a small organisation at work for half a minute, and what the books say of it.

Knows what a user knows: it issues keys, sets budgets, calls the gateway and asks for reports.
"""

import json
import os
import shlex
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.child import StartFailure
from ledger.demo_traffic import CALLERS, Caller, Tally, Traffic
from ledger.embedded import free_port
from ledger.envoy_config import Provider, credential_variables
from ledger.parts import Machine, Wanted, stock_envoy_config
from ledger.supervisor import Supervisor

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from ledger.db import Database
    from ledger.reports import Spend

TRAFFIC_S: Final = 30.0
LAST_CALLS_S: Final = 20.0
BOOKED_S: Final = 15.0
LOOK_EVERY_S: Final = 0.5
SAY_EVERY_S: Final = 5.0
"""Without a terminal there is no live table, but a line this often."""
_MARKER: Final = "this-is-a-demo"
_PROVIDERS: Final = ("openai", "anthropic", "gemini")
_BILLED: Final = ("input_tokens", "output_tokens")
_BUDGETS: Final = (
    ("Engineering", "--where", "team=engineering", "--amount", "500usd", "--per", "month"),
    ("Marketing", "--where", "team=marketing", "--amount", "0.08usd", "--per", "month"),
    ("Literature", "--where", "workload=literature", "--amount", "5Mtok", "--per", "day"),
)
_REFUSED: Final = ("spend", "--by", "team,agent,refusal,http_status", "--where", "outcome=refused")


def directory_for(default: Path, given: Path | None) -> Path:
    """Where the demo keeps its data: in a folder of its own, never among real books."""
    return (given or default / "demo").absolute()


def run(wanted: Wanted, stop: threading.Event) -> int:
    """The whole demo; 0 where all of it went well and the audit found nothing."""

    _clear(wanted.data_dir)
    port = free_port()
    machine = Machine(_with_fake_provider(wanted, port))
    supervisor = Supervisor(machine, [machine.fake_provider(port)])
    os.environ.update(machine.addresses())  # the reports below run in this process
    click.echo(
        "Starting PostgreSQL, Valkey, the ledger, the sidecar, Envoy and a fake provider ..."
    )
    began = time.monotonic()
    with supervisor.running(stop):
        if not stop.is_set():
            click.echo(f"All of it runs after {time.monotonic() - began:.1f} s.")
            traffic = Traffic(wanted.gateway, _issue_keys(machine))
            _set_budgets(machine)
            _work(supervisor, traffic, stop)
        if stop.is_set():
            click.echo("Stopped before its end.")
            return 1
        code = _report(machine, traffic.tally, port)
    _where_next(machine)
    return code


def _clear(directory: Path) -> None:
    """Start from nothing, but only where an earlier demo was or nothing is."""
    marker = directory / _MARKER
    found = [entry for entry in directory.iterdir() if entry.name != "up.lock"]
    if found and not marker.exists():
        raise StartFailure(
            f"{directory} is not empty and not of a demo; --demo empties the folder that it uses. "
            "Leave --data-dir out, or name another one."
        )
    for entry in found:
        if entry.is_symlink():  # PostgreSQL's data, where its account could not reach this folder
            shutil.rmtree(entry.resolve().parent, ignore_errors=True)
            entry.unlink()
        elif entry.is_dir():
            shutil.rmtree(entry)
        elif entry != marker:
            entry.unlink()
    marker.touch()


def _with_fake_provider(wanted: Wanted, port: int) -> Wanted:
    """All providers are the fake one, and no real credential is used."""
    variables = set(credential_variables(stock_envoy_config(), wanted.providers).values())
    return replace(
        wanted,
        providers=[Provider(name, "127.0.0.1", port, False) for name in _PROVIDERS],
        only_these_providers=True,
        environment={n: v for n, v in wanted.environment.items() if n not in variables},
    )


def _issue_keys(machine: Machine) -> list[tuple[Caller, str]]:
    keys = []
    for caller in CALLERS:
        labels = ["--owner", caller.owner, "--team", caller.team]
        labels += ["--agent", caller.agent, "--workload", caller.workload]
        labels += ["--customer", caller.customer] if caller.customer else []
        issued = _ledger_json(machine, "keys", "issue", *labels)
        keys.append((caller, str(issued["key"])))
    teams = {caller.team for caller in CALLERS}
    click.echo(f"Issued {len(keys)} keys, one for each agent of {len(teams)} teams.")
    return keys


def _set_budgets(machine: Machine) -> None:
    for arguments in _BUDGETS:
        _ledger_json(machine, "budgets", "set", *arguments)
    click.echo(f"Set {len(_BUDGETS)} budgets; Marketing's, 8 cents a month, will not be enough.\n")


def _work(supervisor: Supervisor, traffic: Traffic, stop: threading.Event) -> None:
    """Let the callers work, show what the books say meanwhile, and wait until all is booked."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with (
        _books(supervisor.machine) as db,
        Live(console=console, transient=True, auto_refresh=False) as live,
    ):
        show = _Show(supervisor, db, live if console.is_terminal else None, stop)
        traffic.start()
        show.until(lambda: False, "at work", TRAFFIC_S)
        traffic.finish()
        show.until(lambda: not traffic.is_running(), "finishing their calls", LAST_CALLS_S)
        show.until(lambda: show.booked >= traffic.tally.calls, "being booked", BOOKED_S)
    click.echo(f"{traffic.tally.calls} calls in {show.elapsed_s():.0f} s.")


class _Show:
    """What the books say while the callers work: a table that changes, or a line now and then."""

    def __init__(
        self, supervisor: Supervisor, db: "Database", live: "Live | None", stop: threading.Event
    ) -> None:
        self._supervisor, self._db, self._live, self._stop = supervisor, db, live, stop
        self._began = time.monotonic()
        self._look_at = self._say_at = 0.0
        self.booked = 0

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def until(self, is_over: Callable[[], bool], what: str, limit_s: float) -> None:
        """Look after the parts and the books until it is over, at most `limit_s`."""
        deadline = time.monotonic() + limit_s
        while not is_over() and time.monotonic() < deadline and not self._stop.wait(0.1):
            self._supervisor.tend()
            if time.monotonic() >= self._look_at:
                self._look(what)
                self._look_at = time.monotonic() + LOOK_EVERY_S

    def _look(self, what: str) -> None:
        from ledger.tables import money

        answer = _spend_by_team(self._db)
        self.booked = int(answer.total["calls"])
        if self._live is not None:
            self._live.update(_table(answer, f"{self.elapsed_s():.0f} s, {what}"), refresh=True)
        elif time.monotonic() >= self._say_at:
            self._say_at = time.monotonic() + SAY_EVERY_S
            spent = money(answer.total["cost_nanos"], 4)
            refused = answer.total["refused_calls"]
            click.echo(
                f"{self.elapsed_s():5.0f} s, {what}: {self.booked} calls booked, "
                f"{spent} spent, {refused} refused"
            )


def _spend_by_team(db: "Database") -> "Spend":
    from ledger import reports, spend

    question = reports.Question(by=("team",))
    with db.transaction(snapshot=True) as session:
        return reports.spend(question, spend.spend(session, question, 100), 100)


def _table(answer: "Spend", title: str) -> "Table":
    from rich.table import Table

    from ledger.tables import money

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("Team")
    for name in ("Calls", "Refused", "Spent"):
        table.add_column(name, justify="right")
    for row in (*sorted(answer.rows, key=lambda row: row["team"]), answer.total):
        is_total = row is answer.total
        cells = (str(row["calls"]), str(row["refused_calls"]), money(row["cost_nanos"], 4))
        table.add_row("Total" if is_total else row["team"], *cells, style="bold" * is_total)
    return table


def _report(machine: Machine, tally: Tally, port: int) -> int:
    """Everything that the demo promises to show; 1 where something is wrong."""
    _ask(machine, "Who spent what:", "spend", "--by", "team")
    _ask(machine, "Through which agent, on which model:", "spend", "--by", "team,agent,model")
    if run_id := _a_run(machine):
        _ask(machine, "One run of three agents, of three teams:", "runs", "show", run_id)
    _ask(machine, "The budgets:", "budgets", "status")
    _ask(machine, "What was refused, and why:", *_REFUSED)
    findings = _ask(machine, "Do the books prove themselves?", "audit")
    billed = _compare_with_the_bill(machine, port)
    for failure in tally.failures[:5]:
        click.echo(f"A call went wrong: {failure}", err=True)
    return 1 if findings or not billed or tally.failures else 0


def _a_run(machine: Machine) -> str:
    """The newest run that agents were in together; empty where there is none."""
    listed = _ledger_json(machine, "runs", "list", "--where", "root_team=product")
    together = (run["run_id"] for run in listed if run["calls"] > 1)
    return str(next(together, ""))


def _ask(machine: Machine, title: str, *arguments: str) -> int:
    """Run one of our own commands, shown as it would be typed; its exit code."""
    click.echo()
    click.secho(title, bold=True)
    click.secho(f"$ ledger {shlex.join(arguments)}", dim=True)
    return _ledger(machine, *arguments)


def _ledger(machine: Machine, *arguments: str) -> int:
    """Run a command of ours in this process; its exit code."""
    from ledger.cli.command import ledger
    from ledger.cli.session import Run
    from ledger.settings import load

    command = ["--data-dir", str(machine.layout.data_dir), *arguments]
    try:
        result = ledger.main(
            command,
            prog_name="ledger",
            standalone_mode=False,
            obj=lambda data_dir: Run(load(data_dir, os.environ)),
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return int(result or 0)


def _ledger_json(machine: Machine, *arguments: str) -> Any:
    """What a command of ours prints as JSON."""
    with redirect_stdout(StringIO()) as printed:
        code = _ledger(machine, *arguments, "--format", "json")
    if code:
        raise StartFailure(f"`ledger {shlex.join(arguments)}` did not work; see above.")
    return json.loads(printed.getvalue())


def _compare_with_the_bill(machine: Machine, port: int) -> bool:
    """Whether the provider billed the tokens that the books have."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_fake/bills", timeout=5) as answer:
        bills = json.loads(answer.read())
    billed = tuple(sum(bill[name] for bill in bills) for name in _BILLED)
    with _books(machine) as db:
        total = _spend_by_team(db).total
    booked = tuple(int(total[name]) for name in _BILLED)
    click.echo()
    click.secho("And the provider's own bill?", bold=True)
    for name, theirs, ours in zip(_BILLED, billed, booked, strict=True):
        same = "the same" if theirs == ours else f"the provider says {theirs:,}"
        click.echo(f"{name.replace('_', ' '):<14} {ours:>12,} in the books: {same}.")
    return billed == booked


def _where_next(machine: Machine) -> None:
    shown = shlex.quote(os.path.relpath(machine.layout.data_dir))
    click.echo()
    click.secho(
        "Everything is stopped; the books of this demo are kept. To look around:", bold=True
    )
    click.echo(
        f"  {_command()} up --data-dir {shown}    # leave it running, and in another terminal:\n"
        f"  {_command()} --data-dir {shown} events --limit 10\n"
        f"  {_command()} --data-dir {shown} spend --by customer\n"
        f"  {_command()} --data-dir {shown} spend --by run_id --where agent=code-review\n"
        f"  {_command()} --data-dir {shown} keys list\n"
        "For your own calls:\n"
        f"  OPENAI_API_KEY=... {_command()} up"
    )


def _command() -> str:
    """How the person at this terminal calls us."""
    if shutil.which("ledger"):
        return "ledger"
    ours = str(Path(sys.executable).with_name("ledger"))
    return min(ours, os.path.relpath(ours), key=len)


def _books(machine: Machine) -> "Database":
    from ledger.db import Database

    return Database(machine.postgres_dsn, max_connections=1)
