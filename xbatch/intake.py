"""Reading ahead: rows are read and their prompts prepared in a thread, beside whatever runs."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from xbatch.planning.dedupe import Dedupe, answer_key
from xbatch.rows.request import ParsedRow, Prompt, Rejected, Request
from xbatch.rows.shard import Shard

Feed: TypeAlias = Iterator[tuple[Shard, ParsedRow]]
"""Rows that have no outcome yet, each with its shard; drawn on by one thread at a time."""
Prepare: TypeAlias = Callable[[Sequence[Request]], "list[Prompt | None]"]
"""Makes the prompts of requests; called in a thread."""

BATCH_ROWS = 256
BATCH_BYTES = 1 << 18
"""Rows that are read and prepared at a time end with the one that makes them so large in their input."""
_CLOSE_S = 3.0
"""A thread that hangs in a store is waited for so long."""


class Read(NamedTuple):
    """A row that was read."""

    shard: Shard
    row: ParsedRow
    key: bytes | None
    """Names its answer, if that is sure to be the same each time."""


class Intake:
    """Takes rows from `feed`, a batch at a time; calls `wake` when one is there.

    Prompts are not prepared of requests whose answer `dedupe` knows, or will.
    """

    def __init__(self, feed: Feed, prepare: Prepare, dedupe: Dedupe | None, wake: Callable[[], None]) -> None:
        self._feed = feed
        self._prepare = prepare
        self._dedupe = dedupe
        self._wake = wake
        self._reading: asyncio.Future[list[Read]] | None = None
        self._ended = False

    @property
    def reading(self) -> bool:
        """A batch is being read, or lies ready."""
        return self._reading is not None

    @property
    def ended(self) -> bool:
        """Every row was taken."""
        return self._ended and self._reading is None

    def begin(self) -> None:
        """Begin to read a batch, unless one is there or no row is left."""
        if self._reading is None and not self._ended:
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
            self._reading.add_done_callback(lambda _: self._wake())

    def take(self) -> list[Read]:
        """The rows of a batch that is there; none otherwise. Raises what went wrong with reading."""
        if self._reading is None or not self._reading.done():
            return []
        reading, self._reading = self._reading, None
        return reading.result()

    async def last(self) -> list[Read]:
        """The rows of a batch for which this waits, one that has begun if there is one."""
        self.begin()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        return self.take()

    async def close(self) -> None:
        """Wait for the thread, if it does not take too long."""
        reading, self._reading, self._ended = self._reading, None, True
        if reading is not None:
            await asyncio.wait({reading}, timeout=_CLOSE_S)
            if not reading.cancel():
                reading.exception()

    def _read(self) -> list[Read]:
        rows, num_bytes = [], 0
        for item in self._feed:
            rows.append(item)
            num_bytes += 0 if isinstance(item[1], Rejected) else item[1].num_bytes
            if len(rows) >= BATCH_ROWS or num_bytes >= BATCH_BYTES:
                break
        else:
            self._ended = True
        return self._prepared(rows)

    def _prepared(self, rows: list[tuple[Shard, ParsedRow]]) -> list[Read]:
        keys: dict[int, bytes] = {}
        new: dict[int, Request] = {}
        dedupe, seen = self._dedupe, set()
        for _, row in rows:
            if isinstance(row, Rejected):
                continue
            if dedupe is not None and (key := answer_key(row)) is not None:
                keys[row.index] = key
                if key in seen or dedupe.knows(key):
                    continue
                seen.add(key)
            new[row.index] = row
        for request, prompt in zip(list(new.values()), self._prepare(list(new.values())), strict=True):
            if prompt is not None:
                new[request.index] = request.prepared(prompt)
        return [Read(shard, new.get(row.index, row), keys.get(row.index)) for shard, row in rows]
