"""A sidecar's directory against a real Redis: what it knows after many changes at once."""

import asyncio
import hashlib

from extproc.directory import Directory
from extproc.estimate import Estimates
from extproc.policy import Policy
from ledger.key_files import KeyRow
from ledger.price_list import standard_table
from ledger.publish import MAX_CHANGES, publish
from tests.integration.books import DEADLINE_S, Books
from tests.integration.imported import take


async def until(policy: Policy, number: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while len(policy.keys) != number:
            await asyncio.sleep(0.01)


async def test_no_key_is_missed_where_more_come_than_the_stream_keeps(books: Books) -> None:
    """An import publishes more changes than the stream of changes holds: all keys are known."""
    policy = Policy(books.keys, standard_table(), Estimates())
    directory = Directory(books.redis_url, books.keys, policy)
    following = asyncio.create_task(directory.run())
    try:
        await asyncio.wait_for(directory.loaded.wait(), DEADLINE_S)
        number = MAX_CHANGES + 3000
        digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(number)]
        take(books, [KeyRow(line=n, sha256=digest) for n, digest in enumerate(digests)])
        publish(books.db, books.redis)  # the directory reads nothing meanwhile: same thread
        await until(policy, number)
        assert set(policy.keys) == {bytes.fromhex(digest) for digest in digests}
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await directory.close()
