"""A store that does not answer: rows go on until the spool is full, then wait, and nothing is lost."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

from xbatch.engines.fake import FakeEngine
from xbatch.planning.scheduler import Scheduler
from xbatch.rows.outcome import Outcome
from xbatch.rows.request import CHAT, ParsedRow, Request
from xbatch.rows.shard import Shard
from xbatch.run import Stop, run_job
from xbatch.state.journal import Journal
from xbatch.state.layer import Layer
from xbatch.storage import LocalStore

LINE = b"x" * 1000
ROWS, SHARD_ROWS = 200, 10


class Hanging(LocalStore):
    """A store whose puts wait until it is released."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.released = threading.Event()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.released.wait()
        return super().put_if_absent(key, data)


def test_rows_wait_for_room(tmp_path: Path) -> None:
    """No more is asked than fits, the loop goes on when the store answers again, and every row is there once."""
    store = Hanging(str(tmp_path))
    shards = [Shard(i, 0, 0, 1, SHARD_ROWS * i, SHARD_ROWS, 1) for i in range(ROWS // SHARD_ROWS)]
    journal = Journal(Layer(store, tmp_path, "", "job", 1))
    engine = FakeEngine(max_in_flight=8)

    def feed() -> Iterator[tuple[Shard, ParsedRow]]:
        for shard in shards:
            for index in range(shard.first_row, shard.first_row + shard.rows):
                yield shard, Request(index, f"row-{index}", CHAT, {"messages": [{"content": "?"}]}, 50)

    def respond(*_: int | str | Outcome) -> bytes:
        return LINE

    async def revive(_: Exception) -> None:
        raise AssertionError

    async def go() -> int:
        scheduler = Scheduler(engine.max_in_flight)
        job = asyncio.create_task(
            run_job(feed(), scheduler, engine, journal, respond, Stop(), revive=revive, spool_limit=50 * len(LINE))
        )
        before = -1
        while journal.counts.total != before:
            before = journal.counts.total
            await asyncio.sleep(0.5)
        store.released.set()
        assert await asyncio.wait_for(job, 30)
        return before

    held = asyncio.run(go())
    assert 50 <= held <= 50 + 2 * engine.max_in_flight
    assert journal.close()
    assert journal.unsealed_bytes == 0
    assert [row.row for shard in shards for row in journal.rows(shard)] == list(range(ROWS))
