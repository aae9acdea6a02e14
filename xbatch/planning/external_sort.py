"""Sorting more records than memory should hold."""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

RUN_RECORDS = 1 << 16
READ_RECORDS = 512


class ExternalSorter:
    """Sorts byte records of one length, keeping at most RUN_RECORDS of them in memory.

    Full runs go to one unnamed spool file in `folder`; the merge reads each run in small pieces.
    """

    def __init__(self, record_bytes: int, folder: Path | None = None) -> None:
        self._record_bytes = record_bytes
        self._folder = folder
        self._records: list[bytes] = []
        self._spool: BinaryIO | None = None
        self._runs: list[tuple[int, int]] = []

    def add(self, record: bytes) -> None:
        """Take in one record of the agreed length."""
        self._records.append(record)
        if len(self._records) >= RUN_RECORDS:
            self._spill()

    def __iter__(self) -> Iterator[bytes]:
        """The records in ascending order of their bytes."""
        self._records.sort()
        if not self._runs:
            return iter(self._records)
        return _merged([iter([self._records] if self._records else []), *(self._read(*run) for run in self._runs)])

    def close(self) -> None:
        """Give the spool file back."""
        if self._spool is not None:
            self._spool.close()

    def _spill(self) -> None:
        if self._spool is None:
            self._spool = TemporaryFile(dir=self._folder)  # noqa: SIM115 - lives as long as the sorter
        self._records.sort()
        start = self._runs[-1][1] if self._runs else 0
        self._spool.seek(start)
        self._spool.write(b"".join(self._records))
        self._runs.append((start, start + len(self._records) * self._record_bytes))
        self._records = []

    def _read(self, start: int, end: int) -> Iterator[list[bytes]]:
        assert self._spool is not None
        size = self._record_bytes
        while start < end:
            self._spool.seek(start)
            block = self._spool.read(min(READ_RECORDS * size, end - start))
            start += len(block)
            yield [block[i : i + size] for i in range(0, len(block), size)]


def _merged(runs: list[Iterator[list[bytes]]]) -> Iterator[bytes]:
    """The records of sorted runs, which come in blocks, in one order.

    Up to the end of the block that ends first everything is known, and Python's sort finds out by itself that this is
    made of sorted pieces: that is faster than `heapq.merge`.
    """
    blocks = {i: block for i, run in enumerate(runs) if (block := next(run, None))}
    starts = dict.fromkeys(blocks, 0)
    while blocks:
        limit, ready = min(block[-1] for block in blocks.values()), []
        for i, block in list(blocks.items()):
            cut = bisect_right(block, limit, starts[i])
            ready += block[starts[i] : cut]
            starts[i] = cut
            if cut == len(block):
                starts[i], following = 0, next(runs[i], None)
                if following is None:
                    del blocks[i]
                else:
                    blocks[i] = following
        ready.sort()
        yield from ready
