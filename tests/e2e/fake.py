"""What the fake provider remembers, asked over HTTP. Knows nothing of the gateway."""

import time
from dataclasses import dataclass
from typing import Any

import httpx

from tests.e2e.processes import until

Bill = dict[str, Any]
TOKENS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
)


@dataclass(frozen=True, slots=True)
class Fake:
    """A running fake provider."""

    url: str

    def bills(self) -> dict[str, Bill]:
        """Every bill by the provider's request id."""
        return {bill["request_id"]: bill for bill in self._get("bills")}

    def bill(self, request_id: str, *, closed: bool = True, deadline_s: float = 10.0) -> Bill:
        """The bill of one call, once it is closed: sent to the end or its client gone."""

        def look() -> Bill | None:
            answer = httpx.get(f"{self.url}/_fake/bills/{request_id}", timeout=10)
            if answer.status_code != 200:
                return None
            bill: Bill = answer.json()
            return bill if bill["complete"] or bill["client_gone"] or not closed else None

        return until(look, what=f"a bill for {request_id}", deadline_s=deadline_s)

    def requests(self) -> list[dict[str, Any]]:
        """Every request that arrived, with its headers."""
        found: list[dict[str, Any]] = self._get("requests")
        return found

    def request(self, request_id: str) -> dict[str, Any]:
        """One request that arrived."""
        return next(r for r in self.requests() if r["request_id"] == request_id)

    def leaks(self) -> list[dict[str, Any]]:
        """Requests that carried a key or a header of ours."""
        found: list[dict[str, Any]] = self._get("leaks")
        return found

    def sent(self, request_id: str) -> bytes:
        """The bytes of one answer as they were sent, once all of them were."""
        end = time.monotonic() + 5
        while True:
            answer = httpx.get(f"{self.url}/_fake/sent/{request_id}", timeout=10)
            if answer.status_code == 200 or time.monotonic() > end:
                answer.raise_for_status()
                return answer.content
            time.sleep(0.02)

    def _get(self, what: str) -> Any:
        answer = httpx.get(f"{self.url}/_fake/{what}", timeout=10)
        answer.raise_for_status()
        return answer.json()
