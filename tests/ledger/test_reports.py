"""Rows shaped for people and scripts, and how they are printed."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import reports, tables
from ledger.budgets import Budget
from ledger.event import FIELDS
from ledger.reports import Question, Standing
from ledger.tables import Column

NOW = datetime(2026, 3, 29, 12, 30, tzinfo=UTC)
BUDGET = Budget(
    budget_id="b1",
    name="risk",
    where=(("team", "risk"),),
    unit="usd",
    amount=100_000_000_000,
    per="month",
    alerts=(50, 80, 100),
)
KEY: dict[str, Any] = {
    "key_id": "k",
    "owner": "ada",
    "team": "risk",
    "agent": "triage",
    "workload": "nightly",
    "customer": "",
    "labels": {},
    "status": "active",
    "expires_at": None,
    "max_spend_nanos": None,
    "rpm": 60,
    "tpm": None,
    "max_parallel": None,
    "service_account": False,
    "customer_header": False,
    "created_at": NOW,
    "sha256": "secret",
}
moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


def printed(columns: list[Column], rows: list[dict[str, Any]], **options: Any) -> str:
    out = io.StringIO()
    tables.print_table(columns, rows, out, **options)
    return out.getvalue()


@given(moments, moments)
def test_whole_hours_lie_inside_the_question(one: datetime, other: datetime) -> None:
    """Rollups answer for whole hours only; what sticks out on either side is less than one."""
    since, until = sorted((one, other))
    first, last = reports.whole_hours(Question(since=since, until=until))
    assert first is not None
    assert last is not None
    assert timedelta() <= first - since < timedelta(hours=1)
    assert timedelta() <= until - last < timedelta(hours=1)
    assert (first.minute, last.minute, first.second, last.microsecond) == (0, 0, 0, 0)


def test_open_sides_stay_open() -> None:
    """No --since means from the beginning, no --until means up to now and what comes late."""
    assert reports.whole_hours(Question()) == (None, None)


def test_only_events_know_a_run() -> None:
    """The rollups answer where they can; a filter counts as much as a dimension."""
    assert reports.rollups_answer(Question(by=("team", "day", "environment")))
    assert not reports.rollups_answer(Question(by=("team", "run_id")))
    assert not reports.rollups_answer(Question(by=("team",), where=(("outcome", "ok"),)))
    assert not reports.rollups_answer(Question(by=("team",), where=(("event_id", "e"),)))


def test_spend_has_rows_a_total_and_an_end() -> None:
    """The total is of everything, also of the rows that were not asked for."""
    found: list[dict[str, Any]] = [
        {"is_total": True, "g0": None, "calls": 3, "cost_nanos": 5},
        {"is_total": False, "g0": "risk", "calls": 2, "cost_nanos": 5},
        {"is_total": False, "g0": "search", "calls": 1, "cost_nanos": None},
    ]
    answer = reports.spend(Question(by=("team",)), found, 1)
    assert [row["team"] for row in answer.rows] == ["risk"]
    assert answer.rows[0]["cost_usd"] == "0.000000005"
    assert (answer.total["calls"], answer.total["cost_usd"]) == (3, "0.000000005")
    assert answer.truncated
    assert not reports.spend(Question(by=("team",)), found, 2).truncated


def test_times_are_groups_in_utc() -> None:
    """A day is the same day for everybody who asks."""
    berlin = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    row = {"is_total": False, "g0": berlin, "g1": berlin, "g2": berlin}
    answer = reports.spend(Question(by=("hour", "day", "month")), [row], 5)
    assert {"hour": "2026-02-28T23:00Z", "day": "2026-02-28", "month": "2026-02"}.items() <= (
        answer.rows[0].items()
    )


def test_events_have_their_public_names() -> None:
    """The fields of the contract in their order; the time is `occurred_at`."""
    shaped = reports.event({**dict.fromkeys(FIELDS, 0), "occurred_at": NOW, "other": 1})
    assert list(shaped) == ["occurred_at" if name == "occurred_at_us" else name for name in FIELDS]
    assert json.loads(tables.as_json(shaped))["occurred_at"] == "2026-03-29T12:30:00.000000Z"


def test_a_key_shows_no_secret_and_whether_it_has_ended() -> None:
    """The digest stays in the books; an expired key says so although nobody changed it."""
    assert "sha256" not in reports.key(KEY, NOW)
    assert reports.key(KEY, NOW)["status"] == "active"
    assert reports.key({**KEY, "expires_at": NOW}, NOW)["status"] == "expired"
    assert reports.key({**KEY, "expires_at": NOW, "status": "revoked"}, NOW)["status"] == "revoked"


def test_a_budget_shows_what_is_left_and_when_it_turns() -> None:
    """Money that calls in flight hold is not left; the last alert that was passed is named."""
    status = reports.budget_status(BUDGET, Standing(used=81_000_000_000, held=9_000_000_000), NOW)
    assert (status["left"], status["left_usd"], status["percent"]) == (10**10, "10.000000000", 90)
    assert status["alert"] == 80
    assert (status["window"], status["turns_at"]) == (
        "2026-03-01",
        datetime(2026, 4, 1, tzinfo=UTC),
    )
    overdrawn = reports.budget_status(BUDGET, Standing(used=101_000_000_000), NOW)
    assert (overdrawn["left_usd"], overdrawn["alert"]) == ("-1.000000000", 100)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_money_aligns_and_never_hides_a_call(amounts: list[int]) -> None:
    """One number of decimals in a column; what cost something is not shown as nothing."""
    places = tables.money_places(amounts)
    shown = [tables.money(nanos, places) for nanos in amounts]
    assert {len(text.partition(".")[2]) for text in shown} == {places}
    for nanos, text in zip(amounts, shown, strict=True):
        assert abs(nanos) <= 500 or text.strip("-$0.,") != ""


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (None, "unpriced"),
        (0, "$0.00"),
        (1_234_567_500_000_000, "$1,234,567.50"),
        (-2_500_000_000, "-$2.50"),
        (203_800_000, "$0.2038"),
        (1_000, "$0.000001"),
    ],
)
def test_money_to_read(nanos: int | None, text: str) -> None:
    """Cents for dollars, more for less; a call without a price is not free."""
    assert tables.money(nanos) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.00k"), (583_943, "583.9k"), (54_819_913, "54.82M")],
)
def test_tokens_to_read(count: int, text: str) -> None:
    """Four digits are enough for people; scripts take JSON."""
    assert tables.tokens(count) == text


def test_numbers_stand_on_the_right_and_nothing_is_boxed() -> None:
    """A table is text in columns that a person can read and grep."""
    columns = [Column("team", "Team", "name"), Column("calls", "Calls", "count")]
    rows = [{"team": "risk", "calls": 1200}, {"team": "", "calls": 3}]
    lines = printed(columns, rows, total={"team": "Total", "calls": 1203}).splitlines()
    assert lines == ["Team   Calls", "risk   1,200", "-          3", "Total  1,203"]


def test_a_table_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns texts give way and numbers stay whole."""
    monkeypatch.setenv("COLUMNS", "80")
    columns = [
        *(Column(name, name.title(), kind) for name, kind in (("a", "name"), ("b", "text"))),
        *(Column(f"n{number}", f"Number {number}", "count") for number in range(4)),
    ]
    row = {"a": "long " * 10, "b": "y" * 60, **{f"n{number}": 123_456_789 for number in range(4)}}
    text = printed(columns, [row])
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("123,456,789") == 4
    assert "".join(line[:10] for line in text.splitlines()).count("long") == 10


def test_nothing_is_shortened_into_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched or cut by another program is all there."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "y" * 500 in printed([Column("a", "A")], [{"a": "y" * 500}])


def test_a_table_without_rows_says_so() -> None:
    """Silence would look like a failure."""
    assert printed([Column("a", "A")], [], empty="No keys.") == "No keys.\n"


def test_a_text_cannot_drive_the_terminal() -> None:
    """A model's name is chosen by the client: escape sequences are shown, not obeyed."""
    text = printed([Column("a", "A")], [{"a": "\x1b[2J\u202e[bold]x"}])
    assert "\x1b" not in text
    assert "\\x1b[2J\\u202e[bold]x" in text


@given(st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.integers() | st.none()})))
def test_csv_reads_back(rows: list[dict[str, Any]]) -> None:
    """Any text survives; only what a spreadsheet would run gets an apostrophe."""
    text = tables.as_csv(["a", "b"], rows)
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["b"] for row in read] == ["" if r["b"] is None else str(r["b"]) for r in rows]
    for row, given_row in zip(read, rows, strict=True):
        assert row["a"].removeprefix("'") == given_row["a"].removeprefix("'")
        assert not row["a"].startswith(("=", "+", "-", "@"))


def test_csv_holds_nested_values_as_json() -> None:
    """Labels stay one cell."""
    text = tables.as_csv(["a", "t", "f"], [{"a": {"k": "v"}, "t": NOW, "f": True}])
    assert list(csv.reader(io.StringIO(text)))[1] == [
        '{"k": "v"}',
        "2026-03-29T12:30:00.000000Z",
        "true",
    ]


def test_a_quarantined_key_says_so_and_until_when() -> None:
    """Whether its grace is over or not; what was decided about it comes first."""
    row: dict[str, Any] = {
        **dict.fromkeys(("owner", "team", "agent", "workload", "customer"), ""),
        **dict.fromkeys(("expires_at", "max_spend_nanos", "rpm", "tpm", "max_parallel")),
        "key_id": "k",
        "labels": {},
        "created_at": NOW,
        "name": "old",
        "note": "",
        **dict.fromkeys(("service_account", "customer_header"), False),
    }
    shown = reports.key({**row, "status": "active", "grace_until": NOW}, NOW)
    assert (shown["status"], shown["grace_until"], shown["name"]) == ("quarantined", NOW, "old")
    assert "note" not in shown
    shown = reports.key({**row, "status": "suspended", "grace_until": NOW}, NOW)
    assert shown["status"] == "suspended"


def test_a_change_says_from_what_to_what() -> None:
    """Only what differs; an imported key's name, and what replaced it."""
    detail = {"from": {"team": "a", "customer": None}, "to": {"team": "b", "customer": "acme"}}
    says = reports.change({"detail": detail})["changed"]
    assert says == "team: a -> b, customer: - -> acme"
    assert reports.change({"detail": {"replaced_by": "k"}})["changed"] == "replaced_by: k"
    assert reports.change({"detail": {"from": "x", "to": 3}})["changed"] == ""
