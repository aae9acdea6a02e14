"""The write-ahead log: where an outcome is kept before it counts.

A log belongs to one shard and is a sequence of frames `XW | length u32 | crc32 u32 | payload`, little-endian. The
first payload is JSON and names job and shard, so that a log of another job is never taken for this one's; every
other is a record: `index u64 | completed u8 | prompt tokens u32 | completion tokens u32 | line`.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from xbatch.rows.outcome import Usage
from xbatch.state.records import Record

_FRAME = struct.Struct("<2sII")
_RECORD = struct.Struct("<QBII")
_MAGIC = b"XW"


def append(path: Path, header: dict[str, str], record: Record | None) -> int:
    """Open a log for appending, beginning it if it is new, and return its file descriptor.

    A torn frame at its end, left by a crash, is cut off first, and so is everything in a log of another job or shard.
    `record` is written if it is given.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    frames = list(_frames(path.read_bytes()))
    mine = frames and frames[0][0] == msgspec.json.encode(header)
    end = sum(size for _, size in frames) if mine else 0
    os.ftruncate(fd, end)
    if end == 0:
        _write(fd, _frame(msgspec.json.encode(header)))
    if record is not None:
        write(fd, record)
    return fd


def write(fd: int, record: Record) -> None:
    """Add a record to a log. It survives the death of the process when this returns, a power cut once synced."""
    usage = record.usage
    head = _RECORD.pack(record.index, record.completed, usage.prompt_tokens, usage.completion_tokens)
    _write(fd, _frame(head + record.line))


def read(path: Path, header: dict[str, str]) -> Iterator[Record]:
    """The records of a log in the order of writing, up to the first damaged frame; none if it is another job's."""
    frames = _frames(path.read_bytes()) if path.exists() else iter(())
    first = next(frames, None)
    if first is None or first[0] != msgspec.json.encode(header):
        return
    for payload, _ in frames:
        index, completed, prompt_tokens, completion_tokens = _RECORD.unpack_from(payload)
        usage = Usage(prompt_tokens, completion_tokens)
        yield Record(index, bool(completed), usage, payload[_RECORD.size :])


def _frame(payload: bytes) -> bytes:
    return _FRAME.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload


def _write(fd: int, frame: bytes) -> None:
    written = os.write(fd, frame)
    while written < len(frame):
        written += os.write(fd, frame[written:])


def _frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Every whole frame's payload with the frame's size."""
    start = 0
    while start + _FRAME.size <= len(data):
        magic, length, crc = _FRAME.unpack_from(data, start)
        payload = data[start + _FRAME.size : start + _FRAME.size + length]
        if magic != _MAGIC or len(payload) < length or zlib.crc32(payload) != crc:
            return
        yield payload, _FRAME.size + length
        start += _FRAME.size + length
