"""Segments: immutable objects that hold settled rows of one shard, sorted by row.

A segment is a zstd frame (with checksum) of text lines: first a JSON header, then for each row its index as 16 hex
digits, a letter, and the response line as it will stand in the output. `R` is a completion, `E` a failure, `T` a
failure that could be tried again. The header also tells the line of each failed row in its input.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
import zstandard

from xbatch.errors import StorageError
from xbatch.state.records import Counts, Kind, Record

LEVEL = 1
_LETTERS = {Kind.COMPLETED: b"R", Kind.FAILED: b"E", Kind.RETRYABLE: b"T"}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_INDEX = 16
_LINE = len(b"0123456789abcdef R ")


class Header(msgspec.Struct, frozen=True):
    """The first line of a segment."""

    job: str
    shard: str
    number: int
    epoch: int
    """The lease under which it was written."""
    counts: Counts
    lines: dict[int, int] = {}
    """Line in its input of each failed row, by the row's index; segments of earlier versions have none."""


class Settled(NamedTuple):
    """A row of a segment."""

    row: int
    kind: Kind
    line: bytes
    input_line: int = 0
    """Number of a failed row's line in its input; 0 for a completed row, and where it is not known."""


class Segment:
    """A segment that was read.

    Raises StorageError if the bytes are damaged; `name` is what to call them.
    """

    def __init__(self, data: bytes, name: str) -> None:
        try:
            head, *self.raw = zstandard.ZstdDecompressor().decompress(data).split(b"\n")
            self.header = msgspec.json.decode(head, type=Header)
        except (zstandard.ZstdError, msgspec.MsgspecError) as e:
            raise StorageError(f"{name} is damaged: {e}") from e
        if not self.raw or self.raw.pop() or len(self.raw) != self.header.counts.total:
            raise StorageError(f"{name} is damaged: it does not hold the rows that it should")

    def rows(self) -> Iterator[Settled]:
        """Yield the rows it holds, in order."""
        lines = self.header.lines
        for row in self.raw:
            index = int(row[:_INDEX], 16)
            yield Settled(index, _KINDS[row[17:18]], row[_LINE:], lines.get(index, 0))

    def indexes(self) -> Iterator[int]:
        """The rows it holds."""
        return (int(row[:_INDEX], 16) for row in self.raw)


def encode(job: str, shard: str, number: int, epoch: int, records: Iterable[Record]) -> tuple[Counts, bytes]:
    """Make a segment of records of one shard; return its counts and its bytes."""
    counts, rows, lines = Counts(), [], {}
    for record in records:
        counts.take(record)
        rows.append(b"%016x %c %b" % (record.index, _LETTERS[record.kind], record.line))
        if record.input_line:
            lines[record.index] = record.input_line
    head = msgspec.json.encode(Header(job, shard, number, epoch, counts, lines))
    text = b"\n".join([head, *sorted(rows), b""])
    return counts, zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(text)


def merge(segments: list[Segment]) -> Iterator[Settled]:
    """Yield the rows of several segments in order. Raises StorageError if a row stands in two of them."""
    rows = segments[0].raw if len(segments) == 1 else sorted(row for segment in segments for row in segment.raw)
    lines = {index: line for segment in segments for index, line in segment.header.lines.items()}
    before = -1
    for row in rows:
        index = int(row[:_INDEX], 16)
        if index <= before:
            name = segments[0].header.shard
            raise StorageError(f"row {index} stands twice in the segments of shard {name}")
        before = index
        yield Settled(index, _KINDS[row[17:18]], row[_LINE:], lines.get(index, 0))
