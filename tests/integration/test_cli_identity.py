"""Service accounts and customers on the command line: what is stored, published, kept and shown."""

import csv
import io
from pathlib import Path

import pytest

from tests.integration.books import NOW_US, Books, facts
from tests.integration.cli_run import Cli
from tests.integration.test_cli_keys import LABELS, issue, published


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def test_a_key_is_a_persons_unless_it_says_otherwise(cli: Cli, books: Books) -> None:
    """Neither a service account nor free to name customers; sidecars are told both."""
    key = issue(cli)
    assert (key["service_account"], key["customer_header"]) == (False, False)
    document = published(books, key["key_id"])
    assert (document["service_account"], document["customer_header"]) == (False, False)
    assert "service account" not in cli("keys", "show", key["key_id"]).stdout


def test_a_service_account_is_published_and_shown(cli: Cli, books: Books) -> None:
    """In the key's document, in `show`, and in a column of the list."""
    key = issue(cli, "--service-account")
    assert key["service_account"] is True
    assert published(books, key["key_id"])["service_account"] is True
    assert "service account  yes" in cli("keys", "show", key["key_id"]).stdout
    [header, row] = cli("keys", "list").stdout.splitlines()
    assert row[header.index("Service") :].split()[0] == "yes"
    [listed] = csv.DictReader(io.StringIO(cli("keys", "list", "--format", "csv").stdout))
    assert listed["service_account"] == "true"


@pytest.mark.parametrize("left_out", ["--owner", "--team", "--agent", "--workload"])
def test_a_service_account_has_all_four_labels_too(cli: Cli, left_out: str) -> None:
    """That nobody calls in person does not mean that nobody answers for it."""
    place = LABELS.index(left_out)
    labels = (*LABELS[:place], *LABELS[place + 2 :])
    refused = cli("keys", "issue", *labels, "--service-account")
    assert refused.exit_code != 0
    assert left_out in refused.stderr


def test_a_rotation_keeps_both(cli: Cli, books: Books) -> None:
    """The next key is a service account, and may name customers, if the old one did."""
    old = issue(cli, "--service-account", "--customer-header")
    new = cli.json("keys", "rotate", old["key_id"])
    assert (new["service_account"], new["customer_header"]) == (True, True)
    document = published(books, new["key_id"])
    assert (document["service_account"], document["customer_header"]) == (True, True)


def test_the_customer_header_is_allowed_and_forbidden(cli: Cli, books: Books) -> None:
    """At once for the sidecars, and on record; limits stay as they are."""
    key_id = issue(cli, "--rpm", "60")["key_id"]
    changed = cli.json("keys", "set", key_id, "--customer-header", "--why", "resells")
    assert (changed["customer_header"], changed["rpm"]) == (True, 60)
    assert published(books, key_id)["customer_header"] is True
    cli.json("keys", "set", key_id, "--customer-header")  # as it is: nothing to write down
    both = cli.json("keys", "set", key_id, "--no-customer-header", "--rpm", "none")
    assert (both["customer_header"], both["rpm"]) == (False, None)
    assert published(books, key_id)["customer_header"] is False
    changes = cli.json("keys", "show", key_id)["changes"]
    assert [change["what"] for change in changes] == ["changed", "changed", "changed", "issued"]
    assert changes[2]["detail"]["to"] == {"customer_header": True}
    assert changes[2]["why"] == "resells"
    cli("keys", "revoke", key_id)
    refused = cli("keys", "set", key_id, "--customer-header")
    assert refused.exit_code == 1
    assert "revoked" in refused.stderr


def test_a_key_must_be_told_what_to_set(cli: Cli) -> None:
    """Nothing to set is wrong usage, and says what there is."""
    refused = cli("keys", "set", issue(cli)["key_id"])
    assert refused.exit_code == 2
    assert "--customer-header" in refused.stderr


def test_spend_without_a_person_says_so(cli: Cli, books: Books) -> None:
    """A table reads `(no person)` and explains it; scripts get the empty text of the event."""
    sidecar = books.sidecar()
    for principal in ("ann@example.com", "", ""):
        sidecar.call(NOW_US, **facts(principal=principal))
    sidecar.settle_all()
    books.book_all()
    shown = cli("spend", "--by", "principal,team")
    assert "(no person)" in shown.stdout
    assert "service accounts" in shown.stderr
    rows = {
        row["principal"]: row["calls"] for row in cli.json("spend", "--by", "principal")["rows"]
    }
    assert rows == {"ann@example.com": 1, "": 2}
    only = cli("spend", "--by", "principal", "--where", "principal=ann@example.com")
    assert "(no person)" not in only.stdout + only.stderr


def test_explain_asks_for_no_budget_of_a_person(cli: Cli) -> None:
    """A budget of the owner in person does not bind a service account."""
    cli("budgets", "set", "ada", "--where", "principal=ada", "--amount", "5usd", "--per", "day")
    service, own = issue(cli, "--service-account"), issue(cli)
    assert "ada" not in cli("budgets", "explain", "--key", service["key_id"]).stdout.split()
    assert "ada" in cli("budgets", "explain", "--key", own["key_id"]).stdout.split()
