"""The tree of a run: nothing of it is lost, whatever paths its calls had."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger.run_trees import MAX_HOPS, OTHERS, SUMS, drawn, flat, grow, nested, path_of, walk

NOW = datetime(2026, 3, 29, 12, 30, tzinfo=UTC)
NOTHING: dict[str, Any] = dict.fromkeys(SUMS, 0)
paths = st.lists(st.sampled_from("abcde"), min_size=1, max_size=5)


def group(*path: str, **others: Any) -> dict[str, Any]:
    """The calls of one place in a run: by default one call, of the key that the path ends with."""
    key_id = path[-1] if path else "k"
    return {
        **NOTHING,
        "chain_path": "/".join(path),
        "key_id": key_id,
        "owner": "o",
        "team": f"team {key_id}",
        "agent": f"agent {key_id}",
        "workload": "w",
        "chain_trust": "verified",
        "chain_signal": "chain_token",
        "chain_fault": "",
        "tool_name": "",
        "target_agent": "",
        "calls": 1,
        "first_at": NOW,
        "last_at": NOW,
        **others,
    }


def summed(groups: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(each[name] or 0 for each in groups) for name in SUMS}


groups_of_calls = st.lists(
    st.builds(
        lambda path, numbers, seconds, tool: group(
            *path,
            **dict(zip(SUMS, numbers, strict=True)),
            first_at=NOW + timedelta(seconds=seconds),
            last_at=NOW + timedelta(seconds=seconds),
            tool_name=tool,
        ),
        paths,
        st.lists(st.integers(0, 10**12), min_size=len(SUMS), max_size=len(SUMS)),
        st.integers(0, 5),
        st.sampled_from(["", "search"]),
    ),
    max_size=12,
)


@given(groups_of_calls, st.integers(0, 5), st.none() | st.sampled_from("az"))
def test_the_total_is_the_sum_of_the_calls(
    groups: list[dict[str, Any]], left_out: int, root_key: str | None
) -> None:
    """In total and for each hop with all below it; also where not every group is at hand."""
    total = summed(groups)
    root = root_key and {"key_id": root_key, "owner": "", "team": "", "agent": "", "workload": ""}
    top = grow(groups[left_out:], total, root or None, {})
    assert top.total() == total
    hops = [hop for _, hop in walk(top)]
    for name in SUMS:
        assert sum(hop.own[name] for hop in hops) == total[name]
    for hop in hops:
        for name in SUMS:
            assert hop.total()[name] == hop.own[name] + sum(b.total()[name] for b in hop.below)
            assert sum(sums[name] for sums in hop.called.values()) <= hop.own[name]


@given(groups_of_calls)
def test_every_call_has_its_place_once(groups: list[dict[str, Any]]) -> None:
    """Each path is one hop, below the one that it continues; JSON, CSV and drawing agree."""
    top = grow(groups, summed(groups), None, {})
    hops = [(depth, hop) for depth, hop in walk(top)]
    found = [hop.path for _, hop in hops]
    assert len(set(found)) == len(found)
    assert {path_of(each["chain_path"], each["key_id"]) for each in groups} <= set(found)
    for _, hop in hops:
        for below in hop.below:
            assert below.path[:-1] == hop.path or (hop is top and len(below.path) == 1)
    assert [flat(hop, depth)["path"] for depth, hop in hops] == ["/".join(p) for p in found]
    assert [hop.path for _, hop in drawn(top)] == found

    def counted(node: dict[str, Any]) -> int:
        return 1 + sum(counted(each) for each in node["children"])

    assert counted(nested(top)) == len(hops)


def test_a_hop_without_calls_is_put_up() -> None:
    """By what the keys say of it; a root by what is on record of its run."""
    known = {"b": {"owner": "o", "team": "t", "agent": "router", "workload": "w"}}
    root = {"key_id": "a", "owner": "o", "team": "t", "agent": "starter", "workload": "w"}
    calls = [group("a", "b", "c", cost_nanos=7)]
    top = grow(calls, summed(calls), root, known)
    assert [(hop.who, hop.own["calls"]) for _, hop in walk(top)] == [
        ("starter", 0),
        ("router", 0),
        ("agent c", 1),
    ]
    nameless = grow(calls, summed(calls), None, {})
    assert [hop.who for _, hop in walk(nameless)] == ["a", "b", "agent c"]


def test_the_earliest_is_the_root_where_nobody_is() -> None:
    """The others stand below it in the order of their first calls."""
    calls = [
        group(key, first_at=NOW + timedelta(seconds=second), calls=second)
        for key, second in (("c", 3), ("a", 1), ("b", 2))
    ]
    top = grow(calls, summed(calls), None, {})
    assert [hop.path for _, hop in walk(top)] == [("a",), ("b",), ("c",)]
    assert [branches for branches, _ in drawn(top)] == ["", "├─ ", "└─ "]


def test_a_part_of_a_key_is_named_by_both() -> None:
    """What Claude Code calls a subagent is not a key; its key's agent stands beside it."""
    calls = [group("k", "main", "linter", key_id="k", agent="claude")]
    top = grow(calls, summed(calls), None, {})
    assert [hop.who for _, hop in walk(top)] == ["k", "main", "claude linter"]


def test_a_key_that_was_relabelled_has_its_newest_labels() -> None:
    """Its calls stay one hop."""
    later = NOW + timedelta(hours=1)
    calls = [group("a", agent="new", first_at=later, last_at=later), group("a", agent="old")]
    top = grow(calls, summed(calls), None, {})
    assert (top.who, top.own["calls"], top.first_at, top.last_at) == ("new", 2, NOW, later)


def test_what_is_beyond_the_limit_is_one_hop() -> None:
    """Of groups, so that the total stays true; and of hops, so that a path cannot be endless."""
    top = grow([group("a", calls=3)], {**NOTHING, "calls": 10}, None, {})
    assert [(hop.path[-1], hop.own["calls"]) for _, hop in walk(top)] == [("a", 3), (OTHERS, 7)]
    path = path_of("/".join("x" * 500), "k")
    assert len(path) == MAX_HOPS
    assert "/".join(path).count("x") == 500
    assert path_of("", "k") == ("k",)
    assert path_of("//a//", "k") == ("a",)
