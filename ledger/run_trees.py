"""The tree of a run: its hops, each with what it cost alone and with all below it. Knows no store
and no terminal.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from ledger.reports import usd_text

MAX_HOPS: Final = 32
"""Of one path; what a client made up beyond that is one hop."""
MAX_GROUPS: Final = 5_000
"""Of calls that a tree is made of; the cheapest beyond that are one node together."""
SUMS: Final = (
    "calls",
    "refused_calls",
    "failed_calls",
    "unpriced_calls",
    "input_tokens",
    "output_tokens",
    "cost_nanos",
)
LABELS: Final = ("owner", "team", "agent", "workload")
OTHERS: Final = "(others)"
_CALLED: Final = (("tool", "tool_name"), ("agent", "target_agent"))
_SAID: Final = (("trusts", "chain_trust"), ("signals", "chain_signal"), ("faults", "chain_fault"))

Row = Mapping[str, Any]
Path = tuple[str, ...]


@dataclass(slots=True)
class Hop:
    """One place in a run: a key, or what a client calls a part of itself below its key.

    `own` are the sums of its own calls, `called` those of the tools and agents among them. A hop
    that made no call of its own stands between others all the same.
    """

    path: Path
    key_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    trusts: dict[str, None] = field(default_factory=dict)
    signals: dict[str, None] = field(default_factory=dict)
    faults: dict[str, None] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    called: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    first_at: datetime | None = None
    last_at: datetime | None = None
    below: list["Hop"] = field(default_factory=list)

    @property
    def who(self) -> str:
        """Whom to name: the agent, and the part of it that made the call where it said one."""
        part = self.path[-1] if self.path and self.path[-1] != self.key_id else ""
        agent = self.labels.get("agent", "")
        return f"{agent} {part}".strip() or self.key_id or "unknown"

    def take(self, row: Row) -> None:
        """Add a group of calls that were made here; the newest says what the key's labels are."""
        _add(self.own, row)
        for kind, name in _CALLED:
            if called := row[name]:
                _add(self.called.setdefault((kind, called), dict.fromkeys(SUMS, 0)), row)
        for says, name in _SAID:
            if row[name]:
                getattr(self, says)[row[name]] = None
        if self.last_at is None or row["last_at"] >= self.last_at:
            self.last_at, self.key_id = row["last_at"], row["key_id"]
            self.labels = {name: row[name] for name in LABELS}
        if self.first_at is None or row["first_at"] < self.first_at:
            self.first_at = row["first_at"]

    def total(self) -> dict[str, int]:
        """The sums of this hop and of all below it."""
        sums = dict(self.own)
        for hop in self.below:
            _add(sums, hop.total())
        return sums


def grow(
    groups: Iterable[Row], total: Row, root: Row | None, known: Mapping[str, Mapping[str, str]]
) -> Hop:
    """The run's tree from the groups of its calls; `total` are the sums of them all.

    `root` is the key that started the run with its labels, where that is on record; else the
    root is the key of the earliest call. A hop that made no call is named by `known`, labels by
    key id.
    """
    hops: dict[Path, Hop] = {}
    taken = dict.fromkeys(SUMS, 0)
    if root is not None:
        hops[(root["key_id"],)] = Hop((root["key_id"],))
    for row in sorted(groups, key=lambda row: row["first_at"]):
        path = path_of(row["chain_path"], row["key_id"])
        _placed(hops, path).take(row)
        _add(taken, row)
    for hop in hops.values():
        _name(hop, root, known)
    top = _joined([hop for hop in hops.values() if len(hop.path) == 1])
    rest = {name: int(total[name] or 0) - taken[name] for name in SUMS}
    if any(rest.values()):
        top.below.append(Hop((*top.path, OTHERS), own=rest))
    return top


def path_of(text: str, key_id: str) -> Path:
    """The hops in an event's `chain_path`, from the root's to the call's own."""
    hops = [hop for hop in text.split("/") if hop] or [key_id]
    return (
        (*hops[: MAX_HOPS - 1], "/".join(hops[MAX_HOPS - 1 :]))
        if len(hops) > MAX_HOPS
        else (*hops,)
    )


def unnamed(groups: Iterable[Row]) -> list[str]:
    """Hops of these calls that may be keys which made no call themselves."""
    rows = list(groups)
    callers = {row["key_id"] for row in rows}
    passed = {hop for row in rows for hop in path_of(row["chain_path"], row["key_id"])}
    return sorted(passed - callers)


def nested(hop: Hop, depth: int = 0) -> dict[str, Any]:
    """A hop and all below it, for JSON."""
    return {**flat(hop, depth), "children": [nested(each, depth + 1) for each in hop.below]}


def walk(hop: Hop, depth: int = 0) -> Iterator[tuple[int, Hop]]:
    """Every hop with its depth, each before those below it."""
    yield depth, hop
    for each in hop.below:
        yield from walk(each, depth + 1)


def flat(hop: Hop, depth: int) -> dict[str, Any]:
    """A hop on its own: who, its own sums, and under `total_` those with all below it."""
    total = hop.total()
    return {
        "depth": depth,
        "path": "/".join(hop.path),
        "who": hop.who,
        "key_id": hop.key_id,
        **{name: hop.labels.get(name, "") for name in LABELS},
        "trust": ", ".join(hop.trusts),
        "signal": ", ".join(hop.signals),
        "fault": ", ".join(hop.faults),
        **hop.own,
        "cost_usd": usd_text(hop.own["cost_nanos"]),
        **{f"total_{name}": total[name] for name in SUMS},
        "total_cost_usd": usd_text(total["cost_nanos"]),
        "called": [
            {"kind": kind, "name": name, **sums, "cost_usd": usd_text(sums["cost_nanos"])}
            for (kind, name), sums in sorted(hop.called.items())
        ],
        "first_at": hop.first_at,
        "last_at": hop.last_at,
    }


def drawn(top: Hop) -> Iterator[tuple[str, Hop]]:
    """Every hop with the branches that lead to it, to be printed in front of who it is."""
    yield "", top
    yield from _branches(top.below, "")


def _branches(hops: Sequence[Hop], before: str) -> Iterator[tuple[str, Hop]]:
    for place, hop in enumerate(hops, 1):
        last = place == len(hops)
        yield f"{before}{'└─ ' if last else '├─ '}", hop
        yield from _branches(hop.below, f"{before}{'   ' if last else '│  '}")


def _placed(hops: dict[Path, Hop], path: Path) -> Hop:
    """The hop at a path; those on the way to it are put up where they are missing."""
    for length in range(1, len(path) + 1):
        if path[:length] not in hops:
            hops[path[:length]] = hop = Hop(path[:length])
            if length > 1:
                hops[path[: length - 1]].below.append(hop)
    return hops[path]


def _name(hop: Hop, root: Row | None, known: Mapping[str, Mapping[str, str]]) -> None:
    """Name a hop that made no call of its own."""
    if hop.last_at is not None:
        return
    key_id = hop.path[-1]
    labels = root if root is not None and hop.path == (root["key_id"],) else known.get(key_id)
    if labels is not None:
        hop.key_id, hop.labels = key_id, {name: labels[name] for name in LABELS}


def _joined(tops: list[Hop]) -> Hop:
    """The first with the others below it: nobody said who called whom."""
    if not tops:
        return Hop(())
    first, *others = tops
    first.below += others
    return first


def _add(sums: dict[str, int], row: Mapping[str, Any]) -> None:
    for name in SUMS:
        sums[name] += int(row[name] or 0)
