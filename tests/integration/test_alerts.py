"""Alerts over real books, counters and endpoints: each once, delivered whatever breaks."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger import webhooks
from ledger.alerting import Lookout
from ledger.db import Database
from ledger.deliveries import MAX_ATTEMPTS, deliver_next
from ledger.stream import command
from tests.integration.books import NOW_US, Books, facts, until
from tests.integration.cli_run import Cli
from tests.integration.receiver import DRIP, Receiver, is_signed, receiving

USD = 1_000_000_000
RISK = [["team", "risk"]]
NEXT_YEAR = datetime.fromtimestamp(NOW_US / 1e6, UTC).year + 1


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Any) -> Cli:
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def us(*moment: int) -> int:
    return round(datetime(*moment, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[misc,arg-type]


def budget(books: Books, budget_id: str = "b1", **others: Any) -> None:
    """A budget that is published, before anything is spent."""
    document = {"amount": 100 * USD, "alerts": [50, 80], **others}
    books.add_budget(budget_id, document.pop("where", RISK), **document)
    books.book_all()


def spend(books: Books, nanos: int, at_us: int = NOW_US, **others: Any) -> None:
    name = f"p{time.monotonic_ns()}"
    sidecar = books.sidecar(name)
    sidecar.call(at_us, **facts(cost_nanos=nanos, **others))
    sidecar.settle_all()
    books.book_all()


def look(books: Books, now_us: int = NOW_US) -> int:
    """As a writer that has just started looks."""
    return Lookout(books.db, books.redis, books.keys).look(now_us)


def told(books: Books) -> list[tuple[str, str, int]]:
    rows = books.rows("SELECT name, kind, threshold FROM alerts ORDER BY alert_id")
    return [(row["name"], row["kind"], row["threshold"]) for row in rows]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **time: float) -> None:
        self.now += timedelta(**time)


def deliver_all(books: Books, clock: Clock | None = None) -> int:
    """Send whatever is due at this moment of the clock."""
    clock, sent = clock or Clock(), 0
    while deliver_next(books.db, clock, lambda: 0.5):
        sent += 1
    return sent


def states(books: Books) -> list[tuple[str, int]]:
    rows = books.rows("SELECT state, attempts FROM deliveries ORDER BY delivery_id")
    return [(row["state"], row["attempts"]) for row in rows]


def test_each_threshold_is_said_and_delivered_once(
    books: Books, cli: Cli, receiver: Receiver
) -> None:
    """Recorded, signed, delivered: once, however often one looks."""
    secret = cli.json("alerts", "webhooks", "add", receiver.url)["secret"]
    budget(books)
    spend(books, 49 * USD)
    assert look(books) == 0
    for nanos, expected in ((USD, [50]), (5 * USD, []), (30 * USD, [80])):
        spend(books, nanos)
        assert look(books) == len(expected)
        assert look(books) == 0
        assert deliver_all(books) == len(expected)
    assert told(books) == [("budget b1", "threshold", 50), ("budget b1", "threshold", 80)]
    assert receiver.kinds() == [("budget.threshold", 50), ("budget.threshold", 80)]
    assert all(is_signed(message, secret) for message in receiver.messages)
    assert len({message.headers["webhook-id"] for message in receiver.messages}) == 2
    first = receiver.messages[0].json
    assert (first["data"]["used"], first["data"]["amount"]) == (50 * USD, 100 * USD)
    assert (first["data"]["used_usd"], first["data"]["where"]) == ("50.000000000", {"team": "risk"})
    [newest, oldest] = cli.json("alerts")
    assert (newest["threshold"], oldest["threshold"]) == (80, 50)
    assert (newest["deliveries"], newest["delivered"], newest["failed"]) == (1, 1, 0)
    assert newest["message"] == "85% of the budget 'budget b1' is used: $85.00 of $100.00."


def test_another_secret_did_not_sign(books: Books, cli: Cli, receiver: Receiver) -> None:
    """The test's own verification refuses what it should."""
    secret = cli.json("alerts", "webhooks", "add", receiver.url)["secret"]
    budget(books)
    spend(books, 50 * USD)
    look(books)
    deliver_all(books)
    [message] = receiver.messages
    assert is_signed(message, secret)
    assert not is_signed(message, webhooks.new_secret())


def test_many_lookouts_and_couriers_double_nothing(
    books: Books, cli: Cli, receiver: Receiver
) -> None:
    """Several writers look and send at once."""
    cli.json("alerts", "webhooks", "add", receiver.url)
    for number in range(20):
        budget(books, f"b{number}")
    spend(books, 90 * USD)
    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(lambda _: look(books), range(12))) == 40
        assert sum(pool.map(lambda _: deliver_all(books), range(6))) <= 40
    deliver_all(books)
    assert len(told(books)) == len(set(told(books))) == 40
    assert len(receiver.messages) == 40
    assert len({message.headers["webhook-id"] for message in receiver.messages}) == 40


def test_failures_are_retried_later_with_the_same_id(
    books: Books, cli: Cli, receiver: Receiver
) -> None:
    """After 500s it arrives: not before its time, under the same id, signed anew."""
    secret = cli.json("alerts", "webhooks", "add", receiver.url)["secret"]
    receiver.statuses = [500, 503, 500]
    budget(books, alerts=[50])
    spend(books, 50 * USD)
    look(books)
    clock = Clock()
    for pause_s in (10, 25, 62.5):
        assert deliver_all(books, clock) == 1
        clock.advance(seconds=pause_s - 1)
        assert deliver_all(books, clock) == 0
        clock.advance(seconds=1)
    assert states(books) == [("pending", 3)]
    [waiting] = cli.json("alerts", "deliveries")
    assert (waiting["last_status"], waiting["attempts"]) == (500, 3)
    assert waiting["last_error"].startswith("It answered 500: no no no")
    assert len(waiting["last_error"]) < 300
    assert deliver_all(books, clock) == 1
    assert states(books) == [("delivered", 4)]
    assert deliver_all(books, clock) == 0
    assert len(receiver.messages) == 4
    assert len({message.headers["webhook-id"] for message in receiver.messages}) == 1
    assert len({message.body for message in receiver.messages}) == 1
    assert len({message.headers["webhook-timestamp"] for message in receiver.messages}) == 4
    assert all(is_signed(message, secret) for message in receiver.messages)


def test_a_writer_dies_between_recording_and_delivery(
    books: Books, cli: Cli, receiver: Receiver, postgres_dsn: str
) -> None:
    """What was recorded is sent by the next one, also where the first had just begun to send."""
    cli.json("alerts", "webhooks", "add", receiver.url)
    budget(books)
    spend(books, 90 * USD)
    assert look(books) == 2
    now = datetime.now(UTC)
    [claimed] = books.db.run("deliveries_claim", now=now, claimed_until=now + timedelta(seconds=60))
    with Database(postgres_dsn) as db:
        clock = Clock()
        assert look(books) == 0
        assert not deliver_next(db, clock)  # one at a time to an endpoint, as far as anybody knows
        clock.advance(seconds=61)
        while deliver_next(db, clock):
            pass
    assert receiver.kinds() == [("budget.threshold", 50), ("budget.threshold", 80)]
    assert receiver.messages[0].headers["webhook-id"] == claimed["message_id"]
    assert states(books) == [("delivered", 2), ("delivered", 1)]


def test_a_running_writer_says_and_sends(books: Books, cli: Cli, receiver: Receiver) -> None:
    """All of it together, without anybody's help."""
    cli.json("alerts", "webhooks", "add", receiver.url)
    budget(books)
    with books.running_writer():
        sidecar = books.sidecar()
        sidecar.call(NOW_US, **facts(cost_nanos=81 * USD))
        sidecar.settle_all()
        until(lambda: len(receiver.messages) == 2)
    assert receiver.kinds() == [("budget.threshold", 50), ("budget.threshold", 80)]


def test_one_that_drips_holds_up_nobody(
    books: Books, cli: Cli, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then is no answer: the attempt ends in time and is retried."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.3)
    cli.json("alerts", "webhooks", "add", receiver.url)
    receiver.statuses = [DRIP]
    budget(books, alerts=[50])
    spend(books, 50 * USD)
    look(books)
    clock, started = Clock(), time.monotonic()
    assert deliver_all(books, clock) == 1
    assert time.monotonic() - started < 3
    [waiting] = cli.json("alerts", "deliveries")
    assert waiting["last_error"].startswith("It did not answer within")
    clock.advance(minutes=1)
    deliver_all(books, clock)
    assert states(books) == [("delivered", 2)]


def test_a_slow_endpoint_does_not_hold_up_another(books: Books, cli: Cli) -> None:
    """While one message is on its way to it, others go elsewhere."""
    with receiving() as slow, receiving() as quick:
        slow.statuses = [DRIP] * 2
        cli.json("alerts", "webhooks", "add", slow.url)
        cli.json("alerts", "webhooks", "add", quick.url)
        budget(books)
        spend(books, 90 * USD)
        look(books)
        sending = [threading.Thread(target=deliver_all, args=(books,)) for _ in range(2)]
        for thread in sending:
            thread.start()
        until(lambda: len(quick.messages) == 2)
        assert len(slow.messages) == 1
        slow.stop.set()
        for thread in sending:
            thread.join()


def test_redirects_are_not_followed(books: Books, cli: Cli, receiver: Receiver) -> None:
    """A message goes to the address that was given, and nowhere else."""
    with receiving() as elsewhere:
        receiver.statuses, receiver.headers = [302], {"Location": elsewhere.url}
        endpoint = cli.json("alerts", "webhooks", "add", receiver.url)["endpoint_id"]
        result = cli("alerts", "webhooks", "test", endpoint)
        assert result.exit_code == 1
        assert "It answered 302; redirects are not followed." in result.stderr
        assert elsewhere.messages == []


def test_what_never_arrives_is_given_up_and_can_be_retried(books: Books, cli: Cli) -> None:
    """After about a day it is `failed`, visible, and a person may start over."""
    with receiving() as receiver:
        cli.json("alerts", "webhooks", "add", receiver.url)
    budget(books, alerts=[50])
    spend(books, 50 * USD)
    look(books)
    clock = Clock()
    for _ in range(MAX_ATTEMPTS):
        assert deliver_all(books, clock) == 1
        clock.advance(hours=9)
    assert deliver_all(books, clock) == 0
    assert states(books) == [("failed", MAX_ATTEMPTS)]
    [failed] = cli.json("alerts", "deliveries", "--failed")
    assert failed["last_error"] == "It cannot be reached: Connection refused."
    assert "failed" in cli("alerts").stdout
    assert cli("alerts", "retry", "999").exit_code == 1
    assert cli("alerts", "retry").exit_code == 2
    [retried] = cli.json("alerts", "retry", str(failed["delivery_id"]))
    assert retried["state"] == "pending"
    assert states(books) == [("pending", 0)]
    assert cli.json("alerts", "retry", "--failed") == []


def test_an_endpoint_that_is_gone_is_left_alone(books: Books, cli: Cli, receiver: Receiver) -> None:
    """410 means never again, for all that waits for it too."""
    cli.json("alerts", "webhooks", "add", receiver.url)
    receiver.statuses = [410]
    budget(books)
    spend(books, 90 * USD)
    look(books)
    assert deliver_all(books) == 1
    assert states(books) == [("failed", 1), ("dropped", 0)]
    [endpoint] = cli.json("alerts", "webhooks", "list")
    assert endpoint["state"] == "gone"
    assert books.one("SELECT secret FROM webhooks") == ""
    cli.json("alerts", "webhooks", "remove", endpoint["endpoint_id"])
    assert cli.json("alerts", "webhooks", "list") == []


def test_the_secret_is_shown_once(books: Books, cli: Cli, receiver: Receiver) -> None:
    """At creation, and never again: not in a list, not at the end, not in an error."""
    result = cli("alerts", "webhooks", "add", f"{receiver.url}?token=hush")
    assert result.exit_code == 0
    secret = result.stdout.split()[-1]
    assert secret.startswith("whsec_")
    assert "hush" not in result.stdout
    [endpoint] = cli.json("alerts", "webhooks", "list")
    outputs = [
        cli("alerts", "webhooks", "list").stdout,
        json.dumps(endpoint),
        cli("alerts", "webhooks", "test", endpoint["endpoint_id"]).stdout,
        cli("alerts", "webhooks", "remove", endpoint["endpoint_id"]).stdout,
    ]
    assert not any(secret in output or "hush" in output for output in outputs)
    assert [message.path for message in receiver.messages] == ["/hook?token=hush"]
    assert is_signed(receiver.messages[0], secret)
    assert receiver.messages[0].json["type"] == "webhook.test"
    assert cli("alerts", "webhooks", "test", endpoint["endpoint_id"]).exit_code == 1
    assert cli("alerts", "webhooks", "add", "ftp://example.com").exit_code == 1


def test_endpoints_choose_kind_and_form(books: Books, cli: Cli, receiver: Receiver) -> None:
    """Slack is sent its own form; an endpoint hears only of what it asked for, from then on."""
    budget(books, amount=10 * USD, alerts=[50])
    spend(books, 5 * USD)
    look(books)
    added = cli.json("alerts", "webhooks", "add", receiver.url, "--slack", "--kinds", "exhausted")
    assert "secret" not in added
    assert added["kinds"] == ["exhausted"]
    assert "127.0.0.1" in added["url"]
    assert "/hook" not in added["url"]
    assert cli("alerts", "webhooks", "add", receiver.url, "--kinds", "all").exit_code == 2
    spend(books, 5 * USD)
    assert look(books) == 1
    deliver_all(books)
    [message] = receiver.messages
    assert message.json["text"].startswith("Budget spent: The budget 'budget b1' is spent: $10.00")
    assert "webhook-signature" not in message.headers


def test_the_books_decide_not_the_counters(books: Books) -> None:
    """A counter that is ahead of the books is only a hint; they are asked again a while later."""
    budget(books)
    spend(books, 40 * USD)
    command(books.redis, "HSET", books.keys.counter("b1", "total"), "used", 60 * USD)
    lookout = Lookout(books.db, books.redis, books.keys)
    assert lookout.look(NOW_US) == 0
    spend(books, 20 * USD)
    assert lookout.look(NOW_US) == 0
    assert lookout.look(NOW_US + 1_000_000) == 1


def test_counters_that_were_lost_say_nothing(books: Books) -> None:
    """Without an epoch nothing is looked at; after the rebuild nothing is said twice."""
    budget(books)
    spend(books, 60 * USD)
    assert look(books) == 1
    command(books.redis, "FLUSHALL")
    assert look(books) == 0
    books.book_all()
    assert books.used("b1") == 60 * USD
    assert look(books) == 0


def test_refusals_near_the_end_are_exhaustion(books: Books) -> None:
    """A hard budget ends below its amount; after a raise, old refusals mean nothing."""
    budget(books, alerts=[])
    spend(books, 95 * USD)
    assert look(books) == 0
    refused = {"outcome": "refused", "refused_by": "budget b1", "cost_nanos": 0}
    for refusal in ("budget_held", "request_over_budget"):
        sidecar = books.sidecar(f"p-{refusal}")
        sidecar.call(NOW_US, **{**facts(refusal=refusal), **refused})
        sidecar.settle_all()
        books.book_all()
        assert look(books) == 0
    sidecar = books.sidecar("refuser")
    for _ in range(3):
        sidecar.call(NOW_US, **{**facts(refusal="budget_spent"), **refused})
    sidecar.settle_all()
    books.book_all()
    assert look(books) == 1
    assert look(books) == 0
    books.rows(
        "UPDATE budgets SET document = jsonb_set(document, '{amount}', %s::text::jsonb)", 110 * USD
    )
    books.book_all()
    spend(books, 8 * USD)
    assert look(books) == 0
    assert told(books) == [("budget b1", "exhausted", 100)]


def test_a_raise_is_said_when_it_is_used_up(books: Books, cli: Cli) -> None:
    """Once more, of the larger amount; the record shows both."""

    def set_amount(usd: int) -> None:
        cli.json(
            *("budgets", "set", "risk-total", "--where", "team=risk", "--per", "total"),
            *("--amount", f"{usd}usd", "--alert", "80"),
        )

    set_amount(100)
    spend(books, 85 * USD)
    assert look(books) == 1
    set_amount(200)
    assert look(books) == 0
    spend(books, 60 * USD)
    assert look(books) == 0
    spend(books, 20 * USD)
    assert look(books) == 1
    assert look(books) == 0
    rows = books.rows("SELECT threshold, round, amount, used FROM alerts ORDER BY alert_id")
    assert [tuple(row.values()) for row in rows] == [
        (80, 1, 100 * USD, 85 * USD),
        (80, 2, 200 * USD, 165 * USD),
    ]


def test_the_forecast_comes_from_the_books(books: Books, cli: Cli) -> None:
    """Steady spending is forecast once; a spike on the first day is not."""
    steady, spiky = [["team", "steady"]], [["team", "spiky"]]
    for name, where in (("steady", steady), ("spiky", spiky)):
        budget(books, name, where=where, per="month", alerts=[])
    for day in range(1, 11):
        spend(books, 5 * USD, us(NEXT_YEAR, 10, day, 12), team="steady")
    spend(books, 50 * USD, us(NEXT_YEAR, 10, 1, 2), team="spiky")
    now = us(NEXT_YEAR, 10, 11)
    assert look(books, now) == 1
    assert look(books, now + 3_600_000_000) == 0
    [alert] = cli.json("alerts")
    assert (alert["budget"], alert["kind"]) == ("budget steady", "forecast")
    assert alert["gone_at"].startswith(f"{NEXT_YEAR}-10-2")
    assert "At this pace the budget 'budget steady' is gone on the 2" in alert["message"]
    assert alert["window_ends"] == f"{NEXT_YEAR}-11-01T00:00:00.000000Z"


def test_an_overrun_is_said_to_every_budget_it_touched(books: Books) -> None:
    """A provider billed above the hold: once, and again only as it grows."""
    budget(books, "b1", alerts=[])
    budget(books, "all", where=[], alerts=[], per="month")
    budget(books, "other", where=[["team", "other"]], alerts=[])
    lookout = Lookout(books.db, books.redis, books.keys)
    spend(books, USD // 2, hold_nanos=USD // 2)
    assert lookout.look(NOW_US) == 0
    spend(books, USD // 2 + 1, hold_nanos=USD // 2)
    assert lookout.look(NOW_US) == 2
    assert lookout.look(NOW_US) == 0
    assert look(books) == 0
    spend(books, 2 * USD, hold_nanos=USD // 2)
    assert lookout.look(NOW_US) == 2
    assert sorted(told(books)) == [
        (f"budget {name}", "overrun", step) for name in ("all", "b1") for step in (0, 1)
    ]
    assert books.one("SELECT max(overrun_nanos) FROM alerts") == 3 * USD // 2 + 1


def test_credit_that_runs_low_is_said(books: Books) -> None:
    """Below the wallet's mark, and again after a top-up."""
    books.rows(
        "INSERT INTO wallets (wallet_id, name, selector, alert_below_nanos) VALUES"
        " ('w1', 'acme', '[[\"team\", \"risk\"]]', %s)",
        5 * USD,
    )

    def top_up(number: int, nanos: int) -> None:
        books.rows(
            "INSERT INTO wallet_transactions (transaction_id, wallet_id, kind, amount_nanos,"
            " against, who) VALUES (%s, 'w1', 'top_up', %s, 'cash', 'ann')",
            *(f"t{number}", nanos),
        )
        books.book_all()

    books.book_all()
    assert look(books) == 0
    top_up(1, 10 * USD)
    spend(books, 5 * USD)
    assert look(books) == 0
    spend(books, USD)
    assert look(books) == 1
    assert look(books) == 0
    top_up(2, 10 * USD)
    assert look(books) == 0
    spend(books, 10 * USD)
    assert look(books) == 1
    assert told(books) == [("acme", "low_balance", 5 * USD)] * 2


def test_the_window_that_just_ended_still_counts(books: Books) -> None:
    """Calls of the last minute of a month are booked in the next one."""
    budget(books, per="month", alerts=[50])
    spend(books, 60 * USD, us(NEXT_YEAR, 3, 31, 23, 59))
    assert look(books, us(NEXT_YEAR, 4, 1, 0, 5)) == 1
    assert look(books, us(NEXT_YEAR, 4, 1, 0, 6)) == 0
    assert books.one("SELECT window_name FROM alerts") == f"{NEXT_YEAR}-03-01"
    assert look(books, us(NEXT_YEAR, 4, 1, 0, 20)) == 0


def test_removed_budgets_are_silent(books: Books, cli: Cli) -> None:
    """Also one that the lookout knew."""
    cli.json("budgets", "set", "b", "--where", "team=risk", "--per", "total", "--amount", "1usd")
    lookout = Lookout(books.db, books.redis, books.keys)
    assert lookout.look(NOW_US) == 0
    cli.json("budgets", "remove", "b")
    spend(books, 2 * USD)
    assert lookout.look(NOW_US) == 0


def test_two_thousand_budgets(books: Books, capsys: pytest.CaptureFixture[str]) -> None:
    """A look at all of them is cheap; the figure is for the log."""
    books.rows(
        "INSERT INTO budgets (budget_id, name, document) SELECT 'n' || n, 'team ' || n,"
        " jsonb_build_object('where', jsonb_build_array(jsonb_build_array('team', 't' || n)),"
        " 'unit', 'usd', 'amount', 1000000000, 'per', 'month', 'time_zone', 'UTC',"
        " 'on_exceed', 'block', 'alerts', '[50, 80, 100]'::jsonb) FROM generate_series(1, 2000) n"
    )
    books.book_all()
    spend(books, 60 * USD // 100, team="t7")
    lookout = Lookout(books.db, books.redis, books.keys)
    recorded = lookout.look(NOW_US)
    assert ("team 7", "threshold", 50) in told(books)
    assert 1 <= recorded <= 2
    started = time.monotonic()
    assert lookout.look(NOW_US) == 0
    with capsys.disabled():
        print(f" [{(time.monotonic() - started) * 1000:.0f} ms]", end="")
