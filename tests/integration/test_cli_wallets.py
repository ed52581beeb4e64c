"""`ledger wallets` over real books and counters: paid in, paid from, paid out, and proved."""

import json
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


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def create(cli: Cli, name: str = "acme", where: str = "customer=acme", *options: str) -> Any:
    return cli.json("wallets", "create", name, "--where", where, *options)


def top_up(cli: Cli, amount: str, *options: str) -> Any:
    return cli.json("wallets", "top-up", "acme", "--amount", amount, *options)


def look(cli: Cli, name: str = "acme") -> dict[str, Any]:
    found: dict[str, Any] = cli.json("wallets", "show", name)
    return found


def counter(books: Books, cli: Cli) -> str:
    return books.keys.counter("wallet-" + look(cli)["wallet_id"], "total")


def published(books: Books, wallet_id: str) -> dict[str, Any]:
    text = command(books.redis, "HGET", books.keys.directory, f"budget:wallet-{wallet_id}")
    found: dict[str, Any] = json.loads(text)
    return found


def spend(books: Books, cost_nanos: int, producer: str = "p1", **others: Any) -> None:
    sidecar = books.sidecar(producer)
    sidecar.call(NOW_US, **facts(**{"customer": "acme", "cost_nanos": cost_nanos, **others}))
    sidecar.settle_all()
    books.book_all()


def accounts(books: Books) -> dict[str, int]:
    rows = books.rows("SELECT account, sum(amount_nanos)::bigint AS n FROM journal GROUP BY 1")
    return {row["account"]: row["n"] for row in rows}


def test_a_new_wallet_is_a_budget_without_credit(cli: Cli, books: Books) -> None:
    """Sidecars know it when the command returns, and have nothing to give."""
    made = create(cli, "acme", "team=risk,customer=acme", "--alert-below", "20usd")
    assert (made["credited_nanos"], made["alert_below_nanos"]) == (0, 20 * USD)
    document = published(books, made["wallet_id"])
    assert document["where"] == [["customer", "acme"], ["team", "risk"]]
    assert (document["name"], document["limit_source"]) == ("acme", "wallet")
    assert (document["unit"], document["per"], document["amount"]) == ("usd", "total", 0)


def test_a_top_up_raises_the_limit_under_the_same_counter(cli: Cli, books: Books) -> None:
    """What was spent stays spent; the journal has it in two accounts that sum to zero."""
    wallet_id = create(cli)["wallet_id"]
    found = top_up(cli, "100usd", "--reference", "invoice 17", "--why", "first")
    assert (found["change"], found["amount_usd"]) == ("booked", "100.000000000")
    assert (found["debit"], found["credit"]) == ("cash", "credit:acme")
    spend(books, 30 * USD)
    top_up(cli, "50", "--receivable")
    assert published(books, wallet_id)["amount"] == 150 * USD
    standing = look(cli)
    assert (standing["credited_nanos"], standing["spent_nanos"]) == (150 * USD, 30 * USD)
    assert (standing["balance_usd"], standing["available_usd"]) == ("120.000000000",) * 2
    assert accounts(books) == {
        "cash": 100 * USD,
        "receivable": 50 * USD,
        "credit:acme": -120 * USD,
        "revenue:usage": -30 * USD,
        "expense:risk": 30 * USD,
        "payable:openai": -30 * USD,
    }
    assert audit(books.db, books.redis).findings == []


def test_a_reference_is_booked_once(cli: Cli, books: Books) -> None:
    """The same payment again changes nothing; another amount under its name is refused."""
    create(cli)
    first = top_up(cli, "100usd", "--reference", "invoice 17")
    again = top_up(cli, "100", "--reference", "invoice 17")
    assert (again["change"], again["transaction_id"]) == ("unchanged", first["transaction_id"])
    assert look(cli)["credited_nanos"] == 100 * USD
    for options in (["--amount", "90usd"], ["--amount", "100usd", "--receivable"]):
        refused = cli("wallets", "top-up", "acme", *options, "--reference", "invoice 17")
        assert refused.exit_code == 1
        assert "invoice 17" in refused.stderr
        assert "top-up of $100.00 (cash)" in refused.stderr
    assert top_up(cli, "100usd")["change"] == top_up(cli, "100usd")["change"] == "booked"
    assert look(cli)["credited_nanos"] == 300 * USD


def test_the_same_payment_at_once_is_booked_once(cli: Cli) -> None:
    """A job that is retried while its first try still runs pays once."""
    create(cli)
    line = [sys.executable, "-m", "ledger", "wallets", "top-up", "acme", "--amount", "5usd"]
    payers = [
        subprocess.Popen(
            [*line, "--reference", "r1", "--format", "json"],
            env=cli.process_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [json.loads(payer.communicate()[0]) for payer in payers]
    assert sorted(answer["change"] for answer in answers) == ["booked", "unchanged", "unchanged"]
    assert look(cli)["credited_nanos"] == 5 * USD


def test_credit_pays_from_its_opening_on_and_never_for_byok(cli: Cli, books: Books) -> None:
    """What a customer used before is not taken from what it prepaid, nor what it pays itself."""
    spend(books, 40 * USD)
    old = books.sidecar("p2")
    create(cli)
    top_up(cli, "100usd")
    old.call(NOW_US, **facts(customer="acme", cost_nanos=7 * USD))  # let through without it
    old.settle_all()
    spend(books, 20 * USD, "p3")
    spend(books, 9 * USD, "p4", byok=True)
    spend(books, 3 * USD, "p5", customer="zeta")
    assert look(cli)["spent_nanos"] == 20 * USD
    assert accounts(books)["credit:acme"] == -80 * USD
    assert audit(books.db, books.redis).findings == []


def test_what_was_paid_survives_a_lost_redis(cli: Cli, books: Books) -> None:
    """The counter is rebuilt from the journal, a gap of a producer included."""
    spend(books, 40 * USD)
    create(cli)
    top_up(cli, "100usd")
    sidecar = books.sidecar("p3")
    for cost in (10, 20):
        sidecar.call(NOW_US, **facts(customer="acme", cost_nanos=cost * USD))
    sidecar.settle_all()
    books.book_all()
    command(books.redis, "FLUSHALL")
    books.book_all()
    assert look(cli)["spent_nanos"] == 30 * USD
    assert audit(books.db, books.redis).findings == []


def test_a_withdrawal_leaves_what_is_spent_or_held(cli: Cli, books: Books) -> None:
    """Calls in flight keep what they may still cost; the rest goes, and the limit with it."""
    wallet_id = create(cli)["wallet_id"]
    top_up(cli, "100usd")
    spend(books, 30 * USD)
    books.sidecar().hold("e1", counter(books, cli), 20 * USD, 2**53)
    refused = cli("wallets", "withdraw", "acme", "--amount", "51usd")
    assert refused.exit_code == 1
    assert "has $50.00 that can be withdrawn: $100.00 paid in, $30.00 spent" in refused.stderr
    paid = cli.json("wallets", "withdraw", "acme", "--amount", "50usd", "--reference", "r")
    assert (paid["debit"], paid["credit"], paid["change"]) == ("credit:acme", "cash", "booked")
    again = cli.json("wallets", "withdraw", "acme", "--amount", "50usd", "--reference", "r")
    assert again["change"] == "unchanged"
    assert published(books, wallet_id)["amount"] == 50 * USD
    standing = look(cli)
    assert (standing["balance_nanos"], standing["held_nanos"]) == (20 * USD, 20 * USD)
    assert standing["available_nanos"] == 0
    assert accounts(books)["cash"] == 50 * USD


def test_nothing_is_withdrawn_while_nobody_knows_what_is_spent(cli: Cli, books: Books) -> None:
    """Without counters, or without Redis, a sentence and no payment."""
    create(cli)
    top_up(cli, "100usd")
    command(books.redis, "FLUSHALL")
    refused = cli("wallets", "withdraw", "acme", "--amount", "1usd")
    assert refused.exit_code == 1
    assert "no counters yet" in refused.stderr
    away = {"TOLLKEEPER_REDIS_URL": "redis://127.0.0.1:1/0"}
    gone = cli("wallets", "withdraw", "acme", "--amount", "1usd", **away)
    assert gone.exit_code == 1
    assert "Redis does not answer" in gone.stderr
    books.book_all()
    assert look(cli)["credited_nanos"] == 100 * USD


def test_withdrawals_at_once_take_no_more_than_there_is(cli: Cli, books: Books) -> None:
    """Each finds at most what the other left; one that is just being made counts as held."""
    create(cli)
    top_up(cli, "10usd")
    codes: list[int] = []

    def take() -> None:
        line = [sys.executable, "-m", "ledger", "wallets", "withdraw", "acme", "--amount", "4usd"]
        done = subprocess.run(line, env=cli.process_environment(), capture_output=True, check=False)
        codes.append(done.returncode)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) in ([0, 0, 1, 1], [0, 1, 1, 1])
    assert look(cli)["balance_nanos"] == (10 - 4 * codes.count(0)) * USD
    until(lambda: command(books.redis, "HLEN", books.keys.holds) == 0)


def test_a_call_is_paid_from_one_wallet(cli: Cli) -> None:
    """Selectors that could pick the same call are refused; such as cannot are fine."""
    create(cli)
    for name, where in (("b", "team=risk"), ("c", "customer=acme,team=risk"), ("d", "all")):
        refused = cli("wallets", "create", name, "--where", where)
        assert refused.exit_code == 1
        assert "'acme' (customer=acme) could pay for the same calls" in refused.stderr
    create(cli, "zeta", "customer=zeta")
    assert cli("wallets", "create", "acme", "--where", "customer=x").exit_code == 1


def test_a_wallet_and_a_budget_are_not_confused(cli: Cli) -> None:
    """They share their names, because a refusal names one of them; each has its own commands."""
    create(cli)
    set_budget = ("budgets", "set", "acme", "--where", "all", "--amount", "1usd", "--per", "day")
    for line in (
        set_budget,
        ("budgets", "remove", "acme"),
        ("budgets", "raise", "acme", "--by", "1usd", "--until", "7d"),
    ):
        refused = cli(*line)
        assert refused.exit_code == 1
        assert "is a wallet of prepaid credit" in refused.stderr
    cli.json("budgets", "set", "b", "--where", "all", "--amount", "1usd", "--per", "day")
    taken = cli("wallets", "create", "b", "--where", "customer=b")
    assert taken.exit_code == 1
    assert "There is a budget or wallet 'b' already" in taken.stderr
    unknown = cli("wallets", "top-up", "b", "--amount", "1usd")
    assert unknown.exit_code == 1
    assert "There is no wallet 'b'" in unknown.stderr


def test_the_database_keeps_the_books_whole(cli: Cli, books: Books) -> None:
    """Whoever writes past the commands cannot change a payment, a wallet's calls, or overdraw."""
    create(cli)
    top_up(cli, "10usd")
    pay_out = (
        "INSERT INTO wallet_transactions (transaction_id, wallet_id, kind, amount_nanos, against,"
        " who) SELECT 'x', wallet_id, 'withdrawal', -11000000000, 'cash', 'me' FROM wallets"
    )
    for statement, says in (
        ("UPDATE wallet_transactions SET amount_nanos = 1", "append-only"),
        ("DELETE FROM wallet_transactions", "append-only"),
        ("UPDATE wallets SET selector = '[]'", "which calls it pays for"),
        ("DELETE FROM wallets", "withdraw what is left"),
        (pay_out, "More cannot be withdrawn"),
    ):
        with pytest.raises(Exception, match=says):
            books.rows(statement)


def test_transactions_tell_what_moved_the_credit(cli: Cli, books: Books) -> None:
    """Payments one by one, usage by day, and the balance after each, the newest first."""
    create(cli)
    top_up(cli, "100usd", "--reference", "invoice 17", "--why", "pilot")
    spend(books, 25 * USD)
    spend(books, 5 * USD, "p2")
    cli.json("wallets", "withdraw", "acme", "--amount", "20usd")
    found = cli.json("wallets", "transactions", "acme")
    by_kind = {row["kind"]: row for row in found}
    assert len(found) == 3
    usage, paid_in, paid_out = (by_kind[kind] for kind in ("usage", "top_up", "withdrawal"))
    assert (usage["amount_usd"], usage["calls"]) == ("-30.000000000", 2)
    assert (usage["debit"], usage["credit"]) == ("credit:acme", "revenue:usage")
    assert (paid_in["reference"], paid_in["why"]) == ("invoice 17", "pilot")
    assert paid_out["balance_usd"] == "50.000000000"
    assert found[0]["kind"] == "withdrawal"
    table = cli("wallets", "transactions", "acme").stdout
    assert "invoice 17" in table
    assert "2 calls" in table


def test_wallets_print_in_every_format(cli: Cli, books: Books) -> None:
    """A low balance is marked; an alert can be moved and taken away."""
    create(cli, "acme", "customer=acme", "--alert-below", "20usd")
    top_up(cli, "10.5usd")
    [row] = cli.json("wallets", "list")
    assert (row["low"], row["available_usd"]) == (True, "10.500000000")
    assert "$10.50" in cli("wallets", "list").stdout
    assert "is low" in cli("wallets", "show", "acme").stdout
    assert "10500000000" in cli("wallets", "list", "--format", "csv").stdout
    set_alert = ("wallets", "set", "acme", "--alert-below")
    assert cli.json(*set_alert, "5usd")["alert_below_nanos"] == 5 * USD
    assert cli.json(*set_alert, "none")["alert_below_nanos"] is None
    for wrong in ("0usd", "5tok", "-1", "1e3"):
        assert cli("wallets", "top-up", "acme", "--amount", wrong).exit_code == 2


def test_the_audit_compares_payments_with_the_journal_and_the_limit(cli: Cli, books: Books) -> None:
    """A payment that was written past the trigger and the journal is a finding for each."""
    create(cli)
    top_up(cli, "10usd")
    assert audit(books.db, books.redis).findings == []
    for statement in (
        "ALTER TABLE wallet_transactions DISABLE TRIGGER USER",
        "INSERT INTO wallet_transactions (transaction_id, wallet_id, kind, amount_nanos, against,"
        " who) SELECT 'x', wallet_id, 'top_up', 5, 'cash', 'me' FROM wallets",
    ):
        books.rows(statement)
    found = [f for f in audit(books.db, books.redis).findings if f.check == "wallet"]
    assert [f.expected for f in found] == [str(10 * USD + 5)] * 2
    assert [f.found for f in found] == [str(10 * USD)] * 2
