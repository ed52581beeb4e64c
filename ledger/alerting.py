"""Looks at the budgets every few seconds, records what is to be said and queues it. Sends nothing.

The counters in Redis say where to look, for they hold all budgets at once; the books say what is
true, and only what they confirm is recorded. Recording and queueing are one transaction, under a
lock that one writer has at a time and a unique index below it.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg
import redis.exceptions
from psycopg.types.json import Jsonb

from ledger.alerts import (
    NEAR_END,
    SPENT_REFUSALS,
    Alert,
    Reading,
    Said,
    clears,
    due,
    is_watched,
    slice_windows,
    slices,
    windows_of,
)
from ledger.budgets import Budget, Window, from_document, limit_at
from ledger.counters import overruns_in, used_in
from ledger.db import BooksUnavailableError, Database, Row, Session
from ledger.deliveries import couriers
from ledger.keyspace import Keyspace
from ledger.stream import DEFAULT_KEYSPACE, Redis, run_script

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
SHARE_OF_TIME: Final = 20
"""A look that took long is followed by a rest of this many times as long."""
STOP_LIMIT_S: Final = 2.0  # what is under way then is abandoned, and done again later
MAX_COUNTERS: Final = 500  # in one script call, which holds up everyone else
MAX_RECORDED: Final = 500  # in one look; the next one finds the rest
FIRST_PATIENCE_US: Final = 1_000_000
MOST_PATIENCE_US: Final = 64_000_000
FORECAST_PATIENCE_US: Final = 300_000_000
"""How long the books are not asked again about what the counters suspect and they denied: hardly at
first, when a call is counted and about to be booked, and twice as long each time. Forecasts are
often suspected, and in no hurry.
"""
OVERRUN_SIGN: Final = timedelta(hours=2)
KEEP: Final = timedelta(days=400)
PRUNE_EVERY_US: Final = 3_600_000_000
_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OLDEST_WINDOW: Final = timedelta(minutes=11)  # see windows_of
AWAY: Final = (psycopg.Error, BooksUnavailableError, redis.exceptions.RedisError)

_Place = tuple[str, str]  # budget id, window name


class _Denied(NamedTuple):
    ask_again_us: int
    patience_us: int


@dataclass(frozen=True, slots=True)
class _OnRecord:
    alert_id: int
    said: Said


class Lookout:
    """Looks for alerts. What it remembers only saves work; the books hold what was said."""

    def __init__(self, db: Database, client: Redis, keys: Keyspace = DEFAULT_KEYSPACE) -> None:
        self._db, self._redis, self._keys = db, client, keys
        self._budgets: dict[str, Budget] = {}
        self._version = 0
        self._denied: dict[tuple[_Place, str, int], _Denied] = {}
        self._overruns: dict[_Place, int] = {}
        self._overrun_sign: Row = {}
        self._pruned_us = 0

    def look(self, now_us: int) -> int:
        """Record and queue what is to be said now; how many alerts that was."""
        with self._db.transaction() as session:
            if not session.run("alerts_lock")[0]["mine"]:
                return 0  # another writer looks
            epoch = session.run("books_state")[0]["epoch"]
            self._read_budgets(session)
            readings = self._glance(session, now_us, epoch or "")
            if readings is None:
                return 0  # the counters are being rebuilt
            on_record = _on_record(session, now_us)
            self._clear(session, readings, on_record, now_us)
            readings = self._with_refusals(session, readings, on_record, now_us)
            readings = self._with_overruns(session, readings, now_us)
            suspected = self._suspected(readings, on_record, now_us)
            found = _confirm(session, suspected, on_record, now_us)
            self._remember(suspected, found, now_us)
            recorded = _record(session, found[:MAX_RECORDED], on_record, now_us)
            self._prune(session, now_us)
        return recorded

    def _read_budgets(self, session: Session) -> None:
        for row in session.run("alerts_budgets", version=self._version):
            self._version = row["version"]
            self._budgets.pop(row["budget_id"], None)
            if not row["removed"]:
                budget = _budget_of(row)
                if is_watched(budget):
                    self._budgets[budget.budget_id] = budget

    def _glance(self, session: Session, now_us: int, epoch: str) -> list[Reading] | None:
        """Every budget as its counter says; None where the counters are not those of the books."""
        rows = session.run("alerts_wallets")
        alert_below = {row["budget_id"]: row["alert_below_nanos"] for row in rows}
        places = [(b, window) for b in self._budgets.values() for window in windows_of(b, now_us)]
        readings = []
        for start in range(0, len(places), MAX_COUNTERS):
            part = places[start : start + MAX_COUNTERS]
            names = [self._keys.counter(budget.budget_id, window.name) for budget, window in part]
            seen = run_script(self._redis, "glance", [self._keys.epoch, *names])
            if seen[0].decode() != epoch:
                return None
            readings += [
                Reading(
                    budget=budget,
                    window=window,
                    used=int(used),
                    alert_below=alert_below.get(budget.budget_id),
                )
                for (budget, window), used in zip(part, seen[1:], strict=True)
            ]
        return readings

    def _clear(
        self,
        session: Session,
        readings: Iterable[Reading],
        on_record: dict[_Place, list[_OnRecord]],
        now_us: int,
    ) -> None:
        cleared = []
        for reading in readings:
            place = _place(reading)
            for number, known in enumerate(on_record.get(place, ())):
                if clears(reading, now_us, known.said):
                    cleared.append(known.alert_id)
                    said = known.said._replace(cleared=True)
                    on_record[place][number] = replace(known, said=said)
        if cleared:
            session.run("alerts_clear", now=_moment(now_us), alert_ids=cleared)

    def _with_refusals(
        self,
        session: Session,
        readings: Sequence[Reading],
        on_record: Mapping[_Place, Sequence[_OnRecord]],
        now_us: int,
    ) -> list[Reading]:
        """The readings with `refusing`, of those near their end of which nobody has said so."""
        near = [
            number
            for number, reading in enumerate(readings)
            if (limit := limit_at(reading.budget, now_us)) > reading.used >= NEAR_END * limit
            and not any(
                known.said.kind == "exhausted" and not known.said.cleared
                for known in on_record.get(_place(reading), ())
            )
        ]
        asked = [readings[number] for number in near]
        rows = (
            session.run(
                "alerts_refusing",
                names=[reading.budget.name for reading in asked],
                starts=[_text(reading.window.start_us, reading.window) for reading in asked],
                ends=[_text(reading.window.end_us, reading.window) for reading in asked],
                versions=[reading.budget.version for reading in asked],
                refusals=list(SPENT_REFUSALS),
            )
            if asked
            else []
        )
        refusing = {near[row["place"] - 1] for row in rows}
        return [
            replace(reading, refusing=True) if number in refusing else reading
            for number, reading in enumerate(readings)
        ]

    def _with_overruns(
        self, session: Session, readings: Sequence[Reading], now_us: int
    ) -> list[Reading]:
        """The readings with what was billed above holds; summed up only where there is more."""
        since = _moment(now_us) - OVERRUN_SIGN
        sign = session.run("overruns_since", since=since)[0]
        if sign != self._overrun_sign:
            self._overrun_sign = sign
            self._overruns = {}
            for window, those in _by_window(r for r in readings if r.budget.unit == "usd").items():
                sums = overruns_in(session, window, [reading.budget for reading in those])
                self._overruns |= {
                    (budget_id, window.name): n for budget_id, n in sums.items() if n
                }
        if not self._overruns:
            return list(readings)
        return [
            replace(reading, overrun=overrun)
            if (overrun := self._overruns.get(_place(reading), 0))
            else reading
            for reading in readings
        ]

    def _suspected(
        self,
        readings: Iterable[Reading],
        on_record: Mapping[_Place, Sequence[_OnRecord]],
        now_us: int,
    ) -> list[tuple[Reading, set[tuple[str, int]]]]:
        """The readings of which something is due, and what, except what the books just denied."""
        suspected = []
        for reading in readings:
            place = _place(reading)
            alerts = {
                (alert.kind, alert.threshold)
                for alert in due(reading, now_us, _said(on_record, place))
                if self._asks_again(now_us, place, alert)
            }
            if alerts:
                suspected.append((reading, alerts))
        return suspected

    def _remember(
        self,
        suspected: Sequence[tuple[Reading, set[tuple[str, int]]]],
        found: Sequence[tuple[Reading, Alert]],
        now_us: int,
    ) -> None:
        confirmed = {(_place(reading), alert.kind, alert.threshold) for reading, alert in found}
        asked = {(_place(reading), *what) for reading, alerts in suspected for what in alerts}
        recent = {
            what: denied
            for what, denied in self._denied.items()
            if denied.ask_again_us + MOST_PATIENCE_US > now_us and what not in confirmed
        }
        for what in asked - confirmed:
            patience_us = FIRST_PATIENCE_US
            if what in recent:
                patience_us = min(recent[what].patience_us * 2, MOST_PATIENCE_US)
            if what[1] == "forecast":
                patience_us = FORECAST_PATIENCE_US
            recent[what] = _Denied(now_us + patience_us, patience_us)
        self._denied = recent

    def _asks_again(self, now_us: int, place: _Place, alert: Alert) -> bool:
        denied = self._denied.get((place, alert.kind, alert.threshold))
        return denied is None or denied.ask_again_us <= now_us

    def _prune(self, session: Session, now_us: int) -> None:
        if now_us - self._pruned_us >= PRUNE_EVERY_US:
            session.run("alerts_prune", before=_moment(now_us) - KEEP)
            self._pruned_us = now_us


@contextmanager
def alerting(db: Database, client: Redis, keys: Keyspace = DEFAULT_KEYSPACE) -> Iterator[None]:
    """Looks for alerts and sends them in threads of their own, for which booking does not wait."""
    stop = threading.Event()
    lookout = Lookout(db, client, keys)
    threads = [
        threading.Thread(target=_keep_looking, args=(lookout, stop), name="alerts", daemon=True),
        *couriers(db, stop),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        deadline = time.monotonic() + STOP_LIMIT_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _keep_looking(lookout: Lookout, stop: threading.Event) -> None:
    rest_s = 0.0
    while not stop.wait(rest_s):
        started = time.monotonic()
        try:
            lookout.look(time.time_ns() // 1000)
        except AWAY as error:
            log.info("Alerts wait for their store: %s", error)
        except Exception:
            log.exception("A look for alerts failed; the next one tries again.")
        rest_s = max(LOOK_EVERY_S, (time.monotonic() - started) * SHARE_OF_TIME)


def _confirm(
    session: Session,
    suspected: Sequence[tuple[Reading, set[tuple[str, int]]]],
    on_record: Mapping[_Place, Sequence[_OnRecord]],
    now_us: int,
) -> list[tuple[Reading, Alert]]:
    """What the books say of the suspects: exact amounts, and slices where a forecast needs them."""
    suspects = {_place(reading): alerts for reading, alerts in suspected}
    confirmed = []
    for window, those in _by_window(reading for reading, _ in suspected).items():
        budgets = [reading.budget for reading in those]
        used = used_in(session, window, budgets)
        paced = [r.budget for r in those if ("forecast", 0) in suspects[_place(r)]]
        parts = slice_windows(window, now_us) if paced else []
        sums = [used_in(session, part, paced) for part in parts]
        for reading in those:
            exact = replace(reading, used=used[reading.budget.budget_id])
            if reading.budget in paced:
                amounts = [each[reading.budget.budget_id] for each in sums]
                exact = replace(exact, slices=slices(parts, amounts, now_us))
            place = _place(reading)
            confirmed += [
                (exact, alert)
                for alert in due(exact, now_us, _said(on_record, place))
                if (alert.kind, alert.threshold) in suspects[place]
            ]
    return confirmed


def _record(
    session: Session,
    found: Iterable[tuple[Reading, Alert]],
    on_record: Mapping[_Place, Sequence[_OnRecord]],
    now_us: int,
) -> int:
    number = 0
    for reading, alert in found:
        told = [
            s for s in _said(on_record, _place(reading)) if s[:2] == (alert.kind, alert.threshold)
        ]
        row = _row(reading, alert, now_us)
        if session.run("alerts_record", round=len(told) + 1, **row):
            number += 1
            log.warning("Alert: %s", alert.message)
    return number


def _row(reading: Reading, alert: Alert, now_us: int) -> dict[str, Any]:
    budget, window = reading.budget, reading.window
    turns = window.end_us is not None
    return {
        "budget_id": budget.budget_id,
        "window_name": window.name,
        "kind": alert.kind,
        "threshold": alert.threshold,
        "at": _moment(now_us),
        "name": budget.name,
        "selector": Jsonb(dict(budget.where)),
        "unit": budget.unit,
        "amount": alert.amount,
        "used": alert.used,
        "starts_at": _moment(window.start_us) if turns else None,
        "ends_at": _moment(window.end_us or 0) if turns else None,
        "gone_at": None if alert.gone_us is None else _moment(alert.gone_us),
        "overrun_nanos": alert.overrun,
        "message": alert.message,
    }


def _on_record(session: Session, now_us: int) -> dict[_Place, list[_OnRecord]]:
    found: dict[_Place, list[_OnRecord]] = defaultdict(list)
    for row in session.run("alerts_of_open_windows", since=_moment(now_us) - _OLDEST_WINDOW):
        said = Said(row["kind"], row["threshold"], row["amount"], row["cleared"])
        found[row["budget_id"], row["window_name"]].append(_OnRecord(row["alert_id"], said))
    return found


def _said(on_record: Mapping[_Place, Sequence[_OnRecord]], place: _Place) -> list[Said]:
    return [known.said for known in on_record.get(place, ())]


def _by_window(readings: Iterable[Reading]) -> dict[Window, list[Reading]]:
    found: dict[Window, list[Reading]] = defaultdict(list)
    for reading in readings:
        found[reading.window].append(reading)
    return found


def _budget_of(row: Row) -> Budget:
    columns = {name: row[name] for name in ("budget_id", "name", "counts_from", "version")}
    return from_document({**row["document"], **columns})


def _place(reading: Reading) -> _Place:
    return reading.budget.budget_id, reading.window.name


def _moment(at_us: int) -> datetime:
    return _UNIX_EPOCH + timedelta(microseconds=at_us)


def _text(at_us: int | None, window: Window) -> str:
    if window.end_us is None:
        return "infinity" if at_us is None else "-infinity"
    return _moment(at_us or 0).isoformat()
