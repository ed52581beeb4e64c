"""What the exchange asks of every provider's API: the values and the one protocol. Knows no
provider.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from extproc.refusal import Refusal
from ledger.event import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request body asks for. `input_bytes` is the size of the body: the basis of the input
    estimate.

    `max_output_tokens` is the stated maximum for one choice, None where the request states none.
    `usage_on_request`: this stream reports usage only if asked, and the client did not ask.
    `array_stream`: the stream comes as one JSON array, element by element. `prompt_cache_key`: what
    the client groups requests of one conversation by.
    `operation`: where the body, not the path, says which API it is of. `fixed`: no maximum can be
    given to this request. `stamp` writes the event's id into a body, where the API has a place.
    `tool_name`: the tool that is called. `api`: who reads the answer and words a refusal, where
    that depends on this very request. `reasoning_tokens`: the reasoning that the request makes room
    for, beside what its answer takes.
    """

    model: str
    streamed: bool = False
    max_output_tokens: int | None = None
    choices: int = 1
    input_bytes: int = 0
    usage_on_request: bool = False
    service_tier: str = ""
    array_stream: bool = False
    operation: str = ""
    fixed: bool = False
    stamp: Callable[[bytes, str], bytes] | None = None
    tool_name: str = ""
    api: "Api | None" = None
    prompt_cache_key: str = ""
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class BadRequest:
    """The body cannot be metered; `says` is one sentence for the caller. `api` as in `Asked`."""

    says: str
    api: "Api | None" = None


@dataclass(slots=True, kw_only=True)
class Answer:
    """What is known of an answer so far. `complete`: the API's own last word was seen, nothing more
    will change.

    `output_bytes` counts generated text (UTF-8) of all choices: the basis of an estimate where
    `usage` stays None, and so are those after `counted_bytes` where it is stated on the way.
    `failed`: the answer carries the API's error, whatever its HTTP status. `finished`: the API has
    said why it stops, but has no last word: more may come until the stream ends. `uncounted`: a
    good answer of a kind that never says what was used.
    `performed`: whether a tool or an agent did its work, None where the answer has not said.
    `tools_ran`: tools of the provider's own, whose fee no price of tokens holds.
    """

    model: str = ""
    response_id: str = ""
    usage: Usage | None = None
    provider_cost_nanos: int | None = None
    service_tier: str = ""
    output_bytes: int = 0
    counted_bytes: int = 0
    complete: bool = False
    failed: bool = False
    finished: bool = False
    uncounted: bool = False
    performed: bool | None = None
    tools_ran: bool = False


Event = tuple[bytes, bytes, bytes | None]
"""Raw bytes with their end, the event's type, its data (None: no data to act on)."""


class Framing(Protocol):
    """Cuts one stream into events, however it was chunked: the pieces that `split` and at last
    `finish` return are the stream byte for byte. What is held back has a limit.
    """

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """The (type, data) pairs that `chunk` completes."""

    def split(self, chunk: bytes) -> list[Event]:
        """Every piece of the stream that `chunk` completes."""

    def finish(self) -> Event:
        """What is held when the stream ends."""


class Stream(Protocol):
    """Reads one streamed answer event by event."""

    answer: Answer

    def feed(self, event: bytes, data: bytes) -> bool:
        """Take in one event: its type and its data. True: it carries only the usage that we asked
        for.

        Never raises: data that is not what the API documents is ignored.
        """


class Api(Protocol):
    """The module of one API."""

    def operation(self, method: str, path: str) -> str:
        """One of `ledger.event.OPERATIONS` for a path without query and gateway prefix; `other`
        where not metered.
        """

    def read_request(self, operation: str, body: bytes, path: str = "") -> Asked | BadRequest:
        """What a request asks for; `path` as in `operation`, with the query behind it: some APIs
        name the model and the kind of answer there.
        """

    def ask_for_usage(self, body: bytes) -> bytes:
        """The same request, asking its stream to end with usage; every other byte of it unchanged
        where possible.
        """

    def read_answer(self, operation: str, body: bytes) -> Answer:
        """A whole, decoded JSON answer (any status). Never raises: an HTML page or `null` is an
        answer without usage.
        """

    def stream(self, operation: str) -> Stream: ...

    def refuse(self, refusal: Refusal) -> bytes:
        """The refusal as the API's own JSON error body."""

    def state_maximum(self, operation: str, body: bytes, model: str, tokens: int) -> bytes:
        """The same request with a maximum of `tokens` of output for each choice."""

    def refuse_stream(self, operation: str, refusal: Refusal, content_type: str = "") -> bytes:
        """The API's own error event, which ends a stream of this type that is under way."""
