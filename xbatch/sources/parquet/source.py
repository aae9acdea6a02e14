"""Rows from Parquet files."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pyarrow as pa

from xbatch import storage
from xbatch.display import counted
from xbatch.errors import StorageError, UsageError
from xbatch.rows.given_id import recovered_id
from xbatch.rows.request import EXCERPT_BYTES
from xbatch.rows.row import BadCell, Row
from xbatch.rows.shard import Shard
from xbatch.rows.template_use import TemplateUse
from xbatch.sources import DIGEST_BYTES
from xbatch.sources.decompress import Damaged
from xbatch.sources.kept import Kept
from xbatch.sources.looking import reading
from xbatch.sources.parquet.columns import Columns, choose_columns
from xbatch.sources.parquet.objects import row_objects
from xbatch.sources.parquet.partitions import PartitionedTable
from xbatch.sources.parquet.values import KEPT_NULL


class ParquetSource:
    """A Parquet file.

    A row's data are the JSON object of the columns that make its request (`columns.py` tells which), its offset is its
    row group and its line its number in the file, from 1. `template_columns` are those that a template looks at, or
    none of them for all; None without a template.
    """

    blank_lines = 0

    def __init__(
        self,
        uri: str,
        shown_as: str,
        max_row_bytes: int,
        template_columns: frozenset[str] | None = None,
        *,
        template_names_rows: bool = False,
        template_use: TemplateUse | None = None,
    ) -> None:
        self.uri = uri
        self.shown_as = shown_as
        self._within = f"{shown_as}:row "
        self.digest = ""
        self._max_row_bytes = max_row_bytes
        self._template_columns = template_columns
        self._template_names_rows = template_names_rows
        self._template_use = template_use or TemplateUse()
        self._found: tuple[pa.Schema, Columns] | None = None
        self._kept_rows: Kept[PartitionedTable] = Kept()
        self._kept_carried: Kept[PartitionedTable] = Kept()

    @property
    def carried_schema(self) -> pa.Schema | None:
        """The columns that are not part of the requests, as they are in the file; None if there are none."""
        schema, columns = self._look()
        return pa.schema([schema.field(name) for name in columns.carried]) if columns.carried else None

    @property
    def notes(self) -> list[str]:
        """Say what is done with columns by their names alone, and what in a template may not be meant."""
        schema, columns = self._look()
        notes = []
        if settings := columns.settings:
            notes.append(f"columns that become settings of the requests: {', '.join(settings)}")
        for text, name in self._template_use.placeholders:
            if name in schema.names:
                notes.append(
                    f"the template holds {text}, which is sent as it stands; {{{{ {name} }}}} is the column's value"
                )
        return notes

    def place(self, line: int) -> str:
        """`requests.parquet:row 7`."""
        return f"{self._within}{line}"

    def check(self) -> None:
        """Refuse what is missing, unreadable, damaged, encrypted, or has no columns that make requests.

        Raises UsageError.
        """
        schema, _ = self._look()
        with reading(self.shown_as), closing(PartitionedTable(self.uri)) as table:
            try:
                # Whether a column is encrypted shows only when it is read.
                for _ in table.batches(schema.names, 0, 1):
                    pass
            except Damaged as e:
                raise UsageError(f"{self.shown_as} is damaged or encrypted: {e}") from e

    def scan(self, first_row: int) -> Iterator[Row]:
        """Yield every row from the beginning of the file.

        Reads the carried columns too, so that what can't be read shows before anything has been answered. Raises
        UsageError, at the damage, if the file is damaged.
        """
        schema, columns = self._look()
        index = first_row
        with storage.translated(self.shown_as), closing(PartitionedTable(self.uri)) as table:
            try:
                for batch in table.batches(schema.names, 0, table.num_rows):
                    for row in self._rows(table, batch, columns, index - first_row):
                        yield self._row(index, *row)
                        index += 1
            except Damaged as e:
                fine = f"the {counted(index - first_row, 'row')} before that can be read"
                raise UsageError(f"{self.shown_as} is damaged: {e}; {fine}") from e
            self.digest = self._digest(table)

    def read(self, shard: Shard) -> Iterator[Row]:
        """Yield the rows of a shard, from its row number on."""
        _, columns = self._look()
        index, num_bytes, without_nulls = shard.first_row, 0, 0
        with storage.translated(self.shown_as):
            table = self._kept_rows.take() or self._open()
            whole = False
            try:
                for batch in table.batches(columns.request, shard.line - 1, shard.rows):
                    number = table.position - batch.num_rows
                    for row in self._rows(table, batch, columns, number):
                        num_bytes += len(row[2])
                        without_nulls += _size_without_nulls(row[2])
                        last = index == shard.first_row + shard.rows - 1
                        if last and shard.num_bytes not in (num_bytes, without_nulls):
                            break
                        yield self._row(index, *row, shard.repeats.get(index), shard.fallback_ids.get(index))
                        index += 1
                whole = index == shard.first_row + shard.rows
            except Damaged as e:
                raise StorageError(f"{self.shown_as} is damaged: {e}") from e
            finally:
                self._put_back(self._kept_rows, table, whole=whole)
        if not whole:
            raise StorageError(f"{self.shown_as} has become shorter or was changed while the job ran")

    def carried(self, first: int, rows: int) -> Iterator[pa.RecordBatch]:
        """The carried columns of `rows` rows from row `first` on."""
        _, columns = self._look()
        if not columns.carried:
            return
        left = rows
        with storage.translated(self.shown_as):
            table = self._kept_carried.take() or self._open()
            try:
                for batch in table.batches(columns.carried, first, rows):
                    left -= batch.num_rows
                    yield batch
            except Damaged as e:
                raise StorageError(f"{self.shown_as} is damaged: {e}") from e
            finally:
                self._put_back(self._kept_carried, table, whole=not left)
        if left:
            raise StorageError(f"{self.shown_as} has become shorter while the job ran")

    def close(self) -> None:
        """Give back the files that are kept open for the next rows."""
        self._kept_rows.close()
        self._kept_carried.close()

    def _look(self) -> tuple[pa.Schema, Columns]:
        """Return the schema of the file, and what its columns are for."""
        if self._found is None:
            with reading(self.shown_as):
                try:
                    with closing(PartitionedTable(self.uri)) as table:
                        schema, own, partitions = table.schema, table.own_schema, list(table.partitions)
                except Damaged as e:
                    raise UsageError(f"{self.shown_as} is no Parquet file that can be read: {e}") from e
            templated, required = self._template_columns is not None, self._template_use.required
            try:
                columns = choose_columns(
                    schema if templated else own,
                    self._template_columns,
                    template_names_rows=self._template_names_rows,
                    required=required,
                )
            except UsageError as e:
                raise UsageError(f"{self.shown_as} {e}") from None
            # What a path tells is data: only a template makes requests of it.
            carried = columns.carried if templated else [*columns.carried, *partitions]
            self._found = schema, replace(columns, carried=carried)
        return self._found

    def _open(self) -> PartitionedTable:
        try:
            table = PartitionedTable(self.uri)
        except Damaged as e:
            raise StorageError(f"{self.shown_as} is damaged: {e}") from e
        if not table.schema.equals(self._look()[0]):
            table.close()
            raise StorageError(f"{self.shown_as} has other columns than before: it was changed while the job ran")
        return table

    def _rows(
        self, table: PartitionedTable, batch: pa.RecordBatch, columns: Columns, number: int
    ) -> Iterator[tuple[int, int, bytes, BadCell | None]]:
        """For each row of a batch, the first of which is row `number`: row group, line, data and what is wrong."""
        for i, (data, bad_cell) in enumerate(row_objects(batch, columns), number):
            yield table.group_of(i), i + 1, data, bad_cell

    def _row(
        self,
        index: int,
        group: int,
        line: int,
        data: bytes,
        bad_cell: BadCell | None,
        first_use: str | None = None,
        fallback_id: str | None = None,
    ) -> Row:
        size = len(data)
        if too_long := size > self._max_row_bytes:
            bad_cell = bad_cell or BadCell("", recovered_id(data))  # the id may lie behind what is kept
            data = data[: EXCERPT_BYTES + 1]
        return Row(index, self._within, line, group, data, size, too_long, first_use, fallback_id, bad_cell)

    def _digest(self, table: PartitionedTable) -> str:
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        if storage.is_local(self.uri):
            with storage.open_read(self.uri) as file:
                while data := file.read(storage.READ_BUFFER_BYTES):
                    digest.update(data)
        else:
            digest.update(f"{table.num_bytes}|{storage.stat(self.uri).version}|".encode() + table.footer())
        return digest.hexdigest()

    @staticmethod
    def _put_back(place: Kept[PartitionedTable], table: PartitionedTable, *, whole: bool) -> None:
        if whole:
            place.put(table)
        else:
            table.close()


def _size_without_nulls(data: bytes) -> int:
    """Return the size that a row had in plans made while messages without content lost that field."""
    return len(data) - len(KEPT_NULL) * data.count(KEPT_NULL[:-1])
