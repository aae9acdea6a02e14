"""Rows from JSONL files, compressed or not: one JSON value a line."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from xbatch import storage
from xbatch.display import counted
from xbatch.errors import StorageError, UsageError
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.sources import DIGEST_BYTES
from xbatch.sources.decompress import Damaged, codec_of, decompressed
from xbatch.sources.kept import Kept
from xbatch.sources.lines import Line, Lines
from xbatch.sources.looking import reading

if TYPE_CHECKING:
    import pyarrow as pa

MAX_LINE_BYTES = 64 << 20

_HEAD_BYTES = 512
_NOT_JSONL = (
    (0, b"PAR1", "Parquet"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed"),
    (0, b"\xff\x06\x00\x00sNaPpY", "snappy-compressed"),
    (0, b"Obj\x01", "Avro"),
    (0, b"ORC", "ORC"),
    (0, b"ARROW1", "Arrow"),
    (257, b"ustar", "a tar archive"),
    (0, b"\xff\xfe", "UTF-16 text"),
    (0, b"\xfe\xff", "UTF-16 text"),
    (0, b"{\x00", "UTF-16 text"),
    (0, b"\x00{", "UTF-16 text"),
)


class JsonlSource:
    """A JSONL file, plain or compressed in one of the ways that `decompress` knows.

    Lines end at a line feed and nowhere else. A byte order mark at the start of a line, a carriage return at its
    end and blank lines are not part of any row. Offsets count the bytes of the decompressed text; the digest is that of
    the file as it lies there.
    """

    carried_schema = None

    def __init__(
        self, uri: str, max_line_bytes: int = MAX_LINE_BYTES, shown_as: str | None = None, *, digests: bool = True
    ) -> None:
        self.uri = uri
        self.shown_as = shown_as or uri
        self._within = f"{self.shown_as}:"
        self.blank_lines = 0
        self.digest = ""
        self._max_line_bytes = max_line_bytes
        self._digests = digests
        self._kept: Kept[Lines] = Kept()

    def place(self, line: int) -> str:
        """`requests.jsonl:7`."""
        return f"{self._within}{line}"

    def check(self) -> None:
        """Refuse what is missing, unreadable or evidently not JSONL.

        Raises UsageError.
        """
        with reading(self.shown_as), closing(decompressed(storage.open_read(self.uri))) as stream:
            try:
                head = stream.read(_HEAD_BYTES)
            except Damaged as e:
                raise UsageError(f"{self.shown_as} is damaged: {e}") from e
        for offset, magic, what in _NOT_JSONL:
            if head.startswith(magic, offset):
                raise UsageError(f"{self.shown_as} is {what}, not JSONL in UTF-8")
        # A file that is not compressed has been found to be so by the same look, so this is another layer.
        if (codec := codec_of(head)) is not None:
            raise UsageError(f"{self.shown_as} is compressed twice, the second time by {codec.name}: unpack it once")

    def scan(self, first_row: int) -> Iterator[Row]:
        """Every row from the beginning of the file.

        Raises UsageError, at the damage, if the file is damaged.
        """
        self.blank_lines, index = 0, first_row
        hashed = hashlib.blake2b(digest_size=DIGEST_BYTES)
        with storage.translated(self.shown_as), closing(self._open(hashed.update if self._digests else None)) as lines:
            try:
                for line in lines:
                    if line.blank:
                        self.blank_lines += 1
                        continue
                    yield self._row(index, line)
                    index += 1
            except Damaged as e:
                before = f"{counted(lines.offset, 'byte')} of text before that, {counted(index - first_row, 'row')}"
                fine = f"the {before}, can be read"
                raise UsageError(f"{self.shown_as} is damaged: {e}; {fine}") from e
        if self._digests:
            self.digest = hashed.hexdigest()

    def read(self, shard: Shard) -> Iterator[Row]:
        """The rows of a shard, from its offset."""
        index, num_bytes, end = shard.first_row, 0, shard.first_row + shard.rows
        with storage.translated(self.shown_as):
            lines = None
            try:
                lines = self._lines_from(shard)
                for line in lines:
                    if line.blank:
                        continue
                    num_bytes += line.num_bytes
                    if index == end - 1 and num_bytes != shard.num_bytes:
                        break
                    yield self._row(index, line, shard.repeats.get(index))
                    index += 1
                    if index == end:
                        self._kept.put(lines)
                        return
            except Damaged as e:
                raise StorageError(f"{self.shown_as} is damaged: {e}") from e
            finally:
                if index < end and lines is not None:
                    lines.close()
        raise StorageError(f"{self.shown_as} has become shorter or was changed while the job ran")

    def carried(self, first: int, rows: int) -> "Iterator[pa.RecordBatch]":
        """Nothing: a line is a request as a whole."""
        return iter(())

    def close(self) -> None:
        """Give back the file that is kept open for the next shard."""
        self._kept.close()

    def _row(self, index: int, line: Line, first_use: str | None = None) -> Row:
        return Row(index, self._within, line.number, line.offset, line.data, line.num_bytes, line.too_long, first_use)

    def _open(self, seen: Callable[[bytes], object] | None = None) -> Lines:
        return Lines(decompressed(storage.open_read(self.uri), seen), self._max_line_bytes)

    def _lines_from(self, shard: Shard) -> Lines:
        """Lines from a shard's first one on: those that the last shard has left over, if they come before it."""
        lines = self._kept.take()
        if lines is None or not lines.go_to(shard.offset, shard.line):
            if lines is not None:
                lines.close()
            lines = self._open()
            lines.go_to(shard.offset, shard.line)
        return lines
