"""`ledger events`, `spend`, `audit`, `migrate` and `write` over real books."""

import csv
import io
import json
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger.event import FIELDS, MeteredEvent
from ledger.stream import command
from tests.integration.books import NOW_US, Books, facts, until
from tests.integration.cli_run import Cli

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def book(books: Books, calls: Iterable[dict[str, Any]], producer: str = "p1") -> list[MeteredEvent]:
    sidecar = books.sidecar(producer)
    made = [
        sidecar.call(**{"at_us": NOW_US - 1_000_000 * n, **facts(n), **call})
        for n, call in enumerate(calls, 1)
    ]
    sidecar.settle_all()
    books.book_all()
    return made


def random_calls(seed: int, number: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    calls = []
    for _ in range(number):
        outcome = chance.choice(["ok", "ok", "ok", "refused", "client_gone"])
        calls.append(
            {
                "at_us": NOW_US - chance.randrange(5 * 3600 * 10**6),
                "team": chance.choice(["risk", "search"]),
                "agent": chance.choice(["triage", "scout"]),
                "model": chance.choice(["gpt-5", "claude"]),
                "labels": chance.choice([{}, {"environment": "prod"}]),
                "outcome": outcome,
                "cost_nanos": chance.choice([None, chance.randrange(10**10)]),
                "input_tokens": chance.randrange(10**5),
                "output_tokens": chance.randrange(10**4),
            }
        )
    return calls


def expected(events: Iterable[MeteredEvent], by: str) -> dict[str, list[int]]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0, 0])
    for event in events:
        group = event.labels.get(by, "") if by == "environment" else getattr(event, by)
        refused = event.outcome == "refused"
        unpriced = event.cost_nanos is None and not refused
        parts = (1, refused, unpriced, event.input_tokens, event.output_tokens)
        for place, part in enumerate((*parts, event.cost_nanos or 0)):
            sums[group][place] += part
    return dict(sums)


def sums(row: dict[str, Any]) -> list[int]:
    names = ("calls", "refused_calls", "unpriced_calls", "input_tokens", "output_tokens")
    return [*(row[name] for name in names), row["cost_nanos"]]


def instant(at_us: int) -> str:
    return (EPOCH + timedelta(microseconds=at_us)).isoformat()


def as_hour(at_us: int) -> str:
    return (EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:00Z")


@pytest.mark.parametrize("seed", range(3))
def test_spend_is_the_sum_of_its_events(cli: Cli, books: Books, seed: int) -> None:
    """Whatever the window and whoever answers, rollups or events, to the microsecond."""
    made = book(books, random_calls(seed, 120))
    chance = random.Random(seed + 100)
    for by in ("team", "agent", "model", "environment", "outcome"):
        start, end = sorted(NOW_US - chance.randrange(5 * 3600 * 10**6) for _ in range(2))
        chosen = [event for event in made if start <= event.occurred_at_us < end]
        found = cli.json("spend", "--by", by, "--since", instant(start), "--until", instant(end))
        assert {row[by]: sums(row) for row in found["rows"]} == expected(chosen, by)
        total = [sum(row[place] for row in expected(chosen, by).values()) for place in range(6)]
        assert sums(found["total"]) == total
        everything = cli.json("spend", "--by", by)
        assert {row[by]: sums(row) for row in everything["rows"]} == expected(made, by)


def test_spend_groups_filters_and_orders(cli: Cli, books: Books) -> None:
    """The dearest first; by time where a time is asked for; filters name labels too."""
    hour = 3600 * 10**6
    start = NOW_US // hour * hour - 2 * hour
    book(
        books,
        [
            {"at_us": start, "team": "risk", "cost_nanos": 5, "labels": {"environment": "prod"}},
            {"at_us": start + hour, "team": "risk", "cost_nanos": 50},
            {"at_us": start, "team": "search", "cost_nanos": 20},
        ],
    )
    teams = cli.json("spend", "--by", "team")["rows"]
    assert [(row["team"], row["cost_usd"]) for row in teams] == [
        ("risk", "0.000000055"),
        ("search", "0.000000020"),
    ]
    hours = cli.json("spend", "--by", "hour,team")["rows"]
    assert [(row["hour"], row["team"]) for row in hours] == [
        (as_hour(start), "search"),
        (as_hour(start), "risk"),
        (as_hour(start + hour), "risk"),
    ]
    prod = cli.json("spend", "--by", "team", "--where", "environment=prod,team=risk")
    assert [sums(row)[0] for row in prod["rows"]] == [1]
    run = cli.json("spend", "--by", "run_id,key", "--where", "outcome=ok")
    assert run["total"]["calls"] == 3
    few = cli("spend", "--by", "team", "--limit", "1")
    assert "$0.000000" in few.stdout
    assert "the total is of all" in few.stderr


def test_every_dimension_can_be_asked(cli: Cli, books: Books) -> None:
    """What the refusal lists as allowed is allowed."""
    book(books, [{}])
    listed = cli("spend", "--by", "nonsense")
    assert listed.exit_code == 2
    names = listed.stderr.strip().rstrip(".").partition("allowed are ")[2].split(", ")
    assert {"owner", "principal", "key", "model", "root_team", "run_id", "day"} <= set(names)
    for name in names:
        assert cli.json("spend", "--by", name)["total"]["calls"] == 1, name
    listed = cli("events", "--where", "nonsense=1")
    assert listed.exit_code == 2
    names = listed.stderr.strip().rstrip(".").partition("allowed are ")[2].split(", ")
    for name in names:
        assert cli.json("events", "--where", f"{name}=nobody") == [], name


@pytest.mark.parametrize(
    "value", ["100%s", "a'b\"c", "%(limit)s", "{where}", "x; DROP TABLE events", "\\"]
)
def test_a_value_is_only_a_value(cli: Cli, books: Books, value: str) -> None:
    """Percent signs, quotes and braces select the calls that carry them, and do nothing else."""
    book(books, [{"agent": value}, {"agent": "other"}])
    assert [event["agent"] for event in cli.json("events", "--where", f"agent={value}")] == [value]
    found = cli.json("spend", "--by", "agent", "--where", f"agent={value}")
    assert [row["agent"] for row in found["rows"]] == [value]


def test_events_have_every_field_of_the_contract(cli: Cli, books: Books) -> None:
    """Newest first, under the public names; the time is ISO-8601 with microseconds."""
    made = book(books, [{"labels": {"environment": "prod"}}, {"cost_nanos": None}])
    found = cli.json("events")
    assert [event["event_id"] for event in found] == [event.event_id for event in made]
    assert list(found[0]) == ["occurred_at" if n == "occurred_at_us" else n for n in FIELDS]
    assert datetime.fromisoformat(found[0]["occurred_at"]) == EPOCH + timedelta(
        microseconds=made[0].occurred_at_us
    )
    assert found[0]["occurred_at"].endswith("Z")
    assert len(found[0]["occurred_at"]) == 27
    assert found[0]["labels"] == {"environment": "prod"}
    assert found[1]["cost_nanos"] is None
    same = {"occurred_at_us", "labels"}
    for event, row in zip(made, found, strict=True):
        assert {n: getattr(event, n) for n in FIELDS if n not in same} == {
            n: row[n] for n in FIELDS if n not in same
        }
    lines = list(csv.DictReader(io.StringIO(cli("events", "--format", "csv").stdout)))
    assert [line["event_id"] for line in lines] == [event.event_id for event in made]
    assert json.loads(lines[0]["labels"]) == {"environment": "prod"}


def test_events_are_limited_and_windowed(cli: Cli, books: Books) -> None:
    """The newest of the window, and a remark where there are more."""
    hour = 3600 * 10**6
    made = book(books, [{"at_us": NOW_US - n * hour} for n in range(4)])
    names = [event.event_id for event in made]

    def listed(*options: str) -> list[str]:
        return [event["event_id"] for event in cli.json("events", *options)]

    assert listed("--limit", "2") == names[:2]
    assert listed("--since", "90m") == names[:2]
    assert listed("--since", instant(NOW_US - 2 * hour), "--until", instant(NOW_US)) == names[1:3]
    result = cli("events", "--limit", "2")
    assert "newest 2" in result.stderr
    assert len(result.stdout.splitlines()) == 3
    assert cli("events", "--limit", "4").stderr == ""


def test_an_empty_answer_says_so(cli: Cli) -> None:
    """No table without rows, and valid JSON and CSV all the same."""
    assert cli("events").stdout == "No calls.\n"
    assert cli("spend", "--by", "team").stdout == "Nothing was spent or called.\n"
    assert cli.json("events") == []
    assert cli.json("spend", "--by", "team")["total"]["cost_usd"] == "0.000000000"
    assert cli("spend", "--by", "team", "--format", "csv").stdout.startswith("team,calls,")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["spend", "--by", "team", "--since", "yesterday"], "7d"),
        (["spend", "--by", "team", "--since", "1d", "--until", "2d"], "before"),
        (["events", "--since", "1"], "15m"),
        (["events", "--where", "team"], "name=value"),
        (["events", "--where", "team=a\0"], "name=value"),
    ],
)
def test_bad_questions_are_wrong_usage(cli: Cli, arguments: list[str], says: str) -> None:
    """One sentence with what can be asked."""
    result = cli(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_audit_finds_or_says_that_all_is_well(cli: Cli, books: Books) -> None:
    """Exit code 1 and the findings where something does not fit."""
    book(books, [{}, {}])
    fine = cli("audit")
    assert fine.exit_code == 0
    assert "whole and consistent" in fine.stdout
    document = cli.json("audit")
    assert document["ok"] is True
    assert document["findings"] == []
    books.rows("UPDATE rollups SET cost_nanos = cost_nanos + 1")
    for output in ("json", "table", "csv"):
        found = cli("audit", "--format", output)
        assert found.exit_code == 1
        assert "finding" in found.stderr
        assert "rollup" in found.stdout
    document = json.loads(cli("audit", "--format", "json").stdout)
    assert document["ok"] is False
    assert set(document["findings"][0]) == {"check", "subject", "expected", "found", "says"}


def test_migrate_makes_the_tables_and_can_be_repeated(
    empty_postgres_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    """Before it every command says that it has to run."""
    cli = Cli.of(empty_postgres_dsn, redis_url, tmp_path)
    before = cli("keys", "list")
    assert before.exit_code == 1
    assert "ledger migrate" in before.stderr
    assert "0001" in cli("migrate").stdout
    assert cli("keys", "list").stdout == "No keys.\n"
    assert cli.json("migrate") == []


def test_write_runs_until_it_is_told_to_stop(
    postgres_dsn: str, redis_url: str, tmp_path: Path, books: Books
) -> None:
    """It books what comes in, and SIGTERM ends it cleanly."""
    cli = Cli.of(postgres_dsn, redis_url, tmp_path)
    log = tmp_path / "write.log"
    with log.open("wb") as out:
        writer = subprocess.Popen(
            [sys.executable, "-m", "ledger", "write"],
            env=cli.process_environment(),
            stdout=out,
            stderr=out,
        )
    try:
        sidecar = books.sidecar()
        sidecar.call(NOW_US, **facts())
        sidecar.settle_all()
        until(lambda: books.committed() == {"p1": 1})
        assert cli.json("spend", "--by", "team")["total"]["calls"] == 1
        writer.send_signal(signal.SIGTERM)
        assert writer.wait(10) == 0, log.read_text()
    finally:
        writer.kill()
        writer.wait()
    assert "Traceback" not in log.read_text()
    assert command(books.redis, "PING")
