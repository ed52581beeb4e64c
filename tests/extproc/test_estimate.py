"""Estimates: holds stay above what comes, and learning is bounded and hard to abuse."""

from hypothesis import given
from hypothesis import strategies as st

from extproc.estimate import Estimates


def test_an_unknown_model_is_estimated_with_care() -> None:
    """Before anything is learned two bytes are taken for a token, twice what English needs."""
    estimates = Estimates()
    assert estimates.input_tokens("openai", "new", 4000) >= 2000
    assert estimates.output_tokens("openai", "new", 3500) == 1000
    assert estimates.output_tokens("openai", "new", 0) == 0


@given(
    ratio=st.floats(1.0, 6.0),
    noise=st.lists(st.floats(0.93, 1.07), min_size=40, max_size=80),
    size=st.integers(2000, 400_000),
)
def test_steady_traffic_is_never_held_too_low(ratio: float, noise: list[float], size: int) -> None:
    """After some calls of a kind the next call of that kind fits its hold."""
    estimates = Estimates()
    for wobble in noise:
        tokens = int(size / (ratio * wobble))
        estimates.observe("p", "m", input_bytes=size, input_tokens=tokens)
    assert estimates.input_tokens("p", "m", size) >= int(size / ratio / 1.07)


def test_learning_makes_holds_smaller_but_only_so_far() -> None:
    """Light traffic, spaces for instance, does not make the next dense request cheap to hold."""
    estimates = Estimates()
    for _ in range(5000):
        estimates.observe("p", "m", input_bytes=100_000, input_tokens=1000)
    assert 25_000 <= estimates.input_tokens("p", "m", 100_000) < 28_000


def test_one_dense_call_is_noticed_at_once() -> None:
    """The floor falls fast and rises slowly."""
    estimates = Estimates()
    for _ in range(500):
        estimates.observe("p", "m", input_bytes=10_000, input_tokens=2500)
    before = estimates.input_tokens("p", "m", 10_000)
    estimates.observe("p", "m", input_bytes=10_000, input_tokens=7000)
    dense = estimates.input_tokens("p", "m", 10_000)
    estimates.observe("p", "m", input_bytes=10_000, input_tokens=2500)
    after = estimates.input_tokens("p", "m", 10_000)
    assert before < 3000
    assert dense > 1.4 * before
    assert dense - after < 0.1 * (dense - before)


def test_output_follows_the_mean_and_includes_hidden_reasoning() -> None:
    """A model that thinks ten tokens for each visible one is estimated so."""
    estimates = Estimates()
    for _ in range(200):
        estimates.observe(
            "p", "m", input_bytes=10, input_tokens=3, output_bytes=400, output_tokens=1000
        )
    assert 950 <= estimates.output_tokens("p", "m", 400) <= 1050


def test_models_are_forgotten_least_recently_used_first() -> None:
    """Names that clients make up cannot fill the memory."""
    estimates = Estimates(max_models=2)
    for model in ("a", "b"):
        for _ in range(100):
            estimates.observe("p", model, input_bytes=8000, input_tokens=2000)
    known = estimates.input_tokens("p", "a", 8000)
    estimates.observe("p", "c", input_bytes=8000, input_tokens=2000)
    assert estimates.input_tokens("p", "a", 8000) == known
    assert estimates.input_tokens("p", "b", 8000) > known


@given(st.lists(st.integers(-10, 2**60), min_size=4, max_size=4), st.integers(-10, 2**60))
def test_no_count_breaks_it(counts: list[int], size: int) -> None:
    """Zero, negative and absurd counts leave usable estimates."""
    estimates = Estimates()
    names = ("input_bytes", "input_tokens", "output_bytes", "output_tokens")
    estimates.observe("p", "m", **dict(zip(names, counts, strict=True)))
    assert estimates.input_tokens("p", "m", size) > 0
    assert estimates.output_tokens("p", "m", size) >= 0
