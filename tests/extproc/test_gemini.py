"""Gemini's requests and refusals: paths, both spellings, stated maxima, Google's errors."""

from typing import Any

import httpx2
import orjson
import pytest
from google import genai
from google.genai import errors, types
from hypothesis import given
from hypothesis import strategies as st

from extproc.providers import gemini
from extproc.providers.routing import Told, destination
from extproc.providers.shape import Asked, BadRequest
from extproc.refusal import Refusal

PATH = "/v1beta/models/gemini-2.5-flash:generateContent"
STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
HELLO: Any = {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}


def ask(body: Any, path: str = PATH) -> Asked:
    """The request as it is read; it must be readable."""
    text = body if isinstance(body, bytes) else orjson.dumps(body)
    operation = gemini.operation("POST", path.partition("?")[0])
    found = gemini.read_request(operation, text, path)
    assert isinstance(found, Asked), found
    return found


def refused(body: Any, path: str = PATH) -> str:
    """The sentence with which a request is refused."""
    text = body if isinstance(body, bytes) else orjson.dumps(body)
    operation = gemini.operation("POST", path.partition("?")[0])
    found = gemini.read_request(operation, text, path)
    assert isinstance(found, BadRequest), found
    assert found.says.endswith(".")
    return found.says


@pytest.mark.parametrize(
    ("path", "operation", "model"),
    [
        (PATH, "generate", "gemini-2.5-flash"),
        ("/v1/models/Gemini-X:generateContent", "generate", "Gemini-X"),
        (STREAM, "generate", "gemini-2.5-flash"),
        ("/v1beta/models/gemini-2.5-flash%3AgenerateContent", "generate", "gemini-2.5-flash"),
        ("/v1beta/models/gemini-2.5-flash%3agenerate%43ontent/", "generate", "gemini-2.5-flash"),
        ("//v1beta/./models//gemini-2.5-flash:GENERATECONTENT", "generate", "gemini-2.5-flash"),
        ("/v1beta/tunedModels/mine-1:generateContent", "generate", "tunedModels/mine-1"),
        (
            "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:generateContent",
            "generate",
            "gemini-2.5-pro",
        ),
        ("/v1/projects/p/locations/l/endpoints/77:generateContent", "generate", "endpoints/77"),
        ("/v1beta/models/gemini-embedding-001:embedContent", "embeddings", "gemini-embedding-001"),
        ("/v1beta/models/gemini-embedding-001:batchEmbedContents", "embeddings", None),
        ("/v1beta/openai/chat/completions", "chat", None),
        ("/v1beta/openai/embeddings", "embeddings", None),
        ("/v1beta/models/gemini-2.5-flash:countTokens", "other", None),
        ("/v1beta/models/gemini-2.5-flash:batchGenerateContent", "other", None),
        ("/v1beta/models/imagen-4:predict", "other", None),
        ("/v1beta/openai/responses", "other", None),
        ("/v1beta/cachedContents", "other", None),
        ("/v1beta/models", "other", None),
        (":", "other", None),
        ("", "other", None),
    ],
)
def test_the_end_of_the_path_is_operation_and_model(
    path: str, operation: str, model: str | None
) -> None:
    """However a lenient server may read it; the model keeps its capitals."""
    assert gemini.operation("POST", path) == operation
    assert gemini.operation("GET", path) == "other"
    if model is not None:
        body = {"content": {"parts": []}} if operation == "embeddings" else HELLO
        assert ask(body, path).model == model


@pytest.mark.parametrize(
    "path",
    [
        "/google.ai.generativelanguage.v1beta.GenerativeService/StreamGenerateContent",
        "/$rpc/google.ai.generativelanguage.v1.GenerativeService/GenerateContent",
        "/google.ai.generativelanguage.v1beta.GenerativeService/BatchEmbedContents",
        "/batch",
        "/batch/v1beta",
        "/v1beta/models/:generateContent",
    ],
)
def test_forms_that_cannot_be_read_are_refused(path: str) -> None:
    """gRPC and multipart batches reach the same models on the same host."""
    assert gemini.operation("POST", path) in ("generate", "embeddings")
    for body in (b"\x00\x00\x00\x00\x05\n\x03abc", orjson.dumps(HELLO)):
        assert "no model" in refused(body, path)


def test_google_s_routes_lead_here() -> None:
    """By the route's word, and by the gateway's own path rules."""
    told = destination("/gemini/v1beta/models/x:generateContent?alt=sse", Told())
    assert (told.provider, told.api, told.path) == (
        "gemini",
        gemini,
        "/v1beta/models/x:generateContent",
    )
    vertex = Told(provider="vertex", api="gemini", prefix="/vertex")
    assert destination("/vertex/v1/x", vertex).api is gemini


@pytest.mark.parametrize(
    ("query", "streamed", "array"),
    [
        ("", True, True),
        ("?alt=sse", True, False),
        ("?%24alt=SSE", True, False),
        ("?alt=json", True, True),
        ("?$alt=json;enum-encoding=int&prettyPrint=false", True, True),
        ("?key=AIza&alt=sse", True, False),
    ],
)
def test_the_query_says_which_form_a_stream_has(query: str, streamed: bool, array: bool) -> None:
    """Events where they are asked for, else one array."""
    asked = ask(HELLO, STREAM + query)
    assert (asked.streamed, asked.array_stream, asked.usage_on_request) == (streamed, array, False)
    assert not ask(HELLO, PATH + query).streamed


@pytest.mark.parametrize(
    "query",
    ["fields=candidates", "%66ields=candidates", "$fields=x", "callback=f", "alt=proto", "alt="],
)
def test_answers_that_hide_their_usage_are_refused(query: str) -> None:
    """Google lets a caller choose fields and form of an answer; without usage it is no meter."""
    assert "metered" in refused(HELLO, f"{PATH}?{query}")
    assert "metered" in refused({"model": "m"}, f"/v1beta/openai/chat/completions?{query}")


@pytest.mark.parametrize(
    ("config", "most", "choices"),
    [
        ({"generationConfig": {"maxOutputTokens": 100, "candidateCount": 2}}, 100, 2),
        ({"generation_config": {"max_output_tokens": 100, "candidate_count": 2}}, 100, 2),
        ({"generationConfig": {"max_output_tokens": "100", "candidateCount": 2.0}}, 100, 2),
        ({"generationConfig": {"maxOutputTokens": 0, "candidateCount": -3}}, None, 1),
        ({"generationConfig": {"maxOutputTokens": None}}, None, 1),
        ({"generationConfig": None}, None, 1),
        ({"generationConfig": {}}, None, 1),
        ({}, None, 1),
    ],
)
def test_both_spellings_are_one_field(config: Any, most: int | None, choices: int) -> None:
    """As in every JSON of protocol buffers; numbers may be strings, and zero sets no limit."""
    asked = ask({**HELLO, **config})
    assert (asked.max_output_tokens, asked.choices) == (most, choices)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "JSON"),
        (b"[]", "object"),
        (b'{"generationConfig":{},"generation_config":{}}', "one field"),
        (b'{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":9}}', "one field"),
        (b'{"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":9}}', "more than once"),
        (b'{"generationConfig":{"maxOutputTokens":1},"generationConfig":{}}', "more than once"),
        (b'{"generation\\u0043onfig":{"maxOutputTokens":1,"maxOutputTokens":9}}', "more than once"),
        (b'{"cachedContent":"a","cached_content":"a"}', "one field"),
        (b'{"generationConfig":[]}', "object"),
        (b'{"generationConfig":{"maxOutputTokens":"1e3"}}', "whole number"),
        (b'{"generationConfig":{"maxOutputTokens":true}}', "whole number"),
        (b'{"generationConfig":{"candidateCount":1.5}}', "whole number"),
        (b'{"model":"models/gemini-2.5-pro"}', "another one"),
    ],
)
def test_what_google_may_read_otherwise_is_refused(body: bytes, says: str) -> None:
    """With one sentence, before it costs anything."""
    assert says in refused(body)


def test_a_body_may_repeat_the_path_s_model() -> None:
    """As SDKs send it; a batch names it with each request, and never another one."""
    assert ask({**HELLO, "model": "models/gemini-2.5-flash"}).model == "gemini-2.5-flash"
    path = "/v1beta/models/e:batchEmbedContents"
    requests = [{"model": "models/e", "content": {"parts": [{"text": "a"}]}}]
    asked = ask({"requests": requests}, path)
    assert (asked.max_output_tokens, asked.streamed) == (0, False)
    assert "another one" in refused({"requests": [*requests, {"model": "models/f"}]}, path)
    assert "no model" in refused(HELLO, "/v1beta/models/:generateContent")


@pytest.mark.parametrize(
    ("tier", "named"),
    [("flex", "flex"), ("SERVICE_TIER_PRIORITY", "priority"), ("unspecified", ""), (None, "")],
)
def test_service_tiers_are_named_as_price_lists_do(tier: str | None, named: str) -> None:
    """Whether an SDK sends the short name or the enum's."""
    assert ask({**HELLO, "serviceTier": tier}).service_tier == named
    assert ask({**HELLO, "service_tier": tier}).service_tier == named


@pytest.mark.parametrize(
    ("thinking", "room"),
    [
        ({}, 8192),
        ({"thinkingBudget": None}, 8192),
        ({"thinkingBudget": -1}, 8192),
        ({"thinkingBudget": 0}, 0),
        ({"thinking_budget": 2000}, 2000),
    ],
)
def test_a_maximum_of_ours_leaves_room_for_thoughts(thinking: Any, room: int) -> None:
    """Google counts them within the maximum, so without room an answer would be thoughts alone."""
    body = {**HELLO, "generationConfig": {"thinkingConfig": thinking}}
    assert ask(body).reasoning_tokens == room


MOST: Any = b'"maxOutputTokens":7'


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"contents": []}', b'{"contents": [],"generationConfig":{%s}}' % MOST),
        (b' {"generationConfig" : {"topK" : 1 } } ', b'{"topK" : 1,%s }' % MOST),
        (b'{"generationConfig":{},"a":1}', b'{"generationConfig":{%s},"a":1}' % MOST),
        (b'{"generationConfig": null}', b'{"generationConfig": {%s}}' % MOST),
        (b'{"generation_config":{"max_output_tokens": null}}', b'"max_output_tokens": 7}'),
        (b'{"generationConfig":{"maxOutputTokens":0,"x":"}"}}', b'{%s,"x":"}"}' % MOST),
        (b'{"tools":[{"generationConfig":{}}]}', b'{}}],"generationConfig":{%s}}' % MOST),
    ],
)
def test_a_maximum_is_stated_and_every_other_byte_stays(body: bytes, changed: bytes) -> None:
    """In the place of a null or a zero, in the spelling that is there."""
    stated = gemini.state_maximum("generate", body, "m", 7)
    assert changed in stated
    assert ask(stated).max_output_tokens == 7
    before, after = orjson.loads(body), orjson.loads(stated)
    for document in (before, after):
        for name in ("generationConfig", "generation_config"):
            config = document.pop(name, None) or {}
            for most in ("maxOutputTokens", "max_output_tokens"):
                config.pop(most, None)
            document["config"] = document.get("config") or config
    assert before == after


def test_a_maximum_is_stated_whatever_surrounds_it() -> None:
    """A body with more brackets than are walked through is written anew."""
    body = orjson.dumps({"contents": [[]] * 200_001, "generationConfig": {"topK": 3}})
    stated = gemini.state_maximum("generate", body, "m", 7)
    assert orjson.loads(stated)["generationConfig"] == {"topK": 3, "maxOutputTokens": 7}


def test_a_chat_gets_the_maximum_that_google_s_openai_shape_knows() -> None:
    """`max_tokens`."""
    assert gemini.state_maximum("chat", b'{"model":"m"}', "m", 7) == b'{"model":"m","max_tokens":7}'


def weight(**changes: Any) -> int:
    return ask({**HELLO, **changes}).input_bytes - ask(HELLO).input_bytes


def inline(kind: str, size: int, **names: str) -> Any:
    blob = {names.get("mime", "mimeType"): kind, "data": "A" * size}
    return [{"parts": [{"text": "Look:"}, {names.get("blob", "inlineData"): blob}]}]


def test_media_count_by_allowance_and_not_by_their_bytes() -> None:
    """A picture weighs the same however large, sound and film by their length, pages dearly."""
    picture = weight(contents=inline("image/png", 1_000_000))
    assert picture == weight(contents=inline("image/png", 40_000))
    snake = inline("image/png", 40_000, mime="mime_type", blob="inline_data")
    assert abs(weight(contents=snake) - picture) < 10
    assert 10_000 < picture < 20_000
    assert 100_000 < weight(contents=inline("audio/mp3", 800_000)) < 110_000
    assert weight(contents=inline("video/mp4", 40_000_000)) < 1_100_000
    assert weight(contents=inline("application/pdf", 10_000)) > 30_000
    assert weight(contents=inline("text/plain", 5_000)) >= 5_000
    system = weight(systemInstruction=inline("image/png", 900_000)[0])
    assert 10_000 < system < 20_000
    result = [
        {"functionResponse": {"name": "f", "parts": inline("image/png", 900_000)[0]["parts"]}}
    ]
    assert weight(contents=[{"parts": result}]) < 20_000


def test_input_that_is_not_in_the_request_has_an_allowance() -> None:
    """References, what is cached at the provider, and what hosted tools will find."""
    file = {"fileUri": "https://x", "mimeType": "application/pdf"}
    film = {"file_uri": "https://x", "mime_type": "video/mp4"}
    assert weight(contents=[{"parts": [{"fileData": file}]}]) > 64_000
    assert weight(contents=[{"parts": [{"file_data": film}]}]) > 250_000
    assert weight(cachedContent="cachedContents/1") > 64_000
    assert weight(tools=[{"urlContext": {}}]) > 64_000
    assert weight(tools=[{"google_search": {}}]) < 3_000
    assert weight(tools=[{"functionDeclarations": []}]) < 3_000


REFUSAL = Refusal(
    status=429,
    code="budget_spent",
    message="The budget 'risk' is spent.",
    limit_source="budget",
    limit="risk",
    unit="usd",
    left=1_500_000_000,
    resets_at_us=1_793_491_200_000_000,
    retry_after_s=30,
)


def test_a_refusal_is_google_s_error_with_our_fields_in_its_details() -> None:
    """ErrorInfo says which limit, QuotaFailure shows it, RetryInfo says when to come back."""
    assert orjson.loads(gemini.refuse(REFUSAL)) == {
        "error": {
            "code": 429,
            "message": "The budget 'risk' is spent.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "BUDGET_SPENT",
                    "domain": "tollkeeper",
                    "metadata": {
                        "code": "budget_spent",
                        "limit_source": "budget",
                        "limit": "risk",
                        "unit": "usd",
                        "left": "1.5",
                        "resets_at": "2026-11-01T00:00:00Z",
                    },
                },
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [
                        {"subject": "risk", "description": "The budget 'risk' is spent."}
                    ],
                },
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "30s"},
            ],
        }
    }


def test_an_error_in_a_stream_has_the_stream_s_form() -> None:
    """An event; or the last element of the array, and its end; or OpenAI's, to its clients."""
    error = gemini.refuse(REFUSAL)
    assert gemini.refuse_stream("generate", REFUSAL, "text/event-stream") == b"data: %s\n\n" % error
    array = b'[{"candidates":[]}' + gemini.refuse_stream("generate", REFUSAL, "application/json")
    assert orjson.loads(array)[1] == orjson.loads(error)
    chat = gemini.refuse_stream("chat", REFUSAL, "text/event-stream")
    assert orjson.loads(chat[6:])["error"]["code"] == "budget_spent"


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (400, errors.ClientError, "INVALID_ARGUMENT"),
        (401, errors.ClientError, "UNAUTHENTICATED"),
        (402, errors.ClientError, "FAILED_PRECONDITION"),
        (403, errors.ClientError, "PERMISSION_DENIED"),
        (413, errors.ClientError, "INVALID_ARGUMENT"),
        (429, errors.ClientError, "RESOURCE_EXHAUSTED"),
        (500, errors.ServerError, "INTERNAL"),
        (503, errors.ServerError, "UNAVAILABLE"),
    ],
)
def test_the_official_sdk_understands_a_refusal(
    status: int, kind: type[errors.APIError], says: str
) -> None:
    """It raises the error class of the status, with our sentence and Google's word for it."""
    refusal = Refusal(status=status, code="a_code", message="Says.")
    sent = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(status, content=gemini.refuse(refusal))

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    options = types.HttpOptions(base_url="http://gateway", httpx_client=http)
    client = genai.Client(api_key="k", http_options=options)
    with pytest.raises(kind) as caught:
        client.models.generate_content(model="m", contents="x")
    assert (caught.value.code, caught.value.status, caught.value.message) == (status, says, "Says.")
    assert len(sent) == 1


NAMES = st.sampled_from(
    (
        *("contents", "parts", "generationConfig", "generation_config", "maxOutputTokens", "tools"),
        *("requests", "content", "inlineData", "mimeType", "data", "model", "thinkingConfig"),
    )
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    body=ANYTHING,
    path=st.sampled_from([PATH, STREAM, "/v1beta/models/e:batchEmbedContents"]),
    layout=st.sampled_from([0, orjson.OPT_INDENT_2]),
)
def test_any_json_is_read_or_refused(body: Any, path: str, layout: int) -> None:
    """Never an exception, and what is read can be given a maximum."""
    try:
        text = orjson.dumps(body, option=layout)
    except TypeError:  # an integer beyond 64 bits
        return
    operation = gemini.operation("POST", path)
    found = gemini.read_request(operation, text, path)
    if isinstance(found, Asked) and operation == "generate":
        assert found.input_bytes >= 0
        if found.max_output_tokens is None:
            assert ask(gemini.state_maximum(operation, text, "m", 5)).max_output_tokens == 5


@given(st.text(max_size=30), st.binary(max_size=20))
def test_any_path_is_read(path: str, body: bytes) -> None:
    """Never an exception."""
    for spelled in (path, f"/v1beta/models/{path}:generateContent?{path}"):
        operation = gemini.operation("POST", spelled.partition("?")[0])
        gemini.read_request(operation, body, spelled)
