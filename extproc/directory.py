"""Keeps the policy at what the ledger has published: one snapshot, then every change as it comes.
Knows Redis.

While the store is away the last known directory stays in force.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

import orjson

from extproc.policy import Policy
from extproc.resp import Connection, StoreError
from ledger.keyspace import Keyspace

log = logging.getLogger(__name__)

MAX_DOCUMENTS: Final = 1_000_000
"""Keys and budgets one sidecar holds in memory; further ones are refused loudly."""
_BLOCK_MS: Final = 1000
_CHANGES: Final = 1000
_RETRY_S: Final = 0.25
_SAY_EVERY: Final = 40
"""Failures in a row between two lines about them."""
_CHECK_EVERY: Final = 30
"""Reads of the change stream between two looks at whether a change was missed."""


class Directory:
    """Follows one organisation's directory into a policy."""

    def __init__(self, url: str, keyspace: Keyspace, policy: Policy) -> None:
        self._connection = Connection(url)
        self._keyspace = keyspace
        self._policy = policy
        self.loaded = asyncio.Event()

    async def run(self) -> None:
        """Follow for ever; reads a new snapshot whenever the connection was lost or a change was
        missed.
        """
        failures = 0
        while True:
            try:
                position = await self._snapshot()
                failures = 0
                await self._follow(position)
            except StoreError as error:
                if failures % _SAY_EVERY == 0:
                    log.warning("The directory cannot be followed now (%s).", error)
                failures += 1
            await asyncio.sleep(_RETRY_S)

    async def _snapshot(self) -> bytes:
        """Take the whole directory; the id of the last change that it contains."""
        names, call = self._keyspace, self._connection.call
        version = await call("GET", names.directory_version)
        if version is None:
            raise StoreError("the ledger has not published it yet")
        newest = await call("XREVRANGE", names.directory_changes, "+", "-", "COUNT", 1)
        position: bytes = newest[0][0] if newest else b"0-0"
        documents: dict[str, Mapping[str, Any]] = {}
        cursor = b"0"
        while True:
            cursor, found = await call("HSCAN", names.directory, cursor, "COUNT", 1000)
            for name, text in zip(found[::2], found[1::2], strict=True):
                _take(documents, name, text)
            if cursor == b"0":
                break
        for complaint in self._policy.replace(documents, int(version)):
            log.error(complaint)
        self.loaded.set()
        return position

    async def _follow(self, position: bytes) -> None:
        """Apply changes until one may have been missed; raises StoreError."""
        names, call = self._keyspace, self._connection.call
        for turn in range(1, 1_000_000):
            command = ("XREAD", "COUNT", _CHANGES, "BLOCK", _BLOCK_MS, "STREAMS")
            reply = await call(
                *command, names.directory_changes, position, timeout_s=_BLOCK_MS / 1000 + 4
            )
            entries, before = reply[0][1] if reply else (), position
            for entry, fields in entries:
                position = entry
                documents: dict[str, Mapping[str, Any]] = {}
                pairs = dict(zip(fields[::2], fields[1::2], strict=True))
                _take(documents, pairs.get(b"name", b""), pairs.get(b"document", b""))
                for name, document in documents.items():
                    if complaint := self._policy.change(name, document):
                        log.error(complaint)
            if len(entries) == _CHANGES and await self._forgotten(before):
                log.warning("The directory changed faster than it was followed; it is read anew.")
                return
            if turn % _CHECK_EVERY == 0 and not reply:
                version = await call("GET", names.directory_version)
                if version is not None and int(version) != self._policy.version:
                    log.warning("A change of the directory was missed; it is read anew.")
                    return

    async def _forgotten(self, position: bytes) -> bool:
        """Whether changes after `position` may have gone from the stream unread: where keys are
        imported, more may come at once than it keeps.
        """
        changes = self._keyspace.directory_changes
        oldest = await self._connection.call("XRANGE", changes, "-", "+", "COUNT", 1)
        return not oldest or _age(oldest[0][0]) > _age(position)

    async def close(self) -> None:
        await self._connection.close()


def _age(entry: bytes) -> tuple[int, ...]:
    return tuple(int(part) for part in entry.split(b"-"))


def _take(documents: dict[str, Mapping[str, Any]], name: bytes, text: bytes) -> None:
    if len(documents) >= MAX_DOCUMENTS:
        log.error("The directory has more than %d documents; %r is ignored.", MAX_DOCUMENTS, name)
        return
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        documents[name.decode("utf-8", "replace")] = document
    else:
        log.error("The directory document %r is not a JSON object and is ignored.", name)
