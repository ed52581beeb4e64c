"""`ledger` and `python -m ledger`: hands the settings to the command line. Holds nothing else."""

import os
from pathlib import Path

from ledger.cli.command import ledger
from ledger.cli.session import Run
from ledger.settings import load


def main() -> None:
    """Run the command line."""
    ledger(prog_name="ledger", obj=open_run)


def open_run(data_dir: Path | None) -> Run:
    """What the commands of this process work with."""
    return Run(load(data_dir, os.environ))


if __name__ == "__main__":
    main()
