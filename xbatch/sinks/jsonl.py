"""Responses as JSONL: plain, gzip or zstd."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import zstandard

from xbatch import storage
from xbatch.sinks.blocks import Block
from xbatch.sinks.building import open_spooled

_GZIP = 31
"""zlib's word for the gzip format, whose header it writes without name and time."""
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3

Additions: TypeAlias = Callable[[Block], list[bytes]]
"""For each row of a block further fields of its line: `,"name":value`, or nothing."""


class Codec(Protocol):
    """How bytes are compressed."""

    def compress(self, data: bytes) -> bytes:
        """Take bytes in, give out what has come of them so far."""

    def flush(self) -> bytes:
        """Give out all that was taken in."""

    def finish(self) -> bytes:
        """Give out the rest."""


class Plain:
    """Not at all."""

    def compress(self, data: bytes) -> bytes:
        """Give the bytes back."""
        return data

    def flush(self) -> bytes:
        """Give nothing, for nothing is kept."""
        return b""

    def finish(self) -> bytes:
        """Give nothing."""
        return b""


class Gzip:
    """One gzip member."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
        self.compress = self._stream.compress
        self.finish = self._stream.flush

    def flush(self) -> bytes:
        """Give out all that was taken in."""
        return self._stream.flush(zlib.Z_SYNC_FLUSH)


class Zstd:
    """One zstd frame with a checksum."""

    def __init__(self) -> None:
        self._stream = zstandard.ZstdCompressor(_ZSTD_LEVEL, write_checksum=True).compressobj()
        self.compress = self._stream.compress
        self.finish = self._stream.flush

    def flush(self) -> bytes:
        """Give out all that was taken in."""
        return self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


CODECS: dict[str, type[Plain] | type[Gzip] | type[Zstd]] = {"jsonl": Plain, "jsonl.gz": Gzip, "jsonl.zst": Zstd}
"""How the lines of each format are compressed."""


class JsonlFormat(NamedTuple):
    """One line a response."""

    codec: type[Plain] | type[Gzip] | type[Zstd] = Plain
    additions: tuple[Additions, ...] = ()

    def check(self) -> list[str]:
        """Any response can be a line."""
        return []

    def pieces(self, block: Block) -> Iterator[tuple[int, bytes]]:
        """Each line by itself."""
        lines = [row.line for row in block.rows]
        for additions in self.additions:
            lines = [_extended(line, more) for line, more in zip(lines, additions(block), strict=True)]
        for line in lines:
            yield 1, line + b"\n"

    def open(self, path: Path) -> "JsonlWriter":
        """Begin a file."""
        return JsonlWriter(path, self.codec())


class JsonlWriter:
    """One JSONL file that is being written."""

    def __init__(self, path: Path, codec: Codec) -> None:
        self.rows = 0
        self._codec = codec
        self._file = open_spooled(path)
        self._written = 0
        self._pending = 0
        """Bytes that went into the codec since it was flushed."""

    def fits(self, piece: bytes, max_bytes: int) -> bool:
        """Whether the file has room for a line, even if it can't be compressed."""
        if self._room(max_bytes) < len(piece) and self._pending:
            # What was taken in may have become much smaller.
            self._write(self._codec.flush())
            self._pending = 0
        return self._room(max_bytes) >= len(piece)

    def add(self, piece: bytes) -> None:
        """Write a line."""
        self._write(self._codec.compress(piece))
        if not isinstance(self._codec, Plain):
            self._pending += len(piece)

    def close(self) -> None:
        """Finish the file and bring it to the disk."""
        self._write(self._codec.finish())
        storage.sync_file(self._file)
        self._file.close()

    def abandon(self) -> None:
        """Close it unfinished."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._written += len(data)

    def _room(self, max_bytes: int) -> int:
        # Bytes that can't be compressed become a little more, and the end takes some too.
        overhead = 0 if isinstance(self._codec, Plain) else 64 + self._pending // 1000
        return max_bytes - self._written - self._pending - overhead


def _extended(line: bytes, more: bytes) -> bytes:
    """A JSON object with further fields."""
    if not more:
        return line
    line = line.rstrip()[:-1]
    return line + (more if line != b"{" else more[1:]) + b"}"
