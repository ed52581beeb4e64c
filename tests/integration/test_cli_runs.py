"""`ledger runs` and `ledger chains` over real books: started, published, drawn, ended."""

import base64
import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ledger import chains, signing
from ledger.stream import command
from tests.integration.books import NOW_US, Books, facts
from tests.integration.cli_run import Cli

MINUTE_US = 60 * 10**6


@pytest.fixture
def cli(books: Books, postgres_dsn: str, tmp_path: Path) -> Cli:
    """The command line beside the books."""
    return Cli.of(postgres_dsn, books.redis_url, tmp_path)


def issue(cli: Cli, team: str, agent: str, *options: str) -> dict[str, Any]:
    labels = ("--owner", f"{team}@x", "--team", team, "--agent", agent, "--workload", "nightly")
    key: dict[str, Any] = cli.json("keys", "issue", *labels, *options)
    return key


def published(books: Books, name: str) -> dict[str, Any]:
    text = command(books.redis, "HGET", books.keys.directory, name)
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def signing_keys(books: Books) -> dict[str, chains.SigningKey]:
    """The signing keys as a sidecar has them."""
    found = command(books.redis, "HGETALL", books.keys.directory).items()
    documents = [json.loads(text) for name, text in found if name.startswith(b"chain_key:")]
    return {document["kid"]: chains.key_from_document(document) for document in documents}


def believed(books: Books, token: str, at_us: int = NOW_US) -> chains.Chain | str:
    return chains.read(token, signing_keys(books), books.keys.org, at_us)


def hop(key: dict[str, Any], root: dict[str, Any], *path: dict[str, Any]) -> dict[str, Any]:
    """What an event says of a call by `key` in a chain that was proved."""
    passed = [each["key_id"] for each in (root, *path, *([key] if key is not root else []))]
    return {
        **{name: key[name] for name in ("key_id", "owner", "team", "agent", "workload")},
        "root_key_id": root["key_id"],
        **{f"root_{name}": root[name] for name in ("team", "agent", "workload")},
        "parent_key_id": passed[-2] if len(passed) > 1 else "",
        "depth": len(passed) - 1,
        "chain_trust": "verified",
        "chain_signal": "chain_token",
        "chain_path": "/".join(passed),
    }


def book(books: Books, calls: list[dict[str, Any]]) -> None:
    sidecar = books.sidecar()
    for number, call in enumerate(calls, 1):
        sidecar.call(NOW_US + number * MINUTE_US // 60, **facts(number, **call))
    sidecar.settle_all()
    books.book_all()


def three_agents(books: Books, cli: Cli, run_id: str, root: dict[str, Any]) -> None:
    """A planner that asks a researcher that asks a coder, of three teams."""
    researcher = issue(cli, "search", "researcher")
    coder = issue(cli, "engineering", "coder")
    plan = {**hop(root, root), "run_id": run_id, "billing": "caller"}
    research = {**hop(researcher, root), "run_id": run_id, "billing": "split"}
    code = {**hop(coder, root, researcher), "run_id": run_id, "billing": "root"}
    tool = {"operation": "tool_call", "tool_name": "web_search", "model": "", "provider": "mcp"}
    book(
        books,
        [
            {**plan, "cost_nanos": 20_000_000, "input_tokens": 1200, "output_tokens": 300},
            {**research, "cost_nanos": 310_000_001, "input_tokens": 88_000, "output_tokens": 2000},
            {**research, **tool, "cost_nanos": 5_000_000, "input_tokens": 0, "output_tokens": 0},
            {**research, **tool, "cost_nanos": None, "input_tokens": 0, "output_tokens": 0},
            {**code, "cost_nanos": 1_400_000_000, "input_tokens": 230_000, "output_tokens": 9000},
            {**code, "cost_nanos": None, "outcome": "refused", "refusal": "budget_spent"},
            {**plan, "cost_nanos": 30_000_000, "input_tokens": 4000, "output_tokens": 500},
        ],
    )


def test_a_run_is_started_and_published(cli: Cli, books: Books) -> None:
    """The token says what the directory says; the budget is in force before the run is known."""
    root = issue(cli, "planning", "planner")
    audience = ("--audience", "agent=coder", "--audience", "agent=researcher")
    started = cli.json(
        *("runs", "start", "--key", root["key_id"], *audience, "--ttl", "2h", "--budget", "5usd"),
        *("--name", "report", "--why", "trying"),
    )
    said = {name: root[name] for name in ("key_id", "owner", "team", "agent", "workload")}
    chain = believed(books, started["chain_token"])
    assert isinstance(chain, chains.Chain)
    document = published(books, f"run:{started['run_id']}")
    assert document == {
        "run_id": chain.run_id,
        "root": said,
        "audience": [["agent", "coder"], ["agent", "researcher"]],
        "expires_at_us": chain.expires_at_us,
        "ended": False,
        "removed": False,
        "version": document["version"],
    }
    assert started["root"] == said
    assert (chain.path, chain.audience) == (
        (root["key_id"],),
        (("agent", "coder"), ("agent", "researcher")),
    )
    assert 7100 < chain.expires_at_us / 1e6 - time.time() <= 7200
    assert (started["name"], started["why"], started["state"]) == ("report", "trying", "open")
    [budget] = [b for b in cli.json("budgets", "list") if b["name"] == started["budget"]]
    assert (budget["where"], budget["per"]) == ({"run": chain.run_id}, "total")
    limit = published(books, f"budget:{budget['budget_id']}")
    assert (limit["amount"], limit["version"] < document["version"]) == (5 * 10**9, True)


def test_a_run_is_for_the_keys_own_team_by_default(cli: Cli, books: Books) -> None:
    """No audience is no open door; no budget is no budget."""
    root = issue(cli, "planning", "planner")
    started = cli.json("runs", "start", "--key", root["key_id"])
    assert started["audience"] == ["team=planning"]
    assert started["budget"] is None
    shown = cli("runs", "start", "--key", root["key_id"])
    assert "cannot be shown again" in shown.stderr
    assert believed(books, shown.stdout.splitlines()[0])


def test_a_run_needs_a_key_that_can_call(cli: Cli) -> None:
    """One sentence, and nothing is started."""
    for verb, says in (("suspend", "is suspended"), ("revoke", "is revoked")):
        key = issue(cli, "planning", "planner")
        cli("keys", verb, key["key_id"])
        refused = cli("runs", "start", "--key", key["key_id"])
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert says in refused.stderr
    assert "no key" in cli("runs", "start", "--key", "nobody").stderr
    assert cli.json("runs", "list") == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--ttl", "25h"), "at most 24h"),
        (("--ttl", "0s"), "at most 24h"),
        (("--audience", "coder"), "NAME=VALUE"),
        (("--audience", "model=x"), "agent"),
        (("--budget", "5"), "500usd"),
    ],
)
def test_bad_starts_are_wrong_usage(cli: Cli, options: tuple[str, ...], says: str) -> None:
    """One sentence that says what can be written."""
    result = cli("runs", "start", "--key", "k", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_ended_run_is_not_believed(cli: Cli, books: Books) -> None:
    """The directory says so at once, for as long as a token of it could still be shown."""
    root = issue(cli, "planning", "planner")
    started = cli.json("runs", "start", "--key", root["key_id"])
    ended = cli.json("runs", "end", started["run_id"], "--why", "done")
    assert (ended["state"], ended["ended_why"]) == ("ended", "done")
    document = published(books, f"run:{started['run_id']}")
    assert document["ended"] is True
    assert cli.json("runs", "end", started["run_id"], "--why", "again")["ended_why"] == "done"
    assert published(books, f"run:{started['run_id']}")["version"] == document["version"]


def test_a_run_that_a_sidecar_started_can_be_ended(cli: Cli, books: Books) -> None:
    """Before its first call is booked too; a run that nobody minted has nothing to end."""
    root = issue(cli, "planning", "planner")
    known, unknown = chains.new_run_id(1), chains.new_run_id(2)
    book(books, [{**hop(root, root), "run_id": known}])
    for run_id in (known, unknown):
        assert cli.json("runs", "end", run_id)["state"] == "ended"
        assert published(books, f"run:{run_id}")["ended"] is True
    labels = {name: root[name] for name in ("key_id", "owner", "team", "agent", "workload")}
    assert published(books, f"run:{known}")["root"] == labels
    assert published(books, f"run:{unknown}")["root"] is None
    refused = cli("runs", "end", "trace:4bf92f3577b34da6a3ce929d0e0e4736")
    assert (refused.exit_code, "no token" in refused.stderr) == (1, True)


def test_the_tree_of_three_agents(cli: Cli, books: Books) -> None:
    """Every hop under the one that called it; the total is the sum of the run's events."""
    root = issue(cli, "planning", "planner")
    run_id = cli.json("runs", "start", "--key", root["key_id"], "--budget", "5usd")["run_id"]
    three_agents(books, cli, run_id, root)
    shown = cli.json("runs", "show", run_id)
    planner = shown["tree"]
    [researcher] = planner["children"]
    [coder] = researcher["children"]
    assert [hop["agent"] for hop in (planner, researcher, coder)] == [
        "planner",
        "researcher",
        "coder",
    ]
    assert [hop["cost_nanos"] for hop in (planner, researcher, coder)] == [
        50_000_000,
        315_000_001,
        1_400_000_000,
    ]
    assert [hop["total_cost_nanos"] for hop in (planner, researcher, coder)] == [
        1_765_000_001,
        1_715_000_001,
        1_400_000_000,
    ]
    events = cli.json("events", "--where", f"run_id={run_id}")
    assert shown["cost_nanos"] == sum(event["cost_nanos"] or 0 for event in events)
    assert shown["events"] == len(events) == planner["total_calls"]
    assert {each["team"]: each["cost_nanos"] for each in shown["billed"]} == {
        "planning": 50_000_000 + 155_000_001 + 2_500_000 + 1_400_000_000,
        "search": 155_000_000 + 2_500_000,
    }
    assert [(each["name"], each["calls"]) for each in researcher["called"]] == [("web_search", 2)]
    lines = list(csv.DictReader(io.StringIO(cli("runs", "show", run_id, "--format", "csv").stdout)))
    assert [(line["depth"], line["agent"]) for line in lines] == [
        ("0", "planner"),
        ("1", "researcher"),
        ("2", "coder"),
    ]
    assert sum(int(line["cost_nanos"]) for line in lines) == shown["cost_nanos"]
    text = cli("runs", "show", run_id, COLUMNS="100").stdout
    assert "\n   └─ coder    engineering  verified" in text
    assert "sum of the run's 7 events" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_hop_that_made_no_call_has_its_place(cli: Cli, books: Books) -> None:
    """It is named by its key; so is a root that only handed on its token."""
    root, middle, last = (issue(cli, "t", agent) for agent in ("starter", "router", "worker"))
    run_id = cli.json("runs", "start", "--key", root["key_id"])["run_id"]
    book(books, [{**hop(last, root, middle), "run_id": run_id, "cost_nanos": 5}])
    tree = cli.json("runs", "show", run_id)["tree"]
    for agent, calls in (("starter", 0), ("router", 0), ("worker", 1)):
        assert (tree["agent"], tree["calls"], tree["total_cost_nanos"]) == (agent, calls, 5)
        tree = (tree["children"] or [None])[0]
    empty = cli.json("runs", "start", "--key", root["key_id"])["run_id"]
    assert cli.json("runs", "show", empty)["tree"]["agent"] == "starter"


def test_runs_that_nobody_proved_have_a_tree_too(cli: Cli, books: Books) -> None:
    """The earliest caller is shown as the root, and it is said that nobody proved that."""
    keys = [issue(cli, team, "bot") for team in ("red", "blue", "green")]
    trace = "trace:4bf92f3577b34da6a3ce929d0e0e4736"
    said = {"chain_trust": "inferred", "chain_signal": "traceparent", "run_id": trace}
    book(books, [{**hop(key, key), **said, "cost_nanos": n} for n, key in enumerate(keys, 1)])
    tree = cli.json("runs", "show", trace)["tree"]
    assert (tree["team"], [each["team"] for each in tree["children"]]) == ("red", ["blue", "green"])
    assert tree["total_cost_nanos"] == 6
    assert "Nobody proved this run" in cli("runs", "show", trace).stdout
    session = "claude-code:0b3f6f0e"
    said = {"chain_trust": "asserted", "chain_signal": "claude_code", "run_id": session}
    path = f"{keys[0]['key_id']}/reviewer/linter"
    second = books.sidecar("p2")
    second.call(NOW_US, **facts(**{**hop(keys[0], keys[0]), **said, "chain_path": path}))
    second.settle_all()
    books.book_all()
    [reviewer] = cli.json("runs", "show", session)["tree"]["children"]
    assert reviewer["children"][0]["who"] == "bot linter"
    unknown = cli("runs", "show", "nothing\0")
    assert (unknown.exit_code, "no run" in unknown.stderr) == (1, True)


def test_runs_are_listed_with_what_they_cost(cli: Cli, books: Books) -> None:
    """Those with calls and those without, whoever named them; filtered by their root."""
    red, blue = issue(cli, "red", "planner"), issue(cli, "blue", "coder")
    run_id = cli.json("runs", "start", "--key", red["key_id"], "--name", "report")["run_id"]
    idle = cli.json("runs", "start", "--key", blue["key_id"])["run_id"]
    trace = {"run_id": "trace:1", "chain_trust": "inferred", "chain_signal": "traceparent"}
    book(
        books,
        [
            {**hop(red, red), "run_id": run_id, "cost_nanos": 1},
            {**hop(blue, red), "run_id": run_id, "cost_nanos": 20},
            {**hop(blue, blue), **trace, "cost_nanos": 300},
            {**hop(blue, blue), "run_id": "an event", "chain_trust": "", "cost_nanos": 4000},
        ],
    )
    found = {row["run_id"]: row for row in cli.json("runs", "list")}
    assert {name: row["cost_nanos"] for name, row in found.items()} == {
        run_id: 21,
        idle: 0,
        "trace:1": 300,
    }
    assert (found[run_id]["keys"], found[run_id]["root_team"], found[run_id]["trust"]) == (
        2,
        "red",
        "verified",
    )
    assert [found[name]["state"] for name in (run_id, "trace:1")] == ["open", ""]

    def listed(*options: str) -> set[str]:
        return {row["run_id"] for row in cli.json("runs", "list", *options)}

    assert listed("--where", "root_team=red") == {run_id}
    assert listed("--where", "root_team=blue,root_agent=coder") == {idle, "trace:1"}
    assert listed("--where", "root_key=" + red["key_id"]) == {run_id}
    table = cli("runs", "list", "--limit", "2", COLUMNS="100")
    assert "newest 2" in table.stderr
    assert cli("runs", "list", "--where", "team=red").exit_code == 2


def test_runs_that_are_long_over_are_forgotten_by_the_sidecars(cli: Cli, books: Books) -> None:
    """Their budgets end with them; the books keep both, and a directory filled anew has neither."""
    root = issue(cli, "planning", "planner")
    old = cli.json("runs", "start", "--key", root["key_id"], "--budget", "1usd")
    new = cli.json("runs", "start", "--key", root["key_id"], "--budget", "1usd")
    books.rows(
        "UPDATE runs SET expires_at = now() - interval '25 hours' WHERE run_id = %s", old["run_id"]
    )
    books.book_all()  # a new writer begins with its upkeep
    assert published(books, f"run:{old['run_id']}") == {}
    assert published(books, f"run:{new['run_id']}")["ended"] is False
    assert [b["name"] for b in cli.json("budgets", "list")] == [new["budget"]]
    assert cli.json("runs", "show", old["run_id"])["state"] == "expired"
    command(books.redis, "FLUSHALL")
    books.book_all()
    assert published(books, f"run:{old['run_id']}") == {}
    assert published(books, f"run:{new['run_id']}")["run_id"] == new["run_id"]


def test_the_first_signing_key_is_there_from_the_start(cli: Cli, books: Books) -> None:
    """A writer that starts, or `ledger migrate`, makes one, and no second; no secret is shown."""
    cli("migrate")
    books.book_all()
    [key] = cli.json("chains", "keys")
    assert (key["state"], key["believed_until"], key["who"]) == ("signing", None, "ledger")
    document = published(books, f"chain_key:{key['kid']}")
    secret = base64.urlsafe_b64decode(document["secret"] + "=")
    assert len(secret) == 32
    assert "=" not in document["secret"]
    assert document["secret"] not in cli("chains", "keys", "--format", "json").stdout


def test_signing_keys_are_rotated(cli: Cli, books: Books) -> None:
    """What the old key signed is believed for a day; the new one signs when all know it."""
    root = issue(cli, "planning", "planner")
    token = cli.json("runs", "start", "--key", root["key_id"], "--ttl", "24h")["chain_token"]
    new = cli.json("chains", "rotate-key", "--why", "quarterly")
    [first, second] = cli.json("chains", "keys")
    assert (first["kid"], first["state"], first["why"]) == (new["kid"], "next", "quarterly")
    assert second["state"] == "signing"
    known = signing_keys(books)
    assert set(known) == {first["kid"], second["kid"]}
    chain = believed(books, token)
    assert isinstance(chain, chains.Chain)
    assert known[second["kid"]].until_us > chain.expires_at_us
    soon = known[first["kid"]].from_us
    assert 0 < soon - time.time_ns() // 1000 <= signing.LEAD_US
    able = chains.signing(known.values(), soon)
    assert able is not None
    assert able.kid == first["kid"]


def test_a_leaked_secret_is_worthless_at_once(cli: Cli, books: Books) -> None:
    """With no grace nothing that the old keys signed is believed, and their secrets are gone."""
    root = issue(cli, "planning", "planner")
    token = cli.json("runs", "start", "--key", root["key_id"])["chain_token"]
    new = cli.json("chains", "rotate-key", "--grace", "0s", "--why", "leaked")
    assert new["state"] == "signing"
    assert set(signing_keys(books)) == {new["kid"]}
    assert believed(books, token) == "forged"
    assert books.one("SELECT count(*) FROM chain_keys WHERE removed AND secret = ''") == 1
    again = cli.json("runs", "start", "--key", root["key_id"])["chain_token"]
    assert isinstance(believed(books, again), chains.Chain)
    assert cli("chains", "rotate-key", "--grace", "25h").exit_code == 2


def test_who_pays_is_set_and_on_record(cli: Cli, books: Books) -> None:
    """The caller by default; a change reaches the sidecars, with who, when and why."""
    assert cli.json("chains", "billing") == {"billing": "caller", "changes": []}
    assert published(books, "setting:chain") == {}
    changed = cli.json("chains", "billing", "split", "--why", "agreed with finance")
    assert changed["billing"] == "split"
    document = published(books, "setting:chain")
    assert document == {"billing": "split", "version": document["version"]}
    cli("chains", "billing", "split")
    shown = cli.json("chains", "billing")
    [change] = shown["changes"]
    assert (change["detail"], change["why"]) == (
        {"from": "caller", "to": "split"},
        "agreed with finance",
    )
    assert "half each" in cli("chains", "billing").stdout
    assert cli("chains", "billing", "nobody").exit_code == 2
