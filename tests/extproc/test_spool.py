"""The spool keeps what was recorded, through torn writes and dead processes, until the ledger has
it.
"""

import random
from pathlib import Path

import pytest

from extproc import spool as spool_module
from extproc.spool import Spool, Unsettled, abandoned


def item(seq: int, size: int = 100) -> Unsettled:
    """An event record."""
    return Unsettled(seq, f"event-{seq}", b"x" * size, b"[]")


def test_reads_back_what_was_appended(tmp_path: Path) -> None:
    """Events come back in order from any seq on."""
    spool = Spool(tmp_path, "p")
    for seq in range(1, 11):
        spool.append(item(seq))
    assert [found.seq for found in spool.read_from(4, 3)] == [4, 5, 6]
    assert spool.read_from(10, 5) == [item(10)]


def test_a_live_spool_cannot_be_adopted(tmp_path: Path) -> None:
    """The lock keeps a second process out for as long as the first lives."""
    spool = Spool(tmp_path, "p")
    assert list(abandoned(tmp_path)) == []
    spool.close()
    assert [found.producer for found in abandoned(tmp_path)] == ["p"]


def test_adoption_finds_events_and_open_calls(tmp_path: Path) -> None:
    """What a dead process leaves: its last seq, and the calls that never ended."""
    spool = Spool(tmp_path, "p")
    spool.open("event-1", b"draft 1", b"[]")
    spool.open("lost", b"reserving", b"[]")
    spool.open("lost", b"draft 2", b'["c",1,0]')
    spool.append(item(1))
    spool.close()
    (adopted,) = abandoned(tmp_path)
    last_seq, never_ended = adopted.load()
    assert last_seq == 1
    assert never_ended == [Unsettled(0, "lost", b"draft 2", b'["c",1,0]')]


def test_a_torn_last_record_costs_only_itself(tmp_path: Path) -> None:
    """A record cut at any byte leaves those before it readable."""
    seed = random.randrange(2**32)
    print("seed", seed)
    spool = Spool(tmp_path, "p")
    for seq in range(1, 4):
        spool.append(item(seq))
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    whole = path.read_bytes().rstrip(b"\0")
    record = len(whole) // 3
    path.write_bytes(whole[: 2 * record + random.Random(seed).randrange(record)])
    (adopted,) = abandoned(tmp_path)
    assert adopted.load() == (2, [])


def test_release_forgets_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file goes when all its events are committed and none of its calls is under way."""
    monkeypatch.setattr(spool_module, "FILE_BYTES", 500)
    spool = Spool(tmp_path, "p")
    spool.open("slow", b"draft", b"[]")
    for seq in range(1, 10):
        spool.append(item(seq))
    files = len(list(tmp_path.glob("*.spool")))
    assert files > 2
    spool.release(9)
    assert len(list(tmp_path.glob("*.spool"))) == files
    spool.append(Unsettled(10, "slow", b"x", b"[]"))
    spool.release(10)
    assert len(list(tmp_path.glob("*.spool"))) <= 2


def test_destroy_leaves_nothing(tmp_path: Path) -> None:
    """A drained producer leaves neither files nor lock behind."""
    spool = Spool(tmp_path, "p")
    spool.append(item(1))
    spool.destroy()
    assert list(tmp_path.iterdir()) == []
