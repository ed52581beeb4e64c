"""Where a call goes: which provider, which of the API modules beside this file reads it, and its
own path. Pure.
"""

from dataclasses import dataclass
from typing import Final

from extproc.events import Headers
from extproc.providers import anthropic, azure, bedrock, compatible, gemini, openai
from extproc.providers.a2a import A2a
from extproc.providers.mcp import Mcp
from extproc.providers.shape import Answer, Api
from extproc.refusal import Refusal

APIS: Final[dict[str, Api]] = {
    "openai": openai,
    "azure": azure,
    "anthropic": anthropic,
    "compatible": compatible,
    "bedrock": bedrock,
    "mcp": Mcp(),
    "a2a": A2a(),
    "gemini": gemini,
}
OWN_PROVIDER: Final = "tollkeeper"
"""What the route to the gateway's own API says, and its events: no provider is behind it."""
_KNOWN: Final = ("openai", "anthropic", "gemini", "bedrock", "azure")


@dataclass(frozen=True, slots=True)
class Told:
    """What the route's gRPC metadata says; empty where the gateway's config says nothing."""

    provider: str = ""
    api: str = ""
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Destination:
    """`path` is the provider's own: without gateway prefix and query. `deployment` is the name that
    stands in a path of Azure or Bedrock for a model, which the body cannot override.
    """

    provider: str
    api: Api
    path: str
    query: str = ""

    @property
    def path_and_query(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def deployment(self) -> str:
        if self.api is bedrock:
            return bedrock.unresolved(self.path)
        return azure.deployment(self.path) if self.api is azure else ""

    def complete(self, answer: Answer, model: str, headers: Headers) -> None:
        """Add to an answer what this API says of it in headers and in the request alone."""
        if self.api is bedrock:
            bedrock.complete(answer, model, headers)

    def refusal_headers(self, refusal: Refusal) -> tuple[tuple[str, bytes], ...]:
        """Headers in which this API's SDKs look for what kind of error it is."""
        return bedrock.refusal_headers(refusal) if self.api is bedrock else ()

    @property
    def per_call(self) -> bool:
        """Whether calls cost, and not tokens: those of tools and of agents."""
        return type(self.api) in (Mcp, A2a)


def destination(path: str, told: Told) -> Destination:
    """Where `path` leads. The route's word wins; without it the gateway's path rules decide."""
    bare, _, query = path.partition("?")
    provider, prefix = told.provider, told.prefix.rstrip("/")
    if not provider:
        first = bare.split("/", 2)[1] if bare.startswith("/") else ""
        if first in _KNOWN:
            provider, prefix = first, "/" + first
        else:
            provider = "anthropic" if _is_messages(bare) else "openai"
    if prefix and (bare == prefix or bare.startswith(prefix + "/")):
        bare = bare[len(prefix) :] or "/"
    return Destination(provider, APIS.get(told.api or provider, compatible), bare, query)


def _is_messages(bare: str) -> bool:
    return bare == "/v1/messages" or bare.startswith("/v1/messages/")
