"""A sidecar that only reports: TOLLKEEPER_ENFORCE=shadow, whatever its budgets say."""

from pathlib import Path

import pytest
import redis

from ledger.budgets import Budget
from ledger.embedded import socket_directory
from ledger.event import MeteredEvent, from_bytes
from ledger.keyspace import Keyspace
from tests.e2e import envoy_voice as say
from tests.e2e import seeded
from tests.e2e.envoy_voice import Voice, voice
from tests.e2e.processes import until
from tests.e2e.seeded import KEY
from tests.e2e.test_ext_proc_protocol import ANSWER, ASK, CHAT

SMALL = Budget(
    budget_id="b1",
    name="small",
    where=(("team", "risk"),),
    unit="usd",
    amount=1000,
    per="total",
    version=1,
)


async def _answered(envoy: Voice) -> bool:
    """One call to its end; whether it was let through."""
    async with envoy.call() as call:
        await call.say(say.request_headers(CHAT, key=KEY))
        reply = await call.say(say.request_body(ASK))
        if reply.immediate_response is not None:
            return False
        await call.say(say.response_headers())
        await call.say(say.response_body(ANSWER))
        return True


@pytest.mark.parametrize("enforce", ["hard", "shadow"])
async def test_a_deployment_can_start_in_shadow(
    enforce: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a hard deployment refuses, one in shadow lets through and notes on its event."""
    monkeypatch.setenv("TOLLKEEPER_ENFORCE", enforce)
    sockets = socket_directory(tmp_path, "shadow")
    with redis.Redis.from_url(redis_url) as store:
        seeded.publish(store, [SMALL])
        with seeded.sidecar(redis_url, sockets, tmp_path / "spool") as process:
            until(process.socket.exists, what="the sidecar listens")
            async with voice(process.socket) as envoy:
                await _ready(envoy)
                passed = await _answered(envoy)
            events = until(lambda: _metered(store) or None, what="its event")
    assert passed == (enforce == "shadow")
    [event] = events
    if passed:
        assert (event.outcome, event.shadow_refusal) == ("ok", "request_over_budget small")
        assert event.cost_nanos
        assert event.cost_nanos > SMALL.amount
    else:
        assert (event.outcome, event.refusal) == ("refused", "request_over_budget")
        assert event.refused_by == "small"


async def _ready(envoy: Voice) -> None:
    """Ask for the list of models until the sidecar has its directory."""
    for _ in range(1000):
        async with envoy.call() as call:
            head = say.request_headers("/openai/v1/models", method="GET", ended=True, key=KEY)
            if (await call.say(head)).immediate_response is None:
                return
    raise AssertionError("the sidecar never had its directory")


def _metered(store: redis.Redis) -> list[MeteredEvent]:
    """The calls that reached the stream, without those that asked for the list of models."""
    entries: list[tuple[bytes, dict[bytes, bytes]]] = store.xrange(Keyspace().events)  # type: ignore[assignment]
    found = [from_bytes(fields[b"e"]) for _, fields in entries]
    return [event for event in found if event.operation == "chat"]
