"""Budgets as code: what a file changes, and files that read back as they were written."""

import json
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledger import budget_files, plans
from ledger.budgets import ON_EXCEED, PERIODS, UNITS, UNSTATED, Budget, Raise
from ledger.cli.arguments import InputError
from ledger.money import MAX_NANOS

LABELS = ("team", "agent", "customer", "run", "cost_center")
LIKE_YAML = ("no", "Yes", "~", "null", "2026-01-01", "1e3", "007", "0x1f", "a: b", "#", "- a", "")
visible = st.characters(categories=["L", "N", "P", "S"], exclude_characters="\u2800\u3164\uffa0")
ENTRY = "budgets:\n- name: b\n  where: {team: risk}\n  amount: 5usd\n  per: day\n"


def clean(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


texts = st.one_of(st.sampled_from(LIKE_YAML[:-1]), st.text(visible, min_size=1, max_size=9))
labels = texts.map(clean).filter(bool)
names = labels.filter(lambda name: any(c.isalnum() for c in name))
wheres = st.dictionaries(st.sampled_from(LABELS), labels, max_size=3)


@st.composite
def granted(draw: Callable[..., Any]) -> list[Budget]:
    """Budgets as commands can have granted them."""
    found = []
    for name in draw(st.lists(names, unique=True, max_size=5)):
        unit = draw(st.sampled_from(UNITS))
        throttles = unit in ("usd", "tokens")
        found.append(
            Budget(
                budget_id=f"id-{name}",
                name=name,
                where=tuple(sorted(draw(wheres).items())),
                unit=unit,
                amount=draw(st.integers(1, MAX_NANOS)),
                per="total" if unit == "parallel" else draw(st.sampled_from(PERIODS)),
                time_zone=draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"])),
                on_exceed=draw(
                    st.sampled_from([o for o in ON_EXCEED if throttles or o != "throttle"])
                ),
                unstated=draw(st.sampled_from(UNSTATED)),
                raises=(Raise(1, 0, 5),) if draw(st.booleans()) else (),
                alerts=tuple(sorted(draw(st.sets(st.integers(1, 100), max_size=4)))),
                version=7,
                counts_from=3,
            )
        )
    return found


def budget(name: str = "b", **facts: Any) -> Budget:
    usual: dict[str, Any] = {
        "budget_id": f"id-{name}",
        "where": (("team", "risk"),),
        "unit": "usd",
        "amount": 5_000_000_000,
        "per": "day",
    }
    return Budget(name=name, **{**usual, **facts})


def steps(wanted: list[Budget], in_force: list[Budget], *, prune: bool = True) -> list[Any]:
    return [(c.what, c.name) for c in plans.plan(wanted, in_force, prune=prune)]


@given(granted(), st.sampled_from(["yaml", "json"]))
def test_what_is_exported_is_found_unchanged(in_force: list[Budget], form: str) -> None:
    """Whatever names, labels and amounts there are, and whatever YAML would take them for."""
    text = budget_files.write(in_force, form)
    wanted = budget_files.read(text, "f", LABELS)
    changes = plans.plan(wanted, in_force, prune=True)
    assert {change.what for change in changes} <= {plans.UNCHANGED}
    assert len(changes) == len(in_force)


@given(granted(), granted(), st.booleans())
def test_a_plan_leads_to_the_file(
    in_force: list[Budget], wanted: list[Budget], prune: bool
) -> None:
    """After it every budget is as the file says, and others are gone only where that was asked."""
    changes = plans.plan(wanted, in_force, prune=prune)
    after = {b.name: b for b in in_force}
    for change in changes:
        if change.new is None:
            del after[change.name]
        else:
            after[change.name] = change.new
    assert {c.what for c in plans.plan(wanted, list(after.values()), prune=prune)} <= {"unchanged"}
    assert prune or {b.name for b in in_force} <= set(after)
    assert not prune or set(after) == {b.name for b in wanted}
    kept = [c for c in changes if c.what in (plans.CHANGED, plans.UNCHANGED)]
    assert all(c.new.budget_id == c.old.budget_id for c in kept if c.new and c.old)


def test_each_step_has_its_kind() -> None:
    """Another amount is a change; another rule another counter; what is not named goes last."""
    same, more = budget("same"), budget("more", amount=7)
    wanted = [budget("new"), same, more, budget("other", per="week")]
    in_force = [same, budget("more"), budget("other"), budget("gone")]
    told = [
        ("create", "new"),
        ("unchanged", "same"),
        ("change", "more"),
        ("replace", "other"),
        ("remove", "gone"),
    ]
    assert steps(wanted, in_force) == told
    assert steps(wanted, in_force, prune=False) == told[:-1]
    assert plans.counted(plans.plan(wanted, in_force, prune=True)) == dict.fromkeys(plans.WHATS, 1)


@pytest.mark.parametrize("source", ["key", "rate", "wallet"])
def test_limits_of_keys_and_wallets_are_no_part_of_a_plan(source: str) -> None:
    """They are neither removed nor exported."""
    assert steps([], [budget("k", limit_source=source)]) == []


def test_a_change_says_what_it_was_and_what_it_becomes() -> None:
    """As one would type it; fields that stay are not named."""
    old = budget(alerts=(50,))
    [change] = plans.plan([replace(old, amount=6_500_000_000, alerts=())], [old], prune=False)
    assert change.fields == {"amount": ("5usd", "6.5usd"), "alerts": ("50", "none")}


def test_a_change_keeps_identity_and_raises() -> None:
    """A file says nothing of raises, so it takes none away."""
    old = budget(raises=(Raise(1, 0, 5),), version=9)
    [change] = plans.plan([budget(amount=1)], [old], prune=False)
    assert change.new == replace(old, amount=1)


def test_scalars_are_the_texts_that_were_written() -> None:
    """`no` is a country and `007` a customer; what is left out has its default."""
    text = ENTRY.replace("{team: risk}", "{team: no, customer: 007, agent: 2026-01-01}")
    [found] = budget_files.read(text, "f", LABELS)
    assert dict(found.where) == {"team": "no", "customer": "007", "agent": "2026-01-01"}
    assert (found.time_zone, found.on_exceed, found.unstated) == ("UTC", "block", "learned")


@pytest.mark.parametrize(
    ("where", "means"),
    [
        ("all", ()),
        ("team=risk,agent=x", (("agent", "x"), ("team", "risk"))),
        ("{team: risk}", (("team", "risk"),)),
    ],
)
def test_a_selector_may_be_a_text_or_a_mapping(where: str, means: Any) -> None:
    """As after --where, or label by label."""
    [found] = budget_files.read(ENTRY.replace("{team: risk}", where), "f", LABELS)
    assert found.where == means


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has one field, budgets"),
        ("- a", "has one field, budgets"),
        ("budgets: x", "has one field, budgets"),
        ("{}", "has one field, budgets"),
        ('{"budgets": [5]}', r"f, entry 1: A budget has the fields name, where"),
        ('{"budgets": [], "budgets": []}', "'budgets' twice"),
        ("budgets: [\n", r"f, line 2 is not YAML or JSON"),
        ("budgets: [\x00]", "is not YAML or JSON"),
        ("a: 1\n---\nb: 2", r"f, line 2 is not YAML or JSON"),
        ("budgets:\n- b", r"f, line 2, entry 1: A budget has the fields"),
        (ENTRY + "  note: x", r"f, line 2, entry 1 \(b\): A budget has no field 'note'; allowed"),
        (ENTRY + "  name: c", r"line 2, entry 1: It has the field 'name' twice"),
        (ENTRY.replace("  amount: 5usd\n", ""), "lacks amount"),
        (ENTRY.replace("5usd", "~"), "lacks amount"),
        (ENTRY.replace("5usd", "5"), "is not an amount"),
        (ENTRY.replace("5usd", "[5usd]"), "amount has no plain value"),
        (ENTRY.replace("day", "fortnight"), "per is 'fortnight'; allowed are minute, hour"),
        (ENTRY.replace("team", "taem"), "label 'taem'; allowed are team, agent"),
        (ENTRY.replace("risk", "' '"), "blank value for team"),
        (ENTRY.replace("risk", "[a, b]"), "no plain value for team"),
        (ENTRY.replace("{team: risk}", "{}"), "or all"),
        (ENTRY + "  alerts: [0]", "percentages"),
        (ENTRY + "  time_zone: Mars", "is not a time zone"),
        (ENTRY + "  on_exceed: explode", "allowed are block, throttle, suspend, shadow"),
        (ENTRY.replace("5usd", "5calls") + "  on_exceed: throttle", "can throttle"),
        (ENTRY.replace("name: b", "name: max_spend of key x"), "key's own limit"),
        (ENTRY + ENTRY.partition("\n")[2], r"line 6, entry 2 \(b\): .* also at line 2, entry 1"),
        ("budgets: " + "[" * 100_000, "nested too deeply"),
        ('{"budgets": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence(text: str, says: str) -> None:
    """It names the file, the line or entry, and what is allowed."""
    with pytest.raises(InputError, match=says) as refused:
        budget_files.read(text, "f", LABELS)
    assert str(refused.value).startswith("f")
    assert "\n" not in str(refused.value)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """No file ends in another error than the one that says what is wrong."""
    assume(len(text) < 1000)
    for whole in (text, "budgets:\n- " + text, json.dumps({"budgets": [text]})):
        with suppress(InputError):
            budget_files.read(whole, "f", LABELS)


def test_ten_thousand_budgets_are_read() -> None:
    """And not more, so that nobody waits for a file that is something else."""
    many = [budget(f"b{number}") for number in range(10_001)]
    assert len(budget_files.read(budget_files.write(many[:-1], "json"), "f", LABELS)) == 10_000
    with pytest.raises(InputError, match="more than 10000"):
        budget_files.read(budget_files.write(many, "json"), "f", LABELS)
    with pytest.raises(InputError, match="larger than 8 MiB"):
        budget_files.read("#" * (8 * 1024 * 1024 + 1), "f", LABELS)
