"""Asks the books for events and for what was spent. Shapes nothing and knows no terminal."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from psycopg import sql

from ledger.db import Row, Session, statement
from ledger.reports import (
    BILLED_TEAM,
    EVENT_DIMENSIONS,
    ROLLUP_DIMENSIONS,
    TIME_DIMENSIONS,
    WELL_KNOWN_LABELS,
    Question,
    allowed,
    rollups_answer,
    whole_hours,
)

MAX_SPEND_ROWS: Final = 10_000
MAX_EVENTS: Final = 100_000
_ROWS_AT_ONCE: Final = 2000
_COLUMNS: Final = {
    **ROLLUP_DIMENSIONS,
    **EVENT_DIMENSIONS,
    "event_id": "event_id",
    "key_id": "key_id",
}
_EQUALS: Final = sql.SQL("{} = {}")
_PAYS: Final = sql.SQL(
    "{1} IN (SELECT {0} FROM billed(billing, team, root_team, cost_nanos, cost_nanos))"
)
"""That a team is one of those that pay for an event."""


def label_names(session: Session) -> list[str]:
    """The optional labels that a report may name: well-known ones and those that a key carries."""
    carried = (row["name"] for row in session.run("keys_label_names"))
    return allowed(WELL_KNOWN_LABELS, carried)


def spend(session: Session, question: Question, limit: int) -> list[Row]:
    """The total and up to `limit` + 1 groups, the dearest first, or by time where it is asked."""
    named = {*question.by, *(name for name, _ in question.where)}
    names = [sql.Identifier(f"g{place}") for place in range(len(question.by))]
    times = [names[place] for place, name in enumerate(question.by) if name in TIME_DIMENSIONS]
    order = [*times, sql.SQL("sum(share_nanos) DESC NULLS LAST"), sql.SQL("calls DESC"), *names]
    first_hour, last_hour = whole_hours(question)
    given = {
        "since": question.since,
        "until": question.until,
        "first_hour": first_hour,
        "last_hour": last_hour,
        "limit": limit + 2,
    }
    groups = [_expression(name, f"by{place}", given) for place, name in enumerate(question.by)]
    query = _composed(
        "spend_rollups" if rollups_answer(question) else "spend_events",
        names=_listed(names),
        groups=_listed(
            sql.SQL("{} AS {}").format(group, name)
            for group, name in zip(groups, names, strict=True)
        ),
        shares=sql.Identifier("billed" if BILLED_TEAM in named else "unbilled"),
        where=_filter(question, given),
        order=_listed(order),
    )
    return session.connection.execute(query, given).fetchall()


def newest_events(session: Session, question: Question, limit: int) -> list[Row]:
    """Up to `limit` events, the newest first."""
    given = {"since": question.since, "until": question.until, "limit": limit}
    query = _composed("events_newest", where=_filter(question, given, _PAYS))
    return session.connection.execute(query, given).fetchall()


def cached_calls(session: Session, question: Question) -> Iterator[Row]:
    """Every call of the time asked for that used a cache, cache by cache, read as they are needed;
    `chosen`: the question's filter picks it.
    """
    given: dict[str, Any] = {"since": question.since, "until": question.until}
    groups = [_expression(name, f"by{place}", given) for place, name in enumerate(question.by)]
    named = [
        sql.SQL("{} AS {}").format(group, sql.Identifier(f"g{place}"))
        for place, group in enumerate(groups)
    ]
    query = _composed("events_cached", groups=_listed(named), where=_filter(question, given))
    with session.connection.cursor(name="cached_calls") as cursor:
        cursor.itersize = _ROWS_AT_ONCE
        yield from cursor.execute(query, given)


def _composed(name: str, **parts: sql.Composable) -> sql.Composed:
    """The statement with its braces filled; what a person typed is among the parameters."""
    return sql.SQL(statement(name).decode()).format(**parts)


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _filter(
    question: Question, given: dict[str, Any], billed_to: sql.SQL = _EQUALS
) -> sql.Composed:
    terms: list[sql.Composable] = [sql.SQL("true")]
    for place, (name, value) in enumerate(question.where):
        given[f"value{place}"] = value
        holds = billed_to if name == BILLED_TEAM else _EQUALS
        terms.append(
            holds.format(
                _expression(name, f"label{place}", given), sql.Placeholder(f"value{place}")
            )
        )
    return sql.SQL(" AND ").join(terms)


def _expression(name: str, parameter: str, given: dict[str, Any]) -> sql.Composable:
    """The text that a dimension stands for; whatever is no dimension is an optional label."""
    if name in TIME_DIMENSIONS:
        return sql.SQL("date_trunc({}, occurred_at, 'UTC')").format(sql.Literal(name))
    if name in _COLUMNS:
        return sql.SQL("{}::text").format(sql.Identifier(_COLUMNS[name]))
    given[parameter] = name
    return sql.SQL("coalesce(labels ->> {}::text, '')").format(sql.Placeholder(parameter))
