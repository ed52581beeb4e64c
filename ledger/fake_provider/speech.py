"""Words and token counts: what goes in is measured, what comes out is made. Knows no socket."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from ledger.fake_provider.directives import Directives

BYTES_PER_TOKEN: Final = 4
_MAX_DEPTH: Final = 16  # of nested content in a request
_SENTENCE: Final = (
    "the report shows that three of seven suppliers were late this quarter and one invoice is "
    "still open so please check the contract before you approve the next order thank you"
)
WORDS: Final = tuple(_SENTENCE.split())
# Keys whose strings are text that a model reads; ids, types and settings are not.
_TEXT_KEYS: Final = frozenset(
    (
        *("messages", "content", "text", "system", "prompt", "input", "instructions", "thinking"),
        *("inputText", "texts"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What is billed for one call; parts are contained in their whole, as in metered events."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name, for the bill."""
        return asdict(self)


def text_of(value: Any) -> str:
    """All the text that the model would read in a request's body."""
    return "\n".join(_texts(value, wanted=False, depth=0))


def _texts(value: Any, wanted: bool, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        if wanted:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, wanted, depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, name in _TEXT_KEYS, depth + 1)


def count(text: str, wishes: Directives, max_output: int | None, choices: int = 1) -> Tokens:
    """The bill of a call that is answered in full."""
    read = -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN) or 1
    on_top = wishes.cached + wishes.cache_write + wishes.cache_write_1h + wishes.audio_input
    on_top += wishes.tool_input
    spoken = wishes.output_tokens if max_output is None else min(wishes.output_tokens, max_output)
    return Tokens(
        input_tokens=read + wishes.extra_input + on_top,
        cache_read_tokens=wishes.cached,
        cache_write_5m_tokens=wishes.cache_write,
        cache_write_1h_tokens=wishes.cache_write_1h,
        output_tokens=spoken * choices,
        reasoning_tokens=min(wishes.reasoning, spoken) * choices,
        audio_input_tokens=wishes.audio_input,
        audio_output_tokens=min(wishes.audio_output, spoken) * choices,
    )


def words(tokens: int) -> list[str]:
    """So many words, each with the space that follows it: one word is one token."""
    return [WORDS[i % len(WORDS)] + " " for i in range(tokens)]


def pieces(tokens: int, per_piece: int) -> list[tuple[str, int]]:
    """The same words in pieces, each with the number of tokens said when it has been said."""
    said = words(tokens)
    step = max(1, per_piece)
    return [("".join(said[i : i + step]), min(i + step, tokens)) for i in range(0, len(said), step)]
