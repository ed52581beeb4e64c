"""Every way we could think of to call for free, on somebody else's bill, or to learn what is not
one's own. What is behind the gateway here serves and bills anything that has a body.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import httpx
import pytest

from tests.e2e import raw_http
from tests.e2e.fake import Fake
from tests.e2e.lenient import INPUT_TOKENS, OUTPUT_TOKENS, Lenient, lenient_provider
from tests.e2e.processes import until
from tests.e2e.stack import EVENT_ID, Stack, running

CHAT: Final = "/openai/v1/chat/completions"
ASK: Final = json.dumps(
    {"model": "gpt-4o-mini", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}
).encode()


@pytest.fixture(scope="module")
def provider() -> Iterator[Lenient]:
    with lenient_provider() as started:
        yield started


@pytest.fixture(scope="module")
def gate(provider: Lenient, services_directory: Path) -> Iterator[Stack]:
    """A stack before the lenient provider."""
    with running(services_directory / "red", Fake(provider.url)) as started:
        yield started


@pytest.fixture(scope="module")
def rich(gate: Stack) -> dict[str, Any]:
    """A key that may call."""
    return gate.issue(team="red")


@pytest.fixture(scope="module")
def poor(gate: Stack) -> dict[str, Any]:
    """A key that has spent its lifetime limit: this provider bills more than it was asked for."""
    key = gate.issue("--max-spend", "0.0005", team="poor")
    headers = {"authorization": f"Bearer {key['key']}", "content-type": "application/json"}

    def is_refused() -> bool:
        answer = httpx.post(gate.gateway + CHAT, content=ASK, headers=headers)
        return answer.status_code == 402 and answer.json()["error"]["code"] == "key_limit_spent"

    until(is_refused, what="the key has spent its limit")
    return key


MODEL: Final = "/gemini/v1beta/models/gemini-2.5-flash"
GENERATE: Final = MODEL + ":generateContent"
CONTENT: Final = b'{"contents":[{"parts":[{"text":"?"}]}],"generationConfig":{"maxOutputTokens":9}}'
Attack = Callable[[str, str], bytes]
"""From a key and a nonce to the bytes of a request."""


def call(
    path: str = CHAT,
    *headers: str,
    method: str = "POST",
    body: bytes = ASK,
    version: str = "HTTP/1.1",
    credential: str = "authorization: Bearer {key}",
    length: bool = True,
) -> Attack:
    """A request that is odd in one way."""

    def build(key: str, nonce: str) -> bytes:
        lines = [f"{method} {path.replace('{key}', key)} {version}", "host: gateway"]
        lines += ["connection: close"] if not any("connection" in h for h in headers) else []
        lines += ["content-type: application/json", f"x-nonce: {nonce}"]
        lines += [credential.replace("{key}", key)] if credential else []
        lines += [f"content-length: {len(body)}"] if length and body else []
        lines += [header.replace("{key}", key) for header in headers]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    return build


def chunked(body: bytes, *trailers: str) -> bytes:
    rest = "".join(f"{trailer}\r\n" for trailer in trailers).encode()
    return b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(body), body, rest)


_TRANSFER = "transfer-encoding: chunked"
EVASIONS: dict[str, Attack] = {
    "plain": call(),
    "bare path": call("/v1/chat/completions"),
    # the path
    "trailing slash": call(CHAT + "/"),
    "double slashes": call("/openai//v1///chat//completions"),
    "dot segments": call("/openai/v1/./chat/x/../completions"),
    "dots through another provider": call("/anthropic/../openai/v1/chat/completions"),
    "encoded dots": call("/openai/v1/x/%2e%2e/chat/completions"),
    "encoded slash": call("/openai/v1/chat%2Fcompletions"),
    "encoded backslash": call("/openai/v1/chat%5Ccompletions"),
    "backslashes": call("/openai\\v1\\chat\\completions"),
    "encoded letters": call("/openai/v1/%63hat/%63ompletions"),
    "encoded twice": call("/openai/v1/%2563hat/completions"),
    "encoded question mark": call("/openai/v1/chat/completions%3Fx"),
    "encoded end of text": call("/openai/v1/chat/completions%00"),
    "encoded space": call("/openai/v1/chat/completions%20"),
    "upper case": call("/openai/v1/CHAT/Completions"),
    "path parameter": call("/openai/v1/chat/completions;v=1"),
    "path parameter inside": call("/openai/v1/chat;v=1/completions"),
    "fragment": call("/openai/v1/chat/completions#count_tokens"),
    "free path as query": call(CHAT + "?x=/v1/moderations"),
    "free path behind a question mark": call("/openai/v1/images/generations%3F/count_tokens"),
    "free path as parameter": call("/openai/v1/images/generations;x/count_tokens"),
    "free path at the end": call("/openai/v1/images/generations/count_tokens"),
    "unknown path": call("/openai/v1/new/thing"),
    "unknown provider": call("/nobody/v1/chat/completions"),
    "no path": call("/"),
    "prefix alone": call("/openai"),
    "absolute form": call("http://gateway/openai/v1/chat/completions"),
    "absolute form of another host": call("http://api.openai.com/v1/chat/completions"),
    # the method
    "get with a body": call(method="GET"),
    "get of another path with a body": call("/openai/v1/models", method="GET"),
    "delete with a body": call("/openai/v1/files/f1", method="DELETE"),
    "head with a body": call(method="HEAD"),
    "options with a body": call(method="OPTIONS"),
    "put": call(method="PUT"),
    "patch": call(method="PATCH"),
    "lower case": call(method="post"),
    "invented": call(method="SPEND"),
    "connect": call("gateway:443", method="CONNECT"),
    "trace": call(method="TRACE"),
    "overridden": call(CHAT, "x-http-method-override: POST", method="GET"),
    "overridden the other way": call(CHAT, "x-http-method-override: GET"),
    # the protocol
    "http 1.0": call(version="HTTP/1.0"),
    "http 0.9": call(version=""),
    "chunked": call(CHAT, _TRANSFER, body=chunked(ASK), length=False),
    "trailers": call(CHAT, _TRANSFER, "te: trailers", body=chunked(ASK, "x-late: 1"), length=False),
    "key in a trailer": call(
        CHAT,
        _TRANSFER,
        body=chunked(ASK, "authorization: Bearer tk-x"),
        length=False,
    ),
    "two lengths": call(CHAT, "content-length: 0"),
    "length and chunks": call(CHAT, _TRANSFER, body=chunked(ASK)),
    "chunks under another name": call(CHAT, "transfer-encoding: xchunked"),
    "websocket": call(CHAT, "connection: upgrade", "upgrade: websocket", method="GET", body=b""),
    "h2c": call(CHAT, "connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AA"),
    "expect": call(CHAT, "expect: 100-continue"),
    "folded header": call(CHAT, "x-a: 1\r\n x-b: 2"),
    "second request smuggled": call(body=ASK + b"POST / HTTP/1.1\r\nhost: a\r\n\r\n"),
    # the body
    "no length": call(length=False),
    "form": call(CHAT, "content-type: application/x-www-form-urlencoded"),
    "coding that is none": call(CHAT, "content-encoding: identity, identity"),
    "coding unknown": call(CHAT, "content-encoding: pack200"),
    "coding claimed": call(CHAT, "content-encoding: gzip"),
    "byte order mark": call(body=b"\xef\xbb\xbf" + ASK),
    "utf-16": call(body=ASK.decode().encode("utf-16")),
    "not json": call(body=b"model=gpt-4o-mini"),
    "model twice": call(body=b'{"model":"free","model":"gpt-4o-mini","messages":[]}'),
    "model escaped twice": call(body=b'{"model":"free","\\u006dodel":"gpt-4o-mini"}'),
    "maximum twice": call(body=ASK[:-1] + b',"max_tokens":1000000}'),
    # who calls
    "key in the query": call(CHAT + "?key={key}", credential=""),
    "key in the query, encoded": call(CHAT + "?%6bey={key}", credential=""),
    "key in the query too": call(CHAT + "?%6bey={key}"),
    "key as azure has it": call(credential="api-key: {key}"),
    "key as google has it": call(credential="x-goog-api-key: {key}"),
    "bearer in capitals": call(credential="authorization: BEARER {key}"),
    "two keys, one wrong": call(CHAT, "x-api-key: tk-abcdefgh1234-" + "x" * 43),
    "two credentials in one": call(CHAT, "authorization: Bearer sk-mine"),
    "envoy's own orders": call(CHAT, "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9"),
    "envoy's original path": call(CHAT, "x-envoy-original-path: /v1/models"),
    "rewritten path": call(CHAT, "x-original-url: /v1/models", "x-rewrite-url: /v1/models"),
    "our own answer": call(CHAT, "x-tollkeeper-event-id: none", "x-tollkeeper-skip: true"),
}


def google(path: str = GENERATE, *headers: str, **changes: Any) -> Attack:
    """A request of Google's that is odd in one way."""
    return call(path, *headers, **{"body": CONTENT, **changes})


EVASIONS |= {
    "google": google(),
    "google's stream as an array": google(MODEL + ":streamGenerateContent"),
    "google's stream as events": google(MODEL + ":streamGenerateContent?alt=sse"),
    "google's key in the query": google(GENERATE + "?key={key}", credential=""),
    "encoded colon": google(MODEL + "%3AgenerateContent"),
    "colon encoded twice": google(MODEL + "%253AgenerateContent"),
    "method in capitals": google(MODEL + ":GENERATECONTENT"),
    "method with a parameter": google(GENERATE + ";v=1"),
    "method with an end": google(GENERATE + "/"),
    "two methods, one free": google(GENERATE + ":countTokens"),
    "free method of no model": google("/gemini/v1beta/operations/x:countTokens"),
    "google's free method elsewhere": call("/openai/v1/images/generations:countTokens"),
    "google without usage": google(GENERATE + "?fields=candidates"),
    "google without usage, encoded": google(GENERATE + "?%24%66ields=candidates"),
    "google without usage, by header": google(GENERATE, "x-goog-fieldmask: candidates"),
    "google as a script": google(GENERATE + "?callback=f"),
    "google as protobuf": google(GENERATE + "?$alt=proto"),
    "google, overridden": google(GENERATE, "x-http-method-override: POST", method="GET"),
    "google by gRPC": google(
        "/gemini/google.ai.generativelanguage.v1beta.GenerativeService/GenerateContent"
    ),
    "google in a batch": google("/gemini/batch", "content-type: multipart/mixed; boundary=b"),
    "google in openai's shape": call("/gemini/v1beta/openai/chat/completions"),
    "google's maximum in both spellings": google(
        body=b'{"generationConfig":{"maxOutputTokens":9,"max_output_tokens":99999}}'
    ),
    "google's settings in both spellings": google(
        body=b'{"generationConfig":{"maxOutputTokens":9},"generation_config":{}}'
    ),
    "google's model in the body": google(body=CONTENT[:-1] + b',"model":"models/gemma-3-1b-it"}'),
}


@pytest.mark.parametrize("attack", EVASIONS.values(), ids=EVASIONS)
def test_nothing_passes_unmetered(
    gate: Stack, provider: Lenient, rich: dict[str, Any], attack: Attack
) -> None:
    """What reached the provider is an event of the key that called, and never a free one where the
    provider bills.
    """
    nonce = uuid.uuid4().hex
    answer = raw_http.exchange(gate.gateway, attack(rich["key"], nonce), timeout_s=5)
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    for arrival in provider.of(nonce):
        event = gate.event(raw_http.header_of(answer, EVENT_ID))
        assert (event["key_id"], event["team"]) == (rich["key_id"], "red")
        assert rich["key"] not in unquote(arrival.path) + str(arrival.headers)
        if arrival.billed:
            assert event["cost_nanos"] != 0, event
            if event["cost_nanos"] is not None:
                tokens = (event["input_tokens"], event["output_tokens"])
                assert tokens == (INPUT_TOKENS, OUTPUT_TOKENS)


@pytest.mark.parametrize("attack", EVASIONS.values(), ids=EVASIONS)
def test_nothing_passes_a_spent_limit(
    gate: Stack, provider: Lenient, poor: dict[str, Any], attack: Attack
) -> None:
    """A key without money gets nothing that a provider could bill."""
    nonce = uuid.uuid4().hex
    raw_http.exchange(gate.gateway, attack(poor["key"], nonce), timeout_s=5)
    assert [each for each in provider.of(nonce) if each.billed] == []


@pytest.mark.parametrize("attack", EVASIONS.values(), ids=EVASIONS)
def test_nothing_passes_without_a_key(gate: Stack, provider: Lenient, attack: Attack) -> None:
    """A key that was never issued opens nothing, however it is presented."""
    nonce = uuid.uuid4().hex
    made_up = "tk-abcdefgh1234-" + "s" * 43
    raw_http.exchange(gate.gateway, attack(made_up, nonce), timeout_s=5)
    assert provider.of(nonce) == []


CLAIMS: Final = {
    **{f"x-tollkeeper-{name}": "finance" for name in ("team", "owner", "agent", "principal")},
    "x-tollkeeper-key-id": "abcdefgh1234",
    "x-tollkeeper-provider": "free",
    "x-tollkeeper-api": "compatible",
    "x-tollkeeper-prefix": "/openai/v1/chat",
    "openai-organization": "finance",
    "openai-project": "finance",
    "x-team": "finance",
    "x-forwarded-user": "boss",
    "x-user": "boss",
    "x-auth-request-email": "boss@example.com",
    "x-forwarded-for": "10.0.0.1",
    "x-envoy-external-address": "10.0.0.1",
    "baggage": "team=finance,owner=boss,principal=boss",
    "tracestate": "team=finance",
}


def test_no_claim_of_a_client_moves_the_bill(
    gate: Stack, provider: Lenient, rich: dict[str, Any]
) -> None:
    """Whatever headers and body fields say of team, person or provider, the key's labels count."""
    nonce = uuid.uuid4().hex
    body = json.loads(ASK) | {"user": "boss", "metadata": {"team": "finance"}, "team": "finance"}
    head = {"authorization": f"Bearer {rich['key']}", "x-nonce": nonce, **CLAIMS}
    answer = httpx.post(gate.gateway + CHAT, json=body, headers=head)
    event = gate.event(answer.headers[EVENT_ID])
    [arrival] = provider.of(nonce)
    assert "finance" not in json.dumps({**event, "labels": event["labels"]}, default=str)
    assert "boss" not in json.dumps(event, default=str)
    assert (event["principal"], event["provider"]) == ("ann", "openai")
    assert not [name for name in arrival.headers if name.startswith("x-tollkeeper")]


def test_two_keys_in_one_request_are_the_first_ones(gate: Stack, rich: dict[str, Any]) -> None:
    """Which key pays does not depend on chance, and neither reaches the provider."""
    other = gate.issue(team="other")
    head = {"authorization": f"Bearer {rich['key']}", "x-api-key": other["key"]}
    for _ in range(4):
        answer = httpx.post(gate.gateway + CHAT, content=ASK, headers=head)
        assert gate.event(answer.headers[EVENT_ID])["key_id"] == rich["key_id"]


@pytest.mark.parametrize(
    "path",
    [
        *("/stats", "/config_dump", "/clusters", "/metrics", "/server_info", "/admin"),
        *("/events", "/spend", "/tollkeeper", "/tollkeeper/v1/keys", "/v1/tollkeeper/spend"),
    ],
)
def test_the_gateway_tells_nothing_of_itself(
    gate: Stack, provider: Lenient, rich: dict[str, Any], path: str
) -> None:
    """Neither Envoy's administration nor any book can be read through the gateway."""
    head = {"authorization": f"Bearer {rich['key']}"}
    before = len(provider.arrivals)
    answer = httpx.get(gate.gateway + path, headers=head)
    if path.startswith("/v1/"):  # what is there is a provider's own, and so is the answer
        assert len(provider.arrivals) == before + 1
    else:
        assert answer.status_code == 404
        assert "red" not in answer.text


def test_a_refusal_tells_of_no_other_team(gate: Stack, poor: dict[str, Any]) -> None:
    """A refused caller learns of the limit it met, and of none that others have."""
    secret = f"secret-{uuid.uuid4().hex[:8]}"
    gate.json("budgets", "set", secret, "--where", "team=red", "--amount", "1usd", "--per", "total")
    head = {"authorization": f"Bearer {poor['key']}"}
    answer = httpx.post(gate.gateway + CHAT, content=ASK, headers=head)
    assert answer.status_code == 402
    told = answer.text + str(answer.headers)
    assert secret not in told
    assert "red" not in answer.json()["error"]["message"].split()
    unknown = httpx.post(
        gate.gateway + CHAT,
        content=ASK,
        headers={"authorization": f"Bearer tk-{poor['key_id']}-{'x' * 43}"},
    )
    assert unknown.status_code == 401
    assert "poor" not in unknown.text


def borrowed(token: str, run_id: str) -> dict[str, tuple[dict[str, str], dict[str, Any]]]:
    """Ways to point at somebody else's run: headers and additions to the body."""
    head, claims, signature = token.split(".")
    return {
        "its token": ({"x-agent-chain": token}, {}),
        "its token in baggage": ({"baggage": f"x-agent-chain={token}"}, {}),
        "its token twice": ({"x-agent-chain": f"{token},{token}"}, {}),
        "its token, signed anew": ({"x-agent-chain": f"{head}.{claims}.{signature[::-1]}"}, {}),
        "its token, unsigned": ({"x-agent-chain": f"eyJhbGciOiJub25lIn0.{claims}."}, {}),
        "its id": ({"x-agent-run": run_id}, {}),
        "its id as a session of Claude Code": ({"x-claude-code-session-id": run_id}, {}),
        "its id as a session of Codex": ({"session-id": run_id, "thread-id": run_id}, {}),
        "its id as a cache key": ({}, {"prompt_cache_key": run_id}),
        "our own header": ({"x-tollkeeper-root-team": "rich", "x-tollkeeper-run": run_id}, {}),
    }


WAYS: Final = tuple(borrowed("a.b.c", ""))


@pytest.mark.parametrize("way", WAYS)
def test_nobody_pays_for_a_run_that_is_not_theirs(
    gate: Stack, rich: dict[str, Any], way: str
) -> None:
    """With the root paying for chains, a key outside a run still pays for itself, and the run's
    budget is not touched.
    """
    gate.json("chains", "billing", "root")
    thief = gate.issue(team="thief")
    run = gate.json("runs", "start", "--key", rich["key_id"], "--budget", "1usd")
    headers, more = borrowed(run["chain_token"], run["run_id"])[way]
    answer = httpx.post(
        gate.gateway + CHAT,
        json=json.loads(ASK) | more,
        headers={"authorization": f"Bearer {thief['key']}", **headers},
    )
    event = gate.event(answer.headers[EVENT_ID])
    assert (event["root_key_id"], event["root_team"]) == (thief["key_id"], "thief")
    assert event["billing"] == "caller"
    assert event["run_id"] != run["run_id"]
    [paid] = gate.rows(
        "SELECT account FROM journal WHERE transaction_id = %s AND amount_nanos > 0"
        " AND account LIKE 'expense:%%'",
        event["event_id"],
    )
    assert paid["account"] == "expense:thief"
    [budget] = [b for b in gate.json("budgets", "status") if b["name"] == run["budget"]]
    assert (budget["used"], budget["held"]) == (0, 0)


def test_after_all_of_it_the_books_are_whole(gate: Stack) -> None:
    """No attack left a gap, a hold, or an unbalanced account behind."""

    def is_clean() -> bool:
        done = gate.ledger("audit", "--format", "json")
        return bool(json.loads(done.stdout)["ok"])

    until(is_clean, what="the audit finds nothing")
