"""`ledger keys` over real books: what is stored, published and refused."""

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import Result

from ledger.stream import command
from tests.integration.books import NOW_US, Books, facts
from tests.integration.cli_run import Cli

LABELS = ("--owner", "ada", "--team", "risk", "--agent", "triage", "--workload", "nightly")
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def issue(cli: Cli, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = cli.json("keys", "issue", *LABELS, *options)
    return found


def published(books: Books, key_id: str) -> dict[str, Any]:
    text = command(books.redis, "HGET", books.keys.directory, f"key:{key_id}")
    found: dict[str, Any] = json.loads(text)
    return found


def spend(books: Books, key_id: str, cost_nanos: int) -> None:
    sidecar = books.sidecar()
    sidecar.call(NOW_US, **facts(key_id=key_id, cost_nanos=cost_nanos))
    sidecar.settle_all()
    books.book_all()


def test_a_key_is_shown_once_and_kept_as_its_digest(cli: Cli, books: Books) -> None:
    """The text is `tk-<key id>-<secret>`; the books and the sidecars know only its SHA-256."""
    found = issue(cli, "--label", "environment=prod", "--customer", "acme", "--expires", "90d")
    assert re.fullmatch(r"tk-[a-z0-9]{12}-[0-9A-Za-z]{43}", found["key"])
    assert found["key"].split("-")[1] == found["key_id"]
    assert (found["customer"], found["labels"]) == ("acme", {"environment": "prod"})
    document = published(books, found["key_id"])
    assert document["sha256"] == hashlib.sha256(found["key"].encode()).hexdigest()
    assert (document["owner"], document["team"]) == ("ada", "risk")
    assert (document["agent"], document["workload"]) == ("triage", "nightly")
    everything = books.rows("SELECT keys::text || key_changes::text FROM keys, key_changes")
    assert found["key"].split("-")[2] not in str(everything)


def test_the_table_shows_the_key_on_a_line_of_its_own(cli: Cli) -> None:
    """A person can copy it; that it is shown once goes to stderr."""
    result = cli("keys", "issue", *LABELS, "--max-spend", "12.50")
    assert re.match(r"tk-[a-z0-9]{12}-[0-9A-Za-z]{43}\n", result.stdout)
    assert "$12.50" in result.stdout
    assert "cannot be shown again" in result.stderr


@pytest.mark.parametrize("column", ["owner", "team", "agent", "workload"])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_the_database_refuses_a_key_without_a_label(
    books: Books, column: str, value: str | None
) -> None:
    """No other path can issue one either."""
    values = dict.fromkeys(("owner", "team", "agent", "workload"), "x") | {column: value}
    with pytest.raises(psycopg.errors.IntegrityError):
        books.rows(
            "INSERT INTO keys (key_id, sha256, owner, team, agent, workload)"
            " VALUES ('k', repeat('0', 64), %s, %s, %s, %s)",
            *values.values(),
        )


def test_suspending_resuming_and_revoking_reach_the_sidecars_at_once(
    cli: Cli, books: Books
) -> None:
    """When the command returns the directory says so; a revoked key stays revoked."""
    key = issue(cli)
    key_id = key["key_id"]
    for verb, status in (("suspend", "suspended"), ("resume", "active"), ("revoke", "revoked")):
        assert cli.json("keys", verb, key_id, "--why", "a test")["status"] == status
        assert published(books, key_id)["status"] == status
    assert cli("keys", "revoke", key["key"]).exit_code == 0, "The whole key names it too."
    refused = cli("keys", "resume", key_id)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "revoked for good" in refused.stderr
    shown = cli.json("keys", "show", key_id)
    assert [change["what"] for change in shown["changes"]] == [
        *("revoked", "resumed", "suspended", "issued")
    ]
    assert shown["changes"][0]["why"] == "a test"


def test_an_unknown_key_is_refused(cli: Cli) -> None:
    """One sentence that says where to look."""
    for verb in ("show", "suspend", "resume", "revoke", "rotate"):
        for key_id in ("nope", "", "a\0b", "tk-"):
            result = cli("keys", verb, key_id)
            assert result.exit_code == 1
            assert "keys list" in result.stderr


def test_a_change_stands_when_redis_is_away(cli: Cli, books: Books) -> None:
    """The command says that the writer will publish it, and the writer does."""
    key_id = issue(cli)["key_id"]
    result = cli("keys", "revoke", key_id, TOLLKEEPER_REDIS_URL=NOWHERE)
    assert result.exit_code == 0
    assert "the writer publishes it" in result.stderr
    assert result.stderr.count("\n") == 1
    assert published(books, key_id)["status"] == "active"
    books.book_all()
    assert published(books, key_id)["status"] == "revoked"


def test_a_rotated_key_keeps_its_labels_and_ends_the_old_one(cli: Cli, books: Books) -> None:
    """Without a grace the old key ends now; the new one lives as long as the old one was to."""
    old = issue(cli, "--label", "environment=prod", "--expires", "90d")
    new = cli.json("keys", "rotate", old["key_id"])
    assert new["replaces"] == old["key_id"]
    assert new["key"] != old["key"]
    assert (new["team"], new["labels"]) == ("risk", {"environment": "prod"})
    assert new["expires_at"] >= old["expires_at"]
    assert published(books, old["key_id"])["status"] == "revoked"
    assert published(books, new["key_id"])["status"] == "active"
    again = cli("keys", "rotate", old["key_id"])
    assert again.exit_code == 1
    assert "revoked" in again.stderr


def test_a_grace_lets_the_old_key_run_out(cli: Cli, books: Books) -> None:
    """Both keys work for a while; the old one then expires without anybody's doing."""
    old = issue(cli)
    new = cli.json("keys", "rotate", old["key_id"], "--grace", "1h")
    document = published(books, old["key_id"])
    assert document["status"] == "active"
    assert 0 < document["expires_at_us"] - NOW_US < 2 * 3600 * 10**6
    assert published(books, new["key_id"])["expires_at_us"] is None


def test_a_rotation_passes_on_what_is_left_of_a_limit(cli: Cli, books: Books) -> None:
    """A lifetime limit is not refilled by changing the key."""
    old = issue(cli, "--max-spend", "10")
    spend(books, old["key_id"], 4_000_000_000)
    refused = cli("keys", "rotate", old["key_id"], "--grace", "1h")
    assert refused.exit_code == 1
    assert "--max-spend" in refused.stderr
    new = cli.json("keys", "rotate", old["key_id"])
    assert new["max_spend_nanos"] == 6_000_000_000
    names = [budget["name"] for budget in cli.json("budgets", "list")]
    assert names == [f"max_spend of key {new['key_id']}"]


def test_a_key_has_its_own_limits(cli: Cli, books: Books) -> None:
    """Sidecars learn of each as a budget; `show` and the key's document say them."""
    key = issue(cli, "--rpm", "60", "--tpm", "100000", "--max-parallel", "4")
    assert (key["rpm"], key["tpm"], key["max_parallel"]) == (60, 100_000, 4)
    document = published(books, key["key_id"])
    assert (document["rpm"], document["tpm"], document["max_parallel"]) == (60, 100_000, 4)
    budgets = {budget.name: budget for budget in books.sidecar().budgets}
    assert {name.partition(" ")[0]: budget.amount for name, budget in budgets.items()} == {
        "rpm": 60,
        "tpm": 100_000,
        "max_parallel": 4,
    }
    shown = cli("keys", "show", key["key_id"]).stdout
    assert "rpm           60\n" in shown
    assert "max parallel  4\n" in shown


def test_limits_are_changed_and_lifted(cli: Cli, books: Books) -> None:
    """What is not named stays; who did it and what was before is on record."""
    key_id = issue(cli, "--rpm", "60", "--max-spend", "5")["key_id"]
    changed = cli.json(
        *("keys", "set", key_id, "--rpm", "none", "--tpm", "9", "--why", "a calm week"),
        *("--max-spend", "7.50"),
    )
    assert (changed["rpm"], changed["tpm"]) == (None, 9)
    assert changed["max_spend_nanos"] == 7_500_000_000
    assert {budget.name for budget in books.sidecar().budgets} == {
        f"max_spend of key {key_id}",
        f"tpm of key {key_id}",
    }
    cli.json("keys", "set", key_id, "--tpm", "9")  # as it is: nothing to write down
    [change, _] = cli.json("keys", "show", key_id)["changes"]
    assert (change["what"], change["why"]) == ("changed", "a calm week")
    assert change["detail"]["from"] == {"rpm": 60, "tpm": None, "max_spend_nanos": 5_000_000_000}
    cli("keys", "revoke", key_id)
    refused = cli("keys", "set", key_id, "--rpm", "5")
    assert refused.exit_code == 1
    assert "revoked" in refused.stderr


def test_a_rotation_passes_on_the_rates(cli: Cli) -> None:
    """The next key has them too, except those that it is given or that are lifted."""
    old = issue(cli, "--rpm", "60", "--tpm", "900", "--max-parallel", "4")
    new = cli.json("keys", "rotate", old["key_id"], "--tpm", "1000", "--max-parallel", "none")
    assert (new["rpm"], new["tpm"], new["max_parallel"]) == (60, 1000, None)


def test_a_refused_rotation_changes_nothing(cli: Cli) -> None:
    """There is no new key when the old one could not be ended."""
    old = issue(cli)
    cli("keys", "suspend", old["key_id"])
    assert cli("keys", "rotate", old["key_id"]).exit_code == 1
    assert len(cli.json("keys", "list")) == 1


def test_keys_are_listed_by_label_and_status(cli: Cli) -> None:
    """The newest first; filters name mandatory and optional labels alike."""
    first = issue(cli, "--label", "environment=prod")["key_id"]
    second = issue(cli, "--label", "environment=dev,cost_center=7")["key_id"]
    cli("keys", "suspend", second)

    def listed(*options: str) -> list[str]:
        return [row["key_id"] for row in cli.json("keys", "list", *options)]

    assert listed() == [second, first]
    assert listed("--where", "team=risk,environment=prod") == [first]
    assert listed("--where", f"key={second}") == [second]
    assert listed("--where", "owner=nobody") == []
    assert listed("--status", "suspended") == [second]
    assert listed("--limit", "1") == [second]
    unknown = cli("keys", "list", "--where", "region=eu")
    assert unknown.exit_code == 2
    assert "environment" in unknown.stderr


def test_lists_print_in_every_format(cli: Cli) -> None:
    """The table for people, CSV with the same fields as JSON."""
    key = issue(cli)
    rows = list(csv.DictReader(io.StringIO(cli("keys", "list", "--format", "csv").stdout)))
    assert rows[0]["key_id"] == key["key_id"]
    assert list(rows[0]) == list(cli.json("keys", "list")[0])
    assert key["key_id"] in cli("keys", "list").stdout
    shown = cli("keys", "show", key["key_id"]).stdout
    assert "issued" in shown
    assert "sha256" not in shown


def test_whoever_changes_a_key_is_named(cli: Cli) -> None:
    """TOLLKEEPER_ACTOR, for pipelines that act for somebody."""
    result: Result = cli(
        "keys", "issue", *LABELS, "--format", "json", TOLLKEEPER_ACTOR="ci for ada"
    )
    shown = cli.json("keys", "show", json.loads(result.stdout)["key_id"])
    assert shown["changes"][0]["who"] == "ci for ada"
