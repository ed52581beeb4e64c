"""Our fields that tell a refused caller which limit it met. Knows no API's error shape."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from extproc.refusal import Refusal
from ledger.money import usd_from_nanos

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def limit_fields(refusal: Refusal) -> dict[str, Any]:
    """Which limit, what is left (dollars as text) and when it turns; {} where none refused."""
    if not refusal.limit_source:
        return {}
    left: str | int | None = refusal.left
    if refusal.left is not None and refusal.unit == "usd":
        dollars = usd_from_nanos(refusal.left)
        left = dollars.rstrip("0").rstrip(".")
    resets_at = None
    if refusal.resets_at_us is not None:
        turn = _EPOCH + timedelta(microseconds=refusal.resets_at_us)
        resets_at = turn.isoformat(timespec="seconds").replace("+00:00", "Z")
    return {
        "limit_source": refusal.limit_source,
        "limit": refusal.limit,
        "unit": refusal.unit,
        "left": left,
        "resets_at": resets_at,
    }
