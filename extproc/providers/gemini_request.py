"""Gemini's requests: what the path names, what the body asks for, in either spelling of its fields.
Knows no gateway.

The model and the method stand in the path, and the query decides the form of the answer. Bodies are
JSON of protocol buffers: `maxOutputTokens` and `max_output_tokens` are one field.
"""

import re
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from extproc.providers.body import Written, append_member, find_member, read_object
from extproc.providers.fields import MOST_TOKENS, label, mapping, sequence, text
from extproc.providers.gemini_weight import content_bytes, hidden_bytes
from extproc.providers.openai import MOST_CHOICES
from extproc.providers.paths import spelled_segments
from extproc.providers.shape import Asked, BadRequest

AUTOMATIC_THINKING_TOKENS: Final = 8192
"""What models think at most where the request leaves it to them. A maximum counts thoughts too, so
one that we give must leave room for them, or the answer is nothing but thoughts.
"""

_TOP: Final = (
    "model",
    "contents",
    "systemInstruction",
    "tools",
    "generationConfig",
    "cachedContent",
    "serviceTier",
    "content",
    "requests",
)
_CONFIG: Final = ("maxOutputTokens", "candidateCount", "thinkingConfig")
_DIGITS: Final = re.compile(r"[0-9]{1,12}")
_ANSWER_FORMS: Final = ("json", "sse")


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), name)


_SPELLINGS: Final = {name: (name, _snake(name)) for name in (*_TOP, *_CONFIG)}
_TOP_NAMES: Final = frozenset(spelling for name in _TOP for spelling in _SPELLINGS[name])
_CONFIG_NAMES: Final = frozenset(spelling for name in _CONFIG for spelling in _SPELLINGS[name])


def named(path: str) -> tuple[str, str]:
    """The model and the method (in lower case) at the end of a path; empty where there are none.

    A tuned model or an endpoint keeps the name of its collection: `tunedModels/mine`.
    """
    parts = spelled_segments(path)[-2:]
    name, colon, method = parts[-1].rpartition(":") if parts else ("", "", "")
    if not colon:
        return "", ""
    collection = parts[0] if len(parts) > 1 else ""
    model = name if collection.lower() in ("", "models") else f"{collection}/{name}"
    return (model if name else ""), method.lower()


def read_query(path: str) -> bool | BadRequest:
    """Whether the query asks for server-sent events. What would hide the usage is refused."""
    query = path.partition("?")[2]
    if query in ("", "alt=sse"):
        return bool(query)
    events = False
    for name, value in parse_qsl(query, keep_blank_values=True):
        name = name.removeprefix("$").lower()
        if name in ("fields", "callback"):
            says = f"`{name}` takes what was used out of the answer, so the call cannot be metered"
            return BadRequest(f"{says}; leave it out of the query.")
        if name == "alt":
            form = value.partition(";")[0].strip().lower()
            if form not in _ANSWER_FORMS:
                return BadRequest("`alt` must be json or sse: other answers cannot be metered.")
            events = events or form == "sse"
    return events


def read_request(operation: str, body: bytes, path: str) -> Asked | BadRequest:
    """What a request for content or embeddings asks for."""
    model, method = named(path)
    if not label(model):
        says = "The path names no model; call .../models/MODEL:generateContent"
        return BadRequest(f"{says}, as other forms of this API are not metered.")
    events = read_query(path)
    if isinstance(events, BadRequest):
        return events
    read = _fields(body, _TOP, _TOP_NAMES)
    if isinstance(read, BadRequest):
        return read
    request, written = read
    if other := _other_model(model, request):
        return BadRequest(other)
    if operation == "embeddings":
        return Asked(
            model=model,
            max_output_tokens=0,
            input_bytes=_embedded_bytes(request, written.size_bytes),
        )
    config = _config(body, request.get("generationConfig"), written)
    if isinstance(config, BadRequest):
        return config
    streamed = method == "streamgeneratecontent"
    size_bytes = written.size_bytes + content_bytes(request.get("contents"))
    size_bytes += content_bytes(request.get("systemInstruction"))
    hidden = hidden_bytes(request.get("tools"), request.get("cachedContent"))
    most, choices = config["maxOutputTokens"], config["candidateCount"]
    return Asked(
        model=model,
        streamed=streamed,
        max_output_tokens=min(most, MOST_TOKENS) if most else None,
        choices=min(choices or 1, MOST_CHOICES),
        input_bytes=max(0, size_bytes) + hidden,
        service_tier=tier(request.get("serviceTier")),
        array_stream=streamed and not events,
        reasoning_tokens=config["thinking"],
    )


def tier(value: object) -> str:
    """A service tier as price lists name it: `flex`, of `SERVICE_TIER_FLEX` or `ON_DEMAND_FLEX`."""
    name = label(value).lower().removeprefix("service_tier_")
    name = "" if name == "on_demand" else name.removeprefix("on_demand_")
    return "" if name in ("unspecified", "traffic_type_unspecified") else name


def state_maximum(body: bytes, tokens: int) -> bytes:
    """The request with `maxOutputTokens`; its other bytes stay, if they can be told apart."""
    config = find_member(body, *_SPELLINGS["generationConfig"])
    if config is None:
        return append_member(body, b'"generationConfig":{"maxOutputTokens":%d}' % tokens)
    written = body[config.start : config.end]
    most = find_member(written, *_SPELLINGS["maxOutputTokens"])
    if config.name is None or (most is not None and most.name is None):
        return _rewritten(body, tokens)
    if most is not None:
        written = written[: most.start] + b"%d" % tokens + written[most.end :]
    elif written.startswith(b"{"):
        written = append_member(written, b'"maxOutputTokens":%d' % tokens)
    else:
        written = b'{"maxOutputTokens":%d}' % tokens
    return body[: config.start] + written + body[config.end :]


def _rewritten(body: bytes, tokens: int) -> bytes:
    """The same request written anew, where it has too many brackets to change it in place."""
    request = orjson.loads(body)
    spelled = next((name for name in _SPELLINGS["generationConfig"] if name in request), "")
    config = mapping(request.get(spelled))
    for name in _SPELLINGS["maxOutputTokens"]:
        config.pop(name, None)
    request[spelled or "generationConfig"] = config | {"maxOutputTokens": tokens}
    return orjson.dumps(request)


def _fields(
    body: bytes, fields: tuple[str, ...], names: frozenset[str]
) -> tuple[dict[str, Any], Written] | BadRequest:
    """The fields by their first spelling, and how they were written."""
    read = read_object(body, names)
    if isinstance(read, BadRequest):
        return read
    found: dict[str, Any] = {}
    for name in fields:
        camel, snake = _SPELLINGS[name]
        if camel in read.fields:
            if snake != camel and snake in read.fields:
                return BadRequest(f"`{camel}` and `{snake}` are one field; send one of them.")
            found[name] = read.fields[camel]
        elif snake in read.fields:
            found[name] = read.fields[snake]
    return found, read


def _config(body: bytes, config: object, request: Written) -> dict[str, int] | BadRequest:
    """Maximum, candidates (0 where none is stated) and room for thoughts."""
    if config is not None and type(config) is not dict:
        return BadRequest("`generationConfig` must be an object.")
    written = b"{}"
    if config:
        written = orjson.dumps(config) if request.compact else _config_in(body, request)
    read = _fields(written, _CONFIG, _CONFIG_NAMES)
    if isinstance(read, BadRequest):
        return read
    stated = {}
    for name in ("maxOutputTokens", "candidateCount"):
        number = _whole(read[0].get(name))
        if number is None:
            return BadRequest(f"`{name}` must be a whole number.")
        stated[name] = max(0, number)  # zero and less set no limit
    thinking = mapping(read[0].get("thinkingConfig"))
    budget = thinking.get("thinkingBudget", thinking.get("thinking_budget"))
    room = -1 if budget is None else _whole(budget)
    if room is None or room < 0:
        room = AUTOMATIC_THINKING_TOKENS
    return {**stated, "thinking": min(room, MOST_TOKENS)}


def _config_in(body: bytes, request: Written) -> bytes:
    places = request.places
    member = next(places[name] for name in _SPELLINGS["generationConfig"] if name in places)
    return body[member.start : member.end]


def _whole(value: object) -> int | None:
    """A whole number, which may be written as a string; none is 0."""
    if value is None:
        return 0
    if type(value) is str and _DIGITS.fullmatch(value):
        return int(value)
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def _other_model(model: str, request: dict[str, Any]) -> str:
    """A sentence where the body names another model than the path does."""
    asked = [request, *(mapping(each) for each in sequence(request.get("requests")))]
    for each in asked:
        name = text(each.get("model")).strip("/").rpartition("/")[2]
        if name and name.lower() != model.rpartition("/")[2].lower():
            return f"The path names the model {model!r}, and the body another one; name only one."
    return ""


def _embedded_bytes(request: dict[str, Any], size_bytes: int) -> int:
    contents = [request.get("content")]
    contents += [mapping(each).get("content") for each in sequence(request.get("requests"))]
    return max(0, size_bytes + sum(content_bytes(content) for content in contents))
