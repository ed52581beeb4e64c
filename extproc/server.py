"""The gRPC service that Envoy calls. The request path is `Sidecar.process`; knows no settings."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from random import getrandbits
from typing import Any, Final

import grpc

from extproc import envoy
from extproc.budget import Admitted, Plan, StoreAway, judge, throttled
from extproc.exchange import Exchange, Reserve
from extproc.outbox import Outbox
from extproc.policy import Policy
from extproc.providers.routing import Told
from extproc.refusal import Refusal
from extproc.store import Store

log = logging.getLogger(__name__)

MAX_STREAMS: Final = 4096
"""Calls one worker handles at the same time; Envoy sends further ones to another."""
_MAX_TOLD: Final = 256
_SERVING: Final = b"\x08\x01"
_NOT_SERVING: Final = b"\x08\x02"


def now() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def new_event_id(now_us: int) -> str:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    value = now_us // 1000 << 80 | 7 << 76 | getrandbits(12) << 64 | 2 << 62 | getrandbits(62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Budgets:
    """Asks the store and lets `judge` decide."""

    def __init__(self, store: Store, policy: Policy, *, open_when_away: bool) -> None:
        self._store = store
        self._policy = policy
        self._open_when_away = open_when_away

    async def reserve(self, plan: Plan, *, grow: bool = False) -> Admitted | Refusal:
        """The verdict on a plan. A call that no budget counts needs no store."""
        if not plan.shares:
            return Admitted(held=False, granted=plan.most)
        reply = await self._store.reserve(plan, grow=grow)
        if isinstance(reply, StoreAway):
            log.warning("The call %s met no budget store: %s.", plan.event_id, reply.says)
        else:
            for budget_id, left in throttled(plan, reply):
                self._policy.note(budget_id, left)
        return judge(plan, reply, now(), open_when_away=self._open_when_away)


class Sidecar:
    """One Envoy stream is one HTTP call is one `Exchange`."""

    def __init__(self, policy: Policy, budgets: Budgets, outbox: Outbox) -> None:
        self.policy = policy
        self.budgets = budgets
        self.outbox = outbox
        self.calls = 0
        self.under_way = 0
        self._told: dict[tuple[Any, ...], Told] = {}

    async def process(
        self, messages: AsyncIterator[envoy.Request], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        exchange = Exchange(self.policy, new_event_id(now()), self._route(context))
        self.calls += 1
        self.under_way += 1
        try:
            async for message in messages:
                action = exchange.receive(envoy.decode(message), now())
                if isinstance(action, Reserve):
                    self.outbox.open(exchange.draft())
                    verdict = await self.budgets.reserve(action.plan, grow=action.grow)
                    action = exchange.receive(verdict, now())
                    self.outbox.open(exchange.draft())
                if exchange.done:
                    self.outbox.put(exchange.close(now()))
                yield envoy.encode(action, answering=message)
        finally:
            self.under_way -= 1
            self.outbox.put(exchange.close(now()))

    def _route(self, context: grpc.aio.ServicerContext[Any, Any]) -> Told:
        """What the route's `grpc_initial_metadata` says; the same few for every call, so
        remembered.
        """
        metadata = tuple(
            (name, value)
            for name, value in context.invocation_metadata() or ()
            if name.startswith("x-tollkeeper-")
        )
        told = self._told.get(metadata)
        if told is None:
            said = dict(metadata)
            told = Told(
                provider=str(said.get("x-tollkeeper-provider", "")),
                api=str(said.get("x-tollkeeper-api", "")),
                prefix=str(said.get("x-tollkeeper-prefix", "")),
            )
            if len(self._told) < _MAX_TOLD:
                self._told[metadata] = told
        return told


def build_server(process: Any, serving: Callable[[], bool]) -> grpc.aio.Server:
    """A grpc.aio server of the ext_proc service and of the health check that Envoy asks."""

    async def check(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return _SERVING if serving() else _NOT_SERVING

    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        maximum_concurrent_rpcs=MAX_STREAMS,
    )
    handler = grpc.stream_stream_rpc_method_handler(process, request_deserializer=envoy.parse)
    health = grpc.unary_unary_rpc_method_handler(check)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(envoy.SERVICE, {"Process": handler}),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health}),
        )
    )
    return server
