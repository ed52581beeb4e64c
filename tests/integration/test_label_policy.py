"""Rules for labels: one check, whichever way a key comes, and one sentence about it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.integration.books import Books, until
from tests.integration.cli_run import Cli
from tests.integration.imported import csv_file

ISSUE = ("keys", "issue", "--owner", "ada", "--agent", "triage", "--workload", "nightly")
FAULT = "The label team cannot be 'serach'; allowed values: search, payments, risk."


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


@pytest.fixture
def key_id(cli: Cli) -> str:
    """A key of team risk that was there before the rules: three teams, and a cost centre."""
    found: str = cli.json(*ISSUE, "--team", "risk")["key_id"]
    assert cli("labels", "allow", "team=risk,search,payments", "--close").exit_code == 0
    assert cli("labels", "require", "cost_center").exit_code == 0
    return found


def test_every_path_refuses_with_the_same_sentence(
    cli: Cli, books: Books, key_id: str, tmp_path: Path
) -> None:
    """Issued, relabelled, imported, backfilled, rotated, or written by hand: the label, the value,
    and the allowed values, the nearest first.
    """
    center = ("--label", "cost_center=7")
    issued = cli(*ISSUE, "--team", "serach", *center)
    relabelled = cli("keys", "relabel", key_id, "--team", "serach", *center, "--why", "x")
    path = csv_file(
        tmp_path,
        "key,owner,team,agent,workload",
        "sk-of-a-team-unknown-1,,serach,,",
        "sk-of-nobody-known-001,,,,",
    )
    imported = cli("keys", "import", path)
    [old] = cli.json("keys", "list", "--status", "quarantined")
    path = csv_file(tmp_path, "key_id,team", f"{old['key_id']},serach")
    backfilled = cli("keys", "backfill", path)
    options = ("--owner", "o", "--agent", "a", "--workload", "w", "--team", "serach")
    rotated = cli("keys", "rotate", "--unlabelled", "--grace", "1d", *options)
    for result in (issued, relabelled, imported, backfilled, rotated):
        assert result.exit_code == 1
        assert FAULT in result.stderr
    for table in ("keys", "quarantined_keys"):
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            books.rows(f"UPDATE {table} SET team = 'serach'")
        assert refused.value.diag.message_primary == FAULT


def test_a_mandatory_label_is_asked_of_every_new_key(
    cli: Cli, books: Books, key_id: str, tmp_path: Path
) -> None:
    """Issuing and rotating say what is missing; an imported key without it is quarantined, and
    leaves with it.
    """
    for arguments in ((*ISSUE, "--team", "risk"), ("keys", "rotate", key_id)):
        result = cli(*arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "The label cost_center is required; give it a value.\n"
    with pytest.raises(psycopg.errors.CheckViolation):
        books.rows(
            "INSERT INTO keys (key_id, sha256, owner, team, agent, workload)"
            " VALUES ('k', repeat('0', 64), 'a', 'risk', 'a', 'w')"
        )
    header = "key,owner,team,agent,workload,cost_center"
    path = csv_file(tmp_path, header, "sk-all-but-one-label-01,ann,risk,kyc,night,")
    found = cli.json("keys", "import", path)
    assert (found["imported"], found["quarantined"]) == (0, 1)
    assert "cost_center is required" in found["results"][0]["says"]
    old = found["results"][0]["key_id"]
    done = cli.json("keys", "relabel", old, "--label", "cost_center=7", "--why", "found")
    assert (done["result"], done["status"]) == ("labelled", "active")


def test_keys_that_were_there_go_on_until_their_next_change(
    cli: Cli, books: Books, key_id: str
) -> None:
    """They are listed, can be suspended and limited, and their next labels must fit."""
    found = cli("labels", "check")
    assert found.exit_code == 1
    assert key_id in found.stdout
    assert "cost_center" in found.stdout
    assert cli("keys", "suspend", key_id).exit_code == 0
    assert cli("keys", "resume", key_id).exit_code == 0
    assert cli("keys", "set", key_id, "--rpm", "5").exit_code == 0
    assert cli("keys", "relabel", key_id, "--workload", "daily", "--why", "x").exit_code == 1
    both = ("--workload", "daily", "--label", "cost_center=7")
    assert cli("keys", "relabel", key_id, *both, "--why", "x").exit_code == 0
    assert cli("labels", "check").exit_code == 0


def test_whoever_makes_a_rule_is_told_when_it_applies(cli: Cli) -> None:
    """Where keys do not fit it, and where it is not closed."""
    cli(*ISSUE, "--team", "old")
    told = cli("labels", "forbid", "team=old")
    assert told.exit_code == 0
    assert "until their labels change" in told.stderr
    assert "--close" in cli("labels", "allow", "team=risk").stderr


def test_an_open_list_forbids_single_values(cli: Cli) -> None:
    """All others may be had, those that are known are named."""
    cli("labels", "allow", "team=risk")
    cli("labels", "forbid", "team=old")
    refused = cli(*ISSUE, "--team", "old")
    assert refused.stderr == (
        "The label team cannot be 'old'; that value is forbidden, others such as risk are not.\n"
    )
    assert cli(*ISSUE, "--team", "anything").exit_code == 0


def test_lists_open_and_rules_end_again(cli: Cli, key_id: str) -> None:
    """Nothing is asked then that was not asked before; who did it is on record."""
    assert key_id
    assert cli("labels", "open", "team").exit_code == 0
    assert cli("labels", "optional", "cost_center", "--why", "too early").exit_code == 0
    assert cli(*ISSUE, "--team", "anything").exit_code == 0
    found = cli.json("labels", "list")
    rules = {rule["label"]: rule for rule in found["rules"]}
    assert (rules["team"]["closed"], rules["team"]["required"]) == (False, True)
    assert rules["cost_center"]["required"] is False
    assert [change["what"] for change in found["changes"]] == [
        *("optional", "opened", "required", "allowed", "closed")
    ]
    assert found["changes"][0]["why"] == "too early"
    assert "cost_center" in cli("labels", "list").stdout


def test_any_label_can_have_a_list(cli: Cli) -> None:
    """Customers and labels of one's own too; a label that is not given is no value."""
    cli("labels", "allow", "customer=acme", "--close")
    cli("labels", "allow", "region=eu\\,west,us", "--close")
    assert cli(*ISSUE, "--team", "t").exit_code == 0
    assert cli(*ISSUE, "--team", "t", "--customer", "acme").exit_code == 0
    assert cli(*ISSUE, "--team", "t", "--customer", "amce").exit_code == 1
    refused = cli(*ISSUE, "--team", "t", "--label", "region=eu")
    assert "allowed values: eu,west, us." in refused.stderr


def test_rules_are_for_labels_that_keys_can_have(cli: Cli) -> None:
    """Neither for what events say of themselves nor for what is mandatory anyway."""
    for label in ("model", "key_id", "Cost"):
        assert cli("labels", "require", label).exit_code == 1
    assert cli("labels", "optional", "team").exit_code == 1
    assert cli("labels", "allow", "team=\u200b").exit_code == 1
    assert cli.json("labels", "list") == {"rules": [], "changes": []}


def test_long_lists_are_cut_and_the_nearest_stays(cli: Cli) -> None:
    """A sentence names ten values at most."""
    teams = ",".join(f"squad-{n:02}" for n in range(40))
    cli("labels", "allow", f"team={teams}", "--close")
    refused = cli(*ISSUE, "--team", "sqaud-37")
    assert "allowed values: squad-37, " in refused.stderr
    assert refused.stderr.endswith(" and 30 more.\n")


def test_no_key_slips_in_beside_a_rule_that_is_being_made(books: Books, postgres_dsn: str) -> None:
    """Who writes a key while a rule is written waits for it, and is held to it."""
    insert = (
        "INSERT INTO keys (key_id, sha256, owner, team, agent, workload)"
        " VALUES ('k', repeat('0', 64), 'o', 'old', 'a', 'w')"
    )
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(postgres_dsn) as maker:
        maker.execute("INSERT INTO label_rules (label, closed) VALUES ('team', true)")
        written = pool.submit(books.rows, insert)
        until(lambda: books.one(waiting) == 1)
        maker.commit()
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            written.result()
    assert refused.value.diag.constraint_name == "label_policy"
