"""The write-ahead log: where an outcome is kept before it counts.

A log is written by one process, belongs to one shard, and is a sequence of frames
`XW | length u32 | crc32 u32 | payload`, little-endian. The first payload is JSON and names job and shard, so that a
log of another job is never taken for this one's. Then, each with a letter in front:

- `C`, a settled row: `index u64 | kind u8 | prompt tokens u32 | completion tokens u32 | line`;
- with 16 added to its kind, a failed row whose line in the input is known: that line's number as u64 precedes `line`;
- `S`, rows that were submitted to an engine: `index u64 | alone u8` for each. Rows that were submitted and not settled
  were in flight when the process died: who is among them time and again is suspected of killing the engine;
- `T`, what holds of such rows in place of all that was said before: `index u64 | times u32 | alone u32` for each.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from xbatch import crash
from xbatch.rows.outcome import Usage
from xbatch.state.records import Kind, Record

_FRAME = struct.Struct("<2sII")
_RECORD = struct.Struct("<QBII")
_INPUT_LINE = struct.Struct("<Q")
_WITH_LINE = 16
"""Added to the kind of a row whose line in the input is kept."""
_SUBMISSION = struct.Struct("<QB")
_TALLY = struct.Struct("<QII")
_MAGIC = b"XW"


class Submission(NamedTuple):
    """A row that was handed to an engine."""

    row: int
    alone: bool
    """No other row was in flight, or could come to be."""


class Tally(NamedTuple):
    """How often a row that has no outcome was handed to an engine, all in all, and how often of these alone."""

    row: int
    times: int
    alone: int


Entry: TypeAlias = Record | Submission | Tally


def create(path: Path, header: dict[str, str]) -> int:
    """Begin a log and return its file descriptor."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
    _write(fd, _frame(msgspec.json.encode(header)))
    return fd


def write(fd: int, *records: Record) -> None:
    """Add settled rows to a log. They survive the process when this returns, and a power cut once synced."""
    _write(fd, *map(_settled, records))


def write_submitted(fd: int, submissions: Iterable[Submission]) -> None:
    """Add submitted rows to a log; never worth a sync of its own."""
    _write(fd, _frame(b"S" + b"".join(_SUBMISSION.pack(*each) for each in submissions)))


def write_tallies(fd: int, tallies: Iterable[Tally]) -> None:
    """Add what holds of submitted rows from here on, whatever earlier logs and frames say of them."""
    _write(fd, _frame(b"T" + b"".join(_TALLY.pack(*each) for each in tallies)))


def read(path: Path, header: dict[str, str]) -> Iterator[Entry]:
    """Yield what a log holds, in order, up to the first damaged frame; nothing of another job's or shard's log.

    Raises FileNotFoundError.
    """
    frames = _frames(path.read_bytes())
    if next(frames, None) != msgspec.json.encode(header):
        return
    for payload in frames:
        if payload.startswith(b"C"):
            yield _record(payload)
        elif payload.startswith(b"T"):
            yield from map(Tally._make, _TALLY.iter_unpack(payload[1:]))
        else:
            for index, alone in _SUBMISSION.iter_unpack(payload[1:]):
                yield Submission(index, bool(alone))


def _settled(record: Record) -> bytes:
    usage, kind, place = record.usage, int(record.kind), b""
    if record.input_line:
        kind, place = kind + _WITH_LINE, _INPUT_LINE.pack(record.input_line)
    head = _RECORD.pack(record.index, kind, usage.prompt_tokens, usage.completion_tokens)
    return _frame(b"C" + head + place + record.line)


def _record(payload: bytes) -> Record:
    """Read a settled row from a frame's payload."""
    index, kind, prompt_tokens, completion_tokens = _RECORD.unpack_from(payload, 1)
    start, input_line = 1 + _RECORD.size, 0
    if kind >= _WITH_LINE:
        kind -= _WITH_LINE
        (input_line,) = _INPUT_LINE.unpack_from(payload, start)
        start += _INPUT_LINE.size
    return Record(index, Kind(kind), Usage(prompt_tokens, completion_tokens), payload[start:], input_line)


def _frame(payload: bytes) -> bytes:
    return _FRAME.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload


def _write(fd: int, *frames: bytes) -> None:
    for number, frame in enumerate(frames):
        if crash.due("wal-half"):
            os.write(fd, b"".join(frames[:number]) + frame[: len(frame) // 2])
            crash.now()
    data = frames[0] if len(frames) == 1 else b"".join(frames)
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _frames(data: bytes) -> Iterator[bytes]:
    """The payload of every whole frame."""
    start = 0
    while start + _FRAME.size <= len(data):
        magic, length, crc = _FRAME.unpack_from(data, start)
        payload = data[start + _FRAME.size : start + _FRAME.size + length]
        if magic != _MAGIC or len(payload) < length or zlib.crc32(payload) != crc:
            return
        yield payload
        start += _FRAME.size + length
