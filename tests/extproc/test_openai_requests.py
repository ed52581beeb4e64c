"""OpenAI requests: what they ask for, what cannot be metered, and asking for usage byte by byte."""

import json
from typing import Any

import httpx2
import openai as sdk
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.providers import compatible, openai
from extproc.providers.shape import Asked, BadRequest
from extproc.refusal import Refusal

MESSAGES = [{"role": "user", "content": "hi"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "model",
    "messages",
    "input",
    "prompt",
    "tools",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "service_tier",
    "background",
    "system",
    "conversation",
    "mcp_servers",
]
OPERATIONS = ["chat", "completions", "responses", "embeddings", "messages", "other"]


def asked(operation: str = "chat", **fields: Any) -> Asked:
    found = openai.read_request(operation, orjson.dumps({"model": "gpt-4o"} | fields))
    assert isinstance(found, Asked), found.says
    return found


def refused(body: bytes | dict[str, Any], operation: str = "chat") -> str:
    found = openai.read_request(operation, body if isinstance(body, bytes) else orjson.dumps(body))
    assert isinstance(found, BadRequest)
    assert found.says.endswith(".")
    return found.says


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("/api/v1/chat/completions", "chat"),
        ("//v1/./chat%2Fcompletions/", "chat"),
        ("/v1/x/../Chat/Completions", "chat"),
        ("/v1/completions", "completions"),
        ("/v1/responses", "responses"),
        ("/v1/responses/compact", "responses"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/responses/resp_1", "other"),
        ("/v1/responses/resp_1/cancel", "other"),
        ("/v1/responses/resp_1/input_items", "other"),
        ("/v1/responses/input_tokens", "other"),
        ("/v1/chat/completions/chatcmpl-1", "other"),
        ("/v1/images/generations", "images"),
        ("/v1/images/edits", "images"),
        ("/v1/images", "other"),
        ("/v1/audio/speech", "audio"),
        ("/v1/audio/transcriptions", "audio"),
        ("/v1/batches", "batches"),
        ("/v1/batches/batch_1/cancel", "other"),
        ("/v1/models", "other"),
        ("/", "other"),
        ("", "other"),
    ],
)
def test_the_end_of_the_path_is_the_operation(path: str, operation: str) -> None:
    """With or without `/v1`, however it is written; only POST is metered."""
    assert openai.operation("POST", path) == operation
    assert openai.operation("GET", path) == "other"


def test_a_host_of_both_apis_also_has_messages() -> None:
    """But the messages of a thread are OpenAI's, and cost nothing."""
    assert compatible.operation("POST", "/anthropic/v1/messages") == "messages"
    assert compatible.operation("POST", "/v1/threads/t1/messages") == "other"
    assert compatible.operation("POST", "/v1/chat/completions") == "chat"


def test_a_chat_request_is_read() -> None:
    """The larger of two stated maxima counts, as servers differ in which they obey."""
    found = asked(
        messages=MESSAGES,
        stream=True,
        max_tokens=10,
        max_completion_tokens=20,
        n=3,
        service_tier="flex",
    )
    assert found.model == "gpt-4o"
    assert found.streamed
    assert found.usage_on_request
    assert (found.max_output_tokens, found.choices, found.service_tier) == (20, 3, "flex")


def test_every_prompt_has_its_own_choices() -> None:
    """Legacy completions bill `best_of` for each; one array of token numbers is one prompt."""
    assert asked("completions", prompt=["a", "b"], n=2, best_of=5).choices == 10
    assert asked("completions", prompt=[[1, 2], [3], [4]]).choices == 3
    assert asked("completions", prompt=[1, 2, 3], n=2).choices == 2


@pytest.mark.parametrize(
    ("stated", "read"), [(5, 5), (5.0, 5), (0, None), (-1, None), (None, None)]
)
def test_a_maximum_that_limits_nothing_is_none(stated: object, read: int | None) -> None:
    """Zero and less mean `no limit` to some hosts, so they promise nothing."""
    assert asked(max_tokens=stated).max_output_tokens == read


def test_an_absurd_maximum_stays_a_number_that_the_books_hold() -> None:
    """Huge numbers are clamped, not passed on."""
    body = b'{"model":"m","max_tokens":123456789012345678901234567890,"n":9007199254740993}'
    found = openai.read_request("chat", body)
    assert isinstance(found, Asked)
    assert (found.max_output_tokens, found.choices) == (2**40, 1)


def test_embeddings_have_no_output() -> None:
    """The hold needs no output for them."""
    assert asked("embeddings", input="x").max_output_tokens == 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"null", "JSON object"),
        (b'["model"]', "JSON object"),
        (b'{"model":"a","model":"b"}', "`model` more than once"),
        (b'{"model":"a","m\\u006fdel":"b"}', "`model` more than once"),
        (b'{"model":"a","messages":[],"n":1, "messages":[{}]}', "`messages` more than once"),
        ({"messages": MESSAGES}, "names no model"),
        ({"model": None}, "names no model"),
        ({"model": 5}, "`model` must be"),
        ({"model": ""}, "`model` must be"),
        ({"model": "a\x00b"}, "`model` must be"),
        ({"model": "a" * 257}, "`model` must be"),
        ({"model": "a", "stream": "true"}, "`stream` must be"),
        ({"model": "a", "stream": 1}, "`stream` must be"),
        ({"model": "a", "stream_options": [1]}, "`stream_options` must be"),
        ({"model": "a", "max_tokens": "9"}, "`max_tokens` must be"),
        ({"model": "a", "max_completion_tokens": 1.5}, "`max_completion_tokens` must be"),
        ({"model": "a", "n": True}, "`n` must be"),
    ],
)
def test_what_cannot_be_metered_is_refused_with_a_sentence(body: Any, says: str) -> None:
    """Fields that decide the cost must be readable in one way only."""
    assert says in refused(body)


def test_a_background_response_is_refused() -> None:
    """It is answered before its usage is known, and its polls are not metered."""
    assert "background" in refused({"model": "a", "background": True}, "responses")
    assert asked("responses", background=True, stream=True).streamed


def test_nested_names_are_no_repetition() -> None:
    """A tool may have a parameter called model, in any spacing."""
    body = json.dumps({"model": "a", "tools": [{"model": {"model": 1}}], "messages": []}, indent=1)
    assert isinstance(openai.read_request("chat", body.encode()), Asked)


def test_brackets_without_end_are_refused_in_time() -> None:
    """A body that is slow to read for a repetition is not read to its end."""
    body = b'{"model":"a", "x":[' + b"[]," * 300_000 + b"[]]}"
    assert "too deeply structured" in refused(body)


@pytest.mark.parametrize("operation", OPERATIONS)
@given(body=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_asked_or_refused(operation: str, body: bytes) -> None:
    """Nothing that a client sends raises."""
    assert isinstance(compatible.read_request(operation, body), Asked | BadRequest)


@pytest.mark.parametrize("operation", OPERATIONS)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON), indent=st.sampled_from([None, 1]))
def test_any_fields_are_asked_or_refused(
    operation: str, fields: dict[str, Any], indent: int | None
) -> None:
    """Whatever stands in the fields that are read, nothing raises and the numbers stay sane."""
    body = json.dumps({"model": "m"} | fields, indent=indent).encode()
    found = compatible.read_request(operation, body)
    if isinstance(found, Asked):
        assert 0 <= (found.max_output_tokens or 0) <= 2**40
        assert 1 <= found.choices <= 2**20
        assert found.input_bytes >= 0


OPTIONS = st.fixed_dictionaries({}, optional={"include_usage": JSON, "other": JSON}) | st.none()


@given(
    before=st.dictionaries(
        st.text().filter(lambda name: name != "stream_options"), JSON, max_size=3
    ),
    options=st.just("absent") | OPTIONS,
    after=st.dictionaries(st.text(min_size=30), JSON, max_size=2),
    indent=st.sampled_from([None, 0, 2]),
    tail=st.sampled_from(["", "\n", " \r\n\t"]),
)
def test_asking_for_usage_changes_nothing_else(
    before: dict[str, Any], options: Any, after: dict[str, Any], indent: int | None, tail: str
) -> None:
    """The same request, as every JSON reader sees it, with `include_usage` set."""
    request = before | ({} if options == "absent" else {"stream_options": options}) | after
    body = (json.dumps(request, indent=indent) + tail).encode()
    changed = openai.ask_for_usage(body)
    wanted = request | {
        "stream_options": (request.get("stream_options") or {}) | {"include_usage": True}
    }
    assert json.loads(changed) == wanted
    if options == "absent":
        assert changed.replace(b'"stream_options":{"include_usage":true}', b"", 1).count(
            b"{"
        ) == body.count(b"{")


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b"{}", b'{"stream_options":{"include_usage":true}}'),
        (b'{ "a": 1 \n}\n', b'{ "a": 1,"stream_options":{"include_usage":true} \n}\n'),
        (
            b'{"seed":123456789012345678901234567890,"a":1.50,"a":2e0}',
            b'{"seed":123456789012345678901234567890,"a":1.50,"a":2e0,'
            b'"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream_options": { }, "n":1}',
            b'{"stream_options": {"include_usage":true }, "n":1}',
        ),
        (b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}'),
        (
            b'{"stream_options":{"include_usage": false , "x":"}"}}',
            b'{"stream_options":{"include_usage": true , "x":"}"}}',
        ),
        (
            b'{"stream\\u005foptions":{"include_usage":0,"include_usage":false}}',
            b'{"stream\\u005foptions":{"include_usage":true,"include_usage":true}}',
        ),
        (
            b'{"messages":[{"stream_options":1}],"user":"\\"stream_options\\":{"}',
            b'{"messages":[{"stream_options":1}],"user":"\\"stream_options\\":{",'
            b'"stream_options":{"include_usage":true}}',
        ),
        (b'{"stream_options":7}', b'{"stream_options":7}'),
        (b"[1]", b"[1]"),
    ],
)
def test_asking_for_usage_keeps_every_other_byte(body: bytes, changed: bytes) -> None:
    """Numbers, spacing and repetitions stay as the client wrote them."""
    assert openai.ask_for_usage(body) == changed


@given(st.binary(max_size=80))
@example(b'{"stream_options":{"include_usage\x00":{')
def test_asking_for_usage_never_raises(body: bytes) -> None:
    """Even for what is no JSON."""
    assert isinstance(openai.ask_for_usage(body), bytes)


REFUSAL = Refusal(
    status=402,
    code="budget_spent",
    message="The budget risk-month is spent.",
    limit_source="budget",
    limit="risk-month",
    unit="usd",
    left=120_000_000,
    resets_at_us=1_793_491_200_000_000,
)


def test_a_refusal_says_which_limit_and_what_is_left() -> None:
    """Dollars are text, times are ISO 8601, and `param` is there as in all of OpenAI's errors."""
    assert orjson.loads(openai.refuse(REFUSAL)) == {
        "error": {
            "message": "The budget risk-month is spent.",
            "type": "insufficient_quota",
            "param": None,
            "code": "budget_spent",
            "limit_source": "budget",
            "limit": "risk-month",
            "unit": "usd",
            "left": "0.12",
            "resets_at": "2026-11-01T00:00:00Z",
        }
    }


@pytest.mark.parametrize(
    ("status", "retry_after_s", "error", "kind"),
    [
        (400, None, sdk.BadRequestError, "invalid_request_error"),
        (401, None, sdk.AuthenticationError, "invalid_request_error"),
        (402, None, sdk.APIStatusError, "insufficient_quota"),
        (403, None, sdk.PermissionDeniedError, "permission_error"),
        (413, None, sdk.APIStatusError, "invalid_request_error"),
        (429, None, sdk.RateLimitError, "insufficient_quota"),
        (429, 30, sdk.RateLimitError, "rate_limit_error"),
        (503, 1, sdk.InternalServerError, "server_error"),
    ],
)
def test_the_official_sdk_understands_a_refusal(
    status: int, retry_after_s: int | None, error: type[sdk.APIStatusError], kind: str
) -> None:
    """It raises the error class of the status and shows our code and type."""
    refusal = Refusal(status=status, code="a_code", message="Says.", retry_after_s=retry_after_s)

    def answer(_: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "application/json", "x-should-retry": "false"}
        return httpx2.Response(status, content=openai.refuse(refusal), headers=headers)

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        client = sdk.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=http)
        with pytest.raises(error) as caught:
            client.chat.completions.create(model="m", messages=[])
    assert (caught.value.code, caught.value.type) == ("a_code", kind)
    assert "Says." in caught.value.message
