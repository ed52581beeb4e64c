"""Webhooks: where they may go, what is in them, their signature and one attempt to send one. Keeps
no queue and knows no budget.

Signed as Standard Webhooks 1.0 says: `webhook-id`, `webhook-timestamp` and `webhook-signature`, the
last one being `v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body` under the endpoint's
secret. Slack's form is not signed: whoever knows the URL may write there, so its path is a secret.
"""

import base64
import hashlib
import hmac
import http.client
import json
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from ledger.issue import RefusedError
from ledger.tables import iso

TIMEOUT_S: Final = 10.0
"""For the whole exchange once connected, and for connecting to one address of the host."""
MAX_URL_CHARS: Final = 2000
MAX_ANSWER_BYTES: Final = 512
MAX_RETRY_AFTER_S: Final = 6 * 3600
SECRET_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32  # the standard asks for 24 to 64
_GONE: Final = 410
TYPES: Final = {
    "threshold": "budget.threshold",
    "exhausted": "budget.exhausted",
    "forecast": "budget.forecast",
    "overrun": "budget.overrun",
    "low_balance": "wallet.low_balance",
    "test": "webhook.test",
}
_HEADLINES: Final = {
    "threshold": "Budget threshold reached",
    "exhausted": "Budget spent",
    "forecast": "Budget will not last",
    "overrun": "Billed above the hold",
    "low_balance": "Prepaid credit runs low",
    "test": "Test",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where alerts are sent. `secret` is empty in Slack's form."""

    url: str
    secret: str
    form: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt: an HTTP status, or None and why there is none."""

    status: int | None
    error: str = ""
    retry_after_s: int = 0

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver says that it wants no more, ever."""
        return self.status == _GONE


def new_secret() -> str:
    """A new secret, as the standard writes it."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def clean_url(text: str) -> str:
    """An address that may be sent to; RefusedError says why another may not."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, SplitResult("", "", "", "", "")
    printable = url.isascii() and url.isprintable() and " " not in url
    if not (host and printable and parts.scheme in ("http", "https") and len(url) <= MAX_URL_CHARS):
        raise RefusedError(
            "That is not an address that alerts can be sent to; write one of http or https, in at"
            f" most {MAX_URL_CHARS} characters of ASCII, such as https://example.com/hooks/budgets."
        )
    if parts.username is not None or parts.fragment:
        raise RefusedError(
            "The address must not carry a user name, a password or a fragment; every message is"
            " signed, so that the receiver can tell that it is ours."
        )
    return url


def shown_url(url: str, form: str) -> str:
    """The address without what is a secret in it: Slack's path, and what a query may carry."""
    parts = urlsplit(url)
    start = f"{parts.scheme}://{parts.netloc}"
    if form == "slack":
        return f"{start}/..."
    return f"{start}{parts.path}{'?...' if parts.query else ''}"


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def request(
    endpoint: Endpoint, message_id: str, alert: Mapping[str, Any], now_s: int
) -> tuple[dict[str, str], bytes]:
    """Headers and body. `alert`: `kind`, `at`, `message`, and the facts that `data` repeats."""
    if endpoint.form == "slack":
        body = _encoded(slack_body(alert))
        return _headers(), body
    body = _encoded(standard_body(alert))
    signed = {
        "webhook-id": message_id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": signature(endpoint.secret, message_id, now_s, body),
    }
    return {**_headers(), **signed}, body


def standard_body(alert: Mapping[str, Any]) -> dict[str, Any]:
    """What Standard Webhooks asks for: type, when it happened, data."""
    at: datetime = alert["at"]
    data = {name: value for name, value in alert.items() if name != "at"}
    return {"type": TYPES[alert["kind"]], "timestamp": iso(at), "data": data}


def slack_body(alert: Mapping[str, Any]) -> dict[str, Any]:
    """What Slack's incoming webhooks and their imitations take."""
    headline, message = _HEADLINES[alert["kind"]], _slack_text(alert["message"])
    return {
        "text": f"{headline}: {message}",
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"*{headline}*\n{message}"}}
        ],
    }


def post(endpoint: Endpoint, headers: Mapping[str, str], body: bytes) -> Answer:
    """One attempt. Follows no redirect, and reads no more of the answer than an error needs."""
    parts = urlsplit(endpoint.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.connect()
        with _cut_off(connection.sock) as late:
            try:
                connection.request("POST", path, body, dict(headers))
                answer = connection.getresponse()
                if late.is_set():  # http.client takes headers that were cut off for complete
                    raise TimeoutError
                return _answer(answer)
            except (OSError, http.client.HTTPException):
                if late.is_set():
                    raise TimeoutError from None
                raise
    except TimeoutError:
        return Answer(None, f"It did not answer within {TIMEOUT_S:.0f} seconds.")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(None, _says(error))
    finally:
        connection.close()


@contextmanager
def _cut_off(line: socket.socket) -> Iterator[threading.Event]:
    """Ends an exchange that drips: a socket's own timeout starts anew with every byte."""
    late = threading.Event()
    other_end = socket.socket(fileno=socket.dup(line.fileno()))

    def cut() -> None:
        late.set()
        try:
            other_end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has just ended by itself

    timer = threading.Timer(TIMEOUT_S, cut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        timer.join()
        other_end.close()


def _answer(answer: http.client.HTTPResponse) -> Answer:
    if 200 <= answer.status < 300:
        return Answer(answer.status)  # whatever else it says
    text = " ".join(answer.read(MAX_ANSWER_BYTES).decode("utf-8", "replace").split())[:200]
    says = f"It answered {answer.status}{': ' + text if text else ''}."
    if 300 <= answer.status < 400:
        says = f"It answered {answer.status}; redirects are not followed."
    after = answer.getheader("Retry-After", "").strip()
    known = after.isascii() and after.isdecimal() and len(after) < 10
    return Answer(answer.status, says, min(int(after), MAX_RETRY_AFTER_S) if known else 0)


def _says(error: Exception) -> str:
    """The reason without the address, whose path may be a secret."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Its certificate cannot be trusted: {error.verify_message}."
    if isinstance(error, socket.gaierror):
        return "Its host name cannot be resolved."
    if isinstance(error, OSError) and error.strerror:
        return f"It cannot be reached: {error.strerror}."
    return f"It did not answer as HTTP asks for ({type(error).__name__})."


def _headers() -> dict[str, str]:
    try:
        name = f"tollkeeper/{version('tollkeeper')}"
    except PackageNotFoundError:
        name = "tollkeeper"
    return {"Content-Type": "application/json", "User-Agent": name, "Connection": "close"}


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), default=_json_default).encode()


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return iso(value)
    raise TypeError(f"{type(value).__name__} has no JSON form.")


def _slack_text(text: str) -> str:
    """Slack reads these three as its own; a budget's name must not mention a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
