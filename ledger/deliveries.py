"""The durable queue between alerts and endpoints: who sends what when, and what came of it.

A delivery is claimed before it is sent, and the claim ends by itself: what a writer that died was
sending is sent again by another. A receiver knows a repetition by its `webhook-id`.
"""

import logging
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg

from ledger.db import BooksUnavailableError, Database, Row
from ledger.reports import usd_text
from ledger.webhooks import Answer, Endpoint, post, request

log = logging.getLogger(__name__)

COURIERS: Final = 4
"""Threads that send. A receiver that is slow holds up one of them: none is sent two at a time."""
LOOK_EVERY_S: Final = 1.0
CLAIM: Final = timedelta(seconds=60)  # far longer than an attempt may take
MAX_ATTEMPTS: Final = 12
FIRST_RETRY_S: Final = 10.0
GROWTH: Final = 2.5
LONGEST_RETRY_S: Final = 8 * 3600.0
"""10 s, 25 s, 1 min ... 4 h, 8 h, 8 h: twelve attempts take about a day."""
JITTER: Final = 0.2

Clock = Callable[[], datetime]


def deliver_next(db: Database, clock: Clock, chance: Callable[[], float] = random.random) -> bool:
    """Send the delivery that is due, and note what came of it; False: none is due."""
    now = clock()
    with db.transaction() as session:
        session.run("deliveries_lock")
        rows = session.run("deliveries_claim", now=now, claimed_until=now + CLAIM)
    if not rows:
        return False
    [row] = rows
    endpoint = Endpoint(row["url"], row["secret"], row["form"])
    headers, body = request(endpoint, row["message_id"], facts(row), int(now.timestamp()))
    answer = post(endpoint, headers, body)
    _note(db, row, answer, clock(), chance())
    return True


def retry_after(attempts: int, answer: Answer, chance: float) -> timedelta:
    """How long to wait after so many attempts; `chance` is from 0 to 1 and spreads the retries."""
    pause_s = min(FIRST_RETRY_S * GROWTH ** (attempts - 1), LONGEST_RETRY_S)
    pause_s *= 1 + JITTER * (2 * chance - 1)
    return timedelta(seconds=max(pause_s, answer.retry_after_s))


def facts(row: Row) -> dict[str, Any]:
    """An alert as receivers and scripts see it."""
    amounts = {"amount": row["amount"], "used": row["used"]}
    if row["unit"] == "usd":
        amounts |= {f"{name}_usd": usd_text(number) for name, number in amounts.copy().items()}
    return {
        "alert_id": row["alert_id"],
        "at": row["at"],
        "kind": row["kind"],
        "threshold": row["threshold"],
        "budget": row["name"],
        "budget_id": row["budget_id"],
        "where": row["selector"],
        "window": row["window_name"],
        "window_starts": row["window_starts_at"],
        "window_ends": row["window_ends_at"],
        "unit": row["unit"],
        **amounts,
        "gone_at": row["gone_at"],
        "overrun_nanos": row["overrun_nanos"],
        "message": row["message"],
    }


def couriers(db: Database, stop: threading.Event) -> list[threading.Thread]:
    """Threads, not yet started, that send what is due until `stop` is set."""
    return [
        threading.Thread(
            target=_keep_sending, args=(db, stop), name=f"courier-{number}", daemon=True
        )
        for number in range(COURIERS)
    ]


def _keep_sending(db: Database, stop: threading.Event) -> None:
    while not stop.is_set():
        sent = False
        try:
            sent = deliver_next(db, lambda: datetime.now(UTC))
        except (psycopg.Error, BooksUnavailableError) as error:
            log.info("Deliveries wait for their store: %s", error)
        except Exception:
            log.exception("A delivery failed on our side; it is tried again.")
        if not sent:
            stop.wait(LOOK_EVERY_S * random.uniform(0.75, 1.25))  # couriers must not knock in step


def _note(db: Database, row: Row, answer: Answer, now: datetime, chance: float) -> None:
    ends = answer.gone or row["attempts"] >= MAX_ATTEMPTS
    state = "delivered" if answer.delivered else "failed" if ends else "pending"
    if state == "failed":
        log.warning("Alert %d could not be delivered: %s", row["alert_id"], answer.error)
    with db.transaction() as session:
        session.run(
            "deliveries_done",
            delivery_id=row["delivery_id"],
            attempts=row["attempts"],
            state=state,
            status=answer.status,
            error=answer.error,
            next_attempt_at=now + retry_after(row["attempts"], answer, chance),
            now=now,
        )
        if answer.gone:
            session.run("webhooks_end", endpoint_id=row["endpoint_id"], reason="gone", now=now)
