"""`ledger agents` and `ledger tools` over real books: what is stored, published and refused."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.stream import command
from tests.integration.books import NOW_US, Books, facts
from tests.integration.cli_run import Cli

WORDS = ("--team", "engineering", "--owner", "eve", "--purpose", "writes code")
KEY = ("keys", "issue", "--owner", "ann", "--team", "risk", "--workload", "nightly")
CENT = 10_000_000


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def published(books: Books, name: str) -> dict[str, Any]:
    """A document as the sidecars read it."""
    found: dict[str, Any] = json.loads(command(books.redis, "HGET", books.keys.directory, name))
    return found


def test_an_agent_is_registered_and_published(cli: Cli, books: Books) -> None:
    """The sidecars learn of it at once, with its price in nanodollars."""
    made = cli.json("agents", "register", "coder", *WORDS, "--price-per-call", "0.02usd")
    assert (made["status"], made["price_nanos"], made["price_usd"]) == (
        "active",
        2 * CENT,
        "0.020000000",
    )
    document = published(books, "agent:coder")
    assert document.pop("version") > 0
    assert document == {
        "name": "coder",
        "team": "engineering",
        "owner": "eve",
        "purpose": "writes code",
        "status": "active",
        "price_nanos": 2 * CENT,
    }
    again = cli("agents", "register", "coder", *WORDS)
    assert (again.exit_code, "already" in again.stderr) == (1, True)


@pytest.mark.parametrize("missing", ["--team", "--owner", "--purpose"])
@pytest.mark.parametrize("value", [None, "", " ", "\u200b"])
def test_no_agent_without_team_owner_and_purpose(
    cli: Cli, books: Books, missing: str, value: str | None
) -> None:
    """Neither the command line nor the database takes a blank one."""
    words = dict(zip(WORDS[::2], WORDS[1::2], strict=True)) | {missing: value}
    given = [text for pair in words.items() if pair[1] is not None for text in pair]
    result = cli("agents", "register", "coder", *map(str, given))
    assert result.exit_code == 1
    assert f"The {missing[2:]} is blank" in result.stderr
    columns = {"name": "coder", "team": "t", "owner": "o", "purpose": "p", missing[2:]: value}
    if value != "\u200b":
        with pytest.raises(psycopg.errors.IntegrityError):
            books.rows(
                "INSERT INTO agents (name, team, owner, purpose) VALUES (%s, %s, %s, %s)",
                *columns.values(),
            )


def test_every_change_has_who_when_and_why(cli: Cli, books: Books) -> None:
    """Suspended, resumed, changed: on record, and published each time."""
    cli.json("agents", "register", "coder", *WORDS)
    first = published(books, "agent:coder")["version"]
    by = {"TOLLKEEPER_ACTOR": "mia"}
    assert cli("agents", "suspend", "coder", "--why", "loops", **by).exit_code == 0
    assert published(books, "agent:coder")["status"] == "suspended"
    assert cli.json("agents", "resume", "coder")["status"] == "active"
    changed = cli.json("agents", "set", "coder", "--owner", "max", "--price-per-call", "1usd")
    assert (changed["owner"], changed["price_nanos"]) == ("max", 10**9)
    assert cli.json("agents", "set", "coder", "--price-per-call", "none")["price_nanos"] is None
    assert published(books, "agent:coder")["version"] > first
    changes = cli.json("agents", "show", "coder")["changes"]
    assert [change["what"] for change in changes] == [
        "changed",
        "changed",
        "resumed",
        "suspended",
        "registered",
    ]
    assert (changes[3]["who"], changes[3]["why"]) == ("mia", "loops")
    assert changes[1]["detail"]["from"] == {"owner": "eve", "price_nanos": None}
    assert cli("agents", "set", "coder").exit_code == 2
    assert cli("agents", "suspend", "nobody").exit_code == 1


def test_retired_is_for_good_and_gets_no_key(cli: Cli, books: Books) -> None:
    """Its keys stay on record; no path issues another one or hands it one."""
    cli.json("agents", "register", "coder", *WORDS)
    old = cli.json(*KEY, "--agent", "coder")
    cli.json(*KEY, "--agent", "other")
    assert cli.json("agents", "retire", "coder", "--why", "replaced")["status"] == "retired"
    assert published(books, "agent:coder")["status"] == "retired"
    for refused in (
        cli(*KEY, "--agent", "coder"),
        cli("keys", "rotate", old["key_id"]),
        cli("agents", "resume", "coder"),
        cli("agents", "set", "coder", "--owner", "max"),
    ):
        assert refused.exit_code == 1
        assert "retired" in refused.stderr
    for statement in (
        "UPDATE keys SET agent = 'coder' WHERE agent = 'other'",
        "UPDATE agents SET status = 'active' WHERE name = 'coder'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match="retired"):
            books.rows(statement)
    assert cli.json("keys", "suspend", old["key_id"])["status"] == "suspended"
    assert [row["name"] for row in cli.json("agents", "list", "--status", "retired")] == ["coder"]


def test_an_agents_keys_and_calls_are_counted(cli: Cli, books: Books) -> None:
    """What its keys spent, and how often it was called by others."""
    cli.json("agents", "register", "scout", *WORDS)
    cli.json(*KEY, "--agent", "scout")
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts(agent="scout", cost_nanos=5))
    call: dict[str, Any] = {
        "operation": "agent_call",
        "target_agent": "scout",
        "provider": "scout",
        "model": "",
    }
    sidecar.call(NOW_US, **facts(agent="planner", cost_nanos=7, **call))
    sidecar.call(NOW_US, **facts(agent="planner", cost_nanos=0, outcome="refused", **call))
    sidecar.settle_all()
    books.book_all()
    shown = cli.json("agents", "show", "scout")
    assert (shown["keys"], shown["calls"], shown["spent_nanos"]) == (1, 1, 5)
    assert shown["times_called"] == 1
    spent = cli.json("spend", "--by", "target_agent", "--where", "operation=agent_call")
    assert [(row["target_agent"], row["cost_nanos"]) for row in spent["rows"]] == [("scout", 7)]
    assert "agent scout" in cli("events").stdout


def test_a_tools_price_is_published_and_taken_away(cli: Cli, books: Books) -> None:
    """Exactly, by server and tool; whoever set it is on record."""
    made = cli.json("tools", "price", "search/web/page", "--per-call", "0.01usd", "--why", "deal")
    assert (made["server"], made["tool"], made["price_nanos"]) == ("search", "web/page", CENT)
    document = published(books, "tool:search/web/page")
    assert (document["price_nanos"], document["removed"]) == (CENT, False)
    cli.json("tools", "price", "search/*", "--per-call", "0")
    assert published(books, "tool:search/*")["price_nanos"] == 0
    cli.json("tools", "price", "search/web/page", "--per-call", "none")
    assert not command(books.redis, "HEXISTS", books.keys.directory, "tool:search/web/page")
    [first, *_] = books.rows("SELECT who, why, price_nanos FROM tool_price_changes ORDER BY 1, 2")
    assert first["who"]
    assert books.one("SELECT count(*) FROM tool_price_changes WHERE why = 'deal'") == 1
    for wrong in ("search", "/x", "search/ "):
        assert cli("tools", "price", wrong, "--per-call", "1").exit_code == 1
    assert cli("tools", "price", "a/b", "--per-call", "cheap").exit_code == 2


def test_tools_that_were_called_are_listed_with_their_prices(cli: Cli, books: Books) -> None:
    """A tool without a price of its own has its server's; one without any shows none."""
    cli.json("tools", "price", "search/*", "--per-call", "0.5usd")
    cli.json("tools", "price", "search/idle", "--per-call", "0.01usd")
    call = {"operation": "tool_call", "provider": "search", "model": "", "price_source": "per-call"}
    sidecar = books.sidecar()
    for outcome, cost in (("ok", CENT), ("provider_error", 0), ("refused", 0)):
        told = facts(tool_name="web", outcome=outcome, cost_nanos=cost, latency_ms=30)
        sidecar.call(NOW_US, **(told | call))
    sidecar.call(NOW_US, **(facts(tool_name="free", cost_nanos=0) | call | {"provider": "own"}))
    sidecar.settle_all()
    books.book_all()
    listed = {f"{row['server']}/{row['tool']}": row for row in cli.json("tools", "list")}
    assert list(listed) == ["own/free", "search/*", "search/idle", "search/web"]
    web = listed["search/web"]
    assert (web["calls"], web["failed_calls"], web["refused_calls"]) == (3, 1, 1)
    assert (web["price_nanos"], web["cost_nanos"], web["mean_ms"]) == (50 * CENT, CENT, 30)
    assert listed["search/idle"]["price_nanos"] == CENT
    assert listed["own/free"]["price_nanos"] is None
    assert [row["tool"] for row in cli.json("tools", "list", "--since", "2100-01-01")] == [
        "*",
        "idle",
    ]
    spent = cli.json("spend", "--by", "tool_name", "--where", "provider=search")
    assert [(row["tool_name"], row["unpriced_calls"]) for row in spent["rows"]] == [("web", 0)]
    owed = "SELECT sum(amount_nanos)::bigint FROM journal WHERE account = 'payable:search'"
    assert books.one(owed) == -CENT
    assert "search/web" in cli("events").stdout
