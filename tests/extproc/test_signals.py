"""Which run a client's own headers name, and where in it the call stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.events import Headers
from extproc.signals import (
    MAX_RUN_CHARS,
    SIGNALS,
    Said,
    clean,
    onward_headers,
    said,
    token_in_baggage,
)

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = b"00-" + TRACE + b"-00f067aa0ba902b7-01"
CLAUDE = {"x-claude-code-session-id": b"6f1c"}
CODEX = {"session-id": b"0199", "thread-id": b"0199"}

header_names = st.sampled_from(
    [
        *sorted(SIGNALS),
        *("thread-id", "thread_id", "x-openai-subagent", "x-codex-parent-thread-id"),
        *("x-claude-code-agent-id", "x-claude-code-parent-agent-id"),
    ]
)


@pytest.mark.parametrize(
    ("headers", "below"),
    [
        ({}, ()),
        ({"x-claude-code-agent-id": b"a1"}, ("a1",)),
        ({"x-claude-code-agent-id": b"a2", "x-claude-code-parent-agent-id": b"a1"}, ("a1", "a2")),
        ({"x-claude-code-parent-agent-id": b"a1"}, ()),
        ({"x-claude-code-agent-id": b"a/b@team"}, ("a_b@team",)),
    ],
)
def test_claude_code_names_its_session_and_subagents(
    headers: Headers, below: tuple[str, ...]
) -> None:
    """The main conversation has no agent id; a subagent's subagent has a parent."""
    assert said(CLAUDE | headers) == Said("claude_code", "asserted", "claude-code:6f1c", below)


@pytest.mark.parametrize(
    ("headers", "below"),
    [
        ({}, ()),
        ({"x-openai-subagent": b"compact"}, ("compact",)),
        (
            {
                "thread-id": b"019a",
                "x-openai-subagent": b"collab_spawn",
                "x-codex-parent-thread-id": b"0199",
            },
            ("019a",),
        ),
        ({"thread-id": b"019b", "x-codex-parent-thread-id": b"019a"}, ("019a", "019b")),
        ({"thread-id": b"019b"}, ("019b",)),
    ],
)
def test_codex_names_its_session_and_threads(headers: Headers, below: tuple[str, ...]) -> None:
    """A root thread's id is the session's; a spawned thread names its parent."""
    assert said(CODEX | headers) == Said("codex", "asserted", "codex:0199", below)


def test_codex_of_before_may_2026_is_read_too() -> None:
    """It wrote its headers with an underscore, and each thread was a session."""
    assert said({"session_id": b"0199"}) == Said("codex", "asserted", "codex:0199")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"junk",
        b"ff-" + TRACE + b"-00f067aa0ba902b7-01",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE + b"-0000000000000000-01",
        b"00-" + TRACE.upper() + b"-00f067aa0ba902b7-01",
    ],
)
def test_an_invalid_traceparent_names_nothing(value: bytes) -> None:
    """As the recommendation has it: such a header is as if it were not there."""
    assert said({"traceparent": value}) is None


def test_a_trace_is_a_run() -> None:
    """Also in a version of the header that is still to come."""
    expected = Said("traceparent", "inferred", f"trace:{TRACE.decode()}")
    assert said({"traceparent": PARENT}) == expected
    assert said({"traceparent": b"cc" + PARENT[2:] + b"-more"}) == expected


def test_the_first_that_is_there_wins() -> None:
    """Claude Code before Codex before a trace; an empty header is none."""
    every = {**CODEX, **CLAUDE, "traceparent": PARENT}
    order = []
    for name in ("x-claude-code-session-id", "session-id", "traceparent"):
        found = said(every)
        assert found is not None
        order.append(found.signal)
        every[name] = b" "
    assert order == ["claude_code", "codex", "traceparent"]
    assert said(every) is None


@given(st.dictionaries(header_names, st.binary(max_size=600)))
def test_what_is_asserted_is_bounded_printable_and_never_a_minted_id(headers: Headers) -> None:
    """Whatever bytes a client sends: a prefix of its own, no longer than the books keep."""
    found = said(headers)
    if found is not None:
        assert found.run_id.startswith(("claude-code:", "codex:", "trace:"))
        assert found.run_id.isprintable()
        assert len(found.run_id) <= MAX_RUN_CHARS
        assert all(len(each) <= 100 and "/" not in each and each for each in found.below)
        assert len(found.below) <= 2


@given(st.text())
def test_cleaning_keeps_what_is_clean(text: str) -> None:
    """Once cleaned, a text stays as it is."""
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    ("baggage", "token"),
    [
        (b"x-agent-chain=a.b.c", b"a.b.c"),
        (b"user=ann, x-agent-chain = a.b.c ;ttl=1,other=2", b"a.b.c"),
        (b"x-agent-chain=a.b.c,x-agent-chain=a.b.c", b"a.b.c"),
        (b"x-agent-chain=a.b.c,x-agent-chain=d.e.f", b"a.b.c,d.e.f"),
        (b"x-agent-chain=a%2Eb.c", b"a.b.c"),
        (b"user=x-agent-chain", b""),
        (b"my-x-agent-chain=a.b.c", b""),
        (b"x-agent-chain=a.b.c," + b"a=b," * 3000, b""),
        (b"", b""),
    ],
)
def test_a_token_travels_in_baggage(baggage: bytes, token: bytes) -> None:
    """Among other members, with properties; of two that differ neither is meant."""
    assert token_in_baggage(baggage) == token


def test_the_next_hops_token_replaces_the_last_ones() -> None:
    """What else the baggage holds goes on with it, unless it is more than anybody must read."""
    before = b"user=ann, x-agent-chain=old.old.old ,k = v;p=1"
    headers = dict(onward_headers("a.b.c", before))
    assert headers == {
        "x-agent-chain": b"a.b.c",
        "baggage": b"user=ann,k=v;p=1,x-agent-chain=a.b.c",
    }
    assert dict(onward_headers("a.b.c", b"k=v," * 3000))["baggage"] == b"x-agent-chain=a.b.c"
    assert dict(onward_headers("a.b.c", b"k=" + b"v" * 8185))["baggage"] == b"x-agent-chain=a.b.c"
