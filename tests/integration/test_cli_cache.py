"""`ledger cache` over real books: costs as they were booked, and what sharing moves."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger.event import Usage
from ledger.price_list import standard_table
from ledger.prices import cost_nanos
from tests.integration.books import NOW_US, Books, facts
from tests.integration.cli_run import Cli
from tests.integration.test_cli_spend import book

SONNET = "claude-sonnet-4-5-20250929"  # $3 input, $3.75 and $6 cache writes, $0.30 reads
MINUTE = 60 * 1_000_000
START = NOW_US - 30 * MINUTE


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def claude(team: str, minute: int, *, read: int = 0, short: int = 0, **more: Any) -> dict[str, Any]:
    """A priced call with 100 tokens of plain input and 10 of output."""
    usage = Usage(
        input_tokens=100 + read + short,
        cache_read_tokens=read,
        cache_write_5m_tokens=short,
        output_tokens=10,
    )
    rates = standard_table().lookup("anthropic", SONNET, START)
    assert rates is not None
    call = {
        "at_us": START + minute * MINUTE,
        "team": team,
        "agent": f"{team}-agent",
        "key_id": f"k-{team}",
        "provider": "anthropic",
        "model": SONNET,
        "operation": "messages",
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": read,
        "cache_write_5m_tokens": short,
        "output_tokens": 10,
        "cost_nanos": cost_nanos(rates, usage),
    }
    return facts() | call | more


def test_a_write_is_shared_and_the_total_stays(cli: Cli, books: Books) -> None:
    """Three teams read what one wrote: a quarter each; the sum is what was booked."""
    book(
        books,
        [
            claude("plan", 0, short=10_000),
            claude("code", 1, read=10_000),
            claude("code", 2, read=10_000),
            claude("test", 3, read=10_000),
            claude("alone", 3, short=4_000),
            facts(team="gpt", at_us=START, cost_nanos=5),
        ],
    )
    found = cli.json("cache")
    rows = {row["team"]: row for row in found["rows"]}
    write = 10_000 * 3_750
    assert rows["plan"]["cache_write_nanos"] == write
    assert (rows["plan"]["moved_out_nanos"], rows["plan"]["moved_in_nanos"]) == (write * 3 // 4, 0)
    assert rows["code"]["moved_in_nanos"] == write // 2
    assert rows["test"]["moved_in_nanos"] == write // 4
    assert rows["alone"]["shared_cost_nanos"] == rows["alone"]["cost_nanos"]
    assert (rows["gpt"]["cost_nanos"], rows["gpt"]["shared_cost_nanos"]) == (5, 5)
    booked = cli.json("spend", "--by", "team")["total"]["cost_nanos"]
    assert found["total"]["cost_nanos"] == found["total"]["shared_cost_nanos"] == booked
    table = cli("cache", "--by", "team,agent").stdout
    assert "Shared cost" in table
    assert "$0.0281" in table
    assert cli("cache", "--format", "csv").stdout.startswith("team,calls,cache_read_tokens,")


def test_accounts_and_models_do_not_share(cli: Cli, books: Books) -> None:
    """A caller's own credential has its own cache, and so has each model."""
    book(
        books,
        [
            claude("plan", 0, short=10_000),
            claude("own", 1, read=10_000, byok=True),
            claude("other", 1, read=10_000, model="claude-opus-4-5"),
        ],
    )
    assert cli.json("cache")["total"]["moved_in_nanos"] == 0


def test_a_filter_shows_what_comes_from_elsewhere(cli: Cli, books: Books) -> None:
    """One team's report has its part of a write that another team paid."""
    book(books, [claude("plan", 0, short=10_000), claude("code", 1, read=10_000)])
    [row] = cli.json("cache", "--where", "team=code", "--by", "agent")["rows"]
    assert (row["agent"], row["moved_in_nanos"]) == ("code-agent", 10_000 * 3_750 // 2)
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START + MINUTE // 2)
    found = cli.json("cache", "--since", start.isoformat())
    assert found["total"]["moved_in_nanos"] == 0


def test_unpriced_writes_and_unknown_dimensions(cli: Cli, books: Books) -> None:
    """Without a price there is nothing to split; a name that is none is wrong usage."""
    book(
        books,
        [
            claude("plan", 0, short=10_000, model="no-such-model", cost_nanos=None),
            claude("code", 1, read=10_000, model="no-such-model", cost_nanos=None),
        ],
    )
    assert cli.json("cache")["total"]["cache_write_nanos"] == 0
    assert cli("cache", "--by", "nonsense").exit_code == 2
    assert cli.json("cache", "--by", "day")["rows"]


def test_a_host_with_a_price_list_of_another_name(
    books: Books, postgres_dsn: str, tmp_path: Path
) -> None:
    """What the sidecars were told of price lists, the command is told by the same variable."""
    model = "anthropic/claude-sonnet-4.5"
    router: dict[str, Any] = {"provider": "router", "model": model}
    book(books, [claude("plan", 0, short=10_000, **router), claude("code", 1, read=10_000)])
    cli = Cli.of(postgres_dsn, books.redis_url, tmp_path)
    assert cli.json("cache")["total"]["cache_write_nanos"] == 0
    cli = Cli(cli.environment | {"TOLLKEEPER_PRICE_LIST": "router=openrouter"})
    assert cli.json("cache")["total"]["cache_write_nanos"] == 10_000 * 3_750
    cli = Cli(cli.environment | {"TOLLKEEPER_PRICE_LIST": "router"})
    assert "TOLLKEEPER_PRICE_LIST must be" in cli("cache").stderr
