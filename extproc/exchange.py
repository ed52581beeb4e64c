"""One HTTP call as Envoy tells it: a state machine without I/O, clock or protobuf.

Theory of operation
-------------------
Envoy opens one gRPC stream per HTTP call and sends what it sees, message by message. Each message
becomes an event for `Exchange.receive`, and each event gets exactly one action back, because Envoy
wants exactly one reply. One action cannot be sent as it is: `Reserve` asks the world to set money
aside, and its verdict (`Admitted` or a `Refusal`) is received like any other event; the action that
answers the verdict answers the message.

A call is refused only before it goes upstream, by `Respond`; after that it is only watched. It is
`done` when nothing that can still arrive would change its event: refused, a whole answer read, or
the API's last word seen in a stream. The caller hands the event over as soon as the exchange is
done and *before* it sends the reply, so that no client has seen the end of an answer that is not on
record. A stream that ends earlier is closed as it stands.

States
------
IDLE        nothing has come yet
BODY        the key is good; waiting for the whole request body, which names model and maximum
RESERVING   `Reserve` is out; waiting for the verdict
UPSTREAM    admitted; waiting for the response headers
BUFFERED    waiting for the whole response body
STREAMED    reading a response as it passes
GROWING     as STREAMED, and a larger hold is asked for; the chunk in hand waits for the verdict
CUT         the hold could not grow: the API's own error was sent, and the next chunk is a reset
DONE        the event is settled; whatever comes is let pass unchanged

Envoy answers some calls itself (a path it will not route, a body beyond its buffer); such an answer
comes here too, and passes.

A message that the table below does not have is Envoy out of step. Before admission it is refused,
since nothing may go upstream unmetered; after admission it is let pass, since the answer is paid
for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from math import inf
from typing import Any, Final, overload

from extproc import own_api
from extproc.agents import refuse_agent
from extproc.budget import Admitted, Plan
from extproc.chain import Followed, follow, follow_body, onward
from extproc.events import (
    CONTINUE,
    BodyMode,
    Continue,
    Headers,
    Message,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    Respond,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from extproc.form import as_json, is_form
from extproc.hold import Hold, hold_asked, hold_growth, hold_unread, refuse_unread
from extproc.identity import present, proven, recognise, refuse_key
from extproc.inflate import InflateError, open_inflate
from extproc.meter import Call, Draft, Settlement, draft, meter, output_so_far
from extproc.policy import Policy
from extproc.providers.routing import OWN_PROVIDER, Destination, Told, destination
from extproc.providers.shape import Answer, Asked, BadRequest
from extproc.reading import FRAMINGS, StreamedAnswer
from extproc.refusal import Refusal
from extproc.signals import BAGGAGE, CHAIN_HEADER, SIGNALS, onward_headers
from ledger.money import usd_from_nanos


@dataclass(frozen=True, slots=True)
class Reserve:
    """Ask the store for these holds, all or none, and give the verdict back to the exchange.

    `grow`: they add to what the call holds already.
    """

    plan: Plan
    grow: bool = False


class State(Enum):
    IDLE = auto()
    BODY = auto()
    RESERVING = auto()
    UPSTREAM = auto()
    BUFFERED = auto()
    STREAMED = auto()
    GROWING = auto()
    CUT = auto()
    DONE = auto()


Reply = Continue | Respond
Action = Reply | Reserve
Verdict = Admitted | Refusal

_BEFORE_ADMISSION: Final = (State.IDLE, State.BODY, State.RESERVING)
_EARLY: Final = 0.7
_LATE: Final = 0.95
"""Parts of a stream's hold at which more is asked for, and at which it is the last time."""
_UNREAD_REQUESTS: Final = ("other", "batches")
"""Operations whose request says nothing of its cost, or is too large to be read for it."""
_METERED_TYPES: Final = ("", "application/json", "text/plain")
_DESTINATION_UNKNOWN: Final = Told()


class Exchange:
    """One call. `event_id` is its identity, `told` what the gateway's route says about it."""

    def __init__(self, policy: Policy, event_id: str, told: Told = _DESTINATION_UNKNOWN) -> None:
        self.state = State.IDLE
        self._policy = policy
        self._told = told
        self._call = Call(event_id=event_id, started_us=0, run_id=event_id)
        self._destination: Destination | None = None
        self._form = b""
        self._request_mode = BodyMode.NONE
        self._body = b""
        self._injected = False
        self._signed = False
        self._answer_headers: Headers = {}
        self._onward: Continue = CONTINUE
        self._followed: Followed | None = None
        self._own_answer: Respond | None = None
        self._baggage = b""
        self._chain_headers: tuple[tuple[str, bytes], ...] = ()
        self._hold: Hold | None = None
        self._granted = 0
        self._grow_at = 0.0
        self._seen = 0
        self._reading: StreamedAnswer | None = None
        self._content_type = ""
        self._content_encoding = ""
        self._settlement: Settlement | None = None
        self._closed = False

    @property
    def done(self) -> bool:
        return self.state in (State.DONE, State.CUT)

    @overload
    def receive(self, event: Verdict, now_us: int) -> Reply: ...

    @overload
    def receive(self, event: Message, now_us: int) -> Action: ...

    def receive(self, event: Message | Verdict, now_us: int) -> Action:
        """The one action that answers `event`."""
        if not self._call.started_us:
            self._call.started_us = now_us
        step = _TRANSITIONS.get((self.state, type(event)))
        if step is not None:
            return step(self, event, now_us)
        if self.state in _BEFORE_ADMISSION:
            return self._refuse(_OUT_OF_ORDER)
        return CONTINUE

    def draft(self) -> Draft | None:
        """The event as it would stand if this process died now: before its hold is asked for, so
        that no hold outlives its call, and once more when it has been let through.
        """
        if self.state not in (State.RESERVING, State.UPSTREAM):
            return None
        return draft(self._call, self._policy, let_through=self.state is State.UPSTREAM)

    def close(self, now_us: int) -> Settlement | None:
        """The call's one event; None when it was handed over already or nothing was ever asked."""
        if self._closed or self.state is State.IDLE:
            return None
        self._closed = True
        if self._reading is not None:
            self._call.answer = self._reading.answer
            self._complete(self._reading.answer)
        self._learn()
        return self._settlement or meter(self._call, self._policy, now_us)

    def _request_headers(self, event: RequestHeaders, now_us: int) -> Action:
        headers, call = event.headers, self._call
        call.method = headers.get(":method", b"").decode("latin-1")
        path = headers.get(":path", b"").decode("latin-1")
        presented = present(headers, path)
        if presented.candidates:
            presented = recognise(presented, path, self._policy.keys)
        self._destination = target = destination(presented.path or path, self._told)
        call.provider, call.path = target.provider, target.path
        call.has_body = not event.ended
        method = "POST" if call.has_body else call.method
        call.operation = target.api.operation(method, target.path)
        call.per_call = target.per_call
        if not self._policy.ready:
            return self._refuse(_NOT_READY)
        key = self._policy.key(presented.digest)
        refusal = refuse_key(key, presented.digest is not None, now_us)
        if refusal is None and key is not None:
            refusal = refuse_agent(self._policy.agents.get(key.agent))
        call.who = self._policy.attribution(key) if key is not None else None
        if call.who is not None and (event.claims or call.who.key.customer_header):
            call.who = proven(call.who, event, self._policy.principal_claims)
        call.byok, self._signed = presented.byok, presented.signed
        if refusal is not None:
            return self._refuse(refusal)
        if target.provider == OWN_PROVIDER:
            return self._own_api(event, now_us)
        if not SIGNALS.isdisjoint(headers):
            assert call.who is not None
            self._follow(follow(headers, call.who, self._policy, call.event_id, now_us))
        changes = () if presented.path is None else ((":path", presented.path.encode("latin-1")),)
        if call.operation != "other" and call.method != "POST":
            return self._refuse(_NOT_POST)  # a lenient server might serve it all the same
        if call.operation in _UNREAD_REQUESTS:
            self._onward = Continue(set_headers=changes, remove_headers=presented.remove)
            if (refusal := refuse_unread(call)) is not None:
                return self._refuse(refusal)
            hold = hold_unread(call, self._policy, now_us)
            if call.free and not hold.plan.shares:
                self.state = State.UPSTREAM
                return self._onward
            return self._reserve(hold)
        return self._want_body(event, changes, presented.remove)

    def _follow(self, followed: Followed) -> None:
        """Take a call for what its signals came to."""
        self._followed, self._call.who = followed, followed.who
        self._call.run_id = followed.run_id or self._call.run_id

    def _hand_on(self, now_us: int) -> None:
        """Let a call to another agent take its run along, in headers that go on with its body."""
        call = self._call
        assert call.who is not None
        before = self._followed or Followed(call.who)
        followed, token = onward(before, call.provider, self._policy, call.event_id, now_us)
        self._follow(followed)
        self._chain_headers = onward_headers(token, self._baggage) if token else ()

    def _own_api(self, event: RequestHeaders, now_us: int) -> Action:
        """Nothing goes upstream: the sidecar is the one who answers."""
        refusal = own_api.refuse_call(self._call.method, self._call.path)
        if refusal is None:
            refusal = _too_large(event.headers, own_api.MAX_BODY_BYTES)
        if refusal is not None:
            return self._refuse(refusal)
        if event.ended:
            return self._start_run(b"", now_us)
        self._content_encoding = _coding(event.headers)
        self.state = State.BODY
        return Continue(request_body=BodyMode.BUFFERED, response_body=BodyMode.NONE)

    def _start_run(self, body: bytes, now_us: int) -> Action:
        call = self._call
        assert call.who is not None
        started = own_api.start_run(body, call.who, self._policy, call.event_id, now_us)
        if isinstance(started, Refusal):
            return self._refuse(started)
        self._follow(started)
        headers = (("content-type", b"application/json"), self._stamps()[0])
        said = own_api.answer(started)
        self._own_answer = Respond(200, headers, said, "tollkeeper_run_started")
        hold = hold_unread(call, self._policy, now_us)
        return self._reserve(hold) if hold.plan.shares else self._answer_own()

    def _answer_own(self) -> Respond:
        assert self._own_answer is not None
        self._call.outcome, self._call.http_status = "ok", self._own_answer.status
        self.state = State.DONE
        return self._own_answer

    def _stamps(self) -> tuple[tuple[str, bytes], ...]:
        """What every answer says of its call: its event, and in a chain the token for what comes
        next.
        """
        event_id = ("x-tollkeeper-event-id", self._call.event_id.encode())
        followed = self._followed
        if followed is None:
            return (event_id,)
        token, fault = followed.token.encode(), followed.fault.encode()
        chain = ((CHAIN_HEADER, token),) if token else ()
        doubt = (("x-tollkeeper-chain-fault", fault),) if fault else ()
        return (event_id, *chain, *doubt)

    def _want_body(
        self, event: RequestHeaders, changes: tuple[tuple[str, bytes], ...], remove: tuple[str, ...]
    ) -> Action:
        refusal = _too_large(event.headers, self._policy.max_request_bytes)
        if refusal is not None:
            return self._refuse(refusal)
        if event.ended:
            says = "This call needs a JSON body, and none was sent."
            return self._refuse(Refusal(status=400, code="malformed_request", message=says))
        self._content_encoding = _coding(event.headers)
        if self._call.silent and is_form(content_type := event.headers.get("content-type", b"")):
            self._form = content_type
        self._request_mode = BodyMode.BUFFERED
        self.state = State.BODY
        # A signature may cover this header.
        plain = () if self._signed else (("accept-encoding", b"identity"),)
        if self._call.operation == "agent_call":
            self._baggage = event.headers.get(BAGGAGE, b"")
        return Continue(
            set_headers=(*changes, *plain),
            remove_headers=remove,
            request_body=BodyMode.BUFFERED,
            response_body=BodyMode.NONE,
        )

    def _request_body(self, event: RequestBody, now_us: int) -> Action:
        assert self._destination is not None
        api, call = self._destination.api, self._call
        try:
            body = self._decoded(event.body, self._policy.max_request_bytes)
        except InflateError as error:
            return self._refuse(_malformed(f"The request body cannot be decoded: {error}"))
        if call.provider == OWN_PROVIDER:
            return self._start_run(body, now_us)
        said = as_json(body, self._form) if self._form else body
        if isinstance(said, BadRequest):
            return self._refuse(_malformed(said.says))
        asked = api.read_request(call.operation, said, self._destination.path_and_query)
        if asked.api is not None:
            self._destination = replace(self._destination, api=asked.api)
        if isinstance(asked, BadRequest):
            return self._refuse(_malformed(asked.says))
        if deployment := self._destination.deployment:
            model = self._policy.deployments.get(deployment, deployment)
            asked = replace(asked, model=model)
        if self._signed:
            asked = replace(asked, fixed=True, stamp=None, usage_on_request=False)
        call.asked = asked
        call.operation = asked.operation or call.operation
        call.streamed = asked.streamed
        if asked.prompt_cache_key and call.run_id == call.event_id:
            assert call.who is not None
            self._follow(follow_body(call.who, asked.prompt_cache_key))
        if call.operation == "agent_call":
            self._hand_on(now_us)
        self._body = body
        self._injected = asked.usage_on_request and call.provider not in self._policy.usage_unasked
        hold = self._hold_asked(asked, now_us)
        if isinstance(hold, Refusal):
            return self._refuse(hold)
        if call.free and not hold.plan.shares:
            self.state = State.UPSTREAM
            return CONTINUE
        return self._reserve(hold)

    def _hold_asked(self, asked: Asked, now_us: int) -> Hold | Refusal:
        """What to hold for the request that was read."""
        call, policy = self._call, self._policy
        if not call.per_call:
            return hold_asked(call, policy, now_us)
        if call.operation == "other":
            return hold_unread(call, policy, now_us)
        if call.operation == "agent_call":
            refusal = refuse_agent(policy.agents.get(call.provider))
            if refusal is not None:
                return refusal
        call.price_nanos = policy.price_per_call(call.operation, call.provider, asked.tool_name)
        return hold_asked(call, policy, now_us)

    def _reserve(self, hold: Hold) -> Action:
        self._hold = hold
        self.state = State.RESERVING
        return Reserve(hold.plan)

    def _admitted(self, event: Admitted, now_us: int) -> Action:
        assert self._hold is not None
        call, hold = self._call, self._hold
        call.shadow = event.shadow
        if self._own_answer is not None:
            return self._answer_own()
        self._granted = event.granted
        money = any(share.budget.unit == "usd" for share in hold.plan.shares)
        call.hold_nanos = hold.nanos_for(event.granted) if event.held and money else 0
        self._grow_at = _EARLY * event.granted if hold.grows and event.held else inf
        self.state = State.UPSTREAM
        return self._onward if call.asked is None else self._send_on(hold, event.held)

    def _send_on(self, hold: Hold, held: bool) -> Continue:
        """The request as it goes upstream: asking for usage, and with the maximum that is held."""
        assert self._destination is not None
        assert self._call.asked is not None
        api, asked, body = self._destination.api, self._call.asked, self._body
        self._body = b""
        changed = api.ask_for_usage(body) if self._injected else body
        if hold.states_maximum and held:
            changed = api.state_maximum(self._call.operation, changed, asked.model, self._granted)
        if asked.stamp is not None:
            changed = asked.stamp(changed, self._call.event_id)
        if changed is body:
            return Continue(self._chain_headers) if self._chain_headers else CONTINUE
        return Continue(
            set_headers=(("content-length", str(len(changed)).encode()), *self._chain_headers),
            remove_headers=("content-encoding",) if self._content_encoding else (),
            body=changed,
        )

    def _refused(self, event: Refusal, now_us: int) -> Action:
        self._call.hold_nanos = 0
        return self._refuse(event)

    def _refuse(self, refusal: Refusal) -> Respond:
        assert self._destination is not None or self.state is State.IDLE
        call = self._call
        call.refusal, call.outcome, call.http_status = refusal, "refused", refusal.status
        target = self._destination or destination("/", self._told)
        headers = [
            *target.refusal_headers(refusal),
            ("content-type", b"application/json"),
            ("x-tollkeeper-event-id", call.event_id.encode()),
            ("x-should-retry", b"true" if refusal.retryable else b"false"),
        ]
        if refusal.retry_after_s is not None:
            headers.append(("retry-after", str(refusal.retry_after_s).encode()))
        self.state = State.DONE
        details = f"tollkeeper_{refusal.code}"  # Envoy leaves such a reply as it is
        return Respond(refusal.status, tuple(headers), target.api.refuse(refusal), details)

    def _own_reply(self, event: ResponseHeaders, now_us: int) -> Action:
        """Envoy's own error, such as 413 for a body beyond its buffer, passes as it is: it cost
        nothing. A good answer to a request that we never let go is Envoy out of step.
        """
        status = event.headers.get(":status", b"")
        if not status.isdigit() or int(status) < 400:
            return self._refuse(_OUT_OF_ORDER)
        call = self._call
        call.outcome, call.http_status = "refused", int(status)
        call.refusal = Refusal(status=int(status), code="gateway_refused", message="")
        self.state = State.DONE
        return Continue(set_headers=(("x-tollkeeper-event-id", call.event_id.encode()),))

    def _response_headers(self, event: ResponseHeaders, now_us: int) -> Action:
        headers, call = event.headers, self._call
        status = headers.get(":status", b"")
        call.http_status = int(status) if status.isdigit() else 0
        call.first_byte_us = now_us - call.started_us
        attempts = headers.get("x-envoy-attempt-count", b"")
        call.attempts = int(attempts) if attempts.isdigit() else 1
        stamp = self._stamps()
        mode = BodyMode.NONE if event.ended else self._response_mode(headers)
        if mode is BodyMode.NONE:
            return self._unread(stamp)
        self._content_encoding = _coding(headers)
        self._answer_headers = headers
        if mode is BodyMode.BUFFERED:
            call.streamed = False
            self.state = State.BUFFERED
            return Continue(set_headers=stamp, request_body=self._request_mode, response_body=mode)
        assert self._destination is not None
        call.streamed = True
        self._reading = StreamedAnswer(
            self._destination.api.stream(call.operation),
            self._content_type,
            self._content_encoding,
            remove_usage=self._injected,
            whole_events=self._grow_at != inf,
        )
        self.state = State.STREAMED
        return Continue(
            set_headers=stamp,
            remove_headers=("content-encoding",) if self._reading.decoded else (),
            request_body=self._request_mode,
            response_body=mode,
        )

    def _response_mode(self, headers: Headers) -> BodyMode:
        """Whether we read this answer, and how."""
        if self._call.operation == "other":
            return BodyMode.NONE
        content_type = headers.get("content-type", b"").partition(b";")[0].strip().lower()
        self._content_type = kind = content_type.decode("latin-1")
        asked = self._call.asked
        array = asked is not None and asked.array_stream and self._call.http_status < 400
        if kind in FRAMINGS and (array or kind != "application/json"):
            return BodyMode.STREAMED
        length = headers.get("content-length", b"")
        if length.isdigit() and int(length) > self._policy.max_response_bytes:
            return BodyMode.NONE
        if kind in _METERED_TYPES or kind.endswith("+json"):
            return BodyMode.BUFFERED
        return BodyMode.NONE

    def _unread(self, stamp: tuple[tuple[str, bytes], ...]) -> Continue:
        call = self._call
        call.streamed = False
        readable = call.operation != "other" and not call.silent
        call.outcome = "provider_error" if call.http_status >= 400 or readable else "ok"
        self.state = State.DONE
        return Continue(set_headers=stamp)

    def _whole_answer(self, event: ResponseBody, now_us: int) -> Action:
        assert self._destination is not None
        call = self._call
        try:
            body = self._decoded(event.body, self._policy.max_response_bytes)
        except InflateError:
            body = b""
        call.answer = answer = self._destination.api.read_answer(call.operation, body)
        self._complete(answer)
        cut = not answer.complete and body.lstrip().startswith(b"{")
        readable = answer.usage is not None or answer.output_bytes > 0 or answer.uncounted
        readable = readable or answer.performed is not None or (call.silent and not cut)
        if call.http_status >= 400 or answer.failed:
            call.outcome = "provider_error"
        elif readable:
            call.outcome = "ok"
        else:
            call.outcome = "provider_gone" if cut else "provider_error"
            answer.complete = not cut
        self.state = State.DONE
        self._settlement = meter(call, self._policy, now_us)
        cost = self._settlement.fields.get("cost_nanos")
        if cost is None:
            return CONTINUE
        return Continue(set_headers=(("x-tollkeeper-cost-usd", usd_from_nanos(cost).encode()),))

    def _complete(self, answer: Answer) -> None:
        assert self._destination is not None
        model = self._call.asked.model if self._call.asked is not None else ""
        self._destination.complete(answer, model, self._answer_headers)

    def _chunk(self, event: ResponseBody, now_us: int) -> Action:
        assert self._reading is not None
        body = self._reading.feed(event.body, event.ended)
        reply = CONTINUE if body is None else Continue(body=body)
        answer, call = self._reading.answer, self._call
        if answer.complete or answer.failed:
            failed = answer.failed or call.http_status >= 400
            call.outcome = "provider_error" if failed else "ok"
        elif event.ended:
            self._stream_ended(answer)
        if event.ended or answer.complete:
            self.state = State.DONE
            return reply
        return reply if self._grow_at == inf else self._watch(reply, event.body, now_us)

    def _stream_ended(self, answer: Answer) -> None:
        """Some APIs have no last word: theirs is the end, once they have said why they stop."""
        answer.complete = answer.finished
        self._call.outcome = "ok" if answer.finished else "provider_gone"

    def _watch(self, reply: Continue, chunk: bytes, now_us: int) -> Action:
        """Let the hold grow before the answer outgrows it."""
        assert self._reading is not None
        assert self._hold is not None
        call, answer = self._call, self._reading.answer
        model = answer.model or (call.asked.model if call.asked is not None else "")
        self._seen = output_so_far(call, answer, model, self._policy)
        if self._seen < self._grow_at:
            return reply
        plan = hold_growth(call, self._policy, self._hold, self._granted, now_us)
        self._onward = reply if reply.body is not None else Continue(body=chunk)
        self.state = State.GROWING
        return Reserve(plan, grow=True)

    def _grown(self, event: Admitted, now_us: int) -> Action:
        assert self._hold is not None
        call = self._call
        self._granted += event.granted
        if call.hold_nanos:
            call.hold_nanos = self._hold.nanos_for(self._granted)
        self._grow_at = _EARLY * self._granted if event.held else inf
        self.state = State.STREAMED
        return self._onward

    def _not_grown(self, event: Refusal, now_us: int) -> Action:
        """Ask once more just before the hold is used up; then end the stream, so that it holds."""
        assert self._destination is not None
        call = self._call
        last = _LATE * self._granted
        if self._seen < last:
            self._grow_at = last
            self.state = State.STREAMED
            return self._onward
        says = f"This answer has outgrown what is left of {event.limit!r}, and ends here."
        code = "budget_spent" if event.code == "budget_held" else event.code
        refusal = replace(event, code=code, message=says, retry_after_s=None)
        call.refusal, call.outcome = refusal, "cut"
        self.state = State.CUT
        api, kind = self._destination.api, self._content_type
        error = api.refuse_stream(call.operation, refusal, kind)
        return Continue(body=(self._onward.body or b"") + error)

    def _reset(self, event: ResponseBody, now_us: int) -> Action:
        """After response headers an immediate response is a reset: the provider stops."""
        return Respond(500, (), b"", "tollkeeper_cut")

    def _chunk_after_done(self, event: ResponseBody, now_us: int) -> Action:
        """What follows the last word passes through the same filter, so that the client's bytes
        stay whole.
        """
        if self._reading is None:
            return CONTINUE
        body = self._reading.feed(event.body, event.ended)
        return CONTINUE if body is None else Continue(body=body)

    def _trailers(self, event: ResponseTrailers, now_us: int) -> Action:
        assert self._reading is not None
        self._stream_ended(self._reading.answer)
        self.state = State.DONE
        return CONTINUE

    def _pass(self, event: RequestTrailers, now_us: int) -> Action:
        return CONTINUE

    def _decoded(self, body: bytes, limit: int) -> bytes:
        """`body` without its content coding; raises InflateError for what cannot or must not be
        decoded.
        """
        if self._content_encoding in ("", "identity"):
            return body
        inflate = open_inflate(self._content_encoding, limit)
        if inflate is None:
            raise InflateError("Its content-encoding is not one of gzip, deflate, br and zstd.")
        return inflate.feed(body)

    def _learn(self) -> None:
        """Teach the estimates what this call's tokens weighed."""
        call = self._call
        asked, answer = call.asked, call.answer
        if asked is None or answer is None or answer.usage is None or call.outcome != "ok":
            return
        # Holds ask by the requested name, estimates of cut streams by the answered one.
        for model in {asked.model, answer.model} - {""}:
            self._policy.estimates.observe(
                call.provider,
                model,
                input_bytes=asked.input_bytes,
                input_tokens=answer.usage.input_tokens,
                output_bytes=answer.output_bytes,
                output_tokens=answer.usage.output_tokens,
            )
        if call.who is not None:
            self._policy.estimates.observe_key(
                call.who.key.key_id,
                call.provider,
                asked.model,
                input_bytes=asked.input_bytes,
                usage=answer.usage,
            )


def _coding(headers: Headers) -> str:
    return headers.get("content-encoding", b"").decode("latin-1").strip().lower()


def _too_large(headers: Headers, limit: int) -> Refusal | None:
    length = headers.get("content-length", b"")
    if not length.isdigit() or int(length) <= limit:
        return None
    says = f"The request body is larger than the gateway's limit of {limit:,} bytes."
    return Refusal(status=413, code="request_too_large", message=says)


def _malformed(says: str) -> Refusal:
    return Refusal(status=400, code="malformed_request", message=says)


_OUT_OF_ORDER: Final = Refusal(
    status=500,
    code="out_of_order",
    message="The gateway sent its messages out of order; the call was not let through.",
)
_NOT_POST: Final = Refusal(
    status=405,
    code="method_not_allowed",
    message="A body for this path is sent with POST; use that method.",
)
_NOT_READY: Final = Refusal(
    status=503,
    code="not_ready",
    message="The gateway has not loaded its keys yet; try again in a moment.",
    retry_after_s=1,
)

_TRANSITIONS: Final[dict[tuple[State, type], Callable[[Exchange, Any, int], Action]]] = {
    (State.IDLE, RequestHeaders): Exchange._request_headers,
    (State.IDLE, ResponseHeaders): Exchange._own_reply,
    (State.BODY, RequestBody): Exchange._request_body,
    (State.BODY, ResponseHeaders): Exchange._own_reply,
    (State.RESERVING, Admitted): Exchange._admitted,
    (State.RESERVING, Refusal): Exchange._refused,
    (State.UPSTREAM, RequestTrailers): Exchange._pass,
    (State.UPSTREAM, ResponseHeaders): Exchange._response_headers,
    (State.BUFFERED, ResponseBody): Exchange._whole_answer,
    (State.STREAMED, ResponseBody): Exchange._chunk,
    (State.STREAMED, ResponseTrailers): Exchange._trailers,
    (State.GROWING, Admitted): Exchange._grown,
    (State.GROWING, Refusal): Exchange._not_grown,
    (State.CUT, ResponseBody): Exchange._reset,
    (State.DONE, ResponseBody): Exchange._chunk_after_done,
}
