"""Runs `ledger ...` in this process against a test's own services."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from click.testing import CliRunner, Result

from ledger.__main__ import open_run
from ledger.cli.command import ledger


@dataclass(frozen=True)
class Cli:
    """The command line of somebody who knows where the services are."""

    environment: dict[str, str]

    @classmethod
    def of(cls, postgres_dsn: str, redis_url: str, directory: Path) -> Self:
        """With the addresses in the environment, and no `ledger up` in sight."""
        return cls(
            {
                "TOLLKEEPER_POSTGRES_DSN": postgres_dsn,
                "TOLLKEEPER_REDIS_URL": redis_url,
                "TOLLKEEPER_DATA_DIR": str(directory),
                "TOLLKEEPER_ORG": "default",
            }
        )

    def __call__(self, *arguments: str, **environment: str) -> Result:
        """The result; an exception that is no sentence fails the test."""
        result = CliRunner(env={**self.environment, **environment}).invoke(
            ledger, arguments, obj=open_run
        )
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *arguments: str) -> Any:
        """What a successful command prints as JSON."""
        result = self(*arguments, "--format", "json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def process_environment(self) -> dict[str, str]:
        """For the same command in a process of its own."""
        return {**os.environ, **self.environment}
