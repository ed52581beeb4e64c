"""Why a call was refused, as a value. Knows neither HTTP headers nor any provider's error shape."""

from dataclasses import dataclass
from typing import Final

RETRY_HORIZON_S: Final = 60
"""The official SDKs wait for a `Retry-After` of at most a minute; a longer wait is no use to their
own retry.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One refused call.

    `code` is stable and is what events and metrics carry. `message` is one sentence for the caller.
    `limit_source` says what kind of limit refused (`budget`, `key` ...), `limit` its name, `left`
    what is left of it in `unit` (`usd`: nanodollars, or `tokens`) and `resets_at_us` when its
    window turns. `retry_after_s` is when the same call may succeed, None where it never will.
    """

    status: int
    code: str
    message: str
    limit_source: str = ""
    limit: str = ""
    unit: str = ""
    left: int | None = None
    resets_at_us: int | None = None
    retry_after_s: int | None = None

    @property
    def retryable(self) -> bool:
        """Whether a retry within the SDKs' patience can succeed."""
        return self.retry_after_s is not None and self.retry_after_s <= RETRY_HORIZON_S
