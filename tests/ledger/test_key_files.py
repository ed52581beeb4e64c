"""Files of keys: what is read from a row, what a bad one says, and that no key is ever in it."""

from hashlib import sha256
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.cli.arguments import InputError
from ledger.key_files import BadRow, KeyFile, KeyRow

NAMES = ("key", "sha256")
KEY = "sk-some-older-key-0001"
DIGEST = sha256(KEY.encode()).hexdigest()


def rows(*lines: str, names: tuple[str, ...] = NAMES) -> list[KeyRow | BadRow]:
    text = "".join(f"{line}\n" for line in lines)
    return list(KeyFile(StringIO(text, newline=""), names).rows())


def bad(header: str, line: str) -> str:
    """Why a row cannot be taken."""
    [row] = rows(header, line)
    assert isinstance(row, BadRow)
    assert row.line == 2
    assert row.says.endswith(".")
    return row.says


def test_a_row_is_a_digest_and_labels() -> None:
    """The key's text is gone at once; blank cells say nothing."""
    [row] = rows("key,Owner,team,cost_center,name,note", f" {KEY} ,ann, ,7,old,from the proxy")
    assert row == KeyRow(
        line=2,
        sha256=DIGEST,
        labels={"owner": "ann", "cost_center": "7"},
        name="old",
        note="from the proxy",
    )
    assert KEY not in repr(row)


def test_digests_are_taken_as_they_are() -> None:
    """In either case of letters, alone or beside the key that they are of."""
    assert [getattr(row, "sha256", "") for row in rows("sha256", DIGEST.upper())] == [DIGEST]
    assert [getattr(row, "sha256", "") for row in rows("key,sha256", f"{KEY},{DIGEST}")] == [DIGEST]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(delimiter: str) -> None:
    """Commas, semicolons, tabs; a byte-order mark; quotes; blank lines and their numbers."""
    header = "\ufeff" + delimiter.join(("key", "note"))
    found = rows(
        "", header, "", delimiter.join((KEY, '"two\nlines"')), delimiter.join((KEY + "x", ""))
    )
    assert [row.line for row in found] == [4, 6]
    assert getattr(found[0], "note", "") == "two\nlines"


def test_the_first_of_the_same_key_counts() -> None:
    """Plain or hashed, it is one key; the other row says where the first one is."""
    found = rows("key,sha256,team", f"{KEY},,a", f",{DIGEST},b", "sk-another-key-00000001,,")
    assert [type(row) for row in found] == [KeyRow, BadRow, KeyRow]
    assert "line 2" in getattr(found[1], "says", "")


@pytest.mark.parametrize(
    ("header", "line", "says"),
    [
        ("key,team", ",risk", "which key"),
        ("sha256", "abc", "64 hexadecimal"),
        ("sha256", "g" * 64, "64 hexadecimal"),
        ("key,sha256", f"{KEY},{'0' * 64}", "not that of the key"),
        ("key", f"Bearer {KEY}", "Bearer"),
        ("key", "sk-a\x07b", "no header can carry"),
        ("key", "k" * 4097, "4096 bytes"),
        ("key", "sk-\udcff", "UTF-8"),
        ("key,note", f"{KEY},was {KEY}", "another column"),
        ("key,team", f"{KEY},{KEY}", "another column"),
        ("key,note", f"{KEY},{'n' * 501}", "500 characters"),
        ("key,team", f"{KEY},risk,more", "more cells"),
        ("key,team", f"{KEY},a\0b", "NUL"),
    ],
)
def test_a_bad_row_says_why_and_not_the_key(header: str, line: str, says: str) -> None:
    """One sentence, in which the key's text is not."""
    found = bad(header, line)
    assert says in found
    assert KEY not in found


def test_keys_that_can_be_guessed_or_are_digests_are_marked() -> None:
    """They are taken all the same."""
    [short, digest, good] = rows("key", "sk-1234", "a" * 64, KEY)
    assert (getattr(short, "guessable", 0), getattr(digest, "hash_like", 0)) == (True, True)
    assert not getattr(good, "guessable", 1)
    assert not getattr(good, "hash_like", 1)


@pytest.mark.parametrize(
    "header", ["", "team,owner", "key,team,Team", ",".join(["key", *"x" * 70])]
)
def test_a_header_that_says_too_little_or_twice_is_wrong_usage(header: str) -> None:
    """One sentence that says which columns are needed."""
    with pytest.raises(InputError):
        KeyFile([f"{header}\n"], NAMES)


@given(st.lists(st.text(max_size=30), max_size=8))
def test_no_file_breaks_it(lines: list[str]) -> None:
    """Whatever the lines hold: a row or a bad row for each, and their numbers rise."""
    found = rows("key,team,note", *lines)
    numbers = [row.line for row in found]
    assert numbers == sorted(numbers)


@given(st.text(min_size=16, max_size=40), st.text(max_size=30))
def test_no_key_is_in_what_comes_back(key: str, other: str) -> None:
    """Neither in a good row nor in what a bad one says."""
    quoted = '"' + key.replace('"', '""') + '"'
    for row in rows("key,team", f"{quoted},x", f"{quoted},y"):
        if key.strip() and len(key.strip()) >= 16:
            assert key.strip() not in repr(row)
