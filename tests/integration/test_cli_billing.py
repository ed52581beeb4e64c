"""Who pays for what a chain spends: the journal, the reports and the audit say the same."""

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger.audit import audit
from ledger.event import BILLINGS, MeteredEvent
from ledger.journal import payers
from tests.integration.books import NOW_US, Books, facts
from tests.integration.cli_run import Cli

HOUR_US = 3600 * 10**6
COUNTS = ("calls", "refused_calls", "unpriced_calls", "input_tokens", "output_tokens")


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def random_chains(seed: int, number: int) -> list[dict[str, Any]]:
    """Calls of three teams for three others, some without a price, some beyond their hold."""
    chance = random.Random(seed)
    return [
        facts(
            team=chance.choice(["red", "blue", "green"]),
            root_team=chance.choice(["red", "blue", "green"]),
            model=chance.choice(["gpt-5", "claude"]),
            billing=chance.choice(BILLINGS),
            chain_trust=chance.choice(["verified", "key_bound"]),
            cost_nanos=chance.choice([None, chance.randrange(10**9), chance.randrange(100)]),
            hold_nanos=chance.choice([0, 10, 10**8]),
        )
        for _ in range(number)
    ]


def book(books: Books, calls: list[dict[str, Any]]) -> list[MeteredEvent]:
    sidecar = books.sidecar()
    chance = random.Random(len(calls))
    made = [sidecar.call(NOW_US - chance.randrange(5 * HOUR_US), **call) for call in calls]
    sidecar.settle_all()
    books.book_all()
    return made


def due(events: list[MeteredEvent]) -> dict[str, int]:
    """What each team has to pay, call by call."""
    sums: dict[str, int] = defaultdict(int)
    for event in events:
        cost = event.cost_nanos or 0
        teams = payers(event.billing, event.team, event.root_team)
        shares = (cost,) if len(teams) == 1 else (cost - cost // 2, cost // 2)
        for team, share in zip(teams, shares, strict=True):
            sums[team] += share
    return sums


def instant(at_us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)).isoformat()


@pytest.mark.parametrize("seed", range(3))
def test_spend_by_billed_team_is_what_the_journal_charges(
    cli: Cli, books: Books, seed: int
) -> None:
    """To the nanodollar, from rollups and from events; every column adds up to its total."""
    made = book(books, random_chains(seed, 150))
    expected = due(made)
    for by in ("billed_team", "billed_team,outcome"):  # rollups answer, then events
        answer = cli.json("spend", "--by", by)
        assert {row["billed_team"]: row["cost_nanos"] for row in answer["rows"]} == expected
        assert answer["total"]["cost_nanos"] == sum(event.cost_nanos or 0 for event in made)
        for name in COUNTS:
            assert sum(row[name] for row in answer["rows"]) == answer["total"][name]
        assert answer["total"]["calls"] == len(made)
    charged = books.rows(
        "SELECT split_part(account, ':', 2) AS team, sum(amount_nanos)::bigint AS nanos"
        " FROM journal WHERE account ~ '^(expense|overrun):' GROUP BY 1"
    )
    assert {row["team"]: row["nanos"] for row in charged} == expected
    assert audit(books.db, books.redis).findings == []


@pytest.mark.parametrize("seed", range(2))
def test_billed_team_is_exact_in_any_window(cli: Cli, books: Books, seed: int) -> None:
    """Hours from the rollups and what sticks out of them from the events, to the microsecond."""
    made = book(books, random_chains(seed, 120))
    chance = random.Random(seed)
    start, end = sorted(NOW_US - chance.randrange(5 * HOUR_US) for _ in range(2))
    window = ("--since", instant(start), "--until", instant(end))
    chosen = [event for event in made if start <= event.occurred_at_us < end]
    found = cli.json("spend", "--by", "billed_team", *window)
    assert {row["billed_team"]: row["cost_nanos"] for row in found["rows"]} == due(chosen)


def test_one_team_of_two_is_asked_for(cli: Cli, books: Books) -> None:
    """A filter by who pays has that team's share; its calls are those that it pays for."""
    chain: dict[str, Any] = {"team": "blue", "root_team": "red", "chain_trust": "verified"}
    made = book(
        books,
        [
            facts(**chain, billing="split", cost_nanos=7),
            facts(**chain, billing="root", cost_nanos=100),
            facts(**chain, billing="caller", cost_nanos=1000),
        ],
    )
    split, root, caller = (event.event_id for event in made)
    for team, cost, calls, whose in (
        ("red", 104, 1, {split, root}),
        ("blue", 1003, 2, {split, caller}),
    ):
        asked = ("--where", f"billed_team={team}")
        for by in ("team", "run_id"):
            total = cli.json("spend", "--by", by, *asked)["total"]
            assert (total["cost_nanos"], total["calls"]) == (cost, calls)
        assert {event["event_id"] for event in cli.json("events", *asked)} == whose
    both = cli.json("spend", "--by", "billed_team,team,root_team")["rows"]
    assert {(row["billed_team"], row["team"], row["root_team"]) for row in both} == {
        ("red", "blue", "red"),
        ("blue", "blue", "red"),
    }


def test_the_audit_sees_the_wrong_team_charged(cli: Cli, books: Books) -> None:
    """A transaction that sums to zero and yet is another team's is a finding."""
    chain: dict[str, Any] = {"team": "blue", "root_team": "red", "chain_trust": "verified"}
    book(books, [facts(**chain, billing="root", cost_nanos=100)])
    books.rows("ALTER TABLE journal DISABLE TRIGGER USER")
    books.rows("UPDATE journal SET account = 'expense:blue' WHERE account = 'expense:red'")
    findings = audit(books.db, books.redis).findings
    assert {(f.check, f.subject, f.expected, f.found) for f in findings} == {
        ("billed", "red", "100", "0"),
        ("billed", "blue", "0", "100"),
    }


@pytest.mark.parametrize("trust", ["", "asserted", "inferred"])
def test_the_audit_sees_a_bill_moved_on_hearsay(books: Books, trust: str) -> None:
    """Nobody pays for others on a chain that anybody could have named."""
    chain: dict[str, Any] = {"team": "blue", "root_team": "red", "chain_trust": trust}
    [event] = book(books, [facts(**chain, billing="root")])
    [finding] = audit(books.db, books.redis).findings
    assert (finding.check, finding.subject) == ("hearsay", event.event_id)
