"""The gateway's own API, answered by the sidecar itself: `POST /tollkeeper/v1/runs` starts a run.
Knows no HTTP beyond method, path and JSON.
"""

from datetime import UTC, datetime
from typing import Any, Final

import orjson

from extproc.chain import Followed, start
from extproc.identity import Attribution
from extproc.policy import Policy
from extproc.refusal import Refusal
from ledger import chains

RUNS_PATH: Final = "/v1/runs"
MAX_BODY_BYTES: Final = 16 * 1024
_FAULTS: Final = {
    "no_signing_key": Refusal(
        status=503,
        code="no_signing_key",
        message="This gateway has no key to sign chains with yet; ask your platform team.",
    ),
    "too_large": Refusal(
        status=400,
        code="malformed_request",
        message=f"The run's token would be larger than {chains.MAX_TOKEN_BYTES} bytes; name fewer "
        "keys, agents or teams in its audience.",
    ),
}


def refuse_call(method: str, path: str) -> Refusal | None:
    """Why there is nothing behind this method and path, or None."""
    if path != RUNS_PATH:
        says = "Tollkeeper's own API has only POST /tollkeeper/v1/runs, which starts a run."
        return Refusal(status=404, code="unknown_path", message=says)
    if method != "POST":
        says = "POST starts a run; `ledger runs` lists and shows them."
        return Refusal(status=405, code="method_not_allowed", message=says)
    return None


def start_run(
    body: bytes, who: Attribution, policy: Policy, event_id: str, now_us: int
) -> Followed | Refusal:
    """The run that the body asks for: `{"audience": ["agent=coder"], "ttl_s": 3600}`, all of it
    optional.
    """
    try:
        asked = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError:
        asked = None
    if not isinstance(asked, dict) or asked.keys() - {"audience", "ttl_s"}:
        return _malformed("The body must be a JSON object with `audience` and `ttl_s`, or empty.")
    ttl_s, entries = asked.get("ttl_s", chains.DEFAULT_TTL_S), asked.get("audience", [])
    if type(ttl_s) is not int or not 0 < ttl_s <= chains.MAX_TTL_S:
        return _malformed(f"`ttl_s` must be a whole number from 1 to {chains.MAX_TTL_S}.")
    if not isinstance(entries, list) or not all(isinstance(one, str) for one in entries):
        return _malformed("`audience` must be a list of strings such as agent=coder.")
    try:
        audience = chains.parse_audience(entries)
    except ValueError as error:
        return _malformed(str(error))
    started = start(who, policy, event_id, now_us, audience, ttl_s)
    return _FAULTS[started] if isinstance(started, str) else started


def answer(started: Followed) -> bytes:
    """The run as JSON."""
    chain = started.hop
    assert chain is not None
    said: dict[str, Any] = {
        "run_id": chain.run_id,
        "chain_token": started.token,
        "expires_at": datetime.fromtimestamp(chain.expires_at_us // 1_000_000, UTC),
        "audience": chains.say_audience(chain.audience),
        "root": chain.root,
    }
    return orjson.dumps(said)


def _malformed(says: str) -> Refusal:
    return Refusal(status=400, code="malformed_request", message=says)
