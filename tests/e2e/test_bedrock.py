"""Bedrock through the gateway, with the client that AWS's users have: it notices nothing, and every
call is booked.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import botocore.session
import httpx
import pytest
from botocore.config import Config
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError

from tests.e2e import raw_http
from tests.e2e.conftest import wish
from tests.e2e.processes import until
from tests.e2e.stack import COST, EVENT_ID, Event, Stack

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{SONNET}"
ANTHROPIC = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 200,
    "messages": [{"role": "user", "content": "Who was late?"}],
}


Client = Callable[..., Any]


@pytest.fixture
def client(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Makes clients as users do: our key as Bedrock's API key, the gateway as the endpoint.

    botocore sends a bearer token over TLS alone, which this stack's listener does not have: it
    makes its request for TLS, and the request goes out in the clear.
    """
    with contextlib.ExitStack() as open_clients:

        def make(key: str, **settings: Any) -> Any:
            monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", key)
            made = botocore.session.Session().create_client(
                "bedrock-runtime",
                region_name="us-east-1",
                endpoint_url=f"{stack.gateway}/bedrock".replace("http:", "https:"),
                config=Config(**settings),
            )
            made.meta.events.register("before-send.bedrock-runtime", _in_the_clear)
            open_clients.callback(made.close)
            return made

        yield make


def _in_the_clear(request: Any, **_: Any) -> None:
    request.url = request.url.replace("https:", "http:")


@pytest.fixture
def aws(client: Client, key: dict[str, Any]) -> Any:
    """A client with a key without limits."""
    return client(key["key"])


def limit(stack: Stack, team: str, amount: str, per: str) -> None:
    """A budget of one team."""
    where = ("--where", f"team={team}", "--amount", amount, "--per", per)
    stack.json("budgets", "set", team, *where)


def said(text: str = "Who was late?", **wishes: Any) -> list[dict[str, Any]]:
    """One user message, which asks the fake provider for something."""
    asking = f" x-fake: {json.dumps(wishes)}" if wishes else ""
    return [{"role": "user", "content": [{"text": text + asking}]}]


def head_of(answer: dict[str, Any]) -> dict[str, str]:
    headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers


def test_converse_is_booked_as_billed(stack: Stack, aws: Any) -> None:
    """The model of the path at its region's price, AWS's id of the call, our id in its log."""
    answer = aws.converse(
        modelId=SONNET,
        messages=said(cached=5000, cache_write=700, cache_write_1h=300),
        inferenceConfig={"maxTokens": 100},
        requestMetadata={"app": "x"},
    )
    head = head_of(answer)
    event = stack.booked(head)
    assert (event["operation"], event["provider"], event["model"]) == (
        "converse",
        "bedrock",
        SONNET,
    )
    assert event["provider_response_id"] == head["x-amzn-requestid"]
    assert (event["cache_write_5m_tokens"], event["cache_write_1h_tokens"]) == (700, 300)
    plain = event["input_tokens"] - 6000
    cost = plain * 3300 + 5000 * 330 + 700 * 4125 + 300 * 6600 + event["output_tokens"] * 16500
    assert event["cost_nanos"] == cost
    assert round(float(head[COST]) * 1e9) == cost
    stamped = {"app": "x", "tollkeeper_event_id": event["event_id"]}
    assert json.loads(head["x-fake-request-metadata"]) == stamped


def test_converse_stream_is_booked_as_billed(stack: Stack, aws: Any) -> None:
    """Every event arrives, and the usage of the last one is the event's."""
    answer = aws.converse_stream(modelId=SONNET, messages=said(output_tokens=40, cached=90))
    events = list(answer["stream"])
    text = "".join(
        e["contentBlockDelta"]["delta"]["text"]
        for e in events
        if len(e) and "contentBlockDelta" in e
    )
    assert len(text.split()) == 40
    event = stack.booked(head_of(answer))
    assert (event["streamed"], event["outcome"]) == (True, "ok")
    assert events[-1]["metadata"]["usage"]["outputTokens"] == event["output_tokens"] == 40


@pytest.mark.parametrize("chunk_bytes", [0, 1, 7, 1000])
def test_a_stream_reaches_its_client_byte_for_byte(
    stack: Stack, key: dict[str, Any], chunk_bytes: int
) -> None:
    """However it was cut on the way; the header that names the call is the only thing added."""
    headers = {"authorization": f"Bearer {key['key']}", **wish(chunk_bytes=chunk_bytes)}
    url = f"{stack.gateway}/bedrock/model/{SONNET}/converse-stream"
    answer = httpx.post(url, json={"messages": said()}, headers=headers)
    assert answer.headers["content-type"] == "application/vnd.amazon.eventstream"
    assert answer.content == stack.fake.sent(answer.headers["x-request-id"])
    theirs = EventStreamBuffer()
    theirs.add_data(answer.content)
    assert [message.headers[":event-type"] for message in theirs][-1] == "metadata"
    stack.booked(answer.headers)


@pytest.mark.parametrize(
    ("model", "request_body", "operation"),
    [
        (SONNET, ANTHROPIC, "messages"),
        ("amazon.titan-text-express-v1", {"inputText": "Who was late?"}, "generate"),
        ("meta.llama3-1-8b-instruct-v1:0", {"prompt": "Who was late?"}, "generate"),
        ("us.amazon.nova-pro-v1:0", {"messages": said()}, "generate"),
        ("mistral.mistral-large-2402-v1:0", {"prompt": "Who was late?"}, "generate"),
        ("amazon.titan-embed-text-v2:0", {"inputText": "Who was late?"}, "embeddings"),
        ("cohere.embed-english-v3", {"texts": ["Who was late?"]}, "embeddings"),
    ],
)
def test_invoke_is_booked_as_billed(
    stack: Stack, aws: Any, model: str, request_body: Any, operation: str
) -> None:
    """Whatever the family's body is, whole or streamed; counts may stand in headers alone."""
    for streamed in (False, True)[: 1 if operation == "embeddings" else 2]:
        call = aws.invoke_model_with_response_stream if streamed else aws.invoke_model
        answer = call(modelId=model, body=json.dumps(request_body))
        if not streamed:
            assert json.loads(answer["body"].read())
        else:
            assert all(json.loads(event["chunk"]["bytes"]) for event in answer["body"])
        event = stack.booked(head_of(answer))
        assert event["operation"] == operation
        assert event["streamed"] == streamed
        if "cohere" not in model:
            assert event["cost_nanos"] > 0


def test_leaving_a_stream_early_is_estimated(stack: Stack, aws: Any) -> None:
    """The usage would have come last: what passed is what is charged."""
    answer = aws.converse_stream(
        modelId=SONNET,
        messages=said(output_tokens=2000, delay_ms=5),
        inferenceConfig={"maxTokens": 3000},
    )
    for number, _ in enumerate(answer["stream"]):
        if number == 60:
            break
    answer["stream"].close()
    event = stack.event(head_of(answer)[EVENT_ID])
    bill = stack.fake.bill(head_of(answer)["x-request-id"])
    assert (event["outcome"], event["usage_source"]) == ("client_gone", "estimated")
    assert 0.3 * bill["output_tokens"] <= event["output_tokens"] <= 4 * bill["output_tokens"]
    assert event["cost_nanos"] > 0


def test_an_exception_in_the_middle_of_a_stream(stack: Stack, aws: Any) -> None:
    """botocore raises the provider's own; the event keeps what was used until then."""
    answer = aws.converse_stream(modelId=SONNET, messages=said(stream_error=True))
    with pytest.raises(EventStreamError, match="The model stopped"):
        list(answer["stream"])
    answer["stream"].close()
    event = stack.event(head_of(answer)[EVENT_ID])
    assert (event["outcome"], event["usage_source"]) == ("provider_error", "estimated")


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (503, 3)])
def test_the_provider_s_errors_pass(stack: Stack, client: Client, status: int, tries: int) -> None:
    """As they came, with their name; what botocore retries is an event each."""
    own = stack.issue()
    aws = client(own["key"], retries={"mode": "standard"})
    with pytest.raises(ClientError, match="was asked for"):
        aws.converse(modelId=SONNET, messages=said(status=status))
    events = stack.events_of(own["key_id"], tries)
    assert [(e["outcome"], e["http_status"]) for e in events] == [
        ("provider_error", status)
    ] * tries


@pytest.mark.parametrize("mode", ["standard", "legacy"])
def test_a_refusal_that_no_retry_can_help_is_raised_at_once(
    stack: Stack, client: Client, mode: str
) -> None:
    """botocore raises its own error with our sentence, and asks once."""
    own = stack.issue("--max-spend", "0.000001")
    aws = client(own["key"], retries={"mode": mode})
    for call, request in (
        (aws.converse, {"messages": said()}),
        (aws.converse_stream, {"messages": said()}),
        (aws.invoke_model, {"body": json.dumps(ANTHROPIC)}),
    ):
        with pytest.raises(ClientError) as raised:
            call(modelId=SONNET, **request)
        error = raised.value.response
        assert error["Error"]["Code"] == "ServiceQuotaExceededException"
        assert error["Error"]["Message"].endswith(".")
        assert error["ResponseMetadata"]["HTTPStatusCode"] == 402
    assert len(stack.events_of(own["key_id"], 3)) == 3


def test_a_spent_month_is_not_asked_again(stack: Stack, client: Client) -> None:
    """429 whose window is far off has a name that botocore does not retry."""
    own = stack.issue(team="bedrock-month")
    stack.json(
        *["budgets", "set", "bedrock-month", "--where", "team=bedrock-month", "--per", "month"],
        "--amount",
        "0.005usd",
    )
    aws = client(own["key"])

    def spend() -> ClientError | None:
        try:
            aws.converse(modelId=SONNET, messages=said(), inferenceConfig={"maxTokens": 50})
        except ClientError as error:
            return error
        return None

    error = until(spend, what="the budget is spent", deadline_s=30)
    assert error.response["Error"]["Code"] == "AccessDeniedException"
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    events = stack.events_of(own["key_id"], 1)
    assert sum(event["cost_nanos"] for event in events) <= 5_000_000
    assert [event["refusal"] for event in events].count("budget_spent") == 1


def test_a_key_that_is_missing_is_denied(stack: Stack, client: Client) -> None:
    """401 by the name that AWS has for it."""
    aws = client("tk-unknown12345-" + "x" * 43)
    with pytest.raises(aws.exceptions.AccessDeniedException, match="not known here"):
        aws.converse(modelId=SONNET, messages=said())


def test_a_stream_that_outgrows_its_budget_ends_with_our_exception(
    stack: Stack, client: Client
) -> None:
    """Whole frames, then an exception that botocore raises: the budget holds."""
    budget = ("bedrock-cut", "--where", "team=bedrock-cut", "--per", "total", "--amount", "0.03usd")
    stack.json("budgets", "set", *budget)
    own = stack.issue(team="bedrock-cut")  # known to every worker, and so is what came before it
    aws = client(own["key"])

    def cut() -> Any:
        answer = aws.converse_stream(
            modelId=SONNET,
            messages=said(output_tokens=20_000, delay_ms=4, chunk_tokens=10, chunk_bytes=101),
        )
        with pytest.raises(EventStreamError, match="outgrown") as raised:
            list(answer["stream"])
        answer["stream"].close()
        assert raised.value.response["Error"]["Code"] == "throttlingException"
        return head_of(answer)

    event = stack.event(cut()[EVENT_ID])
    assert event["outcome"] == "cut"
    assert event["cost_nanos"] <= 30_000_000


def test_an_unstated_maximum_is_given(stack: Stack, client: Client) -> None:
    """Under a budget that blocks: in the place that the API or the family has for it."""
    own = stack.issue("--max-spend", "0.05")
    aws = client(own["key"])
    answer = aws.converse(modelId=SONNET, messages=said(output_tokens=50_000))
    assert answer["stopReason"] == "max_tokens"
    event = stack.booked(head_of(answer))
    assert 0 < event["cost_nanos"] <= event["hold_nanos"] <= 50_000_000
    body = json.dumps({"prompt": f"x-fake: {json.dumps({'output_tokens': 90_000})}"})
    answer = aws.invoke_model(modelId="meta.llama3-1-8b-instruct-v1:0", body=body)
    event = stack.booked(head_of(answer))
    assert event["output_tokens"] < 90_000
    assert event["cost_nanos"] <= event["hold_nanos"]


def test_a_call_signed_by_its_caller_goes_as_it_came(stack: Stack, key: dict[str, Any]) -> None:
    """Our key beside it is taken off; body and other headers are what was signed."""
    signature = "AWS4-HMAC-SHA256 Credential=AKIAX/20261124/us-east-1/bedrock/aws4_request"
    headers = {"authorization": signature, "x-tollkeeper-key": key["key"]}
    url = f"{stack.gateway}/bedrock/model/{SONNET}/converse"
    content = json.dumps({"messages": said()})
    answer = httpx.post(url, content=content, headers={**headers, "x-amz-date": "now"})
    assert answer.status_code == 200
    assert "x-fake-request-metadata" not in answer.headers
    event = stack.booked(answer.headers)
    assert event["byok"]
    seen = dict(stack.fake.request(answer.headers["x-request-id"])["headers"])
    assert (seen["authorization"], seen["x-amz-date"]) == (signature, "now")
    assert seen["accept-encoding"] != "identity"
    assert seen["content-length"] == str(len(content))


@pytest.mark.parametrize(
    "model",
    [SONNET, ARN, "arn:aws:bedrock:us-east-1::foundation-model/meta.llama3-1-8b-instruct-v1:0"],
)
def test_every_way_to_name_a_model(stack: Stack, aws: Any, model: str) -> None:
    """An id with a colon and ARNs, which the SDK escapes; the provider gets the path as it was."""
    answer = aws.converse(modelId=model, messages=said())
    event = stack.booked(head_of(answer))
    assert event["model"] == model.rpartition("/")[2]
    assert event["cost_nanos"] > 0
    assert f"/model/{model}/converse" == stack.fake.request(head_of(answer)["x-request-id"])["path"]


def test_an_arn_that_hides_its_model_is_unpriced(stack: Stack, aws: Any) -> None:
    """Until a setting says what is behind it; the call passes and its tokens are counted."""
    hidden = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
    event = stack.event(head_of(aws.converse(modelId=hidden, messages=said()))[EVENT_ID])
    assert (event["price_source"], event["model"]) == ("unpriced", hidden)
    assert event["input_tokens"] > 0


ESCAPED = (
    "/openai/v1%2Fchat%2Fcompletions",
    "/openai/v1/chat%2fcompletions",
    "/openai/v1/chat%5Ccompletions",
    "/v1/chat%2Fcompletions",
    "/anthropic/v1%2Fmessages",
    "/bedrock/model/x%2Fconverse",
    "/bedrock%2Fmodel/x/converse",
    "/bedrock/model%2Fx%2Fconverse",
    f"/bedrock/model/{SONNET}%2Fconverse",
    "/bedrock/model/arn%3Aaws%3Ax%2F..%2Fopenai/converse",
    "/bedrock/model/arn%3Aaws%3Ax%2F%2e%2e%2Fopenai/converse",
    "/bedrock/model/arn%3Aaws%3Ax%2F%2Fy/converse",
    "/bedrock/model/arn%3Aaws%3Ax%2Fy/converse%2Fcount-tokens",
    "/bedrock/model/arn%3Aaws%3Ax%2Fy/z/converse",
    "/bedrock/model/arn%3Aaws%3Ax%2Fy%5Cz/converse",
    "/bedrock/model/arn%3Aaws%3Ax%2Fy%252Fz/converse",
    "/bedrock/model/arn%3Aaws%3Ax%2Fy/converse?x=1#%2F/../../openai",
    "/openai/model/arn%3Aaws%3Ax%2Fy/converse",
    "/bedrock/../openai/v1%2Fchat/completions",
    "/openai/../bedrock/model/x%2Fconverse",
    "/%62edrock/model/x%2Fconverse",
)


@pytest.mark.parametrize("path", ESCAPED)
def test_no_other_escaped_slash_passes(stack: Stack, key: dict[str, Any], path: str) -> None:
    """One spelling of every path but for ARNs: the provider never sees another one."""
    before = len(stack.fake.requests())
    content = json.dumps({"model": "gpt-4o", "messages": said(), "max_tokens": 5}).encode()
    answer = raw_http.exchange(stack.gateway, raw_http.post(path, key["key"], content))
    assert raw_http.status_of(answer) in (400, 404)
    assert len(stack.fake.requests()) == before


METERED = (
    f"/bedrock/model/{SONNET}/converse",
    f"/bedrock//model//{SONNET}/converse",
    f"/bedrock/./model/{SONNET}/converse",
    f"/openai/../bedrock/model/{SONNET}/converse",
    f"/bedrock/x/%2e%2e/model/{SONNET}/converse",
    f"/bedrock/model/{SONNET}/%63onverse",
    f"/bedrock/model/{SONNET}/converse?a=b%2Fc",
    f"/bedrock/model/{ARN.replace(':', '%3A').replace('/', '%2F')}/converse",
    f"/bedrock/model/{ARN.replace('/', '%2f')}/converse?x=%2F",
    f"/bedrock/model/{ARN}/converse",
    f"/bedrock/%6Dodel/{SONNET}/converse",
    f"/bedrock/model/{SONNET}/converse/",
)


@pytest.mark.parametrize("path", METERED)
def test_what_the_provider_serves_has_been_metered(
    stack: Stack, key: dict[str, Any], path: str
) -> None:
    """However a path is spelt: if it reaches a model, it is a metered Converse of that model."""
    content = json.dumps({"messages": said()}).encode()
    answer = raw_http.exchange(stack.gateway, raw_http.post(path, key["key"], content))
    event: Event = stack.event(raw_http.header_of(answer, EVENT_ID))
    served = raw_http.status_of(answer) == 200
    assert not served or (event["operation"], event["model"]) == ("converse", SONNET)
    assert not served or event["cost_nanos"] > 0


def test_other_calls_of_the_runtime(stack: Stack, key: dict[str, Any]) -> None:
    """Counting tokens is free; what is not billed by tokens is recorded, its cost unknown."""
    headers = {"authorization": f"Bearer {key['key']}"}
    for path, price_source in (
        (f"/bedrock/model/{SONNET}/count-tokens", "free"),
        ("/bedrock/model/amazon.titan-image-generator-v2:0/invoke", "unpriced"),
    ):
        answer = httpx.post(stack.gateway + path, json={"input": {}}, headers=headers)
        event = stack.event(answer.headers[EVENT_ID])
        assert event["operation"] == "other"
        if answer.status_code < 400:
            assert event["price_source"] == price_source
