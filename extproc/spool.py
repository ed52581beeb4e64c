"""Events on the local disk until the ledger has committed them. Knows files, and neither Redis nor
what an event means.

A record is in memory that the operating system shares with the file before the client sees the end
of its answer, so it survives the death of the process, and costs no system call. Calls under way
are recorded too: what a dead process leaves open is turned into events by whoever adopts its files.
Each producer owns its files by a lock that the operating system drops when the process dies.

Record: u32 length, u32 CRC-32 of the rest, then u8 kind, u64 seq, u32 length of the counters,
counters, payload (little-endian). A torn or damaged record ends the reading of its file.
"""

import fcntl
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

FILE_BYTES: Final = 4 * 1024 * 1024
"""A file is closed at this size; files are what the spool forgets."""
_FRAME: Final = struct.Struct("<II")
_HEAD: Final = struct.Struct("<BQI")
_OPENED: Final = 1
_EVENT: Final = 2


@dataclass(frozen=True, slots=True)
class Unsettled:
    """One numbered event on its way: its serialised form, and its counters as the store's script
    takes them (JSON).
    """

    seq: int
    event_id: str
    payload: bytes
    counters: bytes


@dataclass(slots=True)
class _File:
    path: Path
    last_seq: int = 0
    open_calls: int = 0
    size: int = 0


class Spool:
    """The files of one producer. Raises OSError where the disk does, BlockingIOError where another
    process owns them.
    """

    def __init__(self, folder: Path, producer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.producer = producer
        self._lock = _lock(_lock_path(folder, producer))
        self._files: list[_File] = []
        self._open_in: dict[str, _File] = {}
        self._map: mmap.mmap | None = None

    def open(self, event_id: str, payload: bytes, counters: bytes) -> None:
        """Record a call under way, as its event would stand if nobody said more about it. What was
        recorded of it before counts no longer.
        """
        file = self._append(_OPENED, 0, event_id, payload, counters)
        self._opened(event_id, file)

    @property
    def under_way(self) -> tuple[str, ...]:
        """The calls that were opened and have no event yet."""
        return tuple(self._open_in)

    def append(self, item: Unsettled) -> None:
        """Record an event; it ends its call."""
        file = self._append(_EVENT, item.seq, item.event_id, item.payload, item.counters)
        file.last_seq = item.seq
        self._ended(item.event_id)

    def _append(self, kind: int, seq: int, event_id: str, payload: bytes, counters: bytes) -> _File:
        identity = event_id.encode().ljust(36)[:36]
        body = _HEAD.pack(kind, seq, len(counters)) + identity + counters + payload
        record = _FRAME.pack(len(body), zlib.crc32(body)) + body
        file = self._current(len(record))
        assert self._map is not None
        self._map[file.size : file.size + len(record)] = record
        file.size += len(record)
        return file

    def _current(self, size: int) -> _File:
        if self._map is not None and self._files[-1].size + size <= len(self._map):
            return self._files[-1]
        self._unmap()
        number = _number(self._files[-1].path) + 1 if self._files else 1
        path = self._folder / f"{self.producer}.{number:06d}.spool"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            length = max(FILE_BYTES, size)
            _allocate(descriptor, length)
            self._map = mmap.mmap(descriptor, length)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        self._files.append(_File(path))
        return self._files[-1]

    def _unmap(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def read_from(self, seq: int, limit: int) -> list[Unsettled]:
        """Up to `limit` recorded events from `seq` on, in order."""
        found: list[Unsettled] = []
        for file in self._files:
            if file.last_seq < seq:
                continue
            for kind, item in _records(file.path):
                if kind == _EVENT and item.seq >= seq:
                    found.append(item)
                    if len(found) >= limit:
                        return found
        return found

    def release(self, committed: int) -> None:
        """Forget the files whose events the ledger has all committed."""
        while len(self._files) > 1:
            oldest = self._files[0]
            if oldest.last_seq > committed or oldest.open_calls:
                return
            oldest.path.unlink(missing_ok=True)
            del self._files[0]

    def load(self) -> tuple[int, list[Unsettled]]:
        """Read a dead producer's files: the last seq it gave, and its calls that never ended."""
        opened: dict[str, Unsettled] = {}
        last_seq = 0
        for path in sorted(self._folder.glob(f"{self.producer}.*.spool")):
            file = _File(path, size=path.stat().st_size)
            self._files.append(file)
            for kind, item in _records(path):
                if kind == _OPENED:
                    opened[item.event_id] = item
                    self._opened(item.event_id, file)
                else:
                    last_seq = file.last_seq = item.seq
                    opened.pop(item.event_id, None)
                    self._ended(item.event_id)
        return last_seq, list(opened.values())

    def _opened(self, event_id: str, file: _File) -> None:
        self._ended(event_id)
        file.open_calls += 1
        self._open_in[event_id] = file

    def _ended(self, event_id: str) -> None:
        file = self._open_in.pop(event_id, None)
        if file is not None:
            file.open_calls -= 1

    def destroy(self) -> None:
        """Forget everything and give the producer's name up."""
        self.close()
        for file in self._files:
            file.path.unlink(missing_ok=True)
        _lock_path(self._folder, self.producer).unlink(missing_ok=True)

    def close(self) -> None:
        """Stop writing; the files stay for whoever adopts them."""
        self._unmap()
        os.close(self._lock)


def abandoned(folder: Path) -> Iterator[Spool]:
    """The spools whose process is gone, each locked for the caller."""
    for path in sorted(folder.glob("*.lock")):
        try:
            yield Spool(folder, path.name.removesuffix(".lock"))
        except BlockingIOError:
            continue


def _lock_path(folder: Path, producer: str) -> Path:
    return folder / f"{producer}.lock"


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _allocate(descriptor: int, length: int) -> None:
    """Take the disk space now: a full disk must be an error here, no signal at a later write."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, length)
    else:
        os.write(descriptor, bytes(length))


def _number(path: Path) -> int:
    return int(path.name.removesuffix(".spool").rpartition(".")[2])


def _records(path: Path) -> Iterator[tuple[int, Unsettled]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    at = 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        if not length:
            return
        body = data[at + _FRAME.size : at + _FRAME.size + length]
        at += _FRAME.size + length
        if len(body) != length or zlib.crc32(body) != checksum:
            log.warning("The spool file %s ends in a torn record; what follows is not read.", path)
            return
        kind, seq, counters = _HEAD.unpack_from(body)
        start = _HEAD.size + 36
        event_id = body[_HEAD.size : start].decode().strip()
        payload = body[start + counters :]
        yield kind, Unsettled(seq, event_id, payload, body[start : start + counters])
