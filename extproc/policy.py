"""What a sidecar enforces: keys and budgets as last published, rates and estimates. Knows no store
and no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from extproc.estimate import Estimates
from extproc.identity import Key, key_from_document
from ledger.budgets import Budget, from_document, matches
from ledger.keyspace import Keyspace
from ledger.prices import RateTable

MAX_BINDINGS: Final = 50_000
"""Remembered (key, provider) -> budgets pairs; the memory starts over when it is full."""


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
    version: int = 0
    ready: bool = False
    keys: dict[bytes, Key] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
    _names: dict[str, bytes] = field(default_factory=dict)
    _bindings: dict[tuple[bytes, str], tuple[Budget, ...]] = field(default_factory=dict)

    def key(self, digest: bytes | None) -> Key | None:
        return self.keys.get(digest) if digest is not None else None

    def binding(self, key: Key, provider: str) -> tuple[Budget, ...]:
        """The budgets that count a call of `key` to `provider`."""
        wanted = (key.digest, provider)
        found = self._bindings.get(wanted)
        if found is None:
            labels = key.selectors(provider)
            found = tuple(b for b in self.budgets.values() if matches(b, labels))
            if len(self._bindings) >= MAX_BINDINGS:
                self._bindings.clear()
            self._bindings[wanted] = found
        return found

    def replace(self, documents: Mapping[str, Mapping[str, Any]], version: int) -> list[str]:
        """Take a whole snapshot: what it does not name is gone. Returns what was wrong with it."""
        self.keys.clear()
        self.budgets.clear()
        self._names.clear()
        complaints = [self._apply(name, document) for name, document in documents.items()]
        self._bindings.clear()
        self.version = version
        self.ready = True
        return [complaint for complaint in complaints if complaint]

    def change(self, name: str, document: Mapping[str, Any]) -> str:
        """Take one published document; they come in the order of their versions. Returns what was
        wrong with it, if anything.
        """
        complaint = self._apply(name, document)
        self._bindings.clear()
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
                if not document.get("removed"):
                    self.budgets[identity] = from_document(document)
        except (KeyError, TypeError, ValueError) as error:
            return f"The directory document {name} cannot be used and is ignored: {error!r}"
        return ""

    def _apply_key(self, key_id: str, document: Mapping[str, Any]) -> None:
        old = self._names.pop(key_id, None)
        if old is not None:
            self.keys.pop(old, None)
        if not document.get("removed"):
            key = key_from_document(document)
            self._names[key_id] = key.digest
            self.keys[key.digest] = key
