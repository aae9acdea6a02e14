"""Responses in blocks, each with the input columns that its rows carry."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from xbatch.errors import StorageError
from xbatch.sinks import OutputRow
from xbatch.sources import Source

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 512
MAX_BYTES = 8 << 20
"""A block ends after so many rows, or with the row that brings it to so many bytes."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive responses of one input."""

    file: int
    rows: list[OutputRow]
    carried: "pa.RecordBatch | None" = None
    """What the same rows carry; None if the input has no such columns, or nobody wants them."""

    def runs(self) -> "Iterator[tuple[bool, Block]]":
        """The rows in order, cut wherever completed ones and failures follow each other."""
        at = 0
        for completed, run in groupby(self.rows, lambda row: row.completed):
            rows = list(run)
            yield completed, Block(self.file, rows, self._carried(at, len(rows)))
            at += len(rows)

    def _carried(self, first: int, rows: int) -> "pa.RecordBatch | None":
        return None if self.carried is None else self.carried.slice(first, rows)


def blocks(rows: Iterable[OutputRow], carried: Sequence[Source] | None) -> Iterator[Block]:
    """Cut responses, which come in input order, into blocks; with what they carry if the inputs are given.

    Raises StorageError if an input has fewer rows than responses.
    """
    for file, responses in groupby(rows, lambda row: row.file):
        source = carried[file] if carried is not None else None
        if source is None or source.carried_schema is None:
            yield from (Block(file, chunk) for chunk in _chunks(responses))
        else:
            yield from _with_carried(file, responses, source)


def _with_carried(file: int, responses: Iterable[OutputRow], source: Source) -> Iterator[Block]:
    first = 0
    for chunk in _chunks(responses):
        at = 0
        for batch in source.carried(first, len(chunk)):
            yield Block(file, chunk[at : at + batch.num_rows], batch)
            at += batch.num_rows
        if at != len(chunk):
            raise StorageError(f"{source.shown_as} has other rows than it had when the job read it")
        first += at


def _chunks(responses: Iterable[OutputRow]) -> Iterator[list[OutputRow]]:
    chunk: list[OutputRow] = []
    size = 0
    for row in responses:
        chunk.append(row)
        size += len(row.line)
        if len(chunk) == MAX_ROWS or size >= MAX_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
