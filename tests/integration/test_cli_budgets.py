"""`ledger budgets` over real books and counters: what is enforced, kept, replaced and shown."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.stream import command
from tests.integration.books import NOW_US, Books, facts
from tests.integration.cli_run import Cli

RISK = ("--where", "team=risk")


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def grant(cli: Cli, amount: str, *options: str, name: str = "b", per: str = "total") -> Any:
    where = () if "--where" in options else RISK
    return cli.json("budgets", "set", name, *where, "--amount", amount, "--per", per, *options)


def status(cli: Cli, name: str = "b") -> dict[str, Any]:
    [found] = cli.json("budgets", "status", name)
    assert isinstance(found, dict)
    return found


def published(books: Books, budget_id: str) -> dict[str, Any]:
    text = command(books.redis, "HGET", books.keys.directory, f"budget:{budget_id}")
    found: dict[str, Any] = json.loads(text)
    return found


def is_published(books: Books, budget_id: str) -> bool:
    return bool(command(books.redis, "HEXISTS", books.keys.directory, f"budget:{budget_id}"))


def spend(books: Books, cost_nanos: int, producer: str = "p1", **others: Any) -> None:
    sidecar = books.sidecar(producer)
    sidecar.call(NOW_US, **facts(cost_nanos=cost_nanos, **others))
    sidecar.settle_all()
    books.book_all()


def test_a_budget_is_published_at_once(cli: Cli, books: Books) -> None:
    """When the command returns, sidecars can read what they have to enforce."""
    found = grant(
        cli,
        "2Mtok",
        *("--where", "team=risk,agent=triage", "--time-zone", "Europe/Berlin"),
        *("--alert", "100,50"),
        per="day",
    )
    document = published(books, found["budget_id"])
    assert document["where"] == [["agent", "triage"], ["team", "risk"]]
    assert (document["unit"], document["amount"], document["per"]) == ("tokens", 2_000_000, "day")
    assert (document["time_zone"], document["alerts"]) == ("Europe/Berlin", [50, 100])
    assert (document["on_exceed"], document["limit_source"]) == ("block", "budget")
    assert document["counts_from"] == document["version"]


def test_a_new_budget_starts_with_what_was_spent(cli: Cli, books: Books) -> None:
    """The status says so as soon as the command has returned."""
    spend(books, 700_000_000)
    spend(books, 5_000_000_000, "p2", team="search")
    grant(cli, "1usd", "--alert", "50,70,80")
    found = status(cli)
    assert (found["used"], found["held"], found["left"]) == (700_000_000, 0, 300_000_000)
    assert (found["used_usd"], found["left_usd"]) == ("0.700000000", "0.300000000")
    assert (found["percent"], found["alert"], found["turns_at"]) == (70, 70, None)


def test_another_amount_keeps_the_counter(cli: Cli, books: Books) -> None:
    """More money does not forget what is spent; alerts stay as they were."""
    before = grant(cli, "1usd", "--alert", "50")
    spend(books, 700_000_000)
    after = grant(cli, "2usd")
    assert (before["change"], after["change"]) == ("created", "changed")
    assert after["budget_id"] == before["budget_id"]
    assert after["alerts"] == [50]
    assert status(cli)["left"] == 1_300_000_000
    assert published(books, after["budget_id"])["amount"] == 2_000_000_000
    assert grant(cli, "2usd")["change"] == "unchanged"
    assert grant(cli, "2usd", "--alert", "none")["alerts"] == []


@pytest.mark.parametrize(
    ("amount", "options", "per"),
    [
        ("1usd", ("--where", "team=risk,agent=scout"), "total"),
        ("1usd", (), "month"),
        ("1Mtok", (), "total"),
        ("1usd", ("--time-zone", "Europe/Berlin"), "total"),
    ],
)
def test_another_rule_is_another_counter(
    cli: Cli, books: Books, amount: str, options: tuple[str, ...], per: str
) -> None:
    """What was counted under one rule means nothing under another; the old budget is gone."""
    spend(books, 400_000_000)
    before = grant(cli, "1usd")
    after = grant(cli, amount, *options, per=per)
    assert after["change"] == "replaced"
    assert after["budget_id"] != before["budget_id"]
    assert not is_published(books, before["budget_id"])
    assert status(cli)["used"] == (16 if amount == "1Mtok" else 400_000_000)
    assert len(cli.json("budgets", "list")) == 1


def test_the_status_shows_what_calls_in_flight_hold(cli: Cli, books: Books) -> None:
    """Held money is neither used nor left."""
    budget_id = grant(cli, "1usd")["budget_id"]
    books.sidecar().hold("e1", books.keys.counter(budget_id, "total"), 250_000_000, 2**53)
    found = status(cli)
    assert (found["used"], found["held"], found["left"]) == (0, 250_000_000, 750_000_000)
    table = cli("budgets", "status").stdout
    assert "$0.25" in table
    assert "25%" in table


def test_a_removed_budget_is_gone(cli: Cli, books: Books) -> None:
    """From the directory at once; its name is free for another."""
    first = grant(cli, "1usd")
    assert cli.json("budgets", "remove", "b")["change"] == "removed"
    assert not is_published(books, first["budget_id"])
    assert cli.json("budgets", "list") == []
    for verb in ("remove", "status"):
        again = cli("budgets", verb, "b")
        assert again.exit_code == 1
        assert "no budget 'b'" in again.stderr
    assert grant(cli, "1usd")["budget_id"] != first["budget_id"]


def test_a_keys_own_limit_is_not_a_budget_to_change(cli: Cli) -> None:
    """It is listed beside the others, and ends with its key."""
    labels = ("--owner", "a", "--team", "t", "--agent", "g", "--workload", "w")
    key_id = cli.json("keys", "issue", *labels, "--max-spend", "5")["key_id"]
    [limit] = cli.json("budgets", "list")
    assert (limit["where"], limit["limit_source"]) == ({"key": key_id}, "key")
    assert cli("budgets", "remove", limit["name"]).exit_code == 1
    taken = cli("budgets", "set", limit["name"], *RISK, "--amount", "9usd", "--per", "day")
    assert taken.exit_code == 1
    cli("keys", "revoke", key_id)
    assert cli.json("budgets", "list") == []


def test_a_selector_names_known_labels(cli: Cli) -> None:
    """A misspelt label would never match; one that a key carries is known."""
    wrong = cli("budgets", "set", "b", "--where", "region=eu", "--amount", "1usd", "--per", "day")
    assert wrong.exit_code == 2
    assert "allowed are owner, principal, team" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
    labels = ("--owner", "a", "--team", "t", "--agent", "g", "--workload", "w")
    cli.json("keys", "issue", *labels, "--label", "region=eu")
    assert grant(cli, "1usd", "--where", "region=eu")["where"] == {"region": "eu"}
    assert grant(cli, "1usd", "--where", "all", name="everything")["where"] == {}


def test_there_is_no_status_without_counters(cli: Cli, books: Books) -> None:
    """An empty Redis would read as nothing spent; the sentence says what has to run."""
    grant(cli, "1usd")
    command(books.redis, "FLUSHALL")
    result = cli("budgets", "status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "ledger write" in result.stderr
    away = cli("budgets", "status", TOLLKEEPER_REDIS_URL="redis://127.0.0.1:1/0")
    assert away.exit_code == 1
    assert "Redis does not answer" in away.stderr


def test_a_budget_stands_when_redis_is_away(cli: Cli, books: Books) -> None:
    """It is published, with what was spent before it, when the writer can."""
    spend(books, 700_000_000)
    result = cli(
        *("budgets", "set", "b", *RISK, "--amount", "1usd", "--per", "total"),
        TOLLKEEPER_REDIS_URL="redis://127.0.0.1:1/0",
    )
    assert result.exit_code == 0
    assert "the writer publishes it" in result.stderr
    books.book_all()
    assert status(cli)["used"] == 700_000_000


def test_the_same_name_set_at_once_is_one_budget(cli: Cli) -> None:
    """Whoever comes second either changes the first one's or is told to look again."""
    command_line = [sys.executable, "-m", "ledger", "budgets", "set", "b", *RISK]
    setters = [
        subprocess.Popen(
            [*command_line, "--amount", "1usd", "--per", per],
            env=cli.process_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for per in ("day", "week", "day")
    ]
    answers = [(*setter.communicate(), setter.returncode) for setter in setters]
    assert 0 in {code for _, _, code in answers}
    for _, said, code in answers:
        assert code == 0 or (code == 1 and "at this moment" in said), said
    assert len(cli.json("budgets", "list")) == 1


def test_budgets_print_in_every_format(cli: Cli) -> None:
    """Amounts as people write them in the table, integers in CSV."""
    grant(cli, "1234.5usd", name="money")
    grant(cli, "1.5Mtok", name="tokens", per="day")
    table = cli("budgets", "list").stdout
    assert "$1,234.50" in table
    assert "1.5Mtok" in table
    lines = cli("budgets", "status", "--format", "csv").stdout.splitlines()
    assert len(lines) == 3
    assert "1234500000000" in lines[1]
