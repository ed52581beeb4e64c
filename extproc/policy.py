"""What a sidecar enforces: keys and budgets as last published, rates and estimates. Knows no store
and no clock.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from extproc.agents import Agent, agent_from_document, price_from_document
from extproc.estimate import Estimates
from extproc.identity import PRINCIPAL_CLAIMS, Attribution, Key, key_from_document
from ledger.budgets import Budget, from_document, matches
from ledger.chains import Run, SigningKey, run_from_document
from ledger.chains import key_from_document as signing_key_from_document
from ledger.event import BILLINGS
from ledger.keyspace import Keyspace
from ledger.prices import RateTable

_EVERY_CALL: Final = ("", "")
MAX_BINDINGS: Final = 50_000
"""Remembered (key, provider) -> budgets pairs; the memory starts over when it is full."""
MAX_RUNS: Final = 100_000
MAX_SIGNING_KEYS: Final = 64
_UNBOUND: Final = ("run:", "chain_key:", "setting:chain", "agent:", "tool:")
"""Documents that change neither whom a key's calls are attributed to nor which budgets count them.
"""


@dataclass(slots=True)
class Policy:
    """The directory as of `version`. `ready` is False until a whole snapshot has been applied."""

    keyspace: Keyspace
    rates: RateTable
    estimates: Estimates
    producer: str = ""
    max_request_bytes: int = 32 * 1024 * 1024
    max_response_bytes: int = 32 * 1024 * 1024
    unstated_output_tokens: int = 16_384
    hold_ms: int = 15 * 60 * 1000
    deployments: Mapping[str, str] = field(default_factory=dict)
    """Azure deployment, in lower case -> the model behind it; others are taken for a model's name.
    """
    usage_unasked: frozenset[str] = frozenset(("mistral", "openrouter"))
    """Providers whose streams report usage unasked; some refuse a request that asks for it."""
    shadow: bool = False
    """Budgets only report what they would have refused."""
    principal_claims: tuple[str, ...] = PRINCIPAL_CLAIMS
    """What a verified token calls the person: the first of these claims that it has."""
    version: int = 0
    ready: bool = False
    keys: dict[bytes, Key] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    tools: dict[str, int | None] = field(default_factory=dict)
    """`server/tool`, or `server/*` for all of a server -> what a call costs in nanodollars."""
    signing_keys: dict[str, SigningKey] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    billing: str = "caller"
    """Who is billed for a call in a chain that is proved: its caller, its root, or both."""
    _names: dict[str, bytes] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    _bindings: dict[tuple[Any, ...], tuple[Budget, ...]] = field(default_factory=dict)
    _attributions: dict[bytes, Attribution] = field(default_factory=dict)
    _runs: dict[str, list[Budget]] = field(default_factory=dict)
    _index: dict[tuple[str, str], list[Budget]] | None = None

    def key(self, digest: bytes | None) -> Key | None:
        return self.keys.get(digest) if digest is not None else None

    def key_named(self, key_id: str) -> Key | None:
        digest = self._names.get(key_id)
        return self.keys.get(digest) if digest is not None else None

    def attribution(self, key: Key) -> Attribution:
        """Whom a call of `key` is attributed to where nothing but the key speaks."""
        found = self._attributions.get(key.digest)
        if found is None:
            found = self._attributions[key.digest] = Attribution(key, key.columns)
        return found

    def binding(
        self, who: Attribution, provider: str, *, run_id: str = "", byok: bool = False
    ) -> tuple[Budget, ...]:
        """The budgets that count a call to `provider` in a run; a caller who pays the provider
        itself (`byok`) touches no wallet.
        """
        # With the version, so that a call under way keeps the labels that its key had.
        wanted = (who.key.digest, who.key.version, who.proved, provider, byok)
        found = self._bindings.get(wanted)
        if found is None:
            labels = who.selectors(provider)
            found = tuple(
                budget
                for budget in self._candidates(labels)
                if matches(budget, labels) and not (byok and budget.limit_source == "wallet")
            )
            if len(self._bindings) >= MAX_BINDINGS:
                self._bindings.clear()
            self._bindings[wanted] = found
        of_run = self._runs.get(run_id)
        if of_run is None:
            return found
        labels = who.selectors(provider) | {"run": run_id}
        return found + tuple(budget for budget in of_run if matches(budget, labels))

    def price_per_call(self, operation: str, provider: str, tool_name: str) -> int | None:
        """What one call of a tool or an agent costs; None where nobody set a price."""
        if operation == "agent_call":
            agent = self.agents.get(provider)
            return agent.price_nanos if agent is not None else None
        price = self.tools.get(f"{provider}/{tool_name}")
        return self.tools.get(f"{provider}/*") if price is None else price

    def note(self, budget_id: str, left: int) -> None:
        """Remember what was left of a throttling budget when the store last looked."""
        self.left[budget_id] = left

    def _candidates(self, labels: Mapping[str, str]) -> Iterator[Budget]:
        """Budgets whose first label fits: not all of ten thousand are compared with each key."""
        if self._index is None:
            self._index = {}
            for budget in self.budgets.values():
                first = budget.where[0] if budget.where else _EVERY_CALL
                if "run" not in dict(budget.where):
                    self._index.setdefault(first, []).append(budget)
        for pair in (_EVERY_CALL, *labels.items()):
            yield from self._index.get(pair, ())

    def replace(self, documents: Mapping[str, Mapping[str, Any]], version: int) -> list[str]:
        """Take a whole snapshot: what it does not name is gone. Returns what was wrong with it."""
        self.keys.clear()
        self.budgets.clear()
        self.agents.clear()
        self.tools.clear()
        self._names.clear()
        self.signing_keys.clear()
        self.runs.clear()
        self.billing = "caller"
        complaints = [self._apply(name, document) for name, document in documents.items()]
        self._forget()
        self.version = version
        self.ready = True
        return [complaint for complaint in complaints if complaint]

    def change(self, name: str, document: Mapping[str, Any]) -> str:
        """Take one published document; they come in the order of their versions. Returns what was
        wrong with it, if anything.
        """
        complaint = self._apply(name, document)
        if name.startswith("key:"):  # a hundred thousand may come at once, which no budget minds
            self._bindings.clear()
            self._attributions.clear()
        elif not name.startswith(_UNBOUND):
            self._forget()
        version = document.get("version")
        self.version = max(self.version, version if isinstance(version, int) else 0)
        return complaint

    def _apply(self, name: str, document: Mapping[str, Any]) -> str:
        kind, _, identity = name.partition(":")
        try:
            if kind == "key":
                self._apply_key(identity, document)
            elif kind == "budget":
                self.budgets.pop(identity, None)
                self.left.pop(identity, None)
                if not document.get("removed"):
                    budget = from_document(document)
                    shadow = replace(budget, on_exceed="shadow") if self.shadow else budget
                    self.budgets[identity] = shadow
            elif kind == "agent":
                self.agents[identity] = agent_from_document(document)
            elif kind == "tool":
                self.tools.pop(identity, None)
                if not document.get("removed"):
                    self.tools[identity] = price_from_document(document)
            elif kind == "run":
                return self._apply_run(identity, document)
            elif kind == "chain_key":
                return self._apply_signing_key(identity, document)
            elif name == "setting:chain":
                self.billing = _billing(document)
        except (KeyError, TypeError, ValueError) as error:
            return f"The directory document {name} cannot be used and is ignored: {error!r}"
        return ""

    def _apply_run(self, run_id: str, document: Mapping[str, Any]) -> str:
        self.runs.pop(run_id, None)
        if document.get("removed"):
            return ""
        if len(self.runs) >= MAX_RUNS:
            return f"The directory has more than {MAX_RUNS:,} runs; {run_id} is ignored."
        self.runs[run_id] = run_from_document(document)
        return ""

    def _apply_signing_key(self, kid: str, document: Mapping[str, Any]) -> str:
        self.signing_keys.pop(kid, None)
        if document.get("removed"):
            return ""
        if len(self.signing_keys) >= MAX_SIGNING_KEYS:
            return f"The directory has more than {MAX_SIGNING_KEYS} chain keys; {kid} is ignored."
        self.signing_keys[kid] = signing_key_from_document(document)
        return ""

    def _forget(self) -> None:
        self._bindings.clear()
        self._attributions.clear()
        self._index = None
        self._runs.clear()
        for budget in self.budgets.values():
            if run_id := dict(budget.where).get("run"):
                self._runs.setdefault(run_id, []).append(budget)

    def _apply_key(self, key_id: str, document: Mapping[str, Any]) -> None:
        old = self._names.pop(key_id, None)
        if old is not None:
            self.keys.pop(old, None)
        if not document.get("removed"):
            key = key_from_document(document)
            self._names[key_id] = key.digest
            self.keys[key.digest] = key


def _billing(document: Mapping[str, Any]) -> str:
    said = str(document.get("billing") or "caller")
    if said not in BILLINGS:
        raise ValueError(f"billing {said!r} is not one of {', '.join(BILLINGS)}")
    return said
