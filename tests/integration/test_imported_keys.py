"""`ledger keys import|backfill|untagged|grace|rotate --unlabelled|relabel` over real books."""

import csv
import hashlib
import io
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from ledger.__main__ import open_run
from ledger.cli.command import ledger
from tests.integration.books import NOW_US, Books, facts
from tests.integration.cli_run import Cli
from tests.integration.imported import csv_file, published

LABELLED = "sk-all-labels-known-0001"
PARTLY = "sk-team-alone-known-0002"
UNKNOWN = "6f1c7c1e-8f0f-4d0e-9d7a-0c3d0a1b2c3d"
FILE = (
    "key,sha256,owner,team,agent,workload,customer,environment,name,note",
    f"{LABELLED},,ann,risk,kyc,onboarding,acme,prod,alpha,",
    f",{hashlib.sha256(PARTLY.encode()).hexdigest()},,risk,,,,,beta,from the proxy",
    f"{UNKNOWN},,,,,,,,,",
)


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


@pytest.fixture
def imported(cli: Cli, tmp_path: Path) -> dict[str, str]:
    """Key ids by the key's text, after the file above was imported."""
    found = cli.json("keys", "import", csv_file(tmp_path, *FILE))
    ids = [result["key_id"] for result in found["results"]]
    return dict(zip((LABELLED, PARTLY, UNKNOWN), ids, strict=True))


def spend(books: Books, key_id: str, cost_nanos: int, **others: Any) -> None:
    sidecar = books.sidecar(f"p-{key_id}-{cost_nanos}")
    at_us = time.time_ns() // 1000  # after whatever was done to the key
    sidecar.call(at_us, **facts(key_id=key_id, cost_nanos=cost_nanos, **others))
    sidecar.settle_all()
    books.book_all()


def answered(cli: Cli, answers: str, *arguments: str) -> Result:
    """A command whose questions get these answers."""
    result = CliRunner(env=cli.environment).invoke(ledger, arguments, input=answers, obj=open_run)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_rows_with_all_labels_become_keys_and_others_wait(
    cli: Cli, books: Books, imported: dict[str, str]
) -> None:
    """The sidecars know both by their digests; a quarantined one has a grace date and what labels
    are known.
    """
    whole = published(books, imported[LABELLED])
    assert whole["sha256"] == hashlib.sha256(LABELLED.encode()).hexdigest()
    assert (whole["team"], whole["customer"], whole["labels"]) == (
        *("risk", "acme"),
        {"environment": "prod"},
    )
    partly = published(books, imported[PARTLY])
    assert partly["sha256"] == hashlib.sha256(PARTLY.encode()).hexdigest()
    assert (partly["team"], partly["owner"], partly["status"]) == ("risk", "", "active")
    days = (partly["grace_until_us"] - NOW_US) / 86_400e6
    assert 29.9 < days < 30.1
    statuses = {row["key_id"]: row["status"] for row in cli.json("keys", "list")}
    assert statuses == {
        imported[LABELLED]: "active",
        imported[PARTLY]: "quarantined",
        imported[UNKNOWN]: "quarantined",
    }
    [listed] = cli.json("keys", "list", "--where", "team=risk", "--status", "quarantined")
    assert (listed["name"], listed["note"]) == ("beta", "from the proxy")


def test_no_text_of_a_key_is_kept_or_printed(cli: Cli, books: Books, tmp_path: Path) -> None:
    """Neither in the books nor on a screen, not even of a row that is refused."""
    path = csv_file(tmp_path, *FILE, f"{UNKNOWN},,ann,,,,,,,", f"{LABELLED}x,zz,,,,,,,,")
    for output in ("table", "csv", "json"):
        result = cli("keys", "import", path, "--format", output)
        assert result.exit_code == 1
        for text in (LABELLED, PARTLY, UNKNOWN):
            assert text not in result.output
    tables = books.rows(
        "SELECT keys::text AS row FROM keys UNION ALL SELECT q::text FROM quarantined_keys AS q"
        " UNION ALL SELECT c::text FROM key_changes AS c"
    )
    for text in (LABELLED, PARTLY, UNKNOWN):
        assert text not in str(tables)


def test_good_rows_are_taken_bad_ones_named_by_line(cli: Cli, tmp_path: Path) -> None:
    """Exit code 1 says that there were some; corrected, the same file may be imported again."""
    path = csv_file(
        tmp_path, *FILE, f"{UNKNOWN},,,,,,,,,", ",,bob,,,,,,,", f"{UNKNOWN}2,,a\0,,,,,,,"
    )
    result = cli("keys", "import", path)
    assert result.exit_code == 1
    assert "line 5: The key is the same as in line 4" in result.stderr
    assert "line 6: The row does not say which key" in result.stderr
    assert "line 7: " in result.stderr
    assert "3 of 6 rows were refused; the other 3 are in the books" in result.stderr
    assert len(cli.json("keys", "list")) == 3
    again = cli.json("keys", "import", csv_file(tmp_path, *FILE))
    assert (again["known"], again["imported"], again["quarantined"]) == (3, 0, 0)
    assert len(cli.json("keys", "list")) == 3


def test_a_dry_run_changes_nothing(cli: Cli, books: Books, tmp_path: Path) -> None:
    """It says what would happen."""
    before = books.one("SELECT last_value FROM directory_version_seq")
    found = cli.json("keys", "import", csv_file(tmp_path, *FILE), "--dry-run", "--grace", "5d")
    assert (found["imported"], found["quarantined"], found["dry_run"]) == (1, 2, True)
    assert cli.json("keys", "list") == []
    assert books.one("SELECT last_value FROM directory_version_seq") == before


def test_a_file_that_is_none_is_refused_in_a_sentence(cli: Cli, tmp_path: Path) -> None:
    """Missing, without the column, with a column that no label may be."""
    assert cli("keys", "import", str(tmp_path / "nothing.csv")).exit_code == 1
    for header in ("token,team", "key,cost_nanos", "key,Cost Center"):
        result = cli("keys", "import", csv_file(tmp_path, header, "a,b"))
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1


def test_a_large_file_is_taken_in_pieces(cli: Cli, books: Books, tmp_path: Path) -> None:
    """Several transactions; progress goes to stderr."""
    lines = [
        f"sk-one-of-many-keys-{n:05},,," + ("ann,risk,kyc,night" if n % 2 else ",,,")
        for n in range(10_000)
    ]
    path = csv_file(tmp_path, "key,name,note,owner,team,agent,workload", *lines)
    result = cli("keys", "import", path, "--format", "json")
    assert "10,000 rows read" in result.stderr
    found = json.loads(result.stdout)
    assert (found["imported"], found["quarantined"]) == (5000, 5000)
    assert books.one("SELECT count(*) FROM key_changes WHERE what = 'imported'") == 10_000


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO keys (key_id, sha256, owner, team, agent, workload)"
        " SELECT 'n', sha256, 'o', 't', 'a', 'w' FROM quarantined_keys",
        "INSERT INTO keys (key_id, sha256, owner, team, agent, workload)"
        " SELECT key_id, repeat('0', 64), 'o', 't', 'a', 'w' FROM quarantined_keys",
        "INSERT INTO quarantined_keys (key_id, sha256, grace_until)"
        " SELECT 'n', sha256, now() FROM keys",
        "INSERT INTO quarantined_keys (key_id, sha256) VALUES ('n', repeat('0', 64))",
        "UPDATE quarantined_keys SET grace_until = NULL",
        "DELETE FROM quarantined_keys",
        "DELETE FROM keys",
        "INSERT INTO key_changes (key_id, who, what) VALUES ('nobody', 'w', 'w')",
        "UPDATE keys SET team = ' '",
    ],
)
def test_the_database_refuses_it_too(
    books: Books, imported: dict[str, str], statement: str
) -> None:
    """One key is in one place; none is without labels and without a grace date; none goes."""
    assert imported
    with pytest.raises(psycopg.errors.IntegrityError):
        books.rows(statement)


def test_a_file_labels_keys_and_they_leave_quarantine(
    cli: Cli, books: Books, imported: dict[str, str], tmp_path: Path
) -> None:
    """The key is the same to its callers and in the books; some labels are not enough. The same
    file again is fine.
    """
    digest = hashlib.sha256(UNKNOWN.encode()).hexdigest()
    path = csv_file(
        tmp_path,
        "key_id,sha256,owner,team,agent,workload,cost_center",
        f"{imported[PARTLY]},,bea,,bot,night,7",
        f",{digest},cid,,,,",
    )
    found = cli.json("keys", "backfill", path)
    assert (found["labelled"], found["quarantined"]) == (1, 1)
    assert "no team, agent, workload" in found["results"][1]["says"]
    document = published(books, imported[PARTLY])
    assert document.get("grace_until_us") is None
    assert (document["team"], document["owner"], document["labels"]) == (
        *("risk", "bea"),
        {"cost_center": "7"},
    )
    assert document["sha256"] == hashlib.sha256(PARTLY.encode()).hexdigest()
    assert published(books, imported[UNKNOWN])["owner"] == "cid"
    shown = cli.json("keys", "show", imported[PARTLY])
    assert [change["what"] for change in shown["changes"]] == ["labelled", "imported"]
    assert shown["changes"][0]["detail"]["to"]["owner"] == "bea"
    again = cli.json("keys", "backfill", path)
    assert (again["known"], again["refused"]) == (1, 0)


def test_a_backfill_does_not_relabel(cli: Cli, imported: dict[str, str], tmp_path: Path) -> None:
    """Other labels for a key that has its own, and unknown keys, are refused by line."""
    path = csv_file(
        tmp_path,
        "key_id,team",
        f"{imported[LABELLED]},search",
        "nobody,risk",
        f"{imported[UNKNOWN]},x",
    )
    result = cli("keys", "backfill", path)
    assert result.exit_code == 1
    assert "line 2: " in result.stderr
    assert "ledger keys relabel" in result.stderr
    assert "line 3: There is no key 'nobody'" in result.stderr
    assert cli.json("keys", "show", imported[UNKNOWN])["team"] == "x"


def test_the_biggest_spender_is_asked_for_first(
    cli: Cli, books: Books, imported: dict[str, str]
) -> None:
    """With what is known of it; what is wrong is asked again; `skip` and `quit` are answers."""
    cli("labels", "allow", "team=risk,search", "--close")
    nothing = {"owner": "", "agent": "", "workload": "", "team": ""}
    spend(books, imported[UNKNOWN], 2_500_000_000, **nothing, model="gpt-4o")
    spend(books, imported[PARTLY], 1_000_000_000, **{**nothing, "team": "risk"})
    result = answered(cli, "bea\nserach\nsearch\nbot\nnight\nskip\n", "keys", "backfill")
    assert result.exit_code == 0
    first, second = result.stdout.index(imported[UNKNOWN]), result.stdout.index(imported[PARTLY])
    assert first < second
    assert "spent $2.50 in 1 calls" in result.stdout
    assert "models gpt-4o" in result.stdout
    assert "The label team cannot be 'serach'; allowed values: search, risk." in result.stdout
    assert "1 labelled; 1 still in quarantine" in result.stdout
    assert published(books, imported[UNKNOWN])["team"] == "search"
    ended = answered(cli, "quit\n", "keys", "backfill", "--top", "1")
    assert ended.exit_code == 0
    assert "0 labelled; 1 still in quarantine" in ended.stdout


def test_untagged_spend_ends_with_the_last_grace_date(
    cli: Cli, books: Books, imported: dict[str, str]
) -> None:
    """By day, as events have it: a label given later changes no event. Then nothing can come."""
    nothing = {"owner": "", "agent": "", "workload": ""}
    spend(books, imported[PARTLY], 1_000_000_000, **nothing)
    spend(books, imported[LABELLED], 3_000_000_000)
    found = cli.json("keys", "untagged")
    assert (found["untagged_nanos"], found["spent_nanos"]) == (1_000_000_000, 4_000_000_000)
    assert [row["cost_nanos"] for row in found["per"]] == [1_000_000_000]
    assert (found["keys_in_quarantine"], found["keys_passing"]) == (2, 2)
    assert [row["keys"] for row in found["quarantine"]] == [2]
    assert "25.0 % of all" in cli("keys", "untagged", "--per", "week").stdout
    for text in (PARTLY, UNKNOWN):
        labels = (
            "--owner",
            "a",
            "--team",
            "t",
            "--agent",
            "b",
            "--workload",
            "w",
            "--why",
            "found",
        )
        assert cli("keys", "relabel", imported[text], *labels).exit_code == 0
    spend(books, imported[PARTLY], 500_000_000, owner="a", team="t", agent="b", workload="w")
    found = cli.json("keys", "untagged")
    assert (found["untagged_nanos"], found["keys_in_quarantine"]) == (1_000_000_000, 0)
    assert "There can be none any more" in cli("keys", "untagged").stdout


def test_a_grace_date_moves_for_a_reason(cli: Cli, books: Books, imported: dict[str, str]) -> None:
    """Who, why, from and to are on record; a key that has its labels needs none."""
    key_id = imported[UNKNOWN]
    assert cli("keys", "grace", key_id, "--until", "60d").exit_code == 2
    moved = cli.json("keys", "grace", key_id, "--until", "2099-01-01", "--why", "on leave")
    assert moved["grace_until"] == "2099-01-01T00:00:00.000000Z"
    assert published(books, key_id)["grace_until_us"] == 4_070_908_800_000_000
    [change, _] = cli.json("keys", "show", key_id)["changes"]
    assert (change["what"], change["why"]) == ("grace moved", "on leave")
    assert change["detail"]["to"] == {"grace_until": "2099-01-01T00:00:00+00:00"}
    refused = cli("keys", "grace", imported[LABELLED], "--until", "60d", "--why", "x")
    assert refused.exit_code == 1
    assert "all of its labels" in refused.stderr


def test_a_quarantined_key_is_suspended_and_revoked_like_any(
    cli: Cli, books: Books, imported: dict[str, str]
) -> None:
    """What needs labels is refused with what to do."""
    key_id = imported[UNKNOWN]
    for verb, status in (("suspend", "suspended"), ("resume", "active"), ("revoke", "revoked")):
        assert cli("keys", verb, key_id).exit_code == 0
        assert published(books, key_id)["status"] == status
    started = cli("runs", "start", "--key", imported[PARTLY])
    assert (started.exit_code, "in quarantine" in started.stderr) == (1, True)
    for command in (("rotate",), ("set", "--rpm", "5")):
        refused = cli("keys", command[0], imported[PARTLY], *command[1:])
        assert refused.exit_code == 1
        assert f"ledger keys relabel {imported[PARTLY]}" in refused.stderr
    gone = cli("keys", "relabel", key_id, "--team", "x", "--why", "x")
    assert (gone.exit_code, "revoked" in gone.stderr) == (1, True)


def test_a_key_is_found_by_its_text_and_its_digest(cli: Cli, imported: dict[str, str]) -> None:
    """Whoever has the old key can see which one it is; an unknown one is not echoed."""
    for text in (PARTLY, hashlib.sha256(PARTLY.encode()).hexdigest(), imported[PARTLY]):
        assert cli.json("keys", "show", text)["key_id"] == imported[PARTLY]
    assert "sk-an-unknown-secret" not in cli("keys", "show", "sk-an-unknown-secret-text").output


def test_a_budget_that_suspends_reaches_quarantined_keys(
    cli: Cli, books: Books, imported: dict[str, str]
) -> None:
    """What is known of them decides, as for any key."""
    options = ("--amount", "1usd", "--per", "month", "--on-exceed", "suspend")
    cli("budgets", "set", "risk", "--where", f"key={imported[PARTLY]}", *options)
    spend(
        *(books, imported[PARTLY], 0),
        outcome="refused",
        refusal="budget_spent",
        refused_by="risk",
        owner="",
    )
    assert published(books, imported[PARTLY])["status"] == "suspended"


def test_the_long_tail_gets_new_keys(
    cli: Cli, books: Books, imported: dict[str, str], tmp_path: Path
) -> None:
    """The file says labels first, then the old key, then the options; the old ones end at the
    grace date, and nobody gets two.
    """
    digest = hashlib.sha256(UNKNOWN.encode()).hexdigest()
    path = csv_file(tmp_path, "sha256,owner,cost_center", f"{digest},cid,7")
    options = ("--owner", "ops", "--team", "platform", "--agent", "bot", "--workload", "tail")
    rotate = ("keys", "rotate", "--unlabelled", "--grace", "14d", "--labels", path)
    result = cli(*rotate, *options, "--format", "csv")
    assert result.exit_code == 0
    made = {row["old_key_id"]: row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert set(made) == {imported[PARTLY], imported[UNKNOWN]}
    assert (made[imported[PARTLY]]["team"], made[imported[PARTLY]]["owner"]) == ("risk", "ops")
    assert (made[imported[UNKNOWN]]["team"], made[imported[UNKNOWN]]["owner"]) == (
        "platform",
        "cid",
    )
    for old_id, row in made.items():
        new = published(books, row["key_id"])
        assert new["sha256"] == hashlib.sha256(row["key"].encode()).hexdigest()
        old = published(books, old_id)
        assert 13.9 < (old["grace_until_us"] - NOW_US) / 86_400e6 < 14.1
        [change, *_] = cli.json("keys", "show", old_id)["changes"]
        assert change["detail"]["replaced_by"] == row["key_id"]
    assert cli.json(*rotate, *options) == []
    [grace] = cli.json("keys", "untagged")["quarantine"]
    assert grace["replaced"] == 2


def test_a_key_without_labels_gets_no_new_one(cli: Cli, imported: dict[str, str]) -> None:
    """One sentence for each, exit code 1; the others are rotated."""
    result = cli("keys", "rotate", "--unlabelled", "--grace", "60d", "--owner", "ops")
    assert result.exit_code == 1
    assert f"{imported[PARTLY]}: The key needs --agent" in result.stderr
    assert "2 keys in quarantine got no new key" in result.stderr
    options = ("--owner", "ops", "--agent", "bot", "--workload", "tail", "--format", "json")
    result = cli("keys", "rotate", "--unlabelled", "--grace", "60d", *options)
    assert result.exit_code == 1
    [made] = json.loads(result.stdout)
    assert made["old_key_id"] == imported[PARTLY]
    assert datetime.fromisoformat(made["old_ends_at"]) < datetime.now(UTC) + timedelta(days=31)
    assert "end before that, at their grace date" in result.stderr


def test_a_replaced_key_that_is_labelled_still_ends(
    cli: Cli, books: Books, imported: dict[str, str]
) -> None:
    """Its successor is there, so labels do not give it a new life."""
    options = ("--owner", "o", "--team", "t", "--agent", "a", "--workload", "w")
    cli("keys", "rotate", "--unlabelled", "--grace", "14d", *options)
    cli("keys", "relabel", imported[UNKNOWN], *options, "--why", "found")
    document = published(books, imported[UNKNOWN])
    assert 13.9 < (document["expires_at_us"] - NOW_US) / 86_400e6 < 14.1


def test_events_keep_the_labels_they_had(cli: Cli, books: Books, imported: dict[str, str]) -> None:
    """Who changed which label when, and why, is on record; spending stays where it was."""
    key_id = imported[LABELLED]
    spend(books, key_id, 1_000_000_000)
    relabelled = cli.json(
        *("keys", "relabel", key_id, "--team", "search", "--label", "cost_center=9"),
        *("--unlabel", "customer", "--unlabel", "environment", "--why", "a new team"),
    )
    assert (relabelled["team"], relabelled["customer"], relabelled["labels"]) == (
        *("search", ""),
        {"cost_center": "9"},
    )
    document = published(books, key_id)
    assert (document["team"], document["labels"]) == ("search", {"cost_center": "9"})
    spend(books, key_id, 250_000_000, team="search")
    spent = {row["team"]: row["cost_nanos"] for row in cli.json("spend", "--by", "team")["rows"]}
    assert spent == {"risk": 1_000_000_000, "search": 250_000_000}
    [change, *_] = cli.json("keys", "show", key_id)["changes"]
    assert (change["what"], change["why"]) == ("relabelled", "a new team")
    assert change["detail"] == {
        "from": {"team": "risk", "customer": "acme", "environment": "prod", "cost_center": None},
        "to": {"team": "search", "customer": None, "environment": None, "cost_center": "9"},
    }
    assert "team: risk -> search" in cli("keys", "show", key_id).stdout
    nothing = cli("keys", "relabel", key_id, "--team", "search", "--why", "again")
    assert nothing.exit_code == 0
    assert len(cli.json("keys", "show", key_id)["changes"]) == 2


def test_a_mandatory_label_is_changed_and_never_taken_away(
    cli: Cli, imported: dict[str, str]
) -> None:
    """Nor is a blank one written."""
    taken = cli("keys", "relabel", imported[LABELLED], "--unlabel", "team", "--why", "x")
    blank = cli("keys", "relabel", imported[LABELLED], "--team", " ", "--why", "x")
    assert (taken.exit_code, blank.exit_code) == (1, 1)
    assert "mandatory" in taken.stderr
    assert "mandatory" in blank.stderr
