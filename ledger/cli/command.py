"""The `ledger` command: where its parts are, how errors leave it. At start it loads click alone."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from ledger.cli.session import Run, sentence_for

# Command -> where it is and what it does; imported when it runs, so that each starts fast.
_PARTS: Final = {
    "up": ("ledger.cli.up:up", "Run all of Tollkeeper on this machine."),
    "keys": ("ledger.cli.keys:keys", "Issue, list and end keys."),
    "agents": ("ledger.cli.agents:agents", "Register agents; suspend and retire them."),
    "tools": ("ledger.cli.tools:tools", "What calls of tools cost, and which were called."),
    "labels": ("ledger.cli.labels:labels", "Which labels keys must have, and their values."),
    "budgets": ("ledger.cli.budgets:budgets", "Set budgets and see what is left."),
    "alerts": ("ledger.cli.alerts:alerts", "What was said of budgets, and whom it is sent to."),
    "wallets": ("ledger.cli.wallets:wallets", "Prepaid credit: pay in, see what is left."),
    "spend": ("ledger.cli.spend:spend", "Who spent how much, by whatever you ask."),
    "cache": ("ledger.cli.cache:cache", "What cached context costs, shared over its readers."),
    "events": ("ledger.cli.spend:events", "The metered calls, newest first."),
    "reconcile": ("ledger.cli.reconcile:reconcile", "Compare what is kept twice, and repair it."),
    "audit": ("ledger.cli.books:audit", "Prove that the books are whole and consistent."),
    "runs": ("ledger.cli.runs:runs", "Runs of agents: start, see what each cost, end."),
    "chains": ("ledger.cli.chains:chains", "What signs chains, and who pays for them."),
    "migrate": ("ledger.cli.books:migrate", "Create or update the tables in PostgreSQL."),
    "write": ("ledger.cli.books:write", "Run the writer: events from Redis into the books."),
}


class _Parts(click.Group):
    """A group that imports a command when it is asked for, and whose errors are sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_PARTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _PARTS:
            return None
        module, _, name = _PARTS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, says) for name, (_, says) in _PARTS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            refusal = sentence_for(error)
            if refusal is None:
                raise
            raise refusal from error


@click.group(cls=_Parts, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tollkeeper", prog_name="ledger")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where `ledger up` keeps its data; DIR/env says where the services are."
    "  [default: $TOLLKEEPER_DATA_DIR or ./.tollkeeper]",
)
@click.pass_context
def ledger(context: click.Context, data_dir: Path | None) -> None:
    """Tollkeeper's books: who spent every AI token, and the stop before the bill.

    TOLLKEEPER_POSTGRES_DSN and TOLLKEEPER_REDIS_URL say where the services are, else DIR/env of a
    running `ledger up`. Exit code 0: fine; 1: a finding or a refusal; 2: wrong usage.
    """
    open_run: Callable[[Path | None], Run] = context.obj
    context.obj = open_run(data_dir)
