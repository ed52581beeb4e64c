"""The names of everything Tollkeeper keeps in Redis, for both sides of it. Knows no client and no
values.

All names of one organisation carry the same hash tag, so that a script may touch them together on
Redis Cluster.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keyspace:
    """Names for one organisation. Each attribute says the Redis type and what the ledger and the
    sidecar put there.
    """

    org: str = "default"

    @property
    def _tag(self) -> str:
        return "tk:{" + self.org + "}:"

    @property
    def epoch(self) -> str:
        """String: identity of this generation of counters. Absent: counters are not (yet) rebuilt
        from the books.
        """
        return self._tag + "epoch"

    @property
    def events(self) -> str:
        """Stream: one entry per metered event, field `e` = the serialised
        `tollkeeper.v1.MeteredEvent`.
        """
        return self._tag + "events"

    @property
    def producers(self) -> str:
        """Hash producer -> the last seq whose settlement is in the counters and the stream."""
        return self._tag + "producers"

    @property
    def committed(self) -> str:
        """Hash producer -> the highest seq below which PostgreSQL holds every event; the spool may
        forget up to it.
        """
        return self._tag + "committed"

    @property
    def holds(self) -> str:
        """Hash event id -> JSON array [counter name, amount, counter name, amount ...] of an open
        reservation.
        """
        return self._tag + "holds"

    @property
    def hold_expiry(self) -> str:
        """Sorted set: event id scored by the Unix time in ms at which its hold expires."""
        return self._tag + "hold_expiry"

    @property
    def directory(self) -> str:
        """Hash `<kind>:<id>` -> JSON document with `version`; what the sidecars enforce (keys,
        budgets).
        """
        return self._tag + "directory"

    @property
    def directory_version(self) -> str:
        """String: the highest version that has been published into the directory."""
        return self._tag + "directory_version"

    @property
    def directory_changes(self) -> str:
        """Stream: one entry per published document, fields `name` and `document`; approximately the
        last 10,000.
        """
        return self._tag + "directory_changes"

    def counter(self, budget_id: str, window: str) -> str:
        """Hash with `used` and `held`, one a budget and window; `window`: its start, or `total`."""
        return f"{self._tag}budget:{budget_id}:{window}"
