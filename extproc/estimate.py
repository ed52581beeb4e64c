"""Learns bytes per token of each model, for holds and cut streams. Knows no clock and no price."""

from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil
from typing import Final

MAX_MODELS: Final = 1024

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
_LEAST_RATIO: Final = 0.05  # long hidden reasoning for a short visible answer
_MOST_RATIO: Final = 8.0


@dataclass(slots=True)
class _Ratios:
    """Bytes per token. `input_floor` falls fast, rises slowly: below nearly all that was seen."""

    input_floor: float = _FIRST_INPUT_FLOOR
    input_mean: float = _FIRST_MEAN
    output_mean: float = _FIRST_MEAN


_UNKNOWN: Final = _Ratios()


@dataclass(slots=True)
class Estimates:
    """What one process learned by provider and model; the least recently used goes first."""

    max_models: int = MAX_MODELS
    _models: OrderedDict[tuple[str, str], _Ratios] = field(default_factory=OrderedDict)

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

    def input_tokens(self, provider: str, model: str, input_bytes: int) -> int:
        """A number that the input will hardly exceed: the basis of a hold."""
        ratios = self._of(provider, model)
        return ceil(max(0, input_bytes) / ratios.input_floor * _MARGIN) + _OVERHEAD_TOKENS

    def likely_input_tokens(self, provider: str, model: str, input_bytes: int) -> int:
        """The likeliest number of tokens of such an input: what a cut call is charged."""
        return ceil(max(0, input_bytes) / self._of(provider, model).input_mean)

    def output_tokens(self, provider: str, model: str, output_bytes: int) -> int:
        """The likeliest number of tokens of generated text, hidden reasoning included."""
        return ceil(max(0, output_bytes) / self._of(provider, model).output_mean)

    def _of(self, provider: str, model: str) -> _Ratios:
        ratios = self._models.get((provider, model))
        if ratios is None:
            return _UNKNOWN
        self._models.move_to_end((provider, model))
        return ratios
