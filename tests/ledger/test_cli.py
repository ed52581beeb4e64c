"""The command line without services: how it starts, what it refuses, and in what words."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ledger.__main__ import open_run
from ledger.cli.command import ledger

NOBODY = "127.0.0.1:1"  # no service listens there
HEAVY = ("psycopg", "psycopg_pool", "redis", "rich", "google.protobuf", "genai_prices", "grpc")
COMPLETE = {"owner": "ada@example.com", "team": "risk", "agent": "triage", "workload": "nightly"}

Cli = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs `ledger ...` where nothing says where the services are."""

    def run(*arguments: str, **environment: str) -> Result:
        env = {
            "TOLLKEEPER_DATA_DIR": str(tmp_path),
            "TOLLKEEPER_POSTGRES_DSN": None,
            "TOLLKEEPER_REDIS_URL": None,
            **environment,
        }
        return CliRunner().invoke(ledger, arguments, obj=open_run, env=env)

    return run


def issue(**labels: str | None) -> list[str]:
    options = {**COMPLETE, **labels}
    given = [part for name, value in options.items() if value is not None for part in (name, value)]
    return ["keys", "issue", *(p if i % 2 else f"--{p}" for i, p in enumerate(given))]


def budget(*options: str) -> list[str]:
    return [
        *("budgets", "set", "b", "--where", "all", "--amount", "5usd", "--per", "day"),
        *options,
    ]


def one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith(".\n") and text[0] != " "


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["keys", "issue", "--help"], ["spend", "--help"], ["labels", "allow", "--help"]],
)
def test_starts_without_anything_heavy(arguments: list[str]) -> None:
    """Drivers, table printers and generated code load inside the commands that need them."""
    source = (
        "import sys, json\nfrom ledger.__main__ import main\n"
        f"sys.argv = ['ledger', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded.isdisjoint(HEAVY)


def test_help_names_every_command(cli: Cli) -> None:
    """`ledger --help` lists all commands without importing them."""
    text = cli("--help").stdout
    for name in (
        "up",
        "keys",
        "budgets",
        "events",
        "spend",
        "reconcile",
        "audit",
        "write",
        "agents",
        "tools",
    ):
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", ["owner", "team", "agent", "workload"])
@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "\t\n",
        "\u00a0",
        "\u2003\u3000",
        "\u200b",
        "\u2060",
        "\ufeff",
        "\u3164",
        "\u2800",
    ],
)
def test_no_key_without_all_four_labels(cli: Cli, name: str, value: str | None) -> None:
    """Missing, empty, or made of what prints as nothing: one sentence that names the label."""
    result = cli(*issue(**{name: value}))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert one_sentence(result.stderr)
    assert name in result.stderr


@pytest.mark.parametrize("value", ["a\0b", "a\nb", "a\x1b[31mb", "a\u202eb", "\ud800", "x" * 201])
def test_no_label_that_would_not_print_or_end(cli: Cli, value: str) -> None:
    """Control characters, direction overrides, lone surrogates and over-long texts are refused."""
    result = cli(*issue(team=value))
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert "team" in result.stderr


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("Environment=prod", "lower case"),
        ("cost center=7", "letters, digits"),
        ("team=other", "its own meaning"),
        ("cost_nanos=0", "its own meaning"),
        ("day=monday", "its own meaning"),
    ],
)
def test_optional_labels_have_plain_names_of_their_own(cli: Cli, label: str, says: str) -> None:
    """A label can neither be unreadable in a report nor pass for one of the event's own fields."""
    result = cli(*issue(), "--label", label)
    assert result.exit_code == 1
    assert says in result.stderr
    assert one_sentence(result.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        [*issue(), "--max-spend", "ten"],
        [*issue(), "--max-spend", "0"],
        [*issue(), "--max-spend", "-1"],
        [*issue(), "--expires", "soon"],
        [*issue(), "--expires", "2001-01-01"],
        [*issue(), "--label", "prod"],
        [*issue(), "--label", "environment="],
        ["keys", "rotate", "k", "--grace", "1"],
        [*issue(), "--rpm", "0"],
        ["keys", "rotate", "k", "--tpm", "many"],
        ["keys", "set", "k", "--max-parallel", "1.5"],
        ["keys", "set", "k", "--max-spend", "ten"],
        ["keys", "set", "k"],
        budget("--amount", "5"),
        budget("--amount", "0usd"),
        budget("--amount", "5eur"),
        budget("--alert", "101"),
        budget("--amount", "3parallel"),
        budget("--amount", "60calls", "--on-exceed", "throttle"),
        ["wallets", "create", "w", "--where", "all", "--alert-below", "5tok"],
        ["wallets", "top-up", "w", "--amount", "0usd"],
        ["wallets", "withdraw", "w", "--amount", "-1"],
        ["budgets", "explain"],
        ["budgets", "explain", "--key", "k", "--where", "team=a"],
        ["budgets", "raise", "b", "--by", "5", "--until", "7d"],
        budget("--time-zone", "Mars/Olympus"),
        ["keys", "import", "keys.csv", "--grace", "soon"],
        ["keys", "relabel", "k", "--why", "moved"],
        ["keys", "relabel", "k", "--team", "a", "--why", " "],
        ["keys", "relabel", "k", "--team", "a", "--unlabel", "team", "--why", "x"],
        ["keys", "relabel", "k", "--team", "a", "--label", "team=b", "--why", "x"],
        ["keys", "grace", "k", "--until", "2001-01-01", "--why", "x"],
        ["keys", "rotate"],
        ["keys", "rotate", "k", "--unlabelled"],
        ["keys", "rotate", "k", "--team", "a"],
        ["labels", "allow", "team"],
        ["labels", "forbid", "team=a,,b"],
    ],
)
def test_bad_input_is_wrong_usage_in_one_sentence(cli: Cli, arguments: list[str]) -> None:
    """Exit code 2 and a sentence that says what can be written instead."""
    result = cli(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert one_sentence(result.stderr), result.stderr


def test_unknown_options_and_commands_are_wrong_usage(cli: Cli) -> None:
    """What is not enforced yet is not offered either."""
    assert cli("nonsense").exit_code == 2
    assert cli(*issue(), "--region", "eu").exit_code == 2
    assert cli("keys", "list", "--format", "xml").exit_code == 2
    assert cli(*budget("--on-exceed", "explode")).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        issue(),
        ["keys", "list"],
        ["keys", "revoke", "abc"],
        ["budgets", "status"],
        ["budgets", "export"],
        ["budgets", "explain", "--where", "all"],
        ["wallets", "list"],
        ["wallets", "top-up", "w", "--amount", "5usd"],
        budget(),
        ["events"],
        ["spend", "--by", "team"],
        ["audit"],
        ["migrate"],
        ["keys", "backfill"],
        ["keys", "untagged"],
        ["keys", "relabel", "k", "--team", "a", "--why", "x"],
        ["labels", "list"],
        ["labels", "require", "cost_center"],
    ],
)
@pytest.mark.parametrize(
    "dsn",
    [None, f"postgresql://user:hunter2@{NOBODY}/books", "host=/nowhere dbname=books", "nonsense"],
)
def test_says_what_to_start_when_postgres_is_away(
    cli: Cli, arguments: list[str], dsn: str | None
) -> None:
    """One sentence with the remedy; never a traceback, and never the password in the DSN."""
    environment = {} if dsn is None else {"TOLLKEEPER_POSTGRES_DSN": dsn}
    result = cli(*arguments, **environment)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert one_sentence(result.stderr), result.stderr
    assert "TOLLKEEPER_POSTGRES_DSN" in result.stderr
    assert "hunter2" not in result.stderr


def test_reads_the_services_from_the_data_directory(cli: Cli, tmp_path: Path) -> None:
    """DIR/env of a running `ledger up` says where they are; --data-dir names another DIR."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "env").write_text(f"TOLLKEEPER_POSTGRES_DSN=postgresql://{NOBODY}/books\n")
    assert "port 1 failed" in cli("--data-dir", str(other), "keys", "list").stderr
    assert "Nobody said" in cli("keys", "list").stderr


def test_the_environment_wins_over_the_data_directory(cli: Cli, tmp_path: Path) -> None:
    """A variable that is set is what its owner means."""
    (tmp_path / "env").write_text("TOLLKEEPER_POSTGRES_DSN=host=/nowhere\n")
    dsn = f"postgresql://{NOBODY}/books"
    assert "port 1 failed" in cli("keys", "list", TOLLKEEPER_POSTGRES_DSN=dsn).stderr


def test_an_unreadable_data_directory_is_a_sentence(cli: Cli, tmp_path: Path) -> None:
    """Bytes that are no text in DIR/env do not end in a traceback."""
    (tmp_path / "env").write_bytes(b"\xff\xfe")
    result = cli("keys", "list")
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
