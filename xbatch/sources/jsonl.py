"""Rows from JSONL files: one JSON value a line."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from xbatch import storage
from xbatch.errors import StorageError, UsageError
from xbatch.rows.request import EXCERPT_BYTES
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.sources import DIGEST_BYTES

MAX_LINE_BYTES = 64 << 20

_LINE_END_BYTES = len(b"\r\n")
_BOM = b"\xef\xbb\xbf"
_UNREADABLE = (
    (b"\x1f\x8b", "gzip-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"\xfd7zXZ\x00", "xz-compressed"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (b"PAR1", "Parquet"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
)


@dataclass(frozen=True, slots=True)
class _Line:
    offset: int
    number: int
    data: bytes
    num_bytes: int
    too_long: bool

    @property
    def blank(self) -> bool:
        return not self.data and not self.too_long


class JsonlSource:
    """A JSONL file.

    Lines end at a line feed and nowhere else. A byte order mark at the start of a line, a carriage return at its
    end and blank lines are not part of any row.
    """

    def __init__(self, uri: str, max_line_bytes: int = MAX_LINE_BYTES, shown_as: str | None = None) -> None:
        self.uri = uri
        self.blank_lines = 0
        self.digest = ""
        self._max_line_bytes = max_line_bytes
        self.shown_as = shown_as or uri

    def check(self) -> None:
        """Refuse what is missing, unreadable or evidently not JSONL.

        Raises UsageError.
        """
        try:
            with storage.open_read(self.uri) as file:
                head = file.read(8)
        except FileNotFoundError:
            raise UsageError(f"{self.shown_as} does not exist") from None
        except IsADirectoryError:
            raise UsageError(f"{self.shown_as} is a folder") from None
        except OSError as e:
            raise UsageError(f"{self.shown_as} can't be read: {e.strerror or e}") from e
        for magic, what in _UNREADABLE:
            if head.startswith(magic):
                raise UsageError(f"{self.shown_as} is {what}, not JSONL in UTF-8")

    def scan(self, first_row: int) -> Iterator[Row]:
        """Every row from the beginning of the file."""
        self.blank_lines, index = 0, first_row
        hashed = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for line in self._lines(0, 1, hashed.update):
            if not line.blank:
                yield self._row(index, line, None)
                index += 1
            else:
                self.blank_lines += 1
        self.digest = hashed.hexdigest()

    def read(self, shard: Shard) -> Iterator[Row]:
        """The rows of a shard, from its offset."""
        index, num_bytes = shard.first_row, 0
        for line in self._lines(shard.offset, shard.line):
            if line.blank:
                continue
            num_bytes += line.num_bytes
            last = index == shard.first_row + shard.rows - 1
            if last and num_bytes != shard.num_bytes:
                break
            yield self._row(index, line, shard.repeats.get(index))
            index += 1
            if last:
                return
        raise StorageError(f"{self.shown_as} has become shorter or was changed while the job ran")

    def _row(self, index: int, line: _Line, first_use: str | None) -> Row:
        place = f"{self.shown_as}:{line.number}"
        return Row(index, place, line.number, line.offset, line.data, line.num_bytes, line.too_long, first_use)

    def _lines(self, offset: int, number: int, seen: Callable[[bytes], None] = lambda _: None) -> Iterator[_Line]:
        with storage.translated(self.shown_as), storage.open_read(self.uri) as file:
            file.seek(offset)
            while data := file.readline(self._max_line_bytes + _LINE_END_BYTES + 1):
                num_bytes = len(data)
                seen(data)
                too_long = len(data.rstrip(b"\r\n")) > self._max_line_bytes
                if too_long:
                    num_bytes += 0 if data.endswith(b"\n") else _skip_line(file, seen)
                    data = data[: EXCERPT_BYTES + 1]
                yield _Line(offset, number, _stripped(data), num_bytes, too_long)
                offset, number = offset + num_bytes, number + 1


def _stripped(data: bytes) -> bytes:
    # Concatenated files bring byte order marks into the middle, and so at the start of lines.
    return data.removeprefix(_BOM).strip(b" \t\r\n")


def _skip_line(file: BinaryIO, seen: Callable[[bytes], None]) -> int:
    """Pass over the rest of a line without holding it; return how long it was."""
    skipped = 0
    while data := file.readline(storage.READ_BUFFER_BYTES):
        skipped += len(data)
        seen(data)
        if data.endswith(b"\n"):
            break
    return skipped
