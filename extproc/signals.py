"""How clients name the run that a call belongs to, in their own headers and in W3C's. Knows neither
keys nor whether a signal is true.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from extproc.events import Headers

CHAIN_HEADER: Final = "x-agent-chain"
RUN_HEADER: Final = "x-agent-run"
BAGGAGE: Final = "baggage"
_CLAUDE_SESSION: Final = "x-claude-code-session-id"
_CODEX_SESSIONS: Final = ("session-id", "session_id")
"""The second is how Codex wrote it until it told sessions and threads apart."""
_TRACE: Final = "traceparent"
SIGNALS: Final = frozenset(
    (CHAIN_HEADER, RUN_HEADER, BAGGAGE, _CLAUDE_SESSION, *_CODEX_SESSIONS, _TRACE)
)
"""A request with none of these names no run in its headers."""
MAX_RUN_CHARS: Final = 200
"""Characters of a run id that a client made up."""
_MAX_SEGMENT: Final = 100
"""Characters of a path's segment that a client made up."""
_MAX_BAGGAGE_BYTES: Final = 8192
_NAME: Final = CHAIN_HEADER.encode()
_MEMBER: Final = re.compile(rb"([^=;\s]++)\s*+=\s*+(.*)", re.DOTALL)
_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Said:
    """A run as the caller's own software names it. `below` is where in it the call stands, under
    the caller's key.
    """

    signal: str
    trust: str
    run_id: str
    below: tuple[str, ...] = ()


def said(headers: Headers) -> Said | None:
    """The run that headers name which nobody signed.

    A `traceparent` says which trace a call belongs to, but its span is that of this very request,
    which nobody else knows of: it would be a branch of its own for each call. So a trace's tree has
    one branch for each key.
    """
    if session := _text(headers, _CLAUDE_SESSION):
        run_id = clean(f"claude-code:{session}")
        return Said("claude_code", "asserted", run_id, _claude_agents(headers))
    for name in _CODEX_SESSIONS:
        if session := _text(headers, name):
            run_id = clean(f"codex:{session}")
            return Said("codex", "asserted", run_id, _codex_threads(headers, session))
    trace = _TRACEPARENT.match(headers.get(_TRACE, b"").strip())
    if trace is None or not trace[1].strip(b"0") or not trace[2].strip(b"0"):
        return None
    return Said("traceparent", "inferred", f"trace:{trace[1].decode()}")


def clean(text: str) -> str:
    """Printable, without blanks around it, and not too long to stand in the books."""
    text = text[: 2 * MAX_RUN_CHARS]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text.strip()[:MAX_RUN_CHARS]


def token_in_baggage(baggage: bytes) -> bytes:
    """The chain token among the members of a `baggage` header. Of two that differ, neither can be
    meant: joined by a comma, they are no token.
    """
    if _NAME not in baggage:
        return b""
    values = {
        value.partition(b";")[0].strip() for name, value in _members(baggage) if name == _NAME
    }
    return ",".join(sorted(unquote(value.decode("latin-1")) for value in values)).encode()


def onward_headers(token: str, baggage: bytes) -> tuple[tuple[str, bytes], ...]:
    """The headers that carry a token to the next agent, beside what else its baggage holds."""
    members = [(name, value) for name, value in _members(baggage) if name != _NAME]
    ours = (_NAME, token.encode())
    joined = b",".join(b"%s=%s" % member for member in (*members, ours))
    value = joined if len(joined) <= _MAX_BAGGAGE_BYTES else b"%s=%s" % ours
    return ((CHAIN_HEADER, token.encode()), (BAGGAGE, value))


def _members(baggage: bytes) -> list[tuple[bytes, bytes]]:
    """The members of a W3C baggage header; none where it is larger than anybody must read."""
    if len(baggage) > _MAX_BAGGAGE_BYTES:
        return []
    members = (_MEMBER.fullmatch(one.strip()) for one in baggage.split(b","))
    return [(member[1], member[2]) for member in members if member is not None]


def _claude_agents(headers: Headers) -> tuple[str, ...]:
    """Claude Code names a subagent, and its parent where that is a subagent too; the main
    conversation has no agent id.
    """
    agent = _segment(headers, "x-claude-code-agent-id")
    parent = _segment(headers, "x-claude-code-parent-agent-id")
    if not agent:
        return ()
    return (parent, agent) if parent and parent != agent else (agent,)


def _codex_threads(headers: Headers, session: str) -> tuple[str, ...]:
    """Codex sends the root thread's id as the session's, so a thread of another id is a subagent's,
    and its parent stands between if that is not the root. A subagent without a thread of its own
    (`review`, `compact`) stands there by its kind.
    """
    thread = _segment(headers, "thread-id") or _segment(headers, "thread_id")
    root = _short(session)
    if not thread or thread == root:
        kind = _segment(headers, "x-openai-subagent")
        return (kind,) if kind else ()
    parent = _segment(headers, "x-codex-parent-thread-id")
    return (thread,) if parent in ("", root, thread) else (parent, thread)


def _text(headers: Headers, name: str) -> str:
    value = headers.get(name)
    return clean(value.decode("utf-8", "replace")) if value else ""


def _segment(headers: Headers, name: str) -> str:
    return _short(_text(headers, name))


def _short(text: str) -> str:
    return text[:_MAX_SEGMENT].replace("/", "_")
