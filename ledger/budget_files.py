"""Files of budgets, YAML or JSON: read into budgets or into one sentence, and written. Knows no
store.
"""

import json
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from ledger.budgets import ON_EXCEED, PERIODS, UNSTATED, Budget
from ledger.cli import arguments
from ledger.cli.arguments import InputError
from ledger.grant import clean_name
from ledger.issue import RefusedError
from ledger.plans import DEFAULTS, FIELDS, entry

MAX_BYTES: Final = 8 * 1024 * 1024
MAX_ENTRIES: Final = 10_000
_MAX_DEPTH: Final = 20
_TOP: Final = "budgets"
_EVERYTHING: Final = "all"
_CHOICES: Final = {"per": PERIODS, "on_exceed": ON_EXCEED, "unstated": UNSTATED}
_NULL: Final = "tag:yaml.org,2002:null"
# The C parser reads ten thousand budgets in a second; the other one is there where it is not.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Value = str | list["Value"] | dict[str, "Value"] | None
"""What files are made of here: a number, a date or a yes is the text that was written."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One budget of a file, and where it stands."""

    place: str
    value: Value


def read(text: str, name: str, labels: Collection[str]) -> list[Budget]:
    """The budgets of a file; InputError names the file, the line or entry, and what is allowed.

    `labels` are those that a selector may name.
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES // 1024 // 1024} MiB; split it.")
    entries = _entries(text, name)
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"{name} has more than {MAX_ENTRIES} budgets; split it.")
    places: dict[str, str] = {}
    budgets = []
    for each in entries:
        try:
            budget = _budget(each.value, labels)
            if budget.name in places:
                raise InputError(f"The budget is also at {places[budget.name]}; name it once.")
        except (InputError, RefusedError) as error:
            raise InputError(f"{name}, {each.place}{_named(each.value)}: {error}") from None
        places[budget.name] = each.place
        budgets.append(budget)
    return budgets


def write(budgets: Sequence[Budget], form: str) -> str:
    """A file of these budgets, as `yaml` or `json`."""
    document = {_TOP: [entry(budget) for budget in budgets]}
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text


def _budget(value: Value, labels: Collection[str]) -> Budget:
    if not isinstance(value, dict):
        raise InputError(f"A budget has the fields {', '.join(FIELDS)}; write name: value lines.")
    for field in value:
        if field not in FIELDS:
            raise InputError(f"A budget has no field {field!r}; allowed are {', '.join(FIELDS)}.")
    missing = [f for f in FIELDS if f not in DEFAULTS and value.get(f) is None]
    if missing:
        raise InputError(f"The budget lacks {' and '.join(missing)}.")
    unit, amount = arguments.amount(_text(value, "amount"))
    per, on_exceed = _choice(value, "per"), _choice(value, "on_exceed")
    arguments.rule(unit, per, on_exceed)
    return Budget(
        budget_id="",
        name=clean_name(_text(value, "name")),
        where=_where(value["where"], labels),
        unit=unit,
        amount=amount,
        per=per,
        time_zone=arguments.time_zone(_text(value, "time_zone")),
        on_exceed=on_exceed,
        unstated=_choice(value, "unstated"),
        alerts=_alerts(value.get("alerts")),
    )


def _where(value: Value, labels: Collection[str]) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str):
        return () if value == _EVERYTHING else arguments.selector([value], labels)
    if not isinstance(value, dict) or not value:
        raise InputError(
            "where names the labels of the calls it counts, such as {team: risk}, or all."
        )
    found = {}
    for name, label in value.items():
        if name not in labels:
            raise InputError(
                f"where does not know the label {name!r}; allowed are {', '.join(labels)}."
            )
        if not isinstance(label, str):
            raise InputError(f"where has no plain value for {name}; write one, such as {name}: x.")
        found[name] = unicodedata.normalize("NFC", label).strip()
        if not found[name] or "\0" in found[name]:
            raise InputError(f"where has a blank value for {name}; write one, or leave it out.")
    return tuple(sorted(found.items()))


def _alerts(value: Value) -> tuple[int, ...]:
    if value is None or value == []:
        return ()
    parts = value if isinstance(value, list) else [value]
    return arguments.alerts(",".join(str(part) for part in parts))


def _choice(value: Mapping[str, Value], field: str) -> str:
    text = _text(value, field)
    if text not in _CHOICES[field]:
        allowed = ", ".join(_CHOICES[field])
        raise InputError(f"{field} is {text!r}; allowed are {allowed}.")
    return text


def _text(value: Mapping[str, Value], field: str) -> str:
    found = value.get(field)
    if found is None:
        return str(DEFAULTS[field])
    if not isinstance(found, str):
        raise InputError(f"{field} has no plain value; write one text or number.")
    return found


def _named(value: Value) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return f" ({name})" if isinstance(name, str) and name.isprintable() and len(name) < 100 else ""


def _entries(text: str, name: str) -> list[_Entry]:
    try:
        # JSON in its own right: its escapes and tabs are not all YAML's.
        if text.lstrip()[:1] in ("{", "["):
            try:
                document = json.loads(
                    text, object_pairs_hook=_object, parse_int=str, parse_float=str
                )
            except json.JSONDecodeError:
                pass  # YAML's own braces
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
            else:
                return list(_entries_of_json(document, name))
        _refuse_depth(text, name)
        return list(_entries_of_yaml(yaml.compose(text, Loader=_Loader), name))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{name}{place} is not YAML or JSON: {error.problem}.") from None
    except yaml.YAMLError as error:
        says = str(error).splitlines()[0]
        raise InputError(f"{name} is not YAML or JSON: {says}.") from None
    except RecursionError:
        raise _too_deep(name) from None


def _refuse_depth(text: str, name: str) -> None:
    """The C parser's composer would end the process where brackets are nested without end."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise _too_deep(name)


def _too_deep(name: str) -> InputError:
    return InputError(f"{name} is nested too deeply to be a file of budgets.")


def _entries_of_json(document: Any, name: str) -> Iterator[_Entry]:
    if not isinstance(document, dict) or list(document) != [_TOP]:
        raise _no_list(name)
    if not isinstance(document[_TOP], list):
        raise _no_list(name)
    for number, value in enumerate(document[_TOP], 1):
        yield _Entry(f"entry {number}", _plain(value))


def _entries_of_yaml(root: yaml.Node | None, name: str) -> Iterator[_Entry]:
    top = root.value if isinstance(root, yaml.MappingNode) else []
    if len(top) != 1 or top[0][0].value != _TOP:
        raise _no_list(name)
    listed = top[0][1]
    if not isinstance(listed, yaml.SequenceNode):
        raise _no_list(name)
    for number, node in enumerate(listed.value, 1):
        place = f"line {node.start_mark.line + 1}, entry {number}"
        try:
            yield _Entry(place, _value(node))
        except InputError as error:
            raise InputError(f"{name}, {place}: {error}") from None


def _no_list(name: str) -> InputError:
    return InputError(
        f"{name} is no file of budgets; it has one field, budgets, with a list, as"
        " `ledger budgets export` prints it."
    )


def _value(node: yaml.Node, depth: int = 0) -> Value:
    """The texts as they were written: `no` and `2026-01-01` are labels here like any other."""
    if depth > 3:
        raise InputError("It is nested too deeply to be a budget.")
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == _NULL and node.style in (None, "") else str(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, depth + 1) for each in node.value]
    assert isinstance(node, yaml.MappingNode)
    pairs = []
    for key, each in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError("It has a field whose name is not a text.")
        pairs.append((str(key.value), _value(each, depth + 1)))
    return _object(pairs)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"It has the field {twice!r} twice; write it once.")
    return found


def _plain(value: Any) -> Value:
    """A value of JSON, whose numbers were kept as texts."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return None if value is None else str(value)
