"""Learns what models and callers produce, for holds and cut streams. Knows no clock and no price.

Bytes per token are a model's own. How long answers are, and what a provider adds to the input
unseen, depends on who asks and for what, so those are learned by key and model.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil, log2
from typing import Final

from ledger.event import Usage

MAX_MODELS: Final = 1024
_KEYS_PER_MODEL: Final = 8
"""Pairs of key and model that are remembered, for each model that is."""

_FIRST_INPUT_FLOOR: Final = (
    2.0  # digits, base64 and scripts beyond Latin; English has about four bytes in a token
)
_FIRST_MEAN: Final = 3.5
_MIN_FLOOR: Final = 1.0  # a byte-level tokenizer never makes more tokens than bytes
_MAX_FLOOR: Final = 4.0  # however light a model's traffic was: the next request may be dense
_MARGIN: Final = 1.1
_OVERHEAD_TOKENS: Final = 32  # chat templates, beside what the request's own text costs

_FALL: Final = 0.5
_RISE: Final = 1 / 32
_FULL_WEIGHT_BYTES: Final = 4096  # smaller calls teach less: their fixed tokens outweigh their text
_PACE: Final = 1 / 16
_QUANTILE: Final = 0.98
_FULL_SAMPLES: Final = 256
"""Answers after which older ones count half."""
_FEW_SAMPLES: Final = 8
"""Below this a key's own answers say too little, and those of all keys count."""
_FIRST_OUTPUT_TOKENS: Final = 512
"""What an answer is taken to be at most before anything is known of its model."""
_STEPS_PER_DOUBLING: Final = 4
_EXTRA_FADES: Final = 15 / 16
_LEAST_RATIO: Final = 0.05  # long hidden reasoning for a short visible answer
_MOST_RATIO: Final = 8.0


@dataclass(slots=True)
class _Ratios:
    """Bytes per token. `input_floor` falls fast, rises slowly: below nearly all that was seen."""

    input_floor: float = _FIRST_INPUT_FLOOR
    input_mean: float = _FIRST_MEAN
    output_mean: float = _FIRST_MEAN


@dataclass(slots=True)
class _Answers:
    """How long answers were: counts by size class, a quarter of a doubling each."""

    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0
    extra_input: float = 0.0

    def add(self, tokens: int) -> None:
        at = ceil(log2(max(1, tokens)) * _STEPS_PER_DOUBLING)
        self.counts[at] = self.counts.get(at, 0) + 1
        self.total += 1
        if self.total >= _FULL_SAMPLES:
            self.counts = {step: n // 2 for step, n in self.counts.items() if n > 1}
            self.total = sum(self.counts.values())

    def high(self) -> int:
        """A number of tokens that all but a few answers stayed within."""
        beyond = self.total * (1 - _QUANTILE)
        for step in sorted(self.counts, reverse=True):
            beyond -= self.counts[step]
            if beyond < 0:
                return ceil(2 ** (step / _STEPS_PER_DOUBLING))
        return _FIRST_OUTPUT_TOKENS


_UNKNOWN: Final = _Ratios()
_EVERY_KEY: Final = ""


@dataclass(slots=True)
class Estimates:
    """What one process learned by provider and model; the least recently used goes first."""

    max_models: int = MAX_MODELS
    _models: OrderedDict[tuple[str, str], _Ratios] = field(default_factory=OrderedDict)
    _answers: OrderedDict[tuple[str, str, str], _Answers] = field(default_factory=OrderedDict)

    def observe(
        self,
        provider: str,
        model: str,
        *,
        input_bytes: int,
        input_tokens: int,
        output_bytes: int = 0,
        output_tokens: int = 0,
    ) -> None:
        """Learn from a call whose provider stated its tokens; a count of zero teaches nothing."""
        ratios = self._models.get((provider, model))
        if ratios is None:
            ratios = self._models[provider, model] = _Ratios()
            if len(self._models) > self.max_models:
                self._models.popitem(last=False)
        self._models.move_to_end((provider, model))
        if input_bytes > 0 and input_tokens > 0:
            seen = min(max(input_bytes / input_tokens, _MIN_FLOOR), _MAX_FLOOR)
            weight = min(1.0, input_bytes / _FULL_WEIGHT_BYTES)
            step = (_FALL if seen < ratios.input_floor else _RISE) * weight
            ratios.input_floor += step * (seen - ratios.input_floor)
            likely = min(max(input_bytes / input_tokens, _LEAST_RATIO), _MOST_RATIO)
            ratios.input_mean += _PACE * (likely - ratios.input_mean)
        if output_bytes > 0 and output_tokens > 0:
            seen = min(max(output_bytes / output_tokens, _LEAST_RATIO), _MOST_RATIO)
            ratios.output_mean += _PACE * (seen - ratios.output_mean)

    def observe_key(
        self, key_id: str, provider: str, model: str, *, input_bytes: int, usage: Usage
    ) -> None:
        """Learn how long this key's answers are, and what its input has beyond what it shows.

        Calls in flight together are short of the same: the most of it counts, not the sum.
        """
        for who in (key_id, _EVERY_KEY):
            answers = self._answers_of(who, provider, model)
            if usage.output_tokens > 0:
                answers.add(usage.output_tokens)
        own = self._answers_of(key_id, provider, model)
        unseen = usage.input_tokens - self.input_tokens(provider, model, input_bytes)
        own.extra_input = max(unseen * _MARGIN, own.extra_input * _EXTRA_FADES)

    def likely_most_output_tokens(self, key_id: str, provider: str, model: str) -> int:
        """What this key's answers from this model hardly exceed; a guess before any was seen."""
        own = self._answers.get((key_id, provider, model))
        if own is not None and own.total >= _FEW_SAMPLES:
            return own.high()
        # Others' short answers make a new key's holds small; their long ones must not block it.
        every = self._answers.get((_EVERY_KEY, provider, model))
        known = every.high() if every is not None else _FIRST_OUTPUT_TOKENS
        return min(known, _FIRST_OUTPUT_TOKENS)

    def input_tokens(self, provider: str, model: str, input_bytes: int, key_id: str = "") -> int:
        """A number that the input will hardly exceed: the basis of a hold."""
        ratios = self._of(provider, model)
        tokens = ceil(max(0, input_bytes) / ratios.input_floor * _MARGIN) + _OVERHEAD_TOKENS
        own = self._answers.get((key_id, provider, model))
        return tokens + (ceil(own.extra_input) if own is not None else 0)

    def likely_input_tokens(self, provider: str, model: str, input_bytes: int) -> int:
        """The likeliest number of tokens of such an input: what a cut call is charged."""
        return ceil(max(0, input_bytes) / self._of(provider, model).input_mean)

    def output_tokens(self, provider: str, model: str, output_bytes: int) -> int:
        """The likeliest number of tokens of generated text, hidden reasoning included."""
        return ceil(max(0, output_bytes) / self._of(provider, model).output_mean)

    def _answers_of(self, key_id: str, provider: str, model: str) -> _Answers:
        name = (key_id, provider, model)
        answers = self._answers.get(name)
        if answers is None:
            answers = self._answers[name] = _Answers()
            if len(self._answers) > _KEYS_PER_MODEL * self.max_models:
                self._answers.popitem(last=False)
        self._answers.move_to_end(name)
        return answers

    def _of(self, provider: str, model: str) -> _Ratios:
        ratios = self._models.get((provider, model))
        if ratios is None:
            return _UNKNOWN
        self._models.move_to_end((provider, model))
        return ratios
