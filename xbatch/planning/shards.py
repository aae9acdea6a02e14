"""Cutting an input into shards."""

from dataclasses import dataclass

from xbatch.rows.shard import Shard

SHARD_ROWS = 4096
SHARD_BYTES = 32 << 20


@dataclass(slots=True)
class ShardCutter:
    """Cuts a stream of lines into shards."""

    max_rows: int = SHARD_ROWS
    max_bytes: int = SHARD_BYTES
    _next_id: int = 0
    _next_row: int = 0
    _start: tuple[int, int, int] | None = None
    _rows: int = 0
    _bytes: int = 0

    def add(self, file: int, offset: int, line: int, num_bytes: int) -> Shard | None:
        """Take in the next row; return the shard that ended before it, if one did."""
        full = self._rows >= self.max_rows or (self._rows and self._bytes + num_bytes > self.max_bytes)
        ended = self.close() if self._start and (self._start[0] != file or full) else None
        if self._start is None:
            self._start = (file, offset, line)
        self._rows += 1
        self._bytes += num_bytes
        return ended

    def close(self) -> Shard | None:
        """End the shard that is open, if one is."""
        if self._start is None:
            return None
        file, offset, line = self._start
        shard = Shard(self._next_id, file, offset, line, self._next_row, self._rows, self._bytes)
        self._next_id += 1
        self._next_row += self._rows
        self._start, self._rows, self._bytes = None, 0, 0
        return shard
