"""Usage in Gemini's answers: whole ones, streams of either form, embeddings. Knows no request."""

from typing import Any, Final

import orjson

from extproc.providers import openai_answer
from extproc.providers.fields import count, label, mapping, parse, sequence, text, utf8
from extproc.providers.gemini_request import tier
from extproc.providers.shape import Answer
from ledger.event import Usage

_COUNTS: Final = (
    "promptTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "totalTokenCount",
)
_DETAILS: Final = {
    "promptTokensDetails": "prompt",
    "promptTokenDetails": "prompt",  # as embeddings have it
    "toolUsePromptTokensDetails": "tools",
    "candidatesTokensDetails": "output",
}
_MODALITIES: Final = {"audio": ("AUDIO", 4), "image": ("IMAGE", 2)}
_MOST_CANDIDATES: Final = 1024
_PICTURE_BYTES: Final = 5160  # 1,290 tokens, at four bytes of text to a token
_AUDIO_BYTES_PER_BYTE: Final = 640  # base64 of 24 kHz PCM at 25 tokens a second, likewise
_TAIL_BYTES: Final = 4096


def read_content(body: bytes) -> Answer:
    """A whole answer of any status; an error may be the one element of an array."""
    value = parse(body)
    reader = GenerateStream()
    for chunk in sequence(value) or [value]:
        if type(chunk) is dict:
            reader.take(chunk)
    answer = reader.answer
    answer.complete = value is not None or body.strip() == b"null"
    return answer


def read_embeddings(body: bytes) -> Answer:
    """Of this API or, as `usage` tells, of OpenAI's. Vectors without usage are still paid for."""
    if b'"usage"' in body[-_TAIL_BYTES:]:
        return openai_answer.read_answer("embeddings", body)
    value = parse(body)
    answer = Answer(complete=value is not None)
    found = mapping((sequence(value) or [value])[0])
    answer.failed = bool(found.get("error"))
    answer.model = label(found.get("modelVersion"))
    answer.response_id = label(found.get("responseId"))
    counts = _Counts()
    counts.take(found.get("usageMetadata"))
    answer.usage = counts.usage()
    vectors = sequence(found.get("embeddings")) or [found.get("embedding")]
    answer.uncounted = answer.usage is None and bool(vectors[0])
    return answer


class GenerateStream:
    """Each chunk is an answer of its own; counts are so far, and the last ones win.

    There is no last word: some models put a finish reason on every chunk, some send usage after it.
    """

    __slots__ = ("_begun", "_blocked", "_counts", "_stopped", "answer")

    def __init__(self) -> None:
        self.answer = Answer()
        self._counts = _Counts()
        self._begun: set[int] = set()  # candidates, by their index
        self._stopped: set[int] = set()  # those that have said why they stop
        self._blocked = False

    def feed(self, event: bytes, data: bytes) -> bool:
        """Never true: this API reports usage unasked."""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return False
        if type(chunk) is dict:
            self.take(chunk)
        return False

    def take(self, chunk: dict[str, Any]) -> None:
        """One chunk, or a whole answer."""
        answer = self.answer
        for candidate in sequence(chunk.get("candidates")):
            self._candidate(mapping(candidate))
        if mapping(chunk.get("promptFeedback")).get("blockReason"):
            self._blocked = True
        answer.finished = self._blocked or (bool(self._begun) and self._begun <= self._stopped)
        usage = chunk.get("usageMetadata")
        if type(usage) is dict:
            self._counts.take(usage)
            answer.usage = self._counts.usage()
            if count(usage.get("candidatesTokenCount")):
                answer.counted_bytes = answer.output_bytes
            said = tier(usage.get("serviceTier")) or tier(usage.get("trafficType"))
            answer.service_tier = said or answer.service_tier
        answer.model = label(chunk.get("modelVersion")) or answer.model
        answer.response_id = label(chunk.get("responseId")) or answer.response_id
        if chunk.get("error"):
            answer.failed = answer.complete = True

    def _candidate(self, candidate: dict[str, Any]) -> None:
        index = count(candidate.get("index")) or 0
        if index < _MOST_CANDIDATES:
            self._begun.add(index)
            if candidate.get("finishReason"):
                self._stopped.add(index)
        for part in sequence(mapping(candidate.get("content")).get("parts")):
            self.answer.output_bytes += _part_bytes(mapping(part))


class _Counts:
    """The counts as last stated; what a block leaves out stays, and a zero undoes no input."""

    __slots__ = ("_parts", "_said")

    def __init__(self) -> None:
        self._said: dict[str, int] = {}
        self._parts: dict[str, int] = {}

    def take(self, block: object) -> None:
        if type(block) is not dict:
            return
        for name in _COUNTS:
            number = count(block.get(name))
            if number or (number == 0 and (name not in self._said or name.startswith("cand"))):
                self._said[name] = number
        for name, kind in _DETAILS.items():
            if details := [mapping(detail) for detail in sequence(block.get(name))]:
                for modality, names in _MODALITIES.items():
                    self._parts[f"{kind} {modality}"] = sum(
                        count(detail.get("tokenCount")) or 0
                        for detail in details
                        if detail.get("modality") in names
                    )

    def usage(self) -> Usage | None:
        """None where nothing was stated."""
        said = self._said
        if not said:
            return None
        prompt, tools, cached, spoken, thought, total = (said.get(name, 0) for name in _COUNTS)
        given = prompt + tools
        if "promptTokenCount" not in said:
            given = max(given, total - spoken - thought)
        made = spoken + thought
        if given + spoken == total and thought <= spoken:
            made = spoken  # here the thoughts are part of what was spoken
        elif given + made < total:
            thought += total - given - made
            made = total - given
        part = self._parts
        heard = part.get("prompt audio", 0) + part.get("tools audio", 0)
        seen = part.get("prompt image", 0) + part.get("tools image", 0)
        return Usage(
            input_tokens=given,
            cache_read_tokens=min(cached, given),
            output_tokens=made,
            reasoning_tokens=min(thought, made),
            audio_input_tokens=min(heard, given),
            audio_output_tokens=min(part.get("output audio", 0), made),
            image_input_tokens=min(seen, given),
            image_output_tokens=min(part.get("output image", 0), made),
        )


def _part_bytes(part: dict[str, Any]) -> int:
    """What the model made: text and thoughts, calls, code, media; no signatures or results."""
    made = utf8(text(part.get("text")))
    if call := mapping(part.get("functionCall")):
        made += utf8(text(call.get("name")))
        made += _written_bytes(call.get("args"))
    made += utf8(text(mapping(part.get("executableCode")).get("code")))
    if blob := mapping(part.get("inlineData")):
        sound = text(blob.get("mimeType")).startswith("audio/")
        coded = len(text(blob.get("data"))) // _AUDIO_BYTES_PER_BYTE
        made += coded if sound else _PICTURE_BYTES
    return made


def _written_bytes(value: object) -> int:
    try:
        return len(orjson.dumps(value)) if value else 0
    except TypeError:  # nested deeper than orjson writes, though it reads it
        return 0
