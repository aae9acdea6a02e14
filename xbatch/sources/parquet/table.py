"""An open Parquet file that is read row by row, in bounded memory whatever its row groups are."""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from xbatch import storage
from xbatch.errors import XbatchError
from xbatch.sources.decompress import Damaged

# A dictionary of texts makes rows of any size from next to no bytes, so it is not the bytes alone that count.
_BATCH_ROWS = 256
_BATCH_BYTES = 8 << 20
_WHOLE_GROUP_BYTES = 32 << 20
"""The columns of a row group up to this size are fetched whole, of a larger one in pieces."""
_PIECES_BYTES = 32 << 20
_PIECE_BYTES = 256 << 10, 8 << 20
"""Smallest and largest piece of a column; those of all columns together have about `_PIECES_BYTES`."""


class Table:
    """A Parquet file, opened.

    Raises Damaged if it can't be read, OSError if its store gives trouble.
    """

    def __init__(self, uri: str) -> None:
        self.position = 0
        """Row that comes next."""
        self._handle = storage.open_read(uri)
        self._reading: tuple[tuple[str, ...], Iterator[pa.RecordBatch]] | None = None
        self._left: pa.RecordBatch | None = None
        try:
            with _judged():
                self._file = pq.ParquetFile(self._handle, pre_buffer=False, page_checksum_verification=True)
                pieces = _PIECES_BYTES // max(1, self._file.metadata.num_columns)
                self._buffered = pq.ParquetFile(
                    self._handle,
                    metadata=self._file.metadata,
                    pre_buffer=False,
                    buffer_size=sorted((*_PIECE_BYTES, pieces))[1],
                    page_checksum_verification=True,
                )
                self.schema: pa.Schema = self._file.schema_arrow
                groups = [self._file.metadata.row_group(i) for i in range(self._file.metadata.num_row_groups)]
                self._ends = list(accumulate(group.num_rows for group in groups))
                self._sizes = [group.total_byte_size for group in groups]
                if (self._ends or [0])[-1] != self._file.metadata.num_rows:
                    raise Damaged("its row groups do not add up")
        except BaseException:
            self._handle.close()
            raise

    @property
    def num_rows(self) -> int:
        """All rows of the file."""
        return self._ends[-1] if self._ends else 0

    @property
    def num_bytes(self) -> int:
        """The file's size."""
        return self._handle.seek(0, 2)

    def footer(self) -> bytes:
        """The bytes that say what is where in the file."""
        end = self._handle.seek(-8, 2)
        size = int.from_bytes(self._handle.read(4), "little")
        self._handle.seek(max(0, end - size))
        return self._handle.read(size)

    def group_of(self, row: int) -> int:
        """The row group that holds a row."""
        return bisect_right(self._ends, row)

    def batches(self, names: list[str], first: int, rows: int) -> Iterator[pa.RecordBatch]:
        """Some columns of `rows` rows, from row `first` on; fewer rows at the end of the file.

        Goes on where the last call has ended if it asked for the same columns and nothing lies between but rows to
        pass over. To be run to its end, or the table closed.
        """
        self._go_to(tuple(names), first)
        assert self._reading is not None
        left = rows
        while left:
            batch, self._left = self._left, None
            if batch is None and (batch := self._next()) is None:
                return
            if batch.num_rows > left:
                batch, self._left = batch.slice(0, left), batch.slice(left)
            left -= batch.num_rows
            self.position += batch.num_rows
            if batch.num_rows:
                yield batch.select(names)

    def close(self) -> None:
        """Give the file back."""
        self._reading = None
        self._handle.close()

    def _go_to(self, names: tuple[str, ...], first: int) -> None:
        group = self.group_of(first)
        group_first = self._ends[group - 1] if group else 0
        if self._reading is None or self._reading[0] != names or not group_first <= self.position <= first:
            self._reading, self._left = (names, self._open(names, group)), None
            self.position = group_first
        while self.position < first:
            batch = self._left or self._next()
            if batch is None:
                return
            skipped = min(batch.num_rows, first - self.position)
            self._left = batch.slice(skipped) if skipped < batch.num_rows else None
            self.position += skipped

    def _next(self) -> pa.RecordBatch | None:
        assert self._reading is not None
        with _judged():
            return next(self._reading[1], None)

    def _open(self, names: tuple[str, ...], group: int) -> Iterator[pa.RecordBatch]:
        """Batches of the row groups from one on, one after another."""
        for i in range(group, len(self._ends)):
            rows = self._ends[i] - (self._ends[i - 1] if i else 0)
            if not rows:
                continue
            size = self._sizes[i]
            file = self._file if size <= _WHOLE_GROUP_BYTES else self._buffered
            batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(size, 1)))
            for batch in file.iter_batches(batch_rows, row_groups=[i], columns=list(names), use_threads=False):
                rows -= batch.num_rows
                yield batch
            if rows:
                raise Damaged(f"row group {i} has not the rows that the footer tells")


@contextmanager
def _judged() -> Iterator[None]:
    """Tell what pyarrow says about a file from what the file's store says."""
    try:
        yield
    except XbatchError:
        raise
    except (pa.ArrowException, ValueError, OSError) as e:
        # What pyarrow finds wrong it calls an OSError too, but has no number for it.
        if isinstance(e, OSError) and e.errno is not None:
            raise
        raise Damaged(" ".join(str(e).split())) from e
