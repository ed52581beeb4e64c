"""What an operator may set, its default and its environment variable. Wiring: nothing else imports
it but wiring.
"""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from extproc.identity import PRINCIPAL_CLAIMS
from ledger.prices import list_names


def _env(name: str, default: Any, says: str) -> Any:
    return field(default=default, metadata={"env": name, "help": says})


class SettingError(ValueError):
    """A setting has a value that it cannot have; the message says which and what it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One sidecar's settings. Flags of the command come first, then the environment, then these
    defaults.
    """

    redis_url: str = _env(
        "TOLLKEEPER_REDIS_URL", "redis://127.0.0.1:6379/0", "counters and the event stream"
    )
    org: str = _env("TOLLKEEPER_ORG", "default", "organisation: the hash tag of all names in Redis")
    socket_dir: Path = _env(
        "TOLLKEEPER_SOCKET_DIR", Path("/run/tollkeeper"), "where the workers' sockets are"
    )
    spool_dir: Path = _env(
        "TOLLKEEPER_SPOOL_DIR",
        Path("/var/lib/tollkeeper/spool"),
        "where events wait for the ledger",
    )
    workers: int = _env("TOLLKEEPER_WORKERS", 2, "worker processes, one socket each")
    store_away: str = _env(
        "TOLLKEEPER_STORE_AWAY",
        "closed",
        "`closed`: 503 while Redis is away; `open`: let calls pass",
    )
    enforce: str = _env(
        "TOLLKEEPER_ENFORCE",
        "hard",
        "`hard`: budgets refuse; `shadow`: they say what they would refuse",
    )
    max_request_bytes: int = _env(
        "TOLLKEEPER_MAX_REQUEST_BYTES", 32 * 1024 * 1024, "larger bodies of metered calls get 413"
    )
    max_response_bytes: int = _env(
        "TOLLKEEPER_MAX_RESPONSE_BYTES", 32 * 1024 * 1024, "larger JSON answers pass unread"
    )
    unstated_output_tokens: int = _env(
        "TOLLKEEPER_UNSTATED_OUTPUT_TOKENS",
        16_384,
        "the ceiling of an answer whose request states no maximum",
    )
    azure_deployments: str = _env(
        "TOLLKEEPER_AZURE_DEPLOYMENTS", "", "models behind Azure deployments: NAME=MODEL,NAME=MODEL"
    )
    principal_claims: str = _env(
        "TOLLKEEPER_PRINCIPAL_CLAIMS",
        ",".join(PRINCIPAL_CLAIMS),
        "claims of a verified token that name the person; the first that is there",
    )
    bedrock_models: str = _env(
        "TOLLKEEPER_BEDROCK_MODELS",
        "",
        "models behind Bedrock ARNs that do not name theirs: ARN=MODEL,ARN=MODEL",
    )
    price_list: str = _env(
        "TOLLKEEPER_PRICE_LIST",
        "",
        "price lists of providers whose name does not say it: NAME=LIST,NAME=LIST",
    )
    usage_unasked: str = _env(
        "TOLLKEEPER_USAGE_UNASKED",
        "mistral,openrouter",
        "providers whose streams report usage unasked, and may refuse to be asked",
    )
    hold_s: int = _env(
        "TOLLKEEPER_HOLD_S", 900, "seconds after which a hold that nobody settles expires"
    )
    host: str = _env(
        "TOLLKEEPER_HOST", socket.gethostname(), "this machine's name in producer names"
    )

    @property
    def deployments(self) -> dict[str, str]:
        """Azure deployment or Bedrock ARN, in lower case -> model."""
        return _models(self.azure_deployments) | _models(self.bedrock_models)

    @property
    def claims(self) -> tuple[str, ...]:
        """The claims that name the person, in their order."""
        return tuple(name.strip() for name in self.principal_claims.split(","))

    @property
    def price_lists(self) -> dict[str, str]:
        """Provider -> price list."""
        return list_names(self.price_list)

    @property
    def unasked(self) -> frozenset[str]:
        """Providers that are not asked for usage."""
        return frozenset(name.strip() for name in self.usage_unasked.split(",") if name.strip())

    def socket(self, index: int) -> Path:
        """The Unix socket of one worker."""
        return self.socket_dir / f"extproc-{index}.sock"


def _models(text: str) -> dict[str, str]:
    """The pairs of `NAME=MODEL,NAME=MODEL`, names in lower case."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip().lower(): model.strip() for name, _, model in pairs}


def from_environment(environment: Mapping[str, str] = os.environ, **flags: Any) -> Settings:
    """Settings from flags that are not None, then the environment; raises SettingError."""
    values: dict[str, Any] = {}
    for each in fields(Settings):
        raw = flags.get(each.name)
        if raw is None:
            raw = environment.get(each.metadata["env"])
        if raw is not None:
            values[each.name] = _parse(each.metadata["env"], each.default, raw)
    settings = Settings(**values)
    if settings.store_away not in ("open", "closed"):
        raise SettingError("TOLLKEEPER_STORE_AWAY must be `open` or `closed`.")
    if settings.enforce not in ("hard", "shadow"):
        raise SettingError("TOLLKEEPER_ENFORCE must be `hard` or `shadow`.")
    if not 1 <= settings.workers <= 64:
        raise SettingError("TOLLKEEPER_WORKERS must be a number from 1 to 64.")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", settings.host):
        raise SettingError("TOLLKEEPER_HOST may have letters, digits, dots and dashes only.")
    if not all(settings.claims):
        raise SettingError("TOLLKEEPER_PRINCIPAL_CLAIMS must be names of claims: NAME,NAME.")
    for variable, name, text in (
        ("TOLLKEEPER_AZURE_DEPLOYMENTS", "NAME", settings.azure_deployments),
        ("TOLLKEEPER_BEDROCK_MODELS", "ARN", settings.bedrock_models),
    ):
        if not all(_models(text).values()) or "" in _models(text):
            raise SettingError(f"{variable} must be {name}=MODEL,{name}=MODEL.")
    try:
        list_names(settings.price_list)
    except ValueError as error:
        raise SettingError(f"TOLLKEEPER_PRICE_LIST {error}") from None
    return settings


def _parse(name: str, default: Any, raw: Any) -> Any:
    if isinstance(default, Path):
        return Path(raw)
    if isinstance(default, int):
        try:
            number = int(raw)
        except ValueError:
            number = 0
        if number < 1:
            raise SettingError(f"{name} must be a whole number above zero, not {raw!r}.")
        return number
    return str(raw)
