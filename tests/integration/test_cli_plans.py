"""`ledger budgets apply`, `export`, `raise` and `explain` over real books and counters."""

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ledger.audit import audit
from ledger.stream import command
from tests.integration.books import NOW_US, Books, facts, until
from tests.integration.cli_run import Cli

USD = 1_000_000_000
FILE = """
budgets:
- name: risk
  where: {team: risk}
  amount: 500usd
  per: month
  alerts: [50, 80]
- name: triage
  where: {agent: triage, cost_center: 007}
  amount: 2Mtok
  per: day
  time_zone: Europe/Berlin
  on_exceed: shadow
"""
LABELS = ("--owner", "ann", "--team", "risk", "--agent", "scout", "--workload", "nightly")


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of two budgets."""
    path = tmp_path / "budgets.yaml"
    path.write_text(FILE)
    return path


def apply(cli: Cli, file: Path, *options: str) -> Any:
    return cli.json("budgets", "apply", str(file), "--yes", *options)


def granted(cli: Cli) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in cli.json("budgets", "list")}


def published(books: Books, budget_id: str) -> dict[str, Any]:
    text = command(books.redis, "HGET", books.keys.directory, f"budget:{budget_id}")
    found: dict[str, Any] = json.loads(text)
    return found


def spend(books: Books, cost_nanos: int, producer: str = "p1", **others: Any) -> None:
    sidecar = books.sidecar(producer)
    sidecar.call(NOW_US, **facts(**{"cost_nanos": cost_nanos, **others}))
    sidecar.settle_all()
    books.book_all()


def test_a_file_is_applied_and_published(cli: Cli, books: Books, file: Path) -> None:
    """All of it at once; the second time there is nothing to do."""
    first = apply(cli, file, "--why", "ticket 5")
    assert first["applied"] is True
    assert first["counts"]["create"] == 2
    found = granted(cli)
    assert found["triage"]["where"] == {"agent": "triage", "cost_center": "007"}
    for row in found.values():
        assert published(books, row["budget_id"])["name"] == row["name"]
    again = apply(cli, file, "--prune")
    assert (again["applied"], again["changes"]) == (False, [])
    assert again["counts"]["unchanged"] == 2
    [change] = cli.json("budgets", "show", "risk")["changes"]
    assert (change["what"], change["why"]) == ("created", "ticket 5")


def test_a_change_keeps_what_is_used(cli: Cli, books: Books, file: Path) -> None:
    """Another amount keeps the counter; another selector starts one from the books."""
    apply(cli, file)
    before = granted(cli)
    spend(books, 7 * USD, agent="triage", labels={"cost_center": "007"})
    file.write_text(FILE.replace("500usd", "9usd").replace(", cost_center: 007", ""))
    changes = {row["name"]: row for row in apply(cli, file)["changes"]}
    assert changes["risk"]["fields"] == {"amount": {"from": "500usd", "to": "9usd"}}
    assert changes["triage"]["change"] == "replace"
    after = granted(cli)
    assert after["risk"]["budget_id"] == before["risk"]["budget_id"]
    assert after["triage"]["budget_id"] != before["triage"]["budget_id"]
    status = {row["name"]: row for row in cli.json("budgets", "status")}
    assert status["risk"]["left"] == 2 * USD


def test_only_prune_removes_and_never_limits_of_others(cli: Cli, file: Path) -> None:
    """What a file does not name stays, unless it is asked for; keys and wallets always stay."""
    cli.json("budgets", "set", "other", "--where", "all", "--amount", "1usd", "--per", "day")
    cli.json("keys", "issue", *LABELS, "--max-spend", "5")
    cli.json("wallets", "create", "acme", "--where", "customer=acme")
    apply(cli, file)
    assert len(granted(cli)) == 5
    gone = apply(cli, file, "--prune")
    assert [(row["change"], row["name"]) for row in gone["changes"]] == [("remove", "other")]
    assert sorted(row["limit_source"] for row in granted(cli).values()) == [
        *("budget", "budget", "key", "wallet")
    ]
    assert "acme" not in cli("budgets", "export").stdout


def test_a_wrong_entry_applies_nothing(cli: Cli, file: Path) -> None:
    """The first error is named by its place; budgets before it are not granted either."""
    file.write_text(FILE.replace("agent: triage", "agnet: triage"))
    refused = cli("budgets", "apply", str(file), "--yes")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "budgets.yaml, line 8, entry 2 (triage): where does not know the label" in refused.stderr
    assert granted(cli) == {}
    cli.json("wallets", "create", "risk", "--where", "customer=acme")
    file.write_text(FILE)
    taken = cli("budgets", "apply", str(file), "--yes")
    assert taken.exit_code == 1
    assert "'risk' is the name of a wallet" in taken.stderr
    missing = cli("budgets", "apply", str(file) + "x", "--yes")
    assert missing.exit_code == 1
    assert "cannot be read: No such file" in missing.stderr


def test_without_a_terminal_nothing_is_applied_unasked(cli: Cli, file: Path) -> None:
    """The plan is shown, and nothing is done; a plan without changes needs no answer."""
    shown = cli("budgets", "apply", str(file))
    assert shown.exit_code == 1
    assert "2 to create" in shown.stdout
    assert "add --yes" in shown.stderr
    planned = json.loads(cli("budgets", "apply", str(file), "--format", "json").stdout)
    assert (planned["applied"], planned["counts"]["create"]) == (False, 2)
    assert granted(cli) == {}
    apply(cli, file)
    unchanged = cli("budgets", "apply", str(file))
    assert (unchanged.exit_code, unchanged.stdout.strip()) == (0, "2 unchanged")


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_at_a_terminal_it_asks(cli: Cli, file: Path, answer: str, code: int) -> None:
    """And takes no for an answer."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "ledger", "budgets", "apply", str(file)],
            env=cli.process_environment(),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(ours, f"{answer}\n".encode())
        _, said = process.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code, said
    assert "Apply these 2 changes?" in said
    assert len(granted(cli)) == (2 if code == 0 else 0)


def test_the_export_reads_back(cli: Cli, file: Path) -> None:
    """In both forms, through a pipe too."""
    apply(cli, file)
    cli.json("budgets", "set", "c", "--where", "all", "--amount", "60calls", "--per", "minute")
    cli.json("budgets", "raise", "risk", "--by", "5usd", "--until", "7d")
    for form in ("yaml", "json"):
        text = cli("budgets", "export", "--format", form).stdout
        file.write_text(text)
        assert apply(cli, file, "--prune")["counts"]["unchanged"] == 3
        done = subprocess.run(
            [sys.executable, "-m", "ledger", "budgets", "apply", "-", "--prune"],
            env=cli.process_environment(),
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "3 unchanged\n"
    assert len(granted(cli)["risk"]["raises"]) == 1


def test_two_at_once_leave_one_of_the_files(cli: Cli, tmp_path: Path) -> None:
    """Never a mixture; whoever planned on what was changed meanwhile is told so."""
    answers: list[tuple[int, str]] = []

    def run(number: int) -> None:
        path = tmp_path / f"{number}.yaml"
        path.write_text(FILE.replace("500usd", f"{number}usd").replace("2Mtok", f"{number}tok"))
        done = subprocess.run(
            [sys.executable, "-m", "ledger", "budgets", "apply", str(path), "--yes", "--prune"],
            env=cli.process_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        answers.append((done.returncode, done.stderr))

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 in {code for code, _ in answers}
    assert all(code == 0 or "changed in the meantime" in said for code, said in answers), answers
    found = granted(cli)
    assert found["risk"]["amount"] // USD == found["triage"]["amount"]


def test_a_raise_is_published_and_ends_by_itself(cli: Cli, books: Books, file: Path) -> None:
    """It counts at once, is listed, and only as long as it lasts."""
    apply(cli, file)
    spend(books, 450 * USD)
    raise_risk = ("budgets", "raise", "risk", "--by", "100usd", "--why", "audit season")
    found = cli.json(*raise_risk, "--until", "2999-01-31")
    document = published(books, found["budget_id"])
    assert document["amount"] == 500 * USD
    assert document["raises"][0]["amount"] == 100 * USD
    [status] = cli.json("budgets", "status", "risk")
    assert (status["limit"], status["left"], status["percent"]) == (600 * USD, 150 * USD, 75)
    line = "Raised: risk by $100.00 until 2999-01-31 00:00 (UTC)."
    for verb in (("list",), ("status",), ("show", "risk")):
        assert line in cli("budgets", *verb).stdout
    assert cli.json("budgets", "show", "risk")["changes"][0]["why"] == "audit season"
    cli.json("budgets", "set", "risk", "--where", "team=risk", "--amount", "1usd", "--per", "month")
    assert granted(cli)["risk"]["raises"][0]["amount"] == 100 * USD
    cli.json(*raise_risk, "--until", "2999-01-31")
    assert cli.json("budgets", "status", "risk")[0]["limit"] == 201 * USD
    books.rows(
        "UPDATE budgets SET document = jsonb_set(document, '{raises,0,until_us}', '5')"
        " WHERE name = 'risk'"
    )
    assert cli.json("budgets", "status", "risk")[0]["limit"] == 101 * USD
    assert len(cli.json(*raise_risk, "--until", "7d")["raises"]) == 2  # the ended one is forgotten


def test_a_raise_has_the_unit_of_its_budget(cli: Cli, file: Path) -> None:
    """Limits of keys are changed elsewhere, and what does not exist is not raised."""
    apply(cli, file)
    key_id = cli.json("keys", "issue", *LABELS, "--max-spend", "5")["key_id"]
    for name, says in (
        ("triage", "counts tokens"),
        ("nothing", "There is no budget 'nothing'"),
        (f"max_spend of key {key_id}", "limit of a key's own"),
    ):
        refused = cli("budgets", "raise", name, "--by", "1usd", "--until", "7d")
        assert refused.exit_code == 1
        assert says in refused.stderr
    past = cli("budgets", "raise", "risk", "--by", "1usd", "--until", "2020-01-01")
    assert past.exit_code == 2


def test_what_a_budget_does_stays_unless_it_is_said(cli: Cli, books: Books) -> None:
    """A new amount does not turn a budget that only reports into one that refuses."""
    line = ("budgets", "set", "b", "--where", "root_team=risk", "--per", "week", "--amount")
    first = cli.json(*line, "5usd", "--on-exceed", "shadow", "--unstated", "cap")
    assert (first["on_exceed"], first["unstated"]) == ("shadow", "cap")
    assert published(books, first["budget_id"])["unstated"] == "cap"
    second = cli.json(*line, "6usd")
    assert (second["on_exceed"], second["unstated"]) == ("shadow", "cap")
    assert cli.json(*line, "6usd", "--on-exceed", "suspend")["on_exceed"] == "suspend"


def test_a_budget_for_one_run_counts_that_run(cli: Cli, books: Books) -> None:
    """From the events, because rollups know no run; also after Redis was lost."""
    spend(books, 3 * USD, run_id="r1")
    spend(books, 4 * USD, "p2", run_id="r2")
    spend(books, 5 * USD, "p3")
    line = ("budgets", "set", "run", "--where", "run=r1", "--amount", "9usd", "--per", "total")
    cli.json(*line)
    assert cli.json("budgets", "status", "run")[0]["used"] == 3 * USD
    spend(books, 2 * USD, "p4", run_id="r1")
    command(books.redis, "FLUSHALL")
    books.book_all()
    assert cli.json("budgets", "status", "run")[0]["used"] == 5 * USD
    until(lambda: audit(books.db, books.redis).findings == [])


def test_explain_says_which_limit_refuses_first(cli: Cli, books: Books, file: Path) -> None:
    """Budgets, limits of the key and credit side by side, by the calls that still fit."""
    apply(cli, file)
    issued = cli.json("keys", "issue", *LABELS, "--customer", "acme", "--max-spend", "40")
    cli.json("wallets", "create", "acme", "--where", "customer=acme")
    cli.json("wallets", "top-up", "acme", "--amount", "12usd")
    cli.json(
        "budgets", "set", "azure", "--where", "provider=azure", "--amount", "1tok", "--per", "day"
    )
    cli.json("budgets", "set", "hr", "--where", "team=hr", "--amount", "1usd", "--per", "day")
    spend(books, 2 * USD, key_id=issued["key_id"], customer="acme")
    found = cli.json("budgets", "explain", "--key", issued["key"])
    names = [row["name"] for row in found["budgets"]]
    assert names == ["azure", "acme", f"max_spend of key {issued['key_id']}", "risk"]
    assert [row["calls_left"] for row in found["budgets"]][1:] == [5, 19, 249]
    assert found["budgets"][0]["only_if"] == {"provider": "azure"}
    assert [row["name"] for row in found["budgets"] if row["refuses_first"]] == ["acme"]
    assert found["typical_call"]["cost_nanos"] == 2 * USD
    table = cli("budgets", "explain", "--key", issued["key_id"], "--provider", "openai").stdout
    assert "First to refuse: acme." in table
    assert "azure" not in table
    cli("keys", "suspend", issued["key_id"])
    assert "is suspended" in cli("budgets", "explain", "--key", issued["key_id"]).stderr


def test_explain_takes_any_labels(cli: Cli, file: Path) -> None:
    """Without calls to go by, the price of the model says how many fit."""
    apply(cli, file)
    where = ("--where", "team=risk,agent=triage,cost_center=007")
    found = cli.json("budgets", "explain", *where)
    assert {row["name"]: row["shadow"] for row in found["budgets"]} == {
        "risk": False,
        "triage": True,
    }
    model = ("--provider", "openai", "--model", "gpt-4o")
    assert "gpt-4o's price" in cli("budgets", "explain", *where, *model).stdout
    unknown = cli("budgets", "explain", *where, "--provider", "openai", "--model", "no-such")
    assert "has no known price" in unknown.stderr
    nothing = cli("budgets", "explain", "--where", "team=hr").stdout
    assert nothing == "No budget binds such a call.\n"
