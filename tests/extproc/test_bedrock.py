"""Bedrock's requests and refusals: models in paths, maxima, input size, the event's id, errors."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from extproc.budget import Admitted
from extproc.events import Continue, RequestHeaders, Respond
from extproc.eventstream import frame
from extproc.exchange import Exchange, Reserve
from extproc.identity import present
from extproc.providers import bedrock, weight
from extproc.providers.routing import Told, destination
from extproc.providers.shape import Asked, BadRequest
from extproc.refusal import Refusal
from tests.extproc.builders import KEY, NOW_US, answer, answer_headers, ask, body, budget, policy

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
APPLICATION = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
CONVERSE = f"/model/{SONNET}/converse"
SPENT = Refusal(
    status=429,
    code="budget_spent",
    message="Spent.",
    limit_source="budget",
    limit="risk-month",
    retry_after_s=86_400,
)


def asked(path: str, request: Any) -> Asked | BadRequest:
    content = request if isinstance(request, bytes) else orjson.dumps(request)
    return bedrock.read_request(bedrock.operation("POST", path), content, path)


def good(path: str, request: Any) -> Asked:
    found = asked(path, request)
    assert isinstance(found, Asked), found
    return found


def converse(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"text": "Hi."}]}], **fields}


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/model/us.amazon.nova-pro-v1%3A0/converse", "converse"),
        ("/model/x/converse-stream", "converse"),
        (f"/model/{SONNET}/invoke", "messages"),
        (f"/model/{SONNET}/invoke-with-response-stream", "messages"),
        ("/model/amazon.titan-embed-text-v2:0/invoke", "embeddings"),
        ("/model/cohere.embed-english-v3/invoke", "embeddings"),
        ("/model/meta.llama3-8b-instruct-v1:0/invoke", "generate"),
        ("/model/amazon.titan-image-generator-v2:0/invoke", "other"),
        ("/model/cohere.rerank-v3-5:0/invoke", "other"),
        ("/model/x/count-tokens", "other"),
        ("/model/x/invoke-with-bidirectional-stream", "other"),
        ("/guardrail-checks/invoke", "other"),
        ("/async-invoke", "other"),
        ("/openai/v1/chat/completions", "chat"),
        ("/model/x//converse/", "converse"),
        ("/%6Dodel/x/%63onverse", "converse"),
        ("/model/x%2Fconverse", "converse"),
        ("/", "other"),
    ],
)
def test_the_operation_is_that_of_the_body(path: str, operation: str) -> None:
    """However the path is spelt: what a lenient server would serve is metered."""
    assert bedrock.operation("POST", path) == operation
    assert bedrock.operation("GET", path) == "other"


@pytest.mark.parametrize(
    ("in_path", "model"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1%3A0", SONNET),
        (f"arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2F{SONNET}", SONNET),
        ("arn:aws:bedrock:us-east-1::foundation-model/meta.llama3-8b", "meta.llama3-8b"),
        (APPLICATION.replace(":", "%3A").replace("/", "%2F"), APPLICATION),
    ],
)
def test_the_model_is_what_the_path_names(in_path: str, model: str) -> None:
    """An id, a profile or an ARN, percent-encoded as the SDKs do."""
    assert good(f"/model/{in_path}/converse", converse()).model == model
    hidden = model if model.startswith("arn:") else ""
    assert bedrock.unresolved(f"/model/{in_path}/converse") == hidden


def test_an_arn_that_hides_its_model_is_resolved_by_a_setting() -> None:
    """As Azure's deployments are; without the setting the ARN is the name, and has no price."""
    rules = policy()
    for models, model in (({}, APPLICATION), ({APPLICATION: SONNET}, SONNET)):
        rules.deployments = models
        exchange = Exchange(rules, "e-1")
        exchange.receive(ask(f"/bedrock/model/{APPLICATION}/converse"), NOW_US)
        exchange.receive(body(orjson.dumps(converse())), NOW_US)
        exchange.receive(Admitted(held=False, granted=1), NOW_US)
        exchange.receive(answer_headers(), NOW_US)
        exchange.receive(answer('{"usage":{"inputTokens":10,"outputTokens":2}}'), NOW_US)
        settled = exchange.close(NOW_US)
        assert settled is not None
        assert settled.fields["model"] == model
        assert (settled.fields.get("cost_nanos") is None) == (not models)


@pytest.mark.parametrize(
    ("path", "request_body", "most"),
    [
        (CONVERSE, converse(), None),
        (CONVERSE, converse(inferenceConfig={"maxTokens": 90}), 90),
        (CONVERSE, converse(additionalModelRequestFields={"max_tokens": 500}), 500),
        (
            CONVERSE,
            converse(
                inferenceConfig={"maxTokens": 90},
                additionalModelRequestFields={"inferenceConfig": {"max_new_tokens": 300}},
            ),
            300,
        ),
        (f"/model/{SONNET}/invoke", {"max_tokens": 7}, 7),
        ("/model/anthropic.claude-v2/invoke", {"max_tokens_to_sample": 8}, 8),
        ("/model/meta.llama3-8b/invoke", {"max_gen_len": 9, "max_tokens": 1}, 9),
        ("/model/meta.llama3-8b/invoke", {"max_tokens": 1}, None),
        (
            "/model/amazon.titan-text-lite-v1/invoke",
            {"textGenerationConfig": {"maxTokenCount": 5}},
            5,
        ),
        ("/model/us.amazon.nova-lite-v1:0/invoke", {"inferenceConfig": {"max_new_tokens": 6}}, 6),
        ("/model/cohere.command-r-v1:0/invoke", {"max_tokens": 4}, 4),
        ("/model/amazon.titan-embed-text-v2:0/invoke", {"inputText": "x"}, 0),
    ],
)
def test_the_maximum_is_where_the_model_s_family_has_it(
    path: str, request_body: Any, most: int | None
) -> None:
    """The largest, where two places say one; a name that another family uses says nothing."""
    assert good(path, request_body).max_output_tokens == most


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/model//converse", b"{}"),
        (CONVERSE, b'{"inferenceConfig": {"maxTokens": "many"}}'),
        (CONVERSE, b'{"inferenceConfig": [], "messages": []}'),
        (CONVERSE, b'{"inferenceConfig": {"maxTokens": 9, "maxTokens": 90000}}'),
        (CONVERSE, b'{"inferenceConfig": {"maxTokens": 9, "max\\u0054okens": 90000}}'),
        (CONVERSE, b'{"inferenceConfig": {"maxTokens":1}, "inferenceConfig": {}}'),
        (CONVERSE, b'{"additionalModelRequestFields": {"max_tokens":1, "max_tokens":99}}'),
        (f"/model/{SONNET}/invoke", b'{"max_tokens": -1}'),
        (f"/model/{SONNET}/invoke", b"not json"),
    ],
)
def test_a_maximum_that_servers_may_read_otherwise_is_refused(path: str, content: bytes) -> None:
    """One sentence says what is wrong."""
    found = bedrock.read_request("converse" if "converse" in path else "messages", content, path)
    assert isinstance(found, BadRequest)
    assert found.says.endswith(".")


@pytest.mark.parametrize(
    ("operation", "model", "before", "after"),
    [
        ("converse", SONNET, b'{"a":1}', b'{"a":1,"inferenceConfig":{"maxTokens":50}}'),
        (
            "converse",
            SONNET,
            b'{ "inferenceConfig" : {"topP": 1.0} }',
            b'{ "inferenceConfig" : {"topP": 1.0,"maxTokens":50} }',
        ),
        (
            "converse",
            SONNET,
            b'{"inferenceConfig":{"maxTokens":null}}',
            b'{"inferenceConfig":{"maxTokens":50}}',
        ),
        ("converse", SONNET, b'{"inferenceConfig":null}', b'{"inferenceConfig":{"maxTokens":50}}'),
        ("generate", "meta.llama3-8b", b"{}", b'{"max_gen_len":50}'),
        (
            "generate",
            "amazon.titan-text-lite-v1",
            b'{"inputText":"x"}',
            b'{"inputText":"x","textGenerationConfig":{"maxTokenCount":50}}',
        ),
        (
            "generate",
            "eu.amazon.nova-pro-v1:0",
            b"{}",
            b'{"inferenceConfig":{"maxTokens":50}}',
        ),
        ("generate", APPLICATION, b'{"a":1}', b'{"a":1}'),
    ],
)
def test_a_maximum_is_stated_and_every_other_byte_stays(
    operation: str, model: str, before: bytes, after: bytes
) -> None:
    """In the place that the API or the family has for it."""
    assert bedrock.state_maximum(operation, before, model, 50) == after


def test_what_is_stated_is_read_again() -> None:
    """For every family that has a maximum, reading and stating agree on its place."""
    models = ("meta.x", "amazon.nova-x", "amazon.titan-text-x", "mistral.x", "openai.gpt-oss-20b")
    for model in (*models, "cohere.command-r", "ai21.jamba", "ai21.j2-mid", "deepseek.r1"):
        path = f"/model/{model}/invoke"
        assert good(path, b"{}").max_output_tokens is None
        stated = bedrock.state_maximum("generate", b"{}", model, 77)
        assert good(path, stated).max_output_tokens == 77


def test_a_body_of_an_unknown_family_is_fixed() -> None:
    """No maximum can be stated; Anthropic's body says of itself what it is."""
    path = f"/model/{APPLICATION}/invoke"
    unknown = good(path, {"prompt": "x"})
    assert (unknown.fixed, unknown.operation) == (True, "generate")
    claude = good(path, {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9})
    assert (claude.fixed, claude.operation, claude.max_output_tokens) == (False, "messages", 9)


def test_media_count_by_allowance_and_not_by_their_coded_bytes() -> None:
    """As in other APIs; text counts as it is written."""
    text = good(CONVERSE, converse()).input_bytes
    coded = "A" * 400_000

    def with_block(block: dict[str, Any]) -> int:
        message = {"role": "user", "content": [{"text": "Hi."}, block]}
        return good(CONVERSE, {"messages": [message]}).input_bytes

    image = {"image": {"format": "png", "source": {"bytes": coded}}}
    near = text + weight.IMAGE_BYTES
    assert near <= with_block(image) < near + 100
    inside = {"toolResult": {"toolUseId": "t", "content": [image]}}
    assert near <= with_block(inside) < near + 150
    stored = {
        "document": {"name": "d", "format": "pdf", "source": {"s3Location": {"uri": "s3://x"}}}
    }
    assert with_block(stored) >= text + weight.FILE_BYTES
    spoken = {"audio": {"format": "mp3", "source": {"bytes": coded}}}
    assert with_block(spoken) < text + 100_000
    written = {"document": {"name": "d", "format": "txt", "source": {"text": coded}}}
    assert with_block(written) > text + 400_000
    tools = good(CONVERSE, converse(toolConfig={"tools": [{"systemTool": {"name": "search"}}]}))
    assert tools.input_bytes > text + weight.HOSTED_TOOL_BYTES


def test_the_event_s_id_is_stamped_into_the_request() -> None:
    """AWS writes it to its invocation log; the caller's own members stay."""
    request = good(CONVERSE, b'{"requestMetadata": {"app": "x"}, "messages": []}')
    assert request.stamp is not None
    changed = request.stamp(b'{"requestMetadata": {"app": "x"}, "messages": []}', "e-1")
    assert changed == (
        b'{"requestMetadata": {"app": "x","tollkeeper_event_id":"e-1"}, "messages": []}'
    )
    assert request.stamp(b"{}", "e-1") == b'{"requestMetadata":{"tollkeeper_event_id":"e-1"}}'


@pytest.mark.parametrize(
    "metadata",
    [{"tollkeeper_event_id": "mine"}, {str(number): "x" for number in range(16)}, "text"],
)
def test_no_stamp_where_there_is_no_room_for_it(metadata: Any) -> None:
    """The caller's own member of that name, a full map, or what is none: it goes as it came."""
    assert good(CONVERSE, converse(requestMetadata=metadata)).stamp is None


def coded(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode() for name, value in headers.items()}


def exchange_with(headers: dict[str, str], request: bytes, *budgets: Any) -> tuple[Any, Any]:
    """The actions on the headers and on the verdict of a Converse call."""
    exchange = Exchange(policy(*budgets), "e-1")
    head = RequestHeaders(ask("/bedrock" + CONVERSE, key=None).headers | coded(headers), False)
    first = exchange.receive(head, NOW_US)
    reserve = exchange.receive(body(request), NOW_US)
    assert isinstance(reserve, Reserve)
    return first, (reserve, exchange.receive(Admitted(held=True, granted=500), NOW_US))


def test_a_call_of_ours_is_stamped_and_given_a_maximum() -> None:
    """Under a budget that blocks, as with every API."""
    request = orjson.dumps(converse())
    headers = {"authorization": f"Bearer {KEY}"}
    _, (_, onward) = exchange_with(headers, request, budget(10**12))
    assert isinstance(onward, Continue)
    changed = orjson.loads(onward.body or b"")
    assert changed == converse(
        inferenceConfig={"maxTokens": 500}, requestMetadata={"tollkeeper_event_id": "e-1"}
    )
    assert onward.body is not None
    assert onward.set_headers == (("content-length", str(len(onward.body)).encode()),)


def test_a_call_that_its_caller_signed_goes_as_it_came() -> None:
    """A signature covers body and headers: nothing is changed, and the ceiling is held."""
    signature = "AWS4-HMAC-SHA256 Credential=AKIA/20261124/us-east-1/bedrock/aws4_request, ..."
    headers = {"authorization": signature, "x-tollkeeper-key": KEY}
    request = orjson.dumps(converse())
    first, (reserve, onward) = exchange_with(headers, request, budget(10**12))
    assert first.set_headers == ()
    assert first.remove_headers == ("x-tollkeeper-key",)
    assert onward == Continue()
    assert (reserve.plan.least, reserve.plan.most) == (16_384, 16_384)
    assert present({"authorization": signature.encode()}, "/").signed
    assert not present({"authorization": b"Bearer sk-other"}, "/").signed


@pytest.mark.parametrize(
    ("status", "retry_after_s", "name"),
    [
        (400, None, "ValidationException"),
        (401, None, "AccessDeniedException"),
        (402, None, "ServiceQuotaExceededException"),
        (403, None, "AccessDeniedException"),
        (413, None, "ValidationException"),
        (429, 1, "ThrottlingException"),
        (429, 86_400, "AccessDeniedException"),
        (500, None, "InternalServerException"),
        (503, 1, "ServiceUnavailableException"),
    ],
)
def test_a_refusal_has_the_name_that_aws_s_sdks_know(
    status: int, retry_after_s: int | None, name: str
) -> None:
    """Only what a retry can help has a name that they retry."""
    refusal = Refusal(status=status, code="c", message="Says.", retry_after_s=retry_after_s)
    assert bedrock.refusal_headers(refusal) == (("x-amzn-errortype", name.encode()),)
    assert orjson.loads(bedrock.refuse(refusal)) == {"message": "Says.", "code": "c"}


def test_a_refused_call_is_answered_in_bedrock_s_shape() -> None:
    """By the exchange, on Bedrock's routes alone."""
    for path, named in ((CONVERSE, True), ("/v1/chat/completions", False)):
        told = Told("bedrock" if named else "openai")
        refused = Exchange(policy(), "e-1", told).receive(ask(path, key=None), NOW_US)
        assert isinstance(refused, Respond)
        assert (dict(refused.headers).get("x-amzn-errortype") is not None) == named


def test_a_stream_ends_with_an_exception_that_botocore_reads() -> None:
    """Framed, and one of those that the API documents for streams."""
    theirs = EventStreamBuffer()
    theirs.add_data(bedrock.refuse_stream("converse", SPENT, bedrock.EVENT_STREAM))
    (message,) = list(theirs)
    assert message.headers[":exception-type"] == "throttlingException"
    assert message.headers[":message-type"] == "exception"
    assert orjson.loads(message.payload)["limit"] == "risk-month"


def test_a_stream_that_is_cut_ends_at_a_frame() -> None:
    """However the last chunk was cut, what the client has read can be followed by our exception."""
    rules = policy(budget(10**12))
    exchange = Exchange(rules, "e-1")
    exchange.receive(ask("/bedrock" + CONVERSE + "-stream"), NOW_US)
    exchange.receive(body(orjson.dumps(converse())), NOW_US)
    exchange.receive(Admitted(held=True, granted=10), NOW_US)
    exchange.receive(answer_headers(bedrock.EVENT_STREAM), NOW_US)
    said = {":event-type": "contentBlockDelta", ":message-type": "event"}
    delta = frame(said, orjson.dumps({"delta": {"text": "word " * 20}}))
    sent = b""
    stream = delta * 8
    for at in range(0, len(stream), 70):
        chunk = stream[at : at + 70]
        action = exchange.receive(answer(chunk, ended=False), NOW_US)
        if isinstance(action, Reserve):
            refused = Refusal(status=429, code="budget_spent", message="", limit="b")
            action = exchange.receive(refused, NOW_US)
        assert isinstance(action, Continue)
        sent += chunk if action.body is None else action.body
        if exchange.done:
            break
    theirs = EventStreamBuffer()
    theirs.add_data(sent)
    found = list(theirs)
    assert found[-1].headers[":exception-type"] == "throttlingException"
    assert len(found) > 1


@pytest.mark.parametrize("case", sorted((Path(__file__).parents[1] / "data/bedrock").iterdir()))
def test_recorded_streams_are_ones_that_botocore_reads(case: Path) -> None:
    """The golden streams are real frames, but for the one whose checksum is wrong on purpose."""
    file = case / "response.eventstream"
    if file.exists() and case.name != "converse_stream_damaged":
        theirs = EventStreamBuffer()
        theirs.add_data(file.read_bytes())
        assert all(orjson.loads(message.payload) for message in theirs)


def test_the_provider_s_headers_complete_an_answer() -> None:
    """The request id of AWS, counts where the body has none, and the model as the path has it."""
    target = destination("/bedrock" + CONVERSE, Told())
    found = bedrock.read_answer(
        "messages", b'{"usage":{"input_tokens":1},"model":"claude","id":"m"}'
    )
    headers = {
        "x-amzn-requestid": b"r-1",
        "x-amzn-bedrock-input-token-count": b"99",
        "x-amzn-bedrock-service-tier": b"flex",
    }
    target.complete(found, SONNET, headers)
    assert (found.model, found.response_id, found.service_tier) == (SONNET, "r-1", "flex")
    assert found.usage is not None
    assert found.usage.input_tokens == 1
    bare = bedrock.read_answer("generate", b'{"outputs":[{"text":"x"}]}')
    target.complete(bare, APPLICATION, headers)
    assert bare.usage is not None
    assert bare.usage.input_tokens == 99


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**60) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                (
                    *("usage", "inputTokens", "outputTokens", "cacheDetails", "ttl", "delta"),
                    *(
                        "results",
                        "tokenCount",
                        "meta",
                        "billed_units",
                        "metadata",
                        "trace",
                        "bytes",
                    ),
                    *("promptRouter", "invokedModelId", "bytes", "input", "output", "text"),
                )
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from(["converse", "messages", "generate", "embeddings"]))
def test_no_answer_and_no_event_raises(value: Any, operation: str) -> None:
    """Whatever a provider sends is an answer with or without usage."""
    content = orjson.dumps(value)
    read = bedrock.read_answer(operation, content)
    assert read.output_bytes >= 0
    stream = bedrock.stream(operation)
    for event in (b"metadata", b"contentBlockDelta", b"chunk", b"fault:x", b""):
        stream.feed(event, content)
        stream.feed(event, content[:-1])


@given(JSON, st.sampled_from([CONVERSE, f"/model/{SONNET}/invoke", "/model/amazon.nova-x/invoke"]))
def test_no_request_raises(value: Any, path: str) -> None:
    """Whatever a client sends is metered or refused with a sentence."""
    fields = ("inferenceConfig", "messages", "requestMetadata", "toolConfig", "system")
    found = asked(path, dict.fromkeys(fields, value))
    assert isinstance(found, Asked | BadRequest)
