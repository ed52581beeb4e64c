"""Calls whose usage is not read: other paths, stored answers, counts. Knows no API."""

from extproc.providers.fields import label, mapping, parse
from extproc.providers.shape import Answer, Asked


def read_request(body: bytes) -> Asked:
    """What such a request asks for, as far as it says so; it need not be JSON."""
    request = mapping(parse(body))
    return Asked(
        model=label(request.get("model")),
        streamed=request.get("stream") is True,
        input_bytes=len(body),
    )


def read_answer(body: bytes) -> Answer:
    """Model and id, never usage: a stored answer repeats the usage of the call that made it."""
    answer = mapping(parse(body))
    return Answer(
        model=label(answer.get("model")),
        response_id=label(answer.get("id")),
        complete=True,
        failed=bool(answer.get("error")),
    )


class UnreadStream:
    """A stream of which nothing is taken in."""

    def __init__(self) -> None:
        self.answer = Answer()

    def feed(self, event: bytes, data: bytes) -> bool:
        return False
