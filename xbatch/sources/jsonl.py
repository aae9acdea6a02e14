"""Rows from JSONL files, compressed or not: one JSON value a line."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from xbatch import storage
from xbatch.display import counted
from xbatch.errors import StorageError, UsageError
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.sources import DIGEST_BYTES
from xbatch.sources.converting import Conversion
from xbatch.sources.decompress import MAGIC_BYTES, Damaged, codec_of, decompressed
from xbatch.sources.first_rows import unsendable
from xbatch.sources.kept import Kept
from xbatch.sources.lines import Line, Lines
from xbatch.sources.looking import reading
from xbatch.sources.sniffing import HEAD_BYTES, Head, foreign

if TYPE_CHECKING:
    import pyarrow as pa

MAX_LINE_BYTES = 64 << 20

_FIRST_BYTES = 512
"""Damage within so many bytes makes a file none that can be read at all; later damage is told by the scan."""


class JsonlSource:
    """A JSONL file, plain or compressed in one of the ways that `decompress` knows.

    With `templated`, rows are whatever objects a template takes; with `first_rows`, a file none of whose first rows
    can be a request is refused. Lines end at a line feed and nowhere else. A byte
    order mark at the start of a line, a carriage return at its end and blank lines are not part of any row. Offsets
    count the bytes of the decompressed text; the digest is that of the file as it lies there.
    """

    carried_schema = None
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        uri: str,
        max_line_bytes: int = MAX_LINE_BYTES,
        shown_as: str | None = None,
        *,
        digests: bool = True,
        templated: bool = False,
        first_rows: bool = True,
    ) -> None:
        self.uri = uri
        self.shown_as = shown_as or uri
        self._within = f"{self.shown_as}:"
        self.blank_lines = 0
        self.digest = ""
        self._max_line_bytes = max_line_bytes
        self._digests = digests
        self._templated = templated
        self._judges_first_rows = first_rows
        self._kept: Kept[Lines] = Kept()

    def place(self, line: int) -> str:
        """`requests.jsonl:7`."""
        return f"{self._within}{line}"

    def check(self) -> None:
        """Refuse what is missing, unreadable or evidently no JSONL, or holds no requests so far as its beginning shows.

        Raises UsageError.
        """
        with reading(self.shown_as), storage.open_read(self.uri) as file:
            packed = codec_of(file.read(MAGIC_BYTES))
            file.seek(0)
            with closing(decompressed(file)) as stream:
                head = self._head(stream)
        # A file that is not compressed has been found to be so by the same look, so this is another layer.
        if (codec := codec_of(head.data)) is not None:
            raise UsageError(f"{self.shown_as} is compressed twice, the second time by {codec.name}: unpack it once")
        if what := foreign(head, Conversion(self.shown_as, packed.name if packed else None)):
            raise UsageError(f"{self.shown_as} {what}")
        if not self._judges_first_rows:
            return
        if (failure := unsendable(self._first_rows(head), templated=self._templated)) is not None:
            raise UsageError(f"{self.shown_as} holds no requests, as far as its first rows show: {failure}")

    def scan(self, first_row: int) -> Iterator[Row]:
        """Yield every row from the beginning of the file.

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
        """Yield the rows of a shard, from its offset."""
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
                    yield self._row(index, line, shard.repeats.get(index), shard.fallback_ids.get(index))
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

    def _head(self, stream: BinaryIO) -> Head:
        """Read the file's beginning, as far as that can be read. Raises UsageError if not even the first bytes can."""
        try:
            data = stream.read(_FIRST_BYTES)
        except Damaged as e:
            raise UsageError(f"{self.shown_as} is damaged: {e}") from e
        with suppress(Damaged):
            more = stream.read(HEAD_BYTES)
            return Head(data + more, whole=len(more) < HEAD_BYTES)
        return Head(data, whole=False)

    def _first_rows(self, head: Head) -> Iterator[Row]:
        """Yield the rows that the beginning holds from end to end."""
        for index, line in enumerate(Lines(BytesIO(head.data), self._max_line_bytes)):
            cut_off = not head.whole and line.offset + line.num_bytes >= len(head.data)
            if not line.blank and not cut_off:
                yield self._row(index, line)

    def _row(self, index: int, line: Line, first_use: str | None = None, fallback_id: str | None = None) -> Row:
        number, offset, data, num_bytes = line.number, line.offset, line.data, line.num_bytes
        return Row(index, self._within, number, offset, data, num_bytes, line.too_long, first_use, fallback_id)

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
