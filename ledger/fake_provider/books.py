"""What the fake provider remembers: bills, requests, answers. Bounded; knows no socket."""

import re
from collections import OrderedDict, deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ledger.fake_provider.speech import Tokens

MAX_BILLS: Final = 50_000
MAX_REQUESTS: Final = 2_000
MAX_LEAKS: Final = 1_000
MAX_SENT: Final = 64
MAX_SENT_BYTES: Final = 256 * 1024
_OUR_KEY: Final = re.compile(rb"(?<![A-Za-z0-9])tk-[A-Za-z0-9]")
_OUR_HEADERS: Final = (
    *(b"x-tollkeeper-", b"x-agent-chain", b"x-agent-run", b"baggage", b"x-customer-id"),
)


@dataclass(slots=True, kw_only=True)
class Bill:
    """One call that was answered. Where it is not `complete`, `tokens` is what was generated."""

    request_id: str
    response_id: str
    model: str
    operation: str
    streamed: bool
    status: int
    tokens: Tokens
    complete: bool = False
    client_gone: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The bill as a flat JSON object, tokens by their names."""
        flat = {**asdict(self), **self.tokens.as_dict()}
        del flat["tokens"]
        return flat


@dataclass(slots=True)
class Books:
    """Everything that can be asked for afterwards, the oldest dropped first."""

    bills: OrderedDict[str, Bill] = field(default_factory=OrderedDict)
    requests: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_REQUESTS))
    leaks: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_LEAKS))
    sent: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    number: int = 0

    def clear(self) -> None:
        """Forget everything but the numbering, so that no id comes twice."""
        self.bills.clear()
        self.requests.clear()
        self.leaks.clear()
        self.sent.clear()

    def saw(self, request: dict[str, Any], leaks: list[str]) -> None:
        """Remember a request, and what it should never have carried."""
        self.requests.append(request)
        if leaks:
            self.leaks.append({**request, "leaks": leaks})

    def open_bill(self, bill: Bill) -> None:
        """Remember a bill by its request's id."""
        self.bills[bill.request_id] = bill
        if len(self.bills) > MAX_BILLS:
            self.bills.popitem(last=False)

    def keep_sent(self, request_id: str, body: bytes) -> None:
        """Remember the bytes of an answer, while they are few."""
        if len(body) > MAX_SENT_BYTES:
            return
        self.sent[request_id] = body
        while len(self.sent) > MAX_SENT:
            self.sent.popitem(last=False)


def leaks(headers: list[tuple[bytes, bytes]], query: bytes) -> list[str]:
    """Where a request carries a Tollkeeper key, a header of Tollkeeper's or baggage."""
    found = ["query"] if _OUR_KEY.search(query) else []
    for name, value in headers:
        if name.startswith(_OUR_HEADERS) or (_OUR_KEY.search(value) and name != b"x-fake"):
            found.append(name.decode("latin-1"))
    return found
