"""Segments: immutable objects that hold settled rows of one shard, sorted by row.

A segment is a zstd frame (with checksum) of text lines: first a JSON header, then for each row its index as 16 hex
digits, `R` for a completion or `E` for a failure, and the response line as it will stand in the output.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import zstandard

from xbatch.errors import StorageError
from xbatch.state.records import Counts, Record

LEVEL = 1
_PREFIX = len(b"0123456789abcdef R ")


class Header(msgspec.Struct, frozen=True):
    """The first line of a segment."""

    job: str
    shard: str
    number: int
    counts: Counts


class Done(msgspec.Struct, frozen=True):
    """`done/<shard>.json`: every row of the shard is in its segments."""

    job: str
    segments: int
    counts: Counts


class Settled(NamedTuple):
    """A row of a segment."""

    row: int
    """Its index in the job."""
    completed: bool
    line: bytes


def encode(job: str, shard: str, number: int, records: list[Record]) -> bytes:
    """Make a segment of records of one shard."""
    counts = Counts()
    for record in records:
        counts.take(record)
    lines = [msgspec.json.encode(Header(job, shard, number, counts))]
    lines += [
        b"%016x %c %b" % (r.index, b"R" if r.completed else b"E", r.line)
        for r in sorted(records, key=lambda r: r.index)
    ]
    lines.append(b"")
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(b"\n".join(lines))


def decode(data: bytes, name: str, job: str) -> tuple[Header, Iterator[Settled]]:
    """The header of a segment, and its rows in order.

    Raises StorageError if the bytes are damaged or belong to another job; `name` is what to call them.
    """
    try:
        lines = zstandard.ZstdDecompressor().decompress(data).split(b"\n")
        header = msgspec.json.decode(lines[0], type=Header)
    except (zstandard.ZstdError, msgspec.MsgspecError) as e:
        raise StorageError(f"{name} is damaged: {e}") from e
    if header.job != job or len(lines) != header.counts.total + 2:
        raise StorageError(f"{name} is not a whole segment of job {job}")
    return header, (Settled(int(row[:16], 16), row[17:18] == b"R", row[_PREFIX:]) for row in lines[1:-1])
