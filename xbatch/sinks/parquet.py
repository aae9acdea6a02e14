"""Responses as Parquet, with the columns of the input."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from xbatch import storage
from xbatch.display import counted
from xbatch.errors import StorageError, UsageError
from xbatch.sinks.answers import Answer, read_answer
from xbatch.sinks.blocks import Block
from xbatch.sinks.building import open_spooled
from xbatch.sinks.parsed import Field, parse_answer
from xbatch.sources import Source
from xbatch.sources.parquet.values import json_values

ROW_GROUP_BYTES = 32 << 20
ROW_GROUP_ROWS = 64 << 10
"""A row group ends at so many bytes of Arrow's, or so many rows: what is held in memory."""

ANSWERS = pa.schema(
    [
        ("custom_id", pa.string()),
        ("status_code", pa.int16()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("response", pa.string()),
        ("error", pa.string()),
    ]
)
"""The columns that every output has, by the names of `Answer`."""
REASONING = pa.field("reasoning", pa.string())
"""Comes behind `text` where the model's reasoning is told from its answers."""
PARSE_ERROR = "parse_error"

_TYPES = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_PER_FILE = 4096
_PER_COLUMN = 600
"""What the footer takes at most for most files: so much, and for each column of a row group so much."""


class _Layout(NamedTuple):
    """The columns of an output."""

    schema: "pa.Schema"
    parsed: dict[str, str]
    """Columns that hold fields of parsed answers, each with the name of the field."""
    carried: dict[str, str]
    """Columns that come from the input, each with its name there."""
    notes: list[str]


class ParquetFormat:
    """One row a response. Every file of a job has the same columns, whatever rows it holds.

    After `ANSWERS` come the fields of parsed answers with `parse_error`, then the columns that `carried` has, in the
    order in which the inputs first name them. A name that is taken gets `_parsed` or `_input` behind it. `columns`
    are the names to be written, without it all of them; with `reasoning` there is a column for it.
    """

    def __init__(
        self,
        carried: Sequence[Source],
        columns: Sequence[str] | None = None,
        parsed: list[Field] | None = None,
        max_file_bytes: int | None = None,
        *,
        reasoning: bool = False,
    ) -> None:
        self._reasoning = reasoning
        self._sources = carried
        self._columns = columns
        self._fields = parsed
        self._group_bytes = min(ROW_GROUP_BYTES, (max_file_bytes or 8 * ROW_GROUP_BYTES) // 8)

    def check(self) -> list[str]:
        """Find out the columns; return which have other names than in the input. Raises UsageError."""
        return self._layout.notes

    def pieces(self, block: Block) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Batches that are no larger than a row group, or one row."""
        yield from _halved(self._batch(block), self._group_bytes)

    def open(self, path: Path) -> "ParquetWriter":
        """Begin a file."""
        return ParquetWriter(path, self._layout.schema, self._group_bytes)

    @cached_property
    def _layout(self) -> _Layout:
        answers = list(ANSWERS)
        if self._reasoning:
            answers.insert(ANSWERS.get_field_index("text") + 1, REASONING)
        columns: dict[str, Any] = {field.name: field for field in answers}
        parsed, carried, notes = {}, {}, []
        for field in self._fields or []:
            name = _free(field.name, {*columns, PARSE_ERROR}, "_parsed")
            columns[name] = pa.field(name, _TYPES.get(field.kind, pa.string()))
            parsed[name] = field.name
        if self._fields is not None:
            columns[PARSE_ERROR] = pa.field(PARSE_ERROR, pa.string())
        for field in _united([source for source in self._sources if source.carried_schema is not None], self._sources):
            name = _free(field.name, set(columns), "_input")
            columns[name] = field.with_name(name)
            carried[name] = field.name
        for before, now in ((old, new) for new, old in {**parsed, **carried}.items() if old != new):
            notes.append(f"the column {before} is called {now} in the output, where {before} is taken")
        if unknown := [name for name in self._columns or [] if name not in columns]:
            raise UsageError(f"--columns: no column {', '.join(unknown)}; the output has {', '.join(columns)}")
        wanted = [field for name, field in columns.items() if self._columns is None or name in self._columns]
        return _Layout(pa.schema(wanted), parsed, carried, notes)

    def _batch(self, block: Block) -> "pa.RecordBatch":
        layout = self._layout
        answers = [read_answer(row.line) for row in block.rows]
        parsed = [parse_answer(each, self._fields) for each in answers] if self._fields is not None else []
        arrays = []
        for field in layout.schema:
            if (name := layout.carried.get(field.name)) is not None:
                arrays.append(_carried(block, name, field.type))
            elif (name := layout.parsed.get(field.name)) is not None:
                arrays.append(pa.array([each.values.get(name) for each in parsed], field.type))
            elif field.name == PARSE_ERROR and self._fields is not None:
                arrays.append(pa.array([each.error for each in parsed], field.type))
            else:
                at = Answer._fields.index(field.name)
                arrays.append(pa.array([each[at] for each in answers], field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=layout.schema)


class ParquetWriter:
    """One Parquet file that is being written."""

    def __init__(self, path: Path, schema: "pa.Schema", group_bytes: int) -> None:
        self.rows = 0
        self._path = path
        self._schema = schema
        self._group_bytes = group_bytes
        self._groups = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._file = open_spooled(path)
        self._writer = pq.ParquetWriter(self._file, schema, compression="zstd")

    def fits(self, piece: "pa.RecordBatch", max_bytes: int) -> bool:
        """Whether the file has room for a batch, even if it can't be compressed."""
        footer = _PER_FILE + (self._groups + 2) * len(self._schema) * _PER_COLUMN
        return bool(self._file.tell() + self._waiting_bytes + piece.nbytes + footer <= max_bytes)

    def add(self, piece: "pa.RecordBatch") -> None:
        """Write a batch, together with others."""
        self._waiting.append(piece)
        self._waiting_bytes += piece.nbytes
        full = sum(batch.num_rows for batch in self._waiting) >= ROW_GROUP_ROWS
        if full or self._waiting_bytes >= self._group_bytes:
            self._flush()

    def close(self) -> None:
        """Finish the file, bring it to the disk and count its rows."""
        self._flush()
        self._writer.close()
        storage.sync_file(self._file)
        self._file.close()
        if (found := pq.read_metadata(self._path).num_rows) != self.rows:
            raise StorageError(f"{self._path} holds {counted(found, 'row')} instead of {self.rows:,}")

    def abandon(self) -> None:
        """Close it unfinished."""
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            # In one piece, for the pages that are written depend on how it is cut.
            table = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._waiting, self._waiting_bytes, self._groups = [], 0, self._groups + 1


def input_fields(block: Block, columns: Sequence[str] | None) -> list[bytes]:
    """Write what each row carries as `,"input":{...}`; nothing where the input has no columns."""
    if block.carried is None:
        return [b""] * len(block.rows)
    wanted = [name for name in block.carried.schema.names if columns is None or name in columns]
    values = [json_values(block.carried.column(name), drop_nulls=False, only_carried=True) for name in wanted]
    rows = zip(*values, strict=True) if values else ((),) * len(block.rows)
    return [b',"input":' + msgspec.json.encode(dict(zip(wanted, row, strict=True))) for row in rows]


def _halved(batch: "pa.RecordBatch", max_bytes: int) -> Iterator[tuple[int, "pa.RecordBatch"]]:
    if batch.num_rows <= 1 or batch.nbytes <= max_bytes:
        yield batch.num_rows, batch
        return
    half = batch.num_rows // 2
    yield from _halved(batch.slice(0, half), max_bytes)
    yield from _halved(batch.slice(half), max_bytes)


def _carried(block: Block, name: str, kind: "pa.DataType") -> "pa.Array":
    if block.carried is None or name not in block.carried.schema.names:
        nulls = pa.nulls(len(block.rows), getattr(kind, "storage_type", kind))
        return pa.ExtensionArray.from_storage(kind, nulls) if hasattr(kind, "storage_type") else nulls
    column = block.carried.column(name)
    return column if column.type == kind else column.cast(kind)


def _united(carrying: Sequence[Source], every: Sequence[Source]) -> "list[pa.Field]":
    """The columns of all inputs. Raises UsageError if two inputs have a column of one name and different types."""
    found: dict[str, tuple[pa.Field, Source]] = {}
    for source in carrying:
        for field in source.carried_schema or ():
            before, first = found.get(field.name, (field, source))
            if pa.types.is_null(before.type):
                before = field
            elif before.type != field.type and not pa.types.is_null(field.type):
                both = f"{before.type} in {first.shown_as} and {field.type} in {source.shown_as}"
                raise UsageError(f"the column {field.name} is {both}, so that one output can't hold both")
            found[field.name] = before.with_nullable(before.nullable or field.nullable), first
    return [_plain(field, nullable=not _everywhere(field.name, every)) for field, _ in found.values()]


def _everywhere(name: str, sources: Sequence[Source]) -> bool:
    return all(each.carried_schema is not None and name in each.carried_schema.names for each in sources)


def _plain(field: "pa.Field", *, nullable: bool) -> "pa.Field":
    """The field without its number in the file it comes from, which means nothing in another one."""
    metadata = {key: value for key, value in (field.metadata or {}).items() if key != b"PARQUET:field_id"}
    return field.with_nullable(field.nullable or nullable).with_metadata(metadata or None)


def _free(name: str, taken: set[str], suffix: str) -> str:
    while name in taken:
        name += suffix
    return name
